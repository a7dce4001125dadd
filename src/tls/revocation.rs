//! Certificate revocation lists (RFC 5280, section 5), as their files have them.

use std::path::Path;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::tls::certificate::{maybe_rfc3339, timestamp};
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
        })
    });
    let facts = facts.collect::<Result<_, CredentialError>>()?;
    Ok((lists, facts))
}

/// What to say of lists that are out of date.
pub(super) fn stale_lists<'a>(
    lists: &'a [RevocationFacts],
    path: &'a Path,
    now: OffsetDateTime,
) -> impl Iterator<Item = String> + use<'a> {
    let stale = lists.iter().filter(move |list| list.next_update.is_some_and(|next| next < now));
    stale.map(move |list| {
        format!(
            "{REVOKED} {}: the list of {} is out of date: it was to be replaced at {}",
            path.display(),
            list.issuer,
            list.next_update.map(timestamp).unwrap_or_default()
        )
    })
}
