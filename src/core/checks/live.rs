//! What the running cluster says of itself: the members in each one's own view, and the sidecars' word.
//!
//! Pods of one actor system that carry the same `app` label are meant to be one cluster; views are compared among them.

mod agents;
mod members;

use std::collections::BTreeMap;

use crate::core::asked::Asked;
use crate::core::facts::Facts;
use crate::core::report::{CheckResult, Observed};

/// Judges what the pods said; nothing where none was asked.
#[must_use]
pub fn run(facts: &Facts) -> Vec<CheckResult> {
    let Observed::Seen(pods) = &facts.objects.pods else { return Vec::new() };
    let asked: Vec<Asked<'_>> = pods.iter().filter_map(|pod| Asked::new(facts, pod)).collect();
    let mut results = Vec::new();
    for asked in &asked {
        results.extend(members::of_pod(facts, asked));
        results.extend(agents::of_pod(facts, asked));
    }
    let mut clusters: BTreeMap<(&str, &str), Vec<&Asked<'_>>> = BTreeMap::new();
    for pod in &asked {
        clusters.entry((pod.namespace(), pod.app())).or_default().push(pod);
    }
    for ((namespace, app), pods) in &clusters {
        let object = format!("cluster/{namespace}/{app}");
        results.extend(members::of_cluster(facts, &object, pods));
        results.extend(agents::of_cluster(&object, pods));
    }
    results
}

#[cfg(test)]
mod tests;
