//! Connections that have arrived and not yet shown who they are.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::core::places::{Admitted, Places, Ticket};

/// Their places.
#[derive(Debug)]
pub(super) struct Anteroom {
    places: Mutex<Places<CancellationToken>>,
    /// That a place has been given back; the accepting loop alone waits for it.
    freed: Notify,
    /// Whether it waits.
    awaited: AtomicBool,
    most: usize,
    /// For connections that are finished.
    room: Arc<Semaphore>,
}

/// A connection's place, given back once it is authorized. What the app dials has none: it is our own pod, and peers that
/// are gone must not keep it from those that live.
#[derive(Debug)]
pub(super) struct Unfinished {
    anteroom: Arc<Anteroom>,
    ticket: Ticket,
    evicted: CancellationToken,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// The source has too many.
    Greedy,
    /// All are taken: one has to be waited for.
    Full,
}

impl Anteroom {
    /// So many places; whoever is finished finds room there.
    pub(super) fn new(most: u32, room: Arc<Semaphore>) -> Arc<Self> {
        let most = most as usize;
        let places = Mutex::new(Places::new(most));
        Arc::new(Self { places, freed: Notify::new(), awaited: AtomicBool::new(false), most, room })
    }

    /// A place for a connection from there, if need be instead of the oldest of whoever has too many.
    pub(super) fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Unfinished, NoPlace> {
        self.awaited.store(false, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        let admitted = self.places().enter(source, evicted.clone(), Instant::now());
        let ticket = match admitted {
            Admitted::Free(ticket) => ticket,
            Admitted::InsteadOf(oldest, ticket) => {
                oldest.cancel();
                ticket
            }
            Admitted::Refused => return Err(NoPlace::Greedy),
            Admitted::Full(_) => return Err(NoPlace::Full),
        };
        Ok(Unfinished { anteroom: Arc::clone(self), ticket, evicted })
    }

    /// Waits until a place may have been given back since this was last awaited.
    pub(super) async fn freed(&self) {
        self.awaited.store(true, Ordering::Relaxed);
        self.freed.notified().await;
        self.awaited.store(false, Ordering::Relaxed);
    }

    /// Ends a connection of whoever has too many, or does not get on, where something else than places is scarce. Until the next
    /// one comes somebody waits.
    pub(super) fn relieve(&self) {
        self.awaited.store(true, Ordering::Relaxed);
        if let Some(evicted) = self.places().relieve(Instant::now()) {
            evicted.cancel();
        }
    }

    fn places(&self) -> MutexGuard<'_, Places<CancellationToken>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unfinished {
    /// Whether somebody waits for a place, or may soon have to while this source has more than it needs.
    pub(super) fn is_pressed(&self) -> bool {
        if self.anteroom.awaited.load(Ordering::Relaxed) {
            return true;
        }
        let places = self.anteroom.places();
        places.taken() > self.anteroom.most / 2 && places.is_greedy(self.ticket)
    }

    /// Room among the connections that are finished, once there is some.
    pub(super) async fn room(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.anteroom.room).acquire_owned().await.expect("nobody closes this semaphore")
    }

    /// What comes of the work; `None` if the place is given to somebody else meanwhile.
    pub(super) async fn keep<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.evicted.run_until_cancelled(work).await
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.anteroom.places().leave(self.ticket);
        self.anteroom.freed.notify_one();
    }
}
