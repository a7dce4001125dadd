# What a sidecar tells Kubernetes of its pod. The sidecar runs on this machine, for a pod that is said to run.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# With the rights that docs/inject.md names it sets its pod's condition and makes events that kubectl describe shows; without
# them it serves on and says what it lacks.
scenario_a_sidecar_tells_of_its_pod() {
  fresh_namespace && create_user agent || return
  kubectl create --filename - >/dev/null <<END || return
apiVersion: v1
kind: Pod
metadata: {name: cart-0}
spec: {serviceAccountName: agent, readinessGates: [{conditionType: bypassctl.io/remoting-ready}], containers: [{name: cart, image: x}]}
END
  run_pod cart-0 10.0.0.1 || return
  make_pair "$scratch/tls" || fail "no certificate" || return
  local sidecar=127.0.0.78
  start_announcer "$sidecar"
  wait_until 20 sidecar_is_ready "$sidecar" || fail "the sidecar is not ready without rights: $(tail -n 3 "$scratch/sidecar.log")" || return
  wait_until 20 grep -q 'needs patch on pods/status' "$scratch/sidecar.log" || fail "it does not say what it lacks" || return

  kubectl create role agent --verb create,patch --resource events.events.k8s.io >/dev/null &&
    kubectl create rolebinding agent --role agent --serviceaccount "$namespace:agent" >/dev/null &&
    allow agent patch pods/status || return
  wait_until 30 condition_is True || fail "the condition is not set: $(tail -n 3 "$scratch/sidecar.log")" || return

  # A peer without a certificate is refused, and the pod's events say so.
  wait_until 30 refused_and_told "$sidecar" || fail "no event: $(kubectl describe pod cart-0 | tail -n 5)" || return
  wait_until 10 described 'RemotingCertificateEndsSoon' || fail "no event of the certificate" || return

  # Stopping, it is not ready, and says so before it ends.
  kill -TERM "${helpers[-1]}"
  wait_until 20 condition_is False || fail "it leaves a condition that is not true"
}

start_announcer() {
  local uid
  uid=$(kubectl get pod cart-0 --output 'jsonpath={.metadata.uid}')
  helper sidecar.log env --ignore-environment KUBECONFIG="$(user_kubeconfig agent)" POD_NAME=cart-0 \
    POD_NAMESPACE="$namespace" POD_UID="$uid" "$agent_binary" proxy --events --readiness-gate --tls-dir "$scratch/tls" \
    --bind-address "$1" --outbound-target 127.0.0.79:2552 --inbound-target 127.0.0.79:2552 --drain-timeout 3
}

sidecar_is_ready() {
  curl --silent --fail --max-time 2 "http://$1:15550/ready" >/dev/null
}

# make_pair DIRECTORY – a certificate that its own authority signed, in its last day.
make_pair() {
  mkdir -p "$1"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1/ca.key" -out "$1/ca.crt" -days 1 \
    -subj /CN=test &&
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1/tls.key" -out "$1/tls.csr" \
      -subj /CN=cart &&
    openssl x509 -req -in "$1/tls.csr" -CA "$1/ca.crt" -CAkey "$1/ca.key" -CAcreateserial -out "$1/tls.crt" \
      -days 1 -extfile <(echo 'subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/cart')
}

condition_is() {
  [[ $(kubectl get pod cart-0 --output 'jsonpath={.status.conditions[?(@.type=="bypassctl.io/remoting-ready")].status}') == "$1" ]]
}

described() {
  kubectl describe pod cart-0 | grep -q "$1"
}

refused_and_told() {
  openssl s_client -connect "$1:15553" </dev/null >/dev/null 2>&1
  described 'RemotingPeerRefused.*127.0.0.1 was refused'
}
