# What a scenario can use. README.md has a table of it.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

helpers=() # process ids of what the scenario started in the background

seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100))
}

# Facts for the scenario's line: NAME=VALUE.
detail() {
  details+=("$@")
}

# Says why the scenario fails; use as `check || fail reason || return`.
fail() {
  details+=("FAILED: $*")
  return 1
}

# Makes a namespace of the scenario's own and says its name in $namespace, which is also kubectl's default then.
# It goes when the scenario ends.
fresh_namespace() {
  ((namespace_count += 1))
  namespace=${scenario//_/-}-$namespace_count
  kubectl create namespace "$namespace" >/dev/null || return
  kubectl config set-context --current --namespace "$namespace" >/dev/null
  namespaces+=("$namespace")
  # No pod is admitted before it is there.
  wait_until 30 has_default_account || fail "namespace $namespace has no default service account"
}

has_default_account() {
  kubectl get serviceaccount default >/dev/null 2>&1
}

# create_user NAME – a service account in $namespace that may do nothing, with a kubeconfig for as_user.
create_user() {
  local token
  kubectl create serviceaccount "$1" >/dev/null || return
  token=$(kubectl create token "$1" --duration 1h) || return
  write_kubeconfig "$(user_kubeconfig "$1")" "{token: $token}" "$namespace"
}

user_kubeconfig() {
  echo "$state/kubeconfigs/$namespace.$1"
}

# allow NAME VERB[,VERB...] RESOURCE[,RESOURCE...] – in $namespace. Pods' logs are pods/log, port-forward pods/portforward.
allow() {
  local role
  role=$1-$(tr ',/' '--' <<<"$2-$3")
  kubectl create role "$role" --verb "$2" --resource "$3" >/dev/null &&
    kubectl create rolebinding "$role" --role "$role" --serviceaccount "$namespace:$1" >/dev/null
}

# as_user NAME COMMAND... – kubectl, bypassctl or any other, with the rights of that user.
as_user() {
  local KUBECONFIG
  KUBECONFIG=$(user_kubeconfig "$1")
  export KUBECONFIG
  shift
  "$@"
}

# Nothing of our own environment may configure it, but for the kubeconfig.
bypassctl() {
  env --ignore-environment PATH="$PATH" HOME="$scratch" KUBECONFIG="$KUBECONFIG" "$agent_binary" "$@"
}

# The node of pods that are said to run. Nobody is scheduled to it.
need_node() {
  kubectl get node paper >/dev/null 2>&1 || kubectl create --filename - >/dev/null <<<'
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "paper"}, "spec": {"unschedulable": true}}'
}

# Binds the pod as a scheduler does; a Service wants to know the node of its pods.
bind_pod() {
  kubectl create --raw "/api/v1/namespaces/$namespace/pods/$1/binding" --filename - >/dev/null <<<'
    {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "'"$1"'"}, "target": {"kind": "Node", "name": "paper"}}'
}

# run_pod POD ADDRESS – there is no kubelet: says in a pod's status what one would, that it runs and is ready.
run_pod() {
  local containers
  need_node && bind_pod "$1" || return
  containers=$(kubectl get pod "$1" --output jsonpath='{range .spec.containers[*]}{.name}{"\n"}{end}' |
    sed 's/.*/{"name":"&","ready":true,"started":true,"restartCount":0,"image":"test","imageID":"test","state":{"running":{}}}/' |
    paste -sd,) || return
  kubectl patch pod "$1" --subresource status --patch "{\"status\": {\"phase\": \"Running\", \"podIP\": \"$2\",
    \"podIPs\": [{\"ip\": \"$2\"}], \"containerStatuses\": [$containers], \"conditions\": [
    {\"type\": \"Ready\", \"status\": \"True\"}, {\"type\": \"ContainersReady\", \"status\": \"True\"}]}}" >/dev/null
}

# helper LOG COMMAND... – in the background until the scenario ends; LOG lies in $scratch.
helper() {
  local log=$1
  shift
  setpriv --pdeathsig KILL "$@" >>"$scratch/$log" 2>&1 </dev/null 9>&- &
  helpers+=($!)
}

stop_helpers() {
  ((${#helpers[@]})) || return 0
  kill -KILL "${helpers[@]}" 2>/dev/null
  wait "${helpers[@]}" 2>/dev/null
  helpers=()
}

keep_logs() {
  local to=$failed_logs/$1
  rm -rf "$to"
  mkdir -p "$to"
  cp -r "$logs" "$scratch" "$to/"
  detail "logs: $to"
}

run_scenario() {
  local started_at verdict=PASS
  scenario=$1
  details=()
  namespaces=()
  namespace_count=0
  scratch=$state/scratch/$scenario
  mkdir -p "$scratch"
  # A copy: fresh_namespace changes the default namespace in it.
  cp "$state/kubeconfigs/admin" "$scratch/kubeconfig"
  export KUBECONFIG=$scratch/kubeconfig
  started_at=$(now_ms)
  "scenario_$scenario" >"$scratch/output" 2>&1 || verdict=FAIL
  stop_helpers
  details=("$(seconds_since "$started_at")s" "${details[@]}")
  if [[ $verdict == PASS ]]; then
    ((passed += 1))
  else
    ((failed += 1))
    keep_logs "$scenario"
    sed 's/^/  /' "$scratch/output" | tail -n 20
  fi
  # Not waited for: the next one has other namespaces.
  [[ -n $keep ]] || ((${#namespaces[@]} == 0)) || kubectl delete namespace --wait=false "${namespaces[@]}" >/dev/null
  echo "$verdict kube $scenario ${details[*]}"
}

run_scenarios() {
  local name
  PATH=$kubernetes:$PATH
  for name in "$@"; do
    run_scenario "$name"
  done
}
