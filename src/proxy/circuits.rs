//! Peers that cannot be had are left alone: the circuit breaker at work.
//!
//! Invariant: whoever was admitted tells what came of it, or counts as never having tried.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::core::breaker::{Admission, Breakers, Effect, Policy, Standing};
use crate::core::outcome::Reason;

/// The circuits of all peers that the app dials.
#[derive(Debug)]
pub(super) struct Circuits {
    breakers: Mutex<Breakers>,
    policy: Policy,
}

/// One attempt to have a peer.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    circuits: &'a Circuits,
    peer: SocketAddr,
    told: bool,
}

impl Circuits {
    pub(super) fn new(policy: Policy) -> Self {
        Self { breakers: Mutex::new(Breakers::new(policy)), policy }
    }

    /// Leave to try the peer.
    pub(super) fn attempt(&self, peer: SocketAddr) -> Result<Attempt<'_>, Reason> {
        match self.breakers().admit(peer, Instant::now()) {
            Admission::Refused => return Err(Reason::CircuitOpen),
            Admission::Probe => tracing::info!(%peer, "trying the peer again"),
            Admission::Try => {}
        }
        Ok(Attempt { circuits: self, peer, told: false })
    }

    /// Peers with failures behind them.
    pub(super) fn standings(&self) -> Vec<Standing> {
        self.breakers().standings(Instant::now())
    }

    fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The peer was had, or was not.
    pub(super) fn tell(mut self, had: bool) {
        self.told = true;
        let (peer, policy) = (self.peer, self.circuits.policy);
        if had {
            if self.circuits.breakers().succeeded(peer) {
                tracing::info!(%peer, "the peer can be had again");
            }
            return;
        }
        let effect = self.circuits.breakers().failed(peer, Instant::now());
        if effect == Effect::Opened {
            tracing::warn!(
                %peer,
                failures = policy.failures,
                pause_seconds = policy.pause.as_secs(),
                "the peer could not be had several times in a row: connections to it are refused at once, but for one \
                 attempt after each pause"
            );
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.circuits.breakers().abandoned(self.peer, Instant::now());
        }
    }
}
