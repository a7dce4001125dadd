//! TLS 1.3's record layer after the handshake, which rustls has done (RFC 8446, sections 4.6, 5 and 6).
//!
//! Invariant: nothing is handed out that was not authenticated in its place in the stream, and whatever may not come now
//! ends the connection with the alert that the RFC demands. Records are decrypted from one buffer to another, and
//! encrypted likewise: no allocation a record, and between calls nothing but the keys
//! (docs/decisions/0018-own-record-layer.md).

#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod keys;
mod secrets;

use rustls::{AlertDescription, ContentType, Error, ExtractedSecrets, HandshakeType, InvalidMessage};
use rustls::{PeerMisbehaved, Tls13CipherSuite};

use self::keys::{HEADER, Keys, TAG};
pub(super) use self::secrets::TrafficSecrets;
use crate::tls::buffer::Buffer;

/// A record's plaintext (section 5.1).
const MOST_PLAIN: usize = 1 << 14;
/// And its ciphertext, with type, padding and tag (section 5.2).
const MOST_SEALED: usize = MOST_PLAIN + 256;
/// A handshake message; rustls takes no more either.
const MOST_MESSAGE: usize = 0xffff;
/// What a peer may send in a row that moves nothing, as rustls and BoringSSL have it.
const MOST_EMPTY: u8 = 32;
const MOST_UPDATES: u8 = 32;
const MOST_WARNINGS: u8 = 4;

/// TLS 1.2's, in all records (section 5.2).
const VERSION: [u8; 2] = [3, 3];
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// Both directions of an established connection.
#[derive(Debug)]
pub(super) struct Records {
    role: Role,
    out: Keys,
    /// Records that one key encrypts.
    limit: u64,
    /// Our close_notify, or a fatal alert, has been sent.
    said_all: bool,
    /// The peer asked for new keys of ours; it gets them before the next of our bytes (section 4.6.3).
    owes_update: bool,
    incoming: Keys,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    empty: u8,
    updates: u8,
    warnings: u8,
    peer_closed: bool,
    failed: Option<Box<Error>>,
}

/// What ends a connection, and what the peer is told of it.
#[derive(Debug)]
struct Fault {
    error: Error,
    alert: Option<AlertDescription>,
}

impl Fault {
    fn new(error: impl Into<Error>, alert: AlertDescription) -> Self {
        Self { error: error.into(), alert: Some(alert) }
    }

    fn unexpected(error: impl Into<Error>) -> Self {
        Self::new(error, AlertDescription::UnexpectedMessage)
    }

    fn malformed(error: InvalidMessage) -> Self {
        Self::new(error, AlertDescription::DecodeError)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { error, alert: Some(AlertDescription::InternalError) }
    }
}

impl Records {
    /// Goes on where rustls has stopped.
    ///
    /// # Errors
    /// If what rustls encrypts with is not what its secrets lead to.
    pub(super) fn new(
        role: Role,
        suite: &'static Tls13CipherSuite,
        secrets: &TrafficSecrets,
        extracted: &ExtractedSecrets,
    ) -> Result<Self, Error> {
        let (client, server) = secrets.take()?;
        let (ours, theirs) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        let out = Keys::new(suite, ours, extracted.tx.0)?;
        let incoming = Keys::new(suite, theirs, extracted.rx.0)?;
        if !out.are(&extracted.tx.1) || !incoming.are(&extracted.rx.1) {
            return Err(Error::General("rustls's traffic secrets do not lead to its keys".to_owned()));
        }
        Ok(Self::with(role, out, incoming))
    }

    fn with(role: Role, out: Keys, incoming: Keys) -> Self {
        Self {
            role,
            limit: out.limit(),
            out,
            said_all: false,
            owes_update: false,
            incoming,
            message: Vec::new(),
            empty: 0,
            updates: 0,
            warnings: 0,
            peer_closed: false,
            failed: None,
        }
    }

    /// Whether the peer said close_notify.
    pub(super) const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Decrypts all whole records and says how many bytes they were; what was in them is appended to `plain`.
    ///
    /// # Errors
    /// If the peer broke the protocol or sent an alert, now or before; `outgoing` then ends with our alert.
    pub(super) fn open(&mut self, records: &[u8], plain: &mut Buffer, outgoing: &mut Buffer) -> Result<usize, Error> {
        self.check()?;
        let opened = self.open_all(records, plain);
        self.incoming.rest();
        opened.map_err(|Fault { error, alert }| {
            if let Some(alert) = alert {
                self.say_alert(FATAL, alert, outgoing);
            }
            self.failed = Some(Box::new(error.clone()));
            error
        })
    }

