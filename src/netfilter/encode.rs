//! A [`Rule`] as nf_tables expressions.

use netlink_packet_netfilter::nftables::{Expressions, MetaKey, Operator, Register};

use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, Family, Match, Rule, Side, TableFamily};
use crate::netfilter::expression::*;

/// `IFNAMSIZ` (linux/if.h): what a whole interface name is compared with.
const INTERFACE_NAME: usize = 16;
/// `IPPROTO_TCP`, `IPPROTO_UDP` (RFC 9293, RFC 768).
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6` (linux/netfilter.h).
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;

/// The name that the kernel completes for a set without a name of its own.
pub(super) const ANONYMOUS_SET: &str = "__set%d";

/// The ports that a rule looks up in a set, where one comparison does not do.
pub(super) fn port_set(rule: &Rule) -> Option<&PortSet> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(ports) if ports.ranges().len() > 1 => Some(ports),
        _ => None,
    })
}

/// The rule's expressions, matches first, a counter before the action. `set` is the transaction's id of its
/// [`port_set`], if it has one.
pub(super) fn expressions(rule: &Rule, set: u32, table: TableFamily) -> Vec<Expressions> {
    let mut list = Vec::new();
    // In a table of one family it is implied, and nft's own reading of it there ends in an assertion (1.0.6).
    let named =
        |family| if table == TableFamily::Inet { match_expressions(&Match::Family(family), set) } else { vec![] };
    if let Action::NullBinding(family) = rule.action {
        list.extend(named(family));
    }
    for condition in &rule.matches {
        match condition {
            Match::Family(family) => list.extend(named(*family)),
            Match::Destination { network, .. } => {
                list.extend(named(Family::of(*network)));
                list.extend(match_expressions(condition, set));
            }
            _ => list.extend(match_expressions(condition, set)),
        }
    }
    list.push(other("counter", &[]));
    list.extend(action_expressions(&rule.action, table));
    list
}

fn match_expressions(condition: &Match, set: u32) -> Vec<Expressions> {
    match condition {
        Match::Family(family) => vec![meta(MetaKey::Nfproto), equals(&[nfproto(*family)])],
        Match::Tcp => vec![meta(MetaKey::L4Proto), equals(&[TCP])],
        Match::Udp => vec![meta(MetaKey::L4Proto), equals(&[UDP])],
        Match::DestinationPort(ports) => {
            let load = payload(TRANSPORT_HEADER, DESTINATION_PORT, 2);
            let [range] = ports.ranges() else { return vec![load, lookup(ANONYMOUS_SET, set)] };
            let (first, last) = (range.first().to_be_bytes(), range.last().to_be_bytes());
            if first == last {
                vec![load, equals(&first)]
            } else {
                vec![load, compare(Operator::GreatherThanEqual, &first), compare(Operator::LessThanEqual, &last)]
            }
        }
        Match::Syn => {
            vec![payload(TRANSPORT_HEADER, TCP_FLAGS, 1), and(&[TCP_FIN_SYN_RST_ACK]), equals(&[TCP_SYN])]
        }
        Match::SocketUid(uid) => vec![meta(MetaKey::SocketUserId), equals(&uid.to_ne_bytes())],
        Match::FromLoopback(yes) => interface(MetaKey::Iifname, "lo", *yes),
        Match::ToLoopback(yes) => interface(MetaKey::Oifname, "lo", *yes),
        Match::Interface(Side::In, name) => interface(MetaKey::Iifname, name, true),
        Match::Interface(Side::Out, name) => interface(MetaKey::Oifname, name, true),
        Match::DestinationIsLocal => vec![
            other(
                "fib",
                &[
                    (NFTA_FIB_DREG, VALUE.into()),
                    (NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
                    (NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
                ],
            ),
            equals(&RTN_LOCAL.to_ne_bytes()),
        ],
        Match::Destination { network, prefix_len } => {
            let family = Family::of(*network);
            let octets = match network {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            };
            let length = usize::from(prefix_len / 8);
            vec![
                payload(NETWORK_HEADER, destination_offset(family), u32::from(prefix_len / 8)),
                equals(&octets[..length]),
            ]
        }
        Match::Mark { value, mask: u32::MAX } => vec![meta(MetaKey::Mark), equals(&value.to_ne_bytes())],
        Match::Mark { value, mask } => {
            vec![meta(MetaKey::Mark), and(&mask.to_ne_bytes()), equals(&value.to_ne_bytes())]
        }
    }
}

fn action_expressions(action: &Action, table: TableFamily) -> Vec<Expressions> {
    match action {
        Action::NullBinding(family) => vec![
            payload(NETWORK_HEADER, destination_offset(*family), if *family == Family::V4 { 4 } else { 16 }),
            other(
                "nat",
                &[
                    (NFTA_NAT_TYPE, NFT_NAT_DNAT),
                    (NFTA_NAT_FAMILY, nfproto(*family).into()),
                    (NFTA_NAT_REG_ADDR_MIN, VALUE.into()),
                ],
            ),
        ],
        Action::Redirect(port) => {
            vec![load(&port.to_be_bytes()), other("redir", &[(NFTA_REDIR_REG_PROTO_MIN, VALUE.into())])]
        }
        Action::RejectWithReset => vec![reject(NFT_REJECT_TCP_RST, 0)],
        Action::RejectPortUnreachable => vec![match table {
            TableFamily::Inet => reject(NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH),
            // What inet abstracts is not known to the other two (net/ipv4/netfilter/nft_reject_ipv4.c).
            TableFamily::Ip => reject(NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH),
            TableFamily::Ip6 => reject(NFT_REJECT_ICMP_UNREACH, ICMPV6_PORT_UNREACH),
        }],
        Action::Drop => vec![verdict(NF_DROP)],
        Action::Accept => vec![verdict(NF_ACCEPT)],
        Action::SetMark(mark) => vec![load(&mark.to_ne_bytes()), set_meta(MetaKey::Mark)],
        Action::ClearMarks => vec![
            load(&0u32.to_ne_bytes()),
            set_meta(MetaKey::Mark),
            load(&0u32.to_ne_bytes()),
            other("ct", &[(NFTA_CT_KEY, NFT_CT_MARK), (NFTA_CT_SREG, Register::Reg1.into())]),
        ],
        Action::NoTrack => vec![other("notrack", &[])],
    }
}

fn interface(key: MetaKey, name: &str, equal: bool) -> Vec<Expressions> {
    let mut whole = [0; INTERFACE_NAME];
    whole[..name.len()].copy_from_slice(name.as_bytes());
    vec![meta(key), compare(if equal { Operator::Equal } else { Operator::NotEqual }, &whole)]
}

const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

const fn destination_offset(family: Family) -> u32 {
    match family {
        Family::V4 => IPV4_DESTINATION,
        Family::V6 => IPV6_DESTINATION,
    }
}
