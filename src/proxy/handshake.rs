//! TLS handshakes: their limits in time, and what their failures mean.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, CipherSuite, CommonState, Error, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::core::directory::{Directory, authorize_pod};
use crate::core::identity::{PeerIdentity, TrustDomain};
use crate::core::outcome::Reason;
use crate::core::policy::{Denied, PeerAddress, allowed_text, authorize_address};
use crate::core::wire::{ENOUGH, FirstBytes};
use crate::proxy::pump::Peer;
use crate::proxy::socket::{hung_up, reset_on_close};
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
        let identity = leaf.and_then(|leaf| CertificateFacts::holder(leaf).ok());
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
            let limit = if self.unfinished.is_pressed() { self.limit.min(hurried) } else { self.limit };
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
            // Who has hung up sends no more.
            if n == 0 || !FirstBytes::is_undecided(&bytes[..n]) || hung_up(stream).is_some() {
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

/// What a handshake has come to so far, for whoever ends it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The first byte of the peer's.
    first_byte: Option<u8>,
    /// Whether anything was answered to it.
    answered: bool,
}

impl Seen {
    /// Whether the peer showed that it speaks no TLS: it hung up without a byte, or sent something that is no TLS record
    /// (content types 20 to 24; RFC 8446, section 5.1, and RFC 6520).
    pub(super) fn speaks_no_tls(&self, error: &io::Error) -> bool {
        match self.first_byte {
            Some(byte) => !(20..=24).contains(&byte),
            None => self.is_breach(error),
        }
    }

    /// Whether the peer broke off without saying why.
    pub(super) fn is_breach(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
    }

    /// Whether the peer had no time for a handshake: its first word was what [`turn_away`] says.
    pub(super) fn was_turned_away(&self, error: &io::Error) -> bool {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        self.first_byte == Some(TURNED_AWAY[0])
            && matches!(tls, Some(Error::AlertReceived(AlertDescription::InternalError)))
    }
}

/// A fatal alert, internal_error (RFC 8446, sections 5.1 and 6.2): it blames nobody, and no other says that there is no room.
const TURNED_AWAY: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Refuses whoever wants TLS, or has not said yet what it wants, before a handshake has begun; without a word a peer that may
/// use plaintext would take us for one that speaks no TLS. Never waits.
pub(super) fn turn_away(stream: &TcpStream, seen: &Seen) {
    let socket = SockRef::from(stream);
    let mut first = 0;
    // Nobody needs this byte any more.
    let is_other = seen.first_byte.is_none()
        && matches!((&*socket).read(std::slice::from_mut(&mut first)), Ok(1))
        && first != 0x16;
    // Not a reset: one that overtakes the peer's connect(2) would be all that the peer sees.
    if is_other || seen.answered || socket.send(&TURNED_AWAY).is_err() {
        reset_on_close(stream);
    }
}

/// A handshake that has succeeded.
#[derive(Debug)]
pub(super) struct Shaken {
    pub(super) agreed: Agreed,
    session: Session,
    unopened: Vec<u8>,
}

impl Shaken {
    /// The peer that it was made with, over this stream.
    pub(super) fn over(self, stream: TcpStream) -> (Peer, Agreed) {
        (Peer { stream, session: Some(self.session), unopened: self.unopened }, self.agreed)
    }
}

/// Shakes hands; the peer is authorized in it. Needs to be given a limit in time.
pub(super) async fn shake_hands(
    stream: &mut TcpStream,
    session: Session,
    demands: Demands,
    seen: &mut Seen,
) -> io::Result<Shaken> {
    let mut session = session;
    let mut incoming = Vec::new();
    exchange(stream, &mut session, &mut incoming, seen).await?;
    let told = session.state().map(|state| Agreed::of(state, demands.keep_chain)).unwrap_or_default();
    let mut session = session.establish().map_err(broken)?;
    let (agreed, identity) = told;
    if let Err(refusal) = demands.admit(&identity).await {
        let mut alert = Buffer::default();
        session.deny(&mut alert);
        // That it does not arrive says less than why it is sent.
        let _ = stream.write_all(alert.filled()).await;
        return Err(broken(denied(refusal)));
    }
    incoming.shrink_to_fit();
    Ok(Shaken { agreed, session, unopened: incoming })
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn exchange(
    stream: &mut TcpStream,
    session: &mut Session,
    incoming: &mut Vec<u8>,
    seen: &mut Seen,
) -> io::Result<()> {
    let mut outgoing = Buffer::default();
    loop {
        let done = session.handshake(incoming, &mut outgoing);
        // A failed handshake's last word is an alert. That it does not arrive says less than why it is sent.
        let written = stream.write_all(outgoing.filled()).await;
        seen.answered |= !outgoing.filled().is_empty();
        outgoing.clear();
        if done.map_err(broken)? {
            return written;
        }
        if incoming.len() > MOST_INCOMING {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message in too many pieces"));
        }
        incoming.reserve(FLIGHT);
        // Who does not take our words may have said why before.
        let read = match written {
            Ok(()) => stream.read_buf(incoming).await?,
            Err(error) => stream.try_read_buf(incoming).ok().filter(|n| *n > 0).ok_or(error)?,
        };
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"));
        }
        seen.first_byte = seen.first_byte.or(incoming.first().copied());
    }
}
