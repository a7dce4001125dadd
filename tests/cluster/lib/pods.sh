# Pods as network namespaces: pod1 … pod4 with 10.77.0.11 … 14, on a bridge in a namespace `switch` with 10.77.0.1.
# shellcheck shell=bash disable=SC2034,SC2154  # the parts share variables

switch_ip=10.77.0.1
all_pods=(1 2 3)

pod_ip() {
  echo "10.77.0.1$1"
}

in_pod() {
  local pod=$1
  shift
  ip netns exec "pod$pod" "$@"
}

create_switch() {
  ip netns add switch
  ip -n switch link set lo up
  ip -n switch link add br0 type bridge
  ip -n switch addr add "$switch_ip/24" dev br0
  ip -n switch link set br0 up
}

# A pod that replaces another has its address and its MAC: nobody has to notice that it is a new one.
create_pod() {
  local pod=$1 netns=pod$1
  mkdir -p "$run_dir/pod$pod"
  chmod 777 "$run_dir/pod$pod"
  ip netns add "$netns"
  ip -n "$netns" link set lo up
  ip -n switch link add "veth$pod" type veth peer name eth0 address "02:00:0a:4d:00:1$pod" netns "$netns"
  ip -n switch link set "veth$pod" master br0 up
  ip -n "$netns" addr add "$(pod_ip "$pod")/24" dev eth0
  ip -n "$netns" link set eth0 up
  ip -n "$netns" route add default via "$switch_ip"
}

delete_pod() {
  ip netns del "pod$1" 2>/dev/null
  # The namespace, and with it the link, goes only when the kernel's worker comes to it.
  ip -n switch link del "veth$1" 2>/dev/null
}

# Ends every process and every namespace of this run.
tear_down() {
  local pod
  stop_all
  for pod in /run/netns/pod*; do
    [[ ! -e $pod ]] || delete_pod "${pod##*/pod}"
  done
  ip netns del switch 2>/dev/null
  cluster_kind=none
}

# Empty pods, whatever stood before.
fresh_pods() {
  local pod
  tear_down
  rm -rf "$run_dir"
  mkdir -p "$run_dir"
  create_switch
  for pod in "${all_pods[@]}"; do
    create_pod "$pod"
  done
}
