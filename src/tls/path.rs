//! The ways from a leaf to its roots, by names.
//!
//! Invariant: nothing is verified here. A way is only what a verifier is to look at, and at nothing beside it.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// As webpki has it.
const MOST_INTERMEDIATES: usize = 6;
/// Authorities that certify each other have two or three. Whoever sends more would have us verify signatures.
const MOST_WAYS: usize = 4;

/// A certificate that a peer has sent behind its leaf, if it may sign others as far as its key usage goes: webpki does not ask
/// that.
pub(super) struct Authority<'a> {
    der: &'a [u8],
    parsed: X509Certificate<'a>,
}

impl<'a> Authority<'a> {
    pub(super) fn of(der: &'a CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let usage = parsed.key_usage().ok()?;
        let may_certify = usage.is_none_or(|usage| usage.value.key_cert_sign());
        may_certify.then_some(Self { der, parsed })
    }

    pub(super) fn der(&self) -> CertificateDer<'a> {
        CertificateDer::from(self.der)
    }

    fn subject(&self) -> &[u8] {
        self.parsed.subject().as_raw()
    }
}

/// Each way as far as it goes: who vouches may stand anywhere on it.
pub(super) fn all<'a>(leaf: &CertificateDer<'_>, authorities: &[Authority<'a>]) -> Vec<Vec<CertificateDer<'a>>> {
    let mut found = Vec::new();
    if let Ok((_, leaf)) = X509Certificate::from_der(leaf) {
        extend(leaf.issuer().as_raw(), authorities, &mut Vec::new(), &mut found);
    }
    found
}

fn extend<'a>(
    issuer: &[u8],
    authorities: &[Authority<'a>],
    way: &mut Vec<usize>,
    found: &mut Vec<Vec<CertificateDer<'a>>>,
) {
    let been_there = way.iter().any(|at| authorities[*at].subject() == issuer);
    let next: Vec<usize> = match been_there || way.len() >= MOST_INTERMEDIATES {
        true => Vec::new(),
        false => (0..authorities.len()).filter(|at| authorities[*at].subject() == issuer).collect(),
    };
    if next.is_empty() && found.len() < MOST_WAYS {
        found.push(way.iter().map(|at| authorities[*at].der()).collect());
    }
    for at in next {
        if found.len() >= MOST_WAYS {
            return;
        }
        way.push(at);
        extend(authorities[at].parsed.issuer().as_raw(), authorities, way, found);
        way.pop();
    }
}
