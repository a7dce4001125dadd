# What crosses the wire: tcpdump on the bridge between the pods, judged by wire.py.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

capture_file() {
  echo "$run_dir/wire.pcap"
}

# Start it before the nodes: only from a connection's first byte on can be said that all of it is TLS.
start_capture() {
  start capture "$run_dir/capture.log" ip netns exec switch setpriv --pdeathsig KILL \
    tcpdump --interface br0 --immediate-mode --packet-buffered --buffer-size 8192 -Z root -w "$(capture_file)" 'tcp port 2552'
  wait_until 10 grep -q 'listening on' "$run_dir/capture.log" || fail "tcpdump does not start"
}

# wire_is tls|plaintext FROM>TO...
wire_is() {
  wire_since 0 "$@"
}

# wire_since SECONDS tls|plaintext FROM>TO... – connections older than the capture are judged from that time on.
wire_since() {
  local finding verdict
  finding=$("$here/wire.py" "$2" "$(capture_file)" "$1" "${@:3}" 2>&1)
  verdict=$?
  detail "$finding"
  ((verdict == 0)) || fail "the wire is not all $2"
}

every_direction=('1>2' '2>1' '1>3' '3>1' '2>3' '3>2')
