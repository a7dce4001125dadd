//! Who may sign what, and what is revoked of it.

use super::*;

fn signer(ca: &DevelopmentCa) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    rcgen::Issuer::from_ca_cert_pem(ca.certificate_pem(), rcgen::KeyPair::from_pem(&ca.key_pem()).unwrap()).unwrap()
}

fn intermediate(usages: Vec<rcgen::KeyUsagePurpose>) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = usages;
    params
}

fn leaf_params() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://cluster.local/ns/shop/sa/cart".try_into().unwrap())];
    params
}

fn revoking(ca: &DevelopmentCa, certificate: &CertificateDer<'_>) -> Vec<u8> {
    ca.revoke(&[CertificateFacts::of(certificate).unwrap()], 1).unwrap().into_bytes()
}

/// Promise: a peer that may choose its way to a root has to find one that no list forbids, not one for each list.
#[test]
fn lists_have_to_agree_on_one_way_to_a_root() {
    use rcgen::KeyUsagePurpose::{CrlSign, KeyCertSign};
    let roots = ["one", "two"].map(|name| DevelopmentCa::new(name).unwrap());
    let own = roots[0].issue(&request()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = intermediate(vec![KeyCertSign, CrlSign]);
    let crossed = roots.each_ref().map(|root| params.signed_by(&key, &signer(root)).unwrap().der().clone());
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = leaf_params().signed_by(&leaf_key, &rcgen::Issuer::from_params(&params, &key)).unwrap().der().clone();
    let lists = [0, 1].map(|at| revoking(&roots[at], &crossed[at]));
    let files = TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() };
    let now = OffsetDateTime::now_utc();
    let with = |revoked: Vec<u8>| {
        let mut set = Material { revoked, ..material(&own, &roots[0]) };
        set.ca.extend(roots[1].certificate_pem().as_bytes());
        check_all(&set, &files, &[]).unwrap()
    };
    let chain = [leaf, crossed[0].clone(), crossed[1].clone()];
    let both = with(lists.concat());
    assert!(both.admit(&chain, now).is_err() && both.is_revoked(&chain, now));
    for list in lists {
        let one = with(list);
        one.admit(&chain, now).unwrap();
        assert!(!one.is_revoked(&chain, now));
    }
}

#[test]
fn whoever_may_sign_no_certificates_is_no_authority() {
    let [ca, other] = ["a", "b"].map(|name| DevelopmentCa::new(name).unwrap());
    let own = ca.issue(&request()).unwrap();
    // A leaf that stands among the roots.
    let bundle = format!("{}{}", ca.certificate_pem(), other.issue(&request()).unwrap().certificate_pem);
    let credentials = check_leaf(&own, &bundle).unwrap();
    assert!(credentials.roots.len() == 1 && credentials.warnings[0].contains("is no CA"), "{:?}", credentials.warnings);
    // An intermediate that is for other things.
    let key = rcgen::KeyPair::generate().unwrap();
    for (usages, is_let_in) in [
        (vec![rcgen::KeyUsagePurpose::DigitalSignature], false),
        (vec![rcgen::KeyUsagePurpose::KeyCertSign], true),
        (Vec::new(), true),
    ] {
        let params = intermediate(usages);
        let between = params.signed_by(&key, &signer(&ca)).unwrap().der().clone();
        let leaf = leaf_params().signed_by(&key, &rcgen::Issuer::from_params(&params, &key)).unwrap().der().clone();
        assert_eq!(credentials.admit(&[leaf, between], OffsetDateTime::now_utc()).is_ok(), is_let_in);
    }
}

