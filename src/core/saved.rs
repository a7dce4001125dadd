//! Facts as a file that may leave the house: what checks read stays, what may be a secret goes.
//!
//! Invariant: values are kept by a list of what is known to be harmless, not dropped by a list of what is not; names stay.

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::core::checks::{has_secret_option, is_jvm_options, is_secret, plain_settings};
use crate::core::facts::{FORMAT, Facts};
use crate::core::report::Observed;

/// Bytes of a file of facts: some 2,000 pods.
pub const MOST_BYTES: u64 = 256 << 20;

/// What stands where a value was taken out.
const REMOVED: &str = "(removed)";
/// What stands where a secret was: still one to the check that looks for them.
const REDACTED: &str = "REDACTED";
/// The same for an address with a password in it.
const REDACTED_URL: &str = "redacted://redacted:redacted@redacted";

/// Why a file is no facts that this version reads.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// No JSON, or other JSON.
    #[error("it is no file that --save-facts wrote: {0}")]
    NotFacts(String),
    /// Of another bypassctl.
    #[error(
        "it has format {found} (bypassctl {version}), and this bypassctl reads format {FORMAT}: gather the facts again"
    )]
    OtherFormat {
        /// The file's.
        found: u32,
        /// Who wrote it.
        version: String,
    },
}

/// Facts without secrets, as the text of a file.
///
/// # Errors
/// If they cannot be written as JSON.
pub fn to_text(facts: &Facts) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(&redacted(facts.clone()))? + "\n")
}

/// The facts of such a text.
///
/// # Errors
/// If it is none, or has another format.
pub fn from_text(text: &str) -> Result<Facts, SavedError> {
    /// What every format has.
    #[derive(Deserialize)]
    struct Head {
        format: u32,
        #[serde(default)]
        version: String,
    }
    let not_facts = |error: serde_json::Error| SavedError::NotFacts(error.to_string());
    let head: Head = serde_json::from_str(text).map_err(not_facts)?;
    if head.format != FORMAT {
        return Err(SavedError::OtherFormat { found: head.format, version: head.version });
    }
    serde_json::from_str(text).map_err(not_facts)
}

/// The same facts without what may be secret.
#[must_use]
pub fn redacted(mut facts: Facts) -> Facts {
    let objects = &mut facts.objects;
    each_metadata(&mut objects.pods);
    each_metadata(&mut objects.services);
    each_metadata(&mut objects.service_accounts);
    each_metadata(&mut objects.roles);
    each_metadata(&mut objects.role_bindings);
    each_metadata(&mut objects.cluster_roles);
    each_metadata(&mut objects.cluster_role_bindings);
    each_metadata(&mut objects.network_policies);
    each_metadata(&mut objects.disruption_budgets);
    each_metadata(&mut objects.namespaces);
    each_metadata(&mut objects.nodes);
    each_metadata(&mut objects.events);
    if let Observed::Seen(pods) = &mut objects.pods {
        pods.iter_mut().filter_map(|pod| pod.spec.as_mut()).for_each(pod_spec);
    }
    if let Observed::Seen(workloads) = &mut objects.workloads {
        for workload in workloads {
            metadata(&mut workload.metadata);
            workload.template.metadata.iter_mut().for_each(metadata);
            workload.template.spec.iter_mut().for_each(pod_spec);
        }
    }
    if let Observed::Seen(maps) = &mut objects.config_maps {
        for (key, value) in maps.values_mut().flatten() {
            *value = if key.ends_with(".conf") || key.ends_with(".properties") {
                settings(value)
            } else {
                variable(key, value)
            };
        }
    }
    facts
}

fn each_metadata<T: Metadata<Ty = ObjectMeta>>(objects: &mut Observed<Vec<T>>) {
    if let Observed::Seen(objects) = objects {
        objects.iter_mut().for_each(|object| metadata(object.metadata_mut()));
    }
}

/// Annotations are anybody's; those of meshes and ours say what the checks need.
fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    let Some(annotations) = &mut metadata.annotations else { return };
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    const KEPT: [&str; 4] = ["istio.io", "linkerd.io", "kuma.io", "bypassctl"];
    for (key, value) in annotations {
        if !KEPT.iter().any(|kept| key.contains(kept)) || value.contains("://") {
            REMOVED.clone_into(value);
        }
    }
}

fn pod_spec(spec: &mut PodSpec) {
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    containers.for_each(container);
    // Whoever debugged the pod did it for reasons of their own.
    spec.ephemeral_containers = None;
}

fn container(container: &mut Container) {
    for variable_ in container.env.iter_mut().flatten() {
        if let Some(value) = &mut variable_.value {
            *value = variable(&variable_.name, value);
        }
    }
    for words in [&mut container.command, &mut container.args].into_iter().flatten() {
        arguments(words);
    }
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
        .into_iter()
        .flatten()
    {
        if let Some(http) = &mut probe.http_get {
            http.http_headers = None;
        }
        if let Some(exec) = &mut probe.exec {
            exec.command = None;
        }
    }
    for hook in container
        .lifecycle
        .iter_mut()
        .flat_map(|lifecycle| [&mut lifecycle.pre_stop, &mut lifecycle.post_start])
        .flatten()
    {
        hook.http_get = None;
        if let Some(exec) = &mut hook.exec {
            exec.command = None;
        }
    }
}

