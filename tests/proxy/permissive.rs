//! Permissive mode is a way into strict mode, and disabled mode is no mode of TLS at all.

use crate::harness::{App, Certificates, Sidecar, assert_echo, assert_reset, connect, local};
use std::io::Write as _;

const PERMISSIVE: [&str; 2] = ["--mode", "permissive"];

/// Promise: a permissive sidecar takes TLS and plaintext in, and counts the plaintext.
#[test]
fn permissive_takes_both_in_and_names_who_spoke_plaintext() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &PERMISSIVE);
    assert_echo(&mut connect(far.inbound).unwrap(), "AKKA\u{1} in plaintext");
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    assert_echo(&mut connect(near.outbound).unwrap(), "in TLS");
    assert!(far.get("/metrics").1.contains("bypassctl_plaintext_accepted_total 1"));
    assert_eq!(far.status()["plaintext_peers"][0]["peer"], "127.0.0.1");
    far.log_line(&["connection ended", "\"tls\":\"TLS 1.3\""]);
    far.log_line(&["connection ended", "\"tls\":\"none\""]);
}

/// Promise: a peer without TLS is dialled again in plaintext, and that is remembered, counted and shown.
#[test]
fn permissive_falls_back_for_a_peer_that_hangs_up_on_tls() {
    let certificates = Certificates::new();
    // Artery: it closes a connection that does not begin with its magic.
    let app = App::serving(|mut stream| {
        use std::io::Read as _;
        let mut magic = [0; 4];
        if stream.read_exact(&mut magic).is_ok() && &magic == b"AKKA" {
            let _ = stream.write_all(b"yes");
            let _ = stream.read(&mut [0]);
        }
    });
    let near = Sidecar::between(&certificates.tls_dir("cart"), app.address, local(1), &PERMISSIVE);
    for accepted in [4, 5] {
        let mut stream = connect(near.outbound).unwrap();
        stream.write_all(b"AKKA").unwrap();
        let mut answer = [0; 3];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert_eq!(app.accepted(), accepted, "three tries with TLS, then plaintext at once");
    }
    assert!(near.get("/metrics").1.contains("bypassctl_permissive_fallbacks_total 1"));
    near.log_line(&["dialling it again in plaintext"]);
    let peer = &near.status()["plaintext_peers"][0];
    assert_eq!((peer["direction"].as_str(), peer["connections"].as_u64()), (Some("outbound"), Some(2)));
}

/// Promise: a peer that answers with something that is no TLS gets plaintext too.
#[test]
fn permissive_falls_back_for_a_peer_that_answers_in_another_protocol() {
    let certificates = Certificates::new();
    let app = App::echo();
    let near = Sidecar::between(&certificates.tls_dir("cart"), app.address, local(1), &PERMISSIVE);
    let plain = App::serving(|mut stream| {
        use std::io::Read as _;
        let mut first = [0];
        let _ = stream.read(&mut first);
        let _ = stream.write_all(if first == [0x16] { b"HTTP/1.1 400 Bad Request\r\n\r\n" } else { b"fine" });
    });
    drop(near);
    let near = Sidecar::between(&certificates.tls_dir("cart"), plain.address, local(1), &PERMISSIVE);
    let mut stream = connect(near.outbound).unwrap();
    stream.write_all(b"A").unwrap();
    let mut answer = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"fine");
}

/// Promise: a peer that speaks TLS and is not to be trusted, or does not trust us, is never given plaintext.
#[test]
fn permissive_does_not_downgrade_a_peer_that_speaks_tls() {
    let (certificates, foreign) = (Certificates::new(), Certificates::new());
    let app = App::echo();
    let far = Sidecar::between(&foreign.tls_dir("cart"), local(1), app.address, &PERMISSIVE);
    let near = Sidecar::between(&certificates.tls_dir("cart"), far.inbound, local(1), &PERMISSIVE);
    assert_reset(&mut connect(near.outbound).unwrap());
    near.log_line(&["\"reason\":\"untrusted\""]);
    assert!(near.get("/metrics").1.contains("bypassctl_permissive_fallbacks_total 0"));
    assert_eq!(app.accepted(), 0);
}

/// Promise: strict never speaks plaintext, whatever the peer does.
#[test]
fn strict_does_not_fall_back() {
    let certificates = Certificates::new();
    let app = App::serving(drop);
    let near = Sidecar::between(&certificates.tls_dir("cart"), app.address, local(1), &[]);
    assert_reset(&mut connect(near.outbound).unwrap());
    near.log_line(&["\"reason\":\"handshake_failed\"", "has it an agent?"]);
    assert_eq!(app.accepted(), 3);
}

/// Promise: disabled needs no certificate and changes no byte.
#[test]
fn disabled_passes_plaintext_both_ways() {
    let app = App::echo().address.to_string();
    let far = Sidecar::start(&["--mode", "disabled", "--inbound-target", &app, "--outbound-target", "127.0.0.1:1"]);
    let inbound = far.inbound.to_string();
    let near = Sidecar::start(&["--mode", "disabled", "--outbound-target", &inbound]);
    assert_echo(&mut connect(near.outbound).unwrap(), "as it is");
    assert!(near.get("/ready").1.contains("note: mode disabled"));
    // A time of 0 would be an alarm that never ends.
    assert!(!near.get("/metrics").1.contains("not_after_timestamp"), "there is no certificate to end");
}

/// Promise: past its day permissive mode says so everywhere, and stays ready.
#[test]
fn permissive_past_its_day_says_so_and_stays_ready() {
    let certificates = Certificates::new();
    let more = ["--mode", "permissive", "--permissive-until", "2020-02-29"];
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(2), &more);
    let (status, body) = sidecar.get("/ready");
    assert!(status == 200 && body.contains("note: permissive mode has outlived"), "{status} {body}");
    sidecar.log_line(&["permissive mode has outlived its day", "2020-02-29"]);
    assert!(sidecar.get("/metrics").1.contains("bypassctl_permissive_overdue 1"));
}

/// Promise: a peer that has spoken TLS is not dialled in plaintext when it is killed in mid-handshake.
#[test]
fn permissive_does_not_downgrade_a_peer_that_spoke_tls_before() {
    use std::io::Read as _;
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let peer = far.inbound;
    let near = Sidecar::between(&dir, peer, local(1), &PERMISSIVE);
    assert_echo(&mut connect(near.outbound).unwrap(), "in TLS");
    near.log_line(&["connection ended", "\"tls\":\"TLS 1.3\""]);
    drop(far);
    // In its place, what a peer without TLS looks like: it takes the greeting and hangs up.
    let listener = std::net::TcpListener::bind(peer).unwrap();
    let mut dialler = connect(near.outbound).unwrap();
    dialler.write_all(b"AKKA").unwrap();
    for _ in 0..3 {
        let mut first = [0];
        let (mut greeted, _) = listener.accept().unwrap();
        greeted.read_exact(&mut first).unwrap();
        assert_eq!(first, [0x16], "a ClientHello");
    }
    assert_reset(&mut dialler);
    near.log_line(&["connection refused", "\"reason\":\"handshake_failed\""]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it was dialled again, in plaintext");
    assert!(near.get("/metrics").1.contains("bypassctl_permissive_fallbacks_total 0"));
}
