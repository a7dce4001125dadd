//! What can be done without the agent, as text for people and for `kubectl`: annotations that keep ports from a mesh, TLS of
//! the app's own, a network policy, the rights that discovery needs.
//!
//! Invariant: what is rendered from a manifest has no failure of `check files` that the manifest did not have, but for the
//! encryption that an annotation alone takes away.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

pub use crate::core::checks::nodes::{Nodes, nodes};
use crate::core::inject::yaml;

pub mod tls;

/// A mesh whose annotations are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mesh {
    /// `traffic.sidecar.istio.io/exclude…Ports`
    Istio,
    /// `config.linkerd.io/skip-…-ports`
    Linkerd,
    /// `traffic.kuma.io/exclude-…-ports`
    Kuma,
    /// `consul.hashicorp.com/transparent-proxy-exclude-…-ports`
    Consul,
}

impl Mesh {
    /// The annotations of a pod for ports that it dials, and for those that it is dialled on.
    #[must_use]
    pub const fn annotations(self) -> [&'static str; 2] {
        match self {
            Self::Istio => {
                ["traffic.sidecar.istio.io/excludeOutboundPorts", "traffic.sidecar.istio.io/excludeInboundPorts"]
            }
            Self::Linkerd => ["config.linkerd.io/skip-outbound-ports", "config.linkerd.io/skip-inbound-ports"],
            Self::Kuma => ["traffic.kuma.io/exclude-outbound-ports", "traffic.kuma.io/exclude-inbound-ports"],
            Self::Consul => [
                "consul.hashicorp.com/transparent-proxy-exclude-outbound-ports",
                "consul.hashicorp.com/transparent-proxy-exclude-inbound-ports",
            ],
        }
    }
}

/// The annotations that keep a workload's remoting and management from the mesh; `present` are those that it has, whose
/// ports stay.
#[must_use]
pub fn annotations(mesh: Mesh, nodes: &Nodes, present: &Value) -> BTreeMap<String, String> {
    let wanted = [nodes.remoting, nodes.management];
    let list = |key: &str| {
        let there = present[key].as_str().unwrap_or_default();
        let mut ports: Vec<String> =
            there.split(',').map(str::trim).filter(|port| !port.is_empty()).map(str::to_owned).collect();
        for port in wanted.map(|port| port.to_string()) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports.join(",")
    };
    mesh.annotations().into_iter().map(|key| (key.to_owned(), list(key))).collect()
}

/// Why there is no policy for a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPolicy {
    /// It would be everybody's.
    #[error("{0} has no labels: a policy for it would be everybody's")]
    NoLabels(String),
    /// Of two with one name the second would replace the first.
    #[error("{0} is there twice: of two policies with one name only the second would stay; leave one of them out")]
    Twice(String),
}

/// A policy for each workload: the pods of its cluster reach it on remoting and management, and nobody else does; the ports
/// that the app declares beside them stay open to all.
///
/// # Errors
/// See [`NoPolicy`].
pub fn network_policies(all: &[Nodes]) -> Result<String, NoPolicy> {
    if let Some(nodes) = all.iter().find(|nodes| nodes.selector.is_none()) {
        return Err(NoPolicy::NoLabels(nodes.object.clone()));
    }
    let mut objects = BTreeSet::new();
    if let Some(twice) = all.iter().find(|nodes| !objects.insert(&nodes.object)) {
        return Err(NoPolicy::Twice(twice.object.clone()));
    }
    Ok(documents(all.iter().map(|nodes| {
        let cluster = all.iter().filter(|other| other.cluster == nodes.cluster && other.namespace == nodes.namespace);
        let peers: Vec<Value> = cluster.map(|peer| json!({"podSelector": peer.selector})).collect();
        let ports =
            |numbers: &[u16]| numbers.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect::<Vec<_>>();
        let mut ingress = vec![json!({
            "from": peers,
            "ports": ports(&[nodes.remoting, nodes.management]),
        })];
        if !nodes.other_ports.is_empty() {
            ingress.push(json!({"ports": ports(&nodes.other_ports)}));
        }
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": policy_name(nodes, all), "namespace": nodes.namespace},
            "spec": {"podSelector": nodes.selector, "policyTypes": ["Ingress"], "ingress": ingress},
        })
    })))
}

/// With the kind behind it where workloads of several kinds have the name: no kind has a dash, so all names differ.
fn policy_name(nodes: &Nodes, all: &[Nodes]) -> String {
    let kind = |nodes: &Nodes| nodes.object.split('/').next().unwrap_or_default().to_lowercase();
    let namesakes = all.iter().filter(|other| (&other.namespace, &other.name) == (&nodes.namespace, &nodes.name));
    if namesakes.count() == 1 {
        return format!("{}-remoting", nodes.name);
    }
    format!("{}-remoting-{}", nodes.name, kind(nodes))
}

/// What discovery by the Kubernetes API asks for: a role that reads pods, bound to each service account once.
#[must_use]
pub fn rights(all: &[Nodes]) -> String {
    const NAME: &str = "akka-pod-reader";
    let accounts: BTreeSet<(&str, &str)> =
        all.iter().map(|nodes| (nodes.namespace.as_str(), nodes.service_account.as_str())).collect();
    let mut objects = Vec::new();
    for namespace in accounts.iter().map(|(namespace, _)| *namespace).collect::<BTreeSet<_>>() {
        let metadata = json!({"name": NAME, "namespace": namespace});
        let of_namespace = accounts.iter().filter(|(other, _)| *other == namespace);
        let subjects: Vec<Value> = of_namespace
            .map(|(_, account)| json!({"kind": "ServiceAccount", "name": account, "namespace": namespace}))
            .collect();
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "watch", "list"]}],
        }));
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
            "subjects": subjects,
        }));
    }
    documents(objects.into_iter())
}

fn documents(objects: impl Iterator<Item = Value>) -> String {
    let texts: Vec<String> = objects.map(|object| yaml(&object).join("\n") + "\n").collect();
    texts.join("---\n")
}

#[cfg(test)]
mod tests;
