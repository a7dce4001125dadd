use rustls_pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::tls::issue::{DevelopmentCa, IssuedLeaf, KeyAlgorithm, LeafRequest};

mod usages;

fn files() -> TlsFiles {
    TlsFiles::three("/d/tls.crt".into(), "/d/tls.key".into(), "/d/ca.crt".into())
}

fn request() -> LeafRequest {
    LeafRequest::for_service_account("cluster.local", "shop", "cart")
}

fn check(certificate: &[u8], key: &[u8], ca: &[u8]) -> Result<Credentials, CredentialError> {
    let set = Material {
        certificate: certificate.to_vec(),
        key: key.to_vec().into(),
        ca: ca.to_vec(),
        ..Material::default()
    };
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

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// What this leaf's holder has to live with beside other people's certificates.
fn material(leaf: &IssuedLeaf, ca: &DevelopmentCa) -> Material {
    Material {
        certificate: leaf.certificate_pem.clone().into_bytes(),
        key: leaf.key_pem.as_bytes().to_vec().into(),
        ca: ca.certificate_pem().as_bytes().to_vec(),
        ..Material::default()
    }
}

fn check_all(set: &Material, files: &TlsFiles, allow: &[&str]) -> Result<Credentials, CredentialError> {
    let allow: Vec<Allow> = allow.iter().map(|text| text.parse().unwrap()).collect();
    Credentials::check(set, files, &allow, TlsVersion::default(), OffsetDateTime::now_utc())
}

fn why(credentials: &Credentials, leaf: &IssuedLeaf) -> String {
    let refused = credentials.admit(&[der(&leaf.certificate_pem)], OffsetDateTime::now_utc()).expect_err("let in");
    let distrust = crate::tls::distrust(&refused).map(ToString::to_string);
    distrust.or(crate::tls::denial(&refused).map(ToString::to_string)).unwrap_or_else(|| refused.to_string())
}

#[test]
fn who_is_revoked_is_refused_and_nobody_else() {
    let (ca, other) = (DevelopmentCa::new("a").unwrap(), DevelopmentCa::new("b").unwrap());
    let [own, thief, friend] = [(); 3].map(|()| ca.issue(&request()).unwrap());
    let list = |ca: &DevelopmentCa, revoked: &[&IssuedLeaf]| {
        let facts = revoked.iter().map(|leaf| CertificateFacts::of(&der(&leaf.certificate_pem)).unwrap());
        ca.revoke(&facts.collect::<Vec<_>>(), 1).unwrap()
    };
    let files = TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() };
    let with = |revoked: String| Material { revoked: revoked.into_bytes(), ..material(&own, &ca) };

    let credentials = check_all(&with(list(&ca, &[&thief])), &files, &[]).unwrap();
    assert_eq!((credentials.revocations.len(), credentials.revocations[0].revoked), (1, 1));
    for _ in 0..2 {
        credentials.admit(&[der(&friend.certificate_pem)], OffsetDateTime::now_utc()).unwrap();
        assert!(why(&credentials, &thief).contains("Revoked"), "{}", why(&credentials, &thief));
    }
    // A list of somebody else's says nothing of ours, whatever numbers stand in it.
    let foreign = check_all(&with(list(&other, &[&thief])), &files, &[]).unwrap();
    foreign.admit(&[der(&thief.certificate_pem)], OffsetDateTime::now_utc()).unwrap();
    let both = check_all(&with(list(&other, &[]) + &list(&ca, &[&thief])), &files, &[]).unwrap();
    assert!(why(&both, &thief).contains("Revoked"));
    // Each of an authority's lists counts, and one of an earlier key under the same name is about nobody of ours.
    let two = check_all(&with(list(&ca, &[]) + &list(&ca, &[&thief])), &files, &[]).unwrap();
    assert!(why(&two, &thief).contains("Revoked"));
    let namesake = DevelopmentCa::new("a").unwrap();
    let renewed = check_all(&with(list(&namesake, &[&friend]) + &list(&ca, &[&thief])), &files, &[]).unwrap();
    renewed.admit(&[der(&friend.certificate_pem)], OffsetDateTime::now_utc()).unwrap();
    assert!(why(&renewed, &thief).contains("Revoked"));
    // Lists alone, for a set whose rest has a fault.
    let later = credentials.with_revocations(
        list(&ca, &[&friend]).as_bytes(),
        Path::new("/d/crl.pem"),
        OffsetDateTime::now_utc(),
    );
    assert!(why(&later.unwrap(), &friend).contains("Revoked"));
    // Ourselves.
    assert!(fault(check_all(&with(list(&ca, &[&own])), &files, &[])).contains("Revoked"));
    for (broken, part) in [
        (String::new(), "revocation list /d/crl.pem: it is empty"),
        (ca.certificate_pem().to_owned(), "no PEM block with a revocation list"),
        (list(&ca, &[]).replace("\nM", "\n!"), "malformed PEM"),
    ] {
        let fault = fault(check_all(&with(broken), &files, &[]));
        assert!(fault.contains("revocation list /d/crl.pem") && fault.contains(part), "{fault}");
    }
}

