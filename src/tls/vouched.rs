//! Chains that have been verified before.
//!
//! Invariant: only chains that led to a root are remembered, byte for byte, and no longer than each certificate in them is
//! valid; what a peer may do is decided anew each time. The peers of a cluster dial again and again with the same
//! certificates, and checking the issuers' signatures is a fourth of a handshake's elliptic curve work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::certificate::CertificateFacts;

/// More than the nodes of a large cluster; beyond it all are forgotten.
const MOST: usize = 1024;
/// A longer chain is verified each time.
const LONGEST: usize = 8 * 1024;

/// The chains that one set of roots has vouched for.
#[derive(Debug, Default)]
pub(super) struct Vouched {
    chains: Mutex<HashMap<Vec<u8>, Entry>>,
}

#[derive(Debug)]
struct Entry {
    leaf: Arc<CertificateFacts>,
    /// In seconds since 1970, both ends included (RFC 5280, section 4.1.2.5).
    valid: std::ops::RangeInclusive<i64>,
}

impl Vouched {
    /// What the leaf says, if this very chain has been verified and is valid now.
    pub(super) fn recall(&self, key: &[u8], now: UnixTime) -> Option<Arc<CertificateFacts>> {
        let now = i64::try_from(now.as_secs()).ok()?;
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = chains.get(key)?;
        entry.valid.contains(&now).then(|| Arc::clone(&entry.leaf))
    }

    /// Remembers a chain that has been verified.
    pub(super) fn remember(&self, key: Vec<u8>, leaf: Arc<CertificateFacts>, intermediates: &[CertificateDer<'_>]) {
        if key.len() > LONGEST {
            return;
        }
        let (mut from, mut until) = (leaf.not_before, leaf.not_after);
        for certificate in intermediates {
            let Ok(facts) = CertificateFacts::of(certificate) else { return };
            (from, until) = (from.max(facts.not_before), until.min(facts.not_after));
        }
        let valid = from.unix_timestamp()..=until.unix_timestamp();
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MOST {
            chains.clear();
        }
        chains.insert(key, Entry { leaf, valid });
    }
}

/// A chain as one string of bytes, each certificate behind its length, so that no two chains have the same.
pub(super) fn key(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut key = Vec::with_capacity(leaf.len() + intermediates.iter().map(|der| der.len() + 8).sum::<usize>() + 8);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        key.extend_from_slice(&certificate.len().to_be_bytes());
        key.extend_from_slice(certificate);
    }
    key
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::crypto::aws_lc_rs;
    use rustls::server::danger::ClientCertVerifier as _;
    use rustls::{CertificateError, Error, RootCertStore};
    use rustls_pki_types::pem::PemObject as _;

    use super::*;
    use crate::core::identity::Allow;
    use crate::tls::issue::{DevelopmentCa, LeafRequest};
    use crate::tls::verify::{PeerVerifier, Trust, denial, distrust};

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn leaf(ca: &DevelopmentCa, service_account: &str) -> CertificateDer<'static> {
        let request = LeafRequest::for_service_account("cluster.local", "shop", service_account);
        der(&ca.issue(&request).unwrap().certificate_pem)
    }

    fn verifier(ca: &DevelopmentCa) -> PeerVerifier {
        let mut roots = RootCertStore::empty();
        roots.add(der(ca.certificate_pem())).unwrap();
        let allowed = vec!["spiffe://cluster.local/ns/shop/sa/cart".parse::<Allow>().unwrap()];
        PeerVerifier::new(Trust::in_own(roots), Arc::new(aws_lc_rs::default_provider()), allowed).unwrap()
    }

    fn at(facts: &CertificateFacts, seconds: i64) -> UnixTime {
        let seconds = facts.not_after.unix_timestamp() + seconds;
        UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap()))
    }

    #[test]
    fn a_chain_that_is_remembered_ends_with_its_validity() {
        let ca = DevelopmentCa::new("test").unwrap();
        let (verifier, leaf) = (verifier(&ca), leaf(&ca, "cart"));
        let facts = CertificateFacts::of(&leaf).unwrap();
        for _ in 0..2 {
            verifier.verify_client_cert(&leaf, &[], UnixTime::now()).unwrap();
            verifier.verify_client_cert(&leaf, &[], at(&facts, 0)).unwrap();
        }
        for now in [at(&facts, 1), UnixTime::since_unix_epoch(Duration::from_secs(1))] {
            let error = verifier.verify_client_cert(&leaf, &[], now).unwrap_err();
            let distrust = distrust(&error).expect("webpki's reason");
            assert!(matches!(
                distrust.source,
                Error::InvalidCertificate(
                    CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. }
                )
            ));
        }
    }

    #[test]
    fn a_chain_that_is_remembered_ends_with_the_first_of_its_certificates() {
        let ca = DevelopmentCa::new("test").unwrap();
        let (long, short) = (leaf(&ca, "cart"), leaf(&ca, "other"));
        let facts = Arc::new(CertificateFacts::of(&long).unwrap());
        let mut longer = (*facts).clone();
        longer.not_after += time::Duration::DAY;
        let (vouched, chain) = (Vouched::default(), key(&long, std::slice::from_ref(&short)));
        vouched.remember(chain.clone(), Arc::new(longer), &[short]);
        assert!(vouched.recall(&chain, at(&facts, 0)).is_some());
        assert!(vouched.recall(&chain, at(&facts, 60)).is_none());
    }

    #[test]
    fn whoever_looks_like_one_that_is_remembered_is_verified() {
        let ca = DevelopmentCa::new("test").unwrap();
        let (verifier, leaf) = (verifier(&ca), leaf(&ca, "cart"));
        verifier.verify_client_cert(&leaf, &[], UnixTime::now()).unwrap();
        let mut forged = leaf.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let error = verifier.verify_client_cert(&forged.into(), &[], UnixTime::now()).unwrap_err();
        assert!(distrust(&error).is_some(), "{error}");
    }

    #[test]
    fn whoever_may_not_connect_is_refused_every_time() {
        let ca = DevelopmentCa::new("test").unwrap();
        let (verifier, leaf) = (verifier(&ca), leaf(&ca, "intruder"));
        for _ in 0..3 {
            let error = verifier.verify_client_cert(&leaf, &[], UnixTime::now()).unwrap_err();
            assert!(denial(&error).is_some(), "{error}");
        }
        assert!(verifier.vouched.chains.lock().unwrap().is_empty(), "who may not connect is not remembered");
    }

    #[test]
    fn memory_is_bounded() {
        let ca = DevelopmentCa::new("test").unwrap();
        let facts = Arc::new(CertificateFacts::of(&leaf(&ca, "cart")).unwrap());
        let vouched = Vouched::default();
        for i in 0..3 * MOST {
            vouched.remember(i.to_be_bytes().to_vec(), Arc::clone(&facts), &[]);
            vouched.remember(vec![0; LONGEST + 1], Arc::clone(&facts), &[]);
            assert!(vouched.chains.lock().unwrap().len() <= MOST);
        }
        assert!(vouched.recall(&[0; LONGEST + 1], at(&facts, 0)).is_none());
        assert!(vouched.recall(&(3 * MOST - 1).to_be_bytes(), at(&facts, 0)).is_some());
    }
}
