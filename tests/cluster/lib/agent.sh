# What stands in a pod beside the application: the mesh's rules, and bypassctl.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

agent_uid=12552
mesh_uid=1337
admin_port=15550
mesh_rules=$repository/tests/meshes/istio_iptnft

# Nothing of our own environment may configure the agent.
bypassctl() {
  echo env --ignore-environment PATH="$PATH" "$state/bin/bypassctl"
}

# Istio's rules: everything that is dialled goes to port 15001, everything that arrives to 15006. Nobody listens there,
# so what does not bypass the mesh is refused.
load_mesh_rules() {
  in_pod "$1" iptables-nft-restore --noflush <"$mesh_rules/nft.v4" &&
    in_pod "$1" ip6tables-nft-restore --noflush <"$mesh_rules/nft.v6"
}

# program_rules POD [INIT OPTION...]
program_rules() {
  local pod=$1
  shift
  # shellcheck disable=SC2046  # several words
  in_pod "$pod" $(bypassctl) init --pod-ip "$(pod_ip "$pod")" "$@" >>"$run_dir/pod$pod/init.log" 2>&1
}

# program_rules_by_cni POD – as a container runtime has a node's plugin do it, in the pod's namespace from outside.
program_rules_by_cni() {
  local pod=$1 name kubeconfig=$run_dir/cni.kubeconfig
  name=appka-$(pod_ip "$pod" | tr . -)
  cat >"$kubeconfig" <<EOF
{"apiVersion": "v1", "kind": "Config", "current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
 "clusters": [{"name": "a", "cluster": {"server": "https://$switch_ip:6443", "certificate-authority": "$pki/kubernetes/ca.crt"}}],
 "users": [{"name": "a", "user": {"token": "token"}}]}
EOF
  ip netns exec switch env --ignore-environment CNI_COMMAND=ADD CNI_CONTAINERID="$name" CNI_NETNS="/run/netns/pod$pod" \
    CNI_IFNAME=eth0 CNI_PATH=/nowhere CNI_ARGS="K8S_POD_NAMESPACE=default;K8S_POD_NAME=$name;K8S_POD_UID=$name" \
    "$state/bin/bypassctl-cni" >"$run_dir/pod$pod/cni.log" 2>&1 <<EOF
{"cniVersion": "1.0.0", "name": "pods", "type": "bypassctl-cni", "bypassctl": {"kubeconfig": "$kubeconfig"},
 "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": "$(pod_ip "$pod")/24"}]}}
EOF
}

# The two orders in which a pod's rules can come about; each framework tests one.
load_mesh_and_program_rules() {
  local pod=$1
  if [[ $framework == pekko ]]; then
    load_mesh_rules "$pod" && program_rules "$@"
  else
    program_rules "$@" && load_mesh_rules "$pod"
  fi
}

# start_agent POD MODE – as its own user, without capabilities. With certificates of its own where `new_identity` made some.
start_agent() {
  local pod=$1 mode=$2 identity=(--tls-dir "$pki/node$1")
  [[ -d $run_dir/pod$pod/tls ]] && identity=(--tls-dir "$run_dir/pod$pod/tls" --ca-overlap "$ca_overlap")
  # shellcheck disable=SC2046  # several words
  start "agent$pod" "$run_dir/pod$pod/agent.log" ip netns exec "pod$pod" \
    setpriv --reuid "$agent_uid" --regid "$agent_uid" --clear-groups --no-new-privs --pdeathsig KILL \
    $(bypassctl) proxy "${identity[@]}" --mode "$mode"
}

# start_ports_agent POD – as above, and nobody redirects anything to it.
start_ports_agent() {
  local pod=$1
  # shellcheck disable=SC2046  # several words
  start "agent$pod" "$run_dir/pod$pod/agent.log" ip netns exec "pod$pod" \
    setpriv --reuid "$agent_uid" --regid "$agent_uid" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
    --pdeathsig KILL $(bypassctl) proxy --path ports --pod-ip "$(pod_ip "$pod")" --tls-dir "$pki/node$pod"
}

