//! Lists of Kubernetes' objects: page by page, each with a time limit, without what nobody judges.

use std::fmt::{Debug, Formatter};
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::cluster::client::causes;
use crate::core::report::Observed;

/// How long one answer of the API server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long all pages of one list may take.
const WHOLE: Duration = Duration::from_secs(30);
/// Objects a page.
const PAGE: u32 = 500;
/// Pages of one list.
pub(super) const MOST_PAGES: usize = 100;
/// Objects of one answer, whatever was asked for.
const MOST_OF_A_PAGE: usize = 10_000;
/// Objects of one list.
const MOST_OF_ALL_PAGES: usize = 50_000;
/// kubectl's copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A page of a list.
#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(super) struct Page<T> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    #[serde(default, deserialize_with = "few")]
    pub(super) items: Vec<T>,
}

/// Items, of which three bytes each may become kilobytes here: no more than a server sends that knows no pages.
fn few<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MOST_OF_A_PAGE} items")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some(item) = items.next_element()? {
                if found.len() == MOST_OF_A_PAGE {
                    return Err(A::Error::invalid_length(found.len() + 1, &self));
                }
                found.push(item);
            }
            Ok(found)
        }
    }
    deserializer.deserialize_any(Few(PhantomData))
}

/// Every object of a kind with these labels.
pub(super) async fn list_labelled<K>(api: &Api<K>, labels: &str) -> Result<Vec<K>, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let params = ListParams { label_selector: Some(labels.to_owned()), ..ListParams::default() };
    pages(api, params, kube::core::Request::list).await
}

/// Every object of a kind; `Unavailable` says who may not list what and where.
pub(super) async fn list<K>(api: &Api<K>, fields: Option<&str>) -> Result<Vec<K>, String>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let params = ListParams { field_selector: fields.map(str::to_owned), ..ListParams::default() };
    let found = pages(api, params, kube::core::Request::list).await?;
    Ok(found.into_iter().map(stripped).collect())
}

type Asked = Result<hyper::Request<Vec<u8>>, kube::core::request::Error>;

async fn pages<K, T>(
    api: &Api<K>,
    mut params: ListParams,
    request: impl Fn(&kube::core::Request, &ListParams) -> Asked,
) -> Result<Vec<T>, String>
where
    K: Resource<DynamicType = ()> + Clone,
    T: DeserializeOwned,
{
    let refused = |refused: &Refused| refusal("list", &K::plural(&()), api, refused);
    let (of_kind, client) = (kube::core::Request::new(api.resource_url()), api.clone().into_client());
    let end = tokio::time::Instant::now() + WHOLE;
    let mut found = Vec::new();
    params.limit = Some(PAGE);
    for _ in 0..MOST_PAGES {
        let page = async {
            let request = request(&of_kind, &params).map_err(kube::Error::BuildRequest)?;
            client.request::<Page<T>>(request).await
        };
        let page = tokio::time::timeout_at(end, in_time(page)).await;
        let page = page.unwrap_or(Err(Refused::Endless)).map_err(|error| refused(&error))?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if found.len() < MOST_OF_ALL_PAGES => params.continue_token = Some(token),
            Some(_) => break,
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
    let found: Vec<PartialObjectMeta<ConfigMap>> =
        pages(api, ListParams::default(), kube::core::Request::list_metadata).await?;
    Ok(found.into_iter().filter_map(|one| one.metadata.name).collect())
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

    #[test]
    fn a_page_has_a_bounded_number_of_items_and_may_have_none() {
        let page = |text: &str| serde_json::from_str::<Page<serde_json::Value>>(text);
        let of = |count: usize| format!("{{\"items\": [{}]}}", vec!["{}"; count].join(","));
        assert_eq!(page(&of(MOST_OF_A_PAGE)).unwrap().items.len(), MOST_OF_A_PAGE);
        assert!(page(&of(MOST_OF_A_PAGE + 1)).err().unwrap().to_string().contains("at most 10000 items"));
        let more = page("{\"metadata\": {\"continue\": \"x\"}, \"items\": null}").unwrap();
        assert_eq!((more.items.len(), more.metadata.continue_.as_deref()), (0, Some("x")));
    }
}
