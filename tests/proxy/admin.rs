//! The admin port tells how things stand, and keeps secrets.

use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, head_and_body, local};

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

/// Promise: a browser that gets the page runs its own script, asks its own sidecar, and does nothing else; nobody can guess
/// what makes a script the page's own.
#[test]
fn the_page_comes_with_a_policy_that_lets_its_own_script_run_and_nothing_else() {
    let certificates = Certificates::new();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), App::echo().address, &[]);
    let nonces: Vec<String> = (0..2)
        .map(|_| {
            let (head, page) = head_and_body(sidecar.admin, "/").unwrap();
            for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "cache-control: no-store"]
            {
                assert!(head.contains(header), "{header} is not in\n{head}");
            }
            let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'nonce-") && !policy.contains("unsafe"),
                "{policy}"
            );
            for part in ["frame-ancestors 'none'", "connect-src 'self'", "require-trusted-types-for 'script'"] {
                assert!(policy.contains(part), "{part} is not in {policy}");
            }
            let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
            assert!(nonce.len() == 32 && page.matches(&format!("nonce=\"{nonce}\"")).count() == 2, "{nonce}");
            assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "a resource from outside");
            nonce
        })
        .collect();
    assert_ne!(nonces[0], nonces[1]);
}
