//! What `explain` says, with its evidence; the field names are the JSON contract.

use std::net::IpAddr;

use serde::Serialize;

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What was asked about.
    pub packet: Question,
    /// Where it ends.
    pub end: End,
    /// The rule that brought it there; `None` if no rule changed anything.
    pub decided_by: Option<Seen>,
    /// Whether everything on the way was understood.
    pub sure: bool,
    /// What was not, in the order of the way; from the first on the answer is unsure.
    pub unsure: Vec<String>,
    /// Every rule that matched, in order.
    pub trail: Vec<Seen>,
    /// Nat chains that were not asked, because the connection had its binding, or is not tracked.
    pub not_asked: Vec<NotAsked>,
}

/// The first packet of a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// Arriving at this network namespace, or made in it.
    pub direction: Direction,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it is going.
    pub to: IpAddr,
    /// To which port.
    pub port: u16,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// User id of the process that makes it.
    pub uid: Option<u32>,
    /// Its group id.
    pub gid: Option<u32>,
    /// The mark that its socket gives it.
    pub mark: u32,
    /// Of which source ports the kernel chooses one, first and last.
    #[serde(skip)]
    pub source_ports: (u16, u16),
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Made here.
    Out,
    /// Arriving.
    In,
}

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
}

/// Where a packet ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// In which way.
    pub kind: EndKind,
    /// The address that it ends at.
    pub address: IpAddr,
    /// The port that it ends at.
    pub port: u16,
    /// The interface by which it leaves, or `lo`; `None` if it was stopped before.
    pub interface: Option<String>,
    /// Whether somebody here listens at that address and port; `None` if it leaves, or nobody can tell.
    pub listening: Option<bool>,
}

/// The ways to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// To where it was going, unchanged: on the wire, or to this host's own socket.
    Straight,
    /// To a local socket that it was not going to.
    Redirected,
    /// On the wire, to another address than it was going to.
    Rewritten,
    /// Answered with a reset or an ICMP error.
    Refused,
    /// Gone without a word.
    Dropped,
    /// Arrived, but for no address of this host: forwarded, if that is allowed.
    Forwarded,
    /// There is no route.
    NoRoute,
}

/// A rule, or a chain's policy, that had its say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The hook.
    pub hook: &'static str,
    /// `nf_tables` or `iptables-legacy`.
    pub backend: &'static str,
    /// Family and name.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's place in its chain, from 1; 0 is the chain's policy.
    pub number: usize,
    /// Who made it, if names tell.
    pub owner: Option<&'static str>,
    /// The rule.
    pub rule: String,
    /// Its comment.
    pub comment: String,
    /// What it did.
    pub effect: String,
}

/// A nat chain that was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotAsked {
    /// The hook.
    pub hook: &'static str,
    /// Family and name of its table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Who made it, if names tell.
    pub owner: Option<&'static str>,
    /// Why not.
    pub reason: &'static str,
}
