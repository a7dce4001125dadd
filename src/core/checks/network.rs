//! Whether network policies let through what a cluster needs.
//!
//! Invariant: a peer that cannot be judged from objects (an address block, a namespace that was not seen) counts as
//! allowed: better to miss a fault than to name one that is none.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::checks::Findings;
use crate::core::checks::discovery::matches;
use crate::core::checks::subject::{MeshKind, Subject, namespace_of, seen};

/// Where Istio's proxy gets certificates and configuration (istio.io, "Ports used by Istio").
const ISTIOD: u16 = 15012;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    let (remoting, management) =
        (("network-policy-remoting", subject.remoting().0), ("network-policy-management", subject.management().0));
    let policies = match seen(&subject.facts.objects.network_policies) {
        Ok(policies) => policies,
        Err(reason) => return findings.skip(remoting.0, &subject.object, reason),
    };
    let policies: Vec<(&str, &NetworkPolicySpec)> =
        policies.iter().filter_map(|policy| selecting(policy, subject)).collect();
    let ingress: Vec<_> = policies.iter().copied().filter(|(_, spec)| has_type(spec, "Ingress")).collect();
    let egress: Vec<_> = policies.iter().copied().filter(|(_, spec)| has_type(spec, "Egress")).collect();
    let unseen = [subject.remoting_unseen(), subject.management_unseen()];
    for ((code, port), unseen) in [remoting, management].into_iter().zip(unseen) {
        if let Some(reason) = unseen.filter(|_| !ingress.is_empty() || !egress.is_empty()) {
            findings.skip(code, &subject.object, reason);
            continue;
        }
        let wanted = Wanted { port, udp: false, whom: Whom::Peer };
        let mut forbidden = Vec::new();
        if !ingress.is_empty() && !ingress.iter().any(|(_, spec)| lets_in(spec, subject, &wanted)) {
            forbidden.push(format!("in by {}", names(&ingress)));
        }
        if !egress.is_empty() && !egress.iter().any(|(_, spec)| lets_out(spec, subject, &wanted)) {
            forbidden.push(format!("out by {}", names(&egress)));
        }
        if forbidden.is_empty() {
            findings.pass(code, &subject.object, format!("{port} between the pods is not forbidden"));
        } else {
            let message = format!("{port} between the pods is not allowed {}", forbidden.join(", nor "));
            findings.fail(code, &subject.object, message, &next(subject));
        }
    }
    if !egress.is_empty() {
        outward(subject, findings, &egress);
    }
}

fn outward(subject: &Subject, findings: &mut Findings, egress: &[(&str, &NetworkPolicySpec)]) {
    let lets = |port, udp, whom| {
        let wanted = Wanted { port, udp, whom };
        egress.iter().any(|(_, spec)| lets_out(spec, subject, &wanted))
    };
    let mut judge = |code, well: bool, what: &str| {
        if well {
            findings.pass(code, &subject.object, format!("{what} is allowed"));
        } else {
            findings.fail(
                code,
                &subject.object,
                format!("{what} is not allowed out by {}", names(egress)),
                &next(subject),
            );
        }
    };
    judge("network-policy-dns", lets(53, true, Whom::Elsewhere) || lets(53, false, Whom::Elsewhere), "DNS (port 53)");
    if subject.needs_api() {
        let api = lets(443, false, Whom::NoPod) || lets(6443, false, Whom::NoPod);
        judge("network-policy-api", api, "the API server (port 443 or 6443)");
    }
    if subject.mesh.as_ref().is_some_and(|mesh| mesh.kind == MeshKind::Istio) {
        judge("network-policy-mesh", lets(ISTIOD, false, Whom::Elsewhere), "Istio's control plane (port 15012)");
    }
}

fn next(subject: &Subject) -> String {
    format!("kubectl describe networkpolicies -n {}", super::word(subject.namespace, "NAMESPACE"))
}

