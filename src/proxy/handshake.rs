//! TLS handshakes: their limits in time, and what their failures mean.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{CipherSuite, CommonState, Error, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::core::directory::{Directory, authorize_pod};
use crate::core::identity::{PeerIdentity, TrustDomain};
use crate::core::outcome::Reason;
use crate::core::policy::{Denied, PeerAddress, allowed_text, authorize_address};
use crate::core::wire::{ENOUGH, FirstBytes};
use crate::proxy::pump::Peer;
use crate::proxy::unfinished::Unfinished;
use crate::tls::{Buffer, CertificateFacts, Session, denial, denied, distrust};

/// How often to look for more bytes where those that came decide nothing: the kernel wakes a reader only once for them.
const PEEK_PERIOD: Duration = Duration::from_millis(10);
/// How long a handshake may take while others wait for its place: it takes milliseconds, and a few round trips.
pub(super) const HURRIED: Duration = Duration::from_secs(2);
/// And its first bytes, which come with the connection.
const HURRIED_GREETING: Duration = Duration::from_millis(500);
/// How often to look whether somebody waits.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long the rest of a plaintext greeting may take; it serves the log alone.
const GREETING: Duration = Duration::from_millis(100);
/// How long, and how many bytes, a refused peer may take to read its alert.
const LAST_WORD: Duration = Duration::from_secs(1);
const LAST_WORD_BYTES: usize = 256 * 1024;
/// What a flight of the handshake takes, most of it certificates.
const FLIGHT: usize = 4096;
/// A message has at most 64 KiB (rustls), and so many more bytes for the headers of the records that it comes in.
const MOST_INCOMING: usize = 128 * 1024;

/// What a finished handshake agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) tls: Protocol,
    /// Who the peer is; shared with the books that `/status` and metrics are made of.
    pub(super) identity: Arc<str>,
    /// What it showed, leaf first; where it may be revoked later.
    pub(super) chain: Option<Arc<[CertificateDer<'static>]>>,
}

/// Version and cipher suite, by number: names would take five times the room, for the days that connections live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Protocol {
    version: Option<ProtocolVersion>,
    suite: Option<CipherSuite>,
}

impl Protocol {
    fn of(session: &CommonState) -> Self {
        let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
        Self { version: session.protocol_version(), suite }
    }

    /// `TLS 1.3` or `TLS 1.2`.
    pub(super) const fn version(self) -> &'static str {
        match self.version {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "unknown",
        }
    }

    /// The cipher suite's name.
    pub(super) fn cipher(self) -> &'static str {
        self.suite.and_then(|suite| suite.as_str()).unwrap_or("unknown")
    }
}

/// How long a pod that nobody has heard of may wait for its record: kubelets tell the API server of an address a second or
/// two after they have given it.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What is asked of a handshake beyond what the verifier asks.
#[derive(Clone, Debug)]
pub(super) struct Demands {
    /// The peer's address.
    pub(super) address: IpAddr,
    pub(super) rule: PeerAddress,
    pub(super) keep_chain: bool,
    /// Where a pod has to stand.
    pub(super) directory: Option<watch::Receiver<Directory>>,
    /// The trust domain whose pods are in it.
    pub(super) own_domain: Option<TrustDomain>,
}

impl Demands {
    /// Whether this identity may have the peer's address.
    async fn admit(self, identity: &PeerIdentity) -> Result<(), Denied> {
        let Some(mut directory) = self.directory else {
            return authorize_address(identity, self.address, self.rule);
        };
        let end = tokio::time::Instant::now() + CATCH_UP;
        loop {
            let judged =
                authorize_pod(identity, self.address, self.own_domain.as_ref(), &directory.borrow_and_update());
            match judged {
                Err(denied) if denied.may_pass() => {
                    if !matches!(tokio::time::timeout_at(end, directory.changed()).await, Ok(Ok(()))) {
                        return Err(denied);
                    }
                }
                judged => return judged,
            }
        }
    }
}

