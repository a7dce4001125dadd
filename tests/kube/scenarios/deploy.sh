# What deploy/ tells people to install, by the real Helm, the real Kustomize (kubectl's) and the real API.
# shellcheck shell=bash disable=SC2154  # the parts share variables

chart=$repository/deploy/chart/bypassctl
everything=(--set podMonitor.enabled=true --set prometheusRule.enabled=true --set dashboard.enabled=true
  --set cni.enabled=true --set cni.repairPods=evict
  --set openshift.enabled=true --set 'openshift.namespaces={shop}' --set networkPolicy.enabled=true)

# The chart passes Helm's own look, and what it renders in every mode is taken by the API, field by field.
scenario_the_chart_is_valid_in_every_mode() {
  fresh_namespace || return
  need_helm && need_foreign_kinds || return
  helm lint --strict "$chart" || fail "lint" || return
  local mode rest
  for mode in selfSigned certManager 'secret --set tls.secretName=own --set tls.caBundle=Zm9v'; do
    read -ra rest <<<"$mode"
    render "$scratch/chart.yaml" "${everything[@]}" --set tls.mode="${rest[0]}" "${rest[@]:1}" \
      --set "agents.events.namespaces={$namespace}" --set "agents.readinessGate.namespaces={$namespace}" \
      --set "agents.peerAddress.namespaces={$namespace}" || fail "$mode" || return
    strictly "$scratch/chart.yaml" || fail "refused: $mode" || return
  done
  render "$scratch/least.yaml" --set podDisruptionBudget.enabled=false --set networkPolicy.enabled=false || fail "least" || return
  strictly "$scratch/least.yaml" || fail "refused: least"
}

# A value that means nothing is refused by the schema, and said which.
scenario_the_chart_refuses_values_that_mean_nothing() {
  need_helm || return
  local setting said
  for setting in inject.mode=loose webhook.failurePolicy=Maybe webhook.replicas=0 image.tagg=1 tls.mode=secret \
    image.digest=sha256:12 'inject.allow={everybody}' cni.repairPods=all cni.binDir=bin webhook.timeoutSeconds=31 webhook.namespaceSelector=null \
    'webhook.namespaceSelector.matchLabels.bypassctl\.io/inject=null' 'webhook.optOutLabels.bypassctl\.io/inject=null' \
    'networkPolicy.apiServerCIDRs={10.0.0.7}' 'networkPolicy.scrapers[0].pods=all'; do
    said=$(helm template x "$chart" --set "$setting" 2>&1) && fail "taken: $setting" && return 1
    [[ $said == *schema* ]] || fail "$setting is refused otherwise: $said" || return
  done
}

# Values that are good by themselves and not together, or not on that Kubernetes, are refused with what to do.
scenario_the_chart_says_what_does_not_go_together() {
  need_helm || return
  local said
  said=$(helm template x "$chart" --set webhook.adminPort=9443 2>&1) && fail "two listen on one port" && return 1
  [[ $said == *'webhook.port and webhook.adminPort are both 9443'* ]] || fail "otherwise: $said" || return
  said=$(helm template x "$chart" --kube-version 1.28.0 2>&1) && fail "native sidecars before there were any" && return 1
  [[ $said == *'need Kubernetes 1.29, and this is v1.28.0; set inject.sidecar=classic'* ]] || fail "otherwise: $said" || return
  helm template x "$chart" --kube-version 1.28.0 --set inject.sidecar=classic >/dev/null || fail "classic is refused" || return
  helm template x "$chart" --kube-version v1.29.0-eks-1 >/dev/null || fail "a provider's 1.29 is refused"
}

# Each port lets in whom its values name, and nobody else; without names everybody, as its comment says.
scenario_the_policy_lets_in_who_is_named() {
  fresh_namespace || return
  need_helm || return
  cat >"$scratch/who.yaml" <<'END'
networkPolicy:
  apiServerCIDRs: [10.0.0.0/28, "fd00::/64"]
  scrapers:
  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
    podSelector: {matchLabels: {app: prometheus}}
END
  render "$scratch/chart.yaml" --values "$scratch/who.yaml" && kubectl apply --filename "$scratch/chart.yaml" >/dev/null ||
    fail "not taken" || return
  policy_is 'ingress == [
    {"ports": [{"port": "webhook", "protocol": "TCP"}],
     "from": [{"ipBlock": {"cidr": "10.0.0.0/28"}}, {"ipBlock": {"cidr": "fd00::/64"}}]},
    {"ports": [{"port": "admin", "protocol": "TCP"}],
     "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
               "podSelector": {"matchLabels": {"app": "prometheus"}}}]}]' || return
  render "$scratch/open.yaml" && kubectl apply --filename "$scratch/open.yaml" >/dev/null || fail "not taken" || return
  policy_is '[sorted(rule) for rule in ingress] == [["ports"], ["ports"]]' || return
  kubectl delete --filename "$scratch/open.yaml" --wait=false >/dev/null
}

