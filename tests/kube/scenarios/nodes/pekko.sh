# A real Pekko cluster in pods, by Kubernetes API discovery: check cluster and status of it, well and broken.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# Three pods form a cluster; every check passes, with facts from management through port-forward, and status joins
# members to pods. Then one of the pods is frozen: both tools say who is unreachable, and by whom.
scenario_a_pekko_cluster_is_well_until_a_pod_freezes() {
  fresh_namespace && load_pekko || return
  local report said frozen
  deploy_pekko 3 3 || return
  wait_until 90 all_are_ready 3 || fail "no cluster has formed: $(kubectl get pods)" || return
  report=$(bypassctl check cluster --namespace "$namespace" --output json) || fail "not all is well: $(failures "$report")" || return
  count_of "$report" member-joined pass 3 && count_of "$report" app-ready pass 3 && count_of "$report" one-cluster pass 1 &&
    count_of "$report" pods-are-members pass 1 && count_of "$report" members-are-pods pass 1 || fail "live: $report" || return
  said=$(bypassctl status --namespace "$namespace" --output json) || fail "status is unwell: $said" || return
  holds "$said" 'len(s["clusters"]) == 1 and s["clusters"][0]["members"] == 3 and s["clusters"][0]["system"] == "appka"' &&
    holds "$said" 'len(s["nodes"]) == 3 and all(n["status"] == "Up" and n["pod"] and n["host"] == "node1" for n in s["nodes"])' &&
    holds "$said" 'sum(n["leader"] for n in s["nodes"]) == 1 and sum(n["oldest"] for n in s["nodes"]) == 1' ||
    fail "status: $said" || return
  said=$(bypassctl status --namespace "$namespace")
  [[ $said == *'cluster of system appka, 3 members, leader appka-'*'✓ well'* ]] || fail "status for people: $said" || return

  frozen=$(kubectl get pods --output 'jsonpath={.items[0].metadata.name}')
  freeze "$frozen" || fail "it cannot be frozen" || return
  wait_until 15 is_unreachable "$frozen" || fail "status does not see it: $(bypassctl status)" || return
  said=$(bypassctl status --namespace "$namespace" --output json)
  holds "$said" 'not s["well"] and [len(n["unreachable_from"]) for n in s["nodes"] if n["pod"] == "'"$frozen"'"] == [2]' ||
    fail "by whom: $said" || return
  report=$(bypassctl check cluster --namespace "$namespace" --output json) && fail "it is called well" && return 1
  found "$report" members-reachable || return
  # The others down it after a while, and are a cluster by themselves; the pod still runs.
  wait_until 130 is_left_out "$frozen" || fail "status forgets the frozen pod: $(bypassctl status)"
}

# Without the binding, a restarted cluster does not form, and the report says what is missing beside what it does to the
# app; with more contact points wanted than there are pods, the same.
scenario_a_pekko_cluster_that_cannot_form_is_told_why() {
  fresh_namespace && load_pekko || return
  local report first=$namespace
  deploy_pekko 2 2 || return
  kubectl delete rolebinding read-pods || return
  fresh_namespace || return
  deploy_pekko 2 5 || return
  wait_until 60 management_answers "$first" 2 || fail "management of $first does not answer" || return
  wait_until 60 management_answers "$namespace" 2 || fail "management of $namespace does not answer" || return
  report=$(bypassctl check cluster --namespace "$first" --output json) && fail "without a binding it is called well" && return 1
  found "$report" rbac-role || return
  count_of "$report" member-joined pending 2 || fail "joined, without a binding? $report" || return
  report=$(bypassctl check cluster --namespace "$namespace" --output json) && fail "too few pods are called well" && return 1
  found "$report" contact-points || return
  bypassctl status --namespace "$first" >"$scratch/status" && fail "status is well" && return 1
  grep -q 'no cluster has formed' "$scratch/status" && grep -q 'has not joined a cluster' "$scratch/status" || fail "status: $(<"$scratch/status")" || return
  # --wait tells what it waits for while it does, and gives up at its end.
  report=$(bypassctl check cluster --namespace "$first" --wait=5 2>"$scratch/progress") && fail "waited for nothing" && return 1
  grep -q '^after [0-9]* s: .*rbac-role' "$scratch/progress" || fail "it does not say what it waits for: $(<"$scratch/progress")"
}

