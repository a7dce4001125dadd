//! Certificate, key and roots, checked as a whole, with the TLS configurations made of them.
//!
//! Invariant: [`Credentials`] exist only if a handshake with a peer of the same kind would succeed with them now.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::server::VerifierBuilderError;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use time::OffsetDateTime;
use zeroize::Zeroize as _;

use crate::core::identity::{Allow, TrustDomain};
use crate::core::sidecar::{TlsFiles, TlsVersion};
use crate::tls::certificate::{CertificateFacts, timestamp};
use crate::tls::files::{self, Material, REVOKED};
use crate::tls::revocation::{RevocationFacts, read_revocations, stale_lists};
use crate::tls::verify::{self, PeerVerifier, Trust};

/// What is wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// No such file.
    #[error("{what} {} does not exist", path.display())]
    Missing {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is there.
    #[error("{what} {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Binary where text is expected.
    #[error("{what} {} is DER, not PEM; `openssl x509`, `pkey` or `crl` with `-inform der` converts it", path.display())]
    Der {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Text without the section that is expected.
    #[error("{what} {}: {detail}", path.display())]
    NotUsable {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A pair that is none.
    #[error("private key {} does not belong to certificate {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Too late.
    #[error("{what} {} expired at {}", path.display(), timestamp(*not_after))]
    Expired {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// When.
        not_after: OffsetDateTime,
    },
    /// Too early.
    #[error("{what} {} is not valid before {}; is this machine's clock right?", path.display(), timestamp(*not_before))]
    NotYetValid {
        /// Which of the three.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// From when.
        not_before: OffsetDateTime,
    },
    /// Roots of somebody else's.
    #[error(
        "certificate {}, issued by {issuer}, does not lead to any root in {}: {source}",
        certificate.display(),
        ca.display()
    )]
    Untrusted {
        /// The certificate's file.
        certificate: PathBuf,
        /// Who it says issued it.
        issuer: String,
        /// The roots' file.
        ca: PathBuf,
        /// webpki's reason.
        source: Box<Error>,
    },
}

/// Usable credentials.
#[derive(Debug)]
pub struct Credentials {
    /// For connections that the app dials.
    pub client: Arc<ClientConfig>,
    /// For connections that arrive.
    pub server: Arc<ServerConfig>,
    /// Our own chain, leaf first.
    pub chain: Vec<CertificateFacts>,
    /// Our own leaf.
    pub leaf: CertificateFacts,
    /// Roots that peers may lead to.
    pub roots: Vec<CertificateFacts>,
    /// Who may connect: `--allow`, or our own identity.
    pub allowed: Vec<Allow>,
    /// What has been revoked.
    pub revocations: Vec<RevocationFacts>,
    /// What is wrong with the files without making them unusable.
    pub warnings: Vec<String>,
    verifier: Arc<PeerVerifier>,
    /// What the configurations were made of.
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    own: RootCertStore,
    others: Vec<(TrustDomain, RootCertStore)>,
    certified: Arc<CertifiedKey>,
    min_version: TlsVersion,
}

impl Credentials {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(files: &TlsFiles, allow: &[Allow], now: OffsetDateTime) -> Result<Self, CredentialError> {
        Self::check(&files::read(files)?, files, allow, TlsVersion::default(), now)
    }

