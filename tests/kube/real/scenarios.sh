# What the card promises of a real cluster, with the image, with what `inject` made of the sample, and under Istio's rules.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# Three pods form a cluster over mTLS under a mesh's rules, and go through what happens to clusters: rules lost and put back, an
# agent killed, a pod deleted, scaling, a rolling update that turns the order of the two init containers round. No member is
# ever unreachable or downed, no byte of remoting crosses the nodes' bridges in plaintext, and readiness follows the path.
scenario_a_cluster_lives_under_a_mesh() {
  fresh_namespace || return
  kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=privileged >/dev/null
  create_certificate || fail "no certificate" || return
  kubectl create configmap mesh-rules --from-file="$repository/tests/meshes/istio_iptnft/nft.v4" >/dev/null || return
  capture
  helper log-keeper env scratch="$scratch" bash -c "$(declare -f pods keep_app_logs); keep_app_logs" || return
  forms || return
  readiness_follows_the_path || return
  an_agent_is_killed || return
  a_pod_leaves || return
  it_scales || return
  it_rolls || return
  dashboards_name_what_is_there || return
  nobody_was_harmed || fail "a member was unreachable or downed" || return
  no_plaintext || fail "remoting crossed the bridge in plaintext, or not at all"
}

forms() {
  local at
  at=$(now_ms)
  sample mesh-last "$image" | injected >"$scratch/ours-first.yaml" || fail "it is not injected" || return
  kubectl apply --filename "$scratch/ours-first.yaml" || return
  wait_until 120 ready_pods 3 || fail "the pods do not become ready: $(kubectl get pods)" || return
  wait_until 20 members_are 3 || fail "there are no three members: $(<"$scratch/status.json")" || return
  detail "formed=$(seconds_since "$at")s"
  # The mesh's proxy sees what else the app dials, and no remoting.
  [[ $(path_of_peers) == *mtls* ]] || fail "no path is mTLS: $(path_of_peers)" || return
}

# What the sidecar of one pod says of its peers.
path_of_peers() {
  local pod
  pod=$(pods | head -n 1)
  kubectl exec "$pod" --container bypassctl -- /usr/local/bin/bypassctl status --local --output json |
    python3 -c 'import json, sys
text = json.dumps(json.load(sys.stdin)).lower()
print("mtls" if "spiffe://cluster.local" in text else "unknown", text[:300])'
}

# Without its rules a pod is not ready, and with them it is again.
readiness_follows_the_path() {
  local pod at
  pod=$(pods | tail -n 1)
  within_pod "$pod" nft delete table inet bypassctl || fail "the rules cannot be taken away" || return
  at=$(now_ms)
  wait_until 60 is_not_ready "$pod" || fail "it stays ready without its rules" || return
  detail "unready=$(seconds_since "$at")s"
  at=$(now_ms)
  rules_from_elsewhere "$pod" || fail "the rules are not put back" || return
  wait_until 60 is_pod_ready "$pod" || fail "it does not become ready again" || return
  detail "ready-again=$(seconds_since "$at")s"
}

# An agent that is killed is started again by the kubelet before anybody's failure detector trips.
an_agent_is_killed() {
  local pod id at
  pod=$(pods | head -n 1)
  id=$(container_of "$pod" bypassctl)
  open_network "$pod" || fail "the pod has no network" || return
  # shellcheck disable=SC2046  # numbers
  kill -KILL $(processes_of "$id") || fail "there is no agent to kill" || return
  at=$(now_ms)
  # The kubelet looks once a second which containers have ended.
  quickly 30 answers || fail "it does not come back" || return
  detail "agent-answers=$(seconds_since "$at")s"
  quickly 30 answers --fail || fail "it does not become ready" || return
  detail "agent-ready=$(seconds_since "$at")s"
  exec {pod_network}<&-
  wait_until 15 has_another_agent "$pod" "$id" || fail "it was never gone" || return
  wait_until 60 is_pod_ready "$pod" || fail "its pod does not become ready" || return
  wait_until 20 members_are 3 || fail "a member was lost"
}

has_another_agent() {
  local id
  id=$(container_of "$1" bypassctl)
  [[ -n $id && $id != "$2" ]]
}

# answers [--fail] – whether the agent does, and with --fail whether it is ready.
answers() {
  from_its_network curl --silent "$@" --max-time 1 --output /dev/null http://127.0.0.1:15550/ready
}

# quickly SECONDS COMMAND... – as wait_until, for what is measured.
quickly() {
  local deadline=$(($(now_ms) + $1 * 1000))
  shift
  until "$@"; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.02
  done
}

