# Credentials by CertificateSigningRequests. The sidecar runs on this machine, with the rights of a service account; approver and
# signer are kubectl and openssl.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# Without the right to ask the sidecar waits and says what it lacks; denied it says so and asks anew; what is signed for another
# key is not used; once approved and signed it is ready, has the service account's identity, and leaves no object behind. At half
# of its certificate's time it asks for the next by itself, and stays ready.
scenario_a_sidecar_has_its_request_signed() {
  fresh_namespace && create_user cart || return
  local admin=127.0.0.77 role=bypassctl-csr-$namespace name
  authority "$scratch/ca" || fail "no authority" || return
  helper sidecar.log env --ignore-environment KUBECONFIG="$(user_kubeconfig cart)" "$agent_binary" proxy \
    --csr-signer example.com/remoting --tls-ca "$scratch/ca.crt" --trust-domain mesh.example \
    --bind-address "$admin" --outbound-target 127.0.0.79:2552 --inbound-target 127.0.0.79:2552
  wait_until 20 not_ready_for "$admin" 'may not create it' || fail "it does not say what it lacks: $(tail -n 3 "$scratch/sidecar.log")" || return
  no_requests || fail "it asked without the right" || return

  kubectl create clusterrole "$role" --verb create,get,delete --resource certificatesigningrequests.certificates.k8s.io >/dev/null &&
    kubectl create clusterrolebinding "$role" --clusterrole "$role" --serviceaccount "$namespace:cart" >/dev/null || return
  decide_and_see "$admin" "$role"
  local result=$?
  kubectl delete clusterrole,clusterrolebinding "$role" --ignore-not-found >/dev/null
  return "$result"
}

decide_and_see() {
  local admin=$1 name status
  wait_until 40 pending_request || fail "no request: $(tail -n 3 "$scratch/sidecar.log")" || return
  name=$(pending)
  status=$(kubectl get csr "$name" --output 'jsonpath={.spec.signerName} {.spec.usages} {.spec.expirationSeconds} {.spec.username}')
  [[ $status == 'example.com/remoting ["digital signature","client auth","server auth"] 86400 system:serviceaccount:'$namespace:cart ]] ||
    fail "it asks for $status" || return
  wait_until 30 not_ready_for "$admin" "kubectl certificate approve $name" || fail "it does not say that it waits" || return
  kubectl certificate deny "$name" >/dev/null || return
  wait_until 30 not_ready_for "$admin" "$name was denied" || fail "it does not say that it was denied" || return
  wait_until 10 gone "$name" || fail "a denied request is left behind" || return

  wait_until 40 pending_request || fail "it does not ask again" || return
  name=$(pending)
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$scratch/other.key" -subj / \
    -addext "subjectAltName=URI:spiffe://mesh.example/ns/$namespace/sa/cart" -out "$scratch/other.csr" || return
  approve_and_sign "$name" "$scratch/other.csr" || return
  wait_until 30 not_ready_for "$admin" 'not for the key that we asked for' || fail "another key's certificate passes" || return

  wait_until 60 pending_request || fail "it does not ask again after a bad answer" || return
  name=$(pending)
  kubectl get csr "$name" --output 'jsonpath={.spec.request}' | base64 --decode >"$scratch/own.csr" || return
  approve_and_sign "$name" "$scratch/own.csr" 60 || return
  wait_until 20 is_ready "$admin" || fail "it is not ready: $(tail -n 3 "$scratch/sidecar.log")" || return
  curl --silent --max-time 2 "http://$admin:15550/status" | grep -q "spiffe://mesh.example/ns/$namespace/sa/cart" ||
    fail "it has another identity" || return
  wait_until 10 gone "$name" || fail "a signed request is left behind" || return
  renewed "$admin" || return
  ! grep -q 'PRIVATE KEY' "$scratch/sidecar.log" || fail "a key in the log"
}

# The certificate lasts a minute: the next is asked for in time.
renewed() {
  local before name
  before=$(serial "$1")
  wait_until 50 pending_request || fail "it does not renew" || return
  name=$(pending)
  is_ready "$1" || fail "it is not ready while it renews" || return
  kubectl get csr "$name" --output 'jsonpath={.spec.request}' | base64 --decode >"$scratch/next.csr" || return
  ! cmp --silent "$scratch/own.csr" "$scratch/next.csr" || fail "it asks for the same key again" || return
  approve_and_sign "$name" "$scratch/next.csr" || return
  wait_until 20 has_other_serial "$1" "$before" || fail "the renewed certificate is not used: $(tail -n 3 "$scratch/sidecar.log")" || return
  is_ready "$1" || fail "it is not ready with the renewed certificate"
}

serial() {
  curl --silent --max-time 2 "http://$1:15550/status" | python3 -c 'import json, sys; print(json.load(sys.stdin)["credentials"]["chain"][0]["serial"])'
}

has_other_serial() {
  local now
  now=$(serial "$1") && [[ -n $now && $now != "$2" ]]
}

# authority PREFIX – a key and a certificate of its own.
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.crt" -days 1 \
    -subj '/CN=remoting CA'
}

# approve_and_sign NAME REQUEST [SECONDS] – as approver and signer, which checks nothing; for a day, or as long as that.
approve_and_sign() {
  local certificate
  kubectl certificate approve "$1" >/dev/null || return
  : >"$scratch/issued"
  cat >"$scratch/ca.conf" <<END || return
[ca]
default_ca = remoting
[remoting]
database = $scratch/issued
new_certs_dir = $scratch
default_md = sha256
copy_extensions = copy
rand_serial = yes
policy = any
[any]
commonName = optional
END
  openssl ca -batch -notext -config "$scratch/ca.conf" -cert "$scratch/ca.crt" -keyfile "$scratch/ca.key" -subj /CN=remoting \
    -enddate "$(date --utc --date "+${3:-86400} seconds" +%Y%m%d%H%M%SZ)" -in "$2" -out "$scratch/signed.crt" || return
  certificate=$(base64 --wrap 0 "$scratch/signed.crt")
  kubectl patch csr "$1" --subresource status --type merge \
    --patch "{\"status\": {\"certificate\": \"$certificate\"}}" >/dev/null
}

# What nobody has approved or denied yet.
pending() {
  kubectl get csr --selector app.kubernetes.io/managed-by=bypassctl \
    --output 'jsonpath={range .items[*]}{.metadata.name} {.status.conditions[*].type}{"\n"}{end}' | awk 'NF == 1 { print $1; exit }'
}

pending_request() {
  [[ -n $(pending) ]]
}

no_requests() {
  [[ -z $(kubectl get csr --selector app.kubernetes.io/managed-by=bypassctl --output name) ]]
}

gone() {
  ! kubectl get csr "$1" >/dev/null 2>&1
}

is_ready() {
  curl --silent --fail --max-time 2 "http://$1:15550/ready" >/dev/null
}

# not_ready_for ADMIN TEXT – with the reason.
not_ready_for() {
  local answer
  answer=$(curl --silent --max-time 2 --write-out ' %{http_code}' "http://$1:15550/ready")
  [[ $answer == *"$2"* && $answer == *503 ]]
}
