//! Who may go on being connected: revocation, replaced credentials, addresses in certificates, other trust domains.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use bypassctl::tls::CertificateFacts;
use bypassctl::tls::issue::{DevelopmentCa, IssuedLeaf, LeafRequest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::harness::{
    App, Certificates, Sidecar, assert_echo, assert_no_byte, assert_reset, connect, eventually, local, write_set,
};

fn facts(leaf: &IssuedLeaf) -> CertificateFacts {
    CertificateFacts::of(&CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap()).unwrap()
}

/// Writes a file as Kubernetes does, at once.
fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, content).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Two sidecars that share an identity; the far one also has these options.
fn pair(
    certificates: &Certificates,
    app: &App,
    near: &IssuedLeaf,
    far_options: &[&str],
) -> (Sidecar, Sidecar, PathBuf) {
    let far_dir = certificates.tls_dir("cart");
    let near_dir = certificates.path().join("near");
    write_set(&near_dir, near, certificates.ca.certificate_pem());
    let far = Sidecar::between(&far_dir, local(1), app.address, far_options);
    let near = Sidecar::between(&near_dir, far.inbound, local(1), &[]);
    (near, far, far_dir)
}

#[test]
fn who_is_revoked_is_disconnected_and_stays_out_while_others_go_on() {
    let certificates = Certificates::new();
    let app = App::echo();
    let (thief, friend) = (certificates.leaf("cart"), certificates.leaf("cart"));
    let crl = certificates.path().join("crl.pem");
    replace(&crl, &certificates.ca.revoke(&[], 1).unwrap());
    let option = format!("--tls-crl={}", crl.display());
    let (stolen, far, _) = pair(&certificates, &app, &thief, &[&option]);
    let friends = certificates.path().join("friend");
    write_set(&friends, &friend, certificates.ca.certificate_pem());
    let near = Sidecar::between(&friends, far.inbound, local(1), &[]);
    let mut by_friend = connect(near.outbound).unwrap();
    let mut by_thief = connect(stolen.outbound).unwrap();
    assert_echo(&mut by_friend, "friend");
    assert_echo(&mut by_thief, "thief");

    replace(&crl, &certificates.ca.revoke(&[facts(&thief)], 1).unwrap());
    assert_reset(&mut by_thief);
    far.log_line(&["connections with revoked peers are ended", "\"ended\":1"]);
    far.log_line(&["\"reason\":\"revoked\"", "--tls-crl"]);
    assert_no_byte(&mut connect(stolen.outbound).unwrap());
    far.log_line(&["\"reason\":\"revoked\"", "(unverified)"]);
    assert_echo(&mut by_friend, "still a friend");
    assert_echo(&mut connect(near.outbound).unwrap(), "and a new one");
    assert_eq!(far.status()["credentials"]["revocations"][0]["revoked"], 1);

    // A list that is broken changes nothing, and is complained about.
    replace(&crl, "nothing");
    far.log_line(&["revocation list", "no PEM block"]);
    assert_no_byte(&mut connect(stolen.outbound).unwrap());
}

/// The dialler looks too: a pod that serves with a revoked certificate loses the connections that were dialled to it.
#[test]
fn a_revoked_server_loses_its_clients() {
    let certificates = Certificates::new();
    let app = App::echo();
    let far_leaf = certificates.leaf("cart");
    let far_dir = certificates.path().join("far");
    write_set(&far_dir, &far_leaf, certificates.ca.certificate_pem());
    let far = Sidecar::between(&far_dir, local(1), app.address, &[]);
    let crl = certificates.path().join("crl.pem");
    replace(&crl, &certificates.ca.revoke(&[], 1).unwrap());
    let option = format!("--tls-crl={}", crl.display());
    let near = Sidecar::between(&certificates.tls_dir("cart"), far.inbound, local(1), &[&option]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "before");
    replace(&crl, &certificates.ca.revoke(&[facts(&far_leaf)], 1).unwrap());
    assert_reset(&mut stream);
    assert_no_byte(&mut connect(near.outbound).unwrap());
}

#[test]
fn a_rotation_disturbs_nobody_unless_it_is_to_replace_what_is_open() {
    let certificates = Certificates::new();
    let app = App::echo();
    for (options, is_replaced) in [(&[][..], false), (&["--recycle-within=1"][..], true)] {
        let (near, far, far_dir) = pair(&certificates, &app, &certificates.leaf("cart"), options);
        let mut open = connect(near.outbound).unwrap();
        assert_echo(&mut open, "before");
        write_set(&far_dir, &certificates.leaf("cart"), certificates.ca.certificate_pem());
        far.log_line(&["credentials reloaded"]);
        if is_replaced {
            far.log_line(&["earlier credentials are replaced", "\"ended\":1", "\"left\":0"]);
            far.log_line(&["\"reason\":\"recycled\""]);
            // An end in order, not a reset: what was under way has arrived.
            assert_eq!(std::io::copy(&mut open, &mut std::io::sink()).unwrap(), 0);
        } else {
            assert_echo(&mut open, "after");
        }
        let mut new = connect(near.outbound).unwrap();
        assert_echo(&mut new, "new");
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert_echo(&mut new, "what is made with the new ones is left alone");
    }
}

