//! Threads that carry connections, one a core, each with a runtime of its own.
//!
//! Invariant: a connection stays on one thread, so its buffers, sockets and keys stay in one core's cache, and moving a
//! batch wakes nobody else. In exchange nobody takes work over from a busy thread: where a connection goes is decided
//! once, see [`Workers::least_busy`].

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// More than four cores would relay more than a node's network takes.
const MOST: usize = 4;

/// All of them; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    workers: Vec<Worker>,
    _end: DropGuard,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place on a thread, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts as many as there are cores for us; the limit of our cgroup counts.
    pub(super) fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST);
        let end = CancellationToken::new();
        let workers = (0..count).map(|i| Worker::start(i, end.clone())).collect::<io::Result<_>>()?;
        Ok(Self { workers, _end: end.drop_guard() })
    }

    /// The thread with the fewest connections. Among equals chance decides: two connections a peer, one of them busy,
    /// dialled in the same order by everybody, would put all that are busy on one thread if turns were taken.
    pub(super) fn least_busy(&self) -> (&Handle, Seat) {
        let fewest = self.workers.iter().map(Worker::load).min().unwrap_or(0);
        let equals = || self.workers.iter().filter(|worker| worker.load() <= fewest);
        let chosen = chance() % equals().count().max(1);
        let worker = equals().nth(chosen).unwrap_or(&self.workers[0]);
        worker.connections.fetch_add(1, Ordering::Relaxed);
        (&worker.runtime, Seat(Arc::clone(&worker.connections)))
    }
}

impl Worker {
    fn start(index: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || runtime.block_on(end.cancelled()))?;
        Ok(Self { runtime: handle, connections: Arc::default() })
    }

    fn load(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The keys of the standard library's hash maps are chosen at random, and differ each time.
fn chance() -> usize {
    use std::hash::{BuildHasher as _, RandomState};
    usize::try_from(RandomState::new().hash_one(()) >> 33).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(count: usize) -> Workers {
        let end = CancellationToken::new();
        let workers = (0..count).map(|i| Worker::start(i, end.clone()).unwrap()).collect();
        Workers { workers, _end: end.drop_guard() }
    }

    fn loads(workers: &Workers) -> Vec<usize> {
        workers.workers.iter().map(Worker::load).collect()
    }

    #[test]
    fn threads_have_equally_many_connections() {
        let workers = idle(3);
        let seats: Vec<Seat> = (0..30).map(|_| workers.least_busy().1).collect();
        assert_eq!(loads(&workers), [10, 10, 10]);
        drop(seats);
        assert_eq!(loads(&workers), [0, 0, 0]);
    }

    /// Of each pair that a peer dials the second is the busy one.
    #[test]
    fn the_busy_one_of_each_pair_is_not_always_on_the_same_thread() {
        let workers = idle(2);
        let seats: Vec<Seat> = (0..200).map(|_| workers.least_busy().1).collect();
        let on_first = seats.iter().skip(1).step_by(2).filter(|s| Arc::ptr_eq(&s.0, &workers.workers[0].connections));
        let on_first = on_first.count();
        assert!((20..=80).contains(&on_first), "{on_first} of 100 busy connections are on one of two threads");
    }
}
