//! ConfigMaps: names of all, and the content of those that workloads read, where the app's configuration may be.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};

use crate::cluster::client::Cluster;
use crate::cluster::lists::get;
use crate::core::facts::Workload;

/// At a time.
const AT_A_TIME: usize = 16;

/// The content of those that the workloads' containers read, by [`key`](crate::core::facts::key).
pub(super) async fn read(
    cluster: &Cluster,
    workloads: &[Workload],
) -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    let names: BTreeSet<&str> =
        workloads.iter().filter_map(|workload| workload.template.spec.as_ref()).flat_map(named).collect();
    let api = cluster.api::<ConfigMap>();
    let asked = names.into_iter().map(async |name| get(&api, name).await.map(|map| (name, map)));
    let answers: Vec<_> = futures_util::stream::iter(asked).buffered(AT_A_TIME).collect().await;
    let mut found = BTreeMap::new();
    for answer in answers {
        if let (name, Some(map)) = answer? {
            found.insert(format!("{}/{name}", cluster.namespace), map.data.unwrap_or_default());
        }
    }
    Ok(found)
}

/// Those that a pod mounts or takes variables from.
fn named(pod: &PodSpec) -> BTreeSet<&str> {
    let volumes = pod.volumes.iter().flatten().filter_map(|volume| Some(volume.config_map.as_ref()?.name.as_str()));
    let containers = || pod.containers.iter();
    let sources = containers().flat_map(|container| container.env_from.iter().flatten());
    let sources = sources.filter_map(|source| Some(source.config_map_ref.as_ref()?.name.as_str()));
    let variables = containers().flat_map(|container| container.env.iter().flatten());
    let variables =
        variables.filter_map(|one| Some(one.value_from.as_ref()?.config_map_key_ref.as_ref()?.name.as_str()));
    volumes.chain(sources).chain(variables).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_and_variables_name_config_maps() {
        let pod: PodSpec = serde_json::from_value(json!({
            "volumes": [{"name": "a", "configMap": {"name": "files"}}, {"name": "b", "secret": {"secretName": "no"}}],
            "containers": [{"name": "app", "envFrom": [{"configMapRef": {"name": "all"}}],
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "x"}}}]}],
        }))
        .unwrap();
        assert_eq!(named(&pod), BTreeSet::from(["all", "files", "one"]));
    }
}
