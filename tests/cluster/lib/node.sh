# The JVMs: starting them, asking them, and reading the events that they print (tests/cluster/app, EventLog).
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

# A small heap and the first compiler only: three nodes a framework share two cores with the build.
java_options=(-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:SharedArchiveFile="$app/classes.jsa")

# Options of setpriv that take privileges from the nodes.
node_privileges=()

# start_node POD [VARIABLE=VALUE...] [-DPROPERTY...]
start_node() {
  local pod=$1 argument variables=() properties=()
  shift
  for argument in "$@"; do
    if [[ $argument == -D* ]]; then properties+=("$argument"); else variables+=("$argument"); fi
  done
  start "node$pod" "$run_dir/pod$pod/node.log" ip netns exec "pod$pod" setpriv --pdeathsig KILL \
    "${node_privileges[@]}" env POD_IP="$(pod_ip "$pod")" "${variables[@]}" \
    "${BYPASSCTL_JAVA:-java}" "${java_options[@]}" "${properties[@]}" -cp "$(<"$app/classpath")" bypassctl.testapp.ClusterNode
}

# join POD – properties that make a node join through the one in POD. A node's own pod: it founds the cluster, at once.
join() {
  echo "-D$framework.cluster.seed-nodes.0=$framework://appka@$(pod_ip "$1"):2552"
}

# Properties that give node POD Artery's own TLS, with the very files that an agent would read.
native_tls() {
  "$agent_binary" render tls --framework "$framework" --tls-dir "$pki/node$1" --output options | tr ' ' '\n'
}

# keystore_tls POD [ALGORITHM...] – the same out of key stores, as ConfigSSLEngineProvider reads them, made of the pod's identity.
keystore_tls() {
  local pod=$1 dir=$run_dir/pod$1/tls setting number=0 algorithm
  shift
  openssl pkcs12 -export -in "$dir/tls.crt" -inkey "$dir/tls.key" -name node -passout pass:changeit -out "$dir/key.p12" &&
    keytool -importcert -noprompt -alias ca -file "$dir/ca.crt" -keystore "$dir/trust.p12" -storetype PKCS12 \
      -storepass changeit >/dev/null 2>&1 || return
  echo "-D$framework.remote.artery.transport=tls-tcp"
  for setting in key-store="$dir/key.p12" key-store-password=changeit key-password=changeit trust-store="$dir/trust.p12" \
    trust-store-password=changeit; do
    echo "-D$framework.remote.artery.ssl.config-ssl-engine.$setting"
  done
  for algorithm in "$@"; do
    echo "-D$framework.remote.artery.ssl.config-ssl-engine.enabled-algorithms.$((number++))=$algorithm"
  done
}

# What makes a node find its peers through the Kubernetes API, in place of seed nodes.
bootstrap_by_kubernetes() {
  local discovery=$framework.discovery.kubernetes-api
  local contact_points=$framework.management.cluster.bootstrap.contact-point-discovery
  echo APP_BOOTSTRAP=on
  echo KUBERNETES_SERVICE_HOST="$switch_ip"
  echo KUBERNETES_SERVICE_PORT=6443
  echo "-D$discovery.api-ca-path=$pki/kubernetes/ca.crt"
  echo "-D$discovery.api-token-path=$run_dir/token"
  echo "-D$discovery.pod-namespace-path=$run_dir/namespace"
  echo "-D$discovery.use-raw-ip=on"
  echo "-D$contact_points.discovery-method=kubernetes-api"
  echo "-D$contact_points.port-name=management"
  echo "-D$contact_points.required-contact-point-nr=2"
}

members_seen_by() {
  in_pod "$1" curl --silent --max-time 3 "http://$(pod_ip "$1"):8558/cluster/members/"
}

up_seen_by() {
  members_seen_by "$1" | grep -o '"status":"Up"' | wc -l
}

