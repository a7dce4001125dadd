# What is measured and not judged: run by name alone, by scripts/bench-cluster.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

bench_messages=${BYPASSCTL_BENCH_MESSAGES:-300000}
bench_rounds=${BYPASSCTL_BENCH_ROUNDS:-3}
bench_turns=${BYPASSCTL_BENCH_TURNS:-3}
bench_options=(-Xms256m -Xmx256m -XX:+UseParallelGC)

# Messages a second and round trips between two nodes: plain tcp, the framework's own TLS, and behind sidecars, in turns.
# Prints a line a turn: `MEASURED framework way size=N messages_per_s=N cpu_us=N rtt_us=N proxy_us=N`.
scenario_throughput() {
  local turn way size
  for ((turn = 1; turn <= bench_turns; turn++)); do
    for size in 100 1024; do
      for way in tcp tls-tcp sidecar; do
        measure_throughput "$way" "$size" || return
      done
    done
  done
}

measure_throughput() {
  local way=$1 size=$2 pod properties1=() properties2=()
  fresh_pods
  case $way in
    tls-tcp)
      mapfile -t properties1 < <(native_tls 1)
      mapfile -t properties2 < <(native_tls 2)
      ;;
    sidecar) meshed_pods strict 1 2 || return ;;
  esac
  start receiver "$run_dir/pod2/bench.log" ip netns exec pod2 env POD_IP="$(pod_ip 2)" \
    java "${bench_options[@]}" "${properties2[@]}" -cp "$(<"$app/classpath")" bypassctl.testapp.Throughput receive
  wait_until 60 grep -q READY "$run_dir/pod2/bench.log" || fail "$way: the receiver does not start" || return
  local before after
  before=$(agents_ticks)
  in_pod 1 timeout 300 env POD_IP="$(pod_ip 1)" java "${bench_options[@]}" "${properties1[@]}" \
    -cp "$(<"$app/classpath")" bypassctl.testapp.Throughput send "$(pod_ip 2):2552" "$bench_messages" "$size" \
    "$bench_rounds" >"$run_dir/pod1/bench.log" 2>&1 || fail "$way: the sender failed" || return
  after=$(agents_ticks)
  # The last round is the warm one.
  local result
  result=$(grep -o 'messages_per_s.*' "$run_dir/pod1/bench.log" | tail -n1)
  result+=" $(grep -o 'rtt_us.*' "$run_dir/pod1/bench.log")"
  echo "MEASURED $framework $way size=$size $result proxies_us=$(((after - before) * 10000 / (bench_messages * bench_rounds)))"
}

# Processor time of both agents, in hundredths of a second.
agents_ticks() {
  local pod sum=0
  for pod in 1 2; do
    is_running "agent$pod" && ((sum += $(awk '{ print $14 + $15 }' "/proc/${processes[agent$pod]}/stat")))
  done
  echo "$sum"
}
