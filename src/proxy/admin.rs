//! The admin port: health, metrics, status, for probes, programs and people.
//!
//! Invariant: it never shows a key; what changes something (`/drain`, `/faults`, `PUT /log`) is for callers from 127.0.0.1 and
//! ::1, and never for a web page that a browser has open.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::StringRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{Request, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::ServiceExt as _;

use crate::core::crowd::{Crowd, Place};
use crate::core::faults::Fault;
use crate::proxy::faults::seconds_left;
use crate::proxy::{Sidecar, page};
use crate::tls::CertificateFacts;

/// Probes, a scraper and a few people; whoever comes later takes the place of the one that has been here longest.
const MOST_CONNECTIONS: usize = 64;
/// One address cannot take every place.
const MOST_A_SOURCE: usize = 8;
/// After this a connection ends, whatever it does: a slow header keeps no place.
const LONGEST: Duration = Duration::from_secs(5);
/// More than any log filter and any fault, in bytes.
const LARGEST_BODY: usize = 4096;
/// What is kept of requests, and of answers before the next one is made, in bytes.
const MOST_BUFFERED: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// Serves one listener for ever.
pub(super) async fn serve(listener: TcpListener, sidecar: Arc<Sidecar>) {
    let router = Router::new()
        .route("/", get(index))
        .route("/healthz", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/config", get(config))
        .route("/drain", post(drain))
        .route("/faults", get(faults).post(order_fault).delete(clear_faults))
        .route("/log", get(log).put(set_log))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(axum::middleware::from_fn(refuse_web_pages))
        .with_state(sidecar);
    let mut bounded = Bounded { listener, open: VecDeque::new(), crowd: Crowd::new(MOST_A_SOURCE) };
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            (stream, from) = bounded.accept() => { conversations.spawn(converse(stream, from, router.clone())); }
            Some(_) = conversations.join_next() => {}
        }
    }
}

/// HTTP/1.1 and nothing else: by HTTP/2 a caller that takes no answer could have hundreds of them made, and kept.
async fn converse(stream: Short, from: SocketAddr, router: Router) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(Caller(from)));
        router.clone().oneshot(request)
    });
    // Whoever hangs up, or is no HTTP, is no fault of ours.
    let _ = http1::Builder::new().max_buf_size(MOST_BUFFERED).serve_connection(TokioIo::new(stream), service).await;
}

async fn ready(State(sidecar): State<Arc<Sidecar>>) -> Response {
    let readiness = sidecar.readiness(OffsetDateTime::now_utc());
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, readiness.text()).into_response()
}

async fn metrics(State(sidecar): State<Arc<Sidecar>>) -> Response {
    let form = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match sidecar.metrics.render(&sidecar, OffsetDateTime::now_utc()) {
        Ok(text) => (form, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(sidecar): State<Arc<Sidecar>>) -> Response {
    as_json(&sidecar.status())
}

async fn config(State(sidecar): State<Arc<Sidecar>>) -> Response {
    match serde_json::to_value(&sidecar.config) {
        Ok(config) => as_json(&config),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn index(State(sidecar): State<Arc<Sidecar>>) -> Response {
    let Some(page) = page::render(&sidecar, OffsetDateTime::now_utc()) else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "no randomness for the page; /status has the same\n")
            .into_response();
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page.policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page.html)).into_response()
}

async fn faults(State(sidecar): State<Arc<Sidecar>>) -> Response {
    as_json(&json!({ "enabled": sidecar.faults.enabled(), "active": active_faults(&sidecar) }))
}

fn active_faults(sidecar: &Sidecar) -> Vec<serde_json::Value> {
    let shown = |fault: &Fault| {
        let mut shown = json!(fault);
        shown["seconds_left"] = json!(seconds_left(fault));
        shown
    };
    sidecar.faults.active().iter().map(shown).collect()
}

async fn order_fault(
    State(sidecar): State<Arc<Sidecar>>,
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    order: Result<String, StringRejection>,
) -> Response {
    if let Some(refusal) = refuse_faults(&sidecar, caller) {
        return refusal;
    }
    let order = match order {
        Ok(order) => order,
        Err(rejection) => return refuse_body("no fault ordered", &rejection),
    };
    let order = serde_json::from_str(&order).map_err(|error| error.to_string());
    match order.and_then(|order| sidecar.faults.order(order).map_err(|error| error.to_string())) {
        Ok(fault) => (StatusCode::CREATED, format!("for {} s it {fault}\n", seconds_left(&fault))).into_response(),
        Err(error) => {
            let example = r#"{"kind": "delay", "milliseconds": 200, "percent": 10, "seconds": 60}"#;
            (StatusCode::BAD_REQUEST, format!("no fault ordered: {error}; an example: {example}\n")).into_response()
        }
    }
}

async fn clear_faults(
    State(sidecar): State<Arc<Sidecar>>,
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
) -> Response {
    if let Some(refusal) = refuse_faults(&sidecar, caller) {
        return refusal;
    }
    format!("ended: {}\n", sidecar.faults.clear()).into_response()
}

fn refuse_faults(sidecar: &Sidecar, caller: SocketAddr) -> Option<Response> {
    if !sidecar.faults.enabled() {
        let why = "faults are not to be ordered here: the sidecar was started without --fault-injection\n";
        return Some((StatusCode::FORBIDDEN, why).into_response());
    }
    refuse_strangers("ordering faults", caller)
}

async fn drain(State(sidecar): State<Arc<Sidecar>>, ConnectInfo(Caller(caller)): ConnectInfo<Caller>) -> Response {
    if let Some(refusal) = refuse_strangers("/drain", caller) {
        return refusal;
    }
    sidecar.lifecycle.drain.cancel();
    (StatusCode::ACCEPTED, "stopping\n").into_response()
}

async fn log(State(sidecar): State<Arc<Sidecar>>) -> String {
    sidecar.log.shown() + "\n"
}

async fn set_log(
    State(sidecar): State<Arc<Sidecar>>,
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    filter: Result<String, StringRejection>,
) -> Response {
    if let Some(refusal) = refuse_strangers("PUT /log", caller) {
        return refusal;
    }
    let filter = match filter {
        Ok(filter) => filter,
        Err(rejection) => return refuse_body("that is no log filter", &rejection),
    };
    match sidecar.log.change(&filter) {
        Ok(()) => (sidecar.log.shown() + "\n").into_response(),
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("{:?} is no log filter: {error}\n", filter.trim())).into_response()
        }
    }
}

