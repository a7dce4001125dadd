# Configuration of what runs on a node. Sourced by `node`.
# shellcheck shell=bash disable=SC2154  # the parts share variables

write_containerd_config() {
  # restrict_oom_score_adj: in a sandbox nobody may lower a process's score, and a container asks for that.
  cat >"$home/containerd.toml" <<END
version = 2
root = "$home/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "$home/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "bypassctl.test/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni/bin"
    conf_dir = "/run/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
END
}

# A bridge for the node's pods; it enforces no NetworkPolicy. mesh-cni stands in for istio-cni.
write_network_config() {
  cat >/run/cni/net.d/10-bridge.conflist <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": 1400,
   "ipam": {"type": "host-local", "dataDir": "$home/ipam", "ranges": [[{"subnet": "10.244.$node.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}},
  {"type": "mesh-cni", "rules": "$state/mesh-rules"}]}
END
}

# oomScoreAdj and maxOpenFiles are what a sandbox allows; failCgroupV1: this kernel may have version 1 alone.
write_kubelet_config() {
  cat >"$home/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 10.200.0.1$node
port: 10250
healthzPort: 0
readOnlyPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/$name.crt
tlsPrivateKeyFile: $state/pki/$name.key
cgroupDriver: cgroupfs
cgroupRoot: /$control_group
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {}
oomScoreAdj: 0
maxOpenFiles: 20000
makeIPTablesUtilChains: false
resolvConf: ""
clusterDomain: cluster.local
clusterDNS: ["10.200.0.1"]
containerRuntimeEndpoint: unix://$home/containerd.sock
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
shutdownGracePeriod: 0s
serializeImagePulls: false
END
}

# The limits of conntrack are the machine's, and not a node's to set.
write_proxy_config() {
  cat >"$home/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16
hostnameOverride: $name
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: $state/kubeconfigs/proxy}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 0s, syncPeriod: 30s}
END
}
