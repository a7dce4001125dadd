//! A namespace of a cluster as [`Facts`]: every list by itself, all of them at once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use time::OffsetDateTime;

use crate::cluster::ask::ask;
use crate::cluster::client::Cluster;
use crate::cluster::config_maps;
use crate::cluster::custom::certificates;
use crate::cluster::lists::{config_map_names, get, list, list_labelled, observed};
use crate::cluster::review::access;
use crate::cluster::selection::{Selection, selects};
use crate::cluster::workloads::workloads;
use crate::core::checks::pre::Plugin;
use crate::core::config::ClusterPorts;
use crate::core::facts::{FORMAT, Facts, Live, Objects, Source, Workload, key, last_seen};
use crate::core::report::Observed;

/// Objects that are asked for one by one, at a time.
const AT_A_TIME: usize = 16;
/// Older warnings are history, in seconds.
const RECENT: i64 = 3600;

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// No such namespace.
    #[error("context {context} has no namespace {namespace}; give -n NAMESPACE")]
    NoNamespace {
        /// Where it was looked for.
        context: String,
        /// Its name.
        namespace: String,
    },
    /// No such workload, or nothing with such labels, or nothing at all.
    #[error(
        "there is no {what} in namespace {namespace} of context {context}; give -n NAMESPACE, or see `kubectl get deployments,statefulsets,pods -n {namespace}`"
    )]
    Nothing {
        /// What was looked for.
        what: String,
        /// Where.
        namespace: String,
        /// In which cluster.
        context: String,
    },
}

/// Gathers; what may not be read is unavailable with the reason.
///
/// # Errors
/// See [`GatherError`].
pub async fn gather(cluster: &Cluster, selection: &Selection, ports: &ClusterPorts) -> Result<Facts, GatherError> {
    let now = OffsetDateTime::now_utc();
    let mut objects = objects(cluster, now).await;
    if objects.namespaces == Observed::Seen(Vec::new()) {
        let (context, namespace) = (cluster.context.clone(), cluster.namespace.clone());
        return Err(GatherError::NoNamespace { context, namespace });
    }
    select(&mut objects, selection);
    let empty = (Vec::new(), Vec::new());
    let (workloads, pods) = (seen(&objects.workloads).unwrap_or(&empty.0), seen(&objects.pods).unwrap_or(&empty.1));
    let all_seen = seen(&objects.workloads).is_some() && objects.unlisted.is_empty() && seen(&objects.pods).is_some();
    if all_seen && workloads.is_empty() && pods.is_empty() {
        let what = match selection {
            Selection::All => "workload and no pod".to_owned(),
            Selection::Labels(_) => "workload and no pod with these labels".to_owned(),
            Selection::Workload { kind, name } => format!("{kind} {name}"),
        };
        let (context, namespace) = (cluster.context.clone(), cluster.namespace.clone());
        return Err(GatherError::Nothing { what, namespace, context });
    }
    let (nodes, cluster_roles, access, live, config) = tokio::join!(
        nodes(cluster, pods),
        cluster_roles(cluster, &objects.role_bindings, &objects.cluster_role_bindings),
        access(cluster, workloads, pods),
        ask(cluster, pods, selection, ports),
        config_maps::read(cluster, workloads)
    );
    match (config, &mut objects.config_maps) {
        (Ok(read), Observed::Seen(maps)) => maps.extend(read),
        (Err(reason), maps @ Observed::Seen(_)) => *maps = Observed::Unavailable(reason),
        (_, Observed::Unavailable(_)) => {}
    }
    objects.nodes = observed(nodes);
    objects.cluster_roles = observed(cluster_roles);
    Ok(Facts { access, ..facts(cluster, ports, now, objects, live) })
}

/// Gathers what a state of the cluster needs and no more: pods, and what they say.
///
/// # Errors
/// See [`GatherError`].
pub async fn gather_live(cluster: &Cluster, selection: &Selection, ports: &ClusterPorts) -> Result<Facts, GatherError> {
    let now = OffsetDateTime::now_utc();
    let pods = cluster.api::<Pod>();
    let by_workload = matches!(selection, Selection::Workload { .. });
    let (pods, workloads) = tokio::join!(list(&pods, None), async {
        // Without them, a pod belongs to whom it names as its owner.
        if !by_workload {
            return Vec::new();
        }
        match workloads(cluster).await.found {
            Observed::Seen(found) => found,
            Observed::Unavailable(_) => Vec::new(),
        }
    });
    let meant: Vec<Workload> = workloads.into_iter().filter(|one| selection.takes_workload(one)).collect();
    let pods = pods.map(|pods| pods.into_iter().filter(|pod| selection.takes_pod(pod, &meant)).collect::<Vec<_>>());
    if pods.as_ref().is_ok_and(Vec::is_empty) {
        let what = match selection {
            Selection::All => "pod".to_owned(),
            Selection::Labels(_) => "pod with these labels".to_owned(),
            Selection::Workload { kind, name } => format!("pod of {kind} {name}"),
        };
        let (context, namespace) = (cluster.context.clone(), cluster.namespace.clone());
        return Err(GatherError::Nothing { what, namespace, context });
    }
    let live = ask(cluster, pods.as_deref().unwrap_or_default(), selection, ports).await;
    Ok(facts(cluster, ports, now, Objects { pods: observed(pods), ..not_asked() }, live))
}

