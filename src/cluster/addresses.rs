//! The pods of some namespaces, with their addresses, for as long as anybody wants to know: listed once, then watched.
//!
//! Invariant: what was known stays until something better is known, and a fault is told beside it.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, ListParams, WatchEvent, WatchParams};
use kube::core::Object;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::client::{Target, causes, connect_for_long};
use crate::core::directory::{Directory, PodRecord};

/// Pods a page, of some 10 KB each.
const PAGE: u32 = 200;
/// Pages of one list.
const MOST_PAGES: usize = 100;
/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the API server keeps one watch. A connection that has died without a word is noticed after it.
const WATCH: u32 = 120;
const WATCH_LIMIT: Duration = Duration::from_secs(WATCH as u64 + 10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A pod as far as it matters: the rest is read past.
type Slim = Object<SlimSpec, SlimStatus>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    service_account_name: Option<String>,
    #[serde(default)]
    host_network: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<SlimAddress>>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimAddress {
    ip: Option<String>,
}

/// Tells of these namespaces' pods, or of our own namespace's, until it is dropped.
pub async fn follow(namespaces: Vec<String>, directory: &watch::Sender<Directory>) {
    let mut pause = FIRST_PAUSE;
    let cluster = loop {
        match connect_for_long(&Target::default()).await {
            Ok(cluster) => break cluster,
            Err(error) => {
                tracing::warn!(error = %error, "--peer-address pod: nobody can be asked for pods, so no peer is let in");
                directory.send_modify(|directory| directory.fail(error.to_string()));
                wait(&mut pause).await;
            }
        }
    };
    let namespaces = if namespaces.is_empty() { vec![cluster.namespace] } else { namespaces };
    directory.send_replace(Directory::of(&namespaces));
    join_all(namespaces.iter().map(|namespace| of_one(&cluster.client, namespace, directory))).await;
}

async fn wait(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

async fn of_one(client: &Client, namespace: &str, directory: &watch::Sender<Directory>) {
    let api: Api<Slim> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let mut pause = FIRST_PAUSE;
    let mut told = None;
    loop {
        let listed = Instant::now();
        let fault = match list(&api).await {
            Ok((pods, version)) => {
                directory.send_modify(|directory| directory.replace(namespace, pods));
                told = None;
                tracing::debug!(namespace, "the namespace's pods are known");
                changes(&api, namespace, version, directory).await
            }
            Err(fault) => Some(fault),
        };
        if listed.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        if let Some(fault) = fault {
            if told.as_ref() != Some(&fault) {
                tracing::warn!(
                    namespace,
                    error = fault,
                    "--peer-address pod: the namespace's pods cannot be asked for"
                );
            }
            directory.send_modify(|directory| directory.set_fault(namespace, Some(fault.clone())));
            told = Some(fault);
        }
        wait(&mut pause).await;
    }
}

/// All pods, and the version from which they can be watched.
async fn list(api: &Api<Slim>) -> Result<(Vec<PodRecord>, String), String> {
    let mut params = ListParams::default().limit(PAGE);
    let mut pods = Vec::new();
    for _ in 0..MOST_PAGES {
        let page = timeout(LIMIT, api.list(&params)).await;
        let page = page.map_err(|_| slow("list"))?.map_err(|error| failed("list", &error))?;
        pods.extend(page.items.into_iter().map(record));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok((pods, page.metadata.resource_version.unwrap_or_default())),
        }
    }
    Err(format!("the list of pods has no end within {MOST_PAGES} pages of {PAGE}"))
}

/// Follows what changes, until it can only be listed anew: why, or nothing if what was seen is merely too old.
async fn changes(
    api: &Api<Slim>,
    namespace: &str,
    mut version: String,
    directory: &watch::Sender<Directory>,
) -> Option<String> {
    let params = WatchParams::default().timeout(WATCH);
    loop {
        let stream = match timeout(LIMIT, api.watch(&params, &version)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => return None,
            Ok(Err(error)) => return Some(failed("watch", &error)),
            Err(_) => return Some(slow("watch")),
        };
        let mut stream = Box::pin(stream);
        let (end, began) = (Instant::now() + WATCH_LIMIT, Instant::now());
        while let Ok(Some(event)) = tokio::time::timeout_at(end, stream.next()).await {
            match event {
                Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                    seen(&mut version, &pod);
                    directory.send_modify(|directory| directory.put(namespace, record(pod)));
                }
                Ok(WatchEvent::Deleted(pod)) => {
                    seen(&mut version, &pod);
                    let name = pod.metadata.name.unwrap_or_default();
                    directory.send_modify(|directory| directory.remove(namespace, &name));
                }
                Ok(WatchEvent::Bookmark(bookmark)) => version = bookmark.metadata.resource_version,
                Ok(WatchEvent::Error(status)) if status.code == 410 => return None,
                Ok(WatchEvent::Error(status)) => return Some(format!("cannot watch pods: {}", status.message)),
                // The stream was cut; the next one says whether anybody is there.
                Err(_) => break,
            }
        }
        // An API server that ends every watch at once is not asked without a pause.
        if began.elapsed() < FIRST_PAUSE {
            sleep(FIRST_PAUSE).await;
        }
    }
}

fn seen(version: &mut String, pod: &Slim) {
    if let Some(new) = &pod.metadata.resource_version {
        version.clone_from(new);
    }
}

/// Pods that have ended keep their address in their record, and those of the host network have their node's.
fn record(pod: Slim) -> PodRecord {
    let status = pod.status.filter(|status| !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
    let of_node = pod.spec.host_network == Some(true);
    let addresses = status.filter(|_| !of_node).into_iter().flat_map(|status| {
        let several = status.pod_ips.into_iter().flatten().filter_map(|address| address.ip);
        status.pod_ip.into_iter().chain(several).filter_map(|address| address.parse().ok())
    });
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort();
    addresses.dedup();
    let service_account = pod.spec.service_account_name.filter(|name| !name.is_empty());
    PodRecord {
        name: pod.metadata.name.unwrap_or_default(),
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        addresses,
    }
}

fn slow(verb: &str) -> String {
    format!("cannot {verb} pods: no answer within {} s", LIMIT.as_secs())
}

fn failed(verb: &str, error: &kube::Error) -> String {
    format!("cannot {verb} pods: {}", causes(error))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn addresses(spec: Value, status: Value) -> Vec<String> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec, "status": status});
        record(serde_json::from_value(pod).unwrap()).addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_has_its_addresses_until_it_ends_and_a_nodes_are_nobodys() {
        let both = json!({"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]});
        assert_eq!(addresses(json!({"containers": []}), both.clone()), ["10.0.0.7", "fd00::7"]);
        assert!(addresses(json!({"hostNetwork": true}), both).is_empty());
        for phase in ["Succeeded", "Failed"] {
            assert!(addresses(json!({}), json!({"phase": phase, "podIP": "10.0.0.7"})).is_empty());
        }
        assert!(addresses(json!({}), json!({"phase": "Pending"})).is_empty());
        assert!(addresses(json!({}), json!({"podIP": "nowhere"})).is_empty());
    }
}