    /// Encrypts.
    ///
    /// # Errors
    /// If the connection has failed or its end been said, or if the cipher fails.
    pub(super) fn seal(&mut self, plain: &[u8], outgoing: &mut Buffer) -> Result<(), Error> {
        self.check()?;
        if self.said_all {
            return Err(Error::General("bytes behind a close_notify".to_owned()));
        }
        for content in plain.chunks(MOST_PLAIN) {
            if self.owes_update || self.out.used() >= self.limit {
                self.update_ours(outgoing)?;
            }
            self.put(APPLICATION_DATA, content, outgoing)?;
        }
        self.out.rest();
        Ok(())
    }

    /// Says close_notify, once.
    ///
    /// # Errors
    /// As [`Records::seal`].
    pub(super) fn close(&mut self, outgoing: &mut Buffer) -> Result<(), Error> {
        self.check()?;
        self.say_alert(WARNING, AlertDescription::CloseNotify, outgoing);
        Ok(())
    }

    /// Says that the peer may not connect, and nothing more.
    pub(super) fn deny(&mut self, outgoing: &mut Buffer) {
        self.say_alert(FATAL, AlertDescription::AccessDenied, outgoing);
        self.failed = Some(Box::new(Error::General("the peer was denied".to_owned())));
    }

    fn check(&self) -> Result<(), Error> {
        self.failed.as_ref().map_or(Ok(()), |error| Err((**error).clone()))
    }

    fn open_all(&mut self, records: &[u8], plain: &mut Buffer) -> Result<usize, Fault> {
        let mut consumed = 0;
        while !self.peer_closed {
            match self.open_next(&records[consumed..], plain)? {
                0 => break,
                size => consumed += size,
            }
        }
        Ok(consumed)
    }

