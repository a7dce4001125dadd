//! Objects of the AkkaCluster operator, where a cluster has its kind.

use hyper::Request;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::client::Cluster;
use crate::cluster::lists::{MOST_PAGES, Page, Refused, in_time, refusal_of};
use crate::core::facts::Workload;
use crate::core::manifests::akka_cluster;

/// Group and version of the kind.
const API: &str = "/apis/app.lightbend.com/v1alpha1";
/// Objects a page.
const PAGE: u32 = 500;

/// Those of the namespace; none where the kind is not there, which anybody may ask, so that who may not list the objects is
/// not told so on a cluster that has none.
pub(super) async fn akka_clusters(cluster: &Cluster) -> Result<Vec<Workload>, String> {
    let known: Option<Value> = get(cluster, API).await?;
    let resources = known.as_ref().and_then(|known| known["resources"].as_array()).into_iter().flatten();
    if !resources.into_iter().any(|resource| resource["name"] == "akkaclusters") {
        return Ok(Vec::new());
    }
    let (mut found, mut page) = (Vec::new(), String::new());
    for _ in 0..MOST_PAGES {
        let path = format!("{API}/namespaces/{}/akkaclusters?limit={PAGE}{page}", cluster.namespace);
        let Some(list): Option<Page<Value>> = get(cluster, &path).await? else { return Ok(found) };
        // One that no operator could read either is no workload.
        found.extend(list.items.into_iter().filter_map(|item| akka_cluster(item).ok()));
        match list.metadata.continue_.as_deref() {
            // A token of the API server's, in the alphabet of base64url; another one would be part of the address.
            Some(token) if !token.is_empty() && token.bytes().all(is_of_token) => page = format!("&continue={token}"),
            Some(token) if !token.is_empty() => break,
            _ => return Ok(found),
        }
    }
    Err(refusal_of("list", "akkaclusters", &cluster.namespace, &Refused::Endless))
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'.')
}

/// `None` for what is not there.
async fn get<T: DeserializeOwned>(cluster: &Cluster, path: &str) -> Result<Option<T>, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| format!("{path}: {error}"))?;
    match in_time(cluster.client.request::<T>(request)).await {
        Ok(value) => Ok(Some(value)),
        Err(refused) if refused.is_not_found() => Ok(None),
        Err(refused) => Err(refusal_of("list", "akkaclusters", &cluster.namespace, &refused)),
    }
}
