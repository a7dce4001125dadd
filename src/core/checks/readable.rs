//! What of a cluster may be read: whatever may not is named, so that nobody takes silence for health.

use crate::core::checks::Check;
use crate::core::facts::{Facts, Source};
use crate::core::report::{CheckResult, Observed, Severity};

const CODE: &str = "cluster-readable";

/// One result for each kind of fact that could not be had, or one that says that all were; nothing for manifests.
#[must_use]
pub fn run(facts: &Facts) -> Vec<CheckResult> {
    let Source::Cluster { context, namespace, server_version } = &facts.source else { return Vec::new() };
    let object = format!("namespace/{namespace}");
    let check = || Check { code: CODE, severity: Severity::Info, object: object.clone().into() };
    let mut reasons = unavailable(facts);
    reasons.sort_unstable();
    reasons.dedup();
    if reasons.is_empty() {
        let (workloads, pods) = (count(&facts.objects.workloads), count(&facts.objects.pods));
        return vec![check().pass(format!(
            "context {context} ({server_version}): {workloads} workloads, {pods} pods, {} of them asked",
            facts.live.len()
        ))];
    }
    let hint = "checks that need it are skipped; docs/reference.md has the least role that lets all of them run";
    reasons.into_iter().map(|reason| check().skip(reason, hint)).collect()
}

fn count<T>(objects: &Observed<Vec<T>>) -> usize {
    match objects {
        Observed::Seen(objects) => objects.len(),
        Observed::Unavailable(_) => 0,
    }
}

fn unavailable(facts: &Facts) -> Vec<&str> {
    fn reason<T>(fact: &Observed<T>) -> Option<&str> {
        match fact {
            Observed::Seen(_) => None,
            Observed::Unavailable(reason) => Some(reason),
        }
    }
    let objects = &facts.objects;
    let lists = [
        reason(&objects.workloads),
        reason(&objects.pods),
        reason(&objects.services),
        reason(&objects.service_accounts),
        reason(&objects.roles),
        reason(&objects.role_bindings),
        reason(&objects.cluster_roles),
        reason(&objects.cluster_role_bindings),
        reason(&objects.network_policies),
        reason(&objects.disruption_budgets),
        reason(&objects.namespaces),
        reason(&objects.nodes),
        reason(&objects.events),
        reason(&objects.config_maps),
        reason(&objects.certificates),
    ];
    let unlisted = objects.unlisted.iter().map(String::as_str);
    lists.into_iter().flatten().chain(unlisted).chain(facts.access.values().filter_map(reason)).collect()
}
