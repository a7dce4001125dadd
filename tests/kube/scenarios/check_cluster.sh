# check cluster and status against a real API: what is not there, what may not be read, and what is told of it.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# A user who may list pods alone gets an answer: what it may not read is named and skipped, and nothing fails for it.
scenario_a_forbidden_list_is_skipped_by_name() {
  fresh_namespace || return
  run_web || return
  create_user viewer && allow viewer get,list pods || fail "no user" || return
  wait_until 10 as_user viewer kubectl get pods || fail "it may not read pods" || return
  local report
  report=$(as_user viewer bypassctl check cluster --namespace "$namespace" --fail-on error --output json)
  local code=$?
  ((code == 0)) || fail "exit code $code: $report" || return
  [[ $report == *"cannot list roles in namespace $namespace: forbidden for system:serviceaccount:$namespace:viewer"* ]] ||
    fail "it does not say what it could not see: $report" || return
  [[ $report != *'cannot list pods'* ]] || fail "it does not see what it may see: $report"
}

# Each kind of workload is listed by itself: who may list Deployments alone is told of them, and which kinds are hidden.
scenario_a_kind_that_may_be_listed_is_judged() {
  fresh_namespace || return
  kubectl create deployment cart --image test --port 8558 || return
  create_user viewer && allow viewer get,list pods,deployments.apps || fail "no user" || return
  wait_until 10 as_user viewer kubectl get deployments || fail "it may not read" || return
  local report kind
  report=$(as_user viewer bypassctl check cluster --namespace "$namespace" --output json)
  [[ $report == *'"code":"probe-readiness","severity":"warning","status":"fail","object":"Deployment/'"$namespace/cart"* ]] ||
    fail "what may be read is not judged: $report" || return
  for kind in statefulsets daemonsets jobs cronjobs; do
    [[ $report == *"cannot list $kind in namespace $namespace: forbidden for"* ]] || fail "$kind: $report" || return
  done
}

# Who may see nothing is told so, and that is no health.
scenario_what_nobody_may_see_is_not_healthy() {
  fresh_namespace || return
  create_user viewer || fail "no user" || return
  local report code
  report=$(as_user viewer bypassctl check cluster --namespace "$namespace" --output short)
  code=$?
  [[ $code == 1 && $report == *'nothing at all was judged'* ]] || fail "exit code $code: $report"
}

# A name that would be another address is refused before anybody is asked.
scenario_a_namespace_that_is_none_is_refused() {
  local what said
  for what in 'check cluster' 'check pre' status; do
    # shellcheck disable=SC2086  # two words
    said=$(bypassctl $what --namespace %73hop 2>&1)
    (($? == 2)) && [[ $said == *'"%73hop" is no namespace'* ]] || fail "$what: $said" || return
  done
}

# The administrator sees everything, so nothing is skipped for want of rights.
scenario_an_administrator_reads_everything() {
  fresh_namespace || return
  run_web || return
  local report
  report=$(bypassctl check cluster --namespace "$namespace" --output json)
  [[ $report == *'"code":"cluster-readable","severity":"info","status":"pass"'* ]] || fail "not all is read: $report"
}

# What is not there is a usage error that names it.
scenario_what_is_not_there_is_named() {
  fresh_namespace || return
  local said
  said=$(bypassctl check cluster --namespace no-such-namespace 2>&1)
  (($? == 2)) && [[ $said == *'no namespace no-such-namespace'* ]] || fail "of the namespace: $said" || return
  said=$(bypassctl check cluster --namespace "$namespace" deployment/shop 2>&1)
  (($? == 2)) && [[ $said == *"no Deployment shop in namespace $namespace"* ]] || fail "of the workload: $said" || return
  said=$(bypassctl check cluster --context no-such-context 2>&1)
  (($? == 2)) && [[ $said == *'has no context "no-such-context"'* ]] || fail "of the context: $said" || return
}

