//! Nodes with TLS of their own beside nodes with the agent.

use super::{Case, NATIVE, case};

pub(super) const CASES: &[Case] = &[
    case(
        "a sidecar's certificate of an elliptic curve beside native TLS",
        NATIVE,
        &[("algorithm: RSA, size: 2048", "algorithm: ECDSA, size: 256")],
        &["native-tls"],
    ),
    case(
        "certificates of native nodes and sidecars without a name in common",
        NATIVE,
        &[("dnsNames: [cart.remoting]\n  uris", "dnsNames: [cart.other]\n  uris")],
        &["native-tls"],
    ),
    case(
        "a sidecar's certificate with a SPIFFE ID alone beside native TLS",
        NATIVE,
        &[("  dnsNames: [cart.remoting]\n  uris", "  uris")],
        &["native-tls"],
    ),
    case(
        "a native node's certificate that is for servers alone",
        NATIVE,
        &[(", server auth, client auth]", ", server auth]")],
        &["native-tls"],
    ),
    case(
        "sidecars that speak TLS 1.3 alone beside Akka's own TLS",
        NATIVE,
        &[("--tls-min-version, \"1.2\"", "--tls-min-version, \"1.3\"")],
        &["native-tls"],
    ),
    case(
        "TLS of the app's own within the sidecar's",
        NATIVE,
        &[("transport=tcp", "transport=tls-tcp")],
        &["native-tls-twice"],
    ),
];
