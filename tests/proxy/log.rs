//! The log's filter can be changed while the sidecar runs, from within the pod.

use std::net::{SocketAddr, UdpSocket};

use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, free_port, http_with, local};

fn put(to: SocketAddr, filter: &str) -> (u16, String) {
    http_with(to, "PUT", "/log", filter).unwrap()
}

/// Promise: a new filter holds at once, the change is logged, and the connections that are open do not notice.
#[test]
fn the_log_level_changes_while_the_sidecar_runs() {
    let certificates = Certificates::new();
    let app = App::echo();
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "before");
    assert_eq!(far.get("/log"), (200, "info\n".to_owned()));
    assert_eq!(put(far.admin, "debug,bypassctl::tls=off\n").0, 200);
    far.log_line(&["the log filter is changed", "\"from\":\"info\"", "bypassctl::tls=off"]);
    assert!(far.get("/log").1.contains("debug"), "{}", far.get("/log").1);
    assert_echo(&mut connect(near.outbound).unwrap(), "now with rustls's own lines");
    far.log_line(&["\"level\":\"DEBUG\"", "rustls"]);

    assert_eq!(put(far.admin, "off"), (200, "off\n".to_owned()));
    far.log_line(&["\"to\":\"off\""]);
    let silent = far.log().len();
    assert_echo(&mut connect(near.outbound).unwrap(), "unheard");
    assert_eq!(put(far.admin, "warn").0, 200);
    far.log_line(&["\"from\":\"off\""]);
    let since = far.log()[silent..].to_owned();
    assert_eq!(since.lines().count(), 1, "the change alone: {since}");
    assert_echo(&mut stream, "after");
}

/// Promise: a filter that is none changes nothing, and the answer says what is wrong with it.
#[test]
fn a_filter_that_is_none_is_refused_with_the_reason() {
    let certificates = Certificates::new();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(free_port()), &[]);
    for (filter, part) in [
        ("debgu", "\"debgu\" is no level"),
        ("", "it is empty"),
        ("bypassctl=loud", "expected one of"),
        ("info,info=", "\"info=\" has no level behind its ="),
        ("info,,warn", "has an empty part"),
    ] {
        let (status, text) = put(sidecar.admin, filter);
        assert!(status == 400 && text.contains(part), "{filter:?}: {status} {text}");
    }
    let large = (413, "that is no log filter: the body has more than 4096 bytes\n".to_owned());
    assert_eq!(put(sidecar.admin, &"a".repeat(5_000)), large);
    assert_eq!(sidecar.get("/log"), (200, "info\n".to_owned()));
}

/// Promise: who is outside the pod may read the filter and not change it.
#[test]
fn only_the_pod_itself_may_change_the_filter() {
    // The address that this machine has towards others; no packet is sent.
    let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").map(|()| socket));
    let outside = route.and_then(|socket| socket.local_addr()).expect("a route to somewhere").ip();
    let certificates = Certificates::new();
    let both = ["--bind-address", &outside.to_string()];
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(free_port()), &both);
    let outside = SocketAddr::new(outside, sidecar.admin.port());
    let (status, text) = put(outside, "debug");
    assert!(status == 403 && text.contains("for callers on loopback"), "{status} {text}");
    assert_eq!(http_with(outside, "GET", "/log", "").unwrap(), (200, "info\n".to_owned()));
}
