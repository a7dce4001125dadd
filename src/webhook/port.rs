//! A port's connections, from accept to their end.
//!
//! Invariant: whatever a caller does or leaves undone, its connection ends after a while, or gives way when others want in.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::webhook::door::{Door, Stay};
use crate::webhook::pair::Current;

/// How long a caller may take for its handshake, for its first request's head, for a body, and to take what it is sent.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Until open requests are answered.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// After an accept that failed for want of something.
const PAUSE: Duration = Duration::from_millis(100);
/// What is kept of a request's head, and of a body on its way, in bytes.
const MOST_BUFFERED: usize = 16 * 1024;
/// What the kernel keeps each way of a connection that nobody reads, in bytes; without a bound it is megabytes.
const SOCKET_BUFFER: usize = 64 * 1024;

/// How to serve a port.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) door: Arc<Door>,
    /// None is plain HTTP.
    pub(super) certificate: Option<Arc<Current>>,
    /// How long nothing may be asked, and after which a connection ends in any case, if it is not the API server's.
    pub(super) idle: Duration,
    pub(super) longest: Option<Duration>,
    pub(super) router: Router,
}

impl Port {
    /// Serves until `ending`, and then until the last answers are given.
    pub(super) async fn serve(self, listeners: Vec<TcpListener>, ending: CancellationToken) {
        let conversations = TaskTracker::new();
        let accepting = listeners.into_iter().map(|listener| self.clone().accept(listener, &conversations, &ending));
        ending.run_until_cancelled(futures_util::future::join_all(accepting)).await;
        conversations.close();
        conversations.wait().await;
    }

    async fn accept(self, listener: TcpListener, conversations: &TaskTracker, ending: &CancellationToken) {
        let socket = socket2::SockRef::from(&listener);
        // Whoever is accepted inherits it.
        let bounded =
            socket.set_recv_buffer_size(SOCKET_BUFFER).and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER));
        if let Err(error) = bounded {
            tracing::warn!(%error, "the kernel's buffers of connections are not bounded");
        }
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    // Whoever has no place is closed at once, and so is not waited for.
                    if let Some(stay) = self.door.enter(from.ip()) {
                        conversations.spawn(self.clone().converse(stream, from, stay, ending.clone()));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn converse(self, stream: TcpStream, from: SocketAddr, stay: Stay, ending: CancellationToken) {
        let stay = Arc::new(stay);
        // An answer is one small write, which nothing follows.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%from, %error, "a connection was not accepted");
            return;
        }
        let guest = Guest { stream, stalled: None };
        let longest = self.longest;
        let work = async {
            let Some(current) = &self.certificate else { return self.talk(guest, &stay, &ending).await };
            match timeout(PATIENCE, TlsAcceptor::from(current.server()).accept(guest)).await {
                Ok(Ok(stream)) => self.talk(stream, &stay, &ending).await,
                Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%from, "a handshake took too long"),
            }
        };
        match longest {
            None => stay.keep(work).await,
            Some(longest) => stay.keep(async { drop(timeout(longest, work).await) }).await,
        }
    }

    /// HTTP/1.1 and nothing else: by HTTP/2 one connection could have hundreds of bodies on their way.
    async fn talk<S>(&self, stream: S, stay: &Arc<Stay>, ending: &CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = CancellationToken::new();
        let service = service_fn(|mut request: Request<Incoming>| {
            asked.cancel();
            stay.renew();
            request.extensions_mut().insert(Arc::clone(stay));
            self.router.clone().oneshot(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.idle).max_buf_size(MOST_BUFFERED);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        // Whoever hangs up, or is no HTTP, is no fault of ours.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = asked.cancelled() => {}
            () = sleep(PATIENCE) => return,
        }
        let last = tokio::select! {
            _ = connection.as_mut() => return,
            () = stay.ends_soon() => PATIENCE,
            () = ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                LAST_ANSWERS
            }
        };
        let _ = timeout(last, connection).await;
    }
}

/// A connection of which the other end has to take what it is sent.
struct Guest {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
