//! Who may come in before a byte is read, and who has to go again: a bounded number of connections, and of large bodies, and a
//! bounded share of both a source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::core::places::{Admitted, Places, Ticket};
use crate::flood::Full;
use crate::webhook::metrics::TurnedAway;

/// Lets connections in.
#[derive(Debug)]
pub(super) struct Door {
    places: Mutex<Places<CancellationToken>>,
    turned_away: TurnedAway,
    full: Full,
}

/// A connection that was let in; its place is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Stay {
    door: Arc<Door>,
    ticket: Ticket,
    source: IpAddr,
    evicted: CancellationToken,
    /// Held until the connection has ended, since only then its answer is no longer here.
    large: Mutex<Option<LargePlace>>,
    ends_soon: CancellationToken,
}

impl Door {
    pub(super) fn new(most: usize, share: usize, turned_away: TurnedAway) -> Arc<Self> {
        let places = Mutex::new(Places::strict(most, share));
        Arc::new(Self { places, turned_away, full: Full::default() })
    }

    /// A place for a connection from there, if need be instead of the one that whoever has most has used longest ago.
    pub(super) fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Stay> {
        let evicted = CancellationToken::new();
        let admitted = self.places().enter(source, evicted.clone(), Instant::now());
        let ticket = match admitted {
            Admitted::Free(ticket) => ticket,
            Admitted::InsteadOf(oldest, ticket) => {
                oldest.cancel();
                self.complain("gave_way", source);
                ticket
            }
            Admitted::Refused => {
                self.complain("share", source);
                return None;
            }
            Admitted::Full(_) => {
                self.complain("full", source);
                return None;
            }
        };
        let stay = Stay {
            door: Arc::clone(self),
            ticket,
            source,
            evicted,
            large: Mutex::default(),
            ends_soon: CancellationToken::new(),
        };
        Some(stay)
    }

    pub(super) fn taken(&self) -> usize {
        self.places().taken()
    }

    fn complain(&self, reason: &'static str, source: IpAddr) {
        self.turned_away.count(reason);
        if self.full.may_say(reason) {
            let says = match reason {
                "share" => "an address has as many connections as one may have, and gets no more",
                "gave_way" => "all connections are taken: the oldest of the address with most is closed for a new one",
                _ => "all connections are taken, and none is closed for a new one",
            };
            tracing::warn!(%source, port = self.turned_away.port(), "{says}; is the port kept from strangers?");
        }
    }

    fn places(&self) -> MutexGuard<'_, Places<CancellationToken>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    /// Does the work, unless the place is given to somebody else meanwhile.
    pub(super) async fn keep(&self, work: impl Future<Output = ()>) {
        self.evicted.run_until_cancelled(work).await;
    }

    /// That it is still of use.
    pub(super) fn renew(&self) {
        self.door.places().renew(self.ticket, Instant::now());
    }

    pub(super) fn source(&self) -> IpAddr {
        self.source
    }

    /// Keeps a place for what is large until the connection has ended, which is to be soon.
    pub(super) fn hold(&self, place: LargePlace) {
        *self.large.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        self.ends_soon.cancel();
    }

    pub(super) fn holds_large(&self) -> bool {
        self.ends_soon.is_cancelled()
    }

    /// Waits until it holds a place for what is large.
    pub(super) async fn ends_soon(&self) {
        self.ends_soon.cancelled().await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.door.places().leave(self.ticket);
    }
}

/// Bodies and answers that are large, of which there may be few.
#[derive(Debug)]
pub(super) struct Large {
    all: Arc<Semaphore>,
    share: usize,
    /// Whoever waits, waits for others of its source first: one that sends many keeps nobody else out.
    by_source: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// One of the few places.
#[derive(Debug)]
pub(super) struct LargePlace {
    _of_all: OwnedSemaphorePermit,
    _of_source: OwnedSemaphorePermit,
}

impl Large {
    pub(super) fn new(most: usize, share: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), share, by_source: Mutex::default() }
    }

    /// Waits for a place; `None` never comes, since nobody closes them.
    pub(super) async fn enter(&self, source: IpAddr) -> Option<LargePlace> {
        let of_source = self.of_source(source).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(LargePlace { _of_all: of_all, _of_source: of_source })
    }

    /// A place that is free now.
    pub(super) fn enter_now(&self, source: IpAddr) -> Option<LargePlace> {
        let of_source = self.of_source(source).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(LargePlace { _of_all: of_all, _of_source: of_source })
    }

    fn of_source(&self, source: IpAddr) -> Arc<Semaphore> {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        by_source.retain(|_, places| places.strong_count() > 0);
        let source = source.to_canonical();
        if let Some(places) = by_source.get(&source).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(self.share));
        by_source.insert(source, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_source_keeps_nobody_else_from_what_is_large() {
        let large = Large::new(4, 2);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held = [large.enter_now(greedy).unwrap(), large.enter_now(greedy).unwrap()];
        let mut waiting = std::pin::pin!(large.enter(greedy));
        assert!(large.enter_now(greedy).is_none() && waiting.as_mut().now_or_never().is_none());
        let others = [large.enter_now(other).unwrap(), large.enter(other).now_or_never().unwrap().unwrap()];
        assert!(large.enter_now(IpAddr::from([10, 0, 0, 3])).is_none(), "all are taken");
        drop(held);
        assert!(waiting.now_or_never().is_some());
        drop(others);
        assert!(large.enter_now(other).is_some());
        assert_eq!(large.by_source.lock().unwrap().len(), 1, "sources that are gone are not kept");
    }
}