    pub(super) fn check(
        set: &Material,
        files: &TlsFiles,
        allow: &[Allow],
        min_version: TlsVersion,
        now: OffsetDateTime,
    ) -> Result<Self, CredentialError> {
        let chain = read_chain(&set.certificate, &files.certificate)?;
        let facts = chain.iter().map(CertificateFacts::of).collect::<Result<Vec<_>, _>>().map_err(|detail| {
            let detail = format!("a certificate in it is malformed: {detail}");
            CredentialError::NotUsable { what: "certificate", path: files.certificate.clone(), detail }
        })?;
        let leaf = facts[0].clone();
        check_dates("certificate", &files.certificate, &leaf, now)?;
        let key = read_key(&set.key, &files.key)?;
        let provider = Arc::new(provider());
        let certified = pair(chain.clone(), key, files)?;
        let Roots { mut store, facts: mut roots, mut warnings } = read_roots(&set.ca, &files.ca, now)?;
        for pem in &set.former {
            let Ok(former) = read_roots(pem, &files.ca, now) else { continue };
            store.roots.extend(former.store.roots);
            roots.extend(former.facts);
        }
        let mut trust = Trust::in_own(store);
        for (i, (domain, pem)) in set.federated.iter().enumerate() {
            let path = files.federated.get(i).map_or(files.ca.as_path(), |(_, path)| path);
            // What another trust domain hands over may end or break at any time: nobody vouches for that domain then, not our
            // own authority either, and our own credentials go on.
            match read_roots(pem, path, now) {
                Ok(others) => {
                    roots.extend(others.facts);
                    warnings.extend(others.warnings);
                    trust.others.push((domain.clone(), others.store));
                }
                Err(fault) => {
                    warnings.push(format!("nobody vouches for trust domain {domain}: {fault}"));
                    trust.others.push((domain.clone(), RootCertStore::empty()));
                }
            }
        }
        let revocations = match files.revoked.as_deref() {
            None => Vec::new(),
            Some(path) => {
                let (lists, facts) = read_revocations(&set.revoked, path)?;
                warnings.extend(stale_lists(&facts, path, now));
                trust.revoked = lists;
                facts
            }
        };

        if let [usage] = leaf.usages[..] {
            warnings.push(format!(
                "the certificate's extended key usage is {usage} alone: sidecars take it, nodes with TLS of their own refuse it"
            ));
        }
        let allowed = if allow.is_empty() { Allow::same_as(&leaf.identity) } else { allow.to_vec() };
        if allowed.is_empty() {
            let detail = "it has no SPIFFE ID and no DNS name that peers could share: say with --allow who may connect";
            let path = files.certificate.clone();
            return Err(CredentialError::NotUsable { what: "certificate", path, detail: detail.to_owned() });
        }
        let parts =
            Parts { own: trust.own.clone(), others: trust.others.clone(), certified: Arc::new(certified), min_version };
        let verifier = PeerVerifier::new(trust, Arc::clone(&provider), allowed.clone()).map_err(|error| {
            let (what, path) = match (&error, &files.revoked) {
                (VerifierBuilderError::InvalidCrl(_), Some(path)) => (REVOKED, path),
                _ => ("CA", &files.ca),
            };
            CredentialError::NotUsable { what, path: path.clone(), detail: error.to_string() }
        })?;
        let verifier = Arc::new(verifier);
        verifier.verify_chain(&chain, unix(now)).map_err(|source| CredentialError::Untrusted {
            certificate: files.certificate.clone(),
            issuer: leaf.issuer.clone(),
            ca: files.ca.clone(),
            source: Box::new(source),
        })?;
        let (client, server) =
            configurations(&verifier, &parts.certified, &provider, min_version).map_err(|error| {
                let detail = format!("no TLS with it: {error}");
                CredentialError::NotUsable { what: "certificate", path: files.certificate.clone(), detail }
            })?;
        let parts = Arc::new(parts);
        Ok(Self { client, server, chain: facts, leaf, roots, allowed, revocations, warnings, verifier, parts })
    }