/// Promise: what no peer would let in is never shown.
#[test]
fn a_certificate_of_two_holders_or_of_an_authority_is_not_ours() {
    let ca = DevelopmentCa::new("a").unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
    let mut two = leaf_params();
    two.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/other"));
    let mut beside = leaf_params();
    beside.subject_alt_names.push(uri("https://cart"));
    let mut authority = leaf_params();
    authority.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyCertSign];
    for (params, part) in
        [(two, "several SPIFFE IDs"), (beside, "several SPIFFE IDs"), (authority, "is an authority's")]
    {
        let certificate_pem = params.signed_by(&key, &signer(&ca)).unwrap().pem();
        let leaf = IssuedLeaf { certificate_pem, key_pem: key.serialize_pem().into() };
        let fault = fault(check_leaf(&leaf, ca.certificate_pem()));
        assert!(fault.contains(part), "{fault}");
    }
}

#[test]
fn a_list_that_cannot_be_verified_is_named_and_shuts_nobody_out() {
    let ca = DevelopmentCa::new("a").unwrap();
    let own = ca.issue(&request()).unwrap();
    let files = TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() };
    let good = Material { revoked: ca.revoke(&[], 1).unwrap().into_bytes(), ..material(&own, &ca) };
    let credentials = check_all(&good, &files, &[]).unwrap();
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA224 (RFC 5758, section 3.2).
    let mut list = CertificateRevocationListDer::from_pem_slice(&good.revoked).unwrap().to_vec();
    let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    for at in 0..list.len() - oid.len() {
        if list[at..].starts_with(&oid) {
            list[at + 7] = 1;
        }
    }
    let odd = crate::tls::pem("X509 CRL", &list).to_vec();
    let why = fault(check_all(&Material { revoked: odd.clone(), ..good }, &files, &[]));
    assert!(why.contains("revocation list /d/crl.pem") && why.contains("cannot be verified"), "{why}");
    let alone = credentials.with_revocations(&odd, Path::new("/d/crl.pem"), OffsetDateTime::now_utc());
    assert!(fault(alone).contains("cannot be verified"));
}

#[test]
fn a_root_that_ends_still_revokes_and_one_that_begins_is_waited_for() {
    let now = OffsetDateTime::now_utc();
    let ca = DevelopmentCa::new("a").unwrap();
    let own = ca.issue(&request()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = intermediate(vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign]);
    let mut root = |from: i64, to: i64| {
        params.not_before = now + Duration::minutes(from);
        params.not_after = now + Duration::minutes(to);
        params.self_signed(&key).unwrap().pem()
    };
    let mut set = material(&own, &ca);
    set.ca.extend((root(-10, -5) + &root(5, 10)).as_bytes());
    // The same name and key while it was valid.
    let valid = DevelopmentCa::from_pem(&root(-5, 5), &key.serialize_pem()).unwrap();
    let peer = der(&valid.issue(&request()).unwrap().certificate_pem);
    set.revoked = revoking(&valid, &peer);
    let credentials = check_all(&set, &TlsFiles { revoked: Some("/d/crl.pem".into()), ..files() }, &[]).unwrap();
    assert!(credentials.admit(std::slice::from_ref(&peer), now).is_err() && credentials.is_revoked(&[peer], now));
    assert_eq!(
        credentials.next_root.map(|at| at.unix_timestamp()),
        Some((now + Duration::minutes(5)).unix_timestamp())
    );
}

#[test]
fn a_key_of_an_old_format_that_is_encrypted_is_said_to_be_and_a_mark_before_a_text_is_no_fault() {
    let ca = DevelopmentCa::new("a").unwrap();
    let leaf = ca.issue(&request()).unwrap();
    let encrypted = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    let set = Material { key: encrypted.as_bytes().to_vec().into(), ..material(&leaf, &ca) };
    assert!(fault(check_all(&set, &files(), &[])).contains("it is encrypted"));
    let marked = |text: &[u8]| [b"\xef\xbb\xbf", text].concat();
    let set = material(&leaf, &ca);
    let set = Material { certificate: marked(&set.certificate), key: marked(&set.key).into(), ..set };
    check_all(&set, &files(), &[]).unwrap();
}
