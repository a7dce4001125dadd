//! Who may not connect does not, and the log says who it was.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use bypassctl::tls::issue::IssuedLeaf;
use rustls::AlertDescription;

use crate::client::session;
use crate::harness::{
    App, Certificates, DEADLINE, Sidecar, assert_no_byte, assert_reset, connect, eventually, free_port, local, reset,
};

/// Speaks TLS to the sidecar with this certificate, says something, and returns what came of it.
fn intrude(
    sidecar: &Sidecar,
    leaf: Option<&IssuedLeaf>,
    version: &'static rustls::SupportedProtocolVersion,
) -> io::Error {
    let session = session(leaf, version, Vec::new());
    let mut stream = rustls::StreamOwned::new(session, connect(sidecar.inbound).unwrap());
    let said = stream.write_all(b"AKKA\x01 let me in");
    said.and_then(|()| stream.read_exact(&mut [0])).expect_err("the sidecar answered an intruder")
}

fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Promise: a peer of our CA with another identity is refused inside the handshake, by TLS 1.2 and 1.3; it gets an
/// alert, the app gets nothing, the log says who came and who may.
#[test]
fn a_wrong_identity_is_refused_with_an_alert_and_evidence() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let error = intrude(&sidecar, Some(&certificates.leaf("intruder")), version);
        assert_eq!(alert(&error), Some(AlertDescription::CertificateUnknown), "{error}");
    }
    let line = sidecar.log_line(&["connection refused", "\"reason\":\"denied\""]);
    assert!(line.contains("\"identity\":\"spiffe://cluster.local/ns/shop/sa/intruder\""), "{line}");
    assert!(line.contains("\"allowed\":\"spiffe://cluster.local/ns/shop/sa/cart\""), "{line}");
    assert_eq!(app.accepted(), 0);
    let refusal = &sidecar.status()["refusals"][0];
    assert_eq!(refusal["identity"], "spiffe://cluster.local/ns/shop/sa/intruder");
    eventually("both are counted", || {
        sidecar.get("/metrics").1.contains("bypassctl_denied_total{direction=\"inbound\"} 2").then_some(())
    });
}

/// Promise: the right name from another CA is nobody's name, and no certificate is no name.
#[test]
fn a_foreign_ca_and_no_certificate_are_refused() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &["--allow", "ca"]);
    let error = intrude(&sidecar, Some(&Certificates::new().leaf("cart")), &rustls::version::TLS13);
    assert!(alert(&error).is_some(), "{error}");
    let line = sidecar.log_line(&["\"reason\":\"untrusted\""]);
    assert!(line.contains("sa/cart (unverified)") && line.contains("test CA"), "{line}");
    let error = intrude(&sidecar, None, &rustls::version::TLS13);
    assert_eq!(alert(&error), Some(AlertDescription::CertificateRequired), "{error}");
    sidecar.log_line(&["\"reason\":\"no_certificate\""]);
    assert_eq!(app.accepted(), 0);
}

/// Promise: `--allow` lets in exactly whom it names.
#[test]
fn an_allow_rule_lets_others_in_by_name() {
    let certificates = Certificates::new();
    let app = App::echo();
    let rule = ["--allow", "spiffe://cluster.local/ns/shop/sa/c*"];
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &rule);
    let near = Sidecar::between(&certificates.tls_dir("checkout"), far.inbound, local(1), &rule);
    crate::harness::assert_echo(&mut connect(near.outbound).unwrap(), "hello");
}

