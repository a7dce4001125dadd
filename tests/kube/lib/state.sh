# Where a cluster of this checkout keeps what it makes, and how its parts are started and stopped.
#
# Given: here, repository.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

# One for each checkout, so that two do not meet; short, because a path to a socket has at most 107 bytes.
state=${BYPASSCTL_KUBE_STATE:-/tmp/bypassctl-kube-$(sha256sum <<<"$repository" | cut -c1-8)}
pki=$state/pki
logs=$state/logs

die() {
  echo "tests/kube/$(basename "$0"): $1" >&2
  exit "${2:-3}"
}

# Whoever makes the directory owns the cluster: mkdir succeeds once.
claim_state() {
  mkdir -m 755 "$state" 2>/dev/null ||
    die "a cluster of this checkout is up already, with its state in $state; stop it by tests/kube/down" 4
  mkdir "$pki" "$logs" "$state/kubeconfigs"
  : >"$state/processes"
}

is_up() {
  [[ -f $state/processes ]]
}

# start NAME COMMAND... – in the background, in a session of its own, so that it outlives this script and its terminal.
start() {
  local name=$1 pid
  shift
  # An API server asks a web proxy of its environment for pods, too.
  setsid env -u HTTP_PROXY -u HTTPS_PROXY -u http_proxy -u https_proxy "$@" >>"$logs/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  # Its end is no news to this shell.
  disown "$pid"
  echo "$pid $(birth_of "$pid") $name" >>"$state/processes"
}

# When a process began, in ticks since boot (proc(5), field 22): with it a number that was given anew is no mistake.
birth_of() {
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

# is_running NAME
is_running() {
  local pid birth
  read -r pid birth < <(awk -v name="$1" '$3 == name { print $1, $2 }' "$state/processes")
  [[ -n $pid && $(birth_of "$pid") == "$birth" ]]
}

# Every process of this cluster that lives, the one started last first.
living() {
  local pid birth name
  while read -r pid birth name; do
    [[ $(birth_of "$pid") != "$birth" ]] || echo "$pid $name"
  done < <(tac "$state/processes")
}

nothing_lives() {
  [[ -z $(living) ]]
}

# Ends what start has started, outright: nobody needs its state any more.
stop_all() {
  local pid name
  while read -r pid name; do
    # A node's process waits for the init of its PID namespace, with which all its containers go.
    [[ $name != node-* ]] || pkill -KILL --parent "$pid"
    kill -KILL "$pid" 2>/dev/null
  done < <(living)
  wait_until 10 nothing_lives
}
