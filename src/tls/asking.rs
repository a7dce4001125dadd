//! What it takes to ask an authority for a certificate: a key and a request, TLS to the authority, a look at the answer.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls::ClientConfig;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::core::identity::SpiffeId;
use crate::core::sidecar::{KeyAlgorithm, TlsFiles};
use crate::tls::certificate::{CertificateFacts, timestamp};
use crate::tls::credentials::{CredentialError, provider};
use crate::tls::issue::{IssueError, generate};
use crate::tls::read::{pair, read_chain, read_key, read_roots, store};

/// A new key, and the request for a certificate of it.
pub struct CertificateRequest {
    /// PKCS#10, PEM.
    pub csr_pem: String,
    /// PKCS#8, PEM.
    pub key_pem: Zeroizing<String>,
}

impl std::fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateRequest").finish_non_exhaustive()
    }
}

/// Makes an EC P-256 key, and a request for a certificate of it that names this SPIFFE ID and nothing else.
///
/// # Errors
/// If making the key or the signature fails.
pub fn request(id: &SpiffeId) -> Result<CertificateRequest, IssueError> {
    let name = id.to_string();
    let failed = |source| IssueError::Generate { common_name: name.clone(), source };
    let key = generate(KeyAlgorithm::EcP256).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(name.as_str().try_into().map_err(failed)?)];
    let csr_pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    Ok(CertificateRequest { csr_pem, key_pem: Zeroizing::new(key.serialize_pem()) })
}

/// For HTTP/2 with a server that one of these roots, PEM, vouches for; `path` is where they are from.
///
/// # Errors
/// If there is no usable root.
pub fn trusting(roots: &[u8], path: &Path) -> Result<ClientConfig, CredentialError> {
    let roots = read_roots(roots, path, OffsetDateTime::now_utc())?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider())).with_safe_default_protocol_versions();
    let config = config.map_err(|error| CredentialError::NotUsable {
        what: "CA",
        path: path.to_owned(),
        detail: format!("no TLS with it: {error}"),
    })?;
    let mut config = config.with_root_certificates(store(&roots.found)).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// What an authority has issued for a key and an identity, chain and key PEM.
///
/// # Errors
/// If there is no certificate in it, or one for another key or anybody else, or one that is not valid now.
pub fn issued(chain: &[u8], key: &str, id: &SpiffeId) -> Result<CertificateFacts, String> {
    let names = TlsFiles::three("it has issued".into(), "that we asked for".into(), "".into());
    let told = |error: CredentialError| error.to_string();
    let chain = read_chain(chain, &names.certificate).map_err(told)?;
    let leaf = CertificateFacts::of(&chain[0])?;
    pair(chain, read_key(key.as_bytes(), &names.key).map_err(told)?, &names)
        .map_err(|_| "the certificate that it has issued is not for the key that we asked for".to_owned())?;
    // An authority that takes us for somebody else would have us let in, and be let in by, that one's peers.
    if leaf.identity.spiffe_ids != [id.clone()] || leaf.identity.other_uris > 0 {
        return Err(format!("it was asked for a certificate of {id}, and has issued one of {}", leaf.identity));
    }
    if OffsetDateTime::now_utc() >= leaf.not_after {
        return Err(format!("the certificate that it has issued expired at {}", timestamp(leaf.not_after)));
    }
    Ok(leaf)
}
