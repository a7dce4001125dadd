//! Facts as a file that may leave the house: what checks read is saved, and nothing else.
//!
//! Invariant: every object is made anew from the fields that checks read, so that a field that nobody thought of is left
//! out. Names stay; a value stays where it is known to be harmless.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod, PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::core::facts::{FORMAT, Facts, Objects, Unreadable, Workload};
use crate::core::report::Observed;

mod live;
mod pods;
mod running;
mod values;

/// Bytes of a file of facts: some 2,000 pods.
pub const MOST_BYTES: u64 = 256 << 20;

/// Why a file is no facts that this version reads.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// No JSON, or other JSON.
    #[error("it is no file that --save-facts wrote: {0}")]
    NotFacts(String),
    /// It begins as one.
    #[error("it was changed since --save-facts wrote it: it cannot be read from line {line}, column {column}")]
    Changed {
        /// From one on.
        line: usize,
        /// From one on.
        column: usize,
    },
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
    Ok(serde_json::to_string_pretty(&redacted(facts))? + "\n")
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
    // Not what it quotes: whoever gives the wrong file gives one with secrets, perhaps.
    let not_facts = |error: serde_json::Error| {
        SavedError::NotFacts(format!("it cannot be read as one from line {}, column {}", error.line(), error.column()))
    };
    let head: Head = serde_json::from_str(text).map_err(not_facts)?;
    if head.format != FORMAT {
        return Err(SavedError::OtherFormat { found: head.format, version: head.version });
    }
    serde_json::from_str(text).map_err(|error| SavedError::Changed { line: error.line(), column: error.column() })
}

/// The same facts, as far as checks read them.
#[must_use]
pub fn redacted(facts: &Facts) -> Facts {
    Facts {
        format: facts.format,
        version: facts.version.clone(),
        taken: facts.taken,
        source: facts.source.clone(),
        ports: facts.ports.clone(),
        objects: objects(&facts.objects),
        live: facts.live.iter().map(|(key, live)| (key.clone(), live::live(live))).collect(),
        access: facts.access.iter().map(|(key, access)| (key.clone(), seen(access, Clone::clone))).collect(),
    }
}

/// Whatever was seen, as `keep` leaves it; a reason why not may quote a server.
fn seen<T, U>(fact: &Observed<T>, keep: impl FnOnce(&T) -> U) -> Observed<U> {
    match fact {
        Observed::Seen(fact) => Observed::Seen(keep(fact)),
        Observed::Unavailable(reason) => Observed::Unavailable(values::reason(reason)),
    }
}

fn each<T>(list: &Observed<Vec<T>>, keep: impl Fn(&T) -> T) -> Observed<Vec<T>> {
    seen(list, |list| list.iter().map(keep).collect())
}

fn objects(objects: &Objects) -> Objects {
    let unreadable = |one: &Unreadable| Unreadable { place: one.place.clone(), reason: values::reason(&one.reason) };
    Objects {
        workloads: each(&objects.workloads, workload),
        unlisted: objects.unlisted.iter().map(|reason| values::reason(reason)).collect(),
        pods: each(&objects.pods, pod),
        services: each(&objects.services, service),
        service_accounts: each(&objects.service_accounts, |one| ServiceAccount {
            metadata: metadata(&one.metadata),
            automount_service_account_token: one.automount_service_account_token,
            ..ServiceAccount::default()
        }),
        roles: each(&objects.roles, |one| Role { metadata: metadata(&one.metadata), rules: one.rules.clone() }),
        role_bindings: each(&objects.role_bindings, |one| RoleBinding {
            metadata: metadata(&one.metadata),
            role_ref: one.role_ref.clone(),
            subjects: one.subjects.clone(),
        }),
        cluster_roles: each(&objects.cluster_roles, |one| ClusterRole {
            metadata: metadata(&one.metadata),
            rules: one.rules.clone(),
            ..ClusterRole::default()
        }),
        cluster_role_bindings: each(&objects.cluster_role_bindings, |one| ClusterRoleBinding {
            metadata: metadata(&one.metadata),
            role_ref: one.role_ref.clone(),
            subjects: one.subjects.clone(),
        }),
        certificates: seen(&objects.certificates, Clone::clone),
        network_policies: each(&objects.network_policies, |one| NetworkPolicy {
            metadata: metadata(&one.metadata),
            spec: one.spec.clone(),
        }),
        disruption_budgets: each(&objects.disruption_budgets, |one| PodDisruptionBudget {
            metadata: metadata(&one.metadata),
            spec: one.spec.as_ref().map(|spec| PodDisruptionBudgetSpec {
                selector: spec.selector.clone(),
                min_available: spec.min_available.clone(),
                max_unavailable: spec.max_unavailable.clone(),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        }),
        namespaces: each(&objects.namespaces, |one| Namespace {
            metadata: metadata(&one.metadata),
            ..Namespace::default()
        }),
        nodes: each(&objects.nodes, running::node),
        events: each(&objects.events, running::event),
        config_maps: seen(&objects.config_maps, |maps| {
            maps.iter().map(|(name, map)| (name.clone(), config_map(map))).collect()
        }),
        others: objects.others.clone(),
        unreadable: objects.unreadable.iter().map(unreadable).collect(),
    }
}

fn metadata(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.clone(),
        generate_name: metadata.generate_name.clone(),
        namespace: metadata.namespace.clone(),
        labels: metadata.labels.clone(),
        annotations: metadata
            .annotations
            .as_ref()
            .map(|all| all.iter().map(|(key, value)| (key.clone(), values::annotation(key, value))).collect()),
        owner_references: metadata.owner_references.clone(),
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp.clone(),
        deletion_timestamp: metadata.deletion_timestamp.clone(),
        ..ObjectMeta::default()
    }
}

fn workload(workload: &Workload) -> Workload {
    Workload {
        kind: workload.kind.clone(),
        place: workload.place.clone(),
        metadata: metadata(&workload.metadata),
        replicas: workload.replicas,
        selector: workload.selector.clone(),
        strategy: workload.strategy.clone(),
        update_strategy: workload.update_strategy.clone(),
        template: PodTemplateSpec {
            metadata: workload.template.metadata.as_ref().map(metadata),
            spec: workload.template.spec.as_ref().map(pods::spec),
        },
        rollout: workload.rollout.as_ref().map(running::rollout),
    }
}

fn pod(pod: &Pod) -> Pod {
    Pod {
        metadata: metadata(&pod.metadata),
        spec: pod.spec.as_ref().map(pods::spec),
        status: pod.status.as_ref().map(running::status),
    }
}

fn service(service: &Service) -> Service {
    let port = |port: &ServicePort| ServicePort {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol.clone(),
        target_port: port.target_port.clone(),
        ..ServicePort::default()
    };
    let spec = service.spec.as_ref().map(|spec| ServiceSpec {
        selector: spec.selector.clone(),
        ports: spec.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
        cluster_ip: spec.cluster_ip.clone(),
        publish_not_ready_addresses: spec.publish_not_ready_addresses,
        ..ServiceSpec::default()
    });
    Service { metadata: metadata(&service.metadata), spec, status: None }
}

fn config_map(map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let value = |key: &str, value: &str| {
        if [".conf", ".properties", ".json"].iter().any(|end| key.ends_with(end)) {
            values::settings(key, value)
        } else {
            values::variable(key, value, false)
        }
    };
    map.iter().map(|(key, text)| (key.clone(), value(key, text))).collect()
}

#[cfg(test)]
mod tests;
