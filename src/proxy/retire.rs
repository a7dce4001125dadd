//! Ends connections that go on by what no longer holds: with revoked peers at once, and, if that is asked for, those made
//! with earlier credentials one pod after the other.
//!
//! Invariant: connections are otherwise left alone; a cluster notices no rotation.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::time::sleep_until;

use crate::core::outcome::Reason;
use crate::proxy::Sidecar;
use crate::proxy::board::Chain;
use crate::tls::{CertificateFacts, Credentials};

/// Follows the credentials.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let Some(mut credentials) = sidecar.credentials.clone() else { return };
    let mut before = credentials.borrow_and_update().clone();
    let mut old = Old::none();
    loop {
        let next = async {
            let peer = match old.peers.front() {
                Some(peer) => *peer,
                None => std::future::pending().await,
            };
            sleep_until(old.due.into()).await;
            peer
        };
        tokio::select! {
            changed = credentials.changed() => {
                // Whoever followed them has died, which the log says.
                let Ok(()) = changed else { return };
                let Some(current) = credentials.borrow_and_update().clone() else { continue };
                revoke(&sidecar, Arc::clone(&current)).await;
                // Renewed lists alone change nothing about who we are and whom we trust.
                if before.is_none_or(|before| !are_same(&before, &current)) {
                    old = Old::of(&sidecar);
                }
                before = Some(current);
            }
            peer = next => {
                old.peers.pop_front();
                old.due = Instant::now() + jittered(old.pause);
                let ended = sidecar.board.end_peer(peer, old.before, Reason::Recycled);
                tracing::info!(%peer, ended, left = old.peers.len(), "connections made with earlier credentials are replaced");
            }
        }
    }
}

/// Pods with connections made with earlier credentials.
struct Old {
    peers: VecDeque<IpAddr>,
    before: Instant,
    pause: Duration,
    /// When the next one's are ended.
    due: Instant,
}

impl Old {
    fn none() -> Self {
        let now = Instant::now();
        Self { peers: VecDeque::new(), before: now, pause: Duration::ZERO, due: now }
    }

    fn of(sidecar: &Sidecar) -> Self {
        let within = sidecar.config.recycle_within;
        if within.is_zero() {
            return Self::none();
        }
        let before = Instant::now();
        // All nodes see the new credentials at about the same time: they are not to begin with the same pod.
        let order = RandomState::new();
        let mut peers: Vec<IpAddr> = sidecar.board.peers_before(before).into_iter().collect();
        peers.sort_by_cached_key(|peer| order.hash_one(peer));
        let pause = within / u32::try_from(peers.len()).unwrap_or(u32::MAX).max(1);
        Self { peers: peers.into(), before, pause, due: before + jittered(pause) }
    }
}

/// Half of it to all of it.
fn jittered(pause: Duration) -> Duration {
    let lot = RandomState::new().hash_one(()) % 1000;
    pause.mul_f64(0.5 + lot as f64 / 2000.0)
}

/// Whether both stand for the same: our leaf and our roots.
fn are_same(one: &Credentials, other: &Credentials) -> bool {
    let leaf = |credentials: &Credentials| mark_of(&credentials.leaf);
    let roots = |credentials: &Credentials| credentials.roots.iter().map(mark_of).collect::<BTreeSet<_>>();
    leaf(one) == leaf(other) && roots(one) == roots(other)
}

/// What tells one certificate from another: no authority issues a serial number twice (RFC 5280, section 4.1.2.2).
fn mark_of(certificate: &CertificateFacts) -> (String, Vec<u8>, Vec<u8>) {
    (certificate.issuer.clone(), certificate.raw_serial.clone(), certificate.public_key.clone())
}

async fn revoke(sidecar: &Sidecar, credentials: Arc<Credentials>) {
    let chains = sidecar.board.chains();
    let judged = tokio::task::spawn_blocking(move || {
        let now = OffsetDateTime::now_utc();
        chains.into_iter().filter(|chain| credentials.is_revoked(chain, now)).collect::<Vec<Chain>>()
    });
    let Ok(revoked) = judged.await else { return };
    if !revoked.is_empty() {
        let ended = sidecar.board.end_chains(&revoked, Reason::Revoked);
        tracing::warn!(certificates = revoked.len(), ended, "connections with revoked peers are ended");
    }
}
