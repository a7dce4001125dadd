//! Whose rules these are, by the names that their programmers give chains and tables.

use crate::core::explain::filters::{Base, Kind, Rule, Statement, Step, Table};
use crate::core::plan::{NAT_PRIORITY, TABLE};

/// How chain names begin, or tables; the more telling first. Of the tools' sources: istio tools/istio-iptables/pkg/constants and
/// cni/pkg/iptables, linkerd2-proxy-init pkg/iptables, kuma pkg/transparentproxy/iptables/consts, consul sdk/iptables.
const NAMES: [(&str, &str); 15] = [
    ("BYPASSCTL_", "bypassctl"),
    ("ISTIO_PRERT", "Istio ambient"),
    ("istio-prert", "Istio ambient"),
    ("ISTIO_", "Istio"),
    ("istio-", "Istio"),
    ("PROXY_INIT_", "Linkerd"),
    ("LINKERD_", "Linkerd"),
    ("KUMA_", "Kuma"),
    ("MESH_", "Kuma"),
    ("CONSUL_", "Consul"),
    ("KUBE-", "Kubernetes"),
    ("CNI-", "CNI"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("DOCKER", "Docker"),
];

/// Who made the rule; `None` where nothing tells.
#[must_use]
pub fn of(table: &Table, chain: &str, rule: Option<&Rule>) -> Option<&'static str> {
    if table.name == TABLE {
        return is_ours(table).then_some("bypassctl");
    }
    // Ambient is Istio, and shares a chain's name with it.
    let ambient = table.chains.iter().any(|chain| by_name(&chain.name) == Some("Istio ambient"));
    let refine = |owner| if ambient && owner == "Istio" { "Istio ambient" } else { owner };
    let target = rule.and_then(|rule| {
        rule.steps.iter().find_map(|step| match step {
            Step::Do(Statement::Jump(to) | Statement::Goto(to)) => Some(to.as_str()),
            _ => None,
        })
    });
    let named = by_name(chain).or_else(|| target.and_then(by_name)).or_else(|| by_name(&table.name));
    named.or_else(|| only_owner(table)).map(refine)
}

/// As `netfilter` tells it before it replaces one: by the place of its nat chains.
fn is_ours(table: &Table) -> bool {
    let ours = |base: &Base| base.kind == Kind::Nat && base.priority == NAT_PRIORITY;
    table.chains.iter().any(|chain| chain.base.as_ref().is_some_and(ours))
}

/// A rule in a chain that everybody shares is most likely of the one who has chains of his own beside it.
fn only_owner(table: &Table) -> Option<&'static str> {
    let mut owners: Vec<_> = table.chains.iter().filter_map(|chain| by_name(&chain.name)).collect();
    owners.sort_unstable();
    owners.dedup();
    match owners.as_slice() {
        [one] | ["Istio", one @ "Istio ambient"] => Some(one),
        _ => None,
    }
}

fn by_name(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, owner)| *owner)
}
