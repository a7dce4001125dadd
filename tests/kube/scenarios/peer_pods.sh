# Peers held against the pods that the real API server knows. Both sidecars run on this machine; the pod that one of them
# stands for is a record, as there is no kubelet.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# With `--peer-address pod` a sidecar without the right to list pods is not ready and says so; with it, who is dialled has to
# have the address of a pod of its service account: not before the record is there, not once the address is another's.
scenario_who_is_dialled_is_held_against_its_pod() {
  fresh_namespace && create_user cart || return
  local peer=127.0.0.93
  bypassctl certs ca --dir "$scratch/ca" &&
    bypassctl certs issue --ca-dir "$scratch/ca" --dir "$scratch/tls" --spiffe-id "spiffe://cluster.local/ns/$namespace/sa/cart" ||
    fail "no certificates" || return
  helper app.log python3 -m http.server --bind "$peer" --directory "$scratch/tls" 8093
  helper far.log env --ignore-environment "$agent_binary" proxy --tls-dir "$scratch/tls" --bind-address "$peer" \
    --outbound-port 15792 --inbound-port 15793 --outbound-target 127.0.0.1:1 --inbound-target "$peer:8093"
  helper near.log env --ignore-environment KUBECONFIG="$(user_kubeconfig cart)" "$agent_binary" proxy --tls-dir "$scratch/tls" \
    --bind-address 127.0.0.92 --outbound-port 15791 --outbound-target "$peer:15793" --inbound-target 127.0.0.1:1 --peer-address pod
  wait_until 20 answers 'pods is forbidden' || fail "it does not say what it lacks: $(tail -n 3 "$scratch/near.log")" || return
  ! reach || fail "an unknown peer was reached" || return

  allow cart list,watch pods || return
  wait_until 45 answers '^ready' || fail "it is not ready: $(tail -n 3 "$scratch/near.log")" || return
  ! reach || fail "a peer without a pod was reached" || return
  grep -q "no pod of namespace $namespace has it" "$scratch/near.log" || fail "it does not say why: $(tail -n 3 "$scratch/near.log")" || return
  record cart-0 cart "$peer" || return
  wait_until 20 reach || fail "its pod is there, and it is not reached: $(tail -n 3 "$scratch/near.log")" || return

  kubectl delete pod cart-0 --grace-period 0 --force >/dev/null && record other-0 default "$peer" || return
  wait_until 20 fails_to_reach || fail "it is reached at another pod's address" || return
  # It may have been refused before the other pod's record was there.
  wait_until 20 is_refused_as_the_other_pods || fail "/status does not say whose address it is"
}

# record POD SERVICE_ACCOUNT ADDRESS – a pod that runs, as far as the API knows.
record() {
  kubectl run "$1" --image test --overrides "{\"spec\": {\"serviceAccountName\": \"$2\"}}" >/dev/null && run_pod "$1" "$3"
}

reach() {
  [[ $(curl --silent --max-time 8 http://127.0.0.1:15791/ca.crt) == *'BEGIN CERTIFICATE'* ]]
}

fails_to_reach() {
  ! reach
}

# answers TEXT – /ready of the sidecar that asks.
answers() {
  curl --silent --max-time 2 http://127.0.0.92:15550/ready | grep -q "$1"
}

is_refused_as_the_other_pods() {
  ! reach && curl --silent --max-time 2 "http://127.0.0.92:15550/status" |
    grep -q "it is pod $namespace/other-0's, whose service account is default"
}
