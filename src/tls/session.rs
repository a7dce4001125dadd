//! A TLS connection without its socket: ciphertext in, plaintext out, and the other way round.
//!
//! rustls shakes hands, and serves TLS 1.2 to the end. TLS 1.3's records are ours once it is done ([`Records`]).
//!
//! Invariant: between calls it holds no bytes of anybody's. [`Session::open`] takes in whole records and hands out all
//! that was in them, so an idle connection costs its keys and nothing more. rustls sees no record behind its handshake
//! unless it goes on to serve the connection, so none is lost between the two.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{AlertDescription, ClientConfig, CommonState, Error, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::ServerName;

use crate::tls::buffer::Buffer;
use crate::tls::record::{Records, Role, TrafficSecrets};

/// One end of a TLS connection.
pub struct Session {
    side: Side,
    /// Whole records that rustls has seen and not let go of, in bytes.
    shown: usize,
    /// The peer said close_notify: nothing of its comes after it.
    peer_closed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer_closed", &self.peer_closed).finish_non_exhaustive()
    }
}

/// Boxed: what rustls needs is large, and is to be gone with it.
enum Side {
    Client(Box<UnbufferedClientConnection>, Arc<TrafficSecrets>),
    Server(Box<UnbufferedServerConnection>, Arc<TrafficSecrets>),
    Established(Box<Records>),
}

/// What [`Session::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of whole records, done with; the rest has to be shown again, with more behind it.
    pub consumed: usize,
    /// Whether the peer's stream has ended in order.
    pub closed: bool,
}

/// What to encrypt.
#[derive(Clone, Copy)]
enum Outgoing<'a> {
    Bytes(&'a [u8]),
    CloseNotify,
}

