//! Objects of the AkkaCluster operator, where a cluster has its kind.

use hyper::Request;
use serde_json::Value;

use crate::cluster::client::Cluster;
use crate::cluster::lists::{in_time, refusal_of};
use crate::core::facts::Workload;
use crate::core::manifests::akka_cluster;

/// Group and version of the kind.
const API: &str = "/apis/app.lightbend.com/v1alpha1";
/// Objects that are read at most; the rest is left to the Deployments that are made of them.
const MOST: u32 = 500;

/// Those of the namespace; none where the kind is not there, which anybody may ask, so that who may not list the objects is
/// not told so on a cluster that has none.
pub(super) async fn akka_clusters(cluster: &Cluster) -> Result<Vec<Workload>, String> {
    let known = get(cluster, API).await?;
    let resources = known.as_ref().and_then(|known| known["resources"].as_array()).into_iter().flatten();
    if !resources.into_iter().any(|resource| resource["name"] == "akkaclusters") {
        return Ok(Vec::new());
    }
    let list = get(cluster, &format!("{API}/namespaces/{}/akkaclusters?limit={MOST}", cluster.namespace)).await?;
    let Some(Value::Array(items)) = list.map(|mut list| list["items"].take()) else { return Ok(Vec::new()) };
    // One that no operator could read either is no workload.
    Ok(items.into_iter().filter_map(|item| akka_cluster(item).ok()).collect())
}

/// `None` for what is not there.
async fn get(cluster: &Cluster, path: &str) -> Result<Option<Value>, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| format!("{path}: {error}"))?;
    match in_time(cluster.client.request::<Value>(request)).await {
        Ok(value) => Ok(Some(value)),
        Err(refused) if refused.is_not_found() => Ok(None),
        Err(refused) => Err(refusal_of("list", "akkaclusters", &cluster.namespace, &refused)),
    }
}
