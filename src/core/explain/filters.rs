//! Everybody's packet filters as data: tables, chains and rules of nf_tables and of iptables alike.
//!
//! Invariant: what is not understood is an `Unknown` with its name; it is never left out and never guessed.

use crate::core::ruleset::{Family, Hook, Side};

/// Every table of a network namespace, oldest first as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// The tables.
    pub tables: Vec<Table>,
    /// What is there but could not be read, and why.
    pub unread: Vec<String>,
}

/// Who keeps a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// nf_tables, be it programmed by nft, by iptables-nft or over netlink.
    NfTables,
    /// The older x_tables, by iptables-legacy.
    Legacy,
}

/// A table of one keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Who keeps it.
    pub keeper: Keeper,
    /// The family that it sees; both in family inet.
    pub family: Option<Family>,
    /// Its name.
    pub name: String,
    /// Its chains, oldest first.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where the kernel calls it; `None` if only other chains do.
    pub base: Option<Base>,
    /// First to last.
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: Kind,
    /// Where it is called.
    pub hook: Hook,
    /// Lower runs first; among nat chains this orders them alone.
    pub priority: i32,
    /// Whether what reaches the end of the chain is dropped.
    pub drops: bool,
}

/// Types of base chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sees every packet.
    Filter,
    /// The same, and a changed mark is routed anew: type route in nf_tables, mangle's OUTPUT in iptables.
    Route,
    /// Asked once a connection, until a binding is made.
    Nat,
}

/// A rule: steps in order, until a condition does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Conditions and statements.
    pub steps: Vec<Step>,
    /// Its comment.
    pub comment: String,
    /// How its own tool writes it, where that is known.
    pub text: Option<String>,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Goes on only if it holds.
    If(Condition),
    /// Does something.
    Do(Statement),
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A field's value lies in a set.
    Number(Test),
    /// The name of an interface.
    Interface {
        /// Which.
        side: Side,
        /// The name, or its start.
        name: String,
        /// Only the start is compared.
        prefix: bool,
        /// It must be another.
        negated: bool,
    },
    /// Something that is not understood, by its name.
    Unknown(String),
}

/// Whether `field & mask` is in one of the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What is looked at.
    pub field: Field,
    /// Bits that count.
    pub mask: u128,
    /// Values, first and last.
    pub ranges: Vec<(u128, u128)>,
    /// It must be in none of them.
    pub negated: bool,
}

/// What a test looks at; every value is a number, an address one of its family's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 2 for IPv4, 10 for IPv6 (`NFPROTO_*`).
    Family,
    /// 6 for TCP, 17 for UDP.
    Protocol,
    /// Source address, of this family.
    Source(Family),
    /// Destination address, of this family.
    Destination(Family),
    /// Source port.
    SourcePort,
    /// Destination port.
    DestinationPort,
    /// TCP flags.
    TcpFlags,
    /// The packet's mark.
    Mark,
    /// The connection's mark.
    ConnectionMark,
    /// The connection's state, as nf_tables numbers its bits ([`INVALID`], [`NEW`], [`UNTRACKED`]).
    ConnectionState,
    /// User id of the socket that sends.
    Uid,
    /// Group id of the socket that sends.
    Gid,
    /// Type of the destination address (`RTN_*`; 2 is local).
    DestinationType,
    /// Type of the source address.
    SourceType,
}

/// `NF_CT_STATE_INVALID_BIT` (linux/netfilter/nf_conntrack_common.h).
pub const INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
pub const NEW: u32 = 8;
/// `NF_CT_STATE_UNTRACKED_BIT`.
pub const UNTRACKED: u32 = 64;
/// `RTN_UNICAST` and `RTN_LOCAL` (linux/rtnetlink.h).
pub const UNICAST: u32 = 1;
/// See [`UNICAST`].
pub const LOCAL: u32 = 2;

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// This base chain is done with the packet; the hook's other chains go on.
    Accept,
    /// The packet is gone.
    Drop,
    /// The packet is answered with a reset or an ICMP error, and gone.
    Reject,
    /// Back to the calling chain, or to the base chain's policy.
    Return,
    /// On with that chain, then back here.
    Jump(String),
    /// On with that chain, and not back here.
    Goto(String),
    /// Binds the connection's addresses.
    Nat(Nat),
    /// Gives the packet to a local socket.
    Tproxy(Tproxy),
    /// Sets a mark.
    Mark(SetMark),
    /// The connection is not tracked, if tracking has not begun.
    NoTrack,
    /// Something that is not understood, by its name.
    Unknown(String),
}

/// A binding of the connection's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nat {
    /// To this host, and to this port if one is named.
    Redirect(Option<u16>),
    /// The destination.
    Destination {
        /// New address; `None` keeps the packet's own.
        address: Option<std::net::IpAddr>,
        /// New port; `None` keeps the packet's own.
        port: Option<u16>,
    },
    /// The source, in any way: that does not change where the packet goes.
    Source,
}

/// Assigning a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tproxy {
    /// Its address; `None` is the arriving interface's.
    pub address: Option<std::net::IpAddr>,
    /// Its port; `None` is the packet's own.
    pub port: Option<u16>,
    /// The mark that the packet gets, and the bits of it that are replaced.
    pub mark: (u32, u32),
    /// x_tables: ends the chain, and drops where no such socket is; nf_tables only goes on.
    pub ends: bool,
}

/// Which of the two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkOf {
    /// The packet's.
    Packet,
    /// The connection's.
    Connection,
}

/// `target = (target & keep) ^ (from & bits) ^ xor`, which all of set, save and restore are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMark {
    /// What is set.
    pub target: MarkOf,
    /// Bits that stay.
    pub keep: u32,
    /// Where bits are taken from, and which.
    pub from: Option<(MarkOf, u32)>,
    /// The constant.
    pub xor: u32,
}

impl Rule {
    /// Whether the rule may change what becomes of a packet.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Do(_)))
    }
}

impl Condition {
    /// The field is in one of these ranges.
    #[must_use]
    pub fn in_ranges(field: Field, ranges: Vec<(u128, u128)>, negated: bool) -> Self {
        Self::Number(Test { field, mask: u128::MAX, ranges, negated })
    }

    /// The field has this value.
    #[must_use]
    pub fn equal(field: Field, value: impl Into<u128>, negated: bool) -> Self {
        let value = value.into();
        Self::in_ranges(field, vec![(value, value)], negated)
    }

    /// The field's bits under the mask have this value.
    #[must_use]
    pub fn masked(field: Field, value: impl Into<u128>, mask: impl Into<u128>, negated: bool) -> Self {
        let value = value.into();
        Self::Number(Test { field, mask: mask.into(), ranges: vec![(value, value)], negated })
    }

    /// The field has one of these bits.
    #[must_use]
    pub fn any_bit(field: Field, bits: impl Into<u128>, negated: bool) -> Self {
        Self::Number(Test { field, mask: bits.into(), ranges: vec![(0, 0)], negated: !negated })
    }
}

impl SetMark {
    /// To a constant, under a mask.
    #[must_use]
    pub const fn constant(target: MarkOf, value: u32, mask: u32) -> Self {
        Self { target, keep: !mask, from: None, xor: value }
    }

    /// To the other mark, each under its mask: iptables' save and restore.
    #[must_use]
    pub const fn copy(target: MarkOf, own_mask: u32, from: MarkOf, from_mask: u32) -> Self {
        Self { target, keep: !own_mask, from: Some((from, from_mask)), xor: 0 }
    }
}
