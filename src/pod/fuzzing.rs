//! What `fuzz/` asks of the parsers of this module.

use std::io::Cursor;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pod::{admin, dialled, listeners};

/// A server that says what it always says once it is asked, and hangs up.
struct Parrot {
    answer: Cursor<Vec<u8>>,
    asked: bool,
    listener: Option<Waker>,
}

impl AsyncRead for Parrot {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if !self.asked {
            self.listener = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.answer).poll_read(cx, buf)
    }
}

impl AsyncWrite for Parrot {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.asked = true;
        if let Some(listener) = self.listener.take() {
            listener.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What the admin client makes of this answer.
#[must_use]
pub fn http_answer(bytes: &[u8]) -> Option<(StatusCode, String)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without sockets");
    let parrot = Parrot { answer: Cursor::new(bytes.to_vec()), asked: false, listener: None };
    runtime.block_on(admin::ask(parrot, "127.0.0.1:15551", "/status")).ok()
}

/// What /proc/net/tcp shows.
#[must_use]
pub fn socket_table(text: &str) -> Vec<SocketAddr> {
    listeners::parse(text).chain(dialled::parse(text).map(|end| end.remote)).collect()
}
