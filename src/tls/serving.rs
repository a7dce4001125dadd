//! A certificate to serve HTTPS with, to callers that show none.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use crate::core::sidecar::TlsFiles;
use crate::tls::certificate::CertificateFacts;
use crate::tls::credentials::{CredentialError, provider};
use crate::tls::read::{check_dates, pair, read_chain, read_key};

/// A pair that fits, and the configuration made of it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// For connections that arrive.
    pub server: Arc<ServerConfig>,
    /// What the leaf says.
    pub leaf: CertificateFacts,
}

impl Serving {
    /// Checks a pair as PEM; `places` only names where it is from.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(
        certificate: &[u8],
        key: &[u8],
        places: &TlsFiles,
        now: OffsetDateTime,
    ) -> Result<Self, CredentialError> {
        let not_usable =
            |detail| CredentialError::NotUsable { what: "certificate", path: places.certificate.clone(), detail };
        let chain = read_chain(certificate, &places.certificate)?;
        let leaf = CertificateFacts::of(&chain[0])
            .map_err(|detail| not_usable(format!("a certificate in it is malformed: {detail}")))?;
        check_dates("certificate", &places.certificate, &leaf, now)?;
        let certified = pair(chain, read_key(key, &places.key)?, places)?;
        let server = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| not_usable(format!("no TLS with it: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        Ok(Self { server: Arc::new(server), leaf })
    }
}

/// The certificates of a bundle that are well-formed and have not ended, as they stand in it, each with its facts.
#[must_use]
pub fn living_roots(bundle: &[u8], now: OffsetDateTime) -> Vec<(CertificateDer<'static>, CertificateFacts)> {
    let certificates = CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok);
    let with_facts = certificates.filter_map(|der| CertificateFacts::of(&der).ok().map(|facts| (der, facts)));
    with_facts.filter(|(_, facts)| now <= facts.not_after).collect()
}