# What `inject --path ports` gives an app.
preloaded() {
  local library=$state/bin/libbypassctl_preload.so
  echo LD_PRELOAD="$library"
  echo BYPASSCTL_SHIM_PORTS=2552
  echo "JAVA_TOOL_OPTIONS=-agentpath:$library -D$framework.remote.artery.bind.hostname=127.0.0.1"
}

# Seconds; for half of them the agents hold back what new roots have issued.
ca_overlap=12

# new_authority NAME – of the kind that `bypassctl certs` makes.
new_authority() {
  # shellcheck disable=SC2046  # several words
  $(bypassctl) certs ca --dir "$run_dir/$1" --common-name "$1" >/dev/null
}

# new_identity AUTHORITY POD [OPTION...] – a new pair and the authority's certificate, in place of those of before.
new_identity() {
  local authority=$1 pod=$2
  shift 2
  # shellcheck disable=SC2046  # several words
  $(bypassctl) certs issue --force --ca-dir "$run_dir/$authority" --dir "$run_dir/pod$pod/tls" "$@" \
    --spiffe-id spiffe://cluster.local/ns/default/sa/appka >/dev/null && chown -R "$agent_uid" "$run_dir/pod$pod/tls"
}

# shows POD – whether the agent shows the certificate that lies there, and trusts its authority alone.
shows() {
  in_pod "$1" curl --silent --max-time 3 "http://$(pod_ip "$1"):$admin_port/status" |
    python3 -c 'import json, sys
credentials = json.load(sys.stdin)["credentials"]
sys.exit(credentials["chain"][0]["serial"] != sys.argv[1] or len(credentials["roots"]) != 1)' \
      "$($(bypassctl) certs inspect --output json "$run_dir/pod$1/tls/tls.crt" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["certificates"][0]["serial"])')"
}

wait_for_agent() {
  wait_until 10 agent_is_ready "$1" || fail "agent $1 is not ready; agent.log ends: $(tail -n1 "$run_dir/pod$1/agent.log")"
}

agent_is_ready() {
  is_running "agent$1" &&
    in_pod "$1" curl --silent --fail --max-time 2 --output /dev/null "http://$(pod_ip "$1"):$admin_port/ready"
}

# agent_metric POD NAME – the sum of a counter over its labels.
agent_metric() {
  in_pod "$1" curl --silent --max-time 3 "http://$(pod_ip "$1"):$admin_port/metrics" |
    awk -v name="$2" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { print sum + 0 }'
}

# meshed_pods strict|permissive POD... – the mesh, the rules and the agent in each; returns when the agents are ready.
meshed_pods() {
  local mode=$1 pod options=()
  shift
  [[ $mode == permissive ]] && options=(--side-doors open)
  for pod in "$@"; do
    load_mesh_and_program_rules "$pod" "${options[@]}" ||
      fail "no rules in pod $pod; init.log ends: $(tail -n1 "$run_dir/pod$pod/init.log")" || return
    start_agent "$pod" "$mode"
  done
  for pod in "$@"; do
    wait_for_agent "$pod" || return
  done
}

# The stand-in for the mesh's proxy: what the mesh captures gets through.
start_mesh_proxy() {
  local pod=$1
  start "mesh$pod" "$run_dir/pod$pod/mesh.log" ip netns exec "pod$pod" \
    setpriv --reuid "$mesh_uid" --regid "$mesh_uid" --clear-groups --pdeathsig KILL python3 "$state/bin/mesh_proxy.py"
  wait_until 10 grep -q listening "$run_dir/pod$pod/mesh.log" || fail "no mesh proxy in pod $pod"
}

# How many connections the mesh's rules have redirected in POD.
captured_by_mesh() {
  in_pod "$1" iptables-nft -t nat -nvxL ISTIO_REDIRECT | awk '$3 == "REDIRECT" { print $1 }'
}