/// The namespace that is looked at; `None` if there is none of that name.
///
/// # Errors
/// Why it could not be read, for people.
pub async fn namespace(cluster: &Cluster) -> Result<Option<Namespace>, String> {
    get(&Api::all(cluster.client.clone()), &cluster.namespace).await
}

/// DaemonSets of whichever namespace that install our CNI plugin.
///
/// # Errors
/// Who may not list them.
pub async fn plugins(cluster: &Cluster) -> Result<Vec<Plugin>, String> {
    let all: Api<DaemonSet> = Api::all(cluster.client.clone());
    let found = list_labelled(&all, "app.kubernetes.io/name=bypassctl,app.kubernetes.io/component=cni").await?;
    let plugin = |set: DaemonSet| {
        let (ready, wanted) =
            set.status.as_ref().map_or((0, 0), |status| (status.number_ready, status.desired_number_scheduled));
        Plugin { name: key(&set.metadata), ready, wanted }
    };
    Ok(found.into_iter().map(plugin).collect())
}

fn facts(
    cluster: &Cluster,
    ports: &ClusterPorts,
    taken: OffsetDateTime,
    objects: Objects,
    live: BTreeMap<String, Live>,
) -> Facts {
    Facts {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken,
        source: Source::Cluster {
            context: cluster.context.clone(),
            server_version: cluster.server_version.clone(),
            namespace: cluster.namespace.clone(),
        },
        ports: ports.clone(),
        objects,
        live,
        access: BTreeMap::new(),
    }
}

fn not_asked() -> Objects {
    fn none<T>() -> Observed<T> {
        Observed::Unavailable("nobody asked".to_owned())
    }
    Objects {
        workloads: none(),
        unlisted: Vec::new(),
        pods: none(),
        services: none(),
        service_accounts: none(),
        roles: none(),
        role_bindings: none(),
        cluster_roles: none(),
        cluster_role_bindings: none(),
        certificates: none(),
        network_policies: none(),
        disruption_budgets: none(),
        namespaces: none(),
        nodes: none(),
        events: none(),
        config_maps: none(),
        others: Vec::new(),
        unreadable: Vec::new(),
    }
}

fn seen<T>(fact: &Observed<T>) -> Option<&T> {
    match fact {
        Observed::Seen(seen) => Some(seen),
        Observed::Unavailable(_) => None,
    }
}

