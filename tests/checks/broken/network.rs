//! NetworkPolicies.

use super::{AKKA, Case, ISTIO, case};

pub(super) const CASES: &[Case] = &[
    case(
        "the host's network without the agent",
        AKKA,
        &[(
            "      terminationGracePeriodSeconds: 40",
            "      terminationGracePeriodSeconds: 40\n      hostNetwork: true",
        )],
        &["host-network"],
    ),
    case(
        "no remoting in",
        AKKA,
        &[("[{port: remoting}, {port: 8558}]", "[{port: 8558}]")],
        &["network-policy-remoting"],
    ),
    case(
        "no management out",
        AKKA,
        &[("endPort: 2560}, {port: 8558}]", "endPort: 2560}]")],
        &["network-policy-management"],
    ),
    case(
        "peers of another label",
        AKKA,
        &[(
            "- from: [{podSelector: {matchLabels: {app: my-service}}}]",
            "- from: [{podSelector: {matchLabels: {app: web}}}]",
        )],
        &["network-policy-remoting", "network-policy-management"],
    ),
    case(
        "remoting by UDP alone",
        AKKA,
        &[("{port: remoting}", "{port: 2552, protocol: UDP}")],
        &["network-policy-remoting"],
    ),
    case(
        "no DNS",
        AKKA,
        &[("[{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]", "[{port: 9999}]")],
        &["network-policy-dns"],
    ),
    case("no API server", AKKA, &[("  - ports: [{port: 443}, {port: 6443}]\n", "")], &["network-policy-api"]),
    case("no control plane of the mesh", ISTIO, &[(", {port: 15012}", "")], &["network-policy-mesh"]),
];
