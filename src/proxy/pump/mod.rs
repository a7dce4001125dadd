//! Copies between app and peer until both directions have ended.
//!
//! Invariant: an end of one stream becomes an end of the other (FIN, and close_notify under TLS), an abort becomes an
//! abort (RST); never the one for the other.

mod engine;
mod passage;
mod pool;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::core::outcome::Reason;
use crate::proxy::connection::Ending;
use crate::proxy::faults::Gate;
use crate::proxy::handshake::last_word;
use crate::proxy::pump::engine::{Broken, Engine, Progress};
use crate::proxy::socket::reset_on_close;
use crate::tls::Session;

/// How long to look for the alert that explains why a peer takes no more bytes.
const ALERT_WAIT: Duration = Duration::from_millis(200);
/// How long an orderly farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection with a peer that may be given the app's bytes.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    /// `None` in plaintext.
    pub(super) session: Option<Session>,
    /// What came behind the handshake.
    pub(super) unopened: Vec<u8>,
}

impl Peer {
    pub(super) const fn in_plaintext(stream: TcpStream) -> Self {
        Self { stream, session: None, unopened: Vec::new() }
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
    /// The sidecar stops, or has had enough of this connection.
    pub(super) end: &'a CancellationToken,
    /// Which of them it is; `None` where it can only stop.
    pub(super) ending: Option<&'a Ending>,
}

/// Copies until both directions have ended; says why, and the error behind it. `gate` is for faults that somebody may
/// order.
///
/// No `async fn`: it would keep its arguments twice, for the days that a connection lives.
pub(super) fn pump<'a>(
    app: TcpStream,
    peer: Peer,
    moved: &'a Moved,
    bounds: Bounds<'a>,
    gate: Option<Gate>,
) -> impl Future<Output = (Reason, Option<io::Error>)> + Send + use<'a> {
    let mut engine = Engine::new(app, peer, moved, gate.as_ref());
    let aborted = gate.map(|mut gate| Box::pin(async move { gate.aborted().await }));
    async move {
        let reason = match until_the_end(&mut engine, moved, bounds, aborted).await {
            Ok(Reason::Closed) => return (Reason::Closed, None),
            Ok(reason @ (Reason::Drained | Reason::Recycled)) => {
                // Whoever does not take the farewell in time is closed without it.
                let _ = tokio::time::timeout(FAREWELL, Box::pin(farewell(&mut engine))).await;
                return (reason, None);
            }
            Ok(reason) => (reason, None),
            Err(Broken { reason, source }) => (reason, Some(source)),
        };
        reset_on_close(&engine.app);
        if reason.0 == Reason::TlsBroken {
            // The alert that says so is under way.
            Box::pin(last_words(engine)).await;
        } else {
            reset_on_close(&engine.peer);
        }
        reason
    }
}

async fn last_words(engine: Engine<'_>) {
    let Engine { app, peer, .. } = engine;
    drop(app);
    last_word(peer).await;
}

async fn until_the_end(
    engine: &mut Engine<'_>,
    moved: &Moved,
    bounds: Bounds<'_>,
    mut aborted: Option<Pin<Box<impl Future<Output = ()>>>>,
) -> Result<Reason, Broken> {
    // Not one byte for whoever has lost trust during the handshake.
    if bounds.end.is_cancelled() {
        return Ok(bounds.ending.map_or(Reason::Drained, Ending::reason));
    }
    let mut ended = pin!(bounds.end.cancelled());
    let mut state = State::default();
    poll_fn(|cx| {
        if let Poll::Ready(result) = state.poll_both(engine, cx) {
            return Poll::Ready(result.map(|()| Reason::Closed));
        }
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(bounds.ending.map_or(Reason::Drained, Ending::reason)));
        }
        if aborted.as_mut().is_some_and(|aborted| aborted.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(Reason::FaultInjected));
        }
        let progress = || engine.progress(moved);
        state.poll_half_closed(progress, bounds.half_close_timeout, cx).map(|()| Ok(Reason::HalfCloseTimeout))
    })
    .await
}

/// Which directions have ended, and what is waited for because of it. The timers are made when they are needed, so that
/// a connection in daily life has none.
#[derive(Default)]
struct State {
    in_done: bool,
    out_done: bool,
    /// The peer takes no more bytes; an alert of its may say why.
    refused: Option<(Broken, Timer)>,
    /// Since when nothing has moved.
    half_closed: Option<(Progress, Timer)>,
}

type Timer = Pin<Box<Sleep>>;

impl State {
    fn poll_both(&mut self, engine: &mut Engine<'_>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if !self.in_done
            && let Poll::Ready(result) = engine.poll_inwards(cx)
        {
            match (result, self.refused.take()) {
                (Err(better), Some(_)) if better.reason == Reason::RefusedByPeer => return Poll::Ready(Err(better)),
                (_, Some((broken, _))) => return Poll::Ready(Err(broken)),
                (Err(broken), None) => return Poll::Ready(Err(broken)),
                (Ok(()), None) => self.in_done = true,
            }
        }
        if let Some((_, timer)) = &mut self.refused {
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(self.refused.take().map_or(Ok(()), |(broken, _)| Err(broken)));
        }
        if !self.out_done
            && let Poll::Ready(result) = engine.poll_outwards(cx)
        {
            match result {
                Ok(()) => self.out_done = true,
                // The peer's alert may still wait to be read, and says more than the broken pipe that followed it.
                Err(broken) if broken.reason != Reason::AppReset && !self.in_done => {
                    self.refused = Some((broken, Box::pin(sleep(ALERT_WAIT))));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(broken) => return Poll::Ready(Err(broken)),
            }
        }
        if self.in_done && self.out_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready when one side has closed and nothing has moved for this long.
    fn poll_half_closed(
        &mut self,
        progress: impl Fn() -> Progress,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.in_done && !self.out_done {
            return Poll::Pending;
        }
        let (before, timer) = self.half_closed.get_or_insert_with(|| (progress(), Box::pin(sleep(timeout))));
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = progress();
            if now == *before {
                return Poll::Ready(());
            }
            *before = now;
            timer.as_mut().reset(Instant::now() + timeout);
        }
    }
}

async fn farewell(engine: &mut Engine<'_>) {
    if engine.say_farewell().is_err() {
        return;
    }
    let (mut in_done, mut out_done) = (false, false);
    poll_fn(|cx| {
        in_done = in_done || engine.poll_inwards(cx).is_ready();
        out_done = out_done || engine.poll_outwards(cx).is_ready();
        if in_done && out_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