#[test]
fn a_list_that_is_out_of_date_counts_and_is_named() {
    let ca = DevelopmentCa::new("a").unwrap();
    let own = ca.issue(&request()).unwrap();
    let set = Material { revoked: ca.revoke(&[], 1).unwrap().into_bytes(), ..material(&own, &ca) };
    let files = TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() };
    let later = OffsetDateTime::now_utc() + Duration::hours(36);
    let leaf = LeafRequest { not_after: later + Duration::DAY, ..request() };
    let set = Material { certificate: Vec::new(), ..set };
    let leaf = ca.issue(&leaf).unwrap();
    let set = Material {
        certificate: leaf.certificate_pem.into_bytes(),
        key: leaf.key_pem.as_bytes().to_vec().into(),
        ..set
    };
    let credentials = Credentials::check(&set, &files, &[], TlsVersion::default(), later).unwrap();
    assert!(
        credentials.warnings[0].contains("/d/crl.pem: the list of CN=a is out of date"),
        "{:?}",
        credentials.warnings
    );
}

#[test]
fn a_list_of_an_authority_that_nobody_knows_is_named() {
    let (ca, stranger) = (DevelopmentCa::new("a").unwrap(), DevelopmentCa::new("b").unwrap());
    let own = ca.issue(&request()).unwrap();
    let files = TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() };
    let lists = ca.revoke(&[], 1).unwrap() + &stranger.revoke(&[], 1).unwrap();
    let set = Material { revoked: lists.into_bytes(), ..material(&own, &ca) };
    let credentials = check_all(&set, &files, &[]).unwrap();
    assert_eq!(
        credentials.warnings,
        [
            "revocation list /d/crl.pem: the list of CN=b: no CA here has that name, so it revokes nothing, except where \
          peers show one that has"
        ]
    );
    // Lists that replace these replace what was said of them; an authority that is going is still known.
    let path = Path::new("/d/crl.pem");
    let mended = credentials.with_revocations(ca.revoke(&[], 1).unwrap().as_bytes(), path, OffsetDateTime::now_utc());
    assert!(mended.unwrap().warnings.is_empty());
    let retired = Material { retired: vec![stranger.certificate_pem().as_bytes().to_vec()], ..set };
    assert!(check_all(&retired, &files, &[]).unwrap().warnings.is_empty());
}

#[test]
fn roots_of_another_trust_domain_vouch_for_it_alone() {
    let (ours, theirs) = (DevelopmentCa::new("ours").unwrap(), DevelopmentCa::new("theirs").unwrap());
    let of =
        |ca: &DevelopmentCa, domain: &str| ca.issue(&LeafRequest::for_service_account(domain, "shop", "cart")).unwrap();
    let own = of(&ours, "east");
    let federated = vec![("west".parse().unwrap(), theirs.certificate_pem().as_bytes().to_vec())];
    let set = Material { federated, ..material(&own, &ours) };
    let files = TlsFiles { federated: vec![("west".parse().unwrap(), "/d/west.pem".into())], ..files() };
    let now = OffsetDateTime::now_utc();

    let any = check_all(&set, &files, &["spiffe://east/*", "spiffe://west/*", "dns:cart.shop", "ca"]).unwrap();
    any.admit(&[der(&of(&theirs, "west").certificate_pem)], now).unwrap();
    any.admit(&[der(&of(&ours, "east").certificate_pem)], now).unwrap();
    any.admit(&[der(&of(&ours, "north").certificate_pem)], now).unwrap();
    // Neither authority speaks for the other's domain.
    assert!(why(&any, &of(&theirs, "east")).contains("UnknownIssuer"));
    assert!(why(&any, &of(&ours, "west")).contains("UnknownIssuer"));
    // Without a SPIFFE ID nobody is of another domain.
    let nameless = theirs.issue(&LeafRequest { spiffe_id: None, dns_names: vec!["cart.shop".to_owned()], ..request() });
    assert!(why(&any, &nameless.unwrap()).contains("UnknownIssuer"));
    // `ca` means our own.
    let ca = check_all(&set, &files, &["ca"]).unwrap();
    assert!(why(&ca, &of(&theirs, "west")).contains("not allowed"));
    // Nor do names that are no SPIFFE IDs.
    let named =
        LeafRequest { dns_names: vec!["cart.shop".to_owned()], ..LeafRequest::for_service_account("west", "x", "y") };
    let by_name = check_all(&set, &files, &["dns:cart.shop"]).unwrap();
    by_name
        .admit(&[der(&ours.issue(&LeafRequest { spiffe_id: None, ..named.clone() }).unwrap().certificate_pem)], now)
        .unwrap();
    assert!(why(&by_name, &theirs.issue(&named).unwrap()).contains("not allowed"));
    // A bundle that is none leaves its domain without anybody, and takes nothing else along.
    let broken = Material { federated: vec![("west".parse().unwrap(), b"nothing".to_vec())], ..set.clone() };
    let broken = check_all(&broken, &files, &["spiffe://east/*", "spiffe://west/*"]).unwrap();
    assert!(
        broken.warnings[0].contains("nobody vouches for trust domain west by this bundle: CA /d/west.pem"),
        "{:?}",
        broken.warnings
    );
    broken.admit(&[der(&of(&ours, "east").certificate_pem)], now).unwrap();
    for authority in [&ours, &theirs] {
        assert!(why(&broken, &of(authority, "west")).contains("UnknownIssuer"));
    }
}

