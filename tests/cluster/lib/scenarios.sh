# The scenarios. Each is a promise of the product, named in the comment above it.
#
# A scenario returns non-zero, through `fail`, when the promise is not kept. It starts from fresh pods, except that
# those from `sidecar` to `sigterm` share one cluster, as long as it is well.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

cluster_kind=none

# Without bypassctl and without a mesh the cluster forms. And the check of the wire sees that it is plaintext, so a
# `wire=tls` elsewhere means something.
scenario_plain() {
  fresh_pods
  start_capture || return
  take_turn
  start_nodes && wait_for_cluster 3 1 2 3 || return
  give_turn
  wait_for_pings 20 && wire_is plaintext "${every_direction[@]}"
}

# Under Istio's rules and without bypassctl the cluster does not form: there is something to bypass.
scenario_mesh() {
  local pod
  fresh_pods
  for pod in 1 2 3; do
    load_mesh_rules "$pod" || fail "Istio's rules cannot be loaded" || return
  done
  take_turn
  start_nodes || return
  give_turn
  wait_until_refused 2 3 || return
  detail "captured_by_mesh=$(captured_by_mesh 2)"
  (($(captured_by_mesh 2) > 0)) || fail "the mesh captured nothing"
}

# Rules without a sidecar fail closed: nothing gets out in plaintext, and no cluster forms.
scenario_nosidecar() {
  local pod
  fresh_pods
  for pod in 1 2 3; do
    load_mesh_and_program_rules "$pod" || fail "no rules in pod $pod" || return
  done
  start_capture || return
  take_turn
  start_nodes || return
  give_turn
  wait_until_refused 2 3 || return
  local frames
  frames=$(tcpdump -r "$(capture_file)" 'tcp port 2552' 2>/dev/null | wc -l)
  detail "frames_on_wire=$frames"
  ((frames == 0)) || fail "remoting got out without a sidecar"
}

# A strict agent keeps a plaintext node out, and the two nodes with agents are not disturbed.
scenario_strict() {
  fresh_pods
  meshed_pods strict 1 2 || return
  start_capture || return
  take_turn
  start_nodes && wait_for_cluster 2 1 2 || return
  give_turn
  wait_until_refused 3 || return
  all_see_up 2 1 2 || fail "the two nodes with agents lost each other" || return
  wire_is tls '1>2' '2>1' || return
  grep -qi plaintext "$run_dir/pod1/agent.log" || fail "agent 1 does not say that it refused plaintext"
}

# A permissive agent forms a cluster with nodes that have no agent: it takes their plaintext in, and dials them in
# plaintext after it has offered TLS. It counts both.
scenario_permissive() {
  fresh_pods
  meshed_pods permissive 1 || return
  take_turn
  start_nodes && wait_for_cluster 3 1 2 3 || return
  give_turn
  wait_for_pings 20 || return
  local accepted fallbacks
  accepted=$(agent_metric 1 bypassctl_plaintext_accepted_total)
  fallbacks=$(agent_metric 1 bypassctl_permissive_fallbacks_total)
  detail "plaintext_accepted=$accepted" "fallbacks=$fallbacks"
  ((accepted >= 2 && fallbacks >= 2)) || fail "the agent does not count what it let through"
}

# A node with Artery's own TLS and two with agents are one cluster, and all of it is TLS.
scenario_mixed() {
  fresh_pods
  meshed_pods strict 2 3 || return
  start_capture || return
  take_turn
  # shellcheck disable=SC2046  # one property a word
  start_node 1 "$(join 1)" $(native_tls 1)
  start_node 2 "$(join 1)"
  start_node 3 "$(join 1)"
  wait_for_cluster 3 1 2 3 || return
  give_turn
  wait_for_pings 20 && wire_is tls "${every_direction[@]}"
}

