//! Connections that live through our rules, as conntrack knows them.

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Tuple};

use crate::netfilter::NetfilterError;
use crate::netfilter::table::open;

/// `TCP_CONNTRACK_ESTABLISHED` (linux/netfilter/nf_conntrack_tcp.h).
const ESTABLISHED: u8 = 3;

/// How many established TCP connections are redirected to one of these ports.
///
/// # Errors
/// See [`NetfilterError`].
pub fn redirected_connections(ports: &[u16]) -> Result<usize, NetfilterError> {
    let connections = open()?.connections().map_err(|source| NetfilterError::Socket {
        attempted: "listing the connections that conntrack knows",
        source,
    })?;
    Ok(connections.iter().filter(|connection| is_redirected(connection, ports)).count())
}

/// Who answers has another port than the one that was dialled.
pub(super) fn is_redirected(connection: &[ConntrackAttribute], ports: &[u16]) -> bool {
    let (mut dialled, mut answering, mut established) = (None, None, false);
    for attribute in connection {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                dialled = tcp_port(tuple, |part| match part {
                    ProtoTuple::DestinationPort(port) => Some(*port),
                    _ => None,
                })
            }
            ConntrackAttribute::CtaTupleReply(tuple) => {
                answering = tcp_port(tuple, |part| match part {
                    ProtoTuple::SourcePort(port) => Some(*port),
                    _ => None,
                })
            }
            ConntrackAttribute::CtaProtoInfo(info) => established = info.iter().any(is_established),
            _ => {}
        }
    }
    established && answering.is_some_and(|port| ports.contains(&port)) && dialled != answering
}

fn tcp_port(tuple: &[Tuple], of: impl Fn(&ProtoTuple) -> Option<u16>) -> Option<u16> {
    let parts = tuple.iter().find_map(|part| if let Tuple::Proto(parts) = part { Some(parts) } else { None })?;
    let is_tcp = parts.iter().any(|part| matches!(part, ProtoTuple::Protocol(Protocol::Tcp)));
    is_tcp.then(|| parts.iter().find_map(of)).flatten()
}

fn is_established(info: &ProtoInfo) -> bool {
    let ProtoInfo::TCP(parts) = info else { return false };
    parts.iter().any(|part| matches!(part, ProtoInfoTCP::State(ESTABLISHED)))
}
