//! What makes pods, in the common form of [`Workload`].

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{
    DaemonSet, Deployment, DeploymentStatus, StatefulSet, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};

use crate::cluster::client::Cluster;
use crate::cluster::custom::akka_clusters;
use crate::cluster::lists::list;
use crate::core::facts::{Rollout, Workload};
use crate::core::report::Observed;

/// Every workload of the namespace but bare pods, as far as its kind may be listed.
pub(super) struct Workloads {
    /// Unavailable where no kind of theirs could be listed.
    pub(super) found: Observed<Vec<Workload>>,
    /// Which kinds could not be listed where others could, and why.
    pub(super) unlisted: Vec<String>,
}

/// Asks for each kind by itself: what is forbidden of one says nothing of another.
pub(super) async fn workloads(cluster: &Cluster) -> Workloads {
    let deployments = cluster.api::<Deployment>();
    let stateful_sets = cluster.api::<StatefulSet>();
    let daemon_sets = cluster.api::<DaemonSet>();
    let jobs = cluster.api::<Job>();
    let cron_jobs = cluster.api::<CronJob>();
    let (deployments, stateful_sets, daemon_sets, jobs, cron_jobs, akka_clusters) = tokio::join!(
        list(&deployments, None),
        list(&stateful_sets, None),
        list(&daemon_sets, None),
        list(&jobs, None),
        list(&cron_jobs, None),
        akka_clusters(cluster)
    );
    let mut found: Vec<Workload> = Vec::new();
    let mut reasons = Vec::new();
    let made = akka_clusters_of(deployments.as_deref().unwrap_or_default());
    // What the operator made of one says more than the object itself.
    take(&mut found, &mut reasons, akka_clusters, |one| (!made.contains(&one.metadata.name)).then_some(one));
    take(&mut found, &mut reasons, deployments, deployment);
    take(&mut found, &mut reasons, stateful_sets, stateful_set);
    take(&mut found, &mut reasons, daemon_sets, daemon_set);
    take(&mut found, &mut reasons, jobs, job);
    take(&mut found, &mut reasons, cron_jobs, cron_job);
    // The six kinds above.
    if reasons.len() == 6 {
        return Workloads { found: Observed::Unavailable(reasons.join("; ")), unlisted: Vec::new() };
    }
    Workloads { found: Observed::Seen(found), unlisted: reasons }
}

fn take<T>(
    found: &mut Vec<Workload>,
    reasons: &mut Vec<String>,
    listed: Result<Vec<T>, String>,
    read: impl Fn(T) -> Option<Workload>,
) {
    match listed {
        Ok(objects) => found.extend(objects.into_iter().filter_map(read)),
        Err(reason) => reasons.push(reason),
    }
}

/// Names of the AkkaClusters that these were made for.
fn akka_clusters_of(deployments: &[Deployment]) -> BTreeSet<Option<String>> {
    let owners = deployments.iter().flat_map(|one| one.metadata.owner_references.iter().flatten());
    owners.filter(|owner| owner.kind == "AkkaCluster").map(|owner| Some(owner.name.clone())).collect()
}

fn deployment(object: Deployment) -> Option<Workload> {
    let spec = object.spec?;
    Some(Workload {
        replicas: spec.replicas,
        selector: Some(spec.selector),
        strategy: spec.strategy,
        rollout: object.status.map(of_deployment),
        ..Workload::new("Deployment", object.metadata, spec.template)
    })
}

fn of_deployment(status: DeploymentStatus) -> Rollout {
    let conditions = status.conditions.unwrap_or_default();
    let said = |kind: &str, state: &str| {
        let found = conditions.iter().find(|one| one.type_ == kind && one.status == state)?;
        let parts = [&found.reason, &found.message];
        Some(parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(": "))
    };
    Rollout {
        observed: status.observed_generation,
        updated: status.updated_replicas.unwrap_or(0),
        refused: said("ReplicaFailure", "True"),
        stalled: said("Progressing", "False"),
    }
}

fn of_stateful_set(status: StatefulSetStatus, strategy: Option<&StatefulSetUpdateStrategy>) -> Rollout {
    // Once an update is over, and where it waits for somebody, nobody counts.
    let waits = strategy.is_some_and(|strategy| {
        let partition = strategy.rolling_update.as_ref().and_then(|update| update.partition);
        strategy.type_.as_deref() == Some("OnDelete") || partition.is_some_and(|partition| partition > 0)
    });
    let is_done = waits || status.current_revision == status.update_revision;
    Rollout {
        observed: status.observed_generation,
        updated: if is_done { i32::MAX } else { status.updated_replicas.unwrap_or(0) },
        ..Rollout::default()
    }
}

fn stateful_set(object: StatefulSet) -> Option<Workload> {
    let spec = object.spec?;
    Some(Workload {
        replicas: spec.replicas,
        selector: Some(spec.selector),
        rollout: object.status.map(|status| of_stateful_set(status, spec.update_strategy.as_ref())),
        update_strategy: spec.update_strategy,
        ..Workload::new("StatefulSet", object.metadata, spec.template)
    })
}

fn daemon_set(object: DaemonSet) -> Option<Workload> {
    let spec = object.spec?;
    Some(Workload { selector: Some(spec.selector), ..Workload::new("DaemonSet", object.metadata, spec.template) })
}

/// But for those that a CronJob made.
fn job(object: Job) -> Option<Workload> {
    let made = object.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "CronJob");
    let spec = object.spec.filter(|_| !made)?;
    Some(Workload {
        replicas: spec.parallelism,
        selector: spec.selector,
        ..Workload::new("Job", object.metadata, spec.template)
    })
}

fn cron_job(object: CronJob) -> Option<Workload> {
    let spec = object.spec?.job_template.spec?;
    Some(Workload { replicas: spec.parallelism, ..Workload::new("CronJob", object.metadata, spec.template) })
}