# A node with TLS out of key stores and two with agents are one cluster, with RSA keys and with those of an elliptic curve;
# nobody needs a DNS name.
scenario_keystores() {
  local kind pod algorithms properties
  for kind in rsa-2048 ec-p256; do
    fresh_pods
    new_authority authority || fail "no authority" || return
    for pod in "${all_pods[@]}"; do
      new_identity authority "$pod" --key-type "$kind" || fail "no certificate" || return
    done
    algorithms=()
    # Akka's default is TLS 1.2 with suites that a sidecar does not speak: none with ephemeral elliptic curves is among them.
    case $framework-$kind in
      akka-rsa-2048) algorithms=(TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) ;;
      akka-ec-p256) algorithms=(TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) ;;
    esac
    mapfile -t properties < <(keystore_tls 1 "${algorithms[@]}")
    ((${#properties[@]} > 5)) || fail "no key stores" || return
    meshed_pods strict 2 3 || return
    start_capture || return
    take_turn
    start_node 1 "$(join 1)" "${properties[@]}"
    start_node 2 "$(join 1)"
    start_node 3 "$(join 1)"
    wait_for_cluster 3 1 2 3 || fail "not with $kind" || return
    give_turn
    wait_for_pings 20 || return
    detail "$kind=$(agent_tls 2 1)"
    wire_is tls "${every_direction[@]}" || return
  done
}

# agent_tls POD PEER – how the agent of one pod speaks with the other.
agent_tls() {
  in_pod "$1" curl --silent --max-time 3 "http://$(pod_ip "$1"):$admin_port/status" | python3 -c 'import json, sys
groups = json.load(sys.stdin)["connections"]
print(next(group["tls"] for group in groups if group["peer"] == sys.argv[1]).replace(" ", "_"))' "$(pod_ip "$2")"
}

# Cluster Bootstrap: the Kubernetes API is reached through the mesh, as before; management and remoting bypass it.
scenario_bootstrap() {
  local pod arguments
  fresh_pods
  printf token >"$run_dir/token"
  printf default >"$run_dir/namespace"
  start_kubernetes_api || return
  meshed_pods strict 1 2 3 || return
  for pod in 1 2 3; do
    start_mesh_proxy "$pod" || return
  done
  take_turn
  mapfile -t arguments < <(bootstrap_by_kubernetes)
  for pod in 1 2 3; do
    start_node "$pod" "${arguments[@]}"
  done
  wait_for_cluster 3 1 2 3 || return
  give_turn
  for pod in 1 2 3; do
    grep -q "captured $switch_ip:6443" "$run_dir/pod$pod/mesh.log" ||
      fail "in pod $pod the mesh did not see the Kubernetes API" || return
    ! grep -E ':(2552|8558)$' "$run_dir/pod$pod/mesh.log" || fail "in pod $pod the mesh saw cluster traffic" || return
  done
}

start_kubernetes_api() {
  local pod ips=()
  for pod in "${all_pods[@]}"; do
    ips+=("$(pod_ip "$pod")")
  done
  start kubernetes "$run_dir/kubernetes.log" ip netns exec switch setpriv --pdeathsig KILL \
    python3 "$here/kubernetes_api.py" "$switch_ip" "$pki/kubernetes" "${ips[@]}"
  wait_until 10 grep -q listening "$run_dir/kubernetes.log" || fail "no Kubernetes API"
}

# The main job: under a mesh that captures everything the cluster forms, works as one (one singleton, sharding that
# crosses nodes), and all of it is TLS on the wire.
scenario_sidecar() {
  form_sidecar_cluster || return
  local singletons
  singletons=$(count_events 'SINGLETON started')
  ((singletons == 1)) || fail "$singletons singletons" || return
  wait_until 20 sharding_crosses_nodes || fail "no answers from shards on other nodes" || return
  wire_is tls "${every_direction[@]}"
}

sharding_crosses_nodes() {
  local pod
  for pod in 1 2 3; do
    grep -qE 'SHARD .* remote=[1-9]' "$run_dir/pod$pod/node.log" || return
  done
}

form_sidecar_cluster() {
  fresh_pods
  meshed_pods strict 1 2 3 || return
  start_capture || return
  take_turn
  start_nodes && wait_for_cluster 3 1 2 3 || return
  give_turn
  wait_for_pings 20 || return
  cluster_kind=sidecar
}

# The cluster of `sidecar`, if it stands and is well; else a new one.
need_sidecar_cluster() {
  [[ $cluster_kind == sidecar ]] && all_see_up 3 1 2 3 && mark_logs pings && wait_until 10 pings_flow_since pings && return
  form_sidecar_cluster
}

# An agent killed outright and back after two seconds costs messages, but no member its reachability.
scenario_kill2() {
  need_sidecar_cluster || return
  outage_that_nobody_notices 2 kill || return
  wire_is tls "${every_direction[@]}"
}

# An agent that stands still for four seconds costs nothing either: TCP holds what it is sent.
scenario_stop4() {
  need_sidecar_cluster || return
  outage_that_nobody_notices 4 stop
}

# outage_that_nobody_notices SECONDS kill|stop – with a second try, because both outages go to the detector's limit. In
# a young cluster it speaks up when some 4.5 s lie between two heartbeats. After a kill of 2 s there are up to 4.3: the
# frameworks themselves come back only after 3 s (they back off by 1 s, then by 2), and heartbeats go once a second. A
# stop of 4 s leaves 4 to 5. What the first try taught the detector makes it more patient in the second.
outage_that_nobody_notices() {
  local try
  for try in 1 2; do
    take_turn
    agent_outage "$@" || return
    give_turn
    (($(count_since outage 'CLUSTER UnreachableMember') > 0)) || break
    wait_until 20 all_see_up 3 1 2 3 || fail "the cluster did not heal" || return
  done
  detail "tries=$try"
  nobody_was_unreachable
}

# An agent away for ten seconds makes its node unreachable, and the cluster heals when it is back: nobody is downed.
scenario_kill10() {
  need_sidecar_cluster || return
  agent_outage 10 kill || return
  detail "unreachable_events=$(count_since outage 'CLUSTER UnreachableMember')"
  (($(count_since outage 'CLUSTER UnreachableMember') > 0)) || fail "the outage went unnoticed, so healing proves nothing" ||
    return
  wait_until 20 all_see_up 3 1 2 3 || fail "the cluster did not heal" || return
  wire_is tls "${every_direction[@]}"
}

# agent_outage SECONDS kill|stop – of pod 2's agent; returns when pings flow again between all nodes.
agent_outage() {
  local seconds=$1 how=$2 lost_before ended_at
  lost_before=$(lost_pings 1 2)
  mark_logs outage
  if [[ $how == stop ]]; then
    signal agent2 STOP
    pause "$seconds"
    signal agent2 CONT
  else
    stop agent2
    pause "$seconds"
    start_agent 2 strict
    wait_for_agent 2 || return
  fi
  ended_at=$(now_ms)
  wait_for_pings 30 || return
  detail "back_ms=$(($(now_ms) - ended_at))" "lost_pings=$(($(lost_pings 1 2) - lost_before))"
}

nobody_was_unreachable() {
  local events
  events=$(count_since outage 'CLUSTER UnreachableMember')
  ((events == 0)) || fail "$events UnreachableMember events" || return
  all_see_up 3 1 2 3 || fail "the cluster is not whole"
}

# A pod that is deleted: application and agent get SIGTERM at the same moment. The node leaves in an orderly way,
# nobody sees it unreachable, and the agent ends by itself once the application is gone.
scenario_sigterm() {
  need_sidecar_cluster || return
  local started_at
  mark_logs leave
  started_at=$(now_ms)
  signal agent2 TERM
  signal node2 TERM
  wait_until 30 has_exited node2 || fail "node 2 does not end" || return
  local leave_ms=$(($(now_ms) - started_at))
  detail "leave_ms=$leave_ms"
  exit_code_of agent2 10 || fail "the agent did not end by itself with code 0 but with $?" || return
  detail "agent_ms=$(($(now_ms) - started_at))"
  cluster_kind=none
  wait_until 10 all_see_up 2 1 3 || fail "the other two are not a whole cluster" || return
  (($(count_since leave 'CLUSTER UnreachableMember') == 0)) || fail "node 2 was seen unreachable" || return
  logged_since leave 1 | grep -q "CLUSTER MemberExited.*$(pod_ip 2)" || fail "node 1 did not see node 2 leave" || return
  ((leave_ms < 4000)) || fail "leaving took $leave_ms ms: without an agent it takes 12 s, with one 1 to 3"
}

# From plaintext over permissive to strict by rolling updates: nobody is ever unreachable, no message between nodes that stay
# is lost, and in the end all is TLS.
scenario_migrate() {
  local pod
  fresh_pods
  take_turn
  start_nodes && wait_for_cluster 3 1 2 3 || return
  give_turn
  for pod in 1 2 3; do
    replace_pod "$pod" permissive || return
  done
  start_capture || return
  for pod in 1 2 3; do
    replace_pod "$pod" strict || return
  done
  local migrated_at
  migrated_at=$(date +%s)
  wait_for_pings 20 || return
  (($(count_events 'CLUSTER UnreachableMember') == 0)) || fail "a node was seen unreachable" || return
  wire_since "$((migrated_at + 1))" tls "${every_direction[@]}"
}

# From the framework's own TLS to agents and back by rolling updates: nobody is ever unreachable, for both speak the same
# on the wire.
scenario_native() {
  local pod mode properties
  fresh_pods
  start_capture || return
  take_turn
  for pod in "${all_pods[@]}"; do
    mapfile -t properties < <(native_tls "$pod")
    start_node "$pod" "$(join 1)" "${properties[@]}"
  done
  wait_for_cluster 3 1 2 3 || return
  give_turn
  for mode in strict native; do
    for pod in "${all_pods[@]}"; do
      replace_pod "$pod" "$mode" || return
    done
  done
  wait_for_pings 20 || return
  (($(count_events 'CLUSTER UnreachableMember') == 0)) || fail "a node was seen unreachable" || return
  wire_is tls "${every_direction[@]}"
}

# Twenty new certificates for each node, then new authorities twice, which reach the nodes one after the other: nobody is
# ever unreachable, no message is lost, and in the end a node that is new joins with what is in force.
scenario_rotate() {
  local pod round authority lost
  fresh_pods
  new_authority authority0 || fail "no authority" || return
  for pod in "${all_pods[@]}"; do
    new_identity authority0 "$pod" || fail "no certificate" || return
  done
  meshed_pods strict 1 2 3 || return
  start_capture || return
  take_turn
  start_nodes && wait_for_cluster 3 1 2 3 || return
  give_turn
  wait_for_pings 20 || return
  lost=$(all_lost_pings)
  for round in {1..20}; do
    for pod in "${all_pods[@]}"; do
      new_identity authority0 "$pod" || fail "no certificate" || return
    done
    wait_until 20 all_show || fail "certificate $round is not taken" || return
  done
  for authority in authority1 authority2; do
    new_authority "$authority" || fail "no authority" || return
    for pod in "${all_pods[@]}"; do
      new_identity "$authority" "$pod" || fail "no certificate" || return
      pause 2
    done
    wait_until 30 all_show || fail "$authority is not taken" || return
  done
  wait_for_pings 20 || return
  lost=$(($(all_lost_pings) - lost))
  detail "lost_pings=$lost" "reloads=$(agent_metric 1 bypassctl_certificate_reloads_total)"
  # Two in each direction may be under way while it is counted.
  ((lost <= 12)) || fail "messages were lost" || return
  (($(count_events 'CLUSTER UnreachableMember') == 0)) || fail "a node was seen unreachable" || return
  replace_pod 2 strict || return
  wait_for_pings 20 && wire_is tls "${every_direction[@]}"
}

# Without rules and without any capability: the sidecar has the pods' ports, the applications are on loopback and dial through
# the preloaded library. The cluster forms, all of it is TLS, a node whose sidecar is killed says nothing in plaintext, and the
# cluster heals when it is back.
scenario_ports() {
  local pod variables node_privileges=(--no-new-privs --inh-caps=-all --bounding-set=-all)
  fresh_pods
  for pod in "${all_pods[@]}"; do
    start_ports_agent "$pod"
  done
  for pod in "${all_pods[@]}"; do
    wait_for_agent "$pod" || return
  done
  start_capture || return
  take_turn
  mapfile -t variables < <(preloaded)
  for pod in "${all_pods[@]}"; do
    start_node "$pod" "$(join 1)" "${variables[@]}"
  done
  wait_for_cluster 3 1 2 3 || return
  give_turn
  wait_for_pings 20 || return
  wire_is tls "${every_direction[@]}" || return
  agent_outage_by start_ports_agent 10 || return
  wait_until 20 all_see_up 3 1 2 3 || fail "the cluster did not heal" || return
  agent_is_ready 2 || fail "agent 2 is not ready: $(in_pod 2 curl --silent "http://$(pod_ip 2):$admin_port/ready")" || return
  wire_is tls "${every_direction[@]}"
}

# One node of each path is one cluster, and all of it is TLS: the framework's own, rules by init, rules by the CNI plugin, ports and
# library.
scenario_paths() {
  local all_pods=(1 2 3 4) from to every_direction=() variables properties
  for from in "${all_pods[@]}"; do
    for to in "${all_pods[@]}"; do
      ((from == to)) || every_direction+=("$from>$to")
    done
  done
  fresh_pods
  start_kubernetes_api || return
  meshed_pods strict 2 || return
  load_mesh_rules 3 && program_rules_by_cni 3 || fail "no rules by the plugin: $(tail -n1 "$run_dir/pod3/cni.log")" || return
  start_agent 3 strict
  start_ports_agent 4
  wait_for_agent 3 && wait_for_agent 4 || return
  start_capture || return
  take_turn
  mapfile -t properties < <(native_tls 1)
  mapfile -t variables < <(preloaded)
  start_node 1 "$(join 1)" "${properties[@]}"
  start_node 2 "$(join 1)"
  start_node 3 "$(join 1)"
  start_node 4 "$(join 1)" "${variables[@]}"
  wait_for_cluster 4 "${all_pods[@]}" || return
  give_turn
  wait_for_pings 20 && wire_is tls "${every_direction[@]}"
}

# agent_outage_by START SECONDS – of pod 2's agent, which is killed; returns when pings flow again.
agent_outage_by() {
  mark_logs outage
  stop agent2
  pause "$2"
  (($(lost_pings 2 1) > 0)) || fail "node 2 got answers without a sidecar" || return
  "$1" 2
  wait_for_agent 2 || return
  wait_for_pings 30
}

all_show() {
  local pod
  for pod in "${all_pods[@]}"; do
    shows "$pod" || return
  done
}

all_lost_pings() {
  local from to sum=0
  for from in "${all_pods[@]}"; do
    for to in "${all_pods[@]}"; do
      ((from == to)) || sum=$((sum + $(lost_pings "$from" "$to")))
    done
  done
  echo "$sum"
}

# is_removed POD WITNESS – whether the last that WITNESS has heard of POD's node is that it is no member any more.
is_removed() {
  grep "CLUSTER Member.*$(pod_ip "$1"):" "$run_dir/pod$2/node.log" | tail -n 1 | grep -q MemberRemoved
}

# One step of a rolling update: the old pod leaves, a new one with an agent in MODE joins, or, where MODE is native, one
# without an agent and with the framework's own TLS. No message between the two that stay is lost: two each way may be under
# way while it is counted.
replace_pod() {
  local pod=$1 mode=$2 properties=() a=$(($1 % 3 + 1)) b=$((($1 + 1) % 3 + 1)) lost
  # A node that has just come up is pinged before it can answer.
  wait_for_pings 20 || return
  lost=$(($(lost_pings "$a" "$b") + $(lost_pings "$b" "$a")))
  is_running "agent$pod" && signal "agent$pod" TERM
  signal "node$pod" TERM
  wait_until 30 has_exited "node$pod" || fail "node $pod does not end" || return
  stop "agent$pod"
  # Started again at once at the same address, it would be taken for a new life of one that has not been removed yet, and that
  # one for unreachable, which has nothing to do with agents. In Kubernetes the next pod has another address.
  wait_until 15 is_removed "$pod" "$a" && wait_until 15 is_removed "$pod" "$b" || fail "node $pod is not removed" || return
  delete_pod "$pod"
  create_pod "$pod"
  if [[ $mode == native ]]; then
    mapfile -t properties < <(native_tls "$pod")
  else
    meshed_pods "$mode" "$pod" || return
  fi
  take_turn
  start_node "$pod" "$(join $((pod % 3 + 1)))" "${properties[@]}"
  wait_until 60 all_see_up 3 1 2 3 || fail "pod $pod, $mode: the cluster did not become whole" || return
  give_turn
  lost=$(($(lost_pings "$a" "$b") + $(lost_pings "$b" "$a") - lost))
  ((lost <= 4)) || fail "pod $pod, $mode: the nodes that stayed lost $lost messages"
}
