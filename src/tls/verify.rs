//! Verification of a peer's certificate: the chain by webpki, then the identity by [`authorize`], both inside the
//! handshake, so that a peer that may not connect gets an alert and never a byte of the app's.
//!
//! Invariant: host names are not compared. Cluster peers are dialled by pod address; who they are is what the policy
//! says, for clients and servers alike.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::core::identity::Allow;
use crate::core::policy::{Denied, authorize};
use crate::tls::certificate::CertificateFacts;
use crate::tls::vouched::{self, Vouched};

/// A peer's chain that leads to no root of ours, with who it claims to be.
#[derive(Debug, thiserror::Error)]
#[error("{source}; the certificate claims to be {claimed}, issued by {issuer}")]
pub struct Untrusted {
    /// Who it claims to be; nothing vouches for it.
    pub claimed: String,
    /// Who it says issued it.
    pub issuer: String,
    /// webpki's reason.
    #[source]
    pub source: Error,
}

/// Verifies clients and servers alike.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    roots: Arc<RootCertStore>,
    as_client: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    allowed: Vec<Allow>,
    pub(super) vouched: Vouched,
}

impl PeerVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        allowed: Vec<Allow>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let as_client =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        Ok(Self { roots, as_client, provider, allowed, vouched: Vouched::default() })
    }

    /// Whether the chain leads to a root. Cluster peers are clients and servers at once, and keystores made for one
    /// role are common, so a leaf for either extended key usage will do.
    pub(super) fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms) {
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) => self.as_client.verify_client_cert(leaf, intermediates, now).map(|_| ()),
            other => other,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let key = vouched::key(leaf, intermediates);
        if let Some(facts) = self.vouched.recall(&key, now) {
            return authorize(&facts.identity, &self.allowed).map(|_| ()).map_err(evidence);
        }
        let facts = CertificateFacts::of(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if let Err(source) = self.verify_chain(leaf, intermediates, now) {
            let claimed = facts.identity.to_string();
            return Err(evidence(Untrusted { claimed, issuer: facts.issuer, source }));
        }
        authorize(&facts.identity, &self.allowed).map_err(evidence)?;
        // Only now: who may not connect cannot crowd out those who may.
        self.vouched.remember(key, Arc::new(facts), intermediates);
        Ok(())
    }
}

/// The evidence travels in the error: the verifier serves every connection, so it cannot keep it. The peer sees the
/// alert `certificate_unknown`.
fn evidence(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The evidence of a refusal, if that is why the handshake failed.
#[must_use]
pub fn denial(error: &Error) -> Option<&Denied> {
    other(error)?.downcast_ref()
}

/// The evidence of a chain that leads to no root, if that is why the handshake failed.
#[must_use]
pub fn distrust(error: &Error) -> Option<&Untrusted> {
    other(error)?.downcast_ref()
}

fn other(error: &Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => Some(&**inner),
        _ => None,
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.as_client.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(&*self.as_client, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(&*self.as_client, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.as_client.supported_verify_schemes()
    }
}
