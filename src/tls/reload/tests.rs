use std::fs;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::tls::issue::{DevelopmentCa, IssuedLeaf, LeafRequest};

fn issue(ca: &DevelopmentCa) -> IssuedLeaf {
    ca.issue(&LeafRequest::for_service_account("cluster.local", "shop", "cart")).unwrap()
}

fn write(dir: &Path, leaf: &IssuedLeaf, roots: &str) {
    fs::write(dir.join("tls.crt"), &leaf.certificate_pem).unwrap();
    fs::write(dir.join("tls.key"), leaf.key_pem.as_bytes()).unwrap();
    fs::write(dir.join("ca.crt"), roots).unwrap();
}

fn start(dir: &Path, overlap: u64) -> Reloader {
    let files = TlsFiles::new(Some(dir), None, None, None).unwrap();
    Reloader::start(files, Terms { overlap: Duration::from_secs(overlap), ..Terms::default() }).unwrap()
}

fn admits(reloader: &Reloader, leaf: &IssuedLeaf) -> bool {
    let der = CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap();
    reloader.current.borrow().as_ref().unwrap().admit(&[der], OffsetDateTime::now_utc()).is_ok()
}

fn shows(reloader: &Reloader, leaf: &IssuedLeaf) -> bool {
    let der = CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap();
    reloader.current.borrow().as_ref().unwrap().leaf.raw_serial
        == crate::tls::CertificateFacts::of(&der).unwrap().raw_serial
}

#[test]
fn without_an_overlap_new_roots_take_the_place_of_the_old_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (DevelopmentCa::new("old").unwrap(), DevelopmentCa::new("new").unwrap());
    let (before, after) = (issue(&old), issue(&new));
    write(dir.path(), &before, old.certificate_pem());
    let mut reloader = start(dir.path(), 0);
    write(dir.path(), &after, new.certificate_pem());
    reloader.look();
    assert!(admits(&reloader, &after) && !admits(&reloader, &before) && shows(&reloader, &after));
    assert!(reloader.past.latest.is_none(), "no key is kept for nothing");
}

#[test]
fn with_an_overlap_both_roots_count_and_the_old_leaf_is_shown_until_peers_have_had_time() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (DevelopmentCa::new("old").unwrap(), DevelopmentCa::new("new").unwrap());
    let (before, after, renewed) = (issue(&old), issue(&new), issue(&new));
    write(dir.path(), &before, old.certificate_pem());
    let mut reloader = start(dir.path(), 600);
    write(dir.path(), &after, new.certificate_pem());
    reloader.look();
    assert!(admits(&reloader, &after) && admits(&reloader, &before) && shows(&reloader, &before));
    reloader.look();
    assert_eq!(reloader.state.lock().unwrap().succeeded, 1, "nothing is new");
    // A renewal in between does not begin the wait anew.
    write(dir.path(), &renewed, new.certificate_pem());
    reloader.look();
    assert!(shows(&reloader, &before));

    let half = OffsetDateTime::now_utc() - time::Duration::SECOND;
    reloader.past.pair.as_mut().unwrap().until = half;
    reloader.look_again = Some(half);
    reloader.look();
    assert!(shows(&reloader, &renewed) && admits(&reloader, &before));

    reloader.past.roots[0].1 = half;
    reloader.look_again = Some(half);
    reloader.look();
    assert!(admits(&reloader, &after) && !admits(&reloader, &before));
    assert!(reloader.past.roots.is_empty());
}

#[test]
fn a_new_leaf_of_the_same_roots_is_shown_at_once_and_a_bad_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, stranger) = (DevelopmentCa::new("a").unwrap(), DevelopmentCa::new("b").unwrap());
    let (first, second) = (issue(&ca), issue(&ca));
    write(dir.path(), &first, ca.certificate_pem());
    let mut reloader = start(dir.path(), 600);
    write(dir.path(), &second, ca.certificate_pem());
    reloader.look();
    assert!(shows(&reloader, &second));
    write(dir.path(), &issue(&stranger), ca.certificate_pem());
    reloader.look();
    assert!(shows(&reloader, &second));
    assert!(reloader.state.lock().unwrap().fault.is_some());
}

/// Promise: a root's end shuts out whom it vouched for, although nothing better has come; and what a former root has revoked
/// stays revoked without anything being kept that is secret.
#[test]
fn ended_roots_go_and_replaced_ones_still_revoke() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (DevelopmentCa::new("old").unwrap(), DevelopmentCa::new("new").unwrap());
    let (before, after) = (issue(&old), issue(&new));
    write(dir.path(), &before, old.certificate_pem());
    let crl = dir.path().join("crl.pem");
    fs::write(&crl, old.revoke(&[], 1).unwrap()).unwrap();
    let mut files = TlsFiles::new(Some(dir.path()), None, None, None).unwrap();
    files.revoked = Some(crl.clone());
    let mut reloader = Reloader::start(files, Terms::default()).unwrap();
    write(dir.path(), &after, new.certificate_pem());
    reloader.look();
    let der = CertificateDer::from_pem_slice(before.certificate_pem.as_bytes()).unwrap();
    let facts = crate::tls::CertificateFacts::of(&der).unwrap();
    fs::write(&crl, old.revoke(&[facts], 2).unwrap()).unwrap();
    reloader.look();
    let now = OffsetDateTime::now_utc();
    assert!(reloader.current.borrow().as_ref().unwrap().is_revoked(&[der], now));
    assert!(reloader.past.latest.is_none());

    fs::write(dir.path().join("ca.crt"), "nothing").unwrap();
    reloader.look();
    assert!(admits(&reloader, &after));
    reloader.end_roots_alone(now + time::Duration::days(36500));
    assert!(!admits(&reloader, &after));
}

