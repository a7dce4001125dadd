//! Certificates, keys and roots, as their files have them, each by itself.

use std::path::{Path, PathBuf};

use rustls::Error;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use time::OffsetDateTime;
use zeroize::Zeroize as _;

use crate::core::sidecar::TlsFiles;
use crate::tls::certificate::CertificateFacts;
use crate::tls::credentials::CredentialError;

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

/// Without the byte order mark that editors of another system put before a text.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

pub(super) fn read_chain(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let (what, pem) = ("certificate", without_mark(pem));
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CredentialError::NotUsable { what, path: path.to_owned(), detail: malformed(&error) })?;
    if chain.is_empty() { Err(no_pem(what, pem, path)) } else { Ok(chain) }
}

pub(super) fn read_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let (what, pem) = ("private key", without_mark(pem));
    let has = |text: &[u8]| pem.windows(text.len()).any(|window| window == text);
    let not_usable = |detail: String| CredentialError::NotUsable { what, path: path.to_owned(), detail };
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        Some(Ok(key)) => Ok(key),
        // Of PKCS#8, and of the formats before it (RFC 1421, section 4.6.1.1).
        _ if has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") => {
            Err(not_usable("it is encrypted, and there is nobody to type a passphrase".to_owned()))
        }
        Some(Err(error)) => Err(not_usable(malformed(&error))),
        None => Err(no_pem(what, pem, path)),
    }
}

/// What is wrong with a PEM text, without anything of its content: it may be a key's.
pub(super) fn malformed(error: &pem::Error) -> String {
    let detail = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let label = String::from_utf8_lossy(end_marker);
            let label = label.trim_matches(|c: char| c == '-' || c.is_whitespace()).trim_start_matches("END ");
            format!("there is no line END {label:?}: has it been cut short?")
        }
        pem::Error::IllegalSectionStart { .. } => "a line that begins with five dashes is no BEGIN line".to_owned(),
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is not base64".to_owned(),
        other => other.to_string(),
    };
    format!("malformed PEM: {detail}")
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
    let kinds = "RSA of 2048 bits and more, EC P-256, P-384 and P-521, and Ed25519 are";
    let signing = signing.map_err(|_| CredentialError::NotUsable {
        what: "private key",
        path: files.key.clone(),
        detail: format!("it is broken, or of a kind that is not supported: {kinds}"),
    })?;
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

/// A root, and until when it vouches for anybody: webpki does not ask that of roots.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) until: OffsetDateTime,
    pub(super) facts: CertificateFacts,
}

pub(super) struct Roots {
    pub(super) found: Vec<Root>,
    pub(super) warnings: Vec<String>,
    /// When the first begins that does not count yet.
    pub(super) next: Option<OffsetDateTime>,
}

pub(super) fn store(roots: &[Root]) -> RootCertStore {
    RootCertStore { roots: roots.iter().map(|root| root.anchor.clone()).collect() }
}

/// One broken root does not take the others with it; but somebody must hear of it, because it may be the one that half
/// of the cluster needs.
pub(super) fn read_roots(pem: &[u8], path: &Path, now: OffsetDateTime) -> Result<Roots, CredentialError> {
    let what = "CA";
    let not_usable = |detail| CredentialError::NotUsable { what, path: path.to_owned(), detail };
    let mut roots = Roots { found: Vec::new(), warnings: Vec::new(), next: None };
    let mut first_fault = None;
    for (i, block) in blocks(pem).enumerate() {
        let read = root(block).map_err(not_usable);
        let checked = read.and_then(|(anchor, facts)| {
            check_dates(what, path, &facts, now)?;
            Ok((anchor, facts))
        });
        match checked {
            Ok((anchor, facts)) => {
                if facts.version < 3 {
                    let version = facts.version;
                    let doubt =
                        format!("root number {} is of X.509 version {version}: it cannot say that it is a CA", i + 1);
                    roots.warnings.push(doubt);
                }
                roots.found.push(Root { anchor, until: facts.not_after, facts });
            }
            Err(fault) => {
                if let CredentialError::NotYetValid { not_before, .. } = fault {
                    roots.next = Some(roots.next.map_or(not_before, |next| next.min(not_before)));
                }
                roots.warnings.push(format!("root number {} is left out: {fault}", i + 1));
                first_fault.get_or_insert(fault);
            }
        }
    }
    if roots.found.is_empty() {
        return Err(first_fault.unwrap_or_else(|| no_pem(what, pem, path)));
    }
    Ok(roots)
}

/// All roots of these texts, whether they count or not; what is wrong with others is told elsewhere.
pub(super) fn read_anchors<'a>(texts: impl Iterator<Item = &'a Vec<u8>>) -> Vec<TrustAnchor<'static>> {
    texts.flat_map(|pem| blocks(pem)).filter_map(|block| Some(root(block).ok()?.0)).collect()
}

fn root(block: &[u8]) -> Result<(TrustAnchor<'static>, CertificateFacts), String> {
    let der = CertificateDer::from_pem_slice(block).map_err(|error| malformed(&error))?;
    let facts = CertificateFacts::of(&der)?;
    // webpki asks nothing of what is called a root: a leaf would be an authority.
    if facts.version >= 3 && !facts.is_ca {
        return Err(format!("{} is no CA, by its basic constraints", facts.subject));
    }
    if !facts.may_certify() {
        return Err(format!("{} may sign no certificates, by its key usage", facts.subject));
    }
    let mut store = RootCertStore::empty();
    store.add(der).map_err(|error| error.to_string())?;
    let anchor = store.roots.pop().ok_or("it is no root")?;
    Ok((anchor, facts))
}
