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

/// Those of the pods that should have rules and have none, as far as their namespaces are to be seen.
#[must_use]
pub fn without_rules(pods: &[Pod], settings: &Settings, netns_dir: &Path) -> Vec<Bare> {
    let wanted = pods.iter().filter(|pod| is_alive(pod)).filter_map(|pod| match choose(pod, settings) {
        Ok(Choice::Program(plan)) => Some((pod, *plan)),
        _ => None,
    });
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let namespaces = by_address(netns_dir);
    let bare = wanted.into_iter().filter_map(|(pod, plan)| {
        let netns = addresses(pod).find_map(|address| namespaces.get(&address))?;
        let has_none = PodNetns::open(netns).and_then(|namespace| namespace.run(has_no_rules)).unwrap_or(false);
        has_none.then(|| Bare { name: name(pod), plan, netns: netns.clone() })
    });
    bare.collect()
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

/// Network namespaces by the addresses that are in them.
fn by_address(dir: &Path) -> BTreeMap<IpAddr, PathBuf> {
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(MOST_NAMESPACES);
    for path in entries.map(|entry| entry.path()) {
        let own = PodNetns::open(&path).ok().and_then(|netns| netns.run(netfilter::own_addresses).ok()?.ok());
        for address in own.into_iter().flatten().filter(|address| !address.is_loopback()) {
            found.insert(address, path.clone());
        }
    }
    found
}

/// Where it cannot be told there may be some.
fn has_no_rules() -> bool {
    matches!(netfilter::read(TableFamily::Inet, TABLE), Ok(None)) && netfilter::rules_elsewhere().is_none()
}
