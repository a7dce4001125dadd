# The manifests of tests/checks, on a real API server.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# What check files finds in a manifest, check cluster finds when it is applied, and nothing else but what a cluster alone
# shows; what the server refuses is known with its reason. Their namespaces go with the cluster.
scenario_broken_manifests_are_found_when_applied() {
  local manifests=${agent_binary%/*}/examples/manifests
  [[ -x $manifests ]] || fail "no $manifests; cargo build --example manifests makes it" || return
  # Some of them have objects of cert-manager's.
  kubectl apply --filename "$here/crds.yaml" >/dev/null || fail "no kinds" || return
  kubectl wait --for condition=Established --timeout 30s --filename "$here/crds.yaml" >/dev/null || fail "no kinds" || return
  python3 "$here/variants.py" "$manifests" "$agent_binary" >"$scratch/variants" 2>&1 ||
    fail "$(<"$scratch/variants")" || return
  detail "$(tail -n1 "$scratch/variants")"
}
