# The cluster itself: what the other scenarios stand on.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# It is the Kubernetes that we say, and a pod that somebody makes is really taken, checked, and waits for a node.
scenario_server_is_ready() {
  local version reason
  version=$(kubectl version --output yaml | sed -n '/serverVersion/,$s/ *gitVersion: //p')
  detail "version=$version"
  [[ $version == v1.35.* ]] || fail "another version" || return
  fresh_namespace || return
  kubectl run waiting --image test || fail "no pod can be made" || return
  wait_until 20 has_condition waiting PodScheduled || fail "the scheduler does not look at the pod" || return
  reason=$(kubectl get pod waiting --output 'jsonpath={.status.conditions[?(@.type=="PodScheduled")].reason}')
  [[ $reason == Unschedulable ]] || fail "without a node the pod is '$reason'" || return
  ! kubectl run Not_a_name --image test || fail "a name that is none was taken"
}

has_condition() {
  [[ -n $(kubectl get pod "$1" --output "jsonpath={.status.conditions[?(@.type=='$2')].status}") ]]
}

# What a kubelet would say of a pod can be said for it, and a Service then finds the pod.
scenario_pods_can_be_said_to_run() {
  fresh_namespace || return
  kubectl run web --image test --port 8558 || return
  run_pod web 10.0.0.7 || fail "the status was refused" || return
  kubectl wait --for condition=Ready pod/web --timeout 10s || fail "the pod is not ready" || return
  kubectl expose pod web || return
  wait_until 20 endpoint_is 10.0.0.7 || fail "the Service has no endpoint"
}

endpoint_is() {
  [[ $(kubectl get endpointslices --output 'jsonpath={.items[*].endpoints[*].addresses[*]}') == "$1" ]]
}
