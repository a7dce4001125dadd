//! Log lines that somebody else can cause, held to a number a second: a flood of refusals must not fill a disk.
//!
//! Metrics and `/status` count every refusal all the same.

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
pub(super) struct Flood(Mutex<Window>);

impl Default for Flood {
    fn default() -> Self {
        Self(Mutex::new(Window { since: Instant::now(), lines: 0, held_back: 0 }))
    }
}

impl Flood {
    /// Whether one more line may be written now. Says, at the first line after a flood, how many were held back.
    pub(super) fn may_log(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(window.since) >= PERIOD {
            if window.held_back > 0 {
                tracing::warn!(
                    lines = window.held_back,
                    "refused connections were not logged; /metrics has counted them"
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