impl Session {
    /// The end of whoever dials.
    ///
    /// # Errors
    /// If rustls cannot make one.
    pub fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let secrets = Arc::<TrafficSecrets>::default();
        let mut config = ClientConfig::clone(config);
        config.key_log = Arc::clone(&secrets) as Arc<_>;
        config.enable_secret_extraction = true;
        let client = UnbufferedClientConnection::new(Arc::new(config), name)?;
        Ok(Self::new(Side::Client(Box::new(client), secrets)))
    }

    /// The end of whoever is dialled.
    ///
    /// # Errors
    /// If rustls cannot make one.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, Error> {
        let secrets = Arc::<TrafficSecrets>::default();
        let mut config = ServerConfig::clone(config);
        config.key_log = Arc::clone(&secrets) as Arc<_>;
        config.enable_secret_extraction = true;
        let server = UnbufferedServerConnection::new(Arc::new(config))?;
        Ok(Self::new(Side::Server(Box::new(server), secrets)))
    }

    const fn new(side: Side) -> Self {
        Self { side, shown: 0, peer_closed: false }
    }

    /// What was agreed on; `None` once the session is established.
    #[must_use]
    pub fn state(&self) -> Option<&CommonState> {
        match &self.side {
            Side::Client(client, _) => Some(client),
            Side::Server(server, _) => Some(server),
            Side::Established(_) => None,
        }
    }

    /// After the handshake: lets go of all that served it. TLS 1.2 stays with rustls.
    ///
    /// # Errors
    /// If rustls does not hand over.
    pub fn establish(self) -> Result<Self, Error> {
        let Self { side, shown, peer_closed } = self;
        let suite = |state: &CommonState| match state.negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls13(suite)) if shown == 0 && !peer_closed => Some(suite),
            _ => None,
        };
        let records = match side {
            Side::Client(client, secrets) => match suite(&client) {
                None => return Ok(Self { side: Side::Client(client, secrets), shown, peer_closed }),
                Some(suite) => {
                    let (extracted, _) = client.dangerous_into_kernel_connection()?;
                    Records::new(Role::Client, suite, &secrets, &extracted)?
                }
            },
            Side::Server(server, secrets) => match suite(&server) {
                None => return Ok(Self { side: Side::Server(server, secrets), shown, peer_closed }),
                Some(suite) => {
                    let (extracted, _) = server.dangerous_into_kernel_connection()?;
                    Records::new(Role::Server, suite, &secrets, &extracted)?
                }
            },
            established @ Side::Established(_) => return Ok(Self::new(established)),
        };
        Ok(Self::new(Side::Established(Box::new(records))))
    }

    /// Goes on with the handshake: takes whole records from `incoming`, appends to `outgoing` what the peer has to be
    /// told, and says whether the handshake is done. Application data behind it stays for [`Session::open`].
    ///
    /// # Errors
    /// If the handshake failed; `outgoing` then ends with the alert.
    pub fn handshake(&mut self, incoming: &mut Vec<u8>, outgoing: &mut Buffer) -> Result<bool, Error> {
        let Self { side, shown, peer_closed } = self;
        match side {
            Side::Client(client, _) => handshake(&mut **client, incoming, outgoing, shown, peer_closed),
            Side::Server(server, _) => handshake(&mut **server, incoming, outgoing, shown, peer_closed),
            Side::Established(_) => Ok(true),
        }
    }

    /// Decrypts all whole records of `incoming`, appends what was in them to `plain`, and to `outgoing` what TLS itself
    /// has to answer.
    ///
    /// # Errors
    /// If the peer broke the protocol or sent an alert. What came before is in `plain`; `outgoing` ends with our alert.
    pub fn open(&mut self, incoming: &mut [u8], plain: &mut Buffer, outgoing: &mut Buffer) -> Result<Opened, Error> {
        match &mut self.side {
            Side::Client(client, _) => open(&mut **client, incoming, plain, outgoing, &mut self.peer_closed),
            Side::Server(server, _) => open(&mut **server, incoming, plain, outgoing, &mut self.peer_closed),
            Side::Established(records) => {
                let consumed = records.open(incoming, plain, outgoing)?;
                Ok(Opened { consumed, closed: records.peer_closed() })
            }
        }
    }

    /// Encrypts. `unopened` is what [`Session::open`] did not consume: a handshake message whose first part has come
    /// lies there.
    ///
    /// # Errors
    /// If the keys have served for as many bytes as they may (TLS 1.2).
    pub fn seal(&mut self, unopened: &mut [u8], plain: &[u8], outgoing: &mut Buffer) -> Result<(), Error> {
        match &mut self.side {
            Side::Client(client, _) => put(&mut **client, unopened, Outgoing::Bytes(plain), outgoing),
            Side::Server(server, _) => put(&mut **server, unopened, Outgoing::Bytes(plain), outgoing),
            Side::Established(records) => records.seal(plain, outgoing),
        }
    }

    /// Says close_notify: nothing of ours comes after it.
    ///
    /// # Errors
    /// As [`Session::seal`].
    pub fn close(&mut self, unopened: &mut [u8], outgoing: &mut Buffer) -> Result<(), Error> {
        match &mut self.side {
            Side::Client(client, _) => put(&mut **client, unopened, Outgoing::CloseNotify, outgoing),
            Side::Server(server, _) => put(&mut **server, unopened, Outgoing::CloseNotify, outgoing),
            Side::Established(records) => records.close(outgoing),
        }
    }

    /// Tells the peer that it may not connect, though its handshake is done. TLS 1.2, which rustls serves, says no more
    /// than that this is the end.
    pub fn deny(&mut self, outgoing: &mut Buffer) {
        match &mut self.side {
            Side::Established(records) => records.deny(outgoing),
            // What cannot be said ends with a reset.
            _ => drop(self.close(&mut [], outgoing)),
        }
    }

    #[cfg(test)]
    pub(super) fn into_records(self) -> Records {
        match self.side {
            Side::Established(records) => *records,
            _ => panic!("rustls serves it"),
        }
    }
}

