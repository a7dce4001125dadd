//! Moves bytes both ways, in batches.
//!
//! Invariant: whoever waits for bytes has no buffer, and whoever has bytes that the other side does not take reads no
//! more. Tokio's sockets are edge-triggered: a wait is begun only by a read or a write that tokio itself has found
//! pending, so no edge is lost, and bytes that came with the handshake are looked at before the socket is.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use crate::core::outcome::Reason;
use crate::proxy::faults::Gate;
use crate::proxy::pump::passage::Passage;
use crate::proxy::pump::pool::{self, Lent, SMALL};
use crate::proxy::pump::{Moved, Peer, Tally};
use crate::proxy::socket::unsent;
use crate::tls::{Buffer, Opened, Session};

/// Batches that a connection moves before others of its thread have their turn: half a millisecond of work.
const TURNS: usize = 2;
/// Behind what waits for the rest of a message, which is never the app's bytes.
const A_LITTLE: usize = 1024;

/// Which side broke, and how.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) reason: Reason,
    pub(super) source: io::Error,
}

impl Broken {
    fn app(source: io::Error) -> Self {
        Self { reason: Reason::AppReset, source }
    }

    fn peer(source: io::Error) -> Self {
        let reason = match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(_)) => Reason::RefusedByPeer,
            Some(_) => Reason::TlsBroken,
            None if source.kind() == io::ErrorKind::UnexpectedEof => Reason::Truncated,
            None if is_absence(&source) => Reason::PeerTimedOut,
            _ => Reason::PeerReset,
        };
        Self { reason, source }
    }

    fn tls(error: rustls::Error) -> Self {
        Self::peer(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Whether nobody has answered in time. Where the way to a dead node is gone too, the kernel says that instead (tcp(7),
/// "Error handling").
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
    matches!(error.kind(), TimedOut | HostUnreachable | NetworkDown | NetworkUnreachable)
        || error.raw_os_error() == Some(nix::libc::EHOSTDOWN)
}

/// See [`Engine::progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    moved: u64,
    /// What the kernel has not taken yet of either batch.
    held: [usize; 2],
    /// What the far sides have not taken yet of what the kernel has.
    unsent: [u64; 2],
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// What the far side has not taken yet.
    held: Option<Lent>,
    /// The app's bytes in it.
    owed: usize,
    /// Whether the near side has said all; then what is held goes out, and an end behind it.
    ending: bool,
    /// Where faults may be ordered.
    passage: Option<Box<Passage>>,
}

impl Way {
    /// Writes what is held.
    fn poll_deliver(&mut self, to: &mut TcpStream, tally: &Tally, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.held {
            if held.is_empty() {
                self.held = None;
                tally.add(std::mem::take(&mut self.owed));
                if let Some(passage) = &mut self.passage {
                    passage.next_batch();
                }
                break;
            }
            if let Some(passage) = &mut self.passage {
                ready!(passage.poll_pass(self.owed, cx));
            }
            match Pin::new(&mut *to).poll_write(cx, held.filled()) {
                Poll::Ready(written) => match written? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => held.consume(written),
                },
                Poll::Pending => {
                    held.settle();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection of the app and one of the peer's, joined.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    pub(super) app: TcpStream,
    pub(super) peer: TcpStream,
    /// `None` in plaintext.
    session: Option<Session>,
    /// What has come of a record that is not whole yet.
    partial: Vec<u8>,
    /// Whether the handshake may have left something to open.
    fresh: bool,
    /// Why no more comes from the peer once what came before is delivered.
    broken: Option<Broken>,
    outwards: Way,
    inwards: Way,
    moved: &'a Moved,
}

impl<'a> Engine<'a> {
    pub(super) fn new(app: TcpStream, peer: Peer, moved: &'a Moved, gate: Option<&Gate>) -> Self {
        let way = || Way { passage: gate.cloned().map(Passage::new), ..Way::default() };
        let Peer { stream, session, unopened } = peer;
        Self {
            app,
            peer: stream,
            fresh: session.is_some(),
            session,
            partial: unopened,
            broken: None,
            outwards: way(),
            inwards: way(),
            moved,
        }
    }

    /// How far both streams have come: as long as it changes, somebody reads, however slowly.
    pub(super) fn progress(&self, moved: &Moved) -> Progress {
        let held = |way: &Way| way.held.as_ref().map_or(0, |held| held.filled().len());
        Progress {
            moved: moved.sum(),
            held: [held(&self.outwards), held(&self.inwards)],
            unsent: [unsent(&self.app), unsent(&self.peer)],
        }
    }

    /// Takes no more from anybody: what is held goes out, and an orderly end behind it.
    pub(super) fn say_farewell(&mut self) -> Result<(), Broken> {
        self.inwards.ending = true;
        if std::mem::replace(&mut self.outwards.ending, true) { Ok(()) } else { self.seal(None) }
    }

    /// Moves what the app sends; ready once its end has been handed on.
    pub(super) fn poll_outwards(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.broken.is_some() {
            return Poll::Pending;
        }
        let mut turns = TURNS;
        loop {
            let tally = &self.moved.bytes_out;
            ready!(self.outwards.poll_deliver(&mut self.peer, tally, cx)).map_err(Broken::peer)?;
            if self.outwards.ending {
                return Pin::new(&mut self.peer).poll_shutdown(cx).map_err(Broken::peer);
            }
            if turns == 0 {
                return let_others_go_first(cx);
            }
            turns -= 1;
            ready!(self.app.poll_read_ready(cx)).map_err(Broken::app)?;
            // Where it goes to comes first; in plaintext it stays where it is.
            let sealed = self.session.is_some().then(pool::borrow);
            let mut plain = pool::borrow();
            let most = sealed.as_ref().map_or_else(|| plain.plain(), Lent::plain);
            let read = ready!(poll_fill(&mut self.app, &mut plain, most, cx)).map_err(Broken::app)?;
            self.outwards.held = sealed;
            self.outwards.ending = read == 0;
            self.outwards.owed += read;
            self.seal(Some(plain).filter(|_| read > 0))?;
        }
    }

    /// Moves what the peer sends; ready once its end has been handed on.
    pub(super) fn poll_inwards(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut turns = TURNS;
        loop {
            let tally = &self.moved.bytes_in;
            ready!(self.inwards.poll_deliver(&mut self.app, tally, cx)).map_err(Broken::app)?;
            if let Some(broken) = self.broken.take() {
                return Poll::Ready(Err(broken));
            }
            if self.inwards.ending {
                return Pin::new(&mut self.app).poll_shutdown(cx).map_err(Broken::app);
            }
            if turns == 0 {
                return let_others_go_first(cx);
            }
            turns -= 1;
            if std::mem::take(&mut self.fresh) {
                let mut unopened = pool::borrow();
                unopened.extend(&std::mem::take(&mut self.partial));
                self.open(unopened, pool::borrow());
                continue;
            }
            ready!(self.peer.poll_read_ready(cx)).map_err(Broken::peer)?;
            let plain = pool::borrow();
            let mut read = pool::borrow();
            read.extend(&self.partial);
            // A message of TLS's own can lie in several records, all of which wait for the last.
            read.room_for(SMALL);
            let most = plain.sealed().max(self.partial.len() + A_LITTLE);
            let filled = ready!(poll_fill(&mut self.peer, &mut read, most, cx)).map_err(Broken::peer)?;
            match (filled, &self.session) {
                (0, Some(_)) => return Poll::Ready(Err(Broken::peer(truncated()))),
                (0, None) => self.inwards.ending = true,
                (_, Some(_)) => self.open(read, plain),
                (_, None) => {
                    self.inwards.owed = filled;
                    self.inwards.held = Some(read);
                }
            }
        }
    }

    /// Takes the app's bytes for the peer, or their end.
    fn seal(&mut self, plain: Option<Lent>) -> Result<(), Broken> {
        if self.broken.is_some() {
            return Ok(());
        }
        let Some(session) = &mut self.session else {
            self.outwards.held = plain.or(self.outwards.held.take());
            return Ok(());
        };
        let sealed = self.outwards.held.get_or_insert_with(pool::borrow);
        match plain {
            Some(plain) => session.seal(&mut self.partial, plain.filled(), sealed),
            None => session.close(&mut self.partial, sealed),
        }
        .map_err(Broken::tls)
    }

    /// Takes the peer's records for the app.
    fn open(&mut self, mut read: Lent, mut plain: Lent) {
        let Some(session) = &mut self.session else { return };
        let mut answer = Buffer::default();
        match session.open(read.filled_mut(), &mut plain, &mut answer) {
            Ok(Opened { consumed, closed }) => {
                // Of whatever comes behind a close_notify nobody takes notice (RFC 8446, section 6.1).
                let rest = if closed { &[] } else { &read.filled()[consumed..] };
                self.inwards.ending = closed;
                self.partial = rest.to_vec();
            }
            Err(error) => {
                self.partial = Vec::new();
                self.broken = Some(Broken::tls(error));
            }
        }
        if !plain.is_empty() {
            self.inwards.owed = plain.filled().len();
            self.inwards.held = Some(plain);
        }
        if !answer.is_empty() && !self.outwards.ending {
            self.outwards.held.get_or_insert_with(pool::borrow).extend(answer.filled());
        }
        if self.broken.is_some() {
            self.say_last_word();
        }
    }

    /// After an error of TLS what is held ends with our alert. Who does not take it now goes without: a reset follows.
    fn say_last_word(&mut self) {
        if let Some(held) = &self.outwards.held {
            let _ = self.peer.try_write(held.filled());
        }
    }
}

/// Reads behind what the buffer holds, up to `most` bytes in all; 0 at the end of the stream.
fn poll_fill(from: &mut TcpStream, buffer: &mut Buffer, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let most = most.min(buffer.size()) - buffer.filled().len();
    let mut read = ReadBuf::new(&mut buffer.room()[..most]);
    ready!(Pin::new(from).poll_read(cx, &mut read))?;
    let filled = read.filled().len();
    buffer.fill(filled);
    Poll::Ready(Ok(filled))
}

/// Comes back after other connections of this thread have been looked after, and the kernel has been asked for more.
fn let_others_go_first<T>(cx: &mut Context<'_>) -> Poll<T> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection without a TLS close_notify")
}

#[cfg(test)]
mod tests {
    use nix::libc::{ECONNRESET, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, EPIPE, ETIMEDOUT};

    use super::*;

    #[test]
    fn a_peer_to_whom_there_is_no_way_any_more_has_timed_out() {
        let reason = |code| Broken::peer(io::Error::from_raw_os_error(code)).reason;
        for code in [ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN] {
            assert_eq!(reason(code), Reason::PeerTimedOut, "{code}");
        }
        for code in [ECONNRESET, EPIPE] {
            assert_eq!(reason(code), Reason::PeerReset, "{code}");
        }
    }
}
