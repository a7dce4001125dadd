# check pre of a namespace: what its Pod Security level admits, as the API says and as the server then does.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# A namespace that enforces baseline or restricted refuses NET_ADMIN: check pre says so before, and the server does so; one
# that enforces privileged, or nothing, admits it.
scenario_pod_security_is_told_before_a_pod_is_refused() {
  fresh_namespace || return
  local level said
  for level in none privileged baseline restricted; do
    [[ $level == none ]] || kubectl label namespace "$namespace" --overwrite "pod-security.kubernetes.io/enforce=$level" || return
    said=$(bypassctl check pre --namespace "$namespace" --output json)
    if admits_net_admin; then
      [[ $said == *'"code":"pre-pod-security","severity":"error","status":"pass"'* ]] || fail "$level admits it: $said" || return
    else
      [[ $said == *'"code":"pre-pod-security","severity":"error","status":"fail"'* ]] || fail "$level refuses it: $said" || return
    fi
  done
  [[ $level == restricted ]] && ! admits_net_admin || fail "restricted admits anything" || return
  create_user viewer || return
  said=$(as_user viewer bypassctl check pre --namespace "$namespace" --output json) || fail "a viewer: $said" || return
  [[ $said == *'"code":"pre-pod-security","severity":"error","status":"skip"'*'forbidden for'* ]] || fail "a viewer: $said"
}

admits_net_admin() {
  kubectl create --dry-run=server --filename - <<'END'
apiVersion: v1
kind: Pod
metadata: {name: init}
spec:
  containers:
  - {name: init, image: bypassctl, securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}}
END
}
