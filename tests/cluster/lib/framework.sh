# Runs scenarios with one framework. Sourced by tests/cluster/run, in a mount namespace of its own.
#
# Given: framework, state, here, repository, failed_logs, keep_logs.
# shellcheck shell=bash source-path=SCRIPTDIR/.. disable=SC2034,SC2154  # the parts share variables

mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns

app=$("$here/app/build" "$framework") || exit 5
pki=$state/pki
run_dir=$state/$framework # logs and captures of the pods that stand now
turn_file=$state/turn

source "$here/../lib/waiting.sh"
source "$here/lib/processes.sh"
source "$here/lib/pods.sh"
source "$here/lib/agent.sh"
source "$here/lib/node.sh"
source "$here/lib/wire.sh"
source "$here/lib/scenarios.sh"
source "$here/lib/measurements.sh"

# One of the frameworks at a time does what needs the processor or must not be disturbed: starting JVMs, and outages
# that a failure detector watches. The other meanwhile sleeps out a wait, or waits here.
take_turn() {
  flock 9
}

give_turn() {
  flock --unlock 9
}

# Facts for the scenario's line: NAME=VALUE.
detail() {
  details+=("$@")
}

# Says why the scenario fails; use as `check || fail reason`.
fail() {
  details+=("FAILED: $*")
  return 1
}

keep_logs_of() {
  local to=$failed_logs/$framework-$1
  rm -rf "$to"
  mkdir -p "$to"
  cp -r "$run_dir/." "$to/"
  chmod -R a+rX "$to"
  detail "logs: $to"
}

run_scenario() {
  local name=$1 started_at verdict=PASS
  details=()
  started_at=$(now_ms)
  "scenario_$name" || verdict=FAIL
  give_turn
  details=("$((($(now_ms) - started_at) / 1000))s" "${details[@]}")
  if [[ $verdict == FAIL || -n $keep_logs ]]; then
    keep_logs_of "$name"
  fi
  if [[ $verdict == FAIL ]]; then
    ((failed++))
    tear_down
  else
    ((passed++))
  fi
  echo "$verdict $framework $name ${details[*]}"
}

run_scenarios() {
  local name
  passed=0
  failed=0
  exec 9>"$turn_file"
  trap tear_down EXIT
  trap 'exit 130' INT TERM HUP
  for name in "$@"; do
    run_scenario "$name"
  done
  echo "$passed $failed" >"$state/$framework.result"
}
