//! What `/metrics` counts is what happened.

use std::io::{Read as _, Write as _};

use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, local};

/// The value of a series; `None` if there is no such series.
fn value(sidecar: &Sidecar, series: &str) -> Option<f64> {
    let metrics = sidecar.get("/metrics").1;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Polls: an echo may be back before it is counted.
fn assert_value(sidecar: &Sidecar, series: &str, expected: f64) {
    eventually(&format!("{series} {expected}"), || (value(sidecar, series) == Some(expected)).then_some(()));
}

/// Promise: connections and bytes are counted by who the peer is, while they are open and after.
#[test]
fn traffic_is_counted_by_identity_before_and_after_a_connection_ends() {
    let certificates = Certificates::new();
    let app = App::echo();
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &["--allow", "ca"]);
    let dir = certificates.tls_dir("orders");
    let near = Sidecar::between(&dir, far.inbound, local(1), &["--allow", "ca"]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "hello");
    let mut other = connect(near.outbound).unwrap();
    assert_echo(&mut other, "you");

    let of = |name: &str, direction: &str, peer: &str, more: &str| {
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{peer}");
        format!("bypassctl_peer_{name}_total{{direction=\"{direction}\",identity=\"{identity}\"{more}}}")
    };
    let opened = of("connections_opened", "inbound", "orders", "");
    let closed = of("connections_closed", "inbound", "orders", "");
    let bytes = of("bytes", "inbound", "orders", ",way=\"in\"");
    assert_value(&far, &opened, 2.0);
    assert_value(&far, &closed, 0.0);
    assert_value(&far, &bytes, 8.0);
    assert_value(&near, &of("bytes", "outbound", "cart", ",way=\"out\""), 8.0);
    drop(other);
    assert_value(&far, &closed, 1.0);
    assert_value(&far, &bytes, 8.0);
    assert_echo(&mut stream, "again");
    assert_value(&far, &bytes, 13.0);
    assert_value(&far, &opened, 2.0);
}

/// Promise: how long dials and handshakes took, and when certificate and roots expire, is there for both directions.
#[test]
fn dials_handshakes_and_expiry_are_measured() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    assert_echo(&mut connect(near.outbound).unwrap(), "hello");
    for (sidecar, direction) in [(&near, "outbound"), (&far, "inbound")] {
        for what in ["connect", "handshake"] {
            let name = format!("bypassctl_{what}_duration_seconds");
            assert_value(sidecar, &format!("{name}_count{{direction=\"{direction}\"}}"), 1.0);
            let sum = value(sidecar, &format!("{name}_sum{{direction=\"{direction}\"}}")).unwrap();
            assert!(sum > 0.0 && sum < 5.0, "{name}: {sum} s");
        }
        assert_value(sidecar, &format!("bypassctl_accept_errors_total{{direction=\"{direction}\"}}"), 0.0);
    }
    let status = far.status();
    for (series, shown) in [
        ("bypassctl_certificate_not_after_timestamp_seconds", &status["credentials"]["chain"][0]["not_after"]),
        ("bypassctl_roots_not_after_timestamp_seconds", &status["credentials"]["roots"][0]["not_after"]),
    ] {
        let format = time::format_description::well_known::Rfc3339;
        let shown = time::OffsetDateTime::parse(shown.as_str().unwrap(), &format).unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a date is far below 2^52 seconds")]
        let shown = shown.unix_timestamp() as f64;
        assert_value(&far, series, shown);
    }
}

/// Promise: plaintext that is let in is nobody's, and is told apart from what TLS has told.
#[test]
fn plaintext_is_counted_as_nobodys() {
    let certificates = Certificates::new();
    let app = App::echo();
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &["--mode", "permissive"]);
    let mut stream = connect(far.inbound).unwrap();
    assert_echo(&mut stream, "AKKA\u{1} in plaintext");
    assert_value(&far, "bypassctl_peer_connections_opened_total{direction=\"inbound\",identity=\"none\"}", 1.0);
}

/// Promise: with --istio-metrics each edge is reported from both ends, in the terms by which Kiali draws it, and only then.
#[test]
fn istios_metrics_tell_both_ends_of_an_edge() {
    let certificates = Certificates::new();
    let app = App::serving(|mut stream| {
        let _ = stream.read_exact(&mut [0; 5]);
        let _ = stream.write_all(b"ok");
        let _ = stream.read(&mut [0]);
    });
    let allow = ["--allow", "ca", "--istio-metrics", "--workload-namespace", "shop"];
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &allow);
    let more = [&allow[..], &["--workload", "orders-v2"]].concat();
    let near = Sidecar::between(&certificates.tls_dir("orders"), far.inbound, local(1), &more);
    let mut stream = connect(near.outbound).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    let edge = |sidecar: &Sidecar, name: &str| {
        let metrics = sidecar.get("/metrics").1;
        let line = metrics.lines().find(|line| line.starts_with(&format!("istio_tcp_{name}_total{{")));
        line.unwrap_or_else(|| panic!("no istio_tcp_{name}_total in\n{metrics}")).to_owned()
    };
    let labels = [
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/orders\"",
        "source_workload_namespace=\"shop\"",
        "source_canonical_revision=\"latest\"",
        "source_cluster=\"Kubernetes\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "destination_workload=\"cart\"",
        "destination_canonical_service=\"cart\"",
        "destination_workload_namespace=\"shop\"",
        "destination_service_namespace=\"shop\"",
        "destination_service_name=\"unknown\"",
        "destination_cluster=\"Kubernetes\"",
        "connection_security_policy=\"mutual_tls\"",
        "response_flags=\"-\"",
    ];
    for (sidecar, own) in [
        (&near, ["reporter=\"source\"", "source_workload=\"orders-v2\""]),
        (&far, ["reporter=\"destination\"", "source_workload=\"orders\""]),
    ] {
        for name in ["connections_opened", "connections_closed", "sent_bytes", "received_bytes"] {
            let line = edge(sidecar, name);
            for label in labels.into_iter().chain(own) {
                assert!(line.contains(label), "{label} is not in {line}");
            }
        }
        assert!(edge(sidecar, "connections_opened").ends_with("} 1"));
        eventually("received", || edge(sidecar, "received_bytes").ends_with("} 5").then_some(()));
        eventually("sent", || edge(sidecar, "sent_bytes").ends_with("} 2").then_some(()));
    }
    let without = Sidecar::between(&certificates.tls_dir("cart"), far.inbound, local(1), &["--allow", "ca"]);
    drop(connect(without.outbound).unwrap());
    without.log_line(&["connection ended"]);
    assert!(!without.get("/metrics").1.contains("istio_"));
}
