# What this run has started, by name and process id.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

declare -A processes=()

# start NAME LOG COMMAND... – in the background; output is appended to LOG. The kernel kills it when this shell dies.
# File descriptor 9 is the lock of take_turn, which no child may keep.
start() {
  local name=$1 log=$2
  shift 2
  : >>"$log"
  setpriv --pdeathsig KILL "$@" >>"$log" 2>&1 </dev/null 9>&- &
  processes[$name]=$!
}

is_running() {
  [[ -n ${processes[$1]-} ]] && kill -0 "${processes[$1]}" 2>/dev/null
}

has_exited() {
  ! is_running "$1"
}

# signal NAME SIGNAL
signal() {
  kill -"$2" "${processes[$1]}" 2>/dev/null
}

# Kills NAME outright, and waits until it is gone.
stop() {
  local pid=${processes[$1]-}
  [[ -n $pid ]] || return 0
  kill -KILL "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
  unset "processes[$1]"
}

# Waits for NAME to end, at most SECONDS; returns its exit code, or 124 if it has not ended.
exit_code_of() {
  local pid=${processes[$1]} code
  wait_until "$2" has_exited "$1" || return 124
  wait "$pid" 2>/dev/null
  code=$?
  unset "processes[$1]"
  return "$code"
}

stop_all() {
  local name
  for name in "${!processes[@]}"; do
    stop "$name"
  done
}

# pause SECONDS – a sleep that a signal to this run ends.
pause() {
  sleep "$1" &
  wait $!
}
