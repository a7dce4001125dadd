//! What the running cluster says of itself: the members in each one's own view, and the sidecars' word.
//!
//! Pods of one actor system that carry the same `app` label are meant to be one cluster; views are compared among them.

mod agents;
mod members;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::core::facts::{Facts, Live, key};
use crate::core::membership::View;
use crate::core::report::{CheckResult, Observed};

/// A pod that was asked.
struct Asked<'a> {
    /// `pod/namespace/name`.
    object: String,
    pod: &'a Pod,
    live: &'a Live,
    /// What it says of the cluster; why not, where it says nothing that could be read.
    view: Result<View, String>,
}

impl Asked<'_> {
    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// Whether its containers run; who does not cannot answer.
    fn is_running(&self) -> bool {
        self.pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    }

    /// The label by which bootstrap finds its peers, else who owns the pod.
    fn app(&self) -> String {
        let labels = self.pod.metadata.labels.as_ref();
        let label = ["app", "app.kubernetes.io/name"].iter().find_map(|name| labels?.get(*name).cloned());
        let owner = || Some(self.pod.metadata.owner_references.as_ref()?.first()?.name.clone());
        label.or_else(owner).unwrap_or_else(|| self.name().to_owned())
    }
}

/// Judges what the pods said; nothing where none was asked.
#[must_use]
pub fn run(facts: &Facts) -> Vec<CheckResult> {
    let Observed::Seen(pods) = &facts.objects.pods else { return Vec::new() };
    let asked: Vec<Asked<'_>> = pods.iter().filter_map(|pod| ask(facts, pod)).collect();
    let mut results = Vec::new();
    for asked in &asked {
        results.extend(members::of_pod(facts, asked));
        results.extend(agents::of_pod(facts, asked));
    }
    let mut clusters: BTreeMap<(String, String), Vec<&Asked<'_>>> = BTreeMap::new();
    for pod in &asked {
        clusters.entry((pod.namespace().to_owned(), pod.app())).or_default().push(pod);
    }
    for ((namespace, app), pods) in &clusters {
        let object = format!("cluster/{namespace}/{app}");
        results.extend(members::of_cluster(&object, pods));
        results.extend(agents::of_cluster(&object, pods));
    }
    results
}

fn ask<'a>(facts: &'a Facts, pod: &'a Pod) -> Option<Asked<'a>> {
    let key = key(&pod.metadata);
    let live = facts.live.get(&key)?;
    let view = match &live.members {
        Observed::Seen(answer) => View::parse(answer),
        Observed::Unavailable(reason) => Err(reason.clone()),
    };
    Some(Asked { object: format!("pod/{key}"), pod, live, view })
}

#[cfg(test)]
mod tests;
