//! The sidecar: takes the app's remoting to peers over mutual TLS, and peers' remoting to the app.
//!
//! Invariant: whatever fails, fails closed. No byte of the app's leaves in plaintext in strict mode, and none arrives
//! that was not authorized.

mod accept;
mod admin;
mod board;
mod canary;
mod circuits;
mod connection;
mod drain;
mod faults;
mod handover;
mod handshake;
mod inbound;
mod istio;
mod listen;
pub mod log;
mod memory;
mod metrics;
mod news;
mod otlp;
mod outbound;
mod page;
mod plaintext;
mod pump;
mod readiness;
mod retire;
mod socket;
mod strays;
mod trace;
mod traffic;
mod unfinished;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use listen::Listeners;

use crate::core::crowd::{Crowd, Place};
use crate::core::directory::Directory;
use crate::core::drift::RulesState;
use crate::core::news::Standing;
use crate::core::outcome::{Gravity, Reason};
use crate::core::route::{Direction, TrafficPath};
use crate::core::sidecar::SidecarConfig;
use crate::flood::{Flood, Full};
use crate::proxy::board::Board;
use crate::proxy::canary::Canary;
use crate::proxy::circuits::Circuits;
use crate::proxy::connection::{Connection, Ending};
use crate::proxy::faults::Faults;
use crate::proxy::handshake::Demands;
use crate::proxy::log::LogFilter;
use crate::proxy::metrics::Metrics;
use crate::proxy::plaintext::PeerMemory;
use crate::proxy::pump::{Bounds, Peer, pump};
use crate::proxy::strays::Strays;
use crate::proxy::trace::{Step, Traces};
use crate::proxy::workers::Workers;
use crate::tls::{Credentials, ReloadState, Reloader};

