# The admission webhook, called by the real API server. It runs on this machine; the Service's address is put on lo for it,
# since without nodes nobody routes Services.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# Two replicas with the chart's command line and rights share one certificate, tell the API server of it, and inject what is created.
scenario_the_webhook_injects_what_is_created() {
  webhook_setting || return
  webhook_serves "$@"
  local result=$?
  ip address del "$service_address/32" dev lo
  kubectl delete mutatingwebhookconfiguration,clusterrole,clusterrolebinding "$configuration" --ignore-not-found >/dev/null
  return $result
}

webhook_setting() {
  fresh_namespace && need_helm || return
  configuration=x-bypassctl-$namespace
  kubectl label namespace "$namespace" bypassctl.io/inject=enabled >/dev/null
  # As people install it, but for the pods, which nobody runs here: below are its command line and its rights.
  render "$scratch/chart.yaml" --set image.repository=bypassctl.test/bypassctl --set-string image.tag=1 &&
    kubectl apply --filename "$scratch/chart.yaml" >/dev/null || fail "the chart is not taken" || return
  mapfile -t hook_arguments < <(kubectl get deployment x-bypassctl-webhook \
    --output 'jsonpath={range .spec.template.spec.containers[0].args[*]}{@}{"\n"}{end}' | grep -v '^--listen=')
  service_address=$(kubectl get service x-bypassctl-webhook --output 'jsonpath={.spec.clusterIP}') || return
  ip address add "$service_address/32" dev lo || fail "no address for the service" || return
  write_kubeconfig "$scratch/hook" "{token: $(kubectl create token x-bypassctl-webhook --duration 1h)}" "$namespace"
}

# start_hook REPLICA ADDRESS – one of the webhook's processes.
start_hook() {
  helper "hook-$1.log" env --ignore-environment KUBECONFIG="$scratch/hook" "$agent_binary" "${hook_arguments[@]}" \
    --listen "$2:443"
}

hook_is_ready() {
  curl --silent --fail --max-time 2 "http://$1:15551/ready" >/dev/null
}

webhook_serves() {
  start_hook 1 "$service_address"
  start_hook 2 127.0.0.77
  local first=$!
  wait_until 20 hook_is_ready "$service_address" && wait_until 20 hook_is_ready 127.0.0.77 ||
    fail "not ready: $(curl --silent --max-time 2 "http://$service_address:15551/ready")" || return
  [[ $(served_serial "$service_address") == "$(served_serial 127.0.0.77)" ]] || fail "the replicas have two certificates" || return

  kubectl create deployment cart --image cart:1 >/dev/null || return
  wait_until 20 deployment_made_a_pod || fail "no pod of the Deployment: $(kubectl get events --output name | wc -l) events" || return
  local pod
  pod=$(kubectl get pods --selector app=cart --output json)
  [[ $(jq_of "$pod" 'x["spec"]["initContainers"][0]["name"]') == bypassctl-init ]] || fail "not injected: $pod" || return
  [[ $(jq_of "$pod" 'x["spec"]["initContainers"][1]["restartPolicy"]') == Always ]] || fail "no native sidecar" || return
  [[ $(jq_of "$pod" '[v["secret"]["secretName"] for v in x["spec"]["volumes"] if v["name"]=="bypassctl-tls"][0]') == cart-remoting-tls ]] ||
    fail "the secret is not named after the workload" || return

  local refused
  refused=$(kubectl run onhost --image x --overrides '{"spec": {"hostNetwork": true}}' 2>&1) && fail "hostNetwork is let in" && return 1
  [[ $refused == *'on the host network'*'bypassctl.io/inject: "false"'* ]] || fail "refused otherwise: $refused" || return
  kubectl run without --image x --annotations bypassctl.io/inject=false >/dev/null || fail "the way out is shut" || return
  [[ -z $(kubectl get pod without --output 'jsonpath={.spec.initContainers}') ]] || fail "injected against its will" || return
  # What inject changed before is left as it is.
  kubectl run twice --image x --dry-run=client --output yaml | bypassctl inject --image bypassctl.test/bypassctl:0 |
    kubectl create --filename - >/dev/null || fail "an injected pod is refused" || return
  [[ $(kubectl get pod twice --output 'jsonpath={.spec.initContainers[*].image}') == 'bypassctl.test/bypassctl:0 bypassctl.test/bypassctl:0' ]] ||
    fail "injected twice" || return
  # shellcheck disable=SC2016
  curl --silent "http://$service_address:15551/metrics" | grep -q 'bypassctl_webhook_reviews_total{verdict="refused"} 1' ||
    fail "the refusal is not counted" || return

  # Somebody applies the chart again: the root is put back, and nobody has to be called for it.
  kubectl patch mutatingwebhookconfiguration "$configuration" --type json \
    --patch '[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]' >/dev/null || return
  wait_until 30 kubectl run later --image x >/dev/null 2>&1 || fail "a reset configuration stays reset" || return

  # Stopped, a replica is not ready at once, answers for a while, and ends by itself.
  kill "$first"
  wait_until 3 not_ready 127.0.0.77 || fail "ready although it stops" || return
  wait_until 20 has_ended "$first" || fail "it does not end"
}

not_ready() {
  ! hook_is_ready "$1"
}

has_ended() {
  ! kill -0 "$1" 2>/dev/null
}

served_serial() {
  openssl s_client -connect "$1:443" </dev/null 2>/dev/null | openssl x509 -noout -serial
}

deployment_made_a_pod() {
  [[ -n $(kubectl get pods --selector app=cart --output name) ]]
}

# jq_of JSON EXPRESSION – of the first of a list, in Python's terms.
jq_of() {
  python3 -c "import json, sys; x = json.load(sys.stdin)['items'][0]; print($2)" <<<"$1"
}