impl Agreed {
    /// With the identity that it has the name of.
    fn of(session: &CommonState, keep_chain: bool) -> (Self, PeerIdentity) {
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let identity = leaf.and_then(|leaf| CertificateFacts::of(leaf).ok()).map(|facts| facts.identity);
        let identity = identity.unwrap_or_default();
        let chain = session.peer_certificates().filter(|_| keep_chain);
        let agreed = Self {
            tls: Protocol::of(session),
            identity: excerpt(identity.to_string()).into(),
            chain: chain.map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect()),
        };
        (agreed, identity)
    }
}

/// A certificate may name hundreds of names; log, status and metrics need no more of a text than this.
const EXCERPT: usize = 512;

fn excerpt(mut text: String) -> String {
    if text.len() > EXCERPT {
        let length = text.len();
        text.truncate(text.floor_char_boundary(EXCERPT));
        text.push_str(&format!("… ({length} bytes)"));
    }
    text
}

/// Why a handshake failed, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) reason: Reason,
    /// Who the peer is, or claims to be.
    pub(super) seen: Option<String>,
    /// Who would have been allowed.
    pub(super) allowed: Option<String>,
    pub(super) detail: String,
}

impl Failed {
    pub(super) fn timed_out(after: Duration) -> Self {
        let detail = format!("not finished within {} s", after.as_secs());
        Self { reason: Reason::HandshakeTimeout, seen: None, allowed: None, detail }
    }

    /// Nobody has supplied any yet; `/ready` says why.
    pub(super) fn without_credentials() -> Self {
        let detail = "the sidecar has no credentials yet".to_owned();
        Self { reason: Reason::HandshakeFailed, seen: None, allowed: None, detail }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            return Self::of_tls(tls);
        }
        let detail = format!("the peer hung up during the handshake: {error}");
        Self { reason: Reason::HandshakeFailed, seen: None, allowed: None, detail }
    }

    pub(super) fn of_tls(tls: &Error) -> Self {
        let plain = |reason, detail: String| Self { reason, seen: None, allowed: None, detail: excerpt(detail) };
        if let Some(denied) = denial(tls) {
            return Self {
                reason: Reason::Denied,
                seen: Some(excerpt(denied.seen.to_string())),
                allowed: Some(allowed_text(&denied.allowed)),
                detail: excerpt(denied.to_string()),
            };
        }
        if let Some(untrusted) = distrust(tls) {
            let seen = Some(excerpt(untrusted.claimed.clone()) + " (unverified)");
            let reason = if untrusted.is_revoked() { Reason::Revoked } else { Reason::Untrusted };
            return Self { reason, seen, allowed: None, detail: excerpt(untrusted.to_string()) };
        }
        match tls {
            Error::NoCertificatesPresented => plain(Reason::NoCertificate, "the peer showed no certificate".to_owned()),
            Error::AlertReceived(_) => plain(Reason::RefusedByPeer, tls.to_string()),
            _ => plain(Reason::HandshakeFailed, tls.to_string()),
        }
    }
}

/// How long a peer may take, which is less while others wait for its place.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) started: Instant,
    pub(super) limit: Duration,
    pub(super) unfinished: &'a Unfinished,
}

impl Patience<'_> {
    /// What comes of the work; `None` if it takes too long: the limit, or, once places are scarce, the shorter time.
    pub(super) async fn with<T>(self, hurried: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let limit = if self.unfinished.is_crowded() { self.limit.min(hurried) } else { self.limit };
            let left = limit.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero())?;
            if let Ok(done) = tokio::time::timeout(left.min(ASK_AGAIN), &mut work).await {
                return Some(done);
            }
        }
    }
}