/// A body that is not the text that it should be.
fn refuse_body(what: &str, rejection: &StringRejection) -> Response {
    let status = rejection.status();
    let why = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the body has more than {LARGEST_BODY} bytes"),
        _ => rejection.body_text(),
    };
    (status, format!("{what}: {why}\n")).into_response()
}

/// What changes something is for the pod's own processes. The rest of 127.0.0.0/8 is not theirs alone: the proxies of Istio and
/// Kuma bring strangers from 127.0.0.6.
fn refuse_strangers(what: &str, caller: SocketAddr) -> Option<Response> {
    let from = caller.ip().to_canonical();
    let is_own = from == IpAddr::V4(Ipv4Addr::LOCALHOST) || from == IpAddr::V6(Ipv6Addr::LOCALHOST);
    let text = || format!("{what} is for callers on loopback, 127.0.0.1 or ::1, and you call from {from}\n");
    (!is_own).then(|| (StatusCode::FORBIDDEN, text()).into_response())
}

/// A page in somebody's browser can send requests to a port that was forwarded to loopback, and a name of its own that leads
/// there lets it read the answers. Browsers say so: by `Origin` and `Sec-Fetch-Site` in what changes something, by `Host`
/// always.
async fn refuse_web_pages(
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let headers = request.headers();
    let is_foreign_site = headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
    let from_page = headers.contains_key(header::ORIGIN) || is_foreign_site;
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let by_name = caller.ip().to_canonical().is_loopback() && host.is_some_and(|host| !is_local(host));
    if by_name || (from_page && !request.method().is_safe()) {
        return (StatusCode::FORBIDDEN, "this is not for web pages; ask http://localhost\n").into_response();
    }
    next.run(request).await
}

/// Whether a Host header names an address, or this machine.
fn is_local(host: &str) -> bool {
    let without_port = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host });
    let bare = without_port.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn as_json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}

impl Sidecar {
    /// What `/status` shows.
    fn status(&self) -> serde_json::Value {
        let rules: serde_json::Map<_, _> =
            self.canary.states().into_iter().map(|(family, rules)| (family.to_owned(), json!(rules))).collect();
        let in_use = self.credentials();
        let source = self.config.tls.as_ref().map(ToString::to_string);
        let credentials = self.reload_state().map(|reloads| {
            let Some(credentials) = &in_use else {
                return json!({ "source": source, "chain": [], "roots": [], "warnings": [], "allowed": [], "reloads": reloads });
            };
            json!({
                "source": source,
                "chain": credentials.chain,
                "roots": credentials.roots.iter().map(root).collect::<Vec<_>>(),
                "warnings": credentials.warnings,
                "revocations": credentials.revocations,
                "allowed": credentials.allowed.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "reloads": reloads,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "mode": self.config.mode,
            "path": self.config.path,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "readiness": self.readiness(OffsetDateTime::now_utc()),
            "draining": self.lifecycle.drain.is_cancelled(),
            "rules": { "expected": self.config.expects_rules(), "families": rules, "watch": self.rules() },
            "credentials": credentials,
            "peer_pods": self.directory.as_ref().map(|directory| directory.borrow().known()),
            "connections": self.board.groups(),
            "circuits": self.circuits.standings(),
            "faults": active_faults(self),
            "refusals": self.board.refusals(),
            "plaintext_peers": self.board.plaintext_peers(),
        })
    }
}

fn root(root: &CertificateFacts) -> serde_json::Value {
    json!({ "subject": root.subject, "serial": root.serial, "not_after": crate::tls::timestamp(root.not_after) })
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
struct Caller(SocketAddr);

/// A listener with a bounded number of connections, each of bounded length.
struct Bounded {
    listener: TcpListener,
    /// By age.
    open: VecDeque<(CancellationToken, Weak<Place>)>,
    crowd: Arc<Crowd>,
}

impl Bounded {
    async fn accept(&mut self) -> (Short, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    // Whoever has too many is closed at once, and so is not waited for.
                    let Some(place) = self.crowd.enter(from.ip()) else { continue };
                    let (place, evicted) = (Arc::new(place), CancellationToken::new());
                    self.open.retain(|(_, place)| place.strong_count() > 0);
                    if self.open.len() >= MOST_CONNECTIONS
                        && let Some((oldest, _)) = self.open.pop_front()
                    {
                        // A probe is answered at once, so it is never the oldest.
                        oldest.cancel();
                    }
                    self.open.push_back((evicted.clone(), Arc::downgrade(&place)));
                    let evicted = Box::pin(evicted.cancelled_owned());
                    return (Short { stream, end: Box::pin(sleep(LONGEST)), evicted, _place: place }, from);
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// A connection that ends after a while.
struct Short {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Arc<Place>,
}

impl Short {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_over = self.end.as_mut().poll(cx).is_ready() || self.evicted.as_mut().poll(cx).is_ready();
        if is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Short {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Short {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
