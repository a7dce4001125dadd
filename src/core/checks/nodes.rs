//! Workloads of nodes, as far as others than checks need them.

use std::collections::BTreeMap;

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
    /// Labels by which its pods are told from others.
    pub labels: BTreeMap<String, String>,
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
    workloads.iter().filter_map(|workload| Subject::new(facts, workload)).map(|subject| of(&subject)).collect()
}

fn of(subject: &Subject) -> Nodes {
    let (remoting, management) = (subject.remoting().0, subject.management().0);
    let selected = subject.workload.selector.as_ref().and_then(|selector| selector.match_labels.clone());
    let mut other_ports: Vec<u16> = subject.container_ports().map(|(_, port)| port).collect();
    other_ports.retain(|port| *port != remoting && *port != management);
    other_ports.dedup();
    Nodes {
        object: subject.object.clone(),
        namespace: subject.namespace.to_owned(),
        name: subject.name.to_owned(),
        labels: selected.filter(|labels| !labels.is_empty()).unwrap_or_else(|| subject.labels.clone()),
        service_account: subject.service_account().to_owned(),
        remoting,
        management,
        other_ports,
        unsure: [subject.remoting_unseen(), subject.management_unseen()].into_iter().flatten().collect(),
    }
}
