//! Copies between app and peer until both directions have ended.
//!
//! Invariant: an end of one stream becomes an end of the other (FIN, and close_notify under TLS), an abort becomes an
//! abort (RST); never the one for the other. Memory per connection is two buffers, and TLS's own of one record each.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::core::outcome::Reason;
use crate::proxy::faults::Gate;
use crate::proxy::socket::reset_on_close;

/// One TLS record (RFC 8446, section 5.1).
const BUFFER: usize = 16 * 1024;
/// How long to look for the alert that explains why a peer takes no more bytes.
const ALERT_WAIT: Duration = Duration::from_millis(200);
/// How long an orderly farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream to a peer, with the socket below it.
pub(super) trait PeerStream: AsyncRead + AsyncWrite + Unpin {
    /// The socket.
    fn tcp(&self) -> &TcpStream;
}

impl PeerStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// Bytes of one direction, counted for the connection and for all of them.
#[derive(Debug)]
pub(super) struct Tally {
    own: AtomicU64,
    total: Counter,
}

impl Tally {
    pub(super) fn new(total: Counter) -> Self {
        Self { own: AtomicU64::new(0), total }
    }

    fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.own.fetch_add(bytes, Ordering::Relaxed);
        self.total.inc_by(bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

/// Bytes of both directions, as the app sees them.
#[derive(Debug)]
pub(super) struct Moved {
    /// From the peer to the app.
    pub(super) bytes_in: Tally,
    /// From the app to the peer.
    pub(super) bytes_out: Tally,
}

impl Moved {
    fn sum(&self) -> u64 {
        self.bytes_in.bytes().wrapping_add(self.bytes_out.bytes())
    }
}

/// When a pump ends although nobody closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    /// A half-closed connection without a byte for this long.
    pub(super) half_close_timeout: Duration,
    /// The sidecar stops.
    pub(super) end: &'a CancellationToken,
    /// Faults that somebody may order.
    pub(super) gate: Option<&'a Gate>,
}

/// Copies until both directions have ended; says why, and the error behind it.
pub(super) async fn pump<P: PeerStream>(
    mut app: TcpStream,
    mut peer: P,
    moved: &Moved,
    bounds: Bounds<'_>,
) -> (Reason, Option<io::Error>) {
    let ended = copy_both(&mut app, &mut peer, moved, bounds).await;
    match ended {
        Ok(Reason::Closed) => (Reason::Closed, None),
        Ok(Reason::Drained) => {
            let farewell = async { tokio::join!(peer.shutdown(), app.shutdown()) };
            // Whoever does not take the farewell in time is closed without it.
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
            (Reason::Drained, None)
        }
        Ok(reason) => {
            abort(&app, &peer);
            (reason, None)
        }
        Err(Broken { reason, source }) => {
            abort(&app, &peer);
            (reason, Some(source))
        }
    }
}

fn abort<P: PeerStream>(app: &TcpStream, peer: &P) {
    reset_on_close(app);
    reset_on_close(peer.tcp());
}

struct Broken {
    reason: Reason,
    source: io::Error,
}

async fn copy_both<P: PeerStream>(
    app: &mut TcpStream,
    peer: &mut P,
    moved: &Moved,
    bounds: Bounds<'_>,
) -> Result<Reason, Broken> {
    let (app_read, app_write) = app.split();
    let (peer_read, peer_write) = tokio::io::split(peer);
    let mut outwards = pin!(copy(app_read, peer_write, &moved.bytes_out, bounds.gate.cloned(), app_broke, peer_broke));
    let mut inwards = pin!(copy(peer_read, app_write, &moved.bytes_in, bounds.gate.cloned(), peer_broke, app_broke));
    let (mut out_done, mut in_done) = (false, false);
    let mut moved_before = moved.sum();
    while !(out_done && in_done) {
        let half_closed = out_done || in_done;
        tokio::select! {
            result = &mut outwards, if !out_done => match result {
                Ok(()) => out_done = true,
                // The peer's alert may still wait to be read, and says more than the broken pipe that followed it.
                Err(broken) if broken.reason != Reason::AppReset && !in_done => {
                    return match tokio::time::timeout(ALERT_WAIT, inwards).await {
                        Ok(Err(better)) if better.reason == Reason::RefusedByPeer => Err(better),
                        _ => Err(broken),
                    };
                }
                Err(broken) => return Err(broken),
            },
            result = &mut inwards, if !in_done => {
                result?;
                in_done = true;
            }
            () = tokio::time::sleep(bounds.half_close_timeout), if half_closed => {
                let now = moved.sum();
                if now == moved_before {
                    return Ok(Reason::HalfCloseTimeout);
                }
                moved_before = now;
            }
            () = bounds.end.cancelled() => return Ok(Reason::Drained),
            () = aborted(bounds.gate) => return Ok(Reason::FaultInjected),
        }
    }
    Ok(Reason::Closed)
}

async fn aborted(gate: Option<&Gate>) {
    match gate {
        Some(gate) => gate.clone().aborted().await,
        None => std::future::pending().await,
    }
}

/// Copies one direction to its end, and hands the end on.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    tally: &Tally,
    mut gate: Option<Gate>,
    read_broke: fn(io::Error) -> Broken,
    write_broke: fn(io::Error) -> Broken,
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await.map_err(read_broke)?;
        if read == 0 {
            return to.shutdown().await.map_err(write_broke);
        }
        if let Some(gate) = &mut gate {
            gate.pass(read).await;
        }
        // Without the flush a TLS stream could hold back what it has encrypted and take still more.
        to.write_all(&buffer[..read]).await.map_err(write_broke)?;
        to.flush().await.map_err(write_broke)?;
        tally.add(read);
    }
}

fn app_broke(source: io::Error) -> Broken {
    Broken { reason: Reason::AppReset, source }
}

fn peer_broke(source: io::Error) -> Broken {
    let reason = match source.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(_)) => Reason::RefusedByPeer,
        // rustls: the TCP stream ended without close_notify.
        None if source.kind() == io::ErrorKind::UnexpectedEof => Reason::Truncated,
        _ => Reason::PeerReset,
    };
    Broken { reason, source }
}
