//! Lists of Kubernetes' objects: page by page, each with a time limit, without what nobody judges.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::cluster::client::causes;
use crate::core::report::Observed;

/// How long one answer of the API server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long all pages of one list may take.
const WHOLE: Duration = Duration::from_secs(30);
/// Objects a page.
const PAGE: u32 = 500;
/// Pages of one list: 50,000 objects of a namespace.
pub(super) const MOST_PAGES: usize = 100;
/// kubectl's copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Every object of a kind; `Unavailable` says who may not list what and where.
pub(super) async fn list<K>(api: &Api<K>, fields: Option<&str>) -> Result<Vec<K>, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut found = Vec::new();
    let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
    params.field_selector = fields.map(str::to_owned);
    let refused = |refused: &Refused| refusal("list", &K::plural(&()), api, refused);
    let end = tokio::time::Instant::now() + WHOLE;
    for _ in 0..MOST_PAGES {
        let page = tokio::time::timeout_at(end, in_time(api.list(&params))).await;
        let page = page.unwrap_or(Err(Refused::Endless)).map_err(|error| refused(&error))?;
        found.extend(page.items.into_iter().map(stripped));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(found),
        }
    }
    Err(refused(&Refused::Endless))
}

/// One object; `None` if there is none of that name.
pub(super) async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let what = format!("{} {name}", K::kind(&()));
    let found = in_time(api.get_opt(name)).await.map_err(|error| refusal("get", &what, api, &error))?;
    Ok(found.map(stripped))
}

/// The names of ConfigMaps, without their content.
pub(super) async fn config_map_names(api: &Api<ConfigMap>) -> Result<Vec<String>, String> {
    let listed = in_time(api.list_metadata(&ListParams::default())).await;
    let listed = listed.map_err(|error| refusal("list", "configmaps", api, &error))?;
    Ok(listed.items.into_iter().filter_map(|one| one.metadata.name).collect())
}

fn stripped<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove(LAST_APPLIED);
    object
}

/// Why the API server did not answer.
pub(super) enum Refused {
    Error(Box<kube::Error>),
    Timeout,
    /// Page after page.
    Endless,
}

impl Refused {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Error(error) if matches!(error.as_ref(), kube::Error::Api(status) if status.code == 404))
    }
}

pub(super) async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(|error| Refused::Error(Box::new(error))),
        Err(_) => Err(Refused::Timeout),
    }
}

/// As in `cannot list roles in namespace shop: forbidden for jane`.
fn refusal<K>(verb: &str, what: &str, api: &Api<K>, refused: &Refused) -> String
where
    K: Resource<DynamicType = ()>,
{
    let place = api.namespace().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
    format!("cannot {verb} {what}{place}: {}", reason(refused))
}

/// The same for what has no type here.
pub(super) fn refusal_of(verb: &str, what: &str, namespace: &str, refused: &Refused) -> String {
    format!("cannot {verb} {what} in namespace {namespace}: {}", reason(refused))
}

pub(super) fn reason(refused: &Refused) -> String {
    match refused {
        Refused::Timeout => format!("no answer within {} seconds", LIMIT.as_secs()),
        Refused::Endless => {
            format!("the list has no end within {MOST_PAGES} pages of {PAGE} and {} seconds", WHOLE.as_secs())
        }
        Refused::Error(error) => match error.as_ref() {
            kube::Error::Api(status) if status.code == 403 => format!("forbidden for {}", user(&status.message)),
            kube::Error::Api(status) if status.code == 404 => "the API server does not know this kind".to_owned(),
            other => causes(other),
        },
    }
}

/// `jane` of `roles.rbac.authorization.k8s.io is forbidden: User "jane" cannot list resource "roles" …`.
fn user(message: &str) -> &str {
    message.split_once("User \"").and_then(|(_, rest)| rest.split_once('"')).map_or("this user", |(user, _)| user)
}

pub(super) fn observed<T>(result: Result<T, String>) -> Observed<T> {
    result.map_or_else(Observed::Unavailable, Observed::Seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_is_read_from_the_api_server_s_words() {
        let message = "roles.rbac.authorization.k8s.io is forbidden: User \"jane\" cannot list resource \"roles\" in API group \
                       \"rbac.authorization.k8s.io\" in the namespace \"shop\"";
        assert_eq!(user(message), "jane");
        assert_eq!(user("no"), "this user");
    }
}
