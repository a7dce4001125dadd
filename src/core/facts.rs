//! What was seen of a cluster: Kubernetes' objects, and what the pods' management and sidecars say of themselves.
//!
//! Invariant: facts are facts. Whoever gathers them leaves out secrets and judges nothing; what could not be seen says
//! why, and a check that needs it is skipped with that reason. Facts can be saved to a file and judged elsewhere.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DeploymentStrategy, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, PodTemplateSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::core::config::ClusterPorts;
use crate::core::report::Observed;

/// Everything that was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Of this structure; another one is not read.
    pub format: u32,
    /// Of the bypassctl that gathered.
    pub version: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub taken: OffsetDateTime,
    /// Where from.
    pub source: Source,
    /// The cluster's ports that were asked for.
    pub ports: ClusterPorts,
    /// Kubernetes' objects.
    pub objects: Objects,
    /// What pods said when they were asked, by [`key`].
    pub live: BTreeMap<String, Live>,
    /// What the pods' service accounts may do, by [`key`] of the service account; empty where nobody asked.
    pub access: BTreeMap<String, Observed<Access>>,
}

/// The present [`Facts::format`].
pub const FORMAT: u32 = 1;

/// What stands in saved facts where a value was taken out; no secret to the check that looks for them.
pub(in crate::core) const REMOVED: &str = "(removed)";

/// Where facts come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Manifests: what is not among them may still exist.
    Files,
    /// A cluster: what is not there does not exist.
    Cluster {
        /// The kubeconfig's context, or `in-cluster`.
        context: String,
        /// The API server's version.
        server_version: String,
        /// The namespace that was looked at.
        namespace: String,
    },
}

/// Kubernetes' objects, with `data` of Secrets never among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Objects {
    /// Whatever makes pods, and was made by nobody else; unavailable where no kind of it could be listed.
    pub workloads: Observed<Vec<Workload>>,
    /// Kinds of workloads that could not be listed where others could, as in `cannot list jobs in namespace shop: …`.
    #[serde(default)]
    pub unlisted: Vec<String>,
    /// Pods; of manifests only those that stand alone.
    pub pods: Observed<Vec<Pod>>,
    /// Services.
    pub services: Observed<Vec<Service>>,
    /// Service accounts.
    pub service_accounts: Observed<Vec<ServiceAccount>>,
    /// Roles.
    pub roles: Observed<Vec<Role>>,
    /// Role bindings.
    pub role_bindings: Observed<Vec<RoleBinding>>,
    /// Cluster roles that a binding here refers to.
    pub cluster_roles: Observed<Vec<ClusterRole>>,
    /// Cluster role bindings.
    pub cluster_role_bindings: Observed<Vec<ClusterRoleBinding>>,
    /// What cert-manager is asked for.
    #[serde(default = "nobody_looked")]
    pub certificates: Observed<Vec<RequestedCertificate>>,
    /// Network policies.
    pub network_policies: Observed<Vec<NetworkPolicy>>,
    /// Disruption budgets.
    pub disruption_budgets: Observed<Vec<PodDisruptionBudget>>,
    /// The namespaces concerned.
    pub namespaces: Observed<Vec<Namespace>>,
    /// The nodes of the pods.
    pub nodes: Observed<Vec<Node>>,
    /// Warnings of the last hour about these objects.
    pub events: Observed<Vec<Event>>,
    /// Names of Secrets and ConfigMaps, by [`key`]; their content where it is no secret and somebody asked.
    pub config_maps: Observed<BTreeMap<String, BTreeMap<String, String>>>,
    /// What else was among the manifests, `kind/namespace/name`.
    pub others: Vec<String>,
    /// Documents that could not be read: where, and why.
    pub unreadable: Vec<Unreadable>,
}

fn nobody_looked<T>() -> Observed<T> {
    Observed::Unavailable("nobody looked for it".to_owned())
}

/// A Certificate of cert-manager's, as far as it matters who takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedCertificate {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Secret that it is written to.
    pub secret: String,
    /// RSA, ECDSA or Ed25519.
    pub algorithm: String,
    /// Common name.
    pub common_name: Option<String>,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// `server` and `client`; empty for any.
    pub usages: Vec<String>,
}