async fn objects(cluster: &Cluster, now: OffsetDateTime) -> Objects {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let pods = cluster.api::<Pod>();
    let services = cluster.api::<Service>();
    let accounts = cluster.api::<ServiceAccount>();
    let roles = cluster.api::<Role>();
    let role_bindings = cluster.api::<RoleBinding>();
    let cluster_role_bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let policies = cluster.api::<NetworkPolicy>();
    let budgets = cluster.api::<PodDisruptionBudget>();
    let events = cluster.api::<Event>();
    let config_maps = cluster.api::<ConfigMap>();
    let listed = tokio::join!(
        get(&namespaces, &cluster.namespace),
        workloads(cluster),
        list(&pods, None),
        list(&services, None),
        list(&accounts, None),
        list(&roles, None),
        list(&role_bindings, None),
        list(&cluster_role_bindings, None),
        list(&policies, None),
        list(&budgets, None),
        list(&events, Some("type=Warning")),
        config_map_names(&config_maps),
        certificates(cluster)
    );
    let (namespace, workloads, pods, services, accounts, roles, bindings, cluster_bindings) =
        (listed.0, listed.1, listed.2, listed.3, listed.4, listed.5, listed.6, listed.7);
    let (policies, budgets, events, config_maps, certificates) = (listed.8, listed.9, listed.10, listed.11, listed.12);
    let bare_pods: Vec<Workload> = pods.iter().flatten().filter_map(Workload::bare).collect();
    let with_bare = match workloads.found {
        Observed::Seen(mut found) => {
            found.extend(bare_pods);
            Observed::Seen(found)
        }
        unavailable => unavailable,
    };
    let here = |bindings: Vec<ClusterRoleBinding>| {
        let concerns = |subject: &Subject| concerns(subject, &cluster.namespace);
        bindings.into_iter().filter(|one| one.subjects.iter().flatten().any(concerns)).collect()
    };
    let recent = |events: Vec<Event>| events.into_iter().filter(|event| is_recent(event, now)).collect();
    let named = |names: Vec<String>| {
        names.into_iter().map(|name| (format!("{}/{name}", cluster.namespace), BTreeMap::new())).collect()
    };
    Objects {
        workloads: with_bare,
        unlisted: workloads.unlisted,
        pods: observed(pods),
        services: observed(services),
        service_accounts: observed(accounts),
        roles: observed(roles),
        role_bindings: observed(bindings),
        cluster_roles: Observed::Seen(Vec::new()),
        cluster_role_bindings: observed(cluster_bindings.map(here)),
        certificates: observed(certificates),
        network_policies: observed(policies),
        disruption_budgets: observed(budgets),
        namespaces: observed(namespace.map(|namespace| namespace.into_iter().collect())),
        nodes: Observed::Seen(Vec::new()),
        events: observed(events.map(recent)),
        config_maps: observed(config_maps.map(named)),
        others: Vec::new(),
        unreadable: Vec::new(),
    }
}

/// Whether a binding to this subject says something about a service account of the namespace.
fn concerns(subject: &Subject, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "ServiceAccount" => subject.namespace.as_deref() == Some(namespace),
        "User" => subject.name.starts_with("system:serviceaccount:"),
        "Group" => {
            ["system:serviceaccounts", "system:authenticated"].contains(&subject.name.as_str())
                || subject.name.strip_prefix("system:serviceaccounts:") == Some(namespace)
        }
        _ => false,
    }
}

fn is_recent(event: &Event, now: OffsetDateTime) -> bool {
    last_seen(event).is_none_or(|last| now.unix_timestamp() - last < RECENT)
}

/// Leaves those workloads and pods that are meant, and what is about nothing but others out.
fn select(objects: &mut Objects, selection: &Selection) {
    if *selection == Selection::All {
        return;
    }
    let mut others: Vec<BTreeMap<String, String>> = Vec::new();
    let mut meant: Vec<BTreeMap<String, String>> = Vec::new();
    let mut kept = Vec::new();
    if let Observed::Seen(workloads) = &mut objects.workloads {
        for workload in std::mem::take(workloads) {
            let labels = workload.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
            let takes = selection.takes_workload(&workload);
            if takes { &mut meant } else { &mut others }.push(labels);
            if takes {
                kept.push(workload);
            }
        }
        workloads.clone_from(&kept);
    }
    let mut names: BTreeSet<String> = kept.iter().filter_map(|workload| workload.metadata.name.clone()).collect();
    if let Observed::Seen(pods) = &mut objects.pods {
        for pod in std::mem::take(pods) {
            let labels = pod.metadata.labels.clone().unwrap_or_default();
            let takes = selection.takes_pod(&pod, &kept);
            if takes { &mut meant } else { &mut others }.push(labels);
            if takes {
                names.extend(pod.metadata.name.clone());
                pods.push(pod);
            }
        }
    }
    // What selects nothing at all may have been meant for these.
    let is_others = |selector: &LabelSelector| {
        others.iter().any(|labels| selects(selector, labels)) && !meant.iter().any(|labels| selects(selector, labels))
    };
    if let Observed::Seen(services) = &mut objects.services {
        services.retain(|service| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
            !selector
                .is_some_and(|labels| is_others(&LabelSelector { match_labels: Some(labels), match_expressions: None }))
        });
    }
    if let Observed::Seen(budgets) = &mut objects.disruption_budgets {
        budgets.retain(|one| !one.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(is_others));
    }
    if let Observed::Seen(events) = &mut objects.events {
        // A ReplicaSet's and a Job's name begin with their maker's.
        events.retain(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            names.iter().any(|name| {
                about == name || about.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'))
            })
        });
    }
}

/// The nodes of these pods, without the list of their images.
async fn nodes(cluster: &Cluster, pods: &[Pod]) -> Result<Vec<Node>, String> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let names: BTreeSet<&str> =
        pods.iter().filter_map(|pod| pod.spec.as_ref()).filter_map(|spec| spec.node_name.as_deref()).collect();
    let mut nodes = each(&api, names).await?;
    for status in nodes.iter_mut().filter_map(|node: &mut Node| node.status.as_mut()) {
        status.images = None;
    }
    Ok(nodes)
}

