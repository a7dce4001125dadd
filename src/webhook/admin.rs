//! Health and metrics of the webhook, over plain HTTP; nothing here changes anything.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::tls::timestamp;
use crate::webhook::port::Port;
use crate::webhook::server::Shared;

/// After this a connection ends, whatever it does: probes and scrapers ask at once.
const LONGEST: Duration = Duration::from_secs(5);

pub(super) async fn serve(listeners: Vec<TcpListener>, shared: Arc<Shared>) {
    let door = Arc::clone(&shared.admin);
    let router = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let port = Port { door, certificate: None, idle: LONGEST, longest: Some(LONGEST), router };
    // Until the process ends: probes ask while it stops, too.
    port.serve(listeners, CancellationToken::new()).await;
}

/// Why it is not ready; `Ok` with what is worth knowing.
fn readiness(shared: &Shared, now: OffsetDateTime) -> Result<String, String> {
    if shared.stop.is_cancelled() {
        return Err("stopping".to_owned());
    }
    let Some(current) = shared.current.get() else {
        let waiting = shared.waiting.lock().ok().and_then(|waiting| waiting.clone());
        return Err(format!("no certificate yet: {}", waiting.unwrap_or_else(|| "it is being fetched".to_owned())));
    };
    let state = current.state();
    let end = timestamp(state.not_after);
    let fault = state.fault.map(|fault| format!("; the next one cannot be had: {fault}")).unwrap_or_default();
    if now > state.not_after {
        Err(format!("the certificate ended at {end}{fault}"))
    } else {
        Ok(format!("ready, until {end}{fault}"))
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match readiness(&shared, OffsetDateTime::now_utc()) {
        Ok(text) => (StatusCode::OK, text + "\n").into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let form = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let ready = readiness(&shared, OffsetDateTime::now_utc()).is_ok();
    let not_after = shared.current.get().map(|current| current.state().not_after);
    match shared.metrics.render(ready, not_after, [shared.door.taken(), shared.admin.taken()]) {
        Ok(text) => (form, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
