//! What the pods' service accounts may do, as the API server's authorizers say.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;

use crate::cluster::client::Cluster;
use crate::cluster::lists::{in_time, reason};
use crate::core::facts::{Access, Workload};
use crate::core::report::Observed;

/// What Kubernetes' discovery asks the API server for.
const VERBS: [&str; 1] = ["list"];
/// Questions at a time.
const AT_A_TIME: usize = 8;

/// The answers, by `namespace/name` of the service account.
pub(super) async fn access(
    cluster: &Cluster,
    workloads: &[Workload],
    pods: &[Pod],
) -> BTreeMap<String, Observed<Access>> {
    let of_pods = pods.iter().filter_map(|pod| pod.spec.as_ref());
    let of_templates = workloads.iter().filter_map(|workload| workload.template.spec.as_ref());
    let accounts: BTreeSet<&str> =
        of_pods.chain(of_templates).map(|spec| spec.service_account_name.as_deref().unwrap_or("default")).collect();
    let reviews = accounts.into_iter().map(async |account| {
        let answer = match may(cluster, account).await {
            Ok(may) => Observed::Seen(Access { may }),
            Err(reason) => Observed::Unavailable(reason),
        };
        (format!("{}/{account}", cluster.namespace), answer)
    });
    futures_util::stream::iter(reviews).buffer_unordered(AT_A_TIME).collect().await
}

async fn may(cluster: &Cluster, account: &str) -> Result<BTreeMap<String, bool>, String> {
    let api: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    let namespace = &cluster.namespace;
    let mut may = BTreeMap::new();
    for verb in VERBS {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{account}")),
                groups: Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.clone()),
                    resource: Some("pods".to_owned()),
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = in_time(api.create(&PostParams::default(), &review)).await;
        let answer = answer.map_err(|refused| format!("cannot create subjectaccessreviews: {}", reason(&refused)))?;
        let status = answer.status.ok_or("a review of access without an answer")?;
        may.insert(format!("{verb} pods"), status.allowed);
    }
    Ok(may)
}
