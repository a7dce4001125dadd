//! What `/status` tells about connections: who is connected, who was refused, who still speaks plaintext.
//!
//! Invariant: its size does not depend on what anybody sends. Lists are bounded, the oldest entry goes first.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;

use crate::core::outcome::Reason;
use crate::core::route::Direction;
use crate::proxy::connection::{Connection, Ending};
use crate::proxy::handshake::Protocol;
use crate::proxy::metrics::{ActiveGuard, Metrics};
use crate::proxy::pump::{Moved, Tally};
use crate::proxy::traffic::{Account, Ledger, Sums, Who};
use crate::tls::timestamp;

/// A cluster of hundreds of nodes has two a node.
const MOST_GROUPS: usize = 1024;
const MOST_REFUSALS: usize = 64;
const MOST_PLAINTEXT_PEERS: usize = 256;

/// Connections, refusals and plaintext peers.
#[derive(Debug, Default)]
pub(super) struct Board {
    next_id: AtomicU64,
    open: Mutex<OpenNow>,
    refusals: Mutex<VecDeque<Refusal>>,
    plaintext: Mutex<BTreeMap<(IpAddr, Direction), PlaintextPeer>>,
}

/// Open connections and the sums of those that were; behind one lock, so that none is ever in both or in neither.
#[derive(Debug, Default)]
struct OpenNow {
    by_id: BTreeMap<u64, Open>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Open {
    direction: Direction,
    peer: IpAddr,
    identity: Option<Arc<str>>,
    /// Whether it is counted among the many identities that are not told apart.
    is_among_others: bool,
    tls: Option<Protocol>,
    since: Instant,
    moved: Arc<Moved>,
    chain: Option<Chain>,
    ending: Option<Arc<Ending>>,
}

/// What a peer showed, leaf first.
pub(super) type Chain = Arc<[CertificateDer<'static>]>;

impl Open {
    /// Where it is counted.
    fn account(&self) -> Account {
        let who = self.identity.as_ref().map_or(Who::Nobody, |identity| Who::Peer(Arc::clone(identity)));
        (self.direction, if self.is_among_others { Who::Other } else { who })
    }

    fn is_secured_before(&self, before: Instant) -> bool {
        self.tls.is_some() && self.since < before
    }
}

/// Open connections with one peer of one identity.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) identity: Option<String>,
    pub(super) tls: Option<String>,
    pub(super) connections: u64,
    pub(super) oldest_seconds: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// A connection that came to nothing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Refusal {
    pub(super) at: String,
    pub(super) direction: Direction,
    pub(super) peer: SocketAddr,
    pub(super) original_dst: Option<SocketAddr>,
    pub(super) reason: Reason,
    pub(super) identity: Option<String>,
    pub(super) allowed: Option<String>,
    pub(super) looked_like: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) hint: Option<&'static str>,
}

/// A peer that spoke plaintext and was let.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PlaintextPeer {
    pub(super) peer: IpAddr,
    pub(super) direction: Direction,
    pub(super) connections: u64,
    pub(super) last: String,
}

/// Keeps a connection on the board while it is open.
#[derive(Debug)]
pub(super) struct OpenGuard<'a> {
    board: &'a Board,
    id: u64,
    _active: ActiveGuard,
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        let mut open = lock(&self.board.open);
        if let Some(ended) = open.by_id.remove(&self.id) {
            open.ledger.close(&ended.account(), &ended.moved);
        }
    }
}

impl Board {
    /// How many connections there have been.
    pub(super) fn begun(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// A connection that was just accepted.
    pub(super) fn connection(&self, direction: Direction, from: SocketAddr, metrics: &Metrics) -> Connection {
        let (bytes_in, bytes_out) = metrics.bytes(direction);
        Connection {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            direction,
            from,
            target: None,
            started: Instant::now(),
            agreed: None,
            failed: None,
            plaintext: false,
            first: None,
            detail: None,
            moved: Arc::new(Moved { bytes_in: Tally::new(bytes_in), bytes_out: Tally::new(bytes_out) }),
            steps: Vec::new(),
            span: None,
            ending: None,
        }
    }

    /// Shows a connection until the guard is dropped; their number is bounded by `--max-connections`.
    pub(super) fn open(&self, connection: &Connection, metrics: &Metrics) -> OpenGuard<'_> {
        let mut now = lock(&self.open);
        let (_, who) = now.ledger.open(connection.direction, connection.identity());
        let open = Open {
            is_among_others: who == Who::Other,
            direction: connection.direction,
            peer: connection.peer().ip(),
            identity: connection.identity().cloned(),
            tls: connection.agreed.as_ref().map(|agreed| agreed.tls),
            since: connection.started,
            moved: Arc::clone(&connection.moved),
            chain: connection.agreed.as_ref().and_then(|agreed| agreed.chain.clone()),
            ending: connection.ending.clone(),
        };
        now.by_id.insert(connection.id, open);
        drop(now);
        OpenGuard { board: self, id: connection.id, _active: metrics.active(connection.direction) }
    }

