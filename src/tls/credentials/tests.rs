use std::path::PathBuf;

use time::{Duration, OffsetDateTime};

use super::*;
use crate::tls::issue::{DevelopmentCa, IssuedLeaf, KeyAlgorithm, LeafRequest};

fn files() -> TlsFiles {
    TlsFiles {
        certificate: PathBuf::from("/d/tls.crt"),
        key: PathBuf::from("/d/tls.key"),
        ca: PathBuf::from("/d/ca.crt"),
    }
}

fn request() -> LeafRequest {
    LeafRequest::for_service_account("cluster.local", "shop", "cart")
}

fn check(certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<Credentials, CredentialError> {
    let set = FileSet { certificate: certificate.to_vec(), key: key.to_vec().into(), ca: ca.to_vec() };
    Credentials::check(&set, &files(), &[], TlsVersion::default(), OffsetDateTime::now_utc())
}

fn check_leaf(leaf: &IssuedLeaf, ca: &str) -> Result<Credentials, CredentialError> {
    check(leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes(), ca.as_bytes())
}

fn fault(result: Result<Credentials, CredentialError>) -> String {
    result.map(|_| ()).expect_err("taken as good").to_string()
}

#[test]
fn good_credentials_allow_their_own_identity_by_default() {
    let ca = DevelopmentCa::new("a").unwrap();
    for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::Rsa2048] {
        let leaf = ca.issue_with_key(&request(), algorithm).unwrap();
        let credentials = check_leaf(&leaf, ca.certificate_pem()).unwrap();
        assert_eq!(credentials.allowed[0].to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert!(credentials.warnings.is_empty());
    }
}

#[test]
fn every_fault_has_a_message_of_its_own_that_names_the_file() {
    let ca = DevelopmentCa::new("a").unwrap();
    let other = DevelopmentCa::new("b").unwrap();
    let leaf = ca.issue(&request()).unwrap();
    let now = OffsetDateTime::now_utc();
    let late = ca.issue(&LeafRequest { not_after: now - Duration::MINUTE, ..request() }).unwrap();
    let early = ca.issue(&LeafRequest { not_before: now + Duration::HOUR, ..request() }).unwrap();
    let nameless = ca.issue(&LeafRequest { spiffe_id: None, ..request() }).unwrap();
    let stranger = other.issue(&request()).unwrap();
    let (certificate, key, root) = (leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes(), ca.certificate_pem());
    let der = CertificateDer::from_pem_slice(certificate).unwrap();
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let broken = leaf.certificate_pem.replace("MII", "!!!");
    let root = root.as_bytes();
    for (result, part) in [
        (check(b"", key, root), "certificate /d/tls.crt: it is empty"),
        (check(b"hello", key, root), "certificate /d/tls.crt: no PEM block"),
        (check(&der, key, root), "certificate /d/tls.crt is DER"),
        (check(broken.as_bytes(), key, root), "certificate /d/tls.crt: malformed PEM"),
        (check(key, key, root), "certificate /d/tls.crt: no PEM block"),
        (check(certificate, certificate, root), "private key /d/tls.key: no PEM block"),
        (check(certificate, encrypted, root), "private key /d/tls.key: it is encrypted"),
        (check(certificate, key, b"x"), "CA /d/ca.crt: no PEM block"),
        (check(certificate, stranger.key_pem.as_bytes(), root), "private key /d/tls.key does not belong to"),
        (check_leaf(&late, ca.certificate_pem()), "certificate /d/tls.crt expired at "),
        (check_leaf(&early, ca.certificate_pem()), "certificate /d/tls.crt is not valid before "),
        (check_leaf(&nameless, ca.certificate_pem()), "say with --allow who may connect"),
        (check_leaf(&stranger, ca.certificate_pem()), "does not lead to any root in /d/ca.crt"),
    ] {
        let text = fault(result);
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_broken_root_is_named_and_the_others_serve() {
    let ca = DevelopmentCa::new("a").unwrap();
    let leaf = ca.issue(&request()).unwrap();
    let broken = ca.certificate_pem().replace("MII", "!!!");
    let bundle = format!("{broken}{}", ca.certificate_pem());
    let credentials = check_leaf(&leaf, &bundle).unwrap();
    assert_eq!(credentials.roots.len(), 1);
    assert!(credentials.warnings[0].contains("root number 1 is left out"), "{:?}", credentials.warnings);
    assert!(fault(check_leaf(&leaf, &broken)).contains("CA /d/ca.crt"));
}
