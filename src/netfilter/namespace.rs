//! Whose network namespace this is: a pod's, or the node's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;

use nix::net::if_::InterfaceFlags;
use rtnetlink::LinkUnspec;

use crate::core::ruleset::Family;

/// `NET_NS_INIT_INO` (linux/nsfs.h): the inode of the initial network namespace, fixed since Linux 6.17. Before, it was
/// handed out at boot like any other, so there it tells nothing.
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFF9;

/// Interfaces that CNI plugins and runtimes make on a node, never in a pod.
const NODE_INTERFACES: [&str; 8] =
    ["cni0", "docker0", "flannel.1", "cilium_host", "kube-bridge", "kube-ipvs0", "antrea-gw0", "tunl0"];
/// The node's ends of the pods' links, by the prefix that Calico, Cilium and Azure give them.
const NODE_LINK_PREFIXES: [&str; 3] = ["cali", "lxc", "azv"];

/// Why this is a node's network namespace, if anything says so.
#[must_use]
pub fn is_host(pod_ip: Option<IpAddr>, host_ip: Option<IpAddr>) -> Option<String> {
    if let (Some(pod), Some(host)) = (pod_ip, host_ip)
        && pod == host
    {
        return Some(format!("the pod's address {pod} is the node's"));
    }
    if std::fs::metadata("/proc/self/ns/net").is_ok_and(|namespace| namespace.ino() == INITIAL_NAMESPACE) {
        return Some("it is the kernel's initial one".to_owned());
    }
    let interfaces = nix::net::if_::if_nameindex().ok()?;
    interfaces
        .iter()
        .filter_map(|interface| interface.name().to_str().ok())
        .find(|name| node_interface(name))
        .map(|name| format!("it has the interface {name}, which only a node has"))
}

/// Whether loopback is up: without it nothing can be redirected to a local port.
#[must_use]
pub fn loopback_is_up() -> bool {
    nix::ifaddrs::getifaddrs().is_ok_and(|mut interfaces| {
        interfaces.any(|interface| interface.flags.contains(InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_UP))
    })
}

/// Brings loopback up. Runtimes do, but some of them at the same time as they call plugins.
///
/// # Errors
/// Those of netlink.
pub fn raise_loopback() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.map_err(io::Error::other)
    })
}

/// Whether the namespace has the family at all: a pod without IPv6 has not even `::1`.
#[must_use]
pub fn has_family(family: Family) -> bool {
    let loopback = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    TcpListener::bind(SocketAddr::new(loopback, 0)).is_ok()
}

fn node_interface(name: &str) -> bool {
    let link = |prefix: &&str| {
        name.strip_prefix(*prefix)
            .is_some_and(|rest| rest.len() >= 8 && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    NODE_INTERFACES.contains(&name) || NODE_LINK_PREFIXES.iter().any(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_whose_address_is_the_nodes_is_on_the_host_network() {
        let address = Some("10.0.0.7".parse().unwrap());
        assert!(is_host(address, address).unwrap().contains("10.0.0.7"));
    }

    #[test]
    fn interfaces_of_pods_are_not_taken_for_a_nodes() {
        for name in ["eth0", "lo", "net1", "calib", "lxc0", "ens5", "tun0"] {
            assert!(!node_interface(name), "{name}");
        }
        for name in ["cni0", "cali0123456789a", "lxc1234567890ab", "docker0"] {
            assert!(node_interface(name), "{name}");
        }
    }
}
