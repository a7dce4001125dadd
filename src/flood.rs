//! Log lines that somebody else can cause, held to a number a second: a flood of them must not fill a disk.
//!
//! Metrics count what they would have said all the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(1);
/// Lines a second.
const MOST: u32 = 50;

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    held_back: u64,
}

/// Counts lines.
#[derive(Debug)]
pub(crate) struct Flood(Mutex<Window>);

impl Default for Flood {
    fn default() -> Self {
        Self(Mutex::new(Window { since: Instant::now(), lines: 0, held_back: 0 }))
    }
}

impl Flood {
    /// Whether one more line may be written now. Says, at the first line after a flood, how many were held back.
    pub(crate) fn may_log(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(window.since) >= PERIOD {
            if window.held_back > 0 {
                tracing::warn!(
                    lines = window.held_back,
                    "lines were held back; /metrics has counted what they would have said"
                );
            }
            *window = Window { since: now, lines: 0, held_back: 0 };
        }
        if window.lines < MOST {
            window.lines += 1;
            return true;
        }
        window.held_back += 1;
        false
    }
}

/// How often the same full limit is complained of.
const REMINDER: Duration = Duration::from_secs(30);

/// When each full limit was last complained of.
#[derive(Debug, Default)]
pub(crate) struct Full(Mutex<BTreeMap<&'static str, Instant>>);

impl Full {
    pub(crate) fn may_say(&self, option: &'static str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = said.get(option).is_none_or(|last| now.duration_since(*last) >= REMINDER);
        if may {
            said.insert(option, now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_to_a_number_a_second() {
        let (flood, now) = (Flood::default(), Instant::now());
        let logged = |at: Instant| (0..1000).filter(|_| flood.may_log(at)).count();
        assert_eq!(logged(now), 50);
        assert_eq!(logged(now + PERIOD), 50);
    }
}
