# Waiting no longer than needed. Sourced by the tests that are shell scripts.
# shellcheck shell=bash

now_ms() {
  date +%s%3N
}

# wait_until SECONDS COMMAND... – polls; fails if the command has not succeeded in time.
wait_until() {
  local deadline=$(($(now_ms) + $1 * 1000))
  shift
  until "$@"; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.2
  done
}
