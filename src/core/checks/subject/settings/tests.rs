use serde_json::json;

use super::*;
use crate::core::config::ClusterPorts;
use crate::core::manifests::{Named, Reader};

const NR: &str = "management.cluster.bootstrap.contact-point-discovery.required-contact-point-nr";
const NAME: &str = "management.cluster.bootstrap.contact-point-discovery.service-name";
const PORT: &str = "remote.artery.canonical.port";
const EXIT: &str = "coordinated-shutdown.exit-jvm";

/// Settings of a container with these variables, and these files mounted.
fn settings(env: &serde_json::Value, files: &serde_json::Value) -> Settings {
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"}, "data": files});
    let mut reader = Reader::new("shop");
    reader.text("a", &map.to_string(), Named::Itself);
    let ports = ClusterPorts::new(None, &[], &[]).unwrap();
    let facts = reader.facts(time::macros::datetime!(2026-01-01 0:00 UTC), ports);
    let container = json!({"name": "app", "env": env, "volumeMounts": [{"name": "v", "mountPath": "/c"}]});
    let pod = json!({"containers": [container], "volumes": [{"name": "v", "configMap": {"name": "c"}}]});
    let pod: PodSpec = serde_json::from_value(pod).unwrap();
    let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
    Settings::of(&pod.containers[0], &pod, &labels, "shop", &facts)
}

/// What is set at a path; `?` where it is unknown, `-` where nothing sets it.
fn at(settings: &Settings, path: &str) -> String {
    let unknown = if settings.unknown(path).is_some() { "?" } else { "-" };
    settings.get(path).map_or(unknown, |setting| setting.value.as_str()).to_owned()
}

fn with_conf(env: &serde_json::Value, conf: &str, path: &str) -> String {
    at(&settings(env, &json!({"application.conf": conf})), path)
}

#[test]
fn forced_settings_are_unmangled_as_typesafe_config_does() {
    assert_eq!(unmangled("akka_coordinated__shutdown_exit__jvm"), "akka.coordinated-shutdown.exit-jvm");
}

#[test]
fn a_default_before_a_substitution_is_not_what_holds() {
    let conf = "akka.remote.artery {\n canonical.port = 25520\n canonical.port = ${?ARTERY_PORT}\n}\n";
    assert_eq!(with_conf(&json!([{"name": "ARTERY_PORT", "value": "2552"}]), conf, PORT), "2552");
    // The image, or whoever starts the JVM, may set it.
    assert_eq!(with_conf(&json!([]), conf, PORT), "?");
    let ip = json!([{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    let conf = "akka.management.http { hostname = \"127.0.0.1\"\n hostname = ${?POD_IP} }";
    assert_eq!(with_conf(&ip, conf, "management.http.hostname"), "?");
    let conf = "akka.coordinated-shutdown.exit-jvm = off\nakka.coordinated-shutdown.exit-jvm = ${?EXIT_JVM}\n";
    assert_eq!(with_conf(&json!([{"name": "EXIT_JVM", "value": "on"}]), conf, EXIT), "on");
    // A path of the file comes before a variable.
    let conf = "EXIT_JVM = off\nakka.coordinated-shutdown.exit-jvm = ${EXIT_JVM}\n";
    assert_eq!(with_conf(&json!([{"name": "EXIT_JVM", "value": "on"}]), conf, EXIT), "?");
}

#[test]
fn references_between_variables_are_filled_in_as_kubernetes_does() {
    let name = |env: serde_json::Value| at(&settings(&env, &json!({})), NAME);
    let reference = |text: &str| json!({"name": "AKKA_CLUSTER_BOOTSTRAP_SERVICE_NAME", "value": text});
    assert_eq!(name(json!([{"name": "APP", "value": "shop"}, reference("my-$(APP)")])), "my-shop");
    let label = json!({"name": "MY", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}});
    assert_eq!(name(json!([label, reference("$(MY)")])), "shop");
    // What nothing defines before it stays as it is; what is defined by a Secret is not seen.
    assert_eq!(name(json!([reference("$(APP)"), {"name": "APP", "value": "shop"}])), "$(APP)");
    assert_eq!(name(json!([{"name": "APP", "value": "shop"}, reference("$$(APP)")])), "$(APP)");
    let secret = json!({"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
    assert_eq!(name(json!([secret, reference("$(S)")])), "?");
    let options = json!([{"name": "N", "value": "3"}, {"name": "JAVA_OPTS", "value": format!("-Dakka.{NR}=$(N) -Dakka.{EXIT}=$X")}]);
    let settings = settings(&options, &json!({}));
    assert_eq!((at(&settings, NR), at(&settings, EXIT)), ("3".to_owned(), "?".to_owned()));
}

#[test]
fn one_file_is_read_and_it_is_the_one_that_the_jvm_reads() {
    let both = json!({"application.conf": format!("akka.{PORT} = 2552"), "local.conf": format!("akka.{PORT} = 25520")});
    let port = |options: &str, files: &serde_json::Value| {
        at(&settings(&json!([{"name": "JAVA_OPTS", "value": options}]), files), PORT)
    };
    assert_eq!(port("-Xmx1g", &both), "2552");
    assert_eq!(port("-Dconfig.file=/c/application.conf", &both), "2552");
    assert_eq!(port("-Dconfig.file=/c/local.conf", &both), "25520");
    assert_eq!(port("-Dconfig.resource=local.conf", &both), "25520");
    for elsewhere in ["-Dconfig.file=/opt/other.conf", "-Dconfig.file=$CONF"] {
        assert_eq!(port(elsewhere, &both), "?");
    }
    assert_eq!(port("", &json!({"shop.conf": format!("akka.{PORT} = 2552")})), "2552");
    let several = json!({"a.conf": format!("akka.{PORT} = 2552"), "b.conf": "x = 1"});
    assert_eq!(port("", &several), "?");
}

#[test]
fn a_file_that_is_not_understood_leaves_no_default() {
    assert_eq!(with_conf(&json!([]), "include \"base\"\nakka.x = 1", NR), "?");
    assert_eq!(with_conf(&json!([]), "akka { \u{1}", NR), "?");
    assert_eq!(with_conf(&json!([]), "akka.x = 1", NR), "-");
    assert_eq!(with_conf(&json!([]), &format!("include \"base\"\nakka.{NR} = 1"), NR), "1");
    assert_eq!(with_conf(&json!([]), &format!("akka.{NR} = 1\nakka.management = ${{other}}"), NR), "?");
}

#[test]
fn a_file_beats_the_variables_of_reference_conf_and_options_beat_the_file() {
    let env = json!([{"name": "AKKA_CLUSTER_BOOTSTRAP_SERVICE_NAME", "value": "shop"}]);
    assert_eq!(with_conf(&env, &format!("akka.{NAME} = other"), NAME), "other");
    assert_eq!(with_conf(&env, "akka.x = 1", NAME), "shop");
    let options = json!([{"name": "JAVA_OPTS", "value": format!("-Dakka.{NAME}=third")}]);
    assert_eq!(with_conf(&options, &format!("akka.{NAME} = other"), NAME), "third");
}
