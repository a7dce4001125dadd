//! Manifests as text to [`Facts`]: YAML and JSON, many documents, lists of objects.
//!
//! Invariant: one bad document costs itself alone, and no text makes this take unbounded time or memory.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::core::config::ClusterPorts;
use crate::core::facts::{FORMAT, Facts, Objects, RequestedCertificate, Source, Unreadable, Workload, key};
use crate::core::report::Observed;
use document::documents;
use typed::typed;

mod document;
mod typed;

/// Bytes of one file or of standard input: a hundred times what a big chart renders to.
pub const MOST_BYTES: usize = 64 << 20;
/// Documents and list items of one run.
pub const MOST_OBJECTS: usize = 100_000;
/// Documents that could not be read, of one run; beyond it nothing new is said.
const MOST_UNREADABLE: usize = 1000;
/// A list in a list in a list is no manifest.
const DEEPEST_LIST: usize = 4;
/// Characters of a parser's complaint that are worth showing.
const LONGEST_REASON: usize = 400;

/// Kinds without a namespace, among those that are read.
const CLUSTER_WIDE: [&str; 4] = ["Namespace", "Node", "ClusterRole", "ClusterRoleBinding"];

/// Objects as they are read, one text after the other.
#[derive(Debug)]
pub struct Reader {
    namespace: String,
    objects: Objects,
    documents: usize,
}

/// How much a text must be a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Somebody named the file: what is no object is a mistake.
    Itself,
    /// It was found in a directory, beside values and patches perhaps: what is no object is none of ours.
    ByDirectory,
}

impl Reader {
    /// Nothing yet; `namespace` is that of objects that name none.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), objects: Objects::none(), documents: 0 }
    }

    /// Whether nothing came so far, good or bad.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents == 0 && self.objects.unreadable.is_empty()
    }

    /// Reads all documents of a text; `place` is its name.
    pub fn text(&mut self, place: &str, text: &str, named: Named) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.len() > MOST_BYTES {
            return self.unreadable(place, &format!("it has {} bytes; at most {MOST_BYTES} are read", text.len()));
        }
        for (number, document) in documents(text).into_iter().enumerate() {
            let place = format!("{place}, document {}", number + 1);
            match document.parse() {
                Ok((Value::Null, _)) => {}
                Ok((value, remark)) => {
                    self.value(&place, value, named, 0);
                    if let Some(remark) = remark {
                        self.unreadable(&place, &remark);
                    }
                }
                Err(reason) => {
                    self.documents += 1;
                    self.unreadable(&place, &reason);
                }
            }
        }
    }

    /// Notes that something could not be read at all.
    pub fn unreadable(&mut self, place: &str, reason: &str) {
        if self.objects.unreadable.len() < MOST_UNREADABLE {
            let reason = reason.chars().take(LONGEST_REASON).collect();
            self.objects.unreadable.push(Unreadable { place: place.to_owned(), reason });
        }
    }

    /// The facts that these objects are.
    #[must_use]
    pub fn facts(self, taken: OffsetDateTime, ports: ClusterPorts) -> Facts {
        Facts {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taken,
            source: Source::Files,
            ports,
            objects: self.objects,
            live: BTreeMap::new(),
            access: BTreeMap::new(),
        }
    }

    fn value(&mut self, place: &str, value: Value, named: Named, depth: usize) {
        self.documents += 1;
        if self.documents > MOST_OBJECTS {
            if self.documents == MOST_OBJECTS + 1 {
                self.unreadable(place, &format!("more than {MOST_OBJECTS} objects; the rest is not read"));
            }
            return;
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (text("kind"), text("apiVersion"));
        if kind.is_empty() || version.is_empty() {
            return match named {
                Named::Itself => {
                    self.unreadable(place, "it has no kind or no apiVersion, so it is no Kubernetes object")
                }
                Named::ByDirectory => self.objects.others.push(format!("no object: {place}")),
            };
        }
        if let Some(item_kind) = kind.strip_suffix("List")
            && value.get("items").is_some_and(Value::is_array)
        {
            if depth >= DEEPEST_LIST {
                return self.unreadable(place, "lists within lists, deeper than any tool writes");
            }
            let Value::Object(mut list) = value else { return };
            let Some(Value::Array(items)) = list.remove("items") else { return };
            for (number, mut item) in items.into_iter().enumerate() {
                // Items of a DeploymentList need not say that they are Deployments.
                if let Value::Object(item) = &mut item
                    && !item_kind.is_empty()
                {
                    item.entry("kind").or_insert_with(|| item_kind.into());
                    item.entry("apiVersion").or_insert_with(|| version.clone().into());
                }
                self.value(&format!("{place}, item {}", number + 1), item, named, depth + 1);
            }
            return;
        }
        if let Err(error) = self.object(place, &kind, &version, value) {
            self.unreadable(place, &format!("it is no {kind} of {version}: {error}"));
        }
    }

    fn object(&mut self, place: &str, kind: &str, version: &str, mut value: Value) -> Result<(), String> {
        let Some(Value::Object(metadata)) = value.get_mut("metadata") else {
            return Err("it has no metadata".to_owned());
        };
        if !CLUSTER_WIDE.contains(&kind) {
            let namespace = metadata.entry("namespace").or_insert(Value::Null);
            if namespace.is_null() || namespace == "" {
                *namespace = self.namespace.as_str().into();
            }
        }
        let named = metadata.get("name").or_else(|| metadata.get("generateName")).and_then(Value::as_str);
        if named.is_none_or(str::is_empty) {
            return Err("its metadata has no name".to_owned());
        }
        self.typed(place, kind, version, value)
    }

    fn typed(&mut self, place: &str, kind: &str, version: &str, value: Value) -> Result<(), String> {
        let objects = &mut self.objects;
        match (version, kind) {
            ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("batch/v1", "Job" | "CronJob")
            | ("app.lightbend.com/v1alpha1", "AkkaCluster") => match workload(place, kind, value)? {
                Some(workload) => push(&mut objects.workloads, workload),
                None => objects.others.push(format!("made by another object: {place}")),
            },
            ("v1", "Pod") => push(&mut objects.pods, typed(value)?),
            ("v1", "Service") => push(&mut objects.services, typed(value)?),
            ("v1", "ServiceAccount") => push(&mut objects.service_accounts, typed(value)?),
            ("v1", "Namespace") => push(&mut objects.namespaces, typed(value)?),
            ("v1", "ConfigMap") => config_map(objects, &value)?,
            ("rbac.authorization.k8s.io/v1", "Role") => push(&mut objects.roles, typed(value)?),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => push(&mut objects.role_bindings, typed(value)?),
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => push(&mut objects.cluster_roles, typed(value)?),
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                push(&mut objects.cluster_role_bindings, typed(value)?);
            }
            ("cert-manager.io/v1", "Certificate") => push(&mut objects.certificates, certificate(&value)?),
            ("networking.k8s.io/v1", "NetworkPolicy") => push(&mut objects.network_policies, typed(value)?),
            ("policy/v1", "PodDisruptionBudget") => push(&mut objects.disruption_budgets, typed(value)?),
            ("extensions/v1beta1" | "apps/v1beta1" | "apps/v1beta2", "Deployment" | "StatefulSet" | "DaemonSet") => {
                return Err(format!("no Kubernetes since 1.16 has it; write apps/v1 for {kind}"));
            }
            _ => objects.others.push(format!("{kind}/{}", key(&metadata(&value)?))),
        }
        Ok(())
    }
}