fn variable(name: &str, value: &str) -> String {
    const KEPT: [&str; 5] = ["AKKA_", "PEKKO_", "BYPASSCTL_", "CONFIG_FORCE_akka", "CONFIG_FORCE_pekko"];
    const ALSO: [&str; 4] =
        ["REQUIRED_CONTACT_POINT_NR", "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "POD_IP", "HOST_IP"];
    if is_secret(name, value) {
        return if value.contains("://") { REDACTED_URL } else { REDACTED }.to_owned();
    }
    if is_jvm_options(name) {
        return options(value);
    }
    let kept = KEPT.iter().any(|prefix| name.starts_with(prefix)) || ALSO.contains(&name);
    if kept { value.to_owned() } else { REMOVED.to_owned() }
}

/// A JVM's options: those of Akka, Pekko and DNS as they are, of others the names.
fn options(text: &str) -> String {
    let option = |option: &str| match option.split_once('=') {
        Some((name, _)) if has_secret_option(option) => format!("{name}={REDACTED}"),
        Some((name, value)) if is_setting(name) && !value.contains('@') => option.to_owned(),
        Some((name, _)) => format!("{name}={REMOVED}"),
        None if option.starts_with('-') => option.to_owned(),
        None => REMOVED.to_owned(),
    };
    text.split_whitespace().map(option).collect::<Vec<_>>().join(" ")
}

fn is_setting(option: &str) -> bool {
    let name = option.trim_matches(['"', '\'']).trim_start_matches("-J").trim_start_matches("-D");
    let ours = ["akka.", "pekko.", "networkaddress.", "sun.net."];
    ours.iter().any(|prefix| name.starts_with(prefix))
}

/// Command lines: programs, options' names, and the values that checks read.
fn arguments(words: &mut [String]) {
    const KEPT: [&str; 3] = ["init", "proxy", "true"];
    let mut keeps_next = false;
    for (at, word) in words.iter_mut().enumerate() {
        let name = word.split_once('=').map_or(word.as_str(), |(name, _)| name);
        let ours = is_agent_option(name);
        let plain = !word.contains([' ', '\n']);
        let is_program = at == 0 && plain && !word.contains('=');
        let is_value = keeps_next && !word.starts_with('-');
        keeps_next = ours && !word.contains('=');
        if is_value || is_program || KEPT.contains(&word.as_str()) || (ours && plain) {
            continue;
        }
        *word = options(word);
    }
}

fn is_agent_option(name: &str) -> bool {
    const OPTIONS: [&str; 19] = [
        "--preset",
        "--remoting-port",
        "--management-port",
        "--outbound-port",
        "--inbound-port",
        "--admin-port",
        "--mode",
        "--agent-uid",
        "--mesh-uid",
        "--permissive-until",
        "--tls-dir",
        "--tls-cert",
        "--tls-key",
        "--tls-ca",
        "--allow",
        "--drain-timeout",
        "--outbound-target",
        "--inbound-target",
        "--config",
    ];
    OPTIONS.contains(&name)
}

fn settings(text: &str) -> String {
    let of_cluster =
        plain_settings(text).into_iter().filter(|(path, value)| is_setting(path) && !is_secret(path, value));
    of_cluster.map(|(path, value)| format!("{path} = {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::core::config::ClusterPorts;
    use crate::core::manifests::{Named, Reader};

    const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: a
  managedFields: [{manager: x}]
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "hush-1", mine: "hush-2", sidecar.istio.io/inject: "true"}
spec:
  containers:
  - name: app
    image: shop
    command: [java, "-Dakka.remote.artery.canonical.port=2552", "-Dx.y=hush-3", --password, hush-4, "--token=hush-5"]
    env:
    - {name: DB_PASSWORD, value: hush-6}
    - {name: DB, value: "jdbc:pg://u:hush-7@db/x"}
    - {name: JAVA_OPTS, value: "-Xmx1g -Dakka.cluster.roles.0=a -Djavax.net.ssl.keyStorePassword=hush-8"}
    - {name: HARMLESS, value: hush-9}
    readinessProbe: {httpGet: {port: 8558, path: /ready, httpHeaders: [{name: Authorization, value: hush-10}]}}
    ports: [{containerPort: 2552}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data:
  application.conf: "akka.remote.artery.canonical.port = 2552\nakka.persistence.password = hush-11\nmine = hush-12"
  other: hush-13
"#;

    fn facts() -> Facts {
        let mut reader = Reader::new("shop");
        reader.text("a", POD, Named::Itself);
        let facts = reader.facts(datetime!(2026-01-01 0:00 UTC), ClusterPorts::new(None, &[], &[]).unwrap());
        assert!(facts.objects.unreadable.is_empty(), "{:?}", facts.objects.unreadable);
        facts
    }

    #[test]
    fn no_secret_is_saved_and_what_checks_read_is() {
        let text = to_text(&facts()).unwrap();
        assert!(!text.contains("hush"), "{text}");
        for kept in
            ["-Dakka.remote.artery.canonical.port=2552", "-Xmx1g -Dakka.cluster.roles.0=a", "sidecar.istio.io/inject"]
        {
            assert!(text.contains(kept), "{kept} is gone from {text}");
        }
    }

    #[test]
    fn saved_facts_are_judged_as_the_facts_themselves() {
        let facts = facts();
        let saved = from_text(&to_text(&facts).unwrap()).unwrap();
        let codes = |facts: &Facts| {
            crate::core::checks::run(facts).into_iter().map(|check| (check.code, check.status)).collect::<Vec<_>>()
        };
        assert_eq!(codes(&saved), codes(&facts));
    }

    #[test]
    fn another_format_is_named_and_not_read() {
        let text = to_text(&facts()).unwrap().replacen("\"format\": 1", "\"format\": 7", 1);
        assert!(from_text(&text).unwrap_err().to_string().contains("format 7"));
        assert!(from_text("[]").unwrap_err().to_string().contains("--save-facts"));
    }
}
