//! What is in a saved file, and what is not.

use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::core::config::ClusterPorts;
use crate::core::facts::{Answer, Live};
use crate::core::manifests::{Named, Reader};

/// Every place of a pod in which people have put secrets, and what checks read beside them.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
  managedFields: [{manager: x}]
  finalizers: [hush/a]
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: "hush-1"
    mine: "hush-2"
    sidecar.istio.io/inject: "true"
    sidecar.istio.io/componentLogLevel: "hush-20"
    proxy.istio.io/config: "{proxyMetadata: {TOKEN: hush-21, REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION: \"true\"}}"
    traffic.sidecar.istio.io/excludeOutboundPorts: "2552,8558"
    traffic.sidecar.istio.io/excludeInboundPorts: "hush-22"
    config.linkerd.io/proxy-log-level: "hush-23"
spec:
  imagePullSecrets: [{name: hush-24}]
  hostAliases: [{ip: 10.0.0.1, hostnames: [hush-25]}]
  nodeSelector: {x: hush-26}
  volumes:
  - {name: a, csi: {driver: x, volumeAttributes: {password: hush-27}}}
  - {name: b, flexVolume: {driver: x, options: {password: hush-28}}}
  - {name: c, iscsi: {iqn: hush-29, lun: 0, targetPortal: hush-30}}
  - {name: d, gitRepo: {repository: "https://u:hush-31@git/x"}}
  - {name: e, hostPath: {path: /hush-32}}
  - {name: f, downwardAPI: {items: [{path: hush-33}]}}
  - {name: g, configMap: {name: c, items: [{key: hush-34, path: x}]}}
  containers:
  - name: app
    image: user:hush-35@registry/shop:hush-36
    workingDir: /hush-37
    command: [hush-38, "-Dakka.remote.artery.canonical.port=2552", "-Dx.y=hush-3", --password, hush-4, "--token=hush-5"]
    args: [--mode, hush-39, -phush-40, "-javaagent:/x.jar=hush-41", "-Dakka.license-key=hush-42"]
    env:
    - {name: DB_PASSWORD, value: hush-6}
    - {name: DB, value: "jdbc:pg://u:hush-7@db/x"}
    - {name: JAVA_OPTS, value: "-phush-43 -Dakka.management.http.port=8558 -Djavax.net.ssl.keyStorePassword=hush-8"}
    - {name: HARMLESS, value: hush-9}
    - {name: AKKA_LICENSE_KEY, value: hush-44}
    - {name: AKKA_PERSISTENCE_URL, value: hush-45}
    - {name: BYPASSCTL_MODE, value: hush-46}
    - {name: CONFIG_FORCE_akka_persistence_url, value: hush-47}
    - {name: AKKA_CLUSTER_BOOTSTRAP_SERVICE_NAME, value: my-shop}
    - {name: CONFIG_FORCE_akka_discovery_method, value: kubernetes-api}
    - {name: DB_PASSWORD_FILE, value: /hush-48}
    - {name: X, valueFrom: {secretKeyRef: {name: hush-49, key: hush-50}}}
    readinessProbe:
      httpGet:
        port: 8558
        host: hush-51
        path: /hush-52/ready?token=hush-53
        httpHeaders: [{name: Authorization, value: hush-10}]
    livenessProbe: {exec: {command: [curl, hush-54]}}
    lifecycle: {preStop: {exec: {command: [hush-55]}}, postStart: {httpGet: {port: 1, path: /hush-56}}}
    ports: [{containerPort: 2552, hostIP: hush-57}]
  initContainers:
  - name: bypassctl
    image: user:hush-58@registry/bypassctl:1.2.3
    restartPolicy: Always
    args: [proxy, --tls-dir=/tls, --mode, strict, --allow, "spiffe://hush-59", "--workload=hush-60", hush-61]
    env: [{name: BYPASSCTL_PERMISSIVE_UNTIL, value: 2099-01-01}, {name: BYPASSCTL_OTLP_HEADERS, value: hush-62}]
