//! Peers that cannot be had are left alone for a while: a circuit breaker for each.
//!
//! Pure: the caller brings the time. Invariant: an open circuit lets exactly one attempt through once its pause is over,
//! and what comes of that decides.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// More peers than any cluster has; beyond it nothing new is remembered, and what is not remembered is let through.
const MOST: usize = 4096;

/// A peer that nobody has dialled in vain for so long has gone for good, or is well: pods come back with other addresses.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Attempts that fail in a row until the circuit opens; 0 never opens it.
    pub failures: u32,
    /// How long nobody is let through.
    pub pause: Duration,
}

/// One peer's circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    Closed { failures: u32 },
    Open { until: Instant, failures: u32 },
    HalfOpen { failures: u32 },
}

/// What the caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Try, and say what came of it.
    Try,
    /// The same, as the one who finds out whether the peer is back.
    Probe,
    /// Leave it alone.
    Refused,
}

/// What a failure did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing yet.
    Counted,
    /// The circuit has opened.
    Opened,
    /// It was open, and the one attempt that was let through failed too.
    StaysOpen,
}

/// A peer with failures behind it, as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// Which peer.
    pub peer: SocketAddr,
    /// `closed`, `open`, `half_open`, or `untried`: the pause is over, and nobody has dialled the peer since.
    pub state: &'static str,
    /// Attempts that failed in a row.
    pub failures: u32,
}

impl Standing {
    /// Whether the peer is left alone now, but for one attempt that may be under way.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.state, "open" | "half_open")
    }
}

/// The circuits of all peers.
#[derive(Debug)]
pub struct Breakers {
    policy: Policy,
    /// Each with its last failure.
    circuits: HashMap<SocketAddr, (Circuit, Instant)>,
}

