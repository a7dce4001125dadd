//! New certificates without a dropped connection, and an orderly end.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::{
    App, Certificates, Sidecar, assert_echo, assert_no_byte, connect, eventually, free_port, http, local, write_set,
};

fn serial(sidecar: &Sidecar) -> String {
    sidecar.status()["credentials"]["chain"][0]["serial"].as_str().unwrap().to_owned()
}

/// As a kubelet does it: a new directory, then one rename of the link `..data`.
fn swap(mount: &Path, generation: &str) {
    let new = mount.join("..data_tmp");
    symlink(generation, &new).unwrap();
    std::fs::rename(new, mount.join("..data")).unwrap();
}

/// Promise: a swapped secret mount is taken within seconds, for new connections, while old ones live on.
#[test]
fn a_swapped_secret_is_taken_and_open_connections_live_on() {
    let certificates = Certificates::new();
    let mount = certificates.path().join("mount");
    write_set(&mount.join("..1"), &certificates.leaf("cart"), certificates.ca.certificate_pem());
    write_set(&mount.join("..2"), &certificates.leaf("cart"), certificates.ca.certificate_pem());
    swap(&mount, "..1");
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{file}"), mount.join(file)).unwrap();
    }
    let app = App::echo();
    let far = Sidecar::between(&mount, local(1), app.address, &[]);
    let near = Sidecar::between(&mount, far.inbound, local(1), &[]);
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let before = serial(&far);
    swap(&mount, "..2");
    eventually("both have the new certificate", || (serial(&far) != before && serial(&near) != before).then_some(()));
    assert_echo(&mut old, "after");
    assert_echo(&mut connect(near.outbound).unwrap(), "new");
    far.log_line(&["credentials reloaded"]);
    assert!(far.get("/metrics").1.contains("bypassctl_certificate_reloads_total 1"));
}

/// Promise: a pair that does not match changes nothing but the status, and mending it is enough.
#[test]
fn a_mismatched_pair_keeps_the_last_good_one() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&certificates.tls_dir("cart"), far.inbound, local(1), &[]);
    let before = serial(&far);
    let next = certificates.leaf("cart");
    std::fs::write(dir.join("tls.crt"), &next.certificate_pem).unwrap();
    far.log_line(&["credentials on disk are not usable", "does not belong to certificate"]);
    assert_eq!(serial(&far), before);
    let fault = far.status()["credentials"]["reloads"]["fault"].as_str().unwrap_or_default().to_owned();
    assert!(fault.contains("does not belong to"), "{fault}");
    let (status, body) = far.get("/ready");
    assert!(status == 200 && body.contains("note: new credentials are not usable"), "{status} {body}");
    assert_echo(&mut connect(near.outbound).unwrap(), "still here");
    std::fs::write(dir.join("tls.key"), &next.key_pem).unwrap();
    eventually("the mended pair is taken", || (serial(&far) != before).then_some(()));
    let complaints = far.log().matches("credentials on disk are not usable").count();
    assert_eq!(complaints, 1, "one fault, one line");
}

/// Promise: without app and connections a signal ends the sidecar at once, with exit code 0.
#[test]
fn with_nothing_to_wait_for_sigterm_ends_at_once() {
    let certificates = Certificates::new();
    let mut sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(free_port()), &[]);
    let asked = std::time::Instant::now();
    sidecar.signal(Signal::SIGTERM);
    let status = eventually("the end", || sidecar.has_ended());
    assert!(status.success() && asked.elapsed().as_secs() < 5, "{status} after {:?}", asked.elapsed());
}

/// Promise: while the app listens, a stopping sidecar serves old and new connections; readiness says that it stops.
#[test]
fn a_stopping_sidecar_serves_until_the_app_has_left() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let mut far = Sidecar::between(&dir, local(1), app.address, &["--drain-timeout", "60"]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    far.signal(Signal::SIGTERM);
    eventually("not ready any more", || (far.get("/ready").0 == 503).then_some(()));
    assert_echo(&mut old, "handing over shards");
    assert_echo(&mut connect(near.outbound).unwrap(), "still taking new ones");
    assert!(far.has_ended().is_none());
    far.signal(Signal::SIGTERM);
    eventually("a second signal ends at once", || far.has_ended());
}

/// Promise: what is open at the end of the drain timeout is closed in order, not cut.
#[test]
fn at_the_end_of_the_drain_open_connections_are_closed_in_order() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let mut far = Sidecar::between(&dir, local(1), app.address, &["--drain-timeout", "1"]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "before");
    far.signal(Signal::SIGTERM);
    far.log_line(&["connection ended", "\"reason\":\"drained\""]);
    let read = std::io::Read::read(&mut stream, &mut [0]).expect("an orderly end, and no reset");
    assert_eq!(read, 0);
    assert!(eventually("the end", || far.has_ended()).success());
}

/// Promise: a preStop hook can start the drain over HTTP.
#[test]
fn posting_to_drain_from_loopback_stops_the_sidecar() {
    let certificates = Certificates::new();
    let mut sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(free_port()), &[]);
    assert_eq!(sidecar.get("/drain").0, 405);
    assert_eq!(http(sidecar.admin, "POST", "/drain").unwrap().0, 202);
    assert!(eventually("the end", || sidecar.has_ended()).success());
    assert!(connect(sidecar.inbound).map(|mut stream| assert_no_byte(&mut stream)).is_err(), "still listening");
}

/// Promise: whoever dials and says nothing, or half of something, does not keep a sidecar whose app has gone from ending.
#[test]
fn strangers_that_say_nothing_do_not_hold_up_the_end() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let more = ["--handshake-timeout=300", "--drain-timeout=300"];
    let mut sidecar = Sidecar::between(&dir, local(1), local(free_port()), &more);
    let silent = connect(sidecar.inbound).unwrap();
    let mut half = connect(sidecar.inbound).unwrap();
    // A handshake record of 512 bytes, of which a few come.
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).unwrap();
    // Who comes after them is accepted after them.
    let mut refused = connect(sidecar.inbound).unwrap();
    refused.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_no_byte(&mut refused);
    sidecar.signal(Signal::SIGTERM);
    assert!(eventually("the end", || sidecar.has_ended()).success());
    eventually("both are told", || (sidecar.log().matches("\"reason\":\"drained\"").count() == 2).then_some(()));
    drop((silent, half));
}

/// Promise: SIGHUP, which other programs take for a wish to read their files anew, ends nothing.
#[test]
fn sighup_ends_nothing() {
    let certificates = Certificates::new();
    let mut sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(free_port()), &[]);
    for _ in 0..2 {
        sidecar.signal(Signal::SIGHUP);
        sidecar.log_line(&["SIGHUP changes nothing"]);
        assert_eq!(sidecar.get("/ready").0, 200);
    }
    sidecar.signal(Signal::SIGTERM);
    assert!(eventually("the end", || sidecar.has_ended()).success());
}