# sees_up POD COUNT – it sees that many members Up, and none unreachable.
sees_up() {
  local members
  members=$(members_seen_by "$1")
  [[ $members == *'"unreachable":[]'* ]] && (($(grep -o '"status":"Up"' <<<"$members" | wc -l) == $2))
}

all_see_up() {
  local count=$1 pod
  shift
  for pod in "$@"; do
    sees_up "$pod" "$count" || return
  done
}

# wait_for_cluster COUNT POD... – until each of the pods sees COUNT members Up. Adds how long it took.
wait_for_cluster() {
  local count=$1 started_at pod seen=()
  shift
  started_at=$(now_ms)
  if wait_until 90 all_see_up "$count" "$@"; then
    detail "formed_ms=$(($(now_ms) - started_at))"
    return 0
  fi
  for pod in "$@"; do
    seen+=("node$pod:$(up_seen_by "$pod")")
  done
  fail "wanted $count members Up, seen ${seen[*]}"
}

# Places in the nodes' logs, by name, so that a check can look at what came after.
declare -A marks=()

# mark_logs MARK
mark_logs() {
  local pod
  for pod in "${all_pods[@]}"; do
    marks[$1:$pod]=$(wc -l <"$run_dir/pod$pod/node.log")
  done
}

# logged_since MARK POD
logged_since() {
  tail -n "+$((${marks[$1:$2]} + 1))" "$run_dir/pod$2/node.log"
}

# count_since MARK PATTERN – lines in the logs of all nodes.
count_since() {
  local pod
  for pod in "${all_pods[@]}"; do logged_since "$1" "$pod"; done | grep -c -- "$2"
}

count_events() {
  cat "$run_dir"/pod*/node.log | grep -c -- "$1"
}

# gets_answers_since MARK NODE PEER – between the last two reports, a second apart, NODE got at least half of PEER's ten
# answers.
gets_answers_since() {
  logged_since "$1" "$2" | awk -v peer="$(pod_ip "$3"):" '
    /^EV .* PING / && index($0, peer) { before = last; last = substr($6, 5); reports++ }
    END { exit !(reports >= 2 && last - before >= 5) }'
}

# Every pair of nodes has exchanged pings for a second.
pings_flow_since() {
  local node peer
  for node in "${all_pods[@]}"; do
    for peer in "${all_pods[@]}"; do
      ((node == peer)) || gets_answers_since "$1" "$node" "$peer" || return
    done
  done
}

# wait_for_pings SECONDS – from now on, between all nodes.
wait_for_pings() {
  mark_logs pings
  wait_until "$1" pings_flow_since pings || fail "pings do not flow between all nodes"
}

# Pings that POD sent to PEER and got no answer to, so far.
lost_pings() {
  grep "PING .*$(pod_ip "$2"):" "$run_dir/pod$1/node.log" | tail -n1 | grep -o 'lost=[0-9]*' | cut -d= -f2 | grep . || echo 0
}

# A node gives up on its seed nodes for the second time after some ten seconds.
has_failed_to_join() {
  grep -q "Couldn't join seed nodes after \[2\] attempts" "$run_dir/pod$1/node.log"
}

# wait_until_refused POD... – each has tried to join, failed, and stands alone.
wait_until_refused() {
  local pod
  for pod in "$@"; do
    wait_until 60 has_failed_to_join "$pod" || fail "node $pod has not even tried to join" || return
  done
  for pod in "$@"; do
    (($(up_seen_by "$pod") <= 1)) || fail "node $pod is in a cluster" || return
  done
}

# start_nodes – all three; returns when they run.
start_nodes() {
  local pod
  for pod in "${all_pods[@]}"; do
    start_node "$pod" "$(join 1)"
  done
  for pod in "${all_pods[@]}"; do
    wait_for_start "$pod" || return
  done
}

wait_for_start() {
  wait_until 60 grep -q '^EV .* START ' "$run_dir/pod$1/node.log" || fail "node $1 does not start"
}