status:
  phase: Running
  message: hush-63
  reason: hush-64
  podIP: 10.0.0.7
  conditions: [{type: Ready, status: "False", message: hush-65}]
  containerStatuses: [{name: app, image: x, imageID: x, ready: false, restartCount: 1, state: {terminated: {exitCode: 1, message: hush-66}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data:
  application.conf: |
    akka.remote.artery.canonical.port = 2552
    akka.persistence.password = hush-11
    akka.persistence.r2dbc.url = hush-67
    mine = hush-12
  other: hush-13
---
apiVersion: v1
kind: Service
metadata: {name: s, annotations: {x: hush-68}}
spec: {externalName: hush-69, clusterIP: None, ports: [{port: 8558}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: s}
secrets: [{name: hush-70}]
---
apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {ports: [{port: "hush-71"}]}
---
apiVersion: v1
kind: Service
metadata: {name: bad}
spec: {clusterIP: 87654321}
"#;

fn facts() -> Facts {
    let mut reader = Reader::new("shop");
    reader.text("a", POD, Named::Itself);
    let mut facts = reader.facts(datetime!(2026-01-01 0:00 UTC), ClusterPorts::new(None, &[], &[]).unwrap());
    let members = json!({"selfNode": "akka://shop@10.0.0.7:2552", "leader": "akka://shop@10.0.0.7:2552", "mine": "hush-80",
        "members": [{"node": "akka://shop@10.0.0.7:2552", "nodeUid": "1", "status": "Up", "roles": ["web"], "x": "hush-81"}],
        "unreachable": []});
    let live = Live {
        members: Observed::Seen(members),
        seed_nodes: Observed::Seen(json!({"hush-82": 1})),
        ready: Observed::Seen(Answer { status: 500, body: "Health Check Failed: no route to hush-83".to_owned() }),
        alive: Observed::Unavailable("GET https://jane:hush-84@api/x: refused".to_owned()),
        agent: Observed::Seen(json!({"version": "1.2.3", "readiness": {"ready": true}, "x": "hush-85"})),
        agent_config: Observed::Seen(json!({"x": "hush-86"})),
        clock_skew_ms: Observed::Seen(3),
    };
    facts.live.insert("shop/a".to_owned(), live);
    let event = |reason: &str, message: &str| {
        serde_json::from_value(
            json!({"metadata": {"annotations": {"x": "hush-90"}}, "message": message, "reason": reason,
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": "shop"}, "source": {"host": "hush-91"}}),
        )
        .unwrap()
    };
    facts.objects.events = Observed::Seen(vec![
        event("Unhealthy", "Readiness probe failed: Get \"http://10.0.0.7:8558/ready?k=hush-92\": connection refused"),
        event("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503"),
        event("Unhealthy", "Startup probe failed: hush-93"),
        event("FailedMount", "mount -o password=hush-94 failed"),
        event("Failed", "secret \"db\" not found"),
        event("hush-95", "0/3 hush-96"),
        event("FailedScheduling", "0/3 nodes are available: 3 Insufficient cpu."),
    ]);
    facts
}

#[test]
fn no_secret_is_saved_and_what_checks_read_is() {
    let text = to_text(&facts()).unwrap();
    let leaks: Vec<&str> = text.lines().filter(|line| line.contains("hush") || line.contains("87654321")).collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    for kept in [
        "Readiness probe failed: connection refused",
        "Liveness probe failed: status code 503",
        "secret \\\"db\\\" not found",
        "3 Insufficient cpu.",
        "-Dakka.remote.artery.canonical.port=2552",
        "-Dakka.management.http.port=8558",
        "-Dakka.license-key=REDACTED",
        "sidecar.istio.io/inject\": \"true",
        "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION: \\\"true",
        "\"2552,8558\"",
        "akka.remote.artery.canonical.port = 2552",
        "my-shop",
        "kubernetes-api",
        "/(removed)/ready",
        "bypassctl:1.2.3",
        "--tls-dir=/tls",
        "\"strict\"",
        "2099-01-01",
        "10.0.0.7",
        "akka://shop@10.0.0.7:2552",
        "https://api/x: refused",
    ] {
        assert!(text.contains(kept), "{kept} is gone from {text}");
    }
}

#[test]
fn saved_facts_are_judged_as_the_facts_themselves() {
    let facts = facts();
    let saved = from_text(&to_text(&facts).unwrap()).unwrap();
    let codes = |facts: &Facts| {
        let results = crate::core::checks::run(facts).into_iter();
        results.map(|check| (check.code, check.object, check.status)).collect::<Vec<_>>()
    };
    assert_eq!(codes(&saved), codes(&facts));
}

#[test]
fn another_format_is_named_and_not_read() {
    let text = to_text(&facts()).unwrap();
    let other = text.replacen("\"format\": 1", "\"format\": 7", 1);
    assert!(from_text(&other).unwrap_err().to_string().contains("format 7"));
    let changed = from_text(&text.replacen("\"taken\": \"", "\"taken\": \"hush-8 ", 1)).unwrap_err().to_string();
    assert!(changed.contains("changed since --save-facts wrote it") && !changed.contains("hush"), "{changed}");
    let wrong = from_text("{\"format\": \"hush-9\"}").unwrap_err().to_string();
    assert!(wrong.contains("--save-facts") && !wrong.contains("hush"), "{wrong}");
}