#[test]
fn a_leaf_without_names_or_for_one_role_leads_to_its_root_all_the_same() {
    let ca = DevelopmentCa::new("a").unwrap();
    let nameless = ca.issue(&LeafRequest { spiffe_id: None, ..request() }).unwrap();
    let credentials = check_all(&material(&nameless, &ca), &files(), &["ca"]).unwrap();
    credentials.admit(&[der(&nameless.certificate_pem)], OffsetDateTime::now_utc()).unwrap();
    let stranger = DevelopmentCa::new("a").unwrap().issue(&LeafRequest { spiffe_id: None, ..request() }).unwrap();
    assert!(!why(&credentials, &stranger).is_empty());
    let late = OffsetDateTime::now_utc() + Duration::days(2);
    assert!(credentials.admit(&[der(&nameless.certificate_pem)], late).is_err(), "expired");
}

#[test]
fn a_root_without_an_end_does_not_take_the_next_one_along() {
    let [a, b, c] = ["a", "b", "c"].map(|name| DevelopmentCa::new(name).unwrap());
    let own = a.issue(&request()).unwrap();
    let cut = &b.certificate_pem()[..b.certificate_pem().len() / 2];
    let bundle = format!("{}{cut}\n{}", a.certificate_pem(), c.certificate_pem());
    let credentials = check_leaf(&own, &bundle).unwrap();
    assert!(credentials.warnings[0].starts_with("root number 2 is left out"), "{:?}", credentials.warnings);
    credentials.admit(&[der(&c.issue(&request()).unwrap().certificate_pem)], OffsetDateTime::now_utc()).unwrap();
    check_leaf(&own, &format!("{cut}\n{}", a.certificate_pem())).unwrap();
}

#[test]
fn bundles_of_one_trust_domain_count_together_and_our_own_is_none_of_them() {
    let [ours, old, new] = ["ours", "old", "new"].map(|name| DevelopmentCa::new(name).unwrap());
    let of =
        |ca: &DevelopmentCa, domain: &str| ca.issue(&LeafRequest::for_service_account(domain, "shop", "cart")).unwrap();
    let own = of(&ours, "east");
    let bundle = |domain: &str, ca: &DevelopmentCa| (domain.parse().unwrap(), ca.certificate_pem().as_bytes().to_vec());
    let set = Material { federated: vec![bundle("west", &old), bundle("west", &new)], ..material(&own, &ours) };
    let both = check_all(&set, &files(), &["spiffe://west/*"]).unwrap();
    for ca in [&old, &new] {
        both.admit(&[der(&of(ca, "west").certificate_pem)], OffsetDateTime::now_utc()).unwrap();
    }
    let fault = fault(check_all(&Material { federated: vec![bundle("east", &new)], ..set }, &files(), &[]));
    assert!(fault.contains("east is our own trust domain"), "{fault}");
    let alone = check_all(&material(&own, &ours), &files(), &["spiffe://west/*", "spiffe://east/ns/shop*"]).unwrap();
    assert!(alone.warnings[0].contains("there is no --tls-federated for it"), "{:?}", alone.warnings);
    assert!(alone.warnings[1].contains("also admits spiffe://east/ns/shop-other"), "{:?}", alone.warnings);
}

