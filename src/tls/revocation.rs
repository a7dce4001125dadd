//! Certificate revocation lists (RFC 5280, section 5), as their files have them.

use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::tls::certificate::{CertificateFacts, maybe_rfc3339, timestamp};
use crate::tls::credentials::CredentialError;
use crate::tls::files::REVOKED;
use crate::tls::read::{malformed, no_pem};

/// What a certificate revocation list says.
#[derive(Clone, Debug, Serialize)]
pub struct RevocationFacts {
    /// Whose certificates are in it.
    pub issuer: String,
    /// How many.
    pub revoked: usize,
    /// When a newer list was to be there.
    #[serde(serialize_with = "maybe_rfc3339")]
    pub next_update: Option<OffsetDateTime>,
    /// The issuer's name as it stands in the list.
    #[serde(skip)]
    pub raw_issuer: Vec<u8>,
}

type Revocations = (Vec<CertificateRevocationListDer<'static>>, Vec<RevocationFacts>);

/// The lists of a PEM text. Each counts: who leaves one out trusts what it has revoked.
pub(super) fn read_revocations(pem: &[u8], path: &Path) -> Result<Revocations, CredentialError> {
    let not_usable = |detail| CredentialError::NotUsable { what: REVOKED, path: path.to_owned(), detail };
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|error| not_usable(malformed(&error)))?;
    if lists.is_empty() {
        return Err(no_pem(REVOKED, pem, path));
    }
    let facts = lists.iter().map(|list| {
        let (_, parsed) = CertificateRevocationList::from_der(list).map_err(|error| not_usable(error.to_string()))?;
        Ok(RevocationFacts {
            issuer: parsed.issuer().to_string(),
            revoked: parsed.iter_revoked_certificates().count(),
            next_update: parsed.next_update().map(|at| at.to_datetime()),
            raw_issuer: parsed.issuer().as_raw().to_vec(),
        })
    });
    let facts = facts.collect::<Result<_, CredentialError>>()?;
    Ok((lists, facts))
}

/// What to say of lists that are out of date, and of those that may be nobody's: no root and no certificate of our own
/// chain has their issuer's name.
pub(super) fn doubts(
    lists: &[RevocationFacts],
    path: &Path,
    now: OffsetDateTime,
    roots: &RootCertStore,
    chain: &[CertificateFacts],
) -> Vec<String> {
    let file = path.display();
    let stale = lists.iter().filter(|list| list.next_update.is_some_and(|next| next < now)).map(|list| {
        format!(
            "{REVOKED} {file}: the list of {} is out of date: it was to be replaced at {}",
            list.issuer,
            list.next_update.map(timestamp).unwrap_or_default()
        )
    });
    let is_known = |list: &RevocationFacts| {
        roots.roots.iter().any(|root| is_name(&list.raw_issuer, &root.subject))
            || chain.iter().any(|certificate| certificate.subject == list.issuer)
    };
    let strange = lists.iter().filter(|list| !is_known(list)).map(|list| {
        format!(
            "{REVOKED} {file}: the list of {}: no CA here has that name, so it revokes nothing, except where peers show one that has",
            list.issuer
        )
    });
    stale.chain(strange).collect()
}

/// Whether this encoded name has this content: a root's name lacks the SEQUENCE's tag and its length, of 1 to 3 bytes.
fn is_name(encoded: &[u8], content: &[u8]) -> bool {
    encoded.strip_suffix(content).is_some_and(|header| (2..=4).contains(&header.len()))
}