impl Objects {
    /// Nothing, looked for and not there.
    #[must_use]
    pub fn none() -> Self {
        Self {
            workloads: Observed::Seen(Vec::new()),
            unlisted: Vec::new(),
            pods: Observed::Seen(Vec::new()),
            services: Observed::Seen(Vec::new()),
            service_accounts: Observed::Seen(Vec::new()),
            roles: Observed::Seen(Vec::new()),
            role_bindings: Observed::Seen(Vec::new()),
            cluster_roles: Observed::Seen(Vec::new()),
            cluster_role_bindings: Observed::Seen(Vec::new()),
            certificates: Observed::Seen(Vec::new()),
            network_policies: Observed::Seen(Vec::new()),
            disruption_budgets: Observed::Seen(Vec::new()),
            namespaces: Observed::Seen(Vec::new()),
            nodes: Observed::Seen(Vec::new()),
            events: Observed::Seen(Vec::new()),
            config_maps: Observed::Seen(BTreeMap::new()),
            others: Vec::new(),
            unreadable: Vec::new(),
        }
    }
}

fn push<T>(list: &mut Observed<Vec<T>>, item: T) {
    if let Observed::Seen(list) = list {
        list.push(item);
    }
}

fn metadata(value: &Value) -> Result<ObjectMeta, String> {
    typed(value.get("metadata").cloned().unwrap_or_default())
}

fn config_map(objects: &mut Objects, value: &Value) -> Result<(), String> {
    let name = key(&metadata(value)?);
    let data: BTreeMap<String, String> = match value.get("data") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(data) => typed(data.clone())?,
    };
    if let Observed::Seen(maps) = &mut objects.config_maps {
        maps.insert(name, data);
    }
    Ok(())
}

