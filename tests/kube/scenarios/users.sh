# Users with few rights. What a scenario about them proves rests on the API refusing the rest.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# A user may do what it was allowed to, in its own namespace, and nothing else; it can ask what that is.
scenario_a_user_may_what_it_is_allowed_to() {
  fresh_namespace || return
  create_user reader || fail "no user" || return
  kubectl run web --image test || return
  ! as_user reader kubectl get pods || fail "it reads pods without leave" || return
  allow reader get,list pods || fail "no role" || return
  wait_until 10 may reader list pods || fail "it may not read pods" || return
  [[ $(as_user reader kubectl get pods --output name) == pod/web ]] || fail "it does not see the pod" || return
  local refused
  refused=$(as_user reader kubectl get secrets 2>&1) && fail "it reads secrets" && return 1
  [[ $refused == *'(Forbidden)'*'cannot list resource "secrets"'* ]] || fail "refused otherwise: $refused" || return
  ! may reader delete pods || fail "it may delete pods" || return
  ! as_user reader kubectl get pods --namespace default || fail "it reads another namespace"
}

# may NAME VERB RESOURCE – as the API itself answers (SelfSubjectAccessReview).
may() {
  as_user "$1" kubectl auth can-i "$2" "$3" --quiet
}

# A certificate that the cluster signed on request makes a user too.
scenario_a_signed_request_makes_a_user() {
  local key=$scratch/user.key request certificate
  request=$(openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$key" -subj /CN=ann/O=shop |
    base64 --wrap 0)
  kubectl apply --filename - <<END || fail "the request was refused" || return
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: ann}
spec: {signerName: kubernetes.io/kube-apiserver-client, request: $request, usages: [client auth], expirationSeconds: 3600}
END
  kubectl certificate approve ann || return
  wait_until 20 is_signed || fail "nobody signs it" || return
  certificate=$scratch/user.crt
  kubectl get csr ann --output 'jsonpath={.status.certificate}' | base64 --decode >"$certificate"
  write_kubeconfig "$scratch/ann" "{client-certificate: $certificate, client-key: $key}"
  [[ $(kubectl --kubeconfig "$scratch/ann" auth whoami --output 'jsonpath={.status.userInfo.username}') == ann ]] ||
    fail "the API does not know the user"
}

is_signed() {
  [[ -n $(kubectl get csr ann --output 'jsonpath={.status.certificate}') ]]
}
