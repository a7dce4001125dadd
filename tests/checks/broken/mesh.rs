//! What the mesh captures.

use super::{BYPASSCTL, Case, ISTIO, MINIMAL, case};

pub(super) const CASES: &[Case] = &[
    case(
        "annotations on the Deployment",
        ISTIO,
        &[(
            "{name: my-service, namespace: shop}\nspec:\n  replicas",
            "{name: my-service, namespace: shop, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: \"2552\"}}\nspec:\n  replicas",
        )],
        &["mesh-annotation-place"],
    ),
    case(
        "no outbound exclusion",
        ISTIO,
        &[("        traffic.sidecar.istio.io/excludeOutboundPorts: \"2552,8558\"\n", "")],
        &["mesh-outbound"],
    ),
    case("management forgotten in the exclusion", ISTIO, &[("\"2552,8558\"", "\"2552\"")], &["mesh-outbound"]),
    case(
        "the inbound exclusion forgotten",
        ISTIO,
        &[("        traffic.sidecar.istio.io/includeInboundPorts: \"8080\"\n", "")],
        &["mesh-inbound"],
    ),
    case(
        "remoting given to the mesh inbound",
        ISTIO,
        &[("includeInboundPorts: \"8080\"", "includeInboundPorts: \"8080,2552\"")],
        &["mesh-inbound"],
    ),
    case("excluded, and nobody encrypts", ISTIO, &[("transport=tls-tcp", "transport=tcp")], &["mesh-mtls-lost"]),
    case(
        "injected by the namespace, and no annotation",
        MINIMAL,
        &[(
            "apiVersion: apps/v1",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n---\napiVersion: apps/v1",
        )],
        &["mesh-outbound", "mesh-inbound"],
    ),
    case(
        "Linkerd without skipped ports",
        MINIMAL,
        &[(
            "    metadata:\n      labels:\n        app: my-service\n    spec",
            "    metadata:\n      annotations: {linkerd.io/inject: enabled}\n      labels:\n        app: my-service\n    spec",
        )],
        &["mesh-outbound", "mesh-inbound"],
    ),
    case(
        "Kuma skips one way alone",
        MINIMAL,
        &[(
            "    metadata:\n      labels:\n        app: my-service\n    spec",
            "    metadata:\n      annotations: {traffic.kuma.io/exclude-inbound-ports: \"2552,8558\"}\n      labels:\n        app: my-service\n    spec",
        )],
        &["mesh-outbound"],
    ),
    case(
        "the agent in ambient",
        BYPASSCTL,
        &[("istio-injection: enabled", "istio.io/dataplane-mode: ambient")],
        &["mesh-ambient"],
    ),
    case(
        "an annotation that gives remoting to the mesh, beside the agent",
        BYPASSCTL,
        &[(
            "      labels: {app: orders}\n    spec",
            "      labels: {app: orders}\n      annotations: {traffic.sidecar.istio.io/includeInboundPorts: \"8080,17355\"}\n    spec",
        )],
        &["mesh-agent-conflict"],
    ),
    case(
        "an annotation that excludes other ports than the agent",
        BYPASSCTL,
        &[(
            "      labels: {app: orders}\n    spec",
            "      labels: {app: orders}\n      annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: \"2552,8558\"}\n    spec",
        )],
        &["mesh-agent-conflict"],
    ),
    case(
        "probes rewritten to localhost",
        ISTIO,
        &[
            ("http.hostname=0.0.0.0", "http.hostname=10.0.0.7"),
            (
                "        traffic.sidecar.istio.io/includeInboundPorts: \"8080\"\n",
                "        traffic.sidecar.istio.io/includeInboundPorts: \"8080\"\n        proxy.istio.io/config: '{\"proxyMetadata\": {\"REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION\": \"true\"}}'\n",
            ),
        ],
        &["mesh-probe-rewrite"],
    ),
    case(
        "management on loopback",
        ISTIO,
        &[("http.hostname=0.0.0.0", "http.hostname=127.0.0.1")],
        &["management-reachable"],
    ),
];