# A server that is not there, and one that does not know us, are runtime failures with their reason.
scenario_a_server_that_does_not_answer_is_named() {
  local said
  kubectl config view --raw --minify | sed 's|server: .*|server: https://127.0.0.1:1|' >"$scratch/nobody"
  said=$(bypassctl check cluster --kubeconfig "$scratch/nobody" 2>&1)
  (($? == 5)) && [[ $said == *'https://127.0.0.1:1'*'cannot be reached'*refused* ]] || fail "nobody there: $said" || return
  write_kubeconfig "$scratch/stranger" '{token: nonsense}'
  said=$(bypassctl check cluster --kubeconfig "$scratch/stranger" 2>&1)
  (($? == 5)) && [[ $said == *401* ]] || fail "a stranger: $said" || return
}

# A pod whose management does not answer is no healthy cluster, and status says why.
scenario_a_cluster_that_says_nothing_is_not_well() {
  fresh_namespace || return
  run_web || return
  local said
  said=$(bypassctl status --namespace "$namespace" --output json)
  (($? == 1)) && [[ $said == *'"well":false'*'no pod says what it sees'* ]] || fail "it is called well: $said" || return
}

# --watch without a terminal goes on: one object after another, until it is told to end, although a look takes seconds where
# nobody answers.
scenario_a_watched_cluster_is_told_again_and_again() {
  fresh_namespace || return
  run_web && run_pod web 10.0.0.8 || return
  env --ignore-environment HOME="$scratch" KUBECONFIG="$KUBECONFIG" setpriv --pdeathsig KILL "$agent_binary" \
    status --namespace "$namespace" --watch=1 --output json >"$scratch/watched" 2>&1 </dev/null 9>&- &
  local pid=$! code
  wait_until 30 has_lines 3 "$scratch/watched" || fail "it tells once: $(<"$scratch/watched")" || return
  # A shell's background process ignores SIGINT.
  kill -TERM "$pid"
  wait "$pid"
  code=$?
  [[ $(sed 's/^{.*"well":false.*/unwell/' "$scratch/watched" | sort -u) == unwell ]] || fail "it tells: $(<"$scratch/watched")" || return
  detail "code=$code"
}

has_lines() {
  (($(wc -l <"$2") >= $1))
}

run_web() {
  kubectl run web --image test --port 8558
}

# An AkkaCluster object is judged like a Deployment where its kind is there, and where it is not, nobody misses it: not even
# who may list little.
scenario_akka_clusters_are_judged_where_there_are_any() {
  fresh_namespace || return
  run_web || return
  create_user viewer && allow viewer get,list pods,deployments.apps,statefulsets.apps,daemonsets.apps,jobs.batch,cronjobs.batch ||
    fail "no user" || return
  wait_until 10 as_user viewer kubectl get cronjobs || fail "it may not read" || return
  local report
  report=$(as_user viewer bypassctl check cluster --namespace "$namespace" --output json)
  [[ $report != *akkaclusters* && $report != *'cannot list deployments'* ]] || fail "without the kind: $report" || return
  kubectl apply --filename - <<'END' && kubectl wait --for condition=Established --timeout 20s crd/akkaclusters.app.lightbend.com || return
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: akkaclusters.app.lightbend.com}
spec:
  group: app.lightbend.com
  scope: Namespaced
  names: {kind: AkkaCluster, listKind: AkkaClusterList, plural: akkaclusters, singular: akkacluster}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
END
  kubectl apply --filename - <<'END' || return
apiVersion: app.lightbend.com/v1alpha1
kind: AkkaCluster
metadata: {name: shop}
spec:
  replicas: 3
  template:
    spec:
      containers:
      - name: shop
        image: shop:1
        ports: [{name: remoting, containerPort: 2552}, {name: management, containerPort: 8558}]
        livenessProbe: {httpGet: {path: /alive, port: management}, failureThreshold: 10}
END
  report=$(bypassctl check cluster --namespace "$namespace" --output json)
  [[ $report == *'"code":"probe-readiness","severity":"'*'","status":"fail","object":"AkkaCluster/'"$namespace/shop"* ]] ||
    fail "the object is not judged: $report" || return
  report=$(as_user viewer bypassctl check cluster --namespace "$namespace" --output json)
  [[ $report == *"cannot list akkaclusters in namespace $namespace: forbidden for"* ]] || fail "forbidden: $report"
}
