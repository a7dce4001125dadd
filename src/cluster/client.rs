//! The way to a cluster's API server: a kubeconfig's context, or the pod's own service account.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Response;
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::client::{ClientBuilder, DynBody};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use tower::util::MapResponseLayer;

use crate::cluster::bounds::{Bounded, Budget};
use crate::cluster::credential;

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Which cluster is meant.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Instead of `KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Instead of the current one.
    pub context: Option<String>,
    /// Instead of the context's.
    pub namespace: Option<String>,
    /// Whether a proxy that the environment names (`HTTPS_PROXY`) is none of this target's.
    pub is_direct: bool,
}

/// A cluster that answers.
#[derive(Clone)]
pub struct Cluster {
    /// Its API.
    pub client: Client,
    /// The same, which tries nothing a second time.
    pub(super) once: Client,
    /// The kubeconfig's context, or `in-cluster`.
    pub context: String,
    /// Where to look.
    pub namespace: String,
    /// As in `v1.35.4`.
    pub server_version: String,
}

impl Cluster {
    /// A kind of object, in the namespace that is looked at.
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Why there is no cluster to ask.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing says where a cluster is.
    #[error("nothing says which cluster is meant: {}; give --kubeconfig FILE, or set KUBECONFIG", .tried.join(", "))]
    NoConfig {
        /// Where it was looked for, with what was found there.
        tried: Vec<String>,
    },
    /// A kubeconfig that cannot be used.
    #[error("{place} cannot be used: {reason}")]
    Kubeconfig {
        /// The file, or what named it.
        place: String,
        /// Why.
        reason: String,
    },
    /// No such context.
    #[error("{place} has no context {context:?}; it has {}", names(.known))]
    UnknownContext {
        /// The file, or what named it.
        place: String,
        /// What was asked for.
        context: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No name that a namespace can have.
    #[error("{0:?} is no namespace: a name has up to 63 of a-z, 0-9 and -, and begins and ends without -")]
    Namespace(String),
    /// No connection, or no answer.
    #[error(
        "the API server {server} of context {context} cannot be reached: {reason}; does `kubectl --context {context} version` reach it?"
    )]
    Unreachable {
        /// Its URL.
        server: String,
        /// The context.
        context: String,
        /// Why.
        reason: String,
    },
    /// TLS failed: whose certificate, and why.
    #[error(
        "the API server {server} of context {context} is not trusted: {reason}; is certificate-authority of the kubeconfig the right one?"
    )]
    Untrusted {
        /// Its URL.
        server: String,
        /// The context.
        context: String,
        /// Why.
        reason: String,
    },
    /// The program that the kubeconfig names for credentials gives none.
    #[error("there are no credentials for the API server {server} of context {context}: {reason}")]
    NoCredential {
        /// Its URL.
        server: String,
        /// The context.
        context: String,
        /// Why.
        reason: String,
    },
    /// It does not know us.
    #[error("the API server {server} does not accept the credentials of context {context} (401): {reason}")]
    Unauthorized {
        /// Its URL.
        server: String,
        /// The context.
        context: String,
        /// What may be the cause.
        reason: String,
    },
}

fn names(contexts: &[String]) -> String {
    if contexts.is_empty() { "none".to_owned() } else { contexts.join(", ") }
}

impl ClientError {
    /// Whether other arguments would help, and not another day.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoConfig { .. } | Self::Namespace(_) | Self::Kubeconfig { .. } | Self::UnknownContext { .. }
        )
    }
}

/// Whether it can be a namespace's name (RFC 1123, as Kubernetes has it).
#[must_use]
pub fn is_label(name: &str) -> bool {
    let of_it = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(of_it) && !name.starts_with('-') && !name.ends_with('-')
}

/// Connects to the cluster, for one look at it, and asks for its version.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect(target: &Target) -> Result<Cluster, ClientError> {
    connect_within(target, Budget::new()).await
}

/// The same for as long as the process runs: each answer is bounded, all of them together are not.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect_for_long(target: &Target) -> Result<Cluster, ClientError> {
    connect_within(target, Budget::endless()).await
}

async fn connect_within(target: &Target, budget: Budget) -> Result<Cluster, ClientError> {
    let (mut config, context) = configuration(target).await?;
    config.connect_timeout = Some(CONNECT);
    let server = config.cluster_url.to_string();
    let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    if !is_label(&namespace) {
        return Err(ClientError::Namespace(namespace));
    }
    let expired = expired(&config.auth_info, OffsetDateTime::now_utc());
    if let Err(reason) = credential::obtain(&mut config.auth_info).await {
        let server = server.trim_end_matches('/').to_owned();
        return Err(ClientError::NoCredential { server, context, reason });
    }
    let unusable =
        |error: kube::Error| ClientError::Kubeconfig { place: format!("context {context}"), reason: causes(&error) };
    let bounded = MapResponseLayer::new(move |response: Response<Box<DynBody>>| {
        let budget = budget.clone();
        response.map(|body| Bounded::new(body, budget))
    });
    // A pod's answer that the API server passes on is no fault of the API server: "connection refused" comes as a 503.
    let mut once = config.clone();
    once.default_retry = false;
    let client = ClientBuilder::try_from(config).map_err(unusable)?.with_layer(&bounded).build();
    let once = ClientBuilder::try_from(once).map_err(unusable)?.with_layer(&bounded).build();
    let asked = tokio::time::timeout(FIRST_ANSWER, client.apiserver_version()).await;
    let (server, context_) = (server.trim_end_matches('/').to_owned(), context.clone());
    match asked {
        Ok(Ok(version)) => Ok(Cluster { client, once, context, namespace, server_version: version.git_version }),
        Ok(Err(error)) => Err(refused(&error, server, context_, expired)),
        Err(_) => {
            let reason = format!("no answer within {} seconds", FIRST_ANSWER.as_secs());
            Err(ClientError::Unreachable { server, context: context_, reason })
        }
    }
}

fn refused(error: &kube::Error, server: String, context: String, expired: Option<String>) -> ClientError {
    let reason = causes(error);
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            let guess = "its token or certificate has expired, or is of another cluster; log in again".to_owned();
            ClientError::Unauthorized { server, context, reason: expired.unwrap_or(guess) }
        }
        // A server that ends TLS over a certificate of ours says so by an alert, or only hangs up.
        _ if expired.is_some() && reason.contains("alert") => {
            ClientError::Unauthorized { server, context, reason: expired.unwrap_or_default() }
        }
        // Whoever may not ask for the version may still be allowed what matters; that is for the lists to say.
        _ if reason.contains("certificate") => ClientError::Untrusted { server, context, reason },
        kube::Error::Auth(_) => ClientError::Unauthorized { server, context, reason },
        _ => ClientError::Unreachable { server, context, reason },
    }
}

/// The error and its causes, each said once.
pub(crate) fn causes(error: &kube::Error) -> String {
    let mut text = match error {
        kube::Error::Api(status) if status.message.is_empty() => {
            return format!("it answers with status {}", status.code);
        }
        kube::Error::Api(status) => return status.message.clone(),
        kube::Error::SerdeError(error) if error.to_string().starts_with("invalid length") => return error.to_string(),
        // It quotes what it could not read.
        kube::Error::SerdeError(error) => {
            return format!("its answer is no object of the kind (line {}, column {})", error.line(), error.column());
        }
        kube::Error::Service(source) => source.to_string(),
        other => other.to_string(),
    };
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}

async fn configuration(target: &Target) -> Result<(Config, String), ClientError> {
    let Some((kubeconfig, place)) = kubeconfig(target)? else {
        return match Config::incluster() {
            Ok(config) if target.context.is_none() => Ok((config, "in-cluster".to_owned())),
            Ok(_) => Err(ClientError::NoConfig {
                tried: vec!["--context is given, KUBECONFIG is not set, and there is no ~/.kube/config".to_owned()],
            }),
            Err(error) => Err(ClientError::NoConfig {
                tried: vec![
                    "KUBECONFIG is not set".to_owned(),
                    "there is no ~/.kube/config".to_owned(),
                    format!("and this is no pod with a service account ({error})"),
                ],
            }),
        };
    };
    let contexts: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let Some(context) = target.context.clone().or_else(|| kubeconfig.current_context.clone()) else {
        let reason = format!("it names no current context; give --context, one of {}", names(&contexts));
        return Err(ClientError::Kubeconfig { place, reason });
    };
    if !contexts.contains(&context) {
        return Err(ClientError::UnknownContext { place, context, known: contexts });
    }
    let clusters = kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    let has_proxy = clusters.into_iter().any(|cluster| cluster.proxy_url.is_some());
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    match Config::from_custom_kubeconfig(kubeconfig, &options).await {
        Ok(mut config) => {
            if target.is_direct && !has_proxy {
                config.proxy_url = None;
            }
            Ok((config, context))
        }
        Err(error) => Err(ClientError::Kubeconfig { place, reason: error.to_string() }),
    }
}

/// The kubeconfig and where it is from; `None` where none is named and none is at home.
fn kubeconfig(target: &Target) -> Result<Option<(Kubeconfig, String)>, ClientError> {
    let (read, place) = match &target.kubeconfig {
        Some(path) => (Kubeconfig::read_from(path).map(Some), path.display().to_string()),
        None => match Kubeconfig::from_env() {
            Ok(None) => {
                let Some(path) =
                    std::env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists())
                else {
                    return Ok(None);
                };
                (Kubeconfig::read_from(&path).map(Some), path.display().to_string())
            }
            read => (read, "the kubeconfig that KUBECONFIG names".to_owned()),
        },
    };
    match read {
        Ok(read) => Ok(read.map(|kubeconfig| (kubeconfig, place))),
        Err(error) => Err(ClientError::Kubeconfig { place, reason: error.to_string() }),
    }
}

/// That our own certificate has ended, if it has.
fn expired(auth: &AuthInfo, now: OffsetDateTime) -> Option<String> {
    let pem = match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(base64), _) => serde_json::from_value::<ByteString>(base64.clone().into()).ok()?.0,
        (None, Some(path)) => std::fs::read(path).ok()?,
        (None, None) => return None,
    };
    let der = CertificateDer::from_pem_slice(&pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let end = certificate.validity().not_after.to_datetime();
    (end < now)
        .then(|| format!("its client certificate ended at {end}; get a new one (kubeadm certs renew, or log in again)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- name: a\n  context: {cluster: c, \
        namespace: shop}\n- name: b\n  context: {cluster: c}\nclusters:\n- name: c\n  cluster: {server: 'http://127.0.0.1:9'}\n";

    fn target(dir: &tempfile::TempDir, text: &str, context: Option<&str>) -> Target {
        let path = dir.path().join("config");
        std::fs::write(&path, text).unwrap();
        Target { kubeconfig: Some(path), context: context.map(str::to_owned), ..Target::default() }
    }

    #[tokio::test]
    async fn an_unknown_context_is_told_with_those_that_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&target(&dir, CONFIG, Some("prod"))).await.err().unwrap();
        assert!(error.is_usage() && error.to_string().ends_with("has no context \"prod\"; it has a, b"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&target(&dir, "clusters: 3", None)).await.err().unwrap();
        assert!(error.is_usage() && error.to_string().contains("/config cannot be used:"), "{error}");
        let missing = Target { kubeconfig: Some(dir.path().join("none")), ..Target::default() };
        let error = connect(&missing).await.err().unwrap();
        assert!(error.is_usage() && error.to_string().contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&target(&dir, CONFIG, None)).await.err().unwrap();
        let text = error.to_string();
        assert!(
            !error.is_usage() && text.contains("http://127.0.0.1:9 of context a") && text.contains("refused"),
            "{text}"
        );
    }

    #[test]
    fn an_ended_client_certificate_is_noticed() {
        let mut parameters = rcgen::CertificateParams::new(vec!["user".to_owned()]).unwrap();
        parameters.not_after = time::macros::datetime!(2020-01-01 0:00 UTC);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        let data = serde_json::to_value(ByteString(pem.into_bytes())).unwrap();
        let auth = AuthInfo { client_certificate_data: data.as_str().map(str::to_owned), ..AuthInfo::default() };
        let told = expired(&auth, time::macros::datetime!(2026-01-01 0:00 UTC)).unwrap();
        assert!(told.contains("ended at 2020-01-01"), "{told}");
        assert_eq!(expired(&auth, time::macros::datetime!(2019-01-01 0:00 UTC)), None);
    }
}
