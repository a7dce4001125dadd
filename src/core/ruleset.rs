//! Netfilter rules as data: what is to stand in one table of ours, independent of how it gets there.
//!
//! A [`Ruleset`] is the whole content of one nf_tables table. It is rendered as nft text
//! ([`crate::core::render::nft`]) and as netlink messages (`netfilter::encode`); both say the same.

use std::net::IpAddr;

use crate::core::ports::PortSet;

/// An address family that rules can single out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `IPv4` or `IPv6`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Families of nf_tables' tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// Both families in one table; with nat chains since Linux 5.2.
    Inet,
    /// IPv4 alone.
    Ip,
    /// IPv6 alone.
    Ip6,
}

impl TableFamily {
    /// Every one that a table of ours can be of.
    pub const ALL: [Self; 3] = [Self::Inet, Self::Ip, Self::Ip6];

    /// The family as nft writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// The only family of its packets, if there is only one.
    #[must_use]
    pub const fn only(self) -> Option<Family> {
        match self {
            Self::Inet => None,
            Self::Ip => Some(Family::V4),
            Self::Ip6 => Some(Family::V6),
        }
    }
}

/// The whole content of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Table family.
    pub family: TableFamily,
    /// Table name.
    pub table: String,
    /// Base chains.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// The same as two tables, one a family, for kernels whose family inet has no nat.
    #[must_use]
    pub fn split(&self) -> [Self; 2] {
        [(TableFamily::Ip, Family::V4), (TableFamily::Ip6, Family::V6)].map(|(table_family, family)| {
            let chains = self.chains.iter().map(|chain| Chain {
                rules: chain.rules.iter().filter(|rule| rule.concerns(family)).cloned().collect(),
                ..chain.clone()
            });
            Self { family: table_family, table: self.table.clone(), chains: chains.collect() }
        })
    }
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Chain name.
    pub name: String,
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// Among the chains of one hook, lower runs first (linux/netfilter_ipv4.h, `NF_IP_PRI_*`).
    pub priority: i32,
    /// Rules, first to last; the chain's policy is accept.
    pub rules: Vec<Rule>,
}

/// nf_tables chain types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees only the first packet of a connection, and may bind its addresses.
    Nat,
    /// Sees every packet.
    Filter,
}

/// Netfilter hooks of the inet families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Arrived, before routing.
    Prerouting,
    /// Arrived, for a local socket.
    Input,
    /// Made by a local socket.
    Output,
    /// About to leave.
    Postrouting,
}

/// One rule: all matches hold, then the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions, all of which must hold.
    pub matches: Vec<Match>,
    /// What happens then.
    pub action: Action,
    /// Why the rule is there; at most 127 bytes.
    pub comment: String,
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// IPv4 or IPv6.
    Family(Family),
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// The destination port is in the set; needs [`Match::Tcp`] or [`Match::Udp`] before it.
    DestinationPort(PortSet),
    /// SYN without FIN, RST and ACK: the first packet of a connection.
    Syn,
    /// The socket that sends belongs to this user; only on output.
    SocketUid(u32),
    /// The packet arrived by `lo`.
    FromLoopback(bool),
    /// The packet leaves by `lo`.
    ToLoopback(bool),
    /// The packet leaves by, or arrived by, the interface of this name.
    Interface(Side, String),
    /// The destination is an address of this namespace (nft expression `fib`).
    DestinationIsLocal,
    /// The destination lies in this network; the substitute where the kernel has no `fib` expression.
    Destination {
        /// Network address.
        network: IpAddr,
        /// Bits that count; a multiple of 8.
        prefix_len: u8,
    },
    /// The packet's mark under the mask has the value.
    Mark {
        /// Value under the mask.
        value: u32,
        /// Bits that count.
        mask: u32,
    },
}

/// Which of a packet's two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it arrived.
    In,
    /// Where it leaves.
    Out,
}

/// What a rule does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// DNAT to the address that the packet already has, for packets of one family. It changes nothing, but it is a NAT
    /// binding, so no later nat chain of the hook is asked: unlike `accept`, it ends the mesh's say
    /// (net/netfilter/nf_nat_core.c, `nf_nat_inet_fn`).
    NullBinding(Family),
    /// To a local port: loopback's on output, the arriving interface's on prerouting.
    Redirect(u16),
    /// Refused with a TCP reset.
    RejectWithReset,
    /// Refused with an ICMP or ICMPv6 port unreachable.
    RejectPortUnreachable,
    /// Dropped in silence; the substitute where the kernel has no `reject` expression.
    Drop,
    /// The packet's mark becomes the value.
    SetMark(u32),
    /// The packet's and the connection's mark become 0.
    ClearMarks,
    /// This chain is done with the packet; later chains of the hook still run.
    Accept,
    /// The connection is not tracked, so that no NAT applies.
    NoTrack,
}

impl Rule {
    /// A rule with its reason.
    #[must_use]
    pub fn new(matches: impl IntoIterator<Item = Match>, action: Action, comment: impl Into<String>) -> Self {
        Self { matches: matches.into_iter().collect(), action, comment: comment.into() }
    }

    /// Whether packets of the family can match.
    #[must_use]
    pub fn concerns(&self, family: Family) -> bool {
        let bound = !matches!(self.action, Action::NullBinding(other) if other != family);
        bound
            && self.matches.iter().all(|condition| match condition {
                Match::Family(other) => *other == family,
                Match::Destination { network, .. } => Family::of(*network) == family,
                _ => true,
            })
    }

    /// A rule for TCP to these ports.
    #[must_use]
    pub fn tcp(ports: &PortSet, matches: &[Match], action: Action, comment: &str) -> Self {
        let to_port = [Match::Tcp, Match::DestinationPort(ports.clone())];
        Self::new(to_port.into_iter().chain(matches.iter().cloned()), action, comment)
    }
}
