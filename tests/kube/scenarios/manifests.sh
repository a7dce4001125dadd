# What the documentation tells people to apply.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# Every YAML block of README and docs that is a manifest, or a part of a pod's, is taken by the API as it is.
scenario_documented_manifests_are_valid() {
  local file count=0
  fresh_namespace || return
  python3 "$here/manifests.py" "$scratch" "$repository/README.md" "$repository"/docs/*.md ||
    fail "the blocks cannot be read" || return
  # What names a namespace names this one.
  kubectl get namespace shop >/dev/null 2>&1 || kubectl create namespace shop >/dev/null || return
  for file in "$scratch"/*.yaml; do
    applies "$file" || fail "refused: $(basename "$file")" || return
    ((count += 1))
  done
  detail "manifests=$count"
  ((count >= 3)) || fail "README's manifest was not found"
}

# That one is taken means something: the server checks fields, and so a misspelled one is refused.
scenario_a_misspelled_field_is_refused() {
  fresh_namespace || return
  python3 "$here/manifests.py" "$scratch" "$repository/README.md" || return
  local broken=$scratch/broken answer
  sed 's/allowPrivilegeEscalation/allowPrivilegeEscalations/' "$scratch"/README-1.yaml >"$broken"
  ! cmp --silent "$broken" "$scratch/README-1.yaml" || fail "there was nothing to misspell" || return
  answer=$(applies "$broken" 2>&1) && fail "it was taken" && return 1
  [[ $answer == *'unknown field'*allowPrivilegeEscalations* ]] || fail "refused otherwise: $answer"
}

applies() {
  kubectl apply --dry-run=server --validate=strict --filename "$1"
}