/// Promise: a root that has been replaced vouches for nobody; who was let in by it can be shut out all the same.
#[test]
fn a_retired_authority_still_revokes() {
    let [former, current, foreign] = ["former", "current", "foreign"].map(|name| DevelopmentCa::new(name).unwrap());
    let own = current.issue(&request()).unwrap();
    let [thief, friend] = [(); 2].map(|()| former.issue(&request()).unwrap());
    let list = |ca: &DevelopmentCa| {
        ca.revoke(&[CertificateFacts::of(&der(&thief.certificate_pem)).unwrap()], 1).unwrap().into_bytes()
    };
    let files = TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() };
    let now = OffsetDateTime::now_utc();
    let set = Material {
        revoked: list(&former),
        retired: vec![b"nothing".to_vec(), former.certificate_pem().as_bytes().to_vec()],
        ..material(&own, &current)
    };
    let credentials = check_all(&set, &files, &[]).unwrap();
    for leaf in [&thief, &friend] {
        assert!(why(&credentials, leaf).contains("UnknownIssuer"), "{}", why(&credentials, leaf));
    }
    assert!(credentials.is_revoked(&[der(&thief.certificate_pem)], now));
    assert!(!credentials.is_revoked(&[der(&friend.certificate_pem)], now));
    for (retired, revoked) in
        [(Vec::new(), list(&former)), (set.retired.clone(), list(&foreign)), (set.retired.clone(), list(&current))]
    {
        let set = Material { retired, revoked, ..set.clone() };
        let credentials = check_all(&set, &files, &[]).unwrap();
        assert!(!credentials.is_revoked(&[der(&thief.certificate_pem)], now));
    }
}

#[test]
fn roots_that_have_ended_are_done_without() {
    let [ca, other] = ["a", "b"].map(|name| DevelopmentCa::new(name).unwrap());
    let own = ca.issue(&request()).unwrap();
    let mut set = material(&own, &ca);
    set.ca.extend(other.certificate_pem().as_bytes());
    let credentials = check_all(&set, &files(), &[]).unwrap();
    let friend = ca.issue(&request()).unwrap();
    let now = OffsetDateTime::now_utc();
    credentials.admit(&[der(&friend.certificate_pem)], now).unwrap();
    assert!(credentials.without_ended_roots(now).is_none());
    let ended = credentials.roots.iter().map(|root| root.not_after).max().unwrap() + Duration::SECOND;
    let alone = credentials.without_ended_roots(ended).unwrap();
    assert!(alone.roots.is_empty() && why(&alone, &friend).contains("UnknownIssuer"));
}

#[test]
fn a_key_that_may_sign_no_handshake_is_neither_ours_nor_a_peers() {
    let ca = DevelopmentCa::new("a").unwrap();
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(ca.certificate_pem(), rcgen::KeyPair::from_pem(&ca.key_pem()).unwrap());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://cluster.local/ns/shop/sa/cart".try_into().unwrap())];
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    let certificate_pem = params.signed_by(&key, &issuer.unwrap()).unwrap().pem();
    let leaf = IssuedLeaf { certificate_pem, key_pem: key.serialize_pem().into() };
    assert!(fault(check_leaf(&leaf, ca.certificate_pem())).contains("its key usage has no digitalSignature"));
    let good = check_leaf(&ca.issue(&request()).unwrap(), ca.certificate_pem()).unwrap();
    assert!(why(&good, &leaf).contains("has no digitalSignature"), "{}", why(&good, &leaf));
}

#[test]
fn what_is_wrong_with_a_pem_text_is_said_without_its_content() {
    let ca = DevelopmentCa::new("a").unwrap();
    let leaf = ca.issue(&request()).unwrap();
    let key = leaf.key_pem.as_str();
    for (broken, part) in [
        (key[..key.len() / 2].to_owned(), "no line END \"PRIVATE KEY\": has it"),
        (key.replacen("PRIVATE KEY-----", "PRIVATE KEY", 1), "is no BEGIN line"),
        (key.replacen("\nM", "\n!", 1), "is not base64"),
    ] {
        let set = Material { key: broken.into_bytes().into(), ..material(&leaf, &ca) };
        let text = fault(check_all(&set, &files(), &[]));
        assert!(text.contains(part), "{text}");
        assert!(!key.lines().skip(1).any(|line| text.contains(line) && !line.starts_with("-----")), "{text}");
    }
}
