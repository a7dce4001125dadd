use time::macros::datetime;

use super::*;
use crate::core::checks;
use crate::core::config::ClusterPorts;
use crate::core::facts::Facts;
use crate::core::fallback::tls::Framework;
use crate::core::inject::annotate;
use crate::core::manifests::{Named, Reader};
use crate::core::report::Status;

const MANIFEST: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {istio-injection: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: web
spec:
  replicas: 3
  selector:
    matchLabels: {app: shop}
  template:
    metadata:
      labels: {app: shop}
      annotations:
        # of the database
        traffic.sidecar.istio.io/excludeOutboundPorts: \"5432\" # kept
        other: x
    spec:
      containers:
      - name: app
        ports:
        - {containerPort: 17355, name: remoting}
        - {containerPort: 7626, name: management}
        - {containerPort: 8080, name: http}
";

fn facts(text: &str) -> Facts {
    let mut reader = Reader::new("default");
    reader.text("a", text, Named::Itself);
    reader.facts(datetime!(2026-01-02 12:00 UTC), ClusterPorts::new(None, &[], &[]).unwrap())
}

fn failures(text: &str) -> BTreeSet<&'static str> {
    let results = checks::run(&facts(text)).into_iter();
    results.filter(|check| check.status == Status::Fail).map(|check| check.code).collect()
}

fn annotated(mesh: Mesh, text: &str) -> String {
    let all = nodes(&facts(text));
    annotate(text, |object, present| {
        let nodes = all.iter().find(|nodes| nodes.object.eq_ignore_ascii_case(object))?;
        Some(annotations(mesh, nodes, present))
    })
    .unwrap()
    .text
}

#[test]
fn annotations_keep_what_was_there_and_end_the_mesh_s_capture() {
    let before = failures(MANIFEST);
    assert!(before.contains("mesh-outbound") && before.contains("mesh-inbound"), "{before:?}");
    let after = annotated(Mesh::Istio, MANIFEST);
    assert!(after.contains("excludeOutboundPorts: \"5432,17355,7626\" # kept\n"), "{after}");
    assert!(after.contains("# of the database\n") && after.contains("other: x\n"), "{after}");
    let (now, wanted) = (failures(&after), ["mesh-outbound", "mesh-inbound"]);
    assert!(wanted.iter().all(|code| !now.contains(code)), "{now:?}");
    let more: Vec<_> = now.difference(&before).collect();
    assert_eq!(more, [&"mesh-mtls-lost"], "an annotation alone loses the mesh's encryption");
    assert_eq!(annotated(Mesh::Istio, &after), after);
}

#[test]
fn every_mesh_has_annotations_of_its_own() {
    for (mesh, key) in [
        (Mesh::Linkerd, "config.linkerd.io/skip-inbound-ports: \"17355,7626\"\n"),
        (Mesh::Kuma, "traffic.kuma.io/exclude-outbound-ports: \"17355,7626\"\n"),
        (Mesh::Consul, "consul.hashicorp.com/transparent-proxy-exclude-inbound-ports: \"17355,7626\"\n"),
    ] {
        let text = annotated(mesh, MANIFEST);
        assert!(text.contains(key), "{text}");
    }
}

#[test]
fn a_policy_and_rights_add_no_failure() {
    let all = nodes(&facts(MANIFEST));
    let before = failures(MANIFEST);
    let after = failures(&format!("{MANIFEST}---\n{}---\n{}", network_policies(&all).unwrap(), rights(&all)));
    assert!(after.is_subset(&before), "{:?}", after.difference(&before).collect::<Vec<_>>());
    assert_eq!(
        rights(&all).lines().filter(|line| *line == "kind: Role").count(),
        1,
        "one service account, one role: {}",
        rights(&all)
    );
    let policy = network_policies(&all).unwrap();
    assert!(policy.contains("port: 8080") && policy.contains("port: 17355"), "{policy}");
}

#[test]
fn tls_is_that_of_the_framework() {
    let text = tls::hocon(Framework::Pekko, "/tls");
    assert!(text.contains("pekko.remote.artery.transport = \"tls-tcp\"\n"), "{text}");
    assert!(text.contains("\"org.apache.pekko.remote.artery.tcp.ssl.RotatingKeysSSLEngineProvider\""), "{text}");
    let options = tls::options(Framework::Akka, "/tls");
    assert!(options.starts_with("-Dakka.remote.artery.transport=tls-tcp -Dakka."), "{options}");
}

#[test]
fn workloads_of_one_cluster_reach_each_other_and_pods_without_labels_have_no_policy() {
    let tier = |name: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: shop, \
             tier: {name}}}}}\n  template:\n    metadata: {{labels: {{app: shop, tier: {name}}}}}\n    spec:\n      containers:\n      \
             - name: app\n        env: [{{name: AKKA_CLUSTER_BOOTSTRAP_SERVICE_NAME, value: shop}}]\n        ports: \
             [{{containerPort: 2552}}, {{containerPort: 8558}}]\n"
        )
    };
    let two = format!("{}---\n{}", tier("front"), tier("back"));
    let policies = network_policies(&nodes(&facts(&two))).unwrap();
    let forbidden = |codes: BTreeSet<&str>| codes.contains("network-policy-remoting");
    assert!(!forbidden(failures(&format!("{two}---\n{policies}"))), "{policies}");
    let alone = network_policies(&nodes(&facts(&tier("front")))).unwrap();
    assert!(forbidden(failures(&format!("{two}---\n{alone}"))), "a policy that admits one tier of two");
    let bare = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, ports: [{containerPort: 2552}]}]}\n";
    assert_eq!(network_policies(&nodes(&facts(bare))), Err(NoPolicy::NoLabels("Pod/default/a".to_owned())));
}
