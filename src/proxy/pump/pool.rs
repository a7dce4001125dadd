//! Buffers of a thread, held only by connections that are busy or backlogged.
//!
//! Invariant: a connection that waits for bytes holds none. However many connections are backlogged, a thread has no
//! more than [`MOST_LARGE`] large buffers; the others make do with small ones, so memory stays bounded under slow readers.
//! Whoever reads knows where it goes to, and reads no more than fits there: no buffer grows to take a batch.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::tls::Buffer;

/// Records that are moved at once. Calls and wake-ups are what a relay costs: with 256 KiB at once it does nine tenths of
/// the work for the same processor time, and with more than 512 KiB no more (docs/decisions/0012-data-path.md).
const RECORDS: usize = 32;
/// A TLS record's plaintext (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;
/// Plaintext that fills whole records.
const PLAIN: usize = RECORDS * RECORD;
/// The same records in TLS 1.3: header, content type, tag.
const SEALED: usize = RECORDS * (RECORD + 22);
/// Room for either in any version and suite that we speak, and for a key update beside it.
const LARGE: usize = RECORDS * (RECORD + 64) + 1024;
/// Room for any one record (RFC 5246, section 6.2.3: 2048 bytes more than its plaintext).
pub(super) const SMALL: usize = 20 * 1024;
/// Large buffers of a thread.
const MOST_LARGE: usize = 16;
/// Large buffers that a thread keeps while nobody needs them.
const KEPT: usize = 4;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { free: Vec::new(), lent: 0 }) };
}

struct Pool {
    free: Vec<Buffer>,
    lent: usize,
}

/// A buffer of the pool, given back when dropped.
#[derive(Debug)]
pub(super) struct Lent {
    buffer: Buffer,
    large: bool,
}

/// An empty buffer: a large one while there are some.
pub(super) fn borrow() -> Lent {
    POOL.with_borrow_mut(|pool| {
        if pool.lent >= MOST_LARGE {
            return Lent { buffer: Buffer::new(SMALL), large: false };
        }
        pool.lent += 1;
        Lent { buffer: pool.free.pop().unwrap_or_else(|| Buffer::new(LARGE)), large: true }
    })
}

impl Lent {
    /// How much plaintext fits in it, once it is sealed.
    pub(super) const fn plain(&self) -> usize {
        if self.large { PLAIN } else { RECORD }
    }

    /// How many bytes of records may be opened into it: what is in them is less.
    pub(super) const fn sealed(&self) -> usize {
        if self.large { SEALED } else { SMALL }
    }

    /// A buffer of its own for a few bytes.
    pub(super) fn exactly(bytes: &[u8]) -> Self {
        let mut buffer = Buffer::new(bytes.len());
        buffer.extend(bytes);
        Self { buffer, large: false }
    }

    /// Makes do with less while it waits, so that a few bytes do not hold a large buffer.
    pub(super) fn settle(&mut self) {
        if self.large && self.filled().len() <= SMALL {
            *self = Self::exactly(self.filled());
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.large {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        // At the end of its thread the pool is gone before the last connection is.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.lent = pool.lent.saturating_sub(1);
            if pool.free.len() < KEPT && buffer.size() == LARGE {
                buffer.clear();
                pool.free.push(buffer);
            }
        });
    }
}

impl Deref for Lent {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.buffer
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlogged_connections_share_a_bounded_number_of_large_buffers() {
        let held: Vec<Lent> = (0..1000).map(|_| borrow()).collect();
        let bytes: usize = held.iter().map(|lent| lent.size()).sum();
        assert_eq!(held.iter().filter(|lent| lent.large).count(), MOST_LARGE);
        assert!(bytes < MOST_LARGE * LARGE + 1000 * SMALL, "{bytes} bytes");
        drop(held);
        assert!(borrow().large, "those given back can be had again");
        assert_eq!(POOL.with_borrow(|pool| (pool.free.len(), pool.lent)), (KEPT, 0));
    }

    #[test]
    fn a_few_bytes_do_not_hold_a_large_buffer() {
        let mut lent = borrow();
        lent.extend(b"left over");
        lent.settle();
        assert_eq!((lent.filled(), lent.size()), (&b"left over"[..], 9));
        assert_eq!(POOL.with_borrow(|pool| pool.lent), 0);
    }
}
