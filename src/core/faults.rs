//! Faults that somebody orders, to see how an application takes them.
//!
//! Pure. Invariant: a fault has an end, and says what it does to whom.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::core::route::Direction;

/// The longest that a fault may last.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// More at a time nobody could tell apart.
pub const MOST: usize = 16;
/// Longer than any delay that a cluster survives (its failure detector allows some 10 s).
const LONGEST_DELAY_MS: u32 = 60_000;

/// What somebody ordered, as it came.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    kind: Kind,
    /// With whom; everybody if nobody is named.
    peer: Option<IpAddr>,
    /// Which way; both if none is named.
    direction: Option<Direction>,
    /// Of the connections; all if it is not said.
    percent: Option<u8>,
    /// How long.
    seconds: u32,
    /// For a delay.
    milliseconds: Option<u32>,
    /// For a throttle.
    bytes_per_second: Option<u32>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Delay,
    Abort,
    BlackHole,
    Throttle,
}

/// What a fault does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Effect {
    /// Bytes, and new connections, come later.
    Delay {
        /// By so much.
        milliseconds: u32,
    },
    /// The connection is reset, and new ones are.
    Abort,
    /// Nothing passes, and nobody is told.
    BlackHole,
    /// Bytes pass no faster than this.
    Throttle {
        /// In each direction.
        bytes_per_second: u32,
    },
}

/// A fault in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What it does.
    #[serde(flatten)]
    pub effect: Effect,
    /// With whom; everybody if `None`.
    pub peer: Option<IpAddr>,
    /// Which way; both if `None`.
    pub direction: Option<Direction>,
    /// Of the connections.
    pub percent: u8,
    /// When it ends.
    #[serde(skip)]
    pub until: Instant,
}

/// A connection, as faults choose by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The other pod.
    pub peer: IpAddr,
    /// Which way.
    pub direction: Direction,
    /// Drawn once a connection, 0 to 99: the lower, the more faults meet it.
    pub lot: u8,
}

/// Why an order is no fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultError {
    /// No end, or one too far.
    #[error("seconds {0}: a fault ends within 1 to {max} seconds", max = LONGEST.as_secs())]
    Seconds(u32),
    /// A part of nothing.
    #[error("percent {0}: of the connections 1 to 100 percent")]
    Percent(u8),
    /// The kind wants another number.
    #[error("{0}")]
    Amount(&'static str),
    /// Too many.
    #[error("{MOST} faults are in force already: DELETE them first")]
    Full,
}

impl Order {
    /// The fault, in force from now.
    ///
    /// # Errors
    /// See [`FaultError`].
    pub fn at(self, now: Instant) -> Result<Fault, FaultError> {
        let length = Duration::from_secs(self.seconds.into());
        if length.is_zero() || length > LONGEST {
            return Err(FaultError::Seconds(self.seconds));
        }
        let percent = self.percent.unwrap_or(100);
        if !(1..=100).contains(&percent) {
            return Err(FaultError::Percent(percent));
        }
        let effect = match (self.kind, self.milliseconds, self.bytes_per_second) {
            (Kind::Delay, Some(milliseconds @ 1..=LONGEST_DELAY_MS), None) => Effect::Delay { milliseconds },
            (Kind::Delay, ..) => {
                return Err(FaultError::Amount("a delay takes milliseconds, 1 to 60000, and no bytes"));
            }
            (Kind::Throttle, None, Some(bytes_per_second @ 1..)) => Effect::Throttle { bytes_per_second },
            (Kind::Throttle, ..) => {
                return Err(FaultError::Amount("a throttle takes bytes_per_second, 1 or more, and no milliseconds"));
            }
            (Kind::Abort, None, None) => Effect::Abort,
            (Kind::BlackHole, None, None) => Effect::BlackHole,
            _ => return Err(FaultError::Amount("abort and black_hole take neither milliseconds nor bytes_per_second")),
        };
        Ok(Fault {
            effect,
            peer: self.peer.map(|peer| peer.to_canonical()),
            direction: self.direction,
            percent,
            until: now + length,
        })
    }
}

impl Fault {
    /// Whether it is in force and meets the connection.
    #[must_use]
    pub fn meets(&self, marked: &Marked, now: Instant) -> bool {
        now < self.until
            && marked.lot < self.percent
            && self.peer.is_none_or(|peer| peer == marked.peer.to_canonical())
            && self.direction.is_none_or(|direction| direction == marked.direction)
    }
}

