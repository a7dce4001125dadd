//! Starts, serves and ends the webhook.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum_server::tls_rustls::RustlsAcceptor;
use axum_server::{Handle, Server};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::core::admission::{self, Verdict};
use crate::core::inject::Options;
use crate::tls::CredentialError;
use crate::webhook::admin;
use crate::webhook::door::Door;
use crate::webhook::metrics::Metrics;
use crate::webhook::own::OwnError;
use crate::webhook::pair::{self, Current, Source};

/// A pod of the most that etcd takes, with the review around it, in bytes.
const LARGEST_BODY: usize = 8 << 20;
/// How long a caller may take for its handshake, and then for its first request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than an API server keeps an idle connection (90 s), so that it never writes into one that is just closed.
const IDLE: Duration = Duration::from_secs(120);
/// After SIGTERM, until no node sends new connections here.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// Until open requests are answered.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(2);

/// What to serve, and where.
pub struct Webhook {
    /// HTTPS, for the API server.
    pub listen: SocketAddr,
    /// HTTP, for probes and scrapers.
    pub admin: SocketAddr,
    /// What pods get, unless their annotations say otherwise.
    pub options: Options,
    /// The certificate.
    pub source: Source,
}

/// Why the webhook does not serve.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// An address that cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Files that are no certificate.
    #[error(transparent)]
    Certificate(#[from] CredentialError),
    /// The system's.
    #[error("the webhook failed: {0}")]
    Io(#[from] io::Error),
}

/// What is known between requests.
pub(super) struct Shared {
    options: Options,
    pub(super) metrics: Metrics,
    pub(super) current: tokio::sync::OnceCell<Arc<Current>>,
    /// Why there is no certificate yet.
    pub(super) waiting: std::sync::Mutex<Option<String>>,
    pub(super) stop: CancellationToken,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// See [`WebhookError`]. An API server that does not answer is waited for; `/ready` says so meanwhile.
pub async fn run(webhook: Webhook) -> Result<(), WebhookError> {
    let Webhook { listen, admin, options, source } = webhook;
    let bind =
        async |address| TcpListener::bind(address).await.map_err(|source| WebhookError::Listen { address, source });
    let (listener, admin) = (bind(listen).await?, bind(admin).await?);
    let stop = CancellationToken::new();
    let shared = Arc::new(Shared {
        options,
        metrics: Metrics::new(),
        current: tokio::sync::OnceCell::new(),
        waiting: std::sync::Mutex::default(),
        stop: stop.clone(),
    });
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        signalled.cancel();
    });
    tokio::spawn(admin::serve(admin, Arc::clone(&shared)));
    let Some(current) = certificate(source, &shared).await? else { return Ok(()) };
    tracing::info!(%listen, "serving");
    let _ = shared.current.set(Arc::clone(&current));
    serve(listener, &current, Arc::clone(&shared)).await?;
    Ok(())
}

/// The first certificate, and somebody who sees to the next ones; `None` if it was told to stop before there was one.
async fn certificate(source: Source, shared: &Shared) -> Result<Option<Arc<Current>>, WebhookError> {
    let stop = shared.stop.clone();
    match source {
        Source::Files(dir) => {
            let places = pair::places(&dir);
            let (files, serving) = pair::load(&places)?;
            let current = Current::new(&serving);
            tokio::spawn(pair::follow(places, files, Arc::clone(&current), stop));
            Ok(Some(current))
        }
        Source::Own(own) => loop {
            match own.ensure().await {
                Ok(generation) => {
                    let current = Current::new(&generation.serving);
                    let serial = generation.serving.leaf.serial.clone();
                    tokio::spawn(own.keep(serial, Arc::clone(&current), stop));
                    return Ok(Some(current));
                }
                Err(error) => wait_for(&error, shared),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(PAUSE) => {}
            }
        },
    }
}

fn wait_for(error: &OwnError, shared: &Shared) {
    let error = error.to_string();
    let Ok(mut waiting) = shared.waiting.lock() else { return };
    if waiting.as_ref() != Some(&error) {
        tracing::warn!(%error, "no certificate yet; trying again");
        *waiting = Some(error);
    }
}

async fn serve(listener: TcpListener, current: &Current, shared: Arc<Shared>) -> io::Result<()> {
    let handle = Handle::new();
    let (ending, stop) = (handle.clone(), shared.stop.clone());
    tokio::spawn(async move {
        stop.cancelled().await;
        tokio::time::sleep(FORGOTTEN).await;
        ending.graceful_shutdown(Some(LAST_ANSWERS));
    });
    let router =
        Router::new().route("/mutate", post(mutate)).layer(DefaultBodyLimit::max(LARGEST_BODY)).with_state(shared);
    let acceptor = RustlsAcceptor::new(current.config.clone()).handshake_timeout(PATIENCE).acceptor(Door::new());
    let mut server = Server::<SocketAddr>::from_listener(listener)
        .http1_only()
        .handle(handle)
        .first_request_timeout(PATIENCE)
        .accept_error_handler(|from, error| tracing::debug!(?from, %error, "a connection was not accepted"))
        .acceptor(acceptor);
    server.http_builder().http1().header_read_timeout(IDLE);
    server.serve(router.into_make_service()).await
}

async fn mutate(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let begun = Instant::now();
    let asked = serde_json::from_slice::<Value>(&body).map_err(|error| format!("the body is no JSON: {error}"));
    let answer = asked.and_then(|asked| admission::review(&asked, &shared.options).map_err(|error| error.to_string()));
    shared.metrics.reviewed(answer.as_ref().ok().map(|answer| answer.verdict), begun.elapsed());
    match answer {
        Ok(answer) => {
            let (pod, notes) = (&answer.pod, &answer.notes);
            match answer.verdict {
                Verdict::Injected => tracing::info!(?pod, ?notes, "injected"),
                Verdict::Untouched => tracing::debug!(?pod, "left as it is"),
                Verdict::Refused => tracing::warn!(?pod, ?notes, "refused"),
            }
            ([(header::CONTENT_TYPE, "application/json")], answer.review.to_string()).into_response()
        }
        Err(error) => {
            tracing::debug!(error, "no review");
            (StatusCode::BAD_REQUEST, error + "\n").into_response()
        }
    }
}