    /// The same, with other revocation lists.
    ///
    /// # Errors
    /// If they are none.
    pub(super) fn with_revocations(
        &self,
        pem: &[u8],
        path: &Path,
        now: OffsetDateTime,
    ) -> Result<Self, CredentialError> {
        let not_usable = |detail: String| CredentialError::NotUsable { what: REVOKED, path: path.to_owned(), detail };
        let (revoked, revocations) = read_revocations(pem, path)?;
        let Parts { own, others, certified, min_version } = &*self.parts;
        let trust = Trust { own: own.clone(), others: others.clone(), revoked };
        let provider = Arc::new(provider());
        let verifier = PeerVerifier::new(trust, Arc::clone(&provider), self.allowed.clone());
        let verifier = Arc::new(verifier.map_err(|error| not_usable(error.to_string()))?);
        let (client, server) = configurations(&verifier, certified, &provider, *min_version)
            .map_err(|error| not_usable(format!("no TLS with it: {error}")))?;
        let mut warnings = self.warnings.clone();
        warnings.retain(|warning| !warning.starts_with(REVOKED));
        warnings.extend(stale_lists(&revocations, path, now));
        Ok(Self {
            client,
            server,
            chain: self.chain.clone(),
            leaf: self.leaf.clone(),
            roots: self.roots.clone(),
            allowed: self.allowed.clone(),
            revocations,
            warnings,
            verifier,
            parts: Arc::clone(&self.parts),
        })
    }

    /// The certificates of a file, in its order; there is at least one.
    ///
    /// # Errors
    /// If there is none, or it is no PEM.
    pub fn chain_of(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
        read_chain(pem, path)
    }

    /// Whether a peer with this chain, its leaf first, may connect, or go on being connected.
    ///
    /// # Errors
    /// Why not; [`denial`](crate::tls::denial) and [`distrust`](crate::tls::distrust) know the evidence.
    pub fn admit(&self, chain: &[CertificateDer<'_>], now: OffsetDateTime) -> Result<(), Error> {
        self.verifier.admit(chain, unix(now))
    }

    /// Whether a peer that was let in with this chain is to go: something in it has been revoked.
    #[must_use]
    pub fn is_revoked(&self, chain: &[CertificateDer<'_>], now: OffsetDateTime) -> bool {
        // That one of them has ended since says nothing of whether it was revoked before.
        let ends = chain.iter().filter_map(|der| CertificateFacts::of(der).ok()).map(|facts| facts.not_after);
        let at = ends.fold(now, OffsetDateTime::min);
        self.admit(chain, at).is_err_and(|error| verify::is_revoked(&error))
    }

    /// Whether the leaf is valid at this time.
    #[must_use]
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.leaf.not_before <= now && now <= self.leaf.not_after
    }
}

/// AES-128-GCM first: half the cost of AES-256 in the bulk of the work, and no weaker link than the P-256 and X25519
/// beside it. The last two serve native Akka 2.6 peers on TLS 1.2 (`RotatingKeysSSLEngineProvider`).
pub(super) fn provider() -> CryptoProvider {
    const SUITES: [SupportedCipherSuite; 7] = [
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ];
    CryptoProvider { cipher_suites: SUITES.to_vec(), ..aws_lc_rs::default_provider() }
}

/// Nothing is resumed: a resumed session would skip the certificate, and with it the policy, expiry and rotation.
/// Connections of a cluster live for hours, so a full handshake each costs nothing that anybody would notice.
fn configurations(
    verifier: &Arc<PeerVerifier>,
    certified: &Arc<CertifiedKey>,
    provider: &Arc<CryptoProvider>,
    min_version: TlsVersion,
) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), Error> {
    let versions: &[&SupportedProtocolVersion] = match min_version {
        TlsVersion::V12 => rustls::ALL_VERSIONS,
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(certified)));
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as Arc<_>)
        .with_client_cert_resolver(Arc::clone(&resolver) as Arc<_>);
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::clone(verifier) as Arc<_>)
        .with_cert_resolver(resolver as Arc<_>);
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.ignore_client_order = true;
    Ok((Arc::new(client), Arc::new(server)))
}

pub(super) fn check_dates(
    what: &'static str,
    path: &Path,
    certificate: &CertificateFacts,
    now: OffsetDateTime,
) -> Result<(), CredentialError> {
    let CertificateFacts { not_before, not_after, .. } = *certificate;
    if now > not_after {
        return Err(CredentialError::Expired { what, path: path.to_owned(), not_after });
    }
    if now < not_before {
        return Err(CredentialError::NotYetValid { what, path: path.to_owned(), not_before });
    }
    Ok(())
}

