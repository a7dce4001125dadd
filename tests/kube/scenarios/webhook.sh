# The admission webhook, called by the real API server. It runs on this machine; the Service's address is put on lo for it,
# since without nodes nobody routes Services.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# Two replicas with the chart's command line and rights share one certificate, tell the API server of it, and inject what is created.
scenario_the_webhook_injects_what_is_created() {
  with_webhook webhook_serves
}

# with_webhook COMMAND... – with the chart applied and an address for its Service.
with_webhook() {
  webhook_setting || return
  "$@"
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

# Beside an injector that does what Istio's does, whose configuration the API server calls before ours or after it, with a proxy
# that is an ordinary container or a native sidecar, and which is called again or not: the agent is there once and whole, its rules
# come before the app, and what starts and keeps it asks it and not the mesh's proxy.
scenario_the_webhook_works_before_and_after_istios() {
  with_webhook beside_istio
}

beside_istio() {
  local name kind again expected cases=0
  start_hook 1 "$service_address"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=istiod -addext subjectAltName=IP:127.0.0.1 \
    -keyout "$scratch/istiod.key" -out "$scratch/istiod.crt" 2>/dev/null || fail "no certificate for the other webhook" || return
  local port=18443
  helper other.log python3 "$here/other_webhook.py" "$port" "$scratch/istiod.crt" "$scratch/istiod.key"
  wait_until 20 hook_is_ready "$service_address" || fail "not ready" || return
  wait_until 10 curl --silent --max-time 2 --output /dev/null --cacert "$scratch/istiod.crt" "https://127.0.0.1:$port/" ||
    fail "the other webhook does not answer: $(<"$scratch/other.log")" || return
  # Configurations are called in the order of their names, and ours begins with x-.
  while read -r name kind again expected <&3; do
    other_configuration "$name" "$kind" "$again" "$port" || return
    injected_by_both "$name-$kind-${again,,}" "$expected" || return
    kubectl delete mutatingwebhookconfiguration "$name-$namespace" >/dev/null || return
    ((cases += 1))
  done 3<<'END'
a-istio classic Never bypassctl-init,bypassctl,first,istio-init/app,istio-proxy
a-istio classic IfNeeded bypassctl-init,bypassctl,first,istio-init/app,istio-proxy
z-istio classic Never bypassctl-init,bypassctl,first,istio-init/app,istio-proxy
z-istio classic IfNeeded bypassctl-init,bypassctl,first,istio-init/app,istio-proxy
a-istio native Never bypassctl-init,bypassctl,istio-init,istio-proxy,first/app
a-istio native IfNeeded istio-init,istio-proxy,bypassctl-init,bypassctl,first/app
z-istio native Never istio-init,istio-proxy,bypassctl-init,bypassctl,first/app
z-istio native IfNeeded istio-init,istio-proxy,bypassctl-init,bypassctl,first/app
END
  detail "cases=$cases"
  # Ours was called again for what theirs changed after it, and left it.
  curl --silent "http://$service_address:15551/metrics" | grep -qE 'reviews_total\{verdict="untouched"\} [1-9]' ||
    fail "it was never called again" || return
  ((cases == 8)) || fail "there were $cases cases"
}

# other_configuration NAME classic|native Never|IfNeeded PORT – and until it is called.
other_configuration() {
  kubectl create --filename - >/dev/null <<END || return
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: $1-$namespace}
webhooks:
- name: sidecar-injector.istio.io
  clientConfig: {url: "https://127.0.0.1:$4/$2", caBundle: $(base64 --wrap 0 "$scratch/istiod.crt")}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $namespace}}
  sideEffects: None
  reinvocationPolicy: $3
  admissionReviewVersions: [v1]
END
  wait_until 20 other_is_called || fail "the other webhook is not called" || return
}

# API servers hear of a new configuration by a watch.
other_is_called() {
  kubectl run asked --image x --dry-run=server --output 'jsonpath={.metadata.annotations}' | grep -q sidecar.istio.io
}

# injected_by_both NAME INIT,…/CONTAINER,…
injected_by_both() {
  local pod
  kubectl create --filename - >/dev/null <<END || fail "$1: a pod is refused" || return
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  initContainers: [{name: first, image: first:1}]
  containers:
  - name: app
    image: app:1
    ports: [{name: management, containerPort: 8558}]
    readinessProbe: {httpGet: {path: /ready, port: management}}
END
  pod=$(kubectl get pod "$1" --output json) || return
  python3 -c "$judge_both" "$2" <<<"$pod" || fail "$1: $pod"
}

# What startup and liveness ask does not depend on the mesh's proxy, which may start after us; what the proxy was given to ask, it knows.
judge_both='
import json, sys
pod = json.load(sys.stdin)
init, apps = pod["spec"]["initContainers"], pod["spec"]["containers"]
names = "/".join(",".join(container["name"] for container in list) for list in (init, apps))
assert names == sys.argv[1], f"{names}, and not {sys.argv[1]}"
by_name = {container["name"]: container for container in init + apps}
ours = by_name["bypassctl"]
for probe in ("startupProbe", "livenessProbe"):
    assert ours[probe]["exec"]["command"][0] == "bypassctl", ours[probe]
known = json.loads({entry["name"]: entry for entry in by_name["istio-proxy"]["env"]}["ISTIO_KUBE_APP_PROBERS"]["value"])
assert by_name["app"]["readinessProbe"]["httpGet"] == {"path": "/app-health/app/readyz", "port": 15020, "scheme": "HTTP"}
assert known["/app-health/app/readyz"]["httpGet"]["port"] == 8558, known
asked = ours["readinessProbe"]["httpGet"]
if asked["port"] == 15020:
    asked = known[asked["path"]]["httpGet"]
assert (asked["path"], asked["port"]) == ("/ready", 15550), asked
assert [volume["name"] for volume in pod["spec"]["volumes"]].count("bypassctl-tls") == 1, pod["spec"]["volumes"]
'
