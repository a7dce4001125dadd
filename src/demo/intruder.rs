//! Somebody who dials a pod's remoting port without an agent: in plaintext, or with TLS of their own.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::artery;
use crate::tls::CertificateFacts;
use crate::tls::issue::IssuedLeaf;

const PATIENCE: Duration = Duration::from_secs(3);

/// How an attempt went, as the intruder saw it.
#[derive(Debug)]
pub(super) struct Attempt {
    /// How the connection ended; `None` if it did not within 3 s.
    pub(super) ended: Option<String>,
    /// Serial number of the certificate that the other side showed.
    pub(super) serial: Option<String>,
}

/// Says hello as Artery does, in plaintext, with a frame after it.
pub(super) fn plaintext(stream: TcpStream) -> io::Result<Attempt> {
    let mut dialler = artery::Dialler::greet(stream, u64::MAX)?;
    // The other side may be gone by now, which the answer tells.
    let _ = dialler.send();
    let ended = match dialler.answer(PATIENCE) {
        Ok(None) => None,
        Ok(Some(answer)) if answer.is_empty() => Some("connection closed".to_owned()),
        Ok(Some(answer)) => Some(format!("answered {answer:?}")),
        Err(error) => Some(closed(&error)),
    };
    Ok(Attempt { ended, serial: None })
}

/// Shows a certificate, then says hello as Artery does.
pub(super) fn with_certificate(stream: TcpStream, leaf: &IssuedLeaf) -> io::Result<Attempt> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let config = client_config(leaf).map_err(io::Error::other)?;
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(connection, stream);
    // In TLS 1.3 the server judges the client's certificate after the client has finished (RFC 8446, 4.4.2): its
    // refusal is found by reading.
    let outcome = tls.write_all(artery::HELLO).and_then(|()| tls.flush()).and_then(|()| tls.read(&mut [0; 1]));
    let ended = match outcome {
        Ok(0) => Some("connection closed".to_owned()),
        Ok(_) => Some("answered".to_owned()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => None,
        Err(error) => Some(closed(&error)),
    };
    let serial = tls
        .conn
        .peer_certificates()
        .and_then(|chain| CertificateFacts::of(chain.first()?).ok())
        .map(|facts| facts.serial);
    Ok(Attempt { ended, serial })
}

fn closed(error: &io::Error) -> String {
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (alert, error.kind()) {
        (Some(rustls::Error::AlertReceived(alert)), _) => format!("TLS alert {alert:?}"),
        (_, io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
        (_, io::ErrorKind::UnexpectedEof) => "connection closed".to_owned(),
        _ => error.to_string(),
    }
}

fn client_config(leaf: &IssuedLeaf) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless(provider)))
        .with_client_auth_cert(chain, key)?;
    Ok(config)
}

/// An intruder does not mind whom it talks to.
#[derive(Debug)]
struct Careless(Arc<CryptoProvider>);

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