# policy_is EXPRESSION – of its ingress, in Python's terms.
policy_is() {
  local policy
  policy=$(kubectl get networkpolicy x-bypassctl-webhook --output json) || return
  python3 -c "import json, sys; ingress = json.load(sys.stdin)['spec']['ingress']; sys.exit(not ($1))" <<<"$policy" ||
    fail "it is another: $policy"
}

# On OpenShift the webhook's pods leave user and group to restricted-v2, which refuses any that is not of its namespace's range; and a
# file of the certificate's volume is readable by a group that is given, whichever.
scenario_the_webhook_keeps_to_openshifts_default() {
  fresh_namespace || return
  need_helm || return
  local mode ids
  for mode in selfSigned certManager; do
    render "$scratch/chart.yaml" --show-only templates/webhook-deployment.yaml --set tls.mode=$mode --set openshift.enabled=true ||
      fail "$mode" || return
    ! grep -E '(runAsUser|runAsGroup|fsGroup):' "$scratch/chart.yaml" || fail "$mode: it insists on a user" || return
    strictly "$scratch/chart.yaml" >/dev/null && keeps_to restricted "$scratch/chart.yaml" || fail "$mode: not restricted" || return
  done
  grep -q 'defaultMode: 0440' "$scratch/chart.yaml" || fail "a group may not read the certificate" || return
  render "$scratch/chart.yaml" --show-only templates/webhook-deployment.yaml || return
  ids=$(grep -cE '(runAsUser|runAsGroup|fsGroup): 12552' "$scratch/chart.yaml")
  ((ids == 3)) || fail "elsewhere it has no user"
}

# Metrics of ends are 0 in agents that have no certificate, as those in mode disabled: no alert and no panel takes that for 1970.
scenario_no_certificate_is_none_that_has_ended() {
  local files=$chart/files ends
  ends=$(grep -hoE 'bypassctl_[a-z_]*not_after_timestamp_seconds(\{[^}]*})?[^-]*' "$files/alerts.yaml" "$files/dashboard.json") || fail "none" || return
  (($(wc -l <<<"$ends") == 4)) || fail "these: $ends" || return
  ! grep -v ' > 0)' <<<"$ends" || fail "0 is taken for a time"
}

# The webhook may do what it does and nothing else; with a certificate of somebody else, nothing at all.
scenario_the_webhook_has_the_least_rights() {
  fresh_namespace || return
  need_helm || return
  render "$scratch/rights.yaml" && grep -v '^#' "$scratch/rights.yaml" | kubectl apply --filename - || fail "not applied" || return
  local account=system:serviceaccount:$namespace:x-bypassctl-webhook right
  wait_until 10 can get secrets/x-bypassctl-webhook-tls || fail "it may not read its Secret" || return
  can update secrets/x-bypassctl-webhook-tls || fail "it may not write its Secret" || return
  can patch "mutatingwebhookconfigurations/x-bypassctl-$namespace" || fail "it may not write its configuration" || return
  for right in 'get secrets/another' 'list secrets' 'create secrets' 'delete secrets/x-bypassctl-webhook-tls' 'get pods' \
    'patch mutatingwebhookconfigurations/another' "delete mutatingwebhookconfigurations/x-bypassctl-$namespace"; do
    # shellcheck disable=SC2086  # verb and resource
    ! can $right || fail "it may $right" || return
  done
  kubectl delete --filename "$scratch/rights.yaml" --wait=false
  render "$scratch/none.yaml" --set tls.mode=certManager || fail "not rendered" || return
  ! grep -q 'kind: ClusterRole\|kind: Role' "$scratch/none.yaml" || fail "with cert-manager it has rights"
}

# What installs the CNI plugin may get and list pods, and evict them only if that is wanted; the component for Kustomize is taken, too.
scenario_the_cni_plugin_has_the_least_rights() {
  fresh_namespace || return
  need_helm || return
  local account=system:serviceaccount:$namespace:x-bypassctl-cni right kind
  for kind in report evict; do
    render "$scratch/rights.yaml" --set cni.enabled=true --set cni.repairPods=$kind --set tls.mode=secret \
      --set tls.secretName=own --set tls.caBundle=Zm9v &&
      kubectl apply --filename "$scratch/rights.yaml" >/dev/null || fail "not applied" || return
    wait_until 10 can list pods || fail "it may not list pods" || return
    can get pods || fail "it may not get pods" || return
    for right in 'watch pods' 'delete pods' 'update pods' 'create pods' 'get secrets' 'list secrets'; do
      # shellcheck disable=SC2086  # verb and resource
      ! can $right || fail "it may $right" || return
    done
    if [[ $kind == report ]]; then
      ! may_evict || fail "it may evict unasked" || return
    else
      wait_until 10 may_evict || fail "it may not evict" || return
    fi
  done
  kubectl delete --filename "$scratch/rights.yaml" --wait=false >/dev/null
  kubectl kustomize "$repository/deploy/kustomize/cni" >"$scratch/kustomized.yaml" || fail "no kustomization" || return
  # The namespace that it makes is not there yet.
  sed "s/namespace: bypassctl-cni/namespace: $namespace/" "$scratch/kustomized.yaml" >"$scratch/here.yaml"
  strictly "$scratch/here.yaml" || fail "Kustomize's is refused" || return
  grep -q 'pod-security.kubernetes.io/enforce: privileged' "$scratch/kustomized.yaml" || fail "its namespace is not privileged"
}

