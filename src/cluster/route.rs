//! The way to one port of a pod: a port-forward, and where that comes to nothing, the API server's own proxy.
//!
//! A port-forward ends on the pod's loopback, and Akka's management listens on the pod's address alone by default; the API
//! server dials that address, but cannot reach it in every network.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::Value;
use tokio::io::DuplexStream;

use crate::cluster::client::{Cluster, causes};
use crate::core::asked::FORBIDDEN;
use crate::http::{Answer, Connection, HttpError, LIMIT};

/// How long the reason of a broken port-forward is waited for.
const REASON: Duration = Duration::from_millis(200);

/// A way to one port of a pod.
pub(super) struct Route<'a> {
    cluster: &'a Cluster,
    pod: &'a str,
    port: u16,
    way: Way,
}

enum Way {
    Untried,
    Forward(Forward),
    /// Port-forwards come to nothing, for this reason.
    Proxy(String),
    /// Nothing leads there, for these reasons.
    None(String),
}

struct Forward {
    forwarder: kube::api::Portforwarder,
    connection: Connection,
    /// Why it broke; asked more than once.
    failed: Shared<BoxFuture<'static, Option<String>>>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl<'a> Route<'a> {
    pub(super) const fn new(cluster: &'a Cluster, pod: &'a str, port: u16) -> Self {
        Self { cluster, pod, port, way: Way::Untried }
    }

    /// GETs a path; why not, for people.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, String> {
        if matches!(self.way, Way::Untried | Way::Forward(_)) {
            match self.forwarded(path).await {
                Ok(answer) => return Ok(answer),
                Err(reason) => self.way = Way::Proxy(reason),
            }
        }
        let forward = match &self.way {
            Way::None(reason) => return Err(reason.clone()),
            Way::Proxy(reason) => reason.clone(),
            Way::Untried | Way::Forward(_) => String::new(),
        };
        let proxied = tokio::time::timeout(LIMIT, self.proxied(path)).await;
        proxied.unwrap_or_else(|_| Err(HttpError::Timeout.to_string())).map_err(|reason| {
            let port = self.port;
            let reason = if forward.starts_with(FORBIDDEN) && reason.starts_with(FORBIDDEN) {
                format!("{FORBIDDEN} to ask port {port}: by port-forward: {forward}; by the API server: {reason}")
            } else {
                format!("port {port}: by port-forward: {forward}; by the API server: {reason}")
            };
            self.way = Way::None(reason.clone());
            reason
        })
    }

    async fn forwarded(&mut self, path: &str) -> Result<Answer, String> {
        let mut forward = match std::mem::replace(&mut self.way, Way::Untried) {
            Way::Forward(forward) if forward.connection.is_open() => forward,
            _ => tokio::time::timeout(LIMIT, self.open()).await.map_err(|_| HttpError::Timeout.to_string())??,
        };
        let answer = tokio::select! {
            answer = forward.connection.get(path) => answer.map_err(|error| error.to_string()),
            Some(reason) = forward.failed.clone() => Err(self.said(&reason)),
        };
        match answer {
            Ok(answer) => {
                self.way = Way::Forward(forward);
                Ok(answer)
            }
            // The connection that breaks and the reason for it come over one wire, in either order.
            Err(error) => match tokio::time::timeout(REASON, forward.failed.clone()).await {
                Ok(Some(reason)) => Err(self.said(&reason)),
                _ => Err(error),
            },
        }
    }

    async fn open(&self) -> Result<Forward, String> {
        let pods: Api<Pod> = self.cluster.api();
        let mut forwarder = pods.portforward(self.pod, &[self.port]).await.map_err(|error| match &error {
            // Over a websocket it is a GET, and since 1.35 the API server asks for create too.
            kube::Error::Api(status) if status.code == 403 => "forbidden (get and create pods/portforward)".to_owned(),
            kube::Error::UpgradeConnection(upgrade) if upgrade.to_string().contains("403") => {
                "forbidden (get and create pods/portforward)".to_owned()
            }
            _ => causes(&error),
        })?;
        let stream: DuplexStream = forwarder.take_stream(self.port).ok_or("no stream for the port")?;
        let failed = forwarder.take_error(self.port);
        let failed = async move {
            match failed {
                Some(failed) => failed.await,
                None => None,
            }
        };
        let connection = Connection::over(stream, "localhost").await.map_err(|error| error.to_string())?;
        Ok(Forward { forwarder, connection, failed: failed.boxed().shared() })
    }

    /// The kubelet's words, shortened where they are known.
    fn said(&self, reason: &str) -> String {
        if reason.contains("connection refused") {
            return format!("nothing listens on the pod's loopback at {}", self.port);
        }
        reason.trim().to_owned()
    }

    async fn proxied(&self, path: &str) -> Result<Answer, String> {
        let (namespace, pod, port) = (&self.cluster.namespace, self.pod, self.port);
        let url = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = Request::get(url).body(kube::client::Body::empty()).map_err(|error| error.to_string())?;
        let response: Response<_> = self.cluster.once.send(request).await.map_err(|error| causes(&error))?;
        let (head, body) = response.into_parts();
        let answer = Answer::read(head.status, &head.headers, Body::new(body)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match api_server_s_own(&answer) {
            Some(_) if answer.status.as_u16() == 403 => Err("forbidden (get pods/proxy)".to_owned()),
            Some(message) => Err(message),
            None => Ok(answer),
        }
    }
}

/// What the API server says where the pod says nothing.
fn api_server_s_own(answer: &Answer) -> Option<String> {
    if answer.status.is_success() {
        return None;
    }
    let body: Value = serde_json::from_str(&answer.body).ok()?;
    let own = body["kind"] == "Status" && body["apiVersion"] == "v1";
    own.then(|| body["message"].as_str().unwrap_or("it failed and does not say why").to_owned())
}
