//! Probes.

use super::{AKKA, BYPASSCTL, Case, MINIMAL, case};

pub(super) const CASES: &[Case] = &[
    case(
        "no readiness probe",
        AKKA,
        &[("readinessProbe", "startupProbe"), ("path: /ready", "path: /alive")],
        &["probe-readiness"],
    ),
    case("no liveness probe", AKKA, &[("livenessProbe", "startupProbe")], &["probe-liveness"]),
    case(
        "an impatient liveness probe",
        MINIMAL,
        &[(
            "path: \"/alive\"\n            port: management\n          periodSeconds: 10\n          failureThreshold: 10\n          initialDelaySeconds: 20",
            "path: \"/alive\"\n            port: management\n          periodSeconds: 3",
        )],
        &["probe-patience"],
    ),
    case(
        "a probe of a port name that is not there",
        AKKA,
        &[("path: /ready, port: management", "path: /ready, port: mgmt")],
        &["probe-port"],
    ),
    case(
        "a probe of another port number",
        BYPASSCTL,
        &[("path: /alive, port: 7626", "path: /alive, port: 8558")],
        &["probe-port"],
    ),
    case("liveness asks /ready", AKKA, &[("path: /alive", "path: /ready")], &["probe-path"]),
    case(
        "a probe dials remoting",
        AKKA,
        &[("httpGet: {path: /ready, port: management}", "tcpSocket: {port: remoting}")],
        &["probe-remoting"],
    ),
];
