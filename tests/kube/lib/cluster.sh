# A cluster from nothing to ready, and back. Sourced by up, down and run.
#
# Given: here, repository.
# shellcheck shell=bash source-path=SCRIPTDIR/.. disable=SC2034,SC2154  # the parts share variables

# The system's own tools first.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH

source "$here/../lib/waiting.sh"
source "$here/lib/state.sh"
source "$here/lib/pki.sh"
source "$here/lib/control_plane.sh"
source "$here/lib/nodes.sh"

required_tools=(etcd openssl ss setsid pkill)
node_tools=(containerd ctr runc buildah musl-gcc busybox nft ip nsenter unshare)

# check_tools TOOL...
check_tools() {
  local tool missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || die "missing: ${missing[*]}; scripts/test kube installs them"
}

# Everything that takes long, before anything runs.
prepare() {
  local nodes=$1
  check_tools "${required_tools[@]}"
  kubernetes=$("$here/build" kubernetes) || die "Kubernetes could not be built" 5
  ((nodes == 0)) && return
  ((EUID == 0)) || die "nodes need root: they are namespaces and control groups"
  check_tools "${node_tools[@]}"
  [[ -x /usr/lib/cni/bridge ]] || die "missing: /usr/lib/cni/bridge; scripts/test kube installs it"
  coredns=$("$here/build" coredns) || die "CoreDNS could not be built" 5
  images=$("$here/images/build") || die "the images could not be built" 5
}

# bring_up NODES – with none, the API on loopback alone. The caller tears down if it fails.
bring_up() {
  local nodes=$1
  choose_ports
  api_address=127.0.0.1
  if ((nodes > 0)); then
    api_address=$bridge_address
    create_bridge "$nodes"
  fi
  make_pki || die "openssl made no certificates" 5
  start_control_plane "$nodes"
  ((nodes == 0)) || start_nodes "$nodes"
}

tear_down() {
  is_up || return 0
  stop_all || die "these processes do not end: $(living | tr '\n' ' ')" 5
  remove_nodes
  rm -rf "$state"
}
