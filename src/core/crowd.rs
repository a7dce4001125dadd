//! How many of something each source address has, so that one neighbour cannot take every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts by source address; an address without any is not kept.
#[derive(Debug)]
pub(crate) struct Crowd {
    counts: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
    spares_loopback: bool,
}

/// One counted place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    source: IpAddr,
}

impl Crowd {
    /// At most this many a source, but for loopback, which is this pod itself.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), most, spares_loopback: true })
    }

    /// At most this many a source, whatever it is.
    pub(crate) fn strict(most: usize) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), most, spares_loopback: false })
    }

    /// A place for the source; `None` if it has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = source.to_canonical();
        if !(self.spares_loopback && source.is_loopback()) {
            let mut counts = self.counts();
            let count = counts.entry(source).or_default();
            if *count >= self.most {
                return None;
            }
            *count += 1;
        }
        Some(Place { crowd: Arc::clone(self), source })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place() {
        let crowd = Crowd::new(2);
        let (greedy, other): (IpAddr, IpAddr) = ("10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap());
        let held: Vec<Place> = (0..2).map(|_| crowd.enter(greedy).unwrap()).collect();
        assert!(crowd.enter(greedy).is_none());
        assert!(crowd.enter(other).is_some());
        drop(held);
        assert!(crowd.enter(greedy).is_some());
        assert!(crowd.counts().is_empty(), "places that are given back are not kept");
    }

    #[test]
    fn this_pod_itself_is_not_limited() {
        let crowd = Crowd::new(1);
        let held: Vec<Option<Place>> = (0..3).map(|_| crowd.enter("127.0.0.1".parse().unwrap())).collect();
        assert!(held.iter().all(Option::is_some));
    }
}
