//! A TLS connection without its socket: ciphertext in, plaintext out, and the other way round.
//!
//! Invariant: between calls it holds no bytes of anybody's. [`Session::open`] takes in whole records and hands out all
//! that was in them, so an idle connection costs its keys and nothing more. rustls's buffered connection would keep at
//! least 4 KiB, and take small pieces from the socket.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use rustls_pki_types::ServerName;

use crate::tls::buffer::Buffer;

/// One end of a TLS connection.
pub struct Session {
    side: Side,
    /// The peer said close_notify: nothing of its comes after it.
    peer_closed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer_closed", &self.peer_closed).finish_non_exhaustive()
    }
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
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
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self { side: Side::Client(UnbufferedClientConnection::new(config, name)?), peer_closed: false })
    }

    /// The end of whoever is dialled.
    ///
    /// # Errors
    /// If rustls cannot make one.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self { side: Side::Server(UnbufferedServerConnection::new(config)?), peer_closed: false })
    }

    /// What was agreed on.
    #[must_use]
    pub fn state(&self) -> &CommonState {
        match &self.side {
            Side::Client(client) => client,
            Side::Server(server) => server,
        }
    }

    /// Goes on with the handshake: takes whole records from `incoming`, appends to `outgoing` what the peer has to be
    /// told, and says whether the handshake is done. Application data behind it stays for [`Session::open`].
    ///
    /// # Errors
    /// If the handshake failed; `outgoing` then ends with the alert.
    pub fn handshake(&mut self, incoming: &mut Vec<u8>, outgoing: &mut Buffer) -> Result<bool, Error> {
        match &mut self.side {
            Side::Client(client) => handshake(client, incoming, outgoing, &mut self.peer_closed),
            Side::Server(server) => handshake(server, incoming, outgoing, &mut self.peer_closed),
        }
    }

    /// Decrypts all whole records of `incoming`, appends what was in them to `plain`, and to `outgoing` what TLS itself
    /// has to answer.
    ///
    /// # Errors
    /// If the peer broke the protocol or sent an alert. What came before is in `plain`; `outgoing` ends with our alert.
    pub fn open(&mut self, incoming: &mut [u8], plain: &mut Buffer, outgoing: &mut Buffer) -> Result<Opened, Error> {
        match &mut self.side {
            Side::Client(client) => open(client, incoming, plain, outgoing, &mut self.peer_closed),
            Side::Server(server) => open(server, incoming, plain, outgoing, &mut self.peer_closed),
        }
    }

    /// Encrypts. `unopened` is what [`Session::open`] did not consume: a handshake message whose first part has come
    /// lies there.
    ///
    /// # Errors
    /// If the keys have served for as many bytes as they may (TLS 1.2).
    pub fn seal(&mut self, unopened: &mut [u8], plain: &[u8], outgoing: &mut Buffer) -> Result<(), Error> {
        self.put(unopened, Outgoing::Bytes(plain), outgoing)
    }

    /// Says close_notify: nothing of ours comes after it.
    ///
    /// # Errors
    /// As [`Session::seal`].
    pub fn close(&mut self, unopened: &mut [u8], outgoing: &mut Buffer) -> Result<(), Error> {
        self.put(unopened, Outgoing::CloseNotify, outgoing)
    }

    fn put(&mut self, unopened: &mut [u8], what: Outgoing<'_>, outgoing: &mut Buffer) -> Result<(), Error> {
        match &mut self.side {
            Side::Client(client) => put(client, unopened, what, outgoing),
            Side::Server(server) => put(server, unopened, what, outgoing),
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

fn handshake<P: Process>(
    connection: &mut P,
    incoming: &mut Vec<u8>,
    outgoing: &mut Buffer,
    peer_closed: &mut bool,
) -> Result<bool, Error> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process(incoming);
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
                return Err(error);
            }
        };
        incoming.drain(..discard);
        if blocked {
            return Ok(!connection.is_handshaking());
        }
    }
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