/// What rustls offers for each side separately.
trait Process: std::ops::Deref<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// Shows rustls one record more only if it cannot go on without: what comes behind the handshake stays as it came.
fn handshake<P: Process>(
    connection: &mut P,
    incoming: &mut Vec<u8>,
    outgoing: &mut Buffer,
    shown: &mut usize,
    peer_closed: &mut bool,
) -> Result<bool, Error> {
    let mut end = *shown;
    loop {
        let UnbufferedStatus { discard, state } = connection.process(&mut incoming[..end]);
        let blocked = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(outgoing, |room| data.encode(room).map_err(Into::into))?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                *peer_closed = true;
                false
            }
            Ok(_) => true,
            Err(error) => {
                drop_alert_into(connection, outgoing);
                if outgoing.is_empty() && connection.negotiated_cipher_suite().is_none() {
                    complain(&error, outgoing);
                }
                return Err(error);
            }
        };
        incoming.drain(..discard);
        *shown = shown.saturating_sub(discard);
        end -= discard;
        if !blocked {
            continue;
        }
        if !connection.is_handshaking() {
            return Ok(true);
        }
        match whole_record(&incoming[*shown..]) {
            Some(size) => (*shown, end) = (*shown + size, *shown + size),
            // Of a record that is not whole rustls takes nothing, but it sees whether it is one.
            None if end < incoming.len() => end = incoming.len(),
            None => return Ok(false),
        }
    }
}

/// The size of the record that comes first, if it has come as a whole.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low] = bytes.first_chunk()?;
    let size = 5 + usize::from(u16::from_be_bytes([high, low]));
    (bytes.len() >= size).then_some(size)
}

fn open<P: Process>(
    connection: &mut P,
    incoming: &mut [u8],
    plain: &mut Buffer,
    outgoing: &mut Buffer,
    peer_closed: &mut bool,
) -> Result<Opened, Error> {
    let mut consumed = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = connection.process(&mut incoming[consumed..]);
        let done = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend(record.payload);
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(outgoing, |room| data.encode(room).map_err(Into::into))?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                *peer_closed = true;
                false
            }
            Ok(_) => true,
            Err(error) => {
                drop_alert_into(connection, outgoing);
                return Err(error);
            }
        };
        consumed += discard;
        if done {
            return Ok(Opened { consumed, closed: *peer_closed });
        }
    }
}

fn put<P: Process>(
    connection: &mut P,
    unopened: &mut [u8],
    what: Outgoing<'_>,
    outgoing: &mut Buffer,
) -> Result<(), Error> {
    loop {
        match connection.process(unopened).state? {
            ConnectionState::EncodeTlsData(mut data) => append(outgoing, |room| data.encode(room).map_err(Into::into))?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                return append(outgoing, |room| match what {
                    Outgoing::Bytes(bytes) => traffic.encrypt(bytes, room).map_err(Into::into),
                    Outgoing::CloseNotify => traffic.queue_close_notify(room).map_err(Into::into),
                });
            }
            // Both sides have said all.
            ConnectionState::Closed => return Ok(()),
            state => return Err(Error::General(format!("cannot send now: {state:?}"))),
        }
    }
}

enum Refused {
    TooSmall(usize),
    Broken(Error),
}

impl From<EncodeError> for Refused {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::TooSmall(size.required_size),
            EncodeError::AlreadyEncoded => Self::Broken(Error::General(error.to_string())),
        }
    }
}

impl From<EncryptError> for Refused {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::TooSmall(size.required_size),
            EncryptError::EncryptExhausted => Self::Broken(Error::EncryptError),
        }
    }
}

/// Has something written behind what `outgoing` holds, which grows if it has to.
fn append(outgoing: &mut Buffer, mut write: impl FnMut(&mut [u8]) -> Result<usize, Refused>) -> Result<(), Error> {
    let written = match write(outgoing.room()) {
        Err(Refused::TooSmall(size)) => write(outgoing.room_for(size)),
        other => other,
    };
    match written {
        Ok(size) => {
            outgoing.fill(size);
            Ok(())
        }
        Err(Refused::Broken(error)) => Err(error),
        Err(Refused::TooSmall(size)) => Err(Error::General(format!("{size} bytes do not fit"))),
    }
}

/// After an error rustls has an alert for the peer; it must not hide the error.
fn drop_alert_into<P: Process>(connection: &mut P, outgoing: &mut Buffer) {
    while connection.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(&mut []).state else { return };
        if append(outgoing, |room| data.encode(room).map_err(Into::into)).is_err() {
            return;
        }
    }
}

/// What rustls refuses without an alert, among it messages that are too large, before there are keys (RFC 8446, section 6).
fn complain(error: &Error, outgoing: &mut Buffer) {
    let alert = match error {
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
        _ => return,
    };
    outgoing.extend(&[0x15, 3, 3, 0, 2, 2, alert.into()]);
}
