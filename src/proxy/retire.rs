//! Ends connections that go on by what no longer holds: with revoked peers at once, and, if that is asked for, those made
//! with earlier credentials one pod after the other.
//!
//! Invariant: connections are otherwise left alone; a cluster notices no rotation.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::time::sleep;

use crate::core::outcome::Reason;
use crate::proxy::Sidecar;
use crate::proxy::board::Chain;
use crate::tls::Credentials;

/// Follows the credentials.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let Some(mut credentials) = sidecar.credentials.clone() else { return };
    let mut old = Old { peers: VecDeque::new(), before: Instant::now(), pause: Duration::ZERO };
    loop {
        let next = async {
            let peer = match old.peers.front() {
                Some(peer) => *peer,
                None => std::future::pending().await,
            };
            sleep(jittered(old.pause)).await;
            peer
        };
        tokio::select! {
            changed = credentials.changed() => {
                // Whoever followed them has died, which the log says.
                let Ok(()) = changed else { return };
                let Some(current) = credentials.borrow_and_update().clone() else { continue };
                revoke(&sidecar, current).await;
                old = Old::of(&sidecar);
            }
            peer = next => {
                old.peers.pop_front();
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
}

impl Old {
    fn of(sidecar: &Sidecar) -> Self {
        let before = Instant::now();
        let within = sidecar.config.recycle_within;
        if within.is_zero() {
            return Self { peers: VecDeque::new(), before, pause: within };
        }
        // All nodes see the new credentials at about the same time: they are not to begin with the same pod.
        let order = RandomState::new();
        let mut peers: Vec<IpAddr> = sidecar.board.peers_before(before).into_iter().collect();
        peers.sort_by_cached_key(|peer| order.hash_one(peer));
        let pause = within / u32::try_from(peers.len()).unwrap_or(u32::MAX).max(1);
        Self { peers: peers.into(), before, pause }
    }
}

/// Half of it to all of it.
fn jittered(pause: Duration) -> Duration {
    let lot = RandomState::new().hash_one(()) % 1000;
    pause.mul_f64(0.5 + lot as f64 / 2000.0)
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
