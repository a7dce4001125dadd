//! Starts, serves and ends the webhook.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::core::inject::Options;
use crate::flood::{Flood, Full};
use crate::listen::{self, Unbound};
use crate::tls::CredentialError;
use crate::webhook::admin;
use crate::webhook::door::{Door, Large};
use crate::webhook::metrics::Metrics;
use crate::webhook::mutate::mutate;
use crate::webhook::own::OwnError;
use crate::webhook::pair::{self, Current, Source};
use crate::webhook::port::Port;

/// API servers keep a few connections each; the rest is for strangers to fill.
const MOST_CONNECTIONS: usize = 512;
/// An API server that opens one a request, on a day with many pods.
const MOST_A_SOURCE: usize = 128;
/// Probes, a scraper and a few people.
const MOST_ADMIN: usize = 64;
const MOST_ADMIN_A_SOURCE: usize = 8;
/// Bodies, or answers, that are large, and how many of them one source may have; what they take is in the chart's limit.
const MOST_LARGE: usize = 4;
const MOST_LARGE_A_SOURCE: usize = 2;
/// Longer than an API server keeps an idle connection (90 s), so that it never writes into one that is just closed.
const IDLE: Duration = Duration::from_secs(120);
/// After SIGTERM, until no node sends new connections here.
const FORGOTTEN: Duration = Duration::from_secs(5);
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
    #[error(transparent)]
    Listen(#[from] Unbound),
    /// Files that are no certificate.
    #[error(transparent)]
    Certificate(#[from] CredentialError),
    /// The system's.
    #[error("the webhook failed: {0}")]
    Io(#[from] io::Error),
}

/// What is known between requests.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) metrics: Metrics,
    pub(super) door: Arc<Door>,
    pub(super) admin: Arc<Door>,
    pub(super) large: Large,
    /// Lines that strangers, too, can cause.
    pub(super) flood: Flood,
    pub(super) full: Full,
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
    let (listeners, admin) = (bind(listen)?, bind(admin)?);
    let stop = CancellationToken::new();
    let metrics = Metrics::new();
    let shared = Arc::new(Shared {
        options,
        door: Door::new(MOST_CONNECTIONS, MOST_A_SOURCE, metrics.turned_away("webhook")),
        admin: Door::new(MOST_ADMIN, MOST_ADMIN_A_SOURCE, metrics.turned_away("admin")),
        large: Large::new(MOST_LARGE, MOST_LARGE_A_SOURCE),
        flood: Flood::default(),
        full: Full::default(),
        metrics,
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
    serve(listeners, current, shared).await;
    Ok(())
}

/// `[::]` is every address, of either family; a node without IPv6 has those of IPv4.
fn bind(address: SocketAddr) -> Result<Vec<TcpListener>, Unbound> {
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return listen::bind_both(Ipv4Addr::UNSPECIFIED.into(), address.ip(), address.port());
    }
    Ok(vec![listen::bind(address)?])
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

async fn serve(listeners: Vec<TcpListener>, current: Arc<Current>, shared: Arc<Shared>) {
    let (stop, ending) = (shared.stop.clone(), CancellationToken::new());
    let forgotten = ending.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        tokio::time::sleep(FORGOTTEN).await;
        forgotten.cancel();
    });
    let door = Arc::clone(&shared.door);
    let router = Router::new().route("/mutate", post(mutate)).with_state(shared);
    let port = Port { door, certificate: Some(current), idle: IDLE, longest: None, router };
    port.serve(listeners, ending).await;
}