# Every metric that the chart's alerts and its dashboard name is one that an agent offers, after a peer with the wrong
# identity has been refused.
dashboards_name_what_is_there() {
  local pod name metrics
  pod=$(pods | head -n 1)
  timeout 5 openssl s_client -connect "$(pod_address "$pod"):17355" -cert "$scratch/tls/kubernetes/tls.crt" \
    -key "$scratch/tls/kubernetes/tls.key" -CAfile "$scratch/tls/ca/ca.crt" </dev/null >"$scratch/stranger" 2>&1
  metrics=$(within_pod "$pod" curl --silent --max-time 5 http://127.0.0.1:15550/metrics) || fail "no metrics" || return
  while read -r name; do
    grep -qE "^${name}(\{| )" <<<"$metrics" || fail "no agent offers $name" || return
  done < <(grep -ohE 'bypassctl_[a-z_]+' "$repository"/deploy/chart/bypassctl/files/* | sort -u)
}

# A deleted pod's member leaves: it says so itself, since its agent outlives the app.
a_pod_leaves() {
  local pod at
  pod=$(pods | head -n 1)
  at=$(now_ms)
  kubectl delete pod "$pod" --wait --timeout 60s || fail "it is not gone after a minute" || return
  detail "left=$(seconds_since "$at")s"
  grep -qE "CLUSTER MemberRemoved.*Exiting|CLUSTER MemberExited" "$scratch"/app-*.log || fail "nobody saw it leave" || return
  wait_until 90 ready_pods 3 || fail "no other takes its place: $(kubectl get pods)" || return
  wait_until 20 members_are 3 || fail "no other joins: $(<"$scratch/status.json")"
}

it_scales() {
  local at
  at=$(now_ms)
  kubectl scale deployment appka --replicas 4 || return
  wait_until 90 ready_pods 4 && wait_until 20 members_are 4 || fail "it does not grow: $(kubectl get pods)" || return
  detail "grown=$(seconds_since "$at")s"
  at=$(now_ms)
  kubectl scale deployment appka --replicas 3 || return
  wait_until 60 ready_pods 3 && wait_until 20 members_are 3 || fail "it does not shrink: $(kubectl get pods)" || return
  detail "shrunk=$(seconds_since "$at")s"
}

# To pods whose mesh was there before us.
it_rolls() {
  local at
  at=$(now_ms)
  sample no-mesh '' | injected | "$kubernetes/kubectl" create --dry-run=client --output json --filename - |
    python3 "$here/real/adapt.py" mesh-first "$image" turned=round | kubectl apply --filename - || return
  kubectl rollout status deployment appka --timeout 180s || fail "it does not roll: $(kubectl get pods)" || return
  wait_until 30 members_are 3 || fail "there are no three members: $(<"$scratch/status.json")" || return
  detail "rolled=$(seconds_since "$at")s"
}

# In a restricted namespace the agent has no privilege and needs none: the rules come from elsewhere, here from the node, and
# until they are there the sidecar holds the app.
scenario_a_restricted_namespace_takes_rules_from_elsewhere() {
  fresh_namespace || return
  local at pod
  kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
  create_certificate || fail "no certificate" || return
  kubectl create secret generic remoting-tls --from-file="$scratch/tls/node1" >/dev/null
  # The privileged pod is refused there, so that it was taken means something.
  sample no-mesh '' | injected | kubectl apply --filename - || return
  wait_until 20 is_forbidden || fail "NET_ADMIN is allowed in a restricted namespace" || return
  kubectl delete deployment appka || return
  restricted_sample | kubectl apply --filename - || return
  wait_until 30 pods_have_addresses 3 || fail "the pods are refused: $(kubectl get events | tail -n 5)" || return
  at=$(now_ms)
  for pod in $(pods); do
    [[ -z $(kubectl get pod "$pod" --output 'jsonpath={.status.containerStatuses[0].state.running}') ]] ||
      fail "the app runs before there are rules" || return
    rules_from_elsewhere "$pod" || fail "no rules in $pod" || return
  done
  wait_until 120 ready_pods 3 || fail "the pods do not become ready: $(kubectl get pods)" || return
  wait_until 20 members_are 3 || fail "there are no three members: $(<"$scratch/status.json")" || return
  detail "formed=$(seconds_since "$at")s"
}

is_forbidden() {
  kubectl get events --output 'jsonpath={.items[*].message}' | grep -q 'violates PodSecurity "restricted'
}

# What deploy/kustomize/restricted makes of the sample, with the tests' ports and Secret.
restricted_sample() {
  local work=$scratch/kustomize
  mkdir -p "$work"
  sample no-mesh '' >"$work/sample.yaml"
  cp -r "$repository/deploy/kustomize/restricted" "$work/component"
  sed -i 's/args: \[proxy,/imagePullPolicy: Never\n        args: [proxy, --preset=pekko,/; s/metadata: {name: any}/&/' "$work/component/agent.yaml"
  cat >"$work/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [sample.yaml]
components: [component]
images: [{name: bypassctl, newName: "${image%:*}", newTag: "${image##*:}"}]
END
  kubectl kustomize "$work"
}

pods_have_addresses() {
  [[ $(kubectl get pods --selector app=appka --output 'jsonpath={.items[*].status.podIP}' | wc -w) == "$1" ]]
}

# Nobody makes rules, and nothing in the pods has a capability: the sidecar has their remoting port, the app is on loopback and dials
# through the library that the image brings. The cluster forms over mTLS.
scenario_ports_and_a_library_do_without_any_privilege() {
  local at
  fresh_namespace || return
  kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
  create_certificate || fail "no certificate" || return
  bypassctl check pre --namespace "$namespace" --output json >"$scratch/pre.json"
  grep -q "by the pod's ports and a preloaded library" "$scratch/pre.json" || fail "check pre: $(<"$scratch/pre.json")" || return
  capture
  at=$(now_ms)
  sample no-mesh '' | injected --path ports | kubectl apply --filename - || return
  wait_until 120 ready_pods 3 || fail "the pods do not become ready: $(kubectl get pods; kubectl get events | tail -n 5)" || return
  wait_until 20 members_are 3 || fail "there are no three members: $(<"$scratch/status.json")" || return
  detail "formed=$(seconds_since "$at")s"
  [[ -z $(kubectl get pods --output 'jsonpath={.items[*].spec.initContainers[*].securityContext.capabilities.add}') ]] ||
    fail "somebody has capabilities" || return
  [[ $(path_of_peers) == *mtls* ]] || fail "no path is mTLS: $(path_of_peers)" || return
  no_plaintext || fail "remoting crossed the bridge in plaintext, or not at all"
}

# The chart as it is, in pods on nodes, called by the API server: a Deployment that knows nothing of us gets the agent as its pods are
# created, and forms a cluster over mTLS. Without a webhook that answers, no pod is made; a pod that says so is left alone.
scenario_a_plain_deployment_gets_the_agent_from_the_webhook() {
  local at hooks
  need_helm && fresh_namespace || return
  hooks=$namespace
  render "$scratch/chart.yaml" --set image.repository="${image%:*}" --set-string image.tag="${image##*:}" \
    --set image.pullPolicy=Never --set inject.imagePullPolicy=Never --set inject.preset=pekko || fail "the chart is not rendered" || return
  at=$(now_ms)
  kubectl apply --filename "$scratch/chart.yaml" >/dev/null || fail "the chart is not taken" || return
  wait_until 60 hooks_are_ready 2 || fail "the webhook does not start: $(kubectl get pods; kubectl get events | tail -n 5)" || return
  detail "webhook=$(seconds_since "$at")s"
  fresh_namespace || return
  kubectl label namespace "$namespace" bypassctl.io/inject=enabled >/dev/null
  create_certificate || fail "no certificate" || return
  capture
  at=$(now_ms)
  sample no-mesh '' >"$scratch/plain.yaml"
  ! grep -q bypassctl-init "$scratch/plain.yaml" || fail "it is no plain one" || return
  kubectl apply --filename "$scratch/plain.yaml" || return
  wait_until 120 ready_pods 3 || fail "the pods do not become ready: $(kubectl get pods)" || return
  wait_until 20 members_are 3 || fail "there are no three members: $(<"$scratch/status.json")" || return
  detail "formed=$(seconds_since "$at")s"
  [[ $(path_of_peers) == *mtls* ]] || fail "no path is mTLS: $(path_of_peers)" || return
  kubectl run without --image bypassctl.test/tools:1 --annotations bypassctl.io/inject=false >/dev/null || fail "the way out is shut" || return
  [[ -z $(kubectl get pod without --output 'jsonpath={.spec.initContainers}') ]] || fail "injected against its will" || return
  kubectl --namespace "$hooks" scale deployment x-bypassctl-webhook --replicas 0 >/dev/null
  wait_until 40 is_refused || fail "a pod is made without its agent" || return
  kubectl delete mutatingwebhookconfiguration,clusterrole,clusterrolebinding "x-bypassctl-$hooks" --ignore-not-found >/dev/null
  no_plaintext || fail "remoting crossed the bridge in plaintext, or not at all"
}

hooks_are_ready() {
  [[ $(kubectl get deployment x-bypassctl-webhook --output 'jsonpath={.status.readyReplicas}') == "$1" ]]
}

is_refused() {
  ! kubectl run late --image bypassctl.test/tools:1 --dry-run=server 2>/dev/null
}

# The chart with its DaemonSet on real nodes: containerd calls the plugin for each pod. In a restricted namespace a Deployment that
# knows nothing of us gets a sidecar without any capability from the webhook, its rules from the node before any container
# starts, and forms a cluster over mTLS. Rules that are lost are made again where that is wanted; removed, the DaemonSet leaves
# the nodes as they were, and pods start as before.
scenario_a_cni_plugin_makes_rules_for_a_restricted_namespace() {
  local at hooks pod
  need_helm && fresh_namespace || return
  hooks=$namespace
  install_plugin || return
  fresh_namespace || return
  kubectl label namespace "$namespace" bypassctl.io/inject=enabled pod-security.kubernetes.io/enforce=restricted >/dev/null
  create_certificate || fail "no certificate" || return
  capture
  at=$(now_ms)
  sample no-mesh '' bypassctl.io/rules=capture | kubectl apply --filename - || return
  wait_until 120 ready_pods 3 || fail "the pods do not become ready: $(kubectl get pods; kubectl get events | tail -n 5)" || return
  wait_until 20 members_are 3 || fail "there are no three members: $(<"$scratch/status.json")" || return
  detail "formed=$(seconds_since "$at")s"
  [[ $(kubectl get pods --output 'jsonpath={.items[*].spec.initContainers[*].name}') == 'bypassctl bypassctl bypassctl' ]] ||
    fail "there is more than a sidecar" || return
  [[ -z $(kubectl get pods --output 'jsonpath={.items[*].spec.initContainers[*].securityContext.capabilities.add}') ]] ||
    fail "the sidecar has capabilities" || return
  [[ $(path_of_peers) == *mtls* ]] || fail "no path is mTLS: $(path_of_peers)" || return
  no_plaintext || fail "remoting crossed the bridge in plaintext, or not at all" || return
  bypassctl check pre --namespace "$namespace" --output json >"$scratch/pre.json" || fail "check pre knows of no path: $(<"$scratch/pre.json")" || return
  grep -q "the node's CNI plugin, by $hooks/x-bypassctl-cni on 2 of 2 nodes" "$scratch/pre.json" || fail "check pre: $(<"$scratch/pre.json")" || return
  kubectl exec "$(pods | head -n 1)" --container bypassctl -- /usr/local/bin/bypassctl init --prove-only --preset pekko |
    grep -q "somebody else's rules hold" || fail "the rules are not proven from inside" || return

  # With the last nat rules of a pod its connections end, and what its app dials until they are back is plaintext, which peers refuse.
  pod=$(pods | head -n 1)
  within_pod "$pod" nft delete table inet bypassctl || fail "there are no rules to take away" || return
  at=$(now_ms)
  wait_until 45 has_rules "$pod" || fail "its rules are not made again" || return
  detail "repaired=$(seconds_since "$at")s"
  wait_until 30 is_pod_ready "$pod" || fail "it is not ready with them" || return
  wait_until 30 members_are 3 || fail "a member was lost" || return

  kubectl delete --filename "$scratch/chart.yaml" --ignore-not-found >/dev/null
  wait_until 30 no_pods_of "$hooks" || fail "the DaemonSet does not end" || return
  kubectl run after --image bypassctl.test/tools:1 --image-pull-policy Never --overrides "$(restricted_pod after)" >/dev/null ||
    fail "no pod is made any more" || return
  wait_until 60 has_started after || fail "no pod starts any more: $(kubectl describe pod after | tail -n 5)" || return
  wait_until 10 members_are 3 || fail "the cluster did not outlive the DaemonSet"
}

# install_plugin – the chart with its DaemonSet, in $namespace.
install_plugin() {
  local at
  render "$scratch/chart.yaml" --set image.repository="${image%:*}" --set-string image.tag="${image##*:}" --set image.pullPolicy=Never \
    --set inject.imagePullPolicy=Never --set inject.preset=pekko --set cni.enabled=true --set cni.repairPods=rules \
    --set cni.binDir=/run/cni/bin --set cni.confDir=/run/cni/net.d || fail "the chart is not rendered" || return
  at=$(now_ms)
  kubectl apply --filename "$scratch/chart.yaml" >/dev/null || fail "the chart is not taken" || return
  wait_until 60 plugin_is_on 2 || fail "the plugin is not installed: $(kubectl get pods; kubectl logs daemonset/x-bypassctl-cni | tail -n 5)" || return
  detail "installed=$(seconds_since "$at")s"
  wait_until 60 hooks_are_ready 2 || fail "the webhook does not start: $(kubectl get events | tail -n 5)"
}

# In one chain with a plugin that does what istio-cni does, and whichever of the two comes first: a cluster in a restricted
# namespace forms over mTLS, while the mesh has what else its pods dial.
scenario_a_cni_plugin_stands_beside_a_meshs_in_either_order() {
  local at hooks order result=0
  need_helm && fresh_namespace || return
  hooks=$namespace
  install_plugin || return
  for order in mesh-first ours-first; do
    if ! { chain_has "$order" && forms_under_the_nodes_mesh "$order"; }; then
      result=1
      break
    fi
  done
  kubectl delete --filename "$scratch/chart.yaml" --ignore-not-found >/dev/null
  wait_until 30 no_pods_of "$hooks" || fail "the DaemonSet does not end" || return
  return "$result"
}

# chain_has mesh-first|ours-first – on every node; the installer leaves the plugin where it stands.
chain_has() {
  local node pid
  for ((node = 1; node <= $(<"$state/nodes"); node++)); do
    pid=$(awk -v name="node-$node" '$3 == name { print $1 }' "$state/processes")
    nsenter --mount="/proc/$pid/ns/mnt" python3 - "$1" /run/cni/net.d/10-bridge.conflist <<'END' || fail "no chain on node $node" || return
import json, os, sys
order, path = sys.argv[1:]
chain = json.load(open(path))
rank = {"mesh-cni": 1 if order == "mesh-first" else 2, "bypassctl-cni": 2 if order == "mesh-first" else 1}
chain["plugins"].sort(key=lambda plugin: rank.get(plugin["type"], 0))
assert len(chain["plugins"]) == 4, chain
json.dump(chain, open(path + ".next", "w"))
os.rename(path + ".next", path)
END
  done
  # Longer than the installer and containerd take to see it.
  sleep 3
}

forms_under_the_nodes_mesh() {
  local at pod
  fresh_namespace || return
  kubectl label namespace "$namespace" bypassctl.io/inject=enabled pod-security.kubernetes.io/enforce=restricted >/dev/null
  mkdir -p "$state/mesh-rules"
  cp "$repository/tests/meshes/istio_iptnft/nft.v4" "$state/mesh-rules/$namespace"
  create_certificate || fail "no certificate" || return
  at=$(now_ms)
  sample mesh-node "$image" bypassctl.io/rules=capture | kubectl apply --filename - || return
  wait_until 120 ready_pods 3 || fail "$1: the pods do not become ready: $(kubectl get pods; kubectl get events | tail -n 5)" || return
  wait_until 30 members_are 3 || fail "$1: there are no three members: $(<"$scratch/status.json")" || return
  detail "$1=$(seconds_since "$at")s"
  [[ $(path_of_peers) == *mtls* ]] || fail "$1: no path is mTLS: $(path_of_peers)" || return
  pod=$(pods | head -n 1)
  within_pod "$pod" nft list ruleset >"$scratch/rules" || fail "no rules" || return
  grep -q ISTIO_REDIRECT "$scratch/rules" && grep -q 'table inet bypassctl' "$scratch/rules" || fail "$1: one of the two has no rules" || return
  kubectl delete deployment appka --wait --timeout 60s >/dev/null
}

plugin_is_on() {
  [[ $(kubectl get daemonset x-bypassctl-cni --output 'jsonpath={.status.numberReady}') == "$1" ]]
}

has_rules() {
  within_pod "$1" nft list table inet bypassctl >/dev/null 2>&1
}

no_pods_of() {
  [[ -z $(kubectl get pods --namespace "$1" --output name) ]]
}

has_started() {
  kubectl get pod "$1" --output 'jsonpath={.status.containerStatuses[0].state}' | grep -qE 'running|terminated'
}

# What the restricted level asks of a pod of the tests' tools.
restricted_pod() {
  cat <<END
{"spec": {"securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
  "containers": [{"name": "$1", "image": "bypassctl.test/tools:1", "imagePullPolicy": "Never", "command": ["sh", "-c", "sleep 60"],
    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}
END
}
