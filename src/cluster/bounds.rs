//! How much an API server may answer: whoever plays one must not fill this process's memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use kube::client::DynBody;

/// Bytes of one answer: 500 pods, a page, have 5 MB.
pub(super) const MOST_OF_ONE: usize = 32 << 20;
/// Bytes of all answers that one look at a cluster takes: some 20,000 pods.
pub(super) const MOST_OF_ALL: usize = 256 << 20;

/// More than that.
#[derive(Debug, thiserror::Error)]
#[error("the API server answers more than {} MiB{}, which is not read", .most >> 20, .of)]
pub(super) struct TooMuch {
    most: usize,
    of: &'static str,
}

/// The bytes that all answers together may still have.
#[derive(Clone, Debug)]
pub(super) struct Budget(Option<Arc<AtomicUsize>>);

impl Budget {
    pub(super) fn new() -> Self {
        Self(Some(Arc::new(AtomicUsize::new(MOST_OF_ALL))))
    }

    /// For a client that asks for as long as its process runs, and keeps no answers.
    pub(super) const fn endless() -> Self {
        Self(None)
    }

    fn take(&self, bytes: usize) -> Result<(), TooMuch> {
        let Some(left) = &self.0 else { return Ok(()) };
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| TooMuch { most: MOST_OF_ALL, of: " together" })
    }
}

/// An answer's body that ends in an error past the bounds.
pub(super) struct Bounded {
    inner: Box<DynBody>,
    left: usize,
    budget: Budget,
}

impl Bounded {
    pub(super) fn new(inner: Box<DynBody>, budget: Budget) -> Self {
        Self { inner, left: MOST_OF_ONE, budget }
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let taken = match self.left.checked_sub(bytes) {
                Some(left) => self.budget.take(bytes).map(|()| self.left = left),
                None => Err(TooMuch { most: MOST_OF_ONE, of: "" }),
            };
            if let Err(error) = taken {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
