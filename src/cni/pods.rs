//! Pods of a node that should have rules and have none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::cni::netns::PodNetns;
use crate::core::cni::choice::{Choice, choose};
use crate::core::cni::{PodName, Settings};
use crate::core::plan::{RedirectPlan, TABLE};
use crate::core::ruleset::TableFamily;
use crate::netfilter;

/// More than a node has pods.
const MOST_NAMESPACES: usize = 4096;

/// A pod, its rules, and where they are to be made.
#[derive(Debug)]
pub struct Bare {
    /// Whose.
    pub name: PodName,
    /// What it is to have.
    pub plan: RedirectPlan,
    /// Its network namespace.
    pub netns: PathBuf,
}

/// What is to be seen of pods that should have rules.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those that have none.
    pub bare: Vec<Bare>,
    /// Those of which nobody can tell which network namespace is theirs.
    pub unclear: Vec<PodName>,
}

/// Those of the pods that should have rules and have none, as far as their namespaces are to be seen.
///
/// A pod with NET_ADMIN gives itself whichever address it likes: one that is in several namespaces, or in one together with
/// another pod's, proves nothing.
#[must_use]
pub fn without_rules(pods: &[Pod], settings: &Settings, netns_dir: &Path) -> Seen {
    let alive: Vec<&Pod> = pods.iter().filter(|pod| is_alive(pod)).collect();
    let wanted = alive.iter().filter_map(|pod| match choose(pod, settings) {
        Ok(Choice::Program(plan)) => Some((*pod, *plan)),
        _ => None,
    });
    let wanted: Vec<_> = wanted.collect();
    let mut seen = Seen::default();
    if wanted.is_empty() {
        return seen;
    }
    let namespaces = by_address(netns_dir);
    let of = |pod: &Pod| -> BTreeMap<Id, PathBuf> {
        addresses(pod)
            .filter_map(|address| namespaces.get(&address))
            .flatten()
            .map(|(id, path)| (*id, path.clone()))
            .collect()
    };
    let is_anothers = |id: Id, pod: &Pod| {
        alive.iter().any(|other| other.metadata.uid != pod.metadata.uid && of(other).contains_key(&id))
    };
    for (pod, plan) in wanted {
        let mut found = of(pod).into_iter();
        let Some((id, netns)) = found.next() else { continue };
        if found.next().is_some() || is_anothers(id, pod) {
            seen.unclear.push(name(pod));
            continue;
        }
        if PodNetns::open(&netns).and_then(|namespace| namespace.run(has_no_rules)).unwrap_or(false) {
            seen.bare.push(Bare { name: name(pod), plan, netns });
        }
    }
    seen
}

fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn name(pod: &Pod) -> PodName {
    let metadata = &pod.metadata;
    PodName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone(),
    }
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.status.as_ref();
    let several = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten());
    several.filter_map(|address| address.ip.parse().ok())
}

/// A namespace, by whichever of its names.
type Id = (u64, u64);

/// Network namespaces by the addresses that are in them.
fn by_address(dir: &Path) -> BTreeMap<IpAddr, BTreeMap<Id, PathBuf>> {
    let mut found: BTreeMap<IpAddr, BTreeMap<Id, PathBuf>> = BTreeMap::new();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(MOST_NAMESPACES);
    for path in entries.map(|entry| entry.path()) {
        let Ok(netns) = PodNetns::open(&path) else { continue };
        let own = netns.run(netfilter::own_addresses).ok().and_then(Result::ok);
        let Some(id) = netns.id() else { continue };
        for address in own.into_iter().flatten().filter(|address| !address.is_loopback()) {
            found.entry(address).or_default().insert(id, path.clone());
        }
    }
    found
}

/// Where it cannot be told there may be some.
fn has_no_rules() -> bool {
    matches!(netfilter::read(TableFamily::Inet, TABLE), Ok(None)) && netfilter::rules_elsewhere().is_none()
}