/// Promise: the app's connection is reset, without a byte, where the peer turns out to be somebody else.
#[test]
fn an_outgoing_connection_to_the_wrong_identity_is_reset() {
    let certificates = Certificates::new();
    let app = App::echo();
    let far = Sidecar::between(&certificates.tls_dir("impostor"), local(1), app.address, &["--allow", "ca"]);
    let near = Sidecar::between(&certificates.tls_dir("cart"), far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    assert_reset(&mut stream);
    let line = near.log_line(&["\"direction\":\"outbound\"", "\"reason\":\"denied\""]);
    assert!(line.contains("sa/impostor") && line.contains("sa/cart"), "{line}");
    assert_eq!(app.accepted(), 0);
}

/// Promise: a peer that does not want us is reported as such, and the app's connection is reset.
#[test]
fn a_peer_that_refuses_us_resets_the_apps_connection() {
    let certificates = Certificates::new();
    let app = App::echo();
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let near = Sidecar::between(&certificates.tls_dir("other"), far.inbound, local(1), &["--allow", "ca"]);
    let mut stream = connect(near.outbound).unwrap();
    stream.write_all(b"AKKA\x01").unwrap();
    assert_reset(&mut stream);
    near.log_line(&["connection failed", "\"reason\":\"refused_by_peer\""]);
    far.log_line(&["connection refused", "\"reason\":\"denied\"", "sa/other"]);
    assert_eq!(app.accepted(), 0);
}

/// Promise: strict takes no plaintext, sends no byte back, and names the protocol.
#[test]
fn plaintext_is_refused_in_strict_mode_and_named() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    for (hello, name, hint) in [
        (&b"AKKA\x01\x10\x00\x00\x00"[..], "artery (Akka 2.6 or Pekko 1) control stream", "has no agent"),
        (b"PEKK\x02", "artery (Pekko 2) ordinary stream", "has no agent"),
        (b"\x00\x00\x00\x2a\x12\x28\x08\x01", "classic remoting", "has no agent"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP", "management has another"),
        (b"\xff\xfe garbage", "unknown", "a scanner"),
    ] {
        let mut stream = connect(sidecar.inbound).unwrap();
        stream.write_all(hello).unwrap();
        assert_no_byte(&mut stream);
        let line = sidecar.log_line(&["\"reason\":\"plaintext_refused\"", &format!("\"looked_like\":\"{name}\"")]);
        assert!(line.contains(hint), "{line}");
        eventually("/status says so too", || sidecar.status()["refusals"].to_string().contains(hint).then_some(()));
    }
    assert_eq!(app.accepted(), 0);
}

/// Promise: silence and half a ClientHello hold a place for the handshake timeout and no longer.
#[test]
fn silence_and_half_a_hello_end_with_the_handshake_timeout() {
    let certificates = Certificates::new();
    let app = App::echo();
    let more = ["--handshake-timeout", "1", "--max-handshakes", "2"];
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &more);
    let started = Instant::now();
    let mut silent = connect(sidecar.inbound).unwrap();
    let mut half = connect(sidecar.inbound).unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    assert_no_byte(&mut silent);
    // An alert (RFC 8446, section 6): without a word it would look like an end of plaintext.
    let mut alert = [0; 7];
    half.read_exact(&mut alert).unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 80]);
    let took = started.elapsed();
    assert!(took.as_secs_f32() >= 0.9 && took < DEADLINE / 2, "took {took:?}");
    sidecar.log_line(&["\"reason\":\"peer_silent\""]);
    sidecar.log_line(&["\"reason\":\"handshake_timeout\""]);

    let near = Sidecar::between(&certificates.tls_dir("cart"), sidecar.inbound, local(1), &[]);
    crate::harness::assert_echo(&mut connect(near.outbound).unwrap(), "both places are free again");
}

/// Promise: a kubelet's TCP probe of the remoting port succeeds whether the app lives or not, and reaches nobody but the
/// sidecar, whose log says that it came and said nothing.
#[test]
fn a_tcp_probe_proves_that_the_sidecar_listens_and_no_more() {
    let certificates = Certificates::new();
    let nobody = local(free_port());
    for more in [&[][..], &["--mode", "permissive"]] {
        let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), nobody, more);
        drop(connect(sidecar.inbound).unwrap());
        let line = sidecar.log_line(&["\"reason\":\"peer_silent\""]);
        assert!(line.contains("\"bytes_in\":0"), "{line}");
        reset(connect(sidecar.inbound).unwrap());
        sidecar.log_line(&["\"reason\":\"peer_reset\""]);
    }
}

