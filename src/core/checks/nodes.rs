//! Workloads of nodes, as far as others than checks need them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use crate::core::checks::discovery::bootstrap_label;
use crate::core::checks::lone_pods;
use crate::core::checks::subject::Subject;
use crate::core::facts::Facts;
use crate::core::report::Observed;

/// A workload whose pods look like nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// `kind/namespace/name`.
    pub object: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The selector by which its pods are told from others, as the Kubernetes API writes it; `None` where they have no labels.
    pub selector: Option<Value>,
    /// Workloads of one cluster have the same: what bootstrap looks for, else the workload's own name.
    pub cluster: String,
    /// The pods' service account.
    pub service_account: String,
    /// Remoting's port, as well as it can be told.
    pub remoting: u16,
    /// Management's port, as well as it can be told.
    pub management: u16,
    /// Declared TCP ports that are neither.
    pub other_ports: Vec<u16>,
    /// Why a port is a guess, where it is one.
    pub unsure: Vec<String>,
}

/// The workloads of nodes among these facts.
#[must_use]
pub fn nodes(facts: &Facts) -> Vec<Nodes> {
    let Observed::Seen(workloads) = &facts.objects.workloads else { return Vec::new() };
    let lone = lone_pods(facts);
    workloads
        .iter()
        .chain(&lone)
        .filter_map(|workload| Subject::new(facts, workload))
        .map(|subject| of(&subject))
        .collect()
}

fn of(subject: &Subject) -> Nodes {
    let (remoting, management) = (subject.remoting().0, subject.management().0);
    let own = subject.workload.selector.as_ref().filter(|selector| **selector != LabelSelector::default());
    let selector = match own {
        Some(selector) => serde_json::to_value(selector).ok(),
        None if subject.labels.is_empty() => None,
        None => Some(json!({"matchLabels": subject.labels})),
    };
    let label = bootstrap_label(subject).map(|(key, value)| format!("{}/{key}={value}", subject.namespace));
    let mut other_ports: Vec<u16> = subject.container_ports().map(|(_, port)| port).collect();
    other_ports.retain(|port| *port != remoting && *port != management);
    other_ports.dedup();
    Nodes {
        object: subject.object.clone(),
        namespace: subject.namespace.to_owned(),
        name: subject.name.to_owned(),
        selector,
        cluster: label.unwrap_or_else(|| subject.object.clone()),
        service_account: subject.service_account().to_owned(),
        remoting,
        management,
        other_ports,
        unsure: [subject.remoting_unseen(), subject.management_unseen()].into_iter().flatten().collect(),
    }
}