/// With what cert-manager does where nothing is said: RSA, and for any usage.
/// A Certificate of cert-manager's.
///
/// # Errors
/// Why it is none.
pub fn certificate(value: &Value) -> Result<RequestedCertificate, String> {
    let metadata = metadata(value)?;
    let spec = value.get("spec").and_then(Value::as_object).ok_or("it has no spec")?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let texts = |key: &str| {
        let list = spec.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let of_both =
        |usage: &String| ["server", "client"].into_iter().find(|one| usage.strip_prefix(one) == Some(" auth"));
    Ok(RequestedCertificate {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        secret: text(spec.get("secretName")).ok_or("spec.secretName is missing")?,
        algorithm: text(value.pointer("/spec/privateKey/algorithm")).unwrap_or_else(|| "RSA".to_owned()),
        common_name: text(spec.get("commonName")),
        dns_names: texts("dnsNames"),
        usages: texts("usages").iter().filter_map(of_both).map(str::to_owned).collect(),
    })
}

/// An object of the AkkaCluster operator, as a workload.
///
/// # Errors
/// Why it is none.
pub fn akka_cluster(mut value: Value) -> Result<Workload, String> {
    if let Value::Object(object) = &mut value {
        // Items of a list do not say what they are.
        object.insert("kind".to_owned(), "AkkaCluster".into());
    }
    workload("", "AkkaCluster", value)?.ok_or_else(|| "another object made it".to_owned())
}

/// The workload; `None` where another object made it, which is judged itself.
fn workload(place: &str, kind: &str, value: Value) -> Result<Option<Workload>, String> {
    let made = metadata(&value)?;
    if made.owner_references.as_ref().is_some_and(|owners| owners.iter().any(|owner| owner.controller == Some(true))) {
        return Ok(None);
    }
    let mut workload = Workload {
        kind: kind.to_owned(),
        place: place.to_owned(),
        metadata: made,
        replicas: None,
        selector: None,
        strategy: None,
        update_strategy: None,
        template: Default::default(),
        rollout: None,
    };
    let no_spec = || "it has no spec".to_owned();
    match kind {
        "Deployment" | "AkkaCluster" => {
            let spec = typed::<Deployment>(as_deployment(value))?.spec.ok_or_else(no_spec)?;
            (workload.replicas, workload.selector) = (spec.replicas, Some(spec.selector));
            (workload.strategy, workload.template) = (spec.strategy, spec.template);
        }
        "StatefulSet" => {
            let spec = typed::<StatefulSet>(value)?.spec.ok_or_else(no_spec)?;
            (workload.replicas, workload.selector) = (spec.replicas, Some(spec.selector));
            (workload.update_strategy, workload.template) = (spec.update_strategy, spec.template);
        }
        "ReplicaSet" => {
            let spec = typed::<ReplicaSet>(value)?.spec.ok_or_else(no_spec)?;
            (workload.replicas, workload.selector) = (spec.replicas, Some(spec.selector));
            workload.template = spec.template.unwrap_or_default();
        }
        "DaemonSet" => {
            let spec = typed::<DaemonSet>(value)?.spec.ok_or_else(no_spec)?;
            (workload.selector, workload.template) = (Some(spec.selector), spec.template);
        }
        "Job" => workload.template = typed::<Job>(value)?.spec.ok_or_else(no_spec)?.template,
        _ => {
            let job = typed::<CronJob>(value)?.spec.ok_or_else(no_spec)?.job_template.spec;
            workload.template = job.ok_or_else(no_spec)?.template;
        }
    }
    Ok(Some(workload))
}

/// An AkkaCluster has a Deployment's spec, in which its operator fills in what is missing.
fn as_deployment(mut value: Value) -> Value {
    let name = value.pointer("/metadata/name").cloned().unwrap_or_default();
    if value.get("kind").is_some_and(|kind| kind == "AkkaCluster")
        && let Value::Object(object) = &mut value
    {
        object.insert("kind".to_owned(), "Deployment".into());
        object.insert("apiVersion".to_owned(), "apps/v1".into());
        let app = serde_json::json!({"app": name});
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            spec.entry("selector").or_insert_with(|| serde_json::json!({"matchLabels": app.clone()}));
            let template = spec.entry("template").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(template) = template
                && let Value::Object(metadata) = template.entry("metadata").or_insert_with(|| Value::Object(Map::new()))
            {
                metadata.entry("labels").or_insert(app);
            }
        }
    }
    value
}

#[cfg(test)]
mod tests;