/// A document that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// File and number of the document in it, from 1.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// Something that makes pods of one template.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Deployment, StatefulSet, DaemonSet, Job, CronJob, Pod, ReplicaSet, AkkaCluster.
    pub kind: String,
    /// Where it was read: a file and the number of the document; empty for a cluster.
    pub place: String,
    /// Its own metadata.
    pub metadata: ObjectMeta,
    /// Wanted pods; `None` where the kind has none or the default of 1 holds.
    pub replicas: Option<i32>,
    /// Which pods it counts as its own.
    pub selector: Option<LabelSelector>,
    /// A Deployment's.
    pub strategy: Option<DeploymentStrategy>,
    /// A StatefulSet's.
    pub update_strategy: Option<StatefulSetUpdateStrategy>,
    /// What its pods are made of.
    pub template: PodTemplateSpec,
    /// How far its pods are what is wanted; of a cluster alone.
    #[serde(default)]
    pub rollout: Option<Rollout>,
}

/// How far a workload's controller has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The generation of the workload that its controller has seen.
    pub observed: Option<i64>,
    /// Pods of the present template.
    pub updated: i32,
    /// Why pods are not made (condition `ReplicaFailure`).
    pub refused: Option<String>,
    /// Why it goes on no more (condition `Progressing`).
    pub stalled: Option<String>,
}

impl Rollout {
    /// Whether pods of an earlier template are left, or the controller has not looked yet.
    #[must_use]
    pub fn is_behind(&self, generation: Option<i64>, replicas: i32) -> bool {
        self.updated < replicas || self.observed < generation
    }
}

impl Workload {
    /// One of this kind, with nothing but its template.
    #[must_use]
    pub fn new(kind: &str, metadata: ObjectMeta, template: PodTemplateSpec) -> Self {
        Self {
            kind: kind.to_owned(),
            place: String::new(),
            metadata,
            replicas: None,
            selector: None,
            strategy: None,
            update_strategy: None,
            template,
            rollout: None,
        }
    }

    /// A pod that nobody made, as a workload of its own kind. The kubelet's own static pods are the control plane's.
    #[must_use]
    pub fn bare(pod: &Pod) -> Option<Self> {
        let owned = pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
        let mirrored = pod.metadata.annotations.iter().flatten().any(|(key, _)| key == "kubernetes.io/config.mirror");
        let template = PodTemplateSpec { metadata: Some(pod.metadata.clone()), spec: pod.spec.clone() };
        (!owned && !mirrored).then(|| Self::new("Pod", pod.metadata.clone(), template))
    }
}

/// What a pod said when it was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Live {
    /// `/cluster/members/` of management.
    pub members: Observed<Value>,
    /// `/bootstrap/seed-nodes` of management.
    pub seed_nodes: Observed<Value>,
    /// `/ready` of management.
    pub ready: Observed<Answer>,
    /// `/alive` of management.
    pub alive: Observed<Answer>,
    /// `/status` of the sidecar.
    pub agent: Observed<Value>,
    /// `/config` of the sidecar, which has no secrets.
    pub agent_config: Observed<Value>,
    /// What the sidecar's clock (or else management's) said less ours, in milliseconds; half the round trip is taken off,
    /// and the clock is told to the second.
    pub clock_skew_ms: Observed<i64>,
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The body's beginning.
    pub body: String,
}

/// What a service account may do, as SubjectAccessReview says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `list pods`, `get pods`, `watch pods`: whether it may, in its own namespace.
    pub may: BTreeMap<String, bool>,
}

/// `namespace/name`.
#[must_use]
pub fn key(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
}

/// When an event was seen last, in seconds of Unix time.
#[must_use]
pub fn last_seen(event: &Event) -> Option<i64> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let last = series.or(event.event_time.as_ref()).map(|time| time.0.as_second());
    event.last_timestamp.as_ref().map(|time| time.0.as_second()).max(last)
}