/// When bytes that came at `begun` may pass, if nothing else is ordered: after all that delays them, each for no longer than
/// it lasts itself, and not before black holes are over.
pub fn due<'a>(faults: impl Iterator<Item = &'a Fault>, bytes: usize, begun: Instant) -> Instant {
    let (mut wait, mut held) = (Duration::ZERO, begun);
    for fault in faults {
        let longest = fault.until.saturating_duration_since(begun);
        wait += match fault.effect {
            Effect::Delay { milliseconds } => longest.min(Duration::from_millis(milliseconds.into())),
            Effect::Throttle { bytes_per_second } => {
                longest.min(Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second)))
            }
            Effect::BlackHole => {
                held = held.max(fault.until);
                Duration::ZERO
            }
            Effect::Abort => Duration::ZERO,
        };
    }
    held.max(begun + wait)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Effect::Delay { milliseconds } => write!(f, "delays by {milliseconds} ms")?,
            Effect::Abort => f.write_str("resets")?,
            Effect::BlackHole => f.write_str("holds back all bytes of")?,
            Effect::Throttle { bytes_per_second } => write!(f, "slows down to {bytes_per_second} bytes a second")?,
        }
        write!(f, " {} % of the ", self.percent)?;
        if let Some(direction) = self.direction {
            write!(f, "{} ", direction.name())?;
        }
        match self.peer {
            Some(peer) => write!(f, "connections with {peer}"),
            None => f.write_str("connections with everybody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Result<Fault, String> {
        let order: Order = serde_json::from_str(json).map_err(|error| error.to_string())?;
        order.at(Instant::now()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_order_without_an_end_or_with_the_wrong_number_is_refused_with_what_to_give() {
        for (json, complaint) in [
            (r#"{"kind":"abort"}"#, "missing field `seconds`"),
            (r#"{"kind":"abort","seconds":0}"#, "1 to 3600"),
            (r#"{"kind":"abort","seconds":3601}"#, "1 to 3600"),
            (r#"{"kind":"abort","seconds":9,"percent":0}"#, "1 to 100"),
            (r#"{"kind":"abort","seconds":9,"percent":101}"#, "1 to 100"),
            (r#"{"kind":"abort","seconds":9,"milliseconds":5}"#, "neither"),
            (r#"{"kind":"delay","seconds":9}"#, "milliseconds"),
            (r#"{"kind":"delay","seconds":9,"milliseconds":60001}"#, "60000"),
            (r#"{"kind":"throttle","seconds":9,"bytes_per_second":0}"#, "1 or more"),
            (r#"{"kind":"throttle","seconds":9,"milliseconds":3}"#, "bytes_per_second"),
            (r#"{"kind":"explode","seconds":9}"#, "unknown variant"),
            (r#"{"kind":"abort","seconds":9,"peers":"10.0.0.7"}"#, "unknown field"),
            (r#"{"kind":"abort","seconds":9,"peer":"shop"}"#, "IP address"),
        ] {
            let error = order(json).expect_err(json);
            assert!(error.contains(complaint), "{json}: {error}");
        }
    }

    #[test]
    fn a_shorter_fault_ends_no_other_and_a_black_hole_holds_to_its_end() {
        let begun = Instant::now();
        let fault = |effect, seconds| {
            let until = begun + Duration::from_secs(seconds);
            Fault { effect, peer: None, direction: None, percent: 100, until }
        };
        let after = |faults: &[Fault]| due(faults.iter(), 1000, begun) - begun;
        let (slow, slower) = (Effect::Delay { milliseconds: 3000 }, Effect::Throttle { bytes_per_second: 500 });
        assert_eq!(after(&[fault(Effect::Abort, 9)]), Duration::ZERO);
        assert_eq!(after(&[fault(slow, 60), fault(Effect::Abort, 1)]), Duration::from_secs(3));
        assert_eq!(after(&[fault(slow, 60), fault(slower, 60)]), Duration::from_secs(5));
        assert_eq!(after(&[fault(slow, 60), fault(slower, 1)]), Duration::from_secs(4));
        assert_eq!(after(&[fault(Effect::BlackHole, 7), fault(slow, 1)]), Duration::from_secs(7));
    }

    #[test]
    fn it_meets_whom_it_names_for_as_long_as_it_lasts() {
        let fault = order(
            r#"{"kind":"delay","seconds":9,"milliseconds":5,"peer":"10.0.0.7","direction":"inbound","percent":10}"#,
        )
        .unwrap();
        let marked = Marked { peer: "::ffff:10.0.0.7".parse().unwrap(), direction: Direction::Inbound, lot: 9 };
        let now = Instant::now();
        assert!(fault.meets(&marked, now));
        assert!(!fault.meets(&marked, now + Duration::from_secs(10)));
        assert!(!fault.meets(&Marked { lot: 10, ..marked }, now));
        assert!(!fault.meets(&Marked { direction: Direction::Outbound, ..marked }, now));
        assert!(!fault.meets(&Marked { peer: "10.0.0.8".parse().unwrap(), ..marked }, now));
        assert_eq!(fault.to_string(), "delays by 5 ms 10 % of the inbound connections with 10.0.0.7");
    }
}
