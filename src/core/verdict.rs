//! Where a table of ours sends a packet: the first rule of a chain whose matches all hold.

use std::net::IpAddr;

use crate::core::ruleset::{Action, Family, Hook, Match, Rule, Ruleset, Side};

/// A packet, as far as our rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it is going.
    pub destination: IpAddr,
    /// Whether that is this pod.
    pub to_this_pod: bool,
    /// Protocol and port.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// User id of the socket that sends it, if a local one does.
    pub uid: Option<u32>,
    /// Packet mark.
    pub mark: u32,
}

/// TCP, of which rules single out the first packet, or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A connection's first packet.
    TcpSyn,
    /// Any later packet.
    TcpLater,
    /// A datagram.
    Udp,
}

/// The first rule, at this hook and in chain order, that decides about the packet.
#[must_use]
pub fn first_match<'a>(ruleset: &'a Ruleset, chain: &str, hook: Hook, packet: &Packet) -> Option<&'a Rule> {
    let chain = ruleset.chains.iter().find(|candidate| candidate.name == chain && candidate.hook == hook)?;
    chain.rules.iter().find(|rule| {
        let family = match rule.action {
            Action::NullBinding(family) => Family::of(packet.destination) == family,
            _ => true,
        };
        family && rule.matches.iter().all(|condition| holds(condition, hook, packet))
    })
}

fn holds(condition: &Match, hook: Hook, packet: &Packet) -> bool {
    let outgoing = matches!(hook, Hook::Output | Hook::Postrouting);
    match condition {
        Match::Family(family) => Family::of(packet.destination) == *family,
        Match::Tcp => packet.protocol != Protocol::Udp,
        Match::Udp => packet.protocol == Protocol::Udp,
        Match::DestinationPort(ports) => ports.contains(packet.port),
        Match::Syn => packet.protocol == Protocol::TcpSyn,
        Match::SocketUid(uid) => packet.uid == Some(*uid),
        Match::FromLoopback(expected) => !outgoing && packet.uid.is_some() == *expected,
        Match::ToLoopback(expected) => outgoing && packet.to_this_pod == *expected,
        Match::Interface(Side::In | Side::Out, _) => false,
        Match::DestinationIsLocal => packet.to_this_pod,
        Match::Destination { network, prefix_len } => in_network(packet.destination, *network, *prefix_len),
        Match::Mark { value, mask } => packet.mark & mask == *value,
    }
}

fn in_network(address: IpAddr, network: IpAddr, prefix_len: u8) -> bool {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bytes = usize::from(prefix_len / 8);
    Family::of(address) == Family::of(network) && octets(address)[..bytes] == octets(network)[..bytes]
}
