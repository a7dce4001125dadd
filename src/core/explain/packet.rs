//! The packet on its way, and what a rule can see of it.

use std::net::IpAddr;

use crate::core::explain::filters::{Condition, Field, INVALID, LOCAL, MarkOf, NEW, SetMark, Test, UNICAST, UNTRACKED};
use crate::core::ruleset::{Family, Side};

/// `IPPROTO_TCP`, `IPPROTO_UDP` (RFC 9293, RFC 768).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// SYN alone.
const SYN: u128 = 0x02;

/// How connection tracking sees the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// It has not been asked yet.
    Before,
    /// The first packet of a connection with this mark.
    New(u32),
    /// It is told not to look.
    Untracked,
}

/// A connection's first packet at some point of its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// TCP, or UDP.
    pub udp: bool,
    /// Where it comes from; `None` while that is not known.
    pub source: Option<IpAddr>,
    /// Where it is going.
    pub destination: IpAddr,
    /// Of which ports the source port is one, first and last.
    pub source_ports: (u16, u16),
    /// Destination port.
    pub port: u16,
    /// User and group id of the socket that sends, as long as the packet has one.
    pub owner: Option<(u32, u32)>,
    /// The packet's mark.
    pub mark: u32,
    /// Connection tracking.
    pub tracking: Tracking,
    /// The interface by which it arrived.
    pub input: Option<String>,
    /// The interface by which it leaves.
    pub output: Option<String>,
}

/// What a condition comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not.
    No,
    /// Nobody knows.
    Unknown,
}

enum Value {
    Is(u128),
    /// There is no such thing: the rule ends, negated or not (`NFT_BREAK`).
    Absent,
    /// One of these, first to last.
    Among(u128, u128),
    Unknown,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Packet {
    /// The packet's family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.destination)
    }

    /// Whether the condition holds; `is_local` tells this host's addresses.
    pub fn meets(&self, condition: &Condition, is_local: impl Fn(IpAddr) -> bool) -> Truth {
        match condition {
            Condition::Number(test) => self.passes(test, is_local),
            Condition::Interface { side, name, prefix, negated } => {
                let of_packet = if *side == Side::In { &self.input } else { &self.output };
                // The kernel compares with an empty name where there is no interface.
                let of_packet = of_packet.as_deref().unwrap_or_default();
                let same = if *prefix { of_packet.starts_with(name.as_str()) } else { of_packet == name };
                (same != *negated).into()
            }
            Condition::Unknown(_) => Truth::Unknown,
        }
    }

    fn passes(&self, test: &Test, is_local: impl Fn(IpAddr) -> bool) -> Truth {
        match self.value(test.field, is_local) {
            Value::Is(value) => {
                let value = value & test.mask;
                let inside = test.ranges.iter().any(|(first, last)| (*first..=*last).contains(&value));
                (inside != test.negated).into()
            }
            Value::Absent => Truth::No,
            Value::Among(low, high) if test.mask & 0xffff == 0xffff => {
                let holds_all = test.ranges.iter().any(|(first, last)| *first <= low && high <= *last);
                let holds_none = test.ranges.iter().all(|(first, last)| *last < low || high < *first);
                if holds_all || holds_none { (holds_all != test.negated).into() } else { Truth::Unknown }
            }
            Value::Among(..) | Value::Unknown => Truth::Unknown,
        }
    }

    fn value(&self, field: Field, is_local: impl Fn(IpAddr) -> bool) -> Value {
        let known = |value: u32| Value::Is(value.into());
        let address = |family: Family, address: IpAddr| match address {
            _ if Family::of(address) != family => Value::Absent,
            IpAddr::V4(address) => Value::Is(u32::from(address).into()),
            IpAddr::V6(address) => Value::Is(address.into()),
        };
        let kind = |address| known(if is_local(address) { LOCAL } else { UNICAST });
        match field {
            Field::Family => known(if self.family() == Family::V4 { 2 } else { 10 }),
            Field::Protocol => Value::Is(if self.udp { UDP } else { TCP }.into()),
            Field::Source(family) if family != self.family() => Value::Absent,
            Field::Source(family) => self.source.map_or(Value::Unknown, |source| address(family, source)),
            Field::Destination(family) => address(family, self.destination),
            // The caller's kernel chooses it.
            Field::SourcePort => Value::Among(self.source_ports.0.into(), self.source_ports.1.into()),
            Field::DestinationPort => Value::Is(self.port.into()),
            Field::TcpFlags if self.udp => Value::Absent,
            Field::TcpFlags => Value::Is(SYN),
            Field::Mark => known(self.mark),
            Field::ConnectionMark => match self.tracking {
                Tracking::New(mark) => known(mark),
                Tracking::Before | Tracking::Untracked => Value::Absent,
            },
            Field::ConnectionState => known(match self.tracking {
                Tracking::New(_) => NEW,
                Tracking::Before => INVALID,
                Tracking::Untracked => UNTRACKED,
            }),
            Field::Uid => self.owner.map_or(Value::Absent, |(uid, _)| known(uid)),
            Field::Gid => self.owner.map_or(Value::Absent, |(_, gid)| known(gid)),
            Field::DestinationType => kind(self.destination),
            Field::SourceType => self.source.map_or(Value::Unknown, kind),
        }
    }

    /// Sets a mark; a connection's only where there is a connection.
    pub fn set_mark(&mut self, set: &SetMark) {
        let connection = match self.tracking {
            Tracking::New(mark) => Some(mark),
            Tracking::Before | Tracking::Untracked => None,
        };
        let taken = match set.from {
            None => 0,
            Some((MarkOf::Packet, bits)) => self.mark & bits,
            Some((MarkOf::Connection, bits)) => match connection {
                Some(mark) => mark & bits,
                None => return,
            },
        };
        let of = |old: u32| (old & set.keep) ^ taken ^ set.xor;
        match (set.target, connection) {
            (MarkOf::Packet, _) => self.mark = of(self.mark),
            (MarkOf::Connection, Some(mark)) => self.tracking = Tracking::New(of(mark)),
            (MarkOf::Connection, None) => {}
        }
    }
}