/// Looks at what the peer sends first, without taking it. `Nothing` if it is silent until the time is up.
pub(super) async fn first_bytes(stream: &TcpStream, patience: Patience<'_>) -> io::Result<FirstBytes> {
    let mut bytes = [0; ENOUGH];
    let undecided = async {
        loop {
            let n = stream.peek(&mut bytes).await?;
            // A peer that has closed sends no more.
            if n == 0 || !FirstBytes::is_undecided(&bytes[..n]) {
                return Ok::<_, io::Error>(n);
            }
            tokio::time::sleep(PEEK_PERIOD).await;
        }
    };
    let n = match patience.with(HURRIED_GREETING, undecided).await {
        Some(n) => n?,
        None => return Ok(FirstBytes::Nothing),
    };
    if FirstBytes::of(&bytes[..n]) == FirstBytes::Tls || n == 0 {
        return Ok(FirstBytes::of(&bytes[..n]));
    }
    let deadline = tokio::time::Instant::now() + GREETING;
    let mut n = n;
    while n < ENOUGH && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(PEEK_PERIOD).await;
        n = stream.peek(&mut bytes).await?;
    }
    Ok(FirstBytes::of(&bytes[..n]))
}

/// Closes a connection whose last word is an alert. Closing with unread bytes would make the kernel reset the
/// connection, and the reset would overtake the alert (RFC 1122, section 4.2.2.13).
pub(super) async fn last_word(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut left = LAST_WORD_BYTES;
        let mut buffer = [0; 4096];
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, io::Error>(())
    };
    // A peer that does not listen has heard enough.
    let _ = tokio::time::timeout(LAST_WORD, drain).await;
}

/// A handshake that came to nothing.
#[derive(Debug)]
pub(super) struct Unsecured {
    pub(super) error: io::Error,
    pub(super) stream: TcpStream,
    /// The first byte of the peer's answer.
    first_byte: Option<u8>,
}

impl Unsecured {
    /// Whether the peer showed that it speaks no TLS: it hung up without a byte, or sent something that is no TLS record
    /// (content types 20 to 24; RFC 8446, section 5.1, and RFC 6520).
    pub(super) fn speaks_no_tls(&self) -> bool {
        match self.first_byte {
            Some(byte) => !(20..=24).contains(&byte),
            None => matches!(
                self.error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
            ),
        }
    }
}

/// Shakes hands; the peer is authorized in it. Needs to be given a limit in time.
pub(super) async fn shake_hands(
    mut stream: TcpStream,
    session: Session,
    demands: Demands,
) -> Result<(Peer, Agreed), Unsecured> {
    let mut session = session;
    let mut incoming = Vec::new();
    let mut first_byte = None;
    let shaken = exchange(&mut stream, &mut session, &mut incoming, &mut first_byte).await.and_then(|()| {
        let told = session.state().map(|state| Agreed::of(state, demands.keep_chain)).unwrap_or_default();
        Ok((session.establish().map_err(broken)?, told))
    });
    let (mut session, (agreed, identity)) = match shaken {
        Ok(shaken) => shaken,
        Err(error) => return Err(Unsecured { error, stream, first_byte }),
    };
    if let Err(refusal) = demands.admit(&identity).await {
        let mut alert = Buffer::default();
        session.deny(&mut alert);
        // That it does not arrive says less than why it is sent.
        let _ = stream.write_all(alert.filled()).await;
        return Err(Unsecured { error: broken(denied(refusal)), stream, first_byte });
    }
    incoming.shrink_to_fit();
    Ok((Peer { stream, session: Some(session), unopened: incoming }, agreed))
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn exchange(
    stream: &mut TcpStream,
    session: &mut Session,
    incoming: &mut Vec<u8>,
    first_byte: &mut Option<u8>,
) -> io::Result<()> {
    let mut outgoing = Buffer::default();
    loop {
        let done = session.handshake(incoming, &mut outgoing);
        // A failed handshake's last word is an alert. That it does not arrive says less than why it is sent.
        let written = stream.write_all(outgoing.filled()).await;
        outgoing.clear();
        if done.map_err(broken)? {
            return written;
        }
        written?;
        if incoming.len() > MOST_INCOMING {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message in too many pieces"));
        }
        incoming.reserve(FLIGHT);
        if stream.read_buf(incoming).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
        }
        *first_byte = first_byte.or(incoming.first().copied());
    }
}
