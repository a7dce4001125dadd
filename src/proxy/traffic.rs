//! Connections and bytes by the identity of peers, as metrics tell them.
//!
//! Invariant: their number does not depend on what peers show. Past [`MOST`] identities of a direction the rest are one.
//! Nothing is counted while bytes move: sums are of what has closed, and open connections are added when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::core::route::Direction;
use crate::proxy::pump::Moved;

/// Identities that are told apart in each direction. A cluster has a handful.
const MOST: usize = 64;
/// The longest identity that is a label, in bytes: the longest SPIFFE ID (SPIFFE-ID, section 2.3). A certificate may hold
/// names without end.
const LONGEST: usize = 2048;

/// Whose traffic it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Who the certificate says.
    Peer(Arc<str>),
    /// Whoever came when there were too many.
    Other,
    /// Whoever it is: there was no TLS.
    Nobody,
}

impl Who {
    fn label(&self) -> &str {
        match self {
            Self::Peer(identity) => identity,
            Self::Other => "other",
            Self::Nobody => "none",
        }
    }
}

/// What is summed up together.
pub(super) type Account = (Direction, Who);

/// Sums of one account; none ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) opened: u64,
    pub(super) closed: u64,
    /// To the app.
    pub(super) bytes_in: u64,
    /// From the app.
    pub(super) bytes_out: u64,
}

impl Sums {
    /// Adds what a connection has moved so far.
    pub(super) fn add(&mut self, moved: &Moved) {
        self.bytes_in += moved.bytes_in.bytes();
        self.bytes_out += moved.bytes_out.bytes();
    }
}

/// Sums of what was opened and what has closed.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<Account, Sums>);

impl Ledger {
    /// Counts a connection that both sides agreed to; says where it is to be counted.
    pub(super) fn open(&mut self, direction: Direction, identity: Option<&Arc<str>>) -> Account {
        let who = match identity {
            None => Who::Nobody,
            Some(identity) if identity.len() > LONGEST => Who::Other,
            Some(identity) => Who::Peer(Arc::clone(identity)),
        };
        let mut account = (direction, who);
        if matches!(account.1, Who::Peer(_)) && !self.0.contains_key(&account) && self.peers(direction) >= MOST {
            account.1 = Who::Other;
        }
        self.0.entry(account.clone()).or_default().opened += 1;
        account
    }

    /// Counts the end of a connection.
    pub(super) fn close(&mut self, account: &Account, moved: &Moved) {
        let sums = self.0.entry(account.clone()).or_default();
        sums.closed += 1;
        sums.add(moved);
    }

    /// All sums.
    pub(super) fn sums(&self) -> BTreeMap<Account, Sums> {
        self.0.clone()
    }

    fn peers(&self, of: Direction) -> usize {
        self.0.keys().filter(|(direction, who)| *direction == of && matches!(who, Who::Peer(_))).count()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByIdentity {
    direction: &'static str,
    identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByIdentityAndWay {
    direction: &'static str,
    identity: String,
    way: &'static str,
}

/// The sums as metrics, made anew for each scrape.
pub(super) fn metrics(traffic: &BTreeMap<Account, Sums>) -> Registry {
    let mut registry = Registry::with_prefix("bypassctl_peer");
    let opened = Family::<ByIdentity, Counter>::default();
    registry.register("connections_opened", "Connections that app and peer were joined by", opened.clone());
    let closed = Family::<ByIdentity, Counter>::default();
    registry.register("connections_closed", "Those of them that have ended", closed.clone());
    let bytes = Family::<ByIdentityAndWay, Counter>::default();
    registry.register("bytes", "Bytes of the app's streams, in (to the app) and out (from it)", bytes.clone());
    for ((direction, who), sums) in traffic {
        let (direction, identity) = (direction.name(), who.label());
        let labels = ByIdentity { direction, identity: identity.to_owned() };
        opened.get_or_create(&labels).inc_by(sums.opened);
        closed.get_or_create(&labels).inc_by(sums.closed);
        for (way, moved) in [("in", sums.bytes_in), ("out", sums.bytes_out)] {
            let labels = ByIdentityAndWay { direction, identity: identity.to_owned(), way };
            bytes.get_or_create(&labels).inc_by(moved);
        }
    }
    registry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::pump::Tally;

    fn moved() -> Moved {
        Moved { bytes_in: Tally::new(Counter::default()), bytes_out: Tally::new(Counter::default()) }
    }

    #[test]
    fn however_many_identities_come_only_so_many_are_told_apart() {
        let mut ledger = Ledger::default();
        for i in 0..1000 {
            let account = ledger.open(Direction::Inbound, Some(&format!("spiffe://d/ns/a/sa/{i}").into()));
            assert_eq!(matches!(account.1, Who::Peer(_)), i < MOST);
            ledger.close(&account, &moved());
        }
        assert_eq!(ledger.open(Direction::Inbound, None).1, Who::Nobody);
        assert!(matches!(ledger.open(Direction::Inbound, Some(&"spiffe://d/ns/a/sa/3".into())).1, Who::Peer(_)));
        assert!(matches!(ledger.open(Direction::Outbound, Some(&"spiffe://d/ns/a/sa/999".into())).1, Who::Peer(_)));
        assert_eq!(ledger.sums().len(), MOST + 3);
        let other = ledger.sums()[&(Direction::Inbound, Who::Other)];
        assert_eq!((other.opened, other.closed), (936, 936));
    }

    #[test]
    fn a_name_without_end_is_no_label() {
        let account = Ledger::default().open(Direction::Outbound, Some(&"dns:a ".repeat(400).into()));
        assert_eq!(account.1, Who::Other);
    }
}
