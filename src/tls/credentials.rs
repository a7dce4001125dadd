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
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use time::OffsetDateTime;

use crate::core::identity::{Allow, TrustDomain};
use crate::core::sidecar::{TlsFiles, TlsVersion};
use crate::tls::certificate::{CertificateFacts, timestamp};
use crate::tls::files::{self, Bundles, Material, REVOKED};
use crate::tls::read::{Root, Roots, check_dates, pair, read_anchors, read_chain, read_key, read_roots, store};
use crate::tls::revocation::{RevocationFacts, doubts, read_revocations};
use crate::tls::verify::{PeerVerifier, Trust, is_revocation};

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
    /// When the first root begins that does not count yet.
    pub(super) next_root: Option<OffsetDateTime>,
    verifier: Arc<PeerVerifier>,
    /// What the configurations were made of.
    parts: Parts,
}

#[derive(Clone, Debug)]
struct Parts {
    own: Vec<Root>,
    others: Vec<(TrustDomain, Vec<Root>)>,
    ever: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    certified: Arc<CertifiedKey>,
    min_version: TlsVersion,
}

#[derive(Debug, thiserror::Error)]
enum AssembleError {
    #[error(transparent)]
    Trust(#[from] VerifierBuilderError),
    #[error("no TLS with it: {0}")]
    Tls(#[from] Error),
}

/// What [`Parts`] are for, put together.
struct Assembled {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    verifier: Arc<PeerVerifier>,
}

impl Parts {
    fn assemble(&self, allowed: &[Allow]) -> Result<Assembled, AssembleError> {
        let provider = Arc::new(provider());
        let trust = Trust {
            own: store(&self.own),
            others: self.others.iter().map(|(domain, roots)| (domain.clone(), store(roots))).collect(),
            ever: self.ever.clone(),
            revoked: self.revoked.clone(),
        };
        let verifier = Arc::new(PeerVerifier::new(trust, Arc::clone(&provider), allowed.to_vec())?);
        let (client, server) = configurations(&verifier, &self.certified, &provider, self.min_version)?;
        Ok(Assembled { client, server, verifier })
    }

    /// Of all roots.
    fn facts(&self) -> Vec<CertificateFacts> {
        self.own.iter().chain(self.others.iter().flat_map(|(_, roots)| roots)).map(|root| root.facts.clone()).collect()
    }

    fn leads_without_lists(&self, chain: &[CertificateDer<'_>], at: OffsetDateTime) -> bool {
        let without = Self { revoked: Vec::new(), ..self.clone() };
        without.assemble(&[Allow::AnyOfCa]).is_ok_and(|made| made.verifier.verify_chain(chain, unix(at)).is_ok())
    }
}

/// Lists with which no certificate can be verified.
fn unverifiable(path: &Path, error: &Error) -> CredentialError {
    let detail = format!("a list in it cannot be verified ({error}): is it signed by SHA-256 or better?");
    CredentialError::NotUsable { what: REVOKED, path: path.to_owned(), detail }
}

impl Credentials {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(files: &TlsFiles, allow: &[Allow], now: OffsetDateTime) -> Result<Self, CredentialError> {
        Self::check(&files::read(files, Bundles::Needed)?, files, allow, TlsVersion::default(), now)
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
        let certified = pair(chain.clone(), key, files)?;
        let not_usable = |detail: &str| CredentialError::NotUsable {
            what: "certificate",
            path: files.certificate.clone(),
            detail: detail.to_owned(),
        };
        if let Some(why) = leaf.unfit_as_leaf() {
            return Err(not_usable(why));
        }
        if leaf.identity.is_ambiguous() {
            return Err(not_usable("it has several SPIFFE IDs, or one beside other URIs: no peer lets it in"));
        }
        let Roots { found: mut own, mut warnings, next: mut next_root } = read_roots(&set.ca, &files.ca, now)?;
        for (pem, until) in &set.former {
            let Ok(former) = read_roots(pem, &files.ca, now) else { continue };
            own.extend(former.found.into_iter().map(|root| Root { until: root.until.min(*until), ..root }));
        }
        let mut others: Vec<(TrustDomain, Vec<Root>)> = Vec::new();
        for (i, (domain, pem)) in set.federated.iter().enumerate() {
            let path = files.federated.get(i).map_or(files.ca.as_path(), |(_, path)| path);
            if leaf.identity.spiffe_ids.iter().any(|id| id.trust_domain() == domain) {
                let detail = format!("{domain} is our own trust domain: its roots belong into the CA's file");
                return Err(CredentialError::NotUsable { what: "CA", path: path.to_owned(), detail });
            }
            // What another trust domain hands over may end or break at any time: nobody vouches for that domain then, not our
            // own authority either, and our own credentials go on.
            let found = match read_roots(pem, path, now) {
                Ok(found) => {
                    warnings.extend(found.warnings);
                    next_root = next_root.into_iter().chain(found.next).min();
                    found.found
                }
                Err(fault) => {
                    if let CredentialError::NotYetValid { not_before, .. } = fault {
                        next_root = next_root.into_iter().chain([not_before]).min();
                    }
                    // It may be there no more: only a start asks that of it.
                    let fault = match pem.as_slice() {
                        [] => format!("{} cannot be read, or is empty or broken", path.display()),
                        _ => fault.to_string(),
                    };
                    warnings.push(format!("nobody vouches for trust domain {domain} by this bundle: {fault}"));
                    Vec::new()
                }
            };
            match others.iter_mut().find(|(known, _)| known == domain) {
                Some((_, known)) => known.extend(found),
                None => others.push((domain.clone(), found)),
            }
        }
        let (revoked, revocations) = match files.revoked.as_deref() {
            None => Default::default(),
            Some(path) => read_revocations(&set.revoked, path)?,
        };

        if let [usage] = leaf.usages[..] {
            warnings.push(format!(
                "the certificate's extended key usage is {usage} alone: sidecars take it, nodes with TLS of their own refuse it"
            ));
        }
        let domains: Vec<&TrustDomain> = others.iter().map(|(domain, _)| domain).collect();
        warnings.extend(allow.iter().filter_map(|rule| rule.doubt(&leaf.identity, &domains)));
        let allowed = if allow.is_empty() { Allow::same_as(&leaf.identity) } else { allow.to_vec() };
        if allowed.is_empty() {
            return Err(not_usable(
                "it has no SPIFFE ID and no DNS name that peers could share: say with --allow who may connect",
            ));
        }
        let texts = [&set.ca].into_iter().chain(set.former.iter().map(|(pem, _)| pem)).chain(&set.retired);
        let ever = read_anchors(texts.chain(set.federated.iter().map(|(_, pem)| pem)));
        let ever = RootCertStore { roots: ever };
        if let Some(path) = &files.revoked {
            warnings.extend(doubts(&revocations, path, now, &ever, &facts));
        }
        let parts = Parts { own, others, ever, revoked, certified: Arc::new(certified), min_version };
        let roots = parts.facts();
        let Assembled { client, server, verifier } = parts.assemble(&allowed).map_err(|error| {
            let (what, path) = match (&error, &files.revoked) {
                (AssembleError::Trust(VerifierBuilderError::InvalidCrl(_)), Some(path)) => (REVOKED, path),
                (AssembleError::Trust(_), _) => ("CA", &files.ca),
                (AssembleError::Tls(_), _) => ("certificate", &files.certificate),
            };
            CredentialError::NotUsable { what, path: path.clone(), detail: error.to_string() }
        })?;
        verifier.verify_chain(&chain, unix(now)).map_err(|source| match &files.revoked {
            Some(path) if !is_revocation(&source) && parts.leads_without_lists(&chain, now) => {
                unverifiable(path, &source)
            }
            _ => CredentialError::Untrusted {
                certificate: files.certificate.clone(),
                issuer: leaf.issuer.clone(),
                ca: files.ca.clone(),
                source: Box::new(source),
            },
        })?;
        Ok(Self {
            client,
            server,
            chain: facts,
            leaf,
            roots,
            allowed,
            revocations,
            warnings,
            next_root,
            verifier,
            parts,
        })
    }

    /// The same, with other revocation lists; without any if there are none.
    ///
    /// # Errors
    /// If they are none, or nobody's certificate could be verified with them.
    pub(super) fn with_revocations(
        &self,
        pem: &[u8],
        path: &Path,
        now: OffsetDateTime,
    ) -> Result<Self, CredentialError> {
        let (revoked, revocations) = if pem.is_empty() { Default::default() } else { read_revocations(pem, path)? };
        let mut warnings = self.warnings.clone();
        warnings.retain(|warning| !warning.starts_with(REVOKED));
        warnings.extend(doubts(&revocations, path, now, &self.parts.ever, &self.chain));
        let changed = self.with_parts(Parts { revoked, ..self.parts.clone() }).map_err(|error| {
            CredentialError::NotUsable { what: REVOKED, path: path.to_owned(), detail: error.to_string() }
        })?;
        // Ours may have ended meanwhile: that is no fault of the lists.
        let chain = &self.parts.certified.cert;
        let at = self.chain.iter().map(|facts| facts.not_after).fold(now, OffsetDateTime::min);
        match changed.verifier.verify_chain(chain, unix(at)) {
            Err(error) if !is_revocation(&error) && self.parts.leads_without_lists(chain, at) => {
                Err(unverifiable(path, &error))
            }
            _ => Ok(Self { revocations, warnings, ..changed }),
        }
    }

    /// The same, without the roots that have ended; `None` if none has.
    pub(super) fn without_ended_roots(&self, now: OffsetDateTime) -> Option<Self> {
        let mut parts = self.parts.clone();
        let lives = |root: &Root| now <= root.until;
        parts.own.retain(lives);
        for (_, roots) in &mut parts.others {
            roots.retain(lives);
        }
        if parts.facts().len() == self.roots.len() {
            return None;
        }
        // What could be assembled with these roots can be without some of them.
        self.with_parts(parts).ok()
    }

    fn with_parts(&self, parts: Parts) -> Result<Self, AssembleError> {
        let Assembled { client, server, verifier } = parts.assemble(&self.allowed)?;
        Ok(Self {
            client,
            server,
            verifier,
            roots: parts.facts(),
            parts,
            next_root: self.next_root,
            chain: self.chain.clone(),
            leaf: self.leaf.clone(),
            allowed: self.allowed.clone(),
            revocations: self.revocations.clone(),
            warnings: self.warnings.clone(),
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
        self.verifier.is_revoked(chain, unix(at))
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

fn unix(at: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unix_timestamp().try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests;
