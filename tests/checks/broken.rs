//! Ways to break a healthy manifest, each by the smallest change, and the codes under which each is found.

use std::collections::BTreeSet;

use crate::{AKKA, BYPASSCTL, DNS, ISTIO, MINIMAL, codes, failures, said};

/// One broken variant.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    from: &'static str,
    /// Text, and what stands in its place.
    patches: &'static [(&'static str, &'static str)],
    codes: &'static [&'static str],
}

impl Case {
    pub(crate) fn text(&self) -> String {
        self.patches.iter().fold(self.from.to_owned(), |text, (old, new)| {
            assert!(text.contains(old), "{}: {old:?} is not in the manifest", self.what);
            text.replacen(old, new, 1)
        })
    }
}

const fn case(
    what: &'static str,
    from: &'static str,
    patches: &'static [(&'static str, &'static str)],
    codes: &'static [&'static str],
) -> Case {
    Case { what, from, patches, codes }
}

pub(crate) const CASES: &[Case] = &[
    // Ports.
    case(
        "another remoting port in the ConfigMap",
        AKKA,
        &[("port = 2552", "port = 25520")],
        &["remoting-port-agreed", "network-policy-remoting"],
    ),
    case(
        "another management port by -D",
        AKKA,
        &[("http.port=8558", "http.port=8559")],
        &["management-port-agreed", "network-policy-management"],
    ),
    case(
        "the agent left at Akka's ports beside Pekko",
        BYPASSCTL,
        &[(", --preset, pekko", ""), ("BYPASSCTL_PRESET", "OTHER_PRESET")],
        &["remoting-port-agreed", "management-port-agreed"],
    ),
    case(
        "one agent container left at Akka's ports",
        BYPASSCTL,
        &[(", --preset, pekko", "")],
        &["remoting-port-agreed", "management-port-agreed", "agent-ports-agreed"],
    ),
    case(
        "Pekko's wrong port for the agent",
        BYPASSCTL,
        &[("--preset, pekko", "--remoting-port, '7355', --management-port, '7626'")],
        &["remoting-port-agreed", "agent-ports-agreed", "pekko-port"],
    ),
    case("Pekko's wrong port in the annotation", ISTIO, &[("\"2552,8558\"", "\"7355,2552,8558\"")], &["pekko-port"]),
    // Probes.
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
    // The mesh.
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
    // The agent.
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
        &["agent-native-sidecar"],
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
    // Rights.
    case(
        "the sample's namespace in the subject",
        AKKA,
        &[("serviceaccount:shop:", "serviceaccount:default:")],
        &["rbac-subject-namespace"],
    ),
    case(
        "a subject of another account",
        AKKA,
        &[("serviceaccount:shop:my-service", "serviceaccount:shop:default")],
        &["rbac-subject"],
    ),
    case("a role without watch", AKKA, &[("\"get\", \"watch\", \"list\"", "\"get\", \"list\"")], &["rbac-verbs"]),
    case("a role for another API group", AKKA, &[("apiGroups: [\"\"]", "apiGroups: [apps]")], &["rbac-verbs"]),
    case(
        "a binding to a role of another name",
        AKKA,
        &[("kind: Role, name: pod-reader", "kind: Role, name: pods-reader")],
        &["rbac-role"],
    ),
    case(
        "a role that nobody is bound to",
        AKKA,
        &[
            ("name: system:serviceaccount:shop:my-service", "name: system:serviceaccount:shop:my-service\n#"),
            ("kind: RoleBinding", "kind: Binding"),
        ],
        &["rbac-role"],
    ),
    case(
        "a role for one pod by name",
        AKKA,
        &[("resources: [\"pods\"]", "resources: [\"pods\"]\n  resourceNames: [one]")],
        &["rbac-verbs"],
    ),
    case(
        "a service account that is not there",
        AKKA,
        &[("kind: ServiceAccount\nmetadata: {name: my-service", "kind: ServiceAccount\nmetadata: {name: my-services")],
        &["service-account"],
    ),
    case(
        "no token",
        AKKA,
        &[("      terminationGracePeriodSeconds: 40", "      automountServiceAccountToken: false")],
        &["service-account-token"],
    ),
    case(
        "a password in the environment",
        AKKA,
        &[("valueFrom: {secretKeyRef: {name: db, key: password}}", "value: swordfish")],
        &["secret-in-environment"],
    ),
    case(
        "a password in an address",
        BYPASSCTL,
        &[(
            "CONFIG_FORCE_pekko_coordinated__shutdown_exit__jvm, value: \"on\"",
            "DB, value: \"jdbc:postgresql://orders:swordfish@db/orders\"",
        )],
        &["secret-in-environment"],
    ),
    case(
        "a password among the JVM's options",
        AKKA,
        &[("-Dnetworkaddress.cache.ttl=30", "-Djavax.net.ssl.keyStorePassword=changeit")],
        &["secret-in-environment"],
    ),
    // Discovery.
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
    case("one pod, and two contact points by default", MINIMAL, &[("replicas: 3", "replicas: 1")], &["contact-points"]),
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
    // Network policies.
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
    // Rollout.
    case(
        "an update takes a node away first",
        AKKA,
        &[("maxUnavailable: 0", "maxUnavailable: 1")],
        &["rollout-unavailable"],
    ),
    case("a quarter of eight by default", MINIMAL, &[("replicas: 3", "replicas: 8")], &["rollout-unavailable"]),
    case(
        "all nodes stop at once",
        AKKA,
        &[("type: RollingUpdate\n    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}", "type: Recreate")],
        &["rollout-recreate"],
    ),
    case("all nodes are doubled at once", AKKA, &[("maxSurge: 1,", "maxSurge: 100%,")], &["rollout-surge"]),
    case("no time to leave", AKKA, &[("PeriodSeconds: 40", "PeriodSeconds: 5")], &["grace-period"]),
    case("a JVM that stays", AKKA, &[("exit-jvm = on", "exit-jvm = off")], &["exit-jvm"]),
    case("a node that tries for ever", AKKA, &[("join-seed-nodes = 60s", "join-seed-nodes = off")], &["join-timeout"]),
    case(
        "a budget for other pods",
        AKKA,
        &[(
            "  maxUnavailable: 1\n  selector: {matchLabels: {app: my-service}}",
            "  maxUnavailable: 1\n  selector: {matchLabels: {app: other}}",
        )],
        &["disruption-budget"],
    ),
    case(
        "a budget that lets none go",
        AKKA,
        &[("  maxUnavailable: 1\n  selector", "  minAvailable: 3\n  selector")],
        &["disruption-budget-blocks"],
    ),
    // Reading.
    case("a document that is no YAML", AKKA, &[("kind: ConfigMap", "kind: [ConfigMap")], &["manifest-readable"]),
    case(
        "a number where a text belongs",
        MINIMAL,
        &[("        image: my-service:latest", "        image: my-service:latest\n        env: [{name: A, value: 1}]")],
        &["manifest-readable", "workload-found"],
    ),
    case(
        "nothing that looks like a node",
        MINIMAL,
        &[
            ("containerPort: 2552", "containerPort: 9000"),
            ("containerPort: 8558", "containerPort: 9001"),
            ("name: remoting", "name: other"),
        ],
        &["workload-found"],
    ),
];

#[test]
fn each_way_to_break_a_manifest_is_found_under_its_code_and_no_other() {
    assert!(CASES.len() >= 40);
    let mut wrong = String::new();
    for case in CASES {
        let failures = failures(&case.text());
        if codes(&failures) != BTreeSet::from_iter(case.codes.iter().copied()) {
            wrong += &format!("\n{}: expected {:?}, found{}", case.what, case.codes, said(&failures));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Every check on manifests has at least one way to fail.
#[test]
fn every_check_on_manifests_has_a_broken_variant() {
    use bypassctl::core::checks::catalog;
    let broken: BTreeSet<&str> = CASES.iter().flat_map(|case| case.codes.iter().copied()).collect();
    // What a live cluster, a pod or a node alone shows is tested elsewhere.
    let elsewhere = ["The running cluster", "check pod", "check pre"];
    let of_files = catalog::CATEGORIES.iter().filter(|(category, _)| !elsewhere.contains(category));
    let codes = of_files.flat_map(|(_, entries)| entries.iter()).map(|entry| entry.code);
    let untested: Vec<&str> = codes.filter(|code| !broken.contains(code)).collect();
    assert_eq!(untested, ["rbac-pods"], "checks without a broken variant");
}
