//! Whether network policies let through what a cluster needs.
//!
//! Invariant: a peer that cannot be judged from objects (a network that may be the pods', a namespace that was not seen)
//! counts as allowed: better to miss a fault than to name one that is none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::checks::discovery::{bootstrap_label, matches};
use crate::core::checks::subject::{MeshKind, Subject, namespace_of, seen};
use crate::core::checks::{Findings, running};

/// Where Istio's proxy gets certificates and configuration (istio.io, "Ports used by Istio").
const ISTIOD: u16 = 15012;

pub(super) fn run(subject: &Subject, all: &[Subject], findings: &mut Findings) {
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
    let peers = cluster_of(subject, all);
    let unseen = [subject.remoting_unseen(), subject.management_unseen()];
    for ((code, port), unseen) in [remoting, management].into_iter().zip(unseen) {
        if let Some(reason) = unseen.filter(|_| !ingress.is_empty() || !egress.is_empty()) {
            findings.skip(code, &subject.object, reason);
            continue;
        }
        let mut forbidden = Vec::new();
        for peer in &peers {
            let wanted = Wanted { port, udp: false, whom: Whom::Peer(peer) };
            let whom = if peer.object == subject.object { String::new() } else { format!(" with {}", peer.object) };
            if !ingress.is_empty() && !ingress.iter().any(|(_, spec)| lets_in(spec, subject, &wanted)) {
                forbidden.push(format!("in{whom} by {}", names(&ingress)));
            }
            if !egress.is_empty() && !egress.iter().any(|(_, spec)| lets_out(spec, subject, &wanted)) {
                forbidden.push(format!("out{whom} by {}", names(&egress)));
            }
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

/// Workloads whose pods are nodes of one cluster: those for which bootstrap looks for the same pods.
fn cluster_of<'a, 'f>(subject: &'a Subject<'f>, all: &'a [Subject<'f>]) -> Vec<&'a Subject<'f>> {
    let label = bootstrap_label(subject);
    let others = all.iter().filter(|other| {
        other.object != subject.object
            && label.is_some()
            && other.namespace == subject.namespace
            && bootstrap_label(other) == label
    });
    std::iter::once(subject).chain(others).collect()
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
    // Over TCP alone resolvers ask only where an answer was cut short.
    judge("network-policy-dns", lets(53, true, Whom::Elsewhere), "DNS (port 53, UDP)");
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
struct Wanted<'a> {
    port: u16,
    udp: bool,
    whom: Whom<'a>,
}

#[derive(Clone, Copy)]
enum Whom<'a> {
    /// A pod of this workload, of the same namespace.
    Peer(&'a Subject<'a>),
    /// Some pod of another namespace, perhaps.
    Elsewhere,
    /// No pod at all: the API server.
    NoPod,
}

fn lets_in(spec: &NetworkPolicySpec, subject: &Subject, wanted: &Wanted<'_>) -> bool {
    spec.ingress.iter().flatten().any(|rule| {
        allows_port(rule.ports.as_deref(), subject, wanted) && allows_peer(rule.from.as_deref(), subject, wanted.whom)
    })
}

fn lets_out(spec: &NetworkPolicySpec, subject: &Subject, wanted: &Wanted<'_>) -> bool {
    spec.egress.iter().flatten().any(|rule| {
        allows_port(rule.ports.as_deref(), subject, wanted) && allows_peer(rule.to.as_deref(), subject, wanted.whom)
    })
}

fn allows_port(ports: Option<&[NetworkPolicyPort]>, subject: &Subject, wanted: &Wanted<'_>) -> bool {
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return true };
    let protocol = if wanted.udp { "UDP" } else { "TCP" };
    let of_protocol = ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol);
    of_protocol.into_iter().any(|port| match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(wanted.port)),
        // Names are those of the pods' own container ports; of others' they are unknown.
        Some(IntOrString::String(name)) => {
            !matches!(wanted.whom, Whom::Peer(_))
                || subject.container_ports().any(|(own, number)| own == name && number == wanted.port)
        }
    })
}

fn allows_peer(peers: Option<&[NetworkPolicyPeer]>, subject: &Subject, whom: Whom<'_>) -> bool {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return true };
    peers.iter().any(|peer| match (whom, &peer.ip_block) {
        (Whom::Peer(other), Some(block)) => has_pods(block, other),
        (_, Some(_)) => true,
        (Whom::NoPod, None) => false,
        (Whom::Elsewhere, None) => peer.namespace_selector.is_some(),
        (Whom::Peer(other), None) => {
            let none = BTreeMap::new();
            let pods = peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, other.labels));
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

/// Whether a block of addresses has the workload's pods in it: by their addresses where they are seen, else by its size, for
/// pods have a network of their own, and a few addresses are somebody else's.
fn has_pods(block: &IPBlock, subject: &Subject) -> bool {
    let Some(network) = Network::parse(&block.cidr) else { return true };
    let addresses = running::addresses(subject);
    let excepted = |address: &IpAddr| {
        block.except.iter().flatten().filter_map(|cidr| Network::parse(cidr)).any(|except| except.has(*address))
    };
    if addresses.is_empty() {
        return network.hosts_bits() > 4;
    }
    addresses.iter().all(|address| network.has(*address) && !excepted(address))
}

/// As in `10.0.0.0/8`.
struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    fn parse(cidr: &str) -> Option<Self> {
        let (address, prefix) = cidr.split_once('/')?;
        Some(Self { address: address.parse().ok()?, prefix: prefix.parse().ok()? })
    }

    fn hosts_bits(&self) -> u32 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        u32::saturating_sub(bits, self.prefix)
    }

    fn has(&self, other: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let cut = |address| bits(address).checked_shr(self.hosts_bits()).unwrap_or(0);
        self.address.is_ipv4() == other.is_ipv4() && cut(self.address) == cut(other)
    }
}

/// Whether a selector names another namespace by the label that every namespace has.
fn contradicts_name(selector: &LabelSelector, namespace: &str) -> bool {
    let name = selector.match_labels.iter().flatten().find(|(key, _)| *key == "kubernetes.io/metadata.name");
    name.is_some_and(|(_, value)| value != namespace)
}
