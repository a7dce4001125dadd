//! Objects of kinds that a cluster may have: the AkkaCluster operator's, and cert-manager's.

use hyper::Request;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::client::Cluster;
use crate::cluster::lists::{MOST_PAGES, Page, Refused, in_time, refusal_of};
use crate::core::facts::{RequestedCertificate, Workload};
use crate::core::manifests::{akka_cluster, certificate};

/// Objects a page.
const PAGE: u32 = 500;

/// AkkaClusters of the namespace.
pub(super) async fn akka_clusters(cluster: &Cluster) -> Result<Vec<Workload>, String> {
    // One that no operator could read either is no workload.
    objects(cluster, "/apis/app.lightbend.com/v1alpha1", "akkaclusters", |item| akka_cluster(item).ok()).await
}

/// cert-manager's Certificates of the namespace.
pub(super) async fn certificates(cluster: &Cluster) -> Result<Vec<RequestedCertificate>, String> {
    objects(cluster, "/apis/cert-manager.io/v1", "certificates", |item| certificate(&item).ok()).await
}

/// Those of the namespace; none where the kind is not there, which anybody may ask, so that who may not list the objects is
/// not told so on a cluster that has none.
async fn objects<T>(
    cluster: &Cluster,
    api: &str,
    kind: &str,
    read: impl Fn(Value) -> Option<T>,
) -> Result<Vec<T>, String> {
    let known: Option<Value> = get(cluster, api, kind).await?;
    let resources = known.as_ref().and_then(|known| known["resources"].as_array()).into_iter().flatten();
    if !resources.into_iter().any(|resource| resource["name"] == kind) {
        return Ok(Vec::new());
    }
    let (mut found, mut page) = (Vec::new(), String::new());
    for _ in 0..MOST_PAGES {
        let path = format!("{api}/namespaces/{}/{kind}?limit={PAGE}{page}", cluster.namespace);
        let Some(list): Option<Page<Value>> = get(cluster, &path, kind).await? else { return Ok(found) };
        found.extend(list.items.into_iter().filter_map(&read));
        match list.metadata.continue_.as_deref() {
            // A token of the API server's, in the alphabet of base64url; another one would be part of the address.
            Some(token) if !token.is_empty() && token.bytes().all(is_of_token) => page = format!("&continue={token}"),
            Some(token) if !token.is_empty() => break,
            _ => return Ok(found),
        }
    }
    Err(refusal_of("list", kind, &cluster.namespace, &Refused::Endless))
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'.')
}

/// `None` for what is not there.
async fn get<T: DeserializeOwned>(cluster: &Cluster, path: &str, kind: &str) -> Result<Option<T>, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| format!("{path}: {error}"))?;
    match in_time(cluster.client.request::<T>(request)).await {
        Ok(value) => Ok(Some(value)),
        Err(refused) if refused.is_not_found() => Ok(None),
        Err(refused) => Err(refusal_of("list", kind, &cluster.namespace, &refused)),
    }
}
