//! What is known about one connection, and the one line that is logged when it ends.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::core::faults::Marked;
use opentelemetry_sdk::trace::Span;
use tokio_util::sync::CancellationToken;

use crate::core::outcome::{Gravity, Reason};
use crate::core::route::Direction;
use crate::core::wire::FirstBytes;
use crate::proxy::handshake::{Agreed, Failed};
use crate::proxy::pump::Moved;
use crate::proxy::trace::Step;

/// What is known about one connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) direction: Direction,
    /// Who dialled.
    pub(super) from: SocketAddr,
    /// Where to.
    pub(super) target: Option<SocketAddr>,
    pub(super) started: Instant,
    pub(super) agreed: Option<Agreed>,
    pub(super) failed: Option<Box<Failed>>,
    /// Whether the app's bytes went, or were to go, without TLS.
    pub(super) plaintext: bool,
    /// What a plaintext peer sent first.
    pub(super) first: Option<FirstBytes>,
    /// An error's text, where the reason needs one.
    pub(super) detail: Option<String>,
    pub(super) moved: Arc<Moved>,
    /// What was done so far, where traces are made.
    pub(super) steps: Vec<Step>,
    /// The trace, once app and peer are joined.
    pub(super) span: Option<Box<Span>>,
    /// Where connections may be ended one by one.
    pub(super) ending: Option<Arc<Ending>>,
}

/// By which one connection is ended.
#[derive(Debug)]
pub(super) struct Ending {
    token: CancellationToken,
    reason: OnceLock<Reason>,
}

impl Ending {
    /// Ends too when all connections do.
    pub(super) fn below(all: &CancellationToken) -> Self {
        Self { token: all.child_token(), reason: OnceLock::new() }
    }

    /// The first reason counts.
    pub(super) fn end(&self, reason: Reason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub(super) const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Why it was ended; `Drained` if all were.
    pub(super) fn reason(&self) -> Reason {
        self.reason.get().copied().unwrap_or(Reason::Drained)
    }
}

impl Connection {
    /// The other pod: who dialled us, or whom the app dialled.
    pub(super) fn peer(&self) -> SocketAddr {
        match self.direction {
            Direction::Inbound => self.from,
            Direction::Outbound => self.target.unwrap_or(self.from),
        }
    }

    /// How faults choose by it. Successive multiples of the golden ratio spread evenly over any interval, so a percentage
    /// is one of a few connections too.
    pub(super) fn marked(&self) -> Marked {
        let spread = self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let lot = u8::try_from((spread * 100) >> 32).unwrap_or(99);
        Marked { peer: self.peer().ip(), direction: self.direction, lot }
    }

    /// Whether it came from somebody who was not let in, or not yet.
    pub(super) fn is_strangers(&self) -> bool {
        self.direction == Direction::Inbound && self.agreed.is_none() && !self.plaintext
    }

    /// Who the peer is, where a handshake has told.
    pub(super) fn identity(&self) -> Option<&Arc<str>> {
        self.agreed.as_ref().map(|agreed| &agreed.identity)
    }

    /// Keeps a failed handshake's evidence.
    pub(super) fn fail(&mut self, failed: Failed) -> Reason {
        let reason = failed.reason;
        self.failed = Some(Box::new(failed));
        reason
    }

    /// Logs the end.
    pub(super) fn log(&self, reason: Reason) {
        let failed = self.failed.as_ref();
        let agreed = self.agreed.as_ref();
        let seen = failed.and_then(|failed| failed.seen.as_deref());
        macro_rules! line {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    direction = self.direction.name(),
                    peer = %self.peer(),
                    original_dst = self.target.map(tracing::field::display),
                    reason = reason.code(),
                    identity = self.identity().map(|identity| &**identity).or(seen),
                    allowed = failed.and_then(|failed| failed.allowed.as_deref()),
                    looked_like = self.first.map(tracing::field::display),
                    detail = failed.map(|failed| failed.detail.as_str()).or(self.detail.as_deref()),
                    hint = reason.hint(self.first),
                    bytes_in = self.moved.bytes_in.bytes(),
                    bytes_out = self.moved.bytes_out.bytes(),
                    duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    tls = agreed.map(|agreed| agreed.tls.version()).or(self.plaintext.then_some("none")),
                    cipher = agreed.map(|agreed| agreed.tls.cipher()),
                    $message
                )
            };
        }
        match reason.gravity() {
            Gravity::Normal => line!(info, "connection ended"),
            Gravity::Refusal => line!(warn, "connection refused"),
            Gravity::Fault => line!(warn, "connection failed"),
        }
    }
}
