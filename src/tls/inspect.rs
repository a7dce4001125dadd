//! Looks at the certificates that somebody shows, and trusts none of them.
//!
//! Invariant: the verifier here lets no handshake succeed. It keeps what was shown, and refuses it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::tls::credentials::provider;

/// What a server shows before it knows who asks.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// `TLS 1.3` or `TLS 1.2`.
    pub version: &'static str,
    /// The cipher suite that it chose.
    pub cipher: &'static str,
}

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Nobody there.
    #[error("{address} cannot be connected: {source}")]
    Connect {
        /// Who was dialled.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection ended, or was silent for too long.
    #[error("{address} showed no certificate: {source}")]
    Io {
        /// Who was dialled.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody who speaks something else.
    #[error("{address} does not speak TLS 1.2 or 1.3 as an agent does: {source}")]
    Tls {
        /// Who was dialled.
        address: SocketAddr,
        /// rustls's reason.
        source: Error,
    },
}

/// Shakes hands until the other side has shown its certificates, and hangs up. `name` is what SNI says, if anything.
///
/// # Errors
/// If it shows none within `limit`.
pub fn shown_by(
    address: SocketAddr,
    name: Option<ServerName<'static>>,
    limit: Duration,
) -> Result<Shown, InspectError> {
    let ends = Instant::now() + limit;
    let mut stream =
        TcpStream::connect_timeout(&address, limit).map_err(|source| InspectError::Connect { address, source })?;
    let looker = Arc::new(Looker::default());
    let tls = |source| InspectError::Tls { address, source };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&looker) as Arc<_>)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = name.is_some();
    let name = name.unwrap_or_else(|| ServerName::IpAddress(address.ip().into()));
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(tls)?;
    loop {
        let failed =
            exchange(&mut stream, &mut session, ends).map_err(|source| InspectError::Io { address, source })?;
        let chain = std::mem::take(&mut *looker.seen.lock().unwrap_or_else(PoisonError::into_inner));
        match failed {
            _ if !chain.is_empty() => return Ok(of(&session, chain)),
            Some(source) => return Err(tls(source)),
            None => {}
        }
    }
}

/// One flight each way; the error of TLS, if that ended it.
fn exchange(stream: &mut TcpStream, session: &mut ClientConnection, ends: Instant) -> io::Result<Option<Error>> {
    while session.wants_write() {
        session.write_tls(stream)?;
    }
    let left = ends.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    match session.read_tls(stream) {
        Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it hung up")),
        Ok(_) => Ok(session.process_new_packets().err()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}

fn of(session: &ClientConnection, chain: Vec<CertificateDer<'static>>) -> Shown {
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "unknown",
    };
    let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    Shown { chain, version, cipher }
}

/// Keeps what it is shown.
#[derive(Debug)]
struct Looker {
    seen: Mutex<Vec<CertificateDer<'static>>>,
    provider: CryptoProvider,
}

impl Default for Looker {
    fn default() -> Self {
        Self { seen: Mutex::default(), provider: provider() }
    }
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Err(refused())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn refused() -> Error {
    Error::General("looked at, and not trusted".to_owned())
}