impl Breakers {
    /// All closed.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, circuits: HashMap::new() }
    }

    /// Whether the peer may be tried.
    pub fn admit(&mut self, peer: SocketAddr, now: Instant) -> Admission {
        self.forget(now);
        match self.circuits.get_mut(&peer).map(|(circuit, _)| circuit) {
            None | Some(Circuit::Closed { .. }) => Admission::Try,
            Some(circuit @ Circuit::Open { .. }) => {
                let Circuit::Open { until, failures } = *circuit else { return Admission::Try };
                if now < until {
                    return Admission::Refused;
                }
                *circuit = Circuit::HalfOpen { failures };
                Admission::Probe
            }
            Some(Circuit::HalfOpen { .. }) => Admission::Refused,
        }
    }

    /// An attempt succeeded; whether that closed an open circuit.
    pub fn succeeded(&mut self, peer: SocketAddr) -> bool {
        matches!(self.circuits.remove(&peer), Some((Circuit::Open { .. } | Circuit::HalfOpen { .. }, _)))
    }

    /// An attempt failed.
    pub fn failed(&mut self, peer: SocketAddr, now: Instant) -> Effect {
        let Policy { failures: most, pause } = self.policy;
        if most == 0 || (self.circuits.len() >= MOST && !self.circuits.contains_key(&peer)) {
            return Effect::Counted;
        }
        let (circuit, last) = self.circuits.entry(peer).or_insert((Circuit::Closed { failures: 0 }, now));
        *last = now;
        let open = |failures| Circuit::Open { until: now + pause, failures };
        let (next, effect) = match *circuit {
            Circuit::Closed { failures } if failures + 1 < most => {
                (Circuit::Closed { failures: failures + 1 }, Effect::Counted)
            }
            Circuit::Closed { failures } => (open(failures + 1), Effect::Opened),
            // An attempt from before it opened.
            Circuit::Open { until, failures } => {
                (Circuit::Open { until, failures: failures.saturating_add(1) }, Effect::Counted)
            }
            Circuit::HalfOpen { failures } => (open(failures.saturating_add(1)), Effect::StaysOpen),
        };
        *circuit = next;
        effect
    }

    /// An attempt ended without an answer to whether the peer can be had: the next one may try.
    pub fn abandoned(&mut self, peer: SocketAddr, now: Instant) {
        if let Some((circuit @ Circuit::HalfOpen { .. }, _)) = self.circuits.get_mut(&peer)
            && let Circuit::HalfOpen { failures } = *circuit
        {
            *circuit = Circuit::Open { until: now, failures };
        }
    }

    /// What is so old that it says nothing goes; an attempt under way is still to tell.
    fn forget(&mut self, now: Instant) {
        self.circuits.retain(|_, (circuit, last)| {
            matches!(circuit, Circuit::HalfOpen { .. }) || now.saturating_duration_since(*last) < FORGOTTEN
        });
    }

    /// Peers with failures behind them.
    pub fn standings(&mut self, now: Instant) -> Vec<Standing> {
        self.forget(now);
        let mut standings: Vec<Standing> = self
            .circuits
            .iter()
            .map(|(peer, (circuit, _))| {
                let (state, failures) = match circuit {
                    Circuit::Closed { failures } => ("closed", *failures),
                    Circuit::Open { until, failures } if now < *until => ("open", *failures),
                    Circuit::Open { failures, .. } => ("untried", *failures),
                    Circuit::HalfOpen { failures } => ("half_open", *failures),
                };
                Standing { peer: *peer, state, failures }
            })
            .collect();
        standings.sort_unstable_by_key(|standing| standing.peer);
        standings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    fn tripped() -> (Breakers, SocketAddr, Instant) {
        let (peer, now) = ("10.0.0.7:2552".parse().unwrap(), Instant::now());
        let mut breakers = Breakers::new(Policy { failures: 3, pause: PAUSE });
        assert_eq!([0; 3].map(|_| breakers.failed(peer, now)), [Effect::Counted, Effect::Counted, Effect::Opened]);
        (breakers, peer, now)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through_after_the_pause() {
        let (mut breakers, peer, now) = tripped();
        assert_eq!(breakers.admit(peer, now), Admission::Refused);
        assert_eq!(breakers.admit("10.0.0.8:2552".parse().unwrap(), now), Admission::Try);
        assert_eq!(breakers.admit(peer, now + PAUSE), Admission::Probe);
        assert_eq!(breakers.admit(peer, now + PAUSE), Admission::Refused, "one is enough");
        assert!(breakers.succeeded(peer));
        assert_eq!(breakers.admit(peer, now + PAUSE), Admission::Try);
        assert!(breakers.standings(now).is_empty());
    }

    #[test]
    fn a_peer_whose_pause_is_over_is_not_left_alone_any_more() {
        let (mut breakers, peer, now) = tripped();
        let shown = |breakers: &mut Breakers, at| {
            let standing = breakers.standings(at).remove(0);
            (standing.state, standing.is_refused())
        };
        assert_eq!(shown(&mut breakers, now), ("open", true));
        assert_eq!(shown(&mut breakers, now + PAUSE), ("untried", false));
        assert_eq!(breakers.admit(peer, now + PAUSE), Admission::Probe);
        assert_eq!(shown(&mut breakers, now + PAUSE), ("half_open", true));
    }

    #[test]
    fn a_peer_that_nobody_dials_any_more_is_forgotten() {
        let (mut breakers, peer, now) = tripped();
        let late = now + FORGOTTEN;
        assert_eq!(breakers.standings(late - PAUSE).len(), 1);
        assert!(breakers.standings(late).is_empty());
        assert_eq!(breakers.admit(peer, late), Admission::Try);
        // Whoever finds out whether it is back is waited for.
        let (mut breakers, peer, now) = tripped();
        assert_eq!(breakers.admit(peer, now + PAUSE), Admission::Probe);
        assert_eq!(breakers.standings(now + FORGOTTEN).len(), 1);
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_that_nobody_answers_for_does_not_lock_it() {
        let (mut breakers, peer, now) = tripped();
        let later = now + PAUSE;
        assert_eq!(breakers.admit(peer, later), Admission::Probe);
        assert_eq!(breakers.failed(peer, later), Effect::StaysOpen);
        assert_eq!(breakers.admit(peer, later), Admission::Refused);
        assert_eq!(breakers.admit(peer, later + PAUSE), Admission::Probe);
        breakers.abandoned(peer, later + PAUSE);
        assert_eq!(breakers.admit(peer, later + PAUSE), Admission::Probe);
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let (peer, now) = ("10.0.0.7:2552".parse().unwrap(), Instant::now());
        let mut breakers = Breakers::new(Policy { failures: 2, pause: PAUSE });
        for _ in 0..5 {
            assert_eq!(breakers.failed(peer, now), Effect::Counted);
            assert!(!breakers.succeeded(peer), "it was not open");
        }
        let mut never = Breakers::new(Policy { failures: 0, pause: PAUSE });
        for _ in 0..50 {
            assert_eq!(never.failed(peer, now), Effect::Counted);
        }
    }
}