pub(super) fn read_chain(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let what = "certificate";
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| {
        CredentialError::NotUsable { what, path: path.to_owned(), detail: format!("malformed PEM: {error}") }
    })?;
    if chain.is_empty() { Err(no_pem(what, pem, path)) } else { Ok(chain) }
}

fn unix(at: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unix_timestamp().try_into().unwrap_or(0)))
}

pub(super) fn read_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let what = "private key";
    let not_usable = |detail: String| CredentialError::NotUsable { what, path: path.to_owned(), detail };
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(not_usable(format!("malformed PEM: {error}"))),
        None if pem.windows(21).any(|window| window == b"ENCRYPTED PRIVATE KEY") => {
            Err(not_usable("it is encrypted, and there is nobody to type a passphrase".to_owned()))
        }
        None => Err(no_pem(what, pem, path)),
    }
}

pub(super) fn no_pem(what: &'static str, bytes: &[u8], path: &Path) -> CredentialError {
    let path = path.to_owned();
    // Every certificate and every key is one ASN.1 SEQUENCE (X.690, section 8.9).
    if bytes.first() == Some(&0x30) {
        return CredentialError::Der { what, path };
    }
    let detail = match bytes {
        [] => "it is empty".to_owned(),
        _ => format!("no PEM block with a {what} in it"),
    };
    CredentialError::NotUsable { what, path, detail }
}

pub(super) fn pair(
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
    files: &TlsFiles,
) -> Result<CertifiedKey, CredentialError> {
    let signing = aws_lc_rs::sign::any_supported_type(&key);
    key.zeroize();
    let not_usable = |what, path: &PathBuf, error| CredentialError::NotUsable {
        what,
        path: path.clone(),
        detail: format!("not usable: {error}"),
    };
    let signing = signing.map_err(|error| not_usable("private key", &files.key, error))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => {
            Err(CredentialError::KeyMismatch { key: files.key.clone(), certificate: files.certificate.clone() })
        }
        Err(error) => Err(not_usable("certificate", &files.certificate, error)),
    }
}

/// From each `-----BEGIN` to the next: a block without an end does not take the one behind it along.
fn blocks(pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let mut starts: Vec<usize> = (0..pem.len()).filter(|at| pem[*at..].starts_with(BEGIN)).collect();
    starts.push(pem.len());
    (1..starts.len()).map(move |i| &pem[starts[i - 1]..starts[i]])
}

pub(super) struct Roots {
    pub(super) store: RootCertStore,
    facts: Vec<CertificateFacts>,
    warnings: Vec<String>,
}

/// One broken root does not take the others with it; but somebody must hear of it, because it may be the one that half
/// of the cluster needs.
pub(super) fn read_roots(pem: &[u8], path: &Path, now: OffsetDateTime) -> Result<Roots, CredentialError> {
    let what = "CA";
    let mut roots = Roots { store: RootCertStore::empty(), facts: Vec::new(), warnings: Vec::new() };
    let mut first_fault = None;
    for (i, block) in blocks(pem).enumerate() {
        let section = CertificateDer::from_pem_slice(block);
        let root = section.map_err(|error| format!("malformed PEM: {error}")).and_then(|der| {
            let facts = CertificateFacts::of(&der)?;
            Ok((der, facts))
        });
        let fault = match root {
            Err(detail) => CredentialError::NotUsable { what, path: path.to_owned(), detail },
            Ok((der, facts)) => match check_dates(what, path, &facts, now) {
                Err(fault) => fault,
                Ok(()) => match roots.store.add(der) {
                    Ok(()) => {
                        roots.facts.push(facts);
                        continue;
                    }
                    Err(error) => CredentialError::NotUsable { what, path: path.to_owned(), detail: error.to_string() },
                },
            },
        };
        roots.warnings.push(format!("root number {} is left out: {fault}", i + 1));
        first_fault.get_or_insert(fault);
    }
    if roots.store.is_empty() {
        return Err(first_fault.unwrap_or_else(|| no_pem(what, pem, path)));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