# While pods come and go nothing fails, in either tool; a rollout that the API server refuses is told, although all pods run.
scenario_a_rolling_update_is_no_fault_and_a_refused_one_is() {
  fresh_namespace && load_pekko || return
  local report said round
  deploy_pekko 2 2 || return
  wait_until 90 all_are_ready 2 || fail "no cluster has formed: $(kubectl get pods)" || return
  kubectl rollout restart deployment appka || return
  for ((round = 0; round < 25; round++)); do
    report=$(bypassctl check cluster --namespace "$namespace" --output json) ||
      fail "round $round, check: $(failures "$report")" || return
    said=$(bypassctl status --namespace "$namespace" --output json) ||
      fail "round $round, status: $said" || return
    if kubectl rollout status deployment appka --watch=false | grep -q 'successfully rolled out' && ((round > 5)); then break; fi
    sleep 1
  done
  detail "$round looks"
  report=$(bypassctl check cluster --namespace "$namespace" --wait=120 --output json 2>/dev/null) ||
    fail "afterwards: $(failures "$report")" || return
  kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted --overwrite || return
  kubectl rollout restart deployment appka || return
  wait_until 30 says "$namespace" appka 'FailedCreate: .*violates PodSecurity' || fail "refused: $(failures "$report")" || return
  found "$report" pods-wanted
}

# Nodes that join themselves are as many clusters; a policy that lets no remoting in is found beside it.
scenario_two_pekko_clusters_are_a_split() {
  fresh_namespace && load_pekko || return
  local report said
  deploy_pekko 2 2 split || return
  kubectl apply --filename - <<'END' || return
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: appka}
spec:
  podSelector: {matchLabels: {app: appka}}
  policyTypes: [Ingress]
  ingress:
  - ports: [{port: 8558}]
END
  wait_until 60 all_are_ready 2 || fail "the nodes do not start: $(kubectl get pods)" || return
  report=$(bypassctl check cluster --namespace "$namespace" --output json) && fail "a split is called well" && return 1
  found "$report" one-cluster network-policy-remoting || return
  said=$(bypassctl status --namespace "$namespace") && fail "a split is well" && return 1
  [[ $said == *'has split into 2 clusters of system appka'* ]] || fail "status: $said"
}

load_pekko() {
  local archive
  archive=$("$here/images/app" pekko) || fail "there is no image" || return
  load_image "$archive" || fail "the image is not taken"
}

# deploy_pekko REPLICAS CONTACT_POINTS [split] – in $namespace; split: each node founds a cluster of its own.
deploy_pekko() {
  # shellcheck disable=SC2016  # Kubernetes expands it
  local self='s|^\( *\)- bypassctl.testapp|\1- -Dpekko.cluster.seed-nodes.0=pekko://appka@$(POD_IP):2552\n&|'
  sed -e "s/NAMESPACE/$namespace/; s/REPLICAS/$1/; s/CONTACT_POINTS/$2/" "$here/manifests/pekko.yaml" |
    if [[ ${3-} == split ]]; then sed -e "$self" -e 's/APP_BOOTSTRAP, value: "on"/APP_BOOTSTRAP, value: "off"/'; else cat; fi |
    kubectl apply --filename -
}

all_are_ready() {
  [[ $(kubectl get deployment appka --output 'jsonpath={.status.readyReplicas}') == "$1" ]]
}

# management_answers NAMESPACE COUNT – it listens before the node has joined anything.
management_answers() {
  count_of "$(bypassctl check cluster --namespace "$1" --output json)" management-answers pass "$2"
}

# freeze POD – its processes, as a machine without a moment's time would.
freeze() {
  local id
  id=$(kubectl get pod "$1" --output 'jsonpath={.status.containerStatuses[0].containerID}')
  in_node 1 tasks pause "${id#containerd://}"
}

is_unreachable() {
  [[ $(bypassctl status --namespace "$namespace") == *"✗ $1 is unreachable from"* ]]
}

is_left_out() {
  local said
  said=$(bypassctl status --namespace "$namespace") && return 1
  [[ $said == *', 2 members,'*"✗ $1 runs, and is no member of the cluster that the others see"* ]]
}

# failures REPORT – as code: message.
failures() {
  python3 -c 'import json, sys
for check in json.loads(sys.argv[1])["checks"]:
    if check["status"] == "fail": print(check["code"] + ": " + check["message"])' "$1"
}

# found REPORT CODE... – these have failed, and no others.
found() {
  local report=$1 seen wanted
  shift
  seen=$(failures "$report" | cut -d: -f1 | sort -u | tr '\n' ' ')
  wanted=$(printf '%s\n' "$@" | sort -u | tr '\n' ' ')
  [[ $seen == "$wanted" ]] || fail "wanted $wanted, found $(failures "$report")"
}

# count_of REPORT CODE STATUS COUNT
count_of() {
  python3 -c 'import json, sys
checks = json.loads(sys.argv[1])["checks"]
sys.exit(sum(check["code"] == sys.argv[2] and check["status"] == sys.argv[3] for check in checks) != int(sys.argv[4]))' "$@" 2>/dev/null
}

# holds JSON EXPRESSION – of Python, with s for what was read.
holds() {
  python3 -c 'import json, sys
sys.exit(not eval(sys.argv[2], {"s": json.loads(sys.argv[1])}))' "$1" "$2"
}