fn names(policies: &[(&str, &NetworkPolicySpec)]) -> String {
    let names: Vec<&str> = policies.iter().map(|(name, _)| *name).collect();
    format!("NetworkPolicy {}", names.join(", "))
}

/// The policy's name and what it says, if it is about these pods.
fn selecting<'a>(policy: &'a NetworkPolicy, subject: &Subject) -> Option<(&'a str, &'a NetworkPolicySpec)> {
    let spec = policy.spec.as_ref()?;
    let all = LabelSelector::default();
    let selected = policy.metadata.namespace.as_deref() == Some(subject.namespace)
        && matches(spec.pod_selector.as_ref().unwrap_or(&all), subject.labels);
    selected.then(|| (policy.metadata.name.as_deref().unwrap_or_default(), spec))
}

fn has_type(spec: &NetworkPolicySpec, wanted: &str) -> bool {
    match spec.policy_types.as_deref() {
        // Kubernetes API: Ingress always, Egress if there are egress rules.
        None | Some([]) => wanted == "Ingress" || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        Some(types) => types.iter().any(|one| one == wanted),
    }
}

/// A connection that should be possible.
struct Wanted {
    port: u16,
    udp: bool,
    whom: Whom,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// A pod of the same labels and namespace.
    Peer,
    /// Some pod of another namespace, perhaps.
    Elsewhere,
    /// No pod at all: the API server.
    NoPod,
}

fn lets_in(spec: &NetworkPolicySpec, subject: &Subject, wanted: &Wanted) -> bool {
    spec.ingress.iter().flatten().any(|rule| {
        allows_port(rule.ports.as_deref(), subject, wanted) && allows_peer(rule.from.as_deref(), subject, wanted.whom)
    })
}

fn lets_out(spec: &NetworkPolicySpec, subject: &Subject, wanted: &Wanted) -> bool {
    spec.egress.iter().flatten().any(|rule| {
        allows_port(rule.ports.as_deref(), subject, wanted) && allows_peer(rule.to.as_deref(), subject, wanted.whom)
    })
}

fn allows_port(ports: Option<&[NetworkPolicyPort]>, subject: &Subject, wanted: &Wanted) -> bool {
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return true };
    let protocol = if wanted.udp { "UDP" } else { "TCP" };
    let of_protocol = ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol);
    of_protocol.into_iter().any(|port| match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(wanted.port)),
        // Names are those of the pods' own container ports; of others' they are unknown.
        Some(IntOrString::String(name)) => {
            wanted.whom != Whom::Peer
                || subject.container_ports().any(|(own, number)| own == name && number == wanted.port)
        }
    })
}

fn allows_peer(peers: Option<&[NetworkPolicyPeer]>, subject: &Subject, whom: Whom) -> bool {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return true };
    peers.iter().any(|peer| match whom {
        _ if peer.ip_block.is_some() => true,
        Whom::NoPod => false,
        Whom::Elsewhere => peer.namespace_selector.is_some(),
        Whom::Peer => {
            let none = BTreeMap::new();
            let pods = peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, subject.labels));
            let namespace = peer.namespace_selector.as_ref().is_none_or(|selector| {
                match namespace_of(subject.facts, subject.namespace) {
                    Some((labels, _)) => {
                        let mut labels = labels.clone();
                        // The API server adds it to every namespace.
                        labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert(subject.namespace.to_owned());
                        matches(selector, &labels)
                    }
                    None => !contradicts_name(selector, subject.namespace) || matches(selector, &none),
                }
            });
            pods && namespace
        }
    })
}

/// Whether a selector names another namespace by the label that every namespace has.
fn contradicts_name(selector: &LabelSelector, namespace: &str) -> bool {
    let name = selector.match_labels.iter().flatten().find(|(key, _)| *key == "kubernetes.io/metadata.name");
    name.is_some_and(|(_, value)| value != namespace)
}