/// The cluster roles that bindings refer to.
async fn cluster_roles(
    cluster: &Cluster,
    bindings: &Observed<Vec<RoleBinding>>,
    cluster_bindings: &Observed<Vec<ClusterRoleBinding>>,
) -> Result<Vec<ClusterRole>, String> {
    let api: Api<ClusterRole> = Api::all(cluster.client.clone());
    let in_namespace = seen(bindings).into_iter().flatten().map(|binding| &binding.role_ref);
    let everywhere = seen(cluster_bindings).into_iter().flatten().map(|binding| &binding.role_ref);
    let refs = in_namespace.chain(everywhere).filter(|role| role.kind == "ClusterRole");
    each(&api, refs.map(|role| role.name.as_str()).collect()).await
}

/// The objects of these names; those that are not there are left out.
async fn each<K>(api: &Api<K>, names: BTreeSet<&str>) -> Result<Vec<K>, String>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let asked = names.into_iter().map(async |name| get(api, name).await);
    let answers: Vec<Result<Option<K>, String>> = futures_util::stream::iter(asked).buffered(AT_A_TIME).collect().await;
    answers.into_iter().filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_warning_counts_for_an_hour_from_its_last_time() {
        let now = datetime!(2026-11-22 18:00 UTC);
        let event = |fields: serde_json::Value| -> Event { serde_json::from_value(fields).unwrap() };
        let fresh = event(json!({"metadata": {}, "involvedObject": {}, "firstTimestamp": "2026-11-20T00:00:00Z",
            "lastTimestamp": "2026-11-22T17:30:00Z"}));
        let old = event(json!({"metadata": {}, "involvedObject": {}, "lastTimestamp": "2026-11-22T16:30:00Z"}));
        let series = event(json!({"metadata": {}, "involvedObject": {}, "eventTime": "2026-11-22T10:00:00.000000Z",
            "series": {"lastObservedTime": "2026-11-22T17:59:00.000000Z"}}));
        assert_eq!([&fresh, &old, &series].map(|event| is_recent(event, now)), [true, false, true]);
    }

    #[test]
    fn what_is_about_others_alone_is_left_out_and_what_selects_nothing_is_kept() {
        let deployment = |name: &str| {
            json!({"kind": "Deployment", "place": "", "metadata": {"name": name, "namespace": "x"}, "replicas": 1,
                "selector": {"matchLabels": {"app": name}}, "strategy": null, "update_strategy": null,
                "template": {"metadata": {"labels": {"app": name}}}})
        };
        let pod = |name: &str, app: &str| json!({"metadata": {"name": name, "labels": {"app": app}}});
        let service = |name: &str, app: &str| json!({"metadata": {"name": name}, "spec": {"selector": {"app": app}}});
        let event = |name: &str| json!({"metadata": {}, "involvedObject": {"name": name}});
        let empty = json!({"seen": []});
        let mut objects: Objects = serde_json::from_value(json!({
            "workloads": {"seen": [deployment("shop"), deployment("cart")]},
            "pods": {"seen": [pod("shop-1", "shop"), pod("cart-1", "cart")]},
            "services": {"seen": [service("a", "shop"), service("b", "cart"), service("c", "typo")]},
            "events": {"seen": [event("shop-1"), event("shop-77f"), event("cart-1"), event("shopping")]},
            "service_accounts": empty, "roles": empty, "role_bindings": empty, "cluster_roles": empty,
            "cluster_role_bindings": empty, "network_policies": empty, "disruption_budgets": empty,
            "namespaces": empty, "nodes": empty, "config_maps": {"seen": {}}, "others": [], "unreadable": []
        }))
        .unwrap();
        select(&mut objects, &Selection::parse(Some("deployment/shop"), None).unwrap());
        let names = |found: Vec<&Option<String>>| found.into_iter().flatten().cloned().collect::<Vec<_>>();
        assert_eq!(names(seen(&objects.workloads).unwrap().iter().map(|one| &one.metadata.name).collect()), ["shop"]);
        assert_eq!(names(seen(&objects.pods).unwrap().iter().map(|one| &one.metadata.name).collect()), ["shop-1"]);
        assert_eq!(names(seen(&objects.services).unwrap().iter().map(|one| &one.metadata.name).collect()), ["a", "c"]);
        assert_eq!(seen(&objects.events).unwrap().len(), 2);
    }
}
