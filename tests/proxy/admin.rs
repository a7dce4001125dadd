//! The admin port tells how things stand, and keeps secrets.

use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, local};

/// Promise: every page is there and says what it is for; none shows the key.
#[test]
fn every_page_answers_and_none_shows_a_secret() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "hello");

    assert_eq!(far.get("/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(far.get("/ready"), (200, "ready\n".to_owned()));
    let metrics = far.get("/metrics").1;
    for name in [
        "bypassctl_connections_active{direction=\"inbound\"} 1",
        "bypassctl_bytes_total{direction=\"inbound\",way=\"in\"} 5",
        "bypassctl_handshake_duration_seconds_count{direction=\"inbound\"} 1",
        "bypassctl_certificate_not_after_timestamp_seconds",
        "bypassctl_certificate_reloads_failed_total 0",
        "bypassctl_build_info{version=",
        "bypassctl_ready 1",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    let status = far.status();
    let group = &status["connections"][0];
    assert_eq!(group["identity"], "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!((group["connections"].as_u64(), group["bytes_in"].as_u64()), (Some(1), Some(5)));
    assert_eq!(status["mode"], "strict");
    assert_eq!(status["readiness"]["ready"], true);
    assert_eq!(status["credentials"]["roots"][0]["subject"], "CN=test CA");
    let config: serde_json::Value = serde_json::from_str(&far.get("/config").1).unwrap();
    assert_eq!(config["remoting_ports"], "2552");
    assert_eq!(config["limits"]["handshake_timeout_seconds"], 10);
    let page = far.get("/").1;
    assert!(page.contains("<h2>Connections</h2><table>") && page.contains("sa/cart"), "{page}");

    let key = std::fs::read_to_string(dir.join("tls.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    for path in ["/", "/status", "/config", "/metrics"] {
        assert!(!far.get(path).1.contains(secret), "{path} shows the key");
    }
    assert_eq!(far.get("/nothing").0, 404);
    drop(stream);
    far.log_line(&["connection ended"]);
    assert!(
        far.get("/metrics").1.contains("bypassctl_connections_total{direction=\"inbound\",reason=\"closed\"} 1"),
        "the end was not counted"
    );
}