may_evict() {
  kubectl auth can-i create pods --subresource eviction --as "$account" --quiet
}

# can VERB RESOURCE[/NAME] – as the account.
can() {
  kubectl auth can-i "$1" "$2" --as "$account" --quiet
}

# The samples are valid as they are, and so they are injected; `check files` finds nothing in them.
scenario_samples_are_valid_and_clean() {
  fresh_namespace || return
  local sample
  kubectl get namespace appka >/dev/null 2>&1 || kubectl create namespace appka || return
  for sample in pekko akka pekko-istio akka-istio; do
    kubectl kustomize "$repository/deploy/samples/$sample" >"$scratch/$sample.yaml" || fail "no Kustomize: $sample" || return
    strictly "$scratch/$sample.yaml" || fail "refused: $sample" || return
    bypassctl inject "$scratch/$sample.yaml" >"$scratch/$sample-injected.yaml" || fail "not injected: $sample" || return
    strictly "$scratch/$sample-injected.yaml" || fail "refused: $sample, injected" || return
    bypassctl check files "$scratch/$sample-injected.yaml" || fail "not clean: $sample" || return
  done
}

# The components add the agent, and for each level what it adds is taken by a namespace that enforces it.
scenario_components_keep_to_their_level() {
  fresh_namespace || return
  local level
  for level in privileged baseline restricted; do
    mkdir -p "$scratch/$level"
    cp -r "$repository/deploy/kustomize/$level" "$scratch/$level/component"
    cp "$repository/deploy/samples/akka/application.yaml" "$scratch/$level/"
    cat >"$scratch/$level/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [labelled]
components: [component]
images: [{name: bypassctl, newName: registry.example/bypassctl, newTag: 0.1.0}]
END
    mkdir -p "$scratch/$level/labelled"
    mv "$scratch/$level/application.yaml" "$scratch/$level/labelled/"
    cat >"$scratch/$level/labelled/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [application.yaml]
labels: [{pairs: {bypassctl.io/agent: enabled}}]
END
    kubectl kustomize "$scratch/$level" >"$scratch/$level.yaml" || fail "no Kustomize: $level" || return
    grep -q 'image: registry.example/bypassctl:0.1.0' "$scratch/$level.yaml" || fail "no agent: $level" || return
    strictly "$scratch/$level.yaml" || fail "refused: $level" || return
    keeps_to "$level" "$scratch/$level.yaml" || fail "not within $level" || return
  done
  ! keeps_to baseline "$scratch/privileged.yaml" || fail "baseline would do for NET_ADMIN"
}

# keeps_to LEVEL FILE – a namespace of that level warns of nothing in the pod templates.
keeps_to() {
  local said
  kubectl label --overwrite namespace "$namespace" "pod-security.kubernetes.io/warn=$1" >/dev/null || return
  said=$(kubectl apply --dry-run=server --filename "$2" 2>&1) || return
  [[ $said != *'would violate PodSecurity'* ]]
}

need_helm() {
  helm_program=${helm_program:-$("$here/helm/build")} || fail "Helm could not be built"
}

helm() {
  HELM_CACHE_HOME=$scratch/helm HELM_CONFIG_HOME=$scratch/helm HELM_DATA_HOME=$scratch/helm "$helm_program" "$@"
}

# render FILE OPTION...
render() {
  local file=$1
  shift
  helm template x "$chart" --namespace "$namespace" --kube-version 1.35.0 "$@" >"$file"
}

# Kinds of the Prometheus operator, cert-manager and OpenShift.
need_foreign_kinds() {
  kubectl apply --filename "$here/crds.yaml" >/dev/null || fail "no kinds" || return
  kubectl wait --for condition=Established --timeout 30s --filename "$here/crds.yaml" >/dev/null || fail "no kinds" || return
  # The API tells of them a moment after it serves them.
  wait_until 20 kubectl explain securitycontextconstraints.allowedCapabilities >/dev/null
}

strictly() {
  kubectl apply --dry-run=server --validate=strict --filename "$1"
}
