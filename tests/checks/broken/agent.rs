//! The agent's containers.

use super::{BYPASSCTL, Case, case};

pub(super) const CASES: &[Case] = &[
    case(
        "init without a proxy",
        BYPASSCTL,
        &[("args: [proxy, --tls-dir, /tls, --mode=permissive, --permissive-until=2099-06-30]", "args: [status]")],
        &["agent-complete"],
    ),
    case(
        "a proxy without init",
        BYPASSCTL,
        &[("args: [init, --preset, pekko]", "args: [status]")],
        &["agent-complete"],
    ),
    case(
        "init after the native sidecar",
        BYPASSCTL,
        &[
            (
                "args: [init, --preset, pekko]",
                "args: [proxy, --preset, pekko, --tls-dir, /tls]\n        restartPolicy: Always\n        volumeMounts: [{name: tls, mountPath: /tls}]",
            ),
            ("args: [proxy, --tls-dir, /tls, --mode=permissive, --permissive-until=2099-06-30]", "args: [init]"),
            ("runAsUser: 0", "runAsUser: 12552"),
            ("runAsUser: 12552, runAsNonRoot: true", "capabilities: {add: [NET_ADMIN]}"),
        ],
        &["agent-order"],
    ),
    case(
        "the proxy as an init container that never ends",
        BYPASSCTL,
        &[("        restartPolicy: Always\n", "")],
        &["agent-holds-pod"],
    ),
    case(
        "the proxy as a plain container",
        BYPASSCTL,
        &[
            (
                "      containers:\n",
                "      containers:\n      - {name: agent, image: bypassctl:0.1.0, args: [proxy, --preset=pekko, --tls-dir=/tls], volumeMounts: [{name: tls, mountPath: /tls}]}\n",
            ),
            ("args: [proxy, --tls-dir, /tls, --mode=permissive, --permissive-until=2099-06-30]", "args: [status]"),
        ],
        &["agent-native-sidecar"],
    ),
    case(
        "other redirect ports for the proxy",
        BYPASSCTL,
        &[("--tls-dir, /tls,", "--tls-dir, /tls, --inbound-port=20000,")],
        &["agent-ports-agreed"],
    ),
    case(
        "a port of the agent's taken by the app",
        BYPASSCTL,
        &[("containerPort: 8080", "containerPort: 15550")],
        &["agent-port-free"],
    ),
    case("init without NET_ADMIN", BYPASSCTL, &[(", add: [NET_ADMIN]", "")], &["agent-net-admin"]),
    case("the proxy runs as another user", BYPASSCTL, &[("{runAsUser: 12552,", "{runAsUser: 12553,")], &["agent-uid"]),
    case("the app runs as the agent's user", BYPASSCTL, &[("{runAsUser: 1000}", "{runAsUser: 12552}")], &["agent-uid"]),
    case("host network", BYPASSCTL, &[("enableServiceLinks: false", "hostNetwork: true")], &["agent-host-network"]),
    case("no certificates", BYPASSCTL, &[("--tls-dir, /tls, ", "")], &["agent-tls"]),
    case("certificates that are not mounted", BYPASSCTL, &[("mountPath: /tls,", "mountPath: /other,")], &["agent-tls"]),
    case("permissive past its day", BYPASSCTL, &[("2099-06-30", "2025-12-31")], &["agent-permissive"]),
    case("permissive without an end", BYPASSCTL, &[(", --permissive-until=2099-06-30", "")], &["agent-permissive"]),
    case("agents of two versions", BYPASSCTL, &[("bypassctl:0.1.0", "bypassctl:0.2.0")], &["agent-version"]),
    case(
        "a drain longer than the grace period",
        BYPASSCTL,
        &[("--tls-dir, /tls,", "--tls-dir, /tls, --drain-timeout, '90',")],
        &["agent-grace"],
    ),
];