fn der(leaf: &IssuedLeaf) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap()
}

fn revokes(reloader: &Reloader, leaf: &IssuedLeaf) -> bool {
    reloader.current.borrow().as_ref().unwrap().is_revoked(&[der(leaf)], OffsetDateTime::now_utc())
}

/// Promise: lists come from two places, and a fault of anything takes none of them back.
#[test]
fn a_fault_forgets_no_revocation_whoever_has_told_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevelopmentCa::new("a").unwrap();
    let [own, other, thief, friend] = [(); 4].map(|()| issue(&ca));
    let list = |revoked: &[&IssuedLeaf]| {
        let facts = revoked.iter().map(|leaf| crate::tls::CertificateFacts::of(&der(leaf)).unwrap());
        ca.revoke(&facts.collect::<Vec<_>>(), 1).unwrap().into_bytes()
    };
    let material = |key: &IssuedLeaf, revoked: Vec<u8>| Material {
        certificate: own.certificate_pem.clone().into_bytes(),
        key: key.key_pem.as_bytes().to_vec().into(),
        ca: ca.certificate_pem().as_bytes().to_vec(),
        revoked,
        ..Material::default()
    };
    let file = dir.path().join("crl.pem");
    fs::write(&file, list(&[])).unwrap();
    let say = |material: Material| crate::tls::Supply { material: Some(material.into()), fault: None };
    let (supplier, supply) = watch::channel(say(material(&own, list(&[&thief]))));
    let supplied =
        Supplied { supply, from: "test".to_owned(), ca: None, federated: Vec::new(), revoked: Some(file.clone()) };
    let mut reloader = Reloader::follow(supplied, Terms::default());
    reloader.look();
    assert!(revokes(&reloader, &thief) && !revokes(&reloader, &friend));
    // The file goes: what it said stays, and what was supplied too.
    fs::remove_file(&file).unwrap();
    reloader.look();
    assert!(revokes(&reloader, &thief) && reloader.state.lock().unwrap().fault.is_some());
    // A newer list beside a key that does not fit.
    supplier.send_replace(say(material(&other, list(&[&thief, &friend]))));
    reloader.look();
    assert!(revokes(&reloader, &thief) && revokes(&reloader, &friend));
    // All is well again, and the lists are those that are there.
    fs::write(&file, list(&[])).unwrap();
    supplier.send_replace(say(material(&own, list(&[&friend]))));
    reloader.look();
    assert!(!revokes(&reloader, &thief) && revokes(&reloader, &friend));
    assert!(reloader.state.lock().unwrap().fault.is_none());
}

#[test]
fn an_overlap_ends_while_the_files_have_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (DevelopmentCa::new("old").unwrap(), DevelopmentCa::new("new").unwrap());
    let (before, after) = (issue(&old), issue(&new));
    write(dir.path(), &before, old.certificate_pem());
    let mut reloader = start(dir.path(), 600);
    write(dir.path(), &after, new.certificate_pem());
    reloader.look();
    fs::write(dir.path().join("tls.key"), "nothing").unwrap();
    reloader.look();
    assert!(admits(&reloader, &before) && shows(&reloader, &before));
    reloader.past.pair.as_mut().unwrap().until = OffsetDateTime::now_utc() - time::Duration::SECOND;
    reloader.look();
    assert!(shows(&reloader, &after) && admits(&reloader, &before));
    reloader.end_roots_alone(OffsetDateTime::now_utc() + time::Duration::seconds(601));
    assert!(admits(&reloader, &after) && !admits(&reloader, &before));
}

#[test]
fn another_trust_domains_missing_file_stops_a_start_and_no_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, west) = (DevelopmentCa::new("a").unwrap(), DevelopmentCa::new("west").unwrap());
    write(dir.path(), &issue(&ca), ca.certificate_pem());
    let bundle = dir.path().join("west.pem");
    let mut files = TlsFiles::new(Some(dir.path()), None, None, None).unwrap();
    files.federated = vec![("west".parse().unwrap(), bundle.clone())];
    assert!(Reloader::start(files.clone(), Terms::default()).is_err());
    fs::write(&bundle, west.certificate_pem()).unwrap();
    let mut reloader = Reloader::start(files, Terms::default()).unwrap();
    fs::remove_file(&bundle).unwrap();
    let next = issue(&ca);
    write(dir.path(), &next, ca.certificate_pem());
    reloader.look();
    assert!(shows(&reloader, &next));
    let warnings = reloader.current.borrow().as_ref().unwrap().warnings.clone();
    assert!(warnings[0].contains("west.pem cannot be read"), "{warnings:?}");
}
