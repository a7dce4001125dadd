//! What peers lately showed of themselves, TLS or none; permissive mode alone asks.
//!
//! Invariant: a peer that has lately spoken TLS with us is not dialled in plaintext, whatever its next answer looks like:
//! an agent that is killed in mid-handshake, or somebody on the path, looks like a peer without TLS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Long enough to spare a reconnecting app the useless handshakes, short enough that a peer that has just been given a
/// sidecar is soon dialled with TLS.
const PLAINTEXT_MEMORY: Duration = Duration::from_secs(60);
/// Counted from the end of the last TLS connection: longer than any restart of an agent, short enough that a pod without
/// one that later gets the address is not kept out for long.
const TLS_MEMORY: Duration = Duration::from_secs(600);
/// More peers than any cluster has; beyond it nothing new is remembered.
const MOST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoke {
    Tls,
    Plaintext,
}

/// What peers lately showed of themselves.
#[derive(Debug, Default)]
pub(super) struct PeerMemory(Mutex<HashMap<SocketAddr, (Spoke, Instant)>>);

impl PeerMemory {
    /// Whether the peer lately showed that it speaks no TLS.
    pub(super) fn speaks_plaintext(&self, peer: SocketAddr) -> bool {
        self.last(peer) == Some(Spoke::Plaintext)
    }

    /// Whether the peer lately spoke TLS with us.
    pub(super) fn speaks_tls(&self, peer: SocketAddr) -> bool {
        self.last(peer) == Some(Spoke::Tls)
    }

    /// The peer showed that it speaks no TLS.
    pub(super) fn saw_plaintext(&self, peer: SocketAddr) {
        self.remember(peer, Spoke::Plaintext);
    }

    /// The peer spoke TLS, and was authorized.
    pub(super) fn saw_tls(&self, peer: SocketAddr) {
        self.remember(peer, Spoke::Tls);
    }

    /// The peer did not take plaintext either: the next connection begins with TLS again.
    pub(super) fn forget_plaintext(&self, peer: SocketAddr) {
        let mut peers = self.peers();
        if peers.get(&peer).is_some_and(|(spoke, _)| *spoke == Spoke::Plaintext) {
            peers.remove(&peer);
        }
    }

    fn last(&self, peer: SocketAddr) -> Option<Spoke> {
        self.peers().get(&peer).filter(|entry| is_fresh(entry)).map(|(spoke, _)| *spoke)
    }

    fn remember(&self, peer: SocketAddr, spoke: Spoke) {
        let mut peers = self.peers();
        if peers.len() >= MOST {
            peers.retain(|_, entry| is_fresh(entry));
        }
        if peers.len() < MOST || peers.contains_key(&peer) {
            peers.insert(peer, (spoke, Instant::now()));
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<SocketAddr, (Spoke, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh((spoke, since): &(Spoke, Instant)) -> bool {
    let memory = match spoke {
        Spoke::Tls => TLS_MEMORY,
        Spoke::Plaintext => PLAINTEXT_MEMORY,
    };
    since.elapsed() < memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_takes_no_plaintext_is_asked_for_tls_again() {
        let (memory, peer) = (PeerMemory::default(), "10.0.0.7:2552".parse().unwrap());
        memory.saw_plaintext(peer);
        assert!(memory.speaks_plaintext(peer));
        memory.forget_plaintext(peer);
        assert!(!memory.speaks_plaintext(peer));
        memory.saw_tls(peer);
        memory.forget_plaintext(peer);
        assert!(memory.speaks_tls(peer));
    }
}
