//! Peers that lately showed that they speak no TLS; permissive mode alone asks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Long enough to spare a reconnecting app the useless handshakes, short enough that a peer that has just been given a
/// sidecar is soon dialled with TLS.
const MEMORY: Duration = Duration::from_secs(60);
/// More peers than any cluster has; beyond it nothing is remembered, which costs one handshake a connection.
const MOST: usize = 4096;

/// Peers that lately showed that they speak no TLS.
#[derive(Debug, Default)]
pub(super) struct PlaintextPeers(Mutex<HashMap<SocketAddr, Instant>>);

impl PlaintextPeers {
    pub(super) fn contains(&self, peer: SocketAddr) -> bool {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(&peer).is_some_and(|since| since.elapsed() < MEMORY)
    }

    pub(super) fn remember(&self, peer: SocketAddr) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MOST {
            peers.retain(|_, since| since.elapsed() < MEMORY);
        }
        if peers.len() < MOST {
            peers.insert(peer, Instant::now());
        }
    }
}
