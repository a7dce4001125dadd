# etcd, the API server, the controller manager and the scheduler.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

bridge_address=10.200.0.1
service_network=10.96.0.0/16
api_service_address=10.96.0.1

# Below the ephemeral range, so that no outgoing connection has it; from a place that depends on the process, so that two
# that start at once look in different ones.
free_port() {
  local port=$((20000 + ($$ * 7 + next_port) % 10000))
  ((next_port += 1))
  while [[ -n $(ss --no-header --listening --tcp --numeric "sport = :$port") ]]; do
    ((port += 1))
  done
  chosen_port=$port
}

choose_ports() {
  next_port=0
  free_port && etcd_port=$chosen_port
  free_port && etcd_peer_port=$chosen_port
  free_port && api_port=$chosen_port
}

start_etcd() {
  local clients=http://127.0.0.1:$etcd_port peers=http://127.0.0.1:$etcd_peer_port
  start etcd etcd --name test --data-dir "$state/etcd" --listen-client-urls "$clients" --advertise-client-urls "$clients" \
    --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "test=$peers"
}

# start_apiserver NODES: with nodes it calls webhooks in their pods, since nobody on this machine routes Services.
start_apiserver() {
  local routing=false
  (($1 == 0)) || routing=true
  start apiserver "$kubernetes/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" \
    --bind-address="$api_address" --secure-port="$api_port" --advertise-address="$bridge_address" \
    --endpoint-reconciler-type=lease --service-cluster-ip-range="$service_network" --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/tokens.pub" \
    --service-account-signing-key-file="$pki/tokens.key" --kubelet-preferred-address-types=InternalIP \
    --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" --kubelet-client-key="$pki/apiserver-to-kubelet.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --enable-aggregator-routing="$routing"
}

# One of each, and nobody has to elect it. They serve nothing: --secure-port=0. start_controllers NODES: without any, pods
# are said to run on a node without a kubelet (run_pod), and nobody may miss it.
start_controllers() {
  local kubeconfigs=$state/kubeconfigs controllers='*'
  (($1 > 0)) || controllers+=,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller
  start controller-manager "$kubernetes/kube-controller-manager" --kubeconfig="$kubeconfigs/controller-manager" \
    --controllers="$controllers" --secure-port=0 --leader-elect=false --use-service-account-credentials=true --root-ca-file="$pki/ca.crt" \
    --service-account-private-key-file="$pki/tokens.key" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
  start scheduler "$kubernetes/kube-scheduler" --kubeconfig="$kubeconfigs/scheduler" --secure-port=0 --leader-elect=false
}

# as_admin ARGUMENT... – kubectl, whatever KUBECONFIG says.
as_admin() {
  "$kubernetes/kubectl" --kubeconfig "$state/kubeconfigs/admin" "$@"
}

api_is_ready() {
  as_admin get --raw /readyz >/dev/null 2>&1
}

api_is_ready_or_dead() {
  api_is_ready || ! is_running apiserver || ! is_running etcd
}

# It comes from the controller manager, and no pod is admitted before it is there.
default_account_exists() {
  as_admin --namespace default get serviceaccount default >/dev/null 2>&1
}

# blame PROCESS WHAT – with the end of its log, which nobody else is going to read.
blame() {
  tail -n 20 "$logs/$1.log" >&2
  die "$2; above is the end of $1's log" 5
}

# start_control_plane NODES
start_control_plane() {
  start_etcd
  start_apiserver "$1"
  wait_until 120 api_is_ready_or_dead
  is_running etcd || blame etcd "etcd has ended"
  api_is_ready || blame apiserver "the API server does not become ready"
  start_controllers "$1"
  wait_until 60 default_account_exists || blame controller-manager "the controller manager makes no service account"
}
