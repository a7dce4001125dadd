//! Connections that have arrived and not yet shown who they are.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::core::places::{Admitted, Places, Ticket};

/// Their places.
#[derive(Debug)]
pub(super) struct Anteroom {
    places: Mutex<Places<CancellationToken>>,
    /// That a place has been given back; the accepting loop alone waits for it.
    freed: Notify,
    most: usize,
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
    pub(super) fn new(most: u32) -> Arc<Self> {
        let most = most as usize;
        Arc::new(Self { places: Mutex::new(Places::new(most)), freed: Notify::new(), most })
    }

    /// A place for a connection from there, if need be instead of the oldest of whoever has too many.
    pub(super) fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Unfinished, NoPlace> {
        let evicted = CancellationToken::new();
        let admitted = self.places().enter(source, evicted.clone());
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
        self.freed.notified().await;
    }

    fn places(&self) -> MutexGuard<'_, Places<CancellationToken>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unfinished {
    /// Whether so many are unfinished that others may have to wait.
    pub(super) fn is_crowded(&self) -> bool {
        self.anteroom.places().taken() > self.anteroom.most / 2
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