/// Why the sidecar cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A listener that cannot be had.
    #[error("{option}: cannot listen on {address}: {source}; {advice}")]
    Bind {
        /// The option that names the port.
        option: &'static str,
        /// Where.
        address: SocketAddr,
        /// What to do.
        advice: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No signals, no orderly end.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// Nobody to carry connections.
    #[error("cannot start a thread: {0}; see the limit of processes and threads")]
    Threads(#[source] io::Error),
    /// No traces although they are asked for.
    #[error(transparent)]
    Traces(#[from] otlp::OtlpError),
}

/// App and peer, ready to be joined.
#[derive(Debug)]
struct Joined {
    app: TcpStream,
    peer: Peer,
    /// Among the connections with the other pod.
    place: Place,
    /// Among those that may be open.
    room: OwnedSemaphorePermit,
}

/// What every connection and every page of the admin port share.
#[derive(Debug)]
struct Sidecar {
    config: SidecarConfig,
    /// `None` without TLS; nothing in it as long as nobody has supplied any.
    credentials: Option<watch::Receiver<Option<Arc<Credentials>>>>,
    reloads: Option<Arc<Mutex<ReloadState>>>,
    metrics: Metrics,
    board: Board,
    canary: Canary,
    strays: Strays,
    rules: Option<watch::Receiver<RulesState>>,
    directory: Option<watch::Receiver<Directory>>,
    peer_memory: PeerMemory,
    circuits: Circuits,
    faults: Faults,
    /// How many connections each other pod has, in each direction.
    inbound_crowd: Arc<Crowd>,
    outbound_crowd: Arc<Crowd>,
    flood: Flood,
    full: Full,
    log: LogFilter,
    traces: Option<Traces>,
    lifecycle: Lifecycle,
    workers: Workers,
    started: Instant,
}

/// Stops, in the order in which they come.
#[derive(Debug, Default)]
struct Lifecycle {
    /// Somebody asked us to stop.
    drain: CancellationToken,
    /// No connection is accepted any more.
    stop_accepting: CancellationToken,
    /// Open connections end.
    end: CancellationToken,
    connections: TaskTracker,
}

/// Who works beside the sidecar, and how they are heard.
pub struct Companions {
    /// Whoever keeps credentials fresh; `None` without TLS.
    pub reloader: Option<Reloader>,
    /// What somebody who may read the rules says of them.
    pub rules: Option<watch::Receiver<RulesState>>,
    /// Which pods have which addresses, where peers have to fit.
    pub directory: Option<watch::Receiver<Directory>>,
    /// What `/log` changes.
    pub log: LogFilter,
    /// Who tells Kubernetes.
    pub news: Option<watch::Sender<Standing>>,
}

/// Runs until a signal or `/drain` ends it.
///
/// # Errors
/// If signals cannot be listened for, threads not started, or traces that are asked for not made.
pub async fn run(config: SidecarConfig, listeners: Listeners, companions: Companions) -> Result<(), ProxyError> {
    let Companions { reloader, rules, directory, log, news } = companions;
    let signals = drain::Signals::new().map_err(ProxyError::Signals)?;
    let observe = &config.observe;
    let traces = observe.otlp_endpoint.as_ref().map(|url| Traces::start(url, observe)).transpose()?;
    let sidecar = Arc::new(Sidecar {
        credentials: reloader.as_ref().map(Reloader::subscribe),
        reloads: reloader.as_ref().map(Reloader::state),
        metrics: Metrics::new(config.mode, rules.is_some()),
        board: Board::default(),
        canary: Canary::new(&config, listeners.outbound.len() > 1),
        strays: Strays::default(),
        rules,
        directory,
        peer_memory: PeerMemory::default(),
        circuits: Circuits::new(config.limits.breaker),
        faults: Faults::new(config.fault_injection),
        inbound_crowd: Crowd::strict(config.limits.max_connections_per_peer as usize),
        outbound_crowd: Crowd::strict(config.limits.max_connections_per_peer as usize),
        flood: Flood::default(),
        full: Full::default(),
        log,
        traces,
        lifecycle: Lifecycle::default(),
        workers: Workers::start().map_err(ProxyError::Threads)?,
        started: Instant::now(),
        config,
    });
    let Listeners { outbound, inbound, admin } = listeners;
    tracing::info!(mode = %sidecar.config.mode, path = %sidecar.config.path, remoting = %sidecar.config.remoting, "serving");
    warn_of_mode(&sidecar.config);

    let services = TaskTracker::new();
    let stop = CancellationToken::new();
    for listener in admin {
        services.spawn(stopped_by(stop.clone(), admin::serve(listener, Arc::clone(&sidecar))));
    }
    if let Some(reloader) = reloader {
        services.spawn(reloader.run(stop.clone()));
    }
    services.spawn(stopped_by(stop.clone(), canary::watch(Arc::clone(&sidecar))));
    services.spawn(stopped_by(stop.clone(), readiness::watch(Arc::clone(&sidecar))));
    if sidecar.config.path == TrafficPath::Ports {
        services.spawn(stopped_by(stop.clone(), strays::watch(Arc::clone(&sidecar))));
    }
    if sidecar.config.retires() {
        services.spawn(stopped_by(stop.clone(), retire::watch(Arc::clone(&sidecar))));
    }
    if let Some(news) = news {
        services.spawn(stopped_by(stop.clone(), news::watch(Arc::clone(&sidecar), news)));
    }
    services.spawn(stopped_by(stop.clone(), memory::watch(Arc::clone(&sidecar))));
    if sidecar.faults.enabled() {
        tracing::warn!("--fault-injection: whoever reaches the admin port over loopback may order faults");
        services.spawn(stopped_by(stop.clone(), faults::watch(Arc::clone(&sidecar))));
    }
    services.spawn(accept::run(outbound, Direction::Outbound, Arc::clone(&sidecar)));
    services.spawn(accept::run(inbound, Direction::Inbound, Arc::clone(&sidecar)));

    drain::until_the_end(&sidecar, signals).await;
    if let Some(traces) = &sidecar.traces {
        traces.finish().await;
    }
    stop.cancel();
    Ok(())
}

async fn stopped_by(stop: CancellationToken, service: impl Future<Output = ()>) {
    stop.run_until_cancelled(service).await;
}

fn warn_of_mode(config: &SidecarConfig) {
    use crate::core::route::TlsMode;
    match config.mode {
        TlsMode::Strict => {}
        TlsMode::Permissive => tracing::warn!(
            until = config.permissive_until.map(tracing::field::display),
            "permissive: peers that speak plaintext are let in and dialled; for a migration only"
        ),
        TlsMode::Disabled => tracing::warn!("disabled: remoting goes in plaintext, whoever the peer is"),
    }
    if config.permissive_until.is_some() && config.mode != TlsMode::Permissive {
        tracing::warn!(mode = %config.mode, "--permissive-until has no meaning in this mode");
    }
}

impl Sidecar {
    /// The credentials in use; `None` without TLS, and as long as nobody has supplied any.
    fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.as_ref().and_then(|current| current.borrow().clone())
    }

    /// What a handshake of this connection has to come to.
    fn demands(&self, connection: &Connection, credentials: &Credentials) -> Demands {
        Demands {
            address: connection.peer().ip(),
            rule: self.config.peer_address,
            keep_chain: self.config.has_revocations(),
            directory: self.directory.clone(),
            own_domain: credentials.leaf.identity.spiffe_ids.first().map(|id| id.trust_domain().clone()),
        }
    }

    /// A place among the connections with the other pod, and leave to go on.
    async fn enter(&self, connection: &Connection, dialler: &TcpStream) -> Result<Place, Reason> {
        let crowd = match connection.direction {
            Direction::Inbound => &self.inbound_crowd,
            Direction::Outbound => &self.outbound_crowd,
        };
        let place = crowd.enter(connection.peer().ip()).ok_or(Reason::TooManyOfPeer)?;
        if let Some(gate) = self.faults.gate(connection.marked()) {
            gate.enter(dialler).await?;
        }
        Ok(place)
    }

    /// What somebody who may read the rules says of them; `None` if nobody does.
    fn rules(&self) -> Option<RulesState> {
        self.rules.as_ref().map(|rules| {
            let mut state = rules.borrow().clone();
            // An old answer must not pass for a new one.
            if rules.has_changed().is_err() {
                state.faults.push("nobody watches over them any more: the thread that did has died".to_owned());
            }
            state
        })
    }

    /// Copies between app and peer to the end of the connection.
    ///
    /// No `async fn`, as [`pump`] is none.
    fn pump<'a>(
        &'a self,
        joined: Joined,
        connection: &'a mut Connection,
    ) -> impl Future<Output = Reason> + Send + use<'a> {
        let Joined { app, peer, place, room } = joined;
        connection.ending = self.config.retires().then(|| Arc::new(Ending::below(&self.lifecycle.end)));
        let live = self.board.open(connection, &self.metrics);
        self.end_if_revoked(connection);
        if let Some(traces) = &self.traces {
            traces.joined(connection);
        }
        let gate = self.faults.gate(connection.marked());
        let Connection { moved, detail, ending, .. } = connection;
        let ending = ending.as_deref();
        let bounds = Bounds {
            half_close_timeout: self.config.limits.half_close_timeout,
            end: ending.map_or(&self.lifecycle.end, Ending::token),
            ending,
        };
        pump(app, peer, moved, bounds, gate).map(move |(reason, error)| {
            *detail = error.map(|error| error.to_string());
            drop((live, place, room));
            reason
        })
    }

    /// Whether the peer that the app dials speaks TLS with us, or did lately.
    fn speaks_tls_with(&self, peer: SocketAddr) -> bool {
        self.peer_memory.speaks_tls(peer) || self.board.is_secured(peer.ip())
    }

    /// A handshake may have begun before a revocation that has looked through the open connections since.
    fn end_if_revoked(&self, connection: &Connection) {
        let chain = connection.agreed.as_ref().and_then(|agreed| agreed.chain.as_ref());
        let (Some(chain), Some(ending)) = (chain, &connection.ending) else { return };
        let Some(current) = self.credentials.as_ref().and_then(|credentials| credentials.borrow().clone()) else {
            return;
        };
        if current.is_revoked(chain, OffsetDateTime::now_utc()) {
            ending.end(Reason::Revoked);
        }
    }

    /// The peer (outbound) or the app (inbound) was dialled.
    fn dialled(&self, connection: &mut Connection, started: Instant) {
        let took = started.elapsed();
        self.metrics.connect(connection.direction, took);
        self.step(connection, Step { name: "dial", started, took });
    }

    /// A handshake has succeeded.
    fn shook_hands(&self, connection: &mut Connection, started: Instant) {
        let took = started.elapsed();
        self.metrics.handshake(connection.direction, took);
        self.step(connection, Step { name: "handshake", started, took });
    }

    fn step(&self, connection: &mut Connection, step: Step) {
        if self.traces.is_some() {
            connection.steps.push(step);
        }
    }

    /// Logs and counts a connection's end.
    fn ended(&self, connection: &mut Connection, reason: Reason) {
        // What anybody on the network can cause: refusals, and whatever else becomes of who has not shown who it is.
        let by_anybody = reason.gravity() == Gravity::Refusal || connection.is_strangers();
        if !by_anybody || self.flood.may_log(Instant::now()) {
            connection.log(reason);
            if let Some(traces) = &self.traces {
                traces.ended(connection, reason);
            }
        }
        self.metrics.ended(connection.direction, reason);
        if reason.gravity() != Gravity::Normal {
            self.board.refused(connection, reason, OffsetDateTime::now_utc());
        }
    }
}