    /// What the peers of open connections showed, each once.
    pub(super) fn chains(&self) -> Vec<Chain> {
        let open = lock(&self.open);
        let chains: HashSet<&Chain> = open.by_id.values().filter_map(|open| open.chain.as_ref()).collect();
        chains.into_iter().cloned().collect()
    }

    /// Ends the connections whose peers showed one of these; how many.
    pub(super) fn end_chains(&self, chains: &[Chain], reason: Reason) -> usize {
        self.end(reason, |open| open.chain.as_ref().is_some_and(|chain| chains.contains(chain)))
    }

    /// Whether there is a connection over TLS with this pod.
    pub(super) fn is_secured(&self, peer: IpAddr) -> bool {
        lock(&self.open).by_id.values().any(|open| open.peer == peer && open.tls.is_some())
    }

    /// Pods with connections over TLS that are older than this.
    pub(super) fn peers_before(&self, before: Instant) -> BTreeSet<IpAddr> {
        let open = lock(&self.open);
        open.by_id.values().filter(|open| open.is_secured_before(before)).map(|open| open.peer).collect()
    }

    /// Ends the connections over TLS with one pod that are older than this; how many.
    pub(super) fn end_peer(&self, peer: IpAddr, before: Instant, reason: Reason) -> usize {
        self.end(reason, |open| open.peer == peer && open.is_secured_before(before))
    }

    fn end(&self, reason: Reason, which: impl Fn(&Open) -> bool) -> usize {
        let open = lock(&self.open);
        let ending: Vec<_> =
            open.by_id.values().filter(|open| which(open)).filter_map(|open| open.ending.clone()).collect();
        drop(open);
        ending.iter().for_each(|ending| ending.end(reason));
        ending.len()
    }

    pub(super) fn refused(&self, connection: &Connection, reason: Reason, now: OffsetDateTime) {
        let failed = connection.failed.as_ref();
        let refusal = Refusal {
            at: timestamp(now),
            direction: connection.direction,
            peer: connection.peer(),
            original_dst: connection.target,
            reason,
            identity: failed.and_then(|failed| failed.seen.clone()).or(connection.identity().map(ToString::to_string)),
            allowed: failed.and_then(|failed| failed.allowed.clone()),
            looked_like: connection.first.map(|first| first.to_string()),
            detail: failed.map(|failed| failed.detail.clone()).or(connection.detail.clone()),
            hint: reason.hint(connection.first),
        };
        let mut refusals = lock(&self.refusals);
        if refusals.len() == MOST_REFUSALS {
            refusals.pop_front();
        }
        refusals.push_back(refusal);
    }

    /// Remembers that a peer spoke plaintext and was let.
    pub(super) fn plaintext(&self, connection: &Connection) {
        let (peer, direction) = (connection.peer().ip(), connection.direction);
        let mut peers = lock(&self.plaintext);
        if peers.len() >= MOST_PLAINTEXT_PEERS && !peers.contains_key(&(peer, direction)) {
            let oldest = peers.iter().min_by(|(_, a), (_, b)| a.last.cmp(&b.last)).map(|(key, _)| *key);
            oldest.and_then(|key| peers.remove(&key));
        }
        let entry = peers.entry((peer, direction)).or_insert_with(|| PlaintextPeer {
            peer,
            direction,
            connections: 0,
            last: String::new(),
        });
        entry.connections += 1;
        entry.last = timestamp(OffsetDateTime::now_utc());
    }

    /// Open connections by peer and identity.
    pub(super) fn groups(&self) -> Vec<Group> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        for open in lock(&self.open).by_id.values() {
            let tls = open.tls.map(|tls| [tls.version(), tls.cipher()]);
            let key = (open.peer, open.direction, open.identity.clone(), tls);
            if groups.len() >= MOST_GROUPS && !groups.contains_key(&key) {
                continue;
            }
            let group = groups.entry(key).or_insert_with(|| Group {
                direction: open.direction,
                peer: open.peer,
                identity: open.identity.as_ref().map(ToString::to_string),
                tls: tls.map(|tls| tls.join(" ")),
                connections: 0,
                oldest_seconds: 0,
                bytes_in: 0,
                bytes_out: 0,
            });
            group.connections += 1;
            group.oldest_seconds = group.oldest_seconds.max(open.since.elapsed().as_secs());
            group.bytes_in += open.moved.bytes_in.bytes();
            group.bytes_out += open.moved.bytes_out.bytes();
        }
        groups.into_values().collect()
    }

    /// Connections and bytes by identity, of open connections too.
    pub(super) fn traffic(&self) -> BTreeMap<Account, Sums> {
        let open = lock(&self.open);
        let mut traffic = open.ledger.sums();
        for open in open.by_id.values() {
            traffic.entry(open.account()).or_default().add(&open.moved);
        }
        traffic
    }

    /// Latest refusals, the newest first.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        lock(&self.refusals).iter().rev().cloned().collect()
    }

    /// Peers that spoke plaintext.
    pub(super) fn plaintext_peers(&self) -> Vec<PlaintextPeer> {
        lock(&self.plaintext).values().cloned().collect()
    }
}

/// A panic in one connection must not hide the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
