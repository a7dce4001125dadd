# Certificates of the cluster's parts, and the kubeconfigs that hold them.
# shellcheck shell=bash disable=SC2154  # the parts share variables

days=7

make_key() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"
}

make_ca() {
  make_key ca
  openssl req -x509 -new -key "$pki/ca.key" -subj /CN=kubernetes-ca -days "$days" -out "$pki/ca.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}

# issue NAME SUBJECT USAGE [SUBJECT ALTERNATIVE NAMES] – the subject's O is the group, its CN the user.
issue() {
  local name=$1 subject=$2 usage=$3 names=${4-}
  make_key "$name"
  openssl req -new -key "$pki/$name.key" -subj "$subject" |
    openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days "$days" -out "$pki/$name.crt" \
      -extfile <(
        echo "keyUsage=critical,digitalSignature,keyEncipherment"
        echo "extendedKeyUsage=$usage"
        [[ -z $names ]] || echo "subjectAltName=$names"
      ) 2>/dev/null
}

# Tokens of service accounts are signed by a key of their own.
make_token_key() {
  openssl genrsa -out "$pki/tokens.key" 2048 2>/dev/null
  openssl rsa -in "$pki/tokens.key" -pubout -out "$pki/tokens.pub" 2>/dev/null
}

# write_kubeconfig FILE USER-AS-YAML [NAMESPACE]
write_kubeconfig() {
  cat >"$1" <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$api_address:$api_port", certificate-authority: $pki/ca.crt}}]
users: [{name: user, user: $2}]
contexts: [{name: test, context: {cluster: test, user: user, namespace: ${3:-default}}}]
current-context: test
END
}

# kubeconfig NAME – of a part of the cluster that has a certificate.
kubeconfig() {
  write_kubeconfig "$state/kubeconfigs/$1" "{client-certificate: $pki/$1.crt, client-key: $pki/$1.key}"
}

make_pki() {
  local dns=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
  make_ca
  make_token_key
  issue apiserver /CN=kube-apiserver serverAuth \
    "IP:127.0.0.1,IP:$bridge_address,IP:$api_service_address,$dns,DNS:kubernetes.default.svc.cluster.local"
  issue apiserver-to-kubelet /O=system:masters/CN=apiserver clientAuth
  issue admin /O=system:masters/CN=admin clientAuth
  issue controller-manager /CN=system:kube-controller-manager clientAuth
  issue scheduler /CN=system:kube-scheduler clientAuth
  issue proxy /CN=system:kube-proxy clientAuth
  local name
  for name in admin controller-manager scheduler proxy; do
    kubeconfig "$name"
  done
}
