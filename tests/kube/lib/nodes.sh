# Nodes: network namespaces on a bridge, a real kubelet in each.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

bridge=bypassctl-kube
most_nodes=9

node_address() {
  echo "10.200.0.1$1"
}

node_pods() {
  echo "10.244.$1.0/24"
}

node_netns() {
  echo "kubenode$1"
}

# Names of links, addresses and control groups are the machine's: there is one cluster with nodes at a time.
create_bridge() {
  ip link add "$bridge" type bridge 2>/dev/null ||
    die "a cluster with nodes is up already, of another checkout: there is a link $bridge" 4
  echo "$1" >"$state/nodes"
  ip addr add "$bridge_address/24" dev "$bridge"
  ip link set "$bridge" up
}

create_node_network() {
  local node=$1 nodes=$2 netns other
  netns=$(node_netns "$node")
  ip netns add "$netns"
  ip link add "$netns" type veth peer name eth0 netns "$netns"
  ip link set "$netns" master "$bridge" up
  ip -n "$netns" link set lo up
  ip -n "$netns" addr add "$(node_address "$node")/24" dev eth0
  ip -n "$netns" link set eth0 up
  ip -n "$netns" route add default via "$bridge_address"
  for ((other = 1; other <= nodes; other++)); do
    ((other == node)) || ip -n "$netns" route add "$(node_pods "$other")" via "$(node_address "$other")"
  done
  ip route add "$(node_pods "$node")" via "$(node_address "$node")"
}

# nsenter and not `ip netns exec`, which mounts a /sys without control groups.
start_node() {
  local node=$1
  issue "node$node" "/O=system:nodes/CN=system:node:node$node" clientAuth,serverAuth \
    "IP:$(node_address "$node"),DNS:node$node"
  kubeconfig "node$node"
  start "node-$node" nsenter --net="/run/netns/$(node_netns "$node")" \
    unshare --mount --pid --uts --fork --mount-proc --propagation private \
    "$here/node" "$node" "$state" "$kubernetes" "$images"
}

node_is_ready() {
  [[ $(as_admin get node "node$1" --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null) == True ]]
}

start_dns() {
  cat >"$state/Corefile" <<END
.:53 {
  bind $bridge_address
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $state/kubeconfigs/admin test
    pods insecure
    ttl 1
  }
}
END
  start dns "$coredns/coredns" -conf "$state/Corefile"
}

start_nodes() {
  local nodes=$1 node
  start_dns
  for ((node = 1; node <= nodes; node++)); do
    create_node_network "$node" "$nodes"
    start_node "$node"
  done
  for ((node = 1; node <= nodes; node++)); do
    wait_until 120 node_is_ready "$node" || blame "node-$node" "node $node does not become ready (see also $logs)"
  done
}

# in_node NODE ARGUMENT... – ctr, of the node's containers.
in_node() {
  local node=$1
  shift
  ctr --address "$state/node$node/containerd.sock" --namespace k8s.io "$@"
}

# load_image ARCHIVE – into every node, once.
load_image() {
  local node
  for ((node = 1; node <= $(<"$state/nodes"); node++)); do
    grep -qxF "$node $1" "$state/loaded" 2>/dev/null || in_node "$node" images import --no-unpack "$1" >/dev/null || return
    echo "$node $1" >>"$state/loaded"
  done
}

# Both layouts: a hierarchy for each controller (v1), or one for all (v2).
remove_control_groups() {
  local node=$1 top
  for top in /sys/fs/cgroup/"bypassctl-node$node" /sys/fs/cgroup/*/"bypassctl-node$node"; do
    [[ ! -d $top ]] || find "$top" -depth -type d -exec rmdir {} + 2>/dev/null
  done
}

# What a scenario has paused is not killed before it goes on.
thaw() {
  local file
  while IFS= read -r file; do
    case $file in
      *.state) echo THAWED ;;
      *) echo 0 ;;
    esac >"$file"
  done < <(find /sys/fs/cgroup/{,freezer/}"bypassctl-node$1" \( -name freezer.state -o -name cgroup.freeze \) 2>/dev/null)
}

no_control_groups() {
  remove_control_groups "$1"
  ! compgen -G "/sys/fs/cgroup/bypassctl-node$1" >/dev/null && ! compgen -G "/sys/fs/cgroup/*/bypassctl-node$1" >/dev/null
}

remove_nodes() {
  local node nodes
  [[ -f $state/nodes ]] || return 0
  nodes=$(<"$state/nodes")
  for ((node = 1; node <= nodes; node++)); do
    ip netns del "$(node_netns "$node")" 2>/dev/null
    ip link del "$(node_netns "$node")" 2>/dev/null
    thaw "$node"
    wait_until 5 no_control_groups "$node" || echo "control groups of node $node are left: they hold processes" >&2
  done
  ip link del "$bridge" 2>/dev/null
}
