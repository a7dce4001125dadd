//! How long to leave alone whoever gave nothing.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// A pause that doubles, from 1 to 30 s.
#[derive(Debug)]
pub(super) struct Pause(Duration);

impl Pause {
    pub(super) const fn new() -> Self {
        Self(FIRST)
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(jittered(self.next())).await;
    }

    fn next(&mut self) -> Duration {
        let next = (self.0 * 2).min(LONGEST);
        std::mem::replace(&mut self.0, next)
    }
}

/// Between nine and eleven tenths: all pods of a cluster are told of a trouble at the same time.
pub(super) fn jittered(duration: Duration) -> Duration {
    let thousandths = RandomState::new().hash_one(()) % 201;
    duration * u32::try_from(900 + thousandths).unwrap_or(1000) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_half_a_minute() {
        let mut pause = Pause::new();
        let seconds: Vec<u64> = (0..7).map(|_| pause.next().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn pods_do_not_ask_all_at_once() {
        let hour = Duration::from_secs(3600);
        let some: Vec<Duration> = (0..100).map(|_| jittered(hour)).collect();
        assert!(some.iter().all(|one| (hour * 9 / 10..=hour * 11 / 10).contains(one)), "{some:?}");
        assert!(some.iter().any(|one| *one != some[0]));
    }
}
