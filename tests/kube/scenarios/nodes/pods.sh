# Pods that Kubernetes does not get to run: check cluster says which, and why, in Kubernetes' own words.
# shellcheck shell=bash disable=SC2154  # the parts share variables

scenario_pods_that_do_not_run_are_told_why() {
  fresh_namespace && load_pekko || return
  local report code first=$namespace
  broken_deployment no-image 'image: bypassctl.test/none:1' || return
  broken_deployment no-secret "$pekko_image" 'env: [{name: X, valueFrom: {secretKeyRef: {name: none, key: x}}}]' || return
  broken_deployment ends "$pekko_image" 'args: [no.such.Class]' || return
  broken_deployment too-large "$pekko_image" 'resources: {requests: {cpu: "1000"}}' || return
  wait_until 60 says "$first" ends 'container app .*ended with exit code 1' || fail "a loop: $(failures "$report")" || return
  wait_until 60 says "$first" no-image 'container app: ErrImageNeverPull' || fail "no image: $(failures "$report")" || return
  wait_until 60 says "$first" no-secret 'container app: CreateContainerConfigError: secret "none" not found' ||
    fail "no secret: $(failures "$report")" || return
  count_of "$report" pods-running pending 1 || fail "no node: $report" || return
  [[ $report == *'no node was found for it: 0/1 nodes are available'* ]] || fail "no node: $report" || return
  bypassctl status --namespace "$first" >"$scratch/status" && fail "status is well" && return 1
  grep -q 'does not run: container app: ErrImageNeverPull' "$scratch/status" || fail "status: $(<"$scratch/status")" || return
  # What is saved says the same elsewhere.
  bypassctl check cluster --namespace "$first" --save-facts "$scratch/facts" --output json >/dev/null
  report=$(bypassctl check cluster --facts "$scratch/facts" --output json)
  [[ $(failures "$report") == *'pods-running: container app: CreateContainerConfigError: secret "none" not found'* ]] ||
    fail "from saved facts: $(failures "$report")" || return

  fresh_namespace && kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted --overwrite || return
  broken_deployment refused "$pekko_image" || return
  wait_until 30 says "$namespace" refused '0 of 1 wanted pods were made; FailedCreate: .*violates PodSecurity' ||
    fail "refused: $(failures "$report")" || return
  # What is pending is waited for, and late when the time is over.
  fresh_namespace && broken_deployment too-large "$pekko_image" 'resources: {requests: {cpu: "1000"}}' || return
  wait_until 30 is_pending || fail "not pending: $(bypassctl check cluster --namespace "$namespace")" || return
  kubectl get deployment too-large --output yaml | bypassctl render rbac | kubectl apply --filename - || return
  bypassctl check cluster --namespace "$namespace" --fail-on error --output short >/dev/null 2>&1 || fail "pending fails" || return
  bypassctl check cluster --namespace "$namespace" --fail-on error --wait=3 >/dev/null 2>"$scratch/progress"
  code=$?
  { ((code == 1)) && grep -q 'pods-running.*no node was found' "$scratch/progress"; } ||
    fail "exit code $code: $(<"$scratch/progress")"
}

pekko_image='image: bypassctl.test/pekko-app:1'

# broken_deployment NAME IMAGE [REST] – one pod that declares the ports of a node.
broken_deployment() {
  kubectl apply --filename - <<END
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: 1
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      containers:
      - name: app
        $2
        imagePullPolicy: Never
        ports: [{name: remoting, containerPort: 2552}, {name: management, containerPort: 8558}]
        readinessProbe: {httpGet: {path: /ready, port: management}}
        livenessProbe: {httpGet: {path: /alive, port: management}, initialDelaySeconds: 60}
        ${3-}
END
}

# says NAMESPACE NAME PATTERN – the report, left in $report, has this failure about the Deployment or its pod.
says() {
  report=$(bypassctl check cluster --namespace "$1" --output json)
  python3 -c 'import json, re, sys
checks = json.loads(sys.argv[1])["checks"]
sys.exit(not any(check["status"] == "fail" and "/" + sys.argv[2] in check["object"] and re.search(sys.argv[3], check["message"])
                 for check in checks))' "$report" "$2" "$3"
}

is_pending() {
  count_of "$(bypassctl check cluster --namespace "$namespace" --output json)" pods-running pending 1
}
