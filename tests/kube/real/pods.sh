# Pods on real nodes: what the scenarios see of them, and do to them.
# shellcheck shell=bash disable=SC2154  # the parts share variables

# load_into_nodes ARCHIVE...
load_into_nodes() {
  local node archive
  for ((node = 1; node <= $(<"$state/nodes"); node++)); do
    for archive in "$@"; do
      ctr --address "$state/node$node/containerd.sock" --namespace k8s.io images import "$archive" >/dev/null || return
    done
  done
}

# Processes of a container, by their control group, as this machine numbers them: processes_of CONTAINER-ID
processes_of() {
  grep -l "$1" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3
}

# container_of POD CONTAINER – its id.
container_of() {
  kubectl get pod "$1" --output jsonpath='{range .status.containerStatuses[*]}{.name} {.containerID}{"\n"}{end}{range .status.initContainerStatuses[*]}{.name} {.containerID}{"\n"}{end}' |
    sed -n "s,^$2 containerd://,,p"
}

# within_pod POD COMMAND... – a program of this machine in the network namespace of the pod's first process, as a plugin
# of the node's network would.
within_pod() {
  local uid pid
  uid=$(kubectl get pod "$1" --output 'jsonpath={.metadata.uid}')
  pid=$(processes_of "pod$uid" | head -n 1)
  [[ -n $pid ]] || return
  shift
  nsenter --net="/proc/$pid/ns/net" "$@"
}

# rules_from_elsewhere POD – what a CNI plugin or a privileged DaemonSet would do for a pod that may not.
rules_from_elsewhere() {
  within_pod "$1" env --ignore-environment PATH="$PATH" "POD_IP=$(pod_address "$1")" \
    "HOST_IP=$(kubectl get pod "$1" --output 'jsonpath={.status.hostIP}')" "$agent_binary" init --preset pekko
}

# open_network POD – its network namespace as a file of ours, $pod_network, which outlives any process in it; and
# from_its_network, to ask there without asking Kubernetes first.
open_network() {
  local uid pid
  uid=$(kubectl get pod "$1" --output 'jsonpath={.metadata.uid}')
  pid=$(processes_of "pod$uid" | head -n 1)
  [[ -n $pid ]] && exec {pod_network}<"/proc/$pid/ns/net"
}

from_its_network() {
  nsenter --net="/proc/$$/fd/$pod_network" "$@"
}

pod_address() {
  kubectl get pod "$1" --output 'jsonpath={.status.podIP}'
}

pods() {
  kubectl get pods --selector app=appka --output 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}'
}

is_pod_ready() {
  [[ $(kubectl get pod "$1" --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

is_not_ready() {
  ! is_pod_ready "$1"
}

ready_pods() {
  [[ $(kubectl get deployment appka --output 'jsonpath={.status.readyReplicas}/{.status.replicas}') == "$1/$1" ]]
}

# members_are COUNT – that many members are Up, nobody is unreachable, and each is a pod.
members_are() {
  bypassctl status --namespace "$namespace" --output json >"$scratch/status.json" 2>"$scratch/status.log"
  python3 - "$1" "$scratch/status.json" <<'END'
import json, sys
status = json.load(open(sys.argv[2]))
nodes = status["nodes"]
up = [node for node in nodes if node["status"] == "Up" and node["pod"]]
sys.exit(not (len(up) == len(nodes) == int(sys.argv[1]) and not any(node["unreachable_from"] for node in nodes)))
END
}

# keep_app_logs – of every pod there is and will be, into $scratch: those that go take theirs with them.
keep_app_logs() {
  local pod
  while true; do
    for pod in $(pods); do
      [[ -e $scratch/app-$pod.log ]] && continue
      [[ -n $(kubectl get pod "$pod" --output 'jsonpath={.status.containerStatuses[0].state.running.startedAt}') ]] || continue
      kubectl logs --follow "$pod" --container app >"$scratch/app-$pod.log" 2>/dev/null &
    done
    sleep 1
  done
}

# Nobody was unreachable, downed or quarantined, as any node saw it.
nobody_was_harmed() {
  ! grep -HE 'CLUSTER (UnreachableMember|MemberDowned|.*Quarantined)' "$scratch"/app-*.log
}

# A remoting certificate with one identity for all pods, as the Secret that `inject` mounts.
create_certificate() {
  [[ -d $scratch/tls ]] || "$repository/tests/cluster/pki" "$scratch/tls" >/dev/null || return
  kubectl create secret generic appka-remoting-tls --from-file="$scratch/tls/node1/tls.crt" \
    --from-file="$scratch/tls/node1/tls.key" --from-file="$scratch/tls/node1/ca.crt" >/dev/null
}

# The sample, with the test's image and what belongs to a test: it starts on few processors and looks for three peers.
sample() {
  kubectl kustomize "$repository/deploy/samples/pekko" | sed -e "s/\bappka:1.0.0/bypassctl.test\/pekko-app:1/" \
    -e "s/^  namespace: appka/  namespace: $namespace/" -e '/cpu: 100m/d' |
    "$kubernetes/kubectl" create --dry-run=client --output json --filename - |
    python3 "$here/real/adapt.py" "$@"
}

injected() {
  bypassctl inject --image "$image" --image-pull-policy Never "$@" -
}

# Captures what crosses the nodes' bridges to pods, on remoting's port.
capture() {
  local node
  for ((node = 1; node <= $(<"$state/nodes"); node++)); do
    helper "capture-$node.log" nsenter --net="/run/netns/$(node_netns "$node")" \
      tcpdump -i any -s 0 -U -w "$scratch/bridge-$node.pcap" tcp port 17355
  done
}

# Of all that was captured: no magic of plaintext Artery, and TLS records.
no_plaintext() {
  local file
  sleep 1
  for file in "$scratch"/bridge-*.pcap; do
    ! grep -aqE 'AKKA|PEKK|pekko://' "$file" || return
    detail "$(basename "$file" .pcap)=$(stat -c %s "$file")B,$(grep -aoP '\x17\x03\x03' "$file" | wc -l)records"
  done
  grep -aqP '\x16\x03[\x01-\x03]' "$scratch"/bridge-*.pcap && grep -aqP '\x17\x03\x03' "$scratch"/bridge-*.pcap
}