/// Promise: a list that is renewed with nobody new on it is no rotation: what is open stays, although what is made with earlier
/// credentials is to be replaced.
#[test]
fn a_renewed_list_replaces_no_connection() {
    let certificates = Certificates::new();
    let crl = certificates.path().join("crl.pem");
    replace(&crl, &certificates.ca.revoke(&[], 1).unwrap());
    let app = App::echo();
    let lists = format!("--tls-crl={}", crl.display());
    let (near, far, far_dir) = pair(&certificates, &app, &certificates.leaf("cart"), &[&lists, "--recycle-within=1"]);
    let mut open = connect(near.outbound).unwrap();
    assert_echo(&mut open, "before");
    for days in 2..4 {
        replace(&crl, &certificates.ca.revoke(&[], days).unwrap());
        let reloads = format!("bypassctl_certificate_reloads_total {}", days - 1);
        eventually("the list is taken", || far.get("/metrics").1.contains(&reloads).then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert_echo(&mut open, "after");
    }
    assert!(!far.log().contains("are replaced"), "{}", far.log());
    write_set(&far_dir, &certificates.leaf("cart"), certificates.ca.certificate_pem());
    far.log_line(&["earlier credentials are replaced", "\"ended\":1", "\"left\":0"]);
}

#[test]
fn a_certificate_of_another_address_is_told_that_access_is_denied() {
    let certificates = Certificates::new();
    let app = App::echo();
    let request = LeafRequest::for_service_account("cluster.local", "shop", "cart");
    let at = |address: &str| {
        let request = LeafRequest { ip_addresses: vec![address.parse().unwrap()], ..request.clone() };
        certificates.ca.issue(&request).unwrap()
    };
    for (leaf, is_let_in) in [(at("127.0.0.1"), true), (at("10.0.0.7"), false), (certificates.leaf("cart"), false)] {
        // The far one looks at who dials, then the near one at who is dialled.
        let (near, far, _) = pair(&certificates, &app, &leaf, &["--peer-address=certificate"]);
        let mut stream = connect(near.outbound).unwrap();
        let dir = certificates.path().join("server");
        write_set(&dir, &leaf, certificates.ca.certificate_pem());
        let server = Sidecar::between(&dir, local(1), app.address, &[]);
        let client = certificates.tls_dir("client");
        write_set(&client, &certificates.leaf("cart"), certificates.ca.certificate_pem());
        let client = Sidecar::between(&client, server.inbound, local(1), &["--peer-address=certificate"]);
        let mut dialled = connect(client.outbound).unwrap();
        if is_let_in {
            assert_echo(&mut stream, "mine");
            assert_echo(&mut dialled, "mine");
            continue;
        }
        assert_no_byte(&mut stream);
        assert_no_byte(&mut dialled);
        far.log_line(&["\"reason\":\"denied\"", "the peer has the address 127.0.0.1"]);
        client.log_line(&["\"reason\":\"denied\"", "the peer has the address 127.0.0.1"]);
        near.log_line(&["\"reason\":\"refused_by_peer\"", "AccessDenied"]);
        server.log_line(&["\"reason\":\"refused_by_peer\"", "AccessDenied"]);
    }
}

#[test]
fn clusters_of_two_trust_domains_meet_and_their_authorities_do_not_speak_for_each_other() {
    let (east, west) = (Certificates::new(), DevelopmentCa::new("west").unwrap());
    let app = App::echo();
    let of =
        |ca: &DevelopmentCa, domain: &str| ca.issue(&LeafRequest::for_service_account(domain, "shop", "cart")).unwrap();
    let roots = |name: &str, pem: &str| {
        let path = east.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (east_roots, west_roots) =
        (roots("east.pem", east.ca.certificate_pem()), roots("west.pem", west.certificate_pem()));
    let start = |name: &str, leaf: &IssuedLeaf, ca: &str, federated: String, peer| {
        let dir = east.path().join(name);
        write_set(&dir, leaf, ca);
        let federated = format!("--tls-federated={federated}");
        Sidecar::between(&dir, peer, app.address, &[&federated, "--allow=spiffe://east/*,spiffe://west/*"])
    };
    let far = start("east", &of(&east.ca, "east"), east.ca.certificate_pem(), format!("west={west_roots}"), local(1));
    let near = start("west", &of(&west, "west"), west.certificate_pem(), format!("east={east_roots}"), far.inbound);
    assert_echo(&mut connect(near.outbound).unwrap(), "across");
    // West's authority claims somebody of east.
    let dir = east.path().join("liar");
    write_set(&dir, &of(&west, "east"), &format!("{}{}", west.certificate_pem(), east.ca.certificate_pem()));
    let liar = Sidecar::between(&dir, far.inbound, app.address, &[]);
    assert_no_byte(&mut connect(liar.outbound).unwrap());
    far.log_line(&["\"reason\":\"untrusted\"", "spiffe://east/ns/shop/sa/cart (unverified)"]);
}

/// A connection that is to be replaced while its peer takes nothing must not hold up the others.
#[test]
fn a_peer_that_takes_nothing_is_replaced_too() {
    let certificates = Certificates::new();
    let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between(&dir, local(1), deaf.local_addr().unwrap(), &["--recycle-within=1"]);
    let near_dir = certificates.tls_dir("near");
    write_set(&near_dir, &certificates.leaf("cart"), certificates.ca.certificate_pem());
    let near = Sidecar::between(&near_dir, far.inbound, local(1), &[]);
    let mut stream: TcpStream = connect(near.outbound).unwrap();
    stream.set_nonblocking(true).unwrap();
    let _kept = deaf.accept().unwrap();
    let block = [0; 64 * 1024];
    eventually("it blocks", || {
        while stream.write(&block).is_ok() {}
        std::thread::sleep(std::time::Duration::from_millis(50));
        stream.write(&block).is_err().then_some(())
    });
    write_set(&dir, &certificates.leaf("cart"), certificates.ca.certificate_pem());
    far.log_line(&["\"reason\":\"recycled\""]);
}
