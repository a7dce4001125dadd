//! Who may come in before a byte is read: a bounded number of connections, and a bounded share of them a source.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::crowd::{Crowd, Place};

/// API servers keep a few connections each; the rest is for strangers to fill.
const MOST: usize = 512;
/// An API server that opens one a request, on a day with many pods.
const MOST_A_SOURCE: usize = 128;

/// Lets connections in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    places: Arc<Semaphore>,
    crowd: Arc<Crowd>,
}

impl Door {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), crowd: Crowd::new(MOST_A_SOURCE) }
    }

    fn enter(&self, stream: TcpStream) -> io::Result<Guest> {
        let full = |what: &str| io::Error::other(what.to_owned());
        let source = stream.peer_addr()?.ip();
        let place = self.crowd.enter(source).ok_or_else(|| full("one source has too many connections"))?;
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full("too many connections"))?;
        // An answer is one small write, which nothing follows.
        stream.set_nodelay(true)?;
        Ok(Guest { stream, _place: place, _permit: permit })
    }
}

impl<S> Accept<TcpStream, S> for Door {
    type Stream = Guest;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Guest, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        std::future::ready(self.enter(stream).map(|guest| (guest, service)))
    }
}

/// A connection that was let in; its place is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    _place: Place,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
