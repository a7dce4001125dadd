//! Who talks to whom: what the sidecars of both ends see, joined.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::core::status::{Group, Status};

/// Open remoting connections from one pod to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Path {
    /// The pod that dialled, or its address.
    pub from: String,
    /// The pod that was dialled, or its address.
    pub to: String,
    /// Who the dialler is, as the dialled sidecar has verified.
    pub from_identity: Option<String>,
    /// Who the dialled is, as the dialling sidecar has verified.
    pub to_identity: Option<String>,
    /// Version and cipher.
    pub tls: Option<String>,
    /// Whether some of it goes without TLS.
    pub plaintext: bool,
    /// How many, by the end that sees more.
    pub connections: u64,
    /// That have gone from the dialler to the dialled.
    pub bytes: u64,
}

/// The paths, in the order of their ends' names.
pub(super) fn paths<'a>(pods: &[Pod], agents: impl Iterator<Item = (&'a str, &'a Status)>) -> Vec<Path> {
    let names: BTreeMap<IpAddr, &str> = pods.iter().flat_map(addresses).collect();
    let named = |group: &Group| {
        let address = group.peer.to_string();
        let ip = address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        ip.and_then(|ip| names.get(&ip)).map_or(address, |name| (*name).to_owned())
    };
    // An end's groups of one peer, in TLS and in plaintext, are summed before the ends are compared.
    let mut paths: BTreeMap<(String, String), Path> = BTreeMap::new();
    let mut sums: BTreeMap<(String, String, bool), (u64, u64)> = BTreeMap::new();
    for (pod, status) in agents {
        for group in &status.connections {
            let outbound = group.direction.to_string() == "outbound";
            let peer = named(group);
            let (from, to) = if outbound { (pod.to_owned(), peer) } else { (peer, pod.to_owned()) };
            let identity = group.identity.as_ref().map(ToString::to_string);
            let path = paths.entry((from.clone(), to.clone())).or_default();
            let seen = if outbound { &mut path.to_identity } else { &mut path.from_identity };
            *seen = identity.or(seen.take());
            path.tls = group.tls.as_ref().map(ToString::to_string).or(path.tls.take());
            path.plaintext |= group.tls.is_none();
            let sum = sums.entry((from, to, outbound)).or_default();
            sum.0 = sum.0.saturating_add(group.connections);
            sum.1 = sum.1.saturating_add(if outbound { group.bytes_out } else { group.bytes_in });
        }
    }
    for ((from, to, _), (connections, bytes)) in sums {
        if let Some(path) = paths.get_mut(&(from, to)) {
            path.connections = path.connections.max(connections);
            path.bytes = path.bytes.max(bytes);
        }
    }
    paths.into_iter().map(|((from, to), path)| Path { from, to, ..path }).collect()
}

fn addresses(pod: &Pod) -> Vec<(IpAddr, &str)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    // The node's address is that of many.
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let status = pod.status.as_ref().filter(|_| !on_host);
    let all = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str());
    let one = status.and_then(|status| status.pod_ip.as_deref());
    all.chain(one).filter_map(|address| Some((address.parse::<IpAddr>().ok()?.to_canonical(), name))).collect()
}