/// Promise: garbage after the start of a TLS record is a failed handshake, and nothing worse.
#[test]
fn garbage_in_a_tls_record_is_refused() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let mut stream = connect(sidecar.inbound).unwrap();
    stream.write_all(b"\x16\x03\x01\x00\x08garbage!").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer[0] == 0x15, "something else than an alert came back: {answer:?}");
    sidecar.log_line(&["\"reason\":\"handshake_failed\""]);
    assert_eq!(app.accepted(), 0);
}

/// Promise: where the app does not listen the dialler knows at once, and where the peer does not, once that was tried again
/// for four seconds.
#[test]
fn an_app_or_a_peer_that_is_not_there_means_a_reset() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between(&dir, local(1), local(free_port()), &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let started = Instant::now();
    assert_reset(&mut connect(near.outbound).unwrap());
    far.log_line(&["\"reason\":\"app_unreachable\"", "refused"]);

    let lonely = Sidecar::between(&dir, local(free_port()), local(1), &[]);
    assert_reset(&mut connect(lonely.outbound).unwrap());
    lonely.log_line(&["\"reason\":\"peer_unreachable\"", "refused"]);
    assert!(started.elapsed() < DEADLINE, "took {:?}", started.elapsed());
}

/// Promise: somebody who dials the sidecar's own ports, past the rules, gets nowhere.
#[test]
fn a_connection_that_was_not_redirected_is_refused() {
    let certificates = Certificates::new();
    let sidecar = Sidecar::start(&["--tls-dir", certificates.tls_dir("cart").to_str().unwrap()]);
    for listener in [sidecar.inbound, sidecar.outbound] {
        assert_no_byte(&mut connect(listener).unwrap());
    }
    // With connection tracking in the kernel the original destination is the listener itself, without it there is none.
    for direction in ["inbound", "outbound"] {
        let line = sidecar.log_line(&["connection refused", &format!("\"direction\":\"{direction}\"")]);
        assert!(line.contains("\"reason\":\"not_redirected\"") || line.contains("\"reason\":\"loop\""), "{line}");
    }
    let (status, body) = sidecar.get("/ready");
    assert_eq!(status, 503, "ready without rules: {body}");
}

/// Promise: a peer that accepts and then says nothing does not hold the app for longer than the handshake timeout.
#[test]
fn a_peer_that_never_answers_the_handshake_is_given_up() {
    let certificates = Certificates::new();
    let hole = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held = std::thread::spawn({
        let hole = hole.try_clone().unwrap();
        move || hole.accept().map(|(stream, _): (TcpStream, _)| stream)
    });
    let more = ["--handshake-timeout", "1"];
    let near = Sidecar::between(&certificates.tls_dir("cart"), hole.local_addr().unwrap(), local(1), &more);
    assert_reset(&mut connect(near.outbound).unwrap());
    near.log_line(&["\"direction\":\"outbound\"", "\"reason\":\"handshake_timeout\""]);
    drop(held.join());
}

/// Promise: where TLS 1.3 is asked for, a peer that speaks nothing newer than 1.2 is refused, and one of 1.3 is not.
#[test]
fn an_old_tls_is_refused_where_the_settings_say_so() {
    let certificates = Certificates::new();
    let app = App::echo();
    let dir = certificates.tls_dir("cart");
    let sidecar = Sidecar::between(&dir, local(1), app.address, &["--tls-min-version=1.3"]);
    let leaf = certificates.leaf("cart");
    let error = intrude(&sidecar, Some(&leaf), &rustls::version::TLS12);
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    let session = session(Some(&leaf), &rustls::version::TLS13, Vec::new());
    let mut stream = rustls::StreamOwned::new(session, connect(sidecar.inbound).unwrap());
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}
