//! A mesh that captures everything, in and out, as Istio's sidecar mode does with native nftables.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::http;
use super::server::Server;
use crate::core::config::DEFAULT_MESH_UID;
use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, Chain, ChainKind, Hook, Match, Rule, Ruleset, TableFamily};
use crate::sandbox::pod::Pod;

/// The mesh's table, named as Istio names its own.
pub(super) const TABLE: &str = "istio-proxy-nat";
/// Where the mesh's proxy takes what leaves the pod, and what arrives (Istio's `ProxyOutboundPort`,
/// `ProxyInboundCapturePort`).
const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15006;
/// Ports of the mesh's proxy itself: HBONE, telemetry, health, merged telemetry.
const OWN_PORTS: [u16; 4] = [15008, 15090, 15021, 15020];
/// `NF_IP_PRI_NAT_DST`, which Istio uses for output too.
const PRIORITY: i32 = -100;

/// Istio's rules, with its chains of several levels written as the two base chains that they amount to; without those
/// for what its proxy calls over loopback, since this one calls nobody.
pub(super) fn ruleset() -> Ruleset {
    let inbound = OWN_PORTS
        .into_iter()
        .map(|port| {
            let own = Match::DestinationPort(PortSet::single(port));
            Rule::new([Match::Tcp, own], Action::Accept, "the mesh's own port")
        })
        .chain([Rule::new([Match::Tcp], Action::Redirect(INBOUND_PORT), "what arrives: to the mesh's proxy")]);
    let loopback = |address: IpAddr, prefix_len| {
        let destination = Match::Destination { network: address, prefix_len };
        Rule::new([destination], Action::Accept, "loopback: straight")
    };
    let outbound = [
        Rule::new([Match::ToLoopback(true)], Action::Accept, "within the pod: straight"),
        Rule::new([Match::SocketUid(DEFAULT_MESH_UID)], Action::Accept, "the mesh's proxy itself: straight"),
        loopback(IpAddr::V4(Ipv4Addr::LOCALHOST), 32),
        loopback(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        Rule::new([Match::Tcp], Action::Redirect(OUTBOUND_PORT), "what leaves: to the mesh's proxy"),
    ];
    let nat = |name: &str, hook, rules| Chain {
        name: name.to_owned(),
        kind: ChainKind::Nat,
        hook,
        priority: PRIORITY,
        rules,
    };
    Ruleset {
        family: TableFamily::Inet,
        table: TABLE.to_owned(),
        chains: vec![
            nat("prerouting", Hook::Prerouting, inbound.collect()),
            nat("output", Hook::Output, outbound.into()),
        ],
    }
}

/// What the mesh's proxy of a pod calls itself, for what leaves the pod.
pub(super) fn outbound_of(pod: &Pod) -> String {
    format!("mesh of {}, outbound", pod.name())
}

/// What the mesh's proxy of a pod calls itself, for what arrives.
pub(super) fn inbound_of(pod: &Pod) -> String {
    format!("mesh of {}, inbound", pod.name())
}

/// The mesh's proxy in a pod. It answers instead of forwarding, so that whoever dials knows who took the connection.
pub(super) fn proxy(pod: &Pod) -> io::Result<[Server; 2]> {
    let serve = |port, who: String| {
        let listener = pod.listen(DEFAULT_MESH_UID, SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))?;
        let body = format!("captured by the {who}\n");
        http::answer_all(listener, who, body)
    };
    Ok([serve(OUTBOUND_PORT, outbound_of(pod))?, serve(INBOUND_PORT, inbound_of(pod))?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::render::nft;

    #[test]
    fn the_mesh_captures_both_ways_and_exempts_itself() {
        let text = nft::render(&ruleset());
        for part in ["redirect to :15001", "redirect to :15006", "meta skuid 1337 counter accept"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
