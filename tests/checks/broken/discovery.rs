//! Names, labels and contact points.

use super::{AKKA, BYPASSCTL, Case, DNS, MINIMAL, case};

pub(super) const CASES: &[Case] = &[
    case(
        "bootstrap looks for another label",
        AKKA,
        &[("SERVICE_NAME, value: my-service", "SERVICE_NAME, value: my-servise")],
        &["bootstrap-service-name"],
    ),
    case(
        "a batch job with the nodes' label",
        AKKA,
        &[
            ("kind: Deployment\nmetadata: {name: web", "kind: Deployment\nmetadata: {name: job"),
            ("labels: {app: web}}\n    spec", "labels: {app: my-service}}\n    spec"),
            ("matchLabels: {app: web}", "matchLabels: {app: my-service}"),
        ],
        &["discovery-strangers"],
    ),
    case(
        "a selector of other labels",
        BYPASSCTL,
        &[("matchLabels: {app: orders}", "matchLabels: {app: order}")],
        &["selector-matches"],
    ),
    case(
        "a Service of other labels",
        AKKA,
        &[("  selector: {app: my-service}\n  ports", "  selector: {app: myservice}\n  ports")],
        &["service-selects"],
    ),
    case("more contact points than pods", AKKA, &[("NR, value: \"3\"", "NR, value: \"5\"")], &["contact-points"]),
    case("fewer contact points than none", AKKA, &[("NR, value: \"3\"", "NR, value: \"-3\"")], &["contact-points"]),
    case(
        "a number of contact points that is none",
        AKKA,
        &[("NR, value: \"3\"", "NR, value: three")],
        &["contact-points"],
    ),
    case(
        "one pod, and two contact points by default",
        MINIMAL,
        &[("replicas: 3", "replicas: 1")],
        &["contact-points-default"],
    ),
    case(
        "one contact point is enough for three",
        AKKA,
        &[("NR, value: \"3\"", "NR, value: \"1\"")],
        &["contact-points-split"],
    ),
    case(
        "discovery by DNS that hides the unready",
        AKKA,
        &[("-Dakka.management.http.port=8558", "-Dakka.discovery.method=akka-dns")],
        &["discovery-dns"],
    ),
    case(
        "a headless Service that hides the unready",
        DNS,
        &[("publishNotReadyAddresses: true", "publishNotReadyAddresses: false")],
        &["discovery-dns"],
    ),
    case("an API that is gone", DNS, &[("apps/v1", "apps/v1beta2")], &["manifest-readable"]),
    case("a JVM that keeps addresses", AKKA, &[("cache.ttl=30", "cache.ttl=-1")], &["jvm-dns"]),
];