    /// Opens one record; 0 if it has not come as a whole.
    fn open_next(&mut self, records: &[u8], plain: &mut Buffer) -> Result<usize, Fault> {
        let Some((&header, rest)) = records.split_first_chunk::<HEADER>() else { return Ok(0) };
        let [kind, _, _, high, low] = header;
        if kind != APPLICATION_DATA {
            return Err(Fault::unexpected(unexpected_record(kind)));
        }
        let size = usize::from(u16::from_be_bytes([high, low]));
        if size > MOST_SEALED {
            return Err(Fault::new(Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow));
        }
        let Some(sealed) = rest.get(..size) else { return Ok(0) };
        let forged = |error| Fault::new(error, AlertDescription::BadRecordMac);
        let Some((body, tag)) = sealed.split_last_chunk::<TAG>() else { return Err(forged(Error::DecryptError)) };
        let inner = &mut plain.room_for(body.len())[..body.len()];
        self.incoming.open(header, body, tag, inner).map_err(forged)?;
        if inner.len() > MOST_PLAIN + 1 {
            return Err(Fault::new(Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow));
        }
        let Some(last) = inner.iter().rposition(|&byte| byte != 0) else {
            return Err(Fault::unexpected(PeerMisbehaved::IllegalTlsInnerPlaintext));
        };
        let (content, kind) = (&inner[..last], inner[last]);
        if kind != HANDSHAKE && !self.message.is_empty() {
            return Err(Fault::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        match kind {
            APPLICATION_DATA if content.is_empty() => {
                self.empty += 1;
                if self.empty > MOST_EMPTY {
                    return Err(Fault::unexpected(PeerMisbehaved::TooManyEmptyFragments));
                }
            }
            APPLICATION_DATA => {
                (self.empty, self.updates) = (0, 0);
                plain.fill(last);
            }
            ALERT => self.heed_alert(content)?,
            HANDSHAKE => self.heed_handshake(content)?,
            other => return Err(Fault::unexpected(unexpected_record(other))),
        }
        Ok(HEADER + size)
    }

    /// Section 6. What a level says is of no account but for user_canceled.
    fn heed_alert(&mut self, content: &[u8]) -> Result<(), Fault> {
        let &[level, description] = content else {
            return Err(match content {
                [] => Fault::unexpected(InvalidMessage::InvalidEmptyPayload),
                _ => Fault::malformed(InvalidMessage::TrailingData("AlertMessagePayload")),
            });
        };
        let description = AlertDescription::from(description);
        let error = Error::AlertReceived(description);
        match (level, description) {
            (WARNING | FATAL, AlertDescription::CloseNotify) => self.peer_closed = true,
            (WARNING, AlertDescription::UserCanceled) => {
                self.warnings += 1;
                if self.warnings > MOST_WARNINGS {
                    return Err(Fault::unexpected(PeerMisbehaved::TooManyWarningAlertsReceived));
                }
            }
            (WARNING, _) => return Err(Fault::new(error, AlertDescription::DecodeError)),
            (FATAL, _) => return Err(Fault { error, alert: None }),
            _ => return Err(Fault::new(error, AlertDescription::IllegalParameter)),
        }
        Ok(())
    }

    /// Section 4.6: tickets and key updates, in pieces or several at once.
    fn heed_handshake(&mut self, content: &[u8]) -> Result<(), Fault> {
        if content.is_empty() {
            return Err(Fault::unexpected(InvalidMessage::InvalidEmptyPayload));
        }
        self.message.extend_from_slice(content);
        let mut bytes = std::mem::take(&mut self.message);
        let mut done = 0;
        while let Some(size) = self.heed_message(&bytes[done..])? {
            done += size;
        }
        bytes.drain(..done);
        if !bytes.is_empty() {
            self.message = bytes;
        }
        Ok(())
    }

    /// Takes the first message; `None` if it is not whole.
    fn heed_message(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        let may_come = kind == KEY_UPDATE || (kind == NEW_SESSION_TICKET && self.role == Role::Client);
        if !may_come {
            return Err(Fault::unexpected(self.unexpected_message(kind)));
        }
        let Some(&[_, a, b, c]) = bytes.first_chunk() else { return Ok(None) };
        let size = u32::from_be_bytes([0, a, b, c]) as usize;
        if size > MOST_MESSAGE {
            return Err(Fault::malformed(InvalidMessage::HandshakePayloadTooLarge));
        }
        if kind == KEY_UPDATE && size != 1 {
            return Err(Fault::malformed(InvalidMessage::InvalidKeyUpdate));
        }
        let Some(body) = bytes[4..].get(..size) else { return Ok(None) };
        if kind == NEW_SESSION_TICKET {
            // Nothing is resumed.
            return if is_ticket(body) {
                Ok(Some(4 + size))
            } else {
                Err(Fault::malformed(InvalidMessage::MessageTooShort))
            };
        }
        if bytes.len() > 4 + size {
            return Err(Fault::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        self.updates += 1;
        if self.updates > MOST_UPDATES {
            return Err(Fault::unexpected(PeerMisbehaved::TooManyKeyUpdateRequests));
        }
        self.owes_update |= match body {
            [0] => false,
            [1] => true,
            _ => return Err(Fault::new(InvalidMessage::InvalidKeyUpdate, AlertDescription::IllegalParameter)),
        };
        self.incoming.update()?;
        Ok(Some(4 + size))
    }

    fn unexpected_message(&self, kind: u8) -> Error {
        let mut expect_types = vec![HandshakeType::KeyUpdate];
        if self.role == Role::Client {
            expect_types.push(HandshakeType::NewSessionTicket);
        }
        Error::InappropriateHandshakeMessage { expect_types, got_type: HandshakeType::from(kind) }
    }

    /// Tells the peer of new keys, and goes on with them; it need not answer with its own.
    fn update_ours(&mut self, outgoing: &mut Buffer) -> Result<(), Error> {
        self.put(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], outgoing)?;
        self.owes_update = false;
        self.out.update()
    }

    /// Nothing of ours comes behind it. That it cannot be said must not hide why.
    fn say_alert(&mut self, level: u8, alert: AlertDescription, outgoing: &mut Buffer) {
        if !std::mem::replace(&mut self.said_all, true) {
            let _ = self.put(ALERT, &[level, alert.into()], outgoing);
        }
    }

    /// Appends a record.
    fn put(&mut self, kind: u8, content: &[u8], outgoing: &mut Buffer) -> Result<(), Error> {
        let size = content.len() + 1 + TAG;
        let [high, low] = u16::try_from(size).map_err(|_| Error::EncryptError)?.to_be_bytes();
        let header = [APPLICATION_DATA, VERSION[0], VERSION[1], high, low];
        let room = &mut outgoing.room_for(HEADER + size)[..HEADER + size];
        let (head, body) = room.split_at_mut(HEADER);
        head.copy_from_slice(&header);
        self.out.seal(header, content, kind, body)?;
        outgoing.fill(HEADER + size);
        Ok(())
    }
}

fn unexpected_record(kind: u8) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert],
        got_type: ContentType::from(kind),
    }
}

/// Whether it has the form of a NewSessionTicket (section 4.6.1): lifetime and age_add, nonce, ticket, extensions.
fn is_ticket(body: &[u8]) -> bool {
    let Some((_, rest)) = body.split_at_checked(8) else { return false };
    let Some((_, rest)) = vector::<1>(rest) else { return false };
    let Some((ticket, rest)) = vector::<2>(rest) else { return false };
    matches!(vector::<2>(rest), Some((_, []))) && !ticket.is_empty()
}

/// A vector with a length of so many bytes before it, and what comes behind it.
fn vector<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    rest.split_at_checked(length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests;
