//! A connection that the app dials: accepted on loopback, taken to the peer over TLS.
//!
//! Invariant: the app gets no byte before the peer is authorized, and a reset as soon as the peer cannot be had. Artery
//! takes a stray byte for a broken peer, and an open silent connection for a slow one.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use crate::core::crowd::Place;
use crate::core::outcome::Reason;
use crate::core::plan::CANARY;
use crate::core::route::{self, OriginalDst, Route, TrafficPath};
use crate::proxy::connection::Connection;
use crate::proxy::handover;
use crate::proxy::handshake::{Failed, Seen, shake_hands};
use crate::proxy::pump::Peer;
use crate::proxy::socket::{CONNECT_TIMEOUT, FarEnd, dial, is_shortage, original_dst, reset_on_close, tune};
use crate::proxy::{Joined, Sidecar};
use crate::tls::Session;

/// Between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// How often a peer may break off a handshake without a word before that is its answer: an agent that is killed, or ends, in the
/// midst of one does so too, and then nobody listens until it is back.
const BREACHES: u32 = 3;

/// Reaches the peer that the app dials; `None` if it was the sidecar's own canary.
pub(super) async fn meet(
    mut app: TcpStream,
    room: OwnedSemaphorePermit,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Option<Result<Joined, Reason>> {
    let original = match sidecar.config.path {
        TrafficPath::Rules => original_dst(&app).unwrap_or(OriginalDst::NotRedirected),
        TrafficPath::Ports => match handover::receive(&mut app).await {
            Ok(told) => OriginalDst::Known(told),
            Err(error) => {
                connection.detail = Some(error.to_string());
                reset_on_close(&app);
                return Some(Err(Reason::NoDestination));
            }
        },
    };
    if let OriginalDst::Known(address) = original
        && CANARY.contains(&address.ip())
        && sidecar.config.expects_rules()
    {
        sidecar.canary.receive(app).await;
        return None;
    }
    match reach_peer(&app, original, sidecar, connection).await {
        Ok((peer, place)) => Some(Ok(Joined { app, peer, place, room })),
        Err(reason) => {
            reset_on_close(&app);
            Some(Err(reason))
        }
    }
}

/// What a connection that has ended says of its peer.
pub(super) fn learn(sidecar: &Sidecar, connection: &Connection, reason: Reason) {
    let target = connection.peer();
    if connection.agreed.is_some() {
        sidecar.peer_memory.saw_tls(target);
    } else if matches!(reason, Reason::PeerReset | Reason::PeerTimedOut) {
        sidecar.peer_memory.forget_plaintext(target);
    }
}

async fn reach_peer(
    app: &TcpStream,
    original: OriginalDst,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<(Peer, Place), Reason> {
    let config = &sidecar.config;
    let listener = app.local_addr().map_err(|_| Reason::AppReset)?;
    tune(app, FarEnd::App).map_err(|_| Reason::AppReset)?;
    let target = route::target(original, listener, config.outbound_target, &config.remoting)?;
    connection.target = Some(target);
    let place = sidecar.enter(connection, app).await?;
    let attempt = sidecar.circuits.attempt(target)?;
    let reached = have_peer(target, sidecar, connection).await;
    // What we lack ourselves says nothing of the peer.
    if !matches!(reached, Err(Reason::NoResources)) {
        attempt.tell(reached.is_ok());
    }
    reached.map(|peer| (peer, place))
}

async fn have_peer(target: SocketAddr, sidecar: &Sidecar, connection: &mut Connection) -> Result<Peer, Reason> {
    match route::outbound(sidecar.config.mode, sidecar.peer_memory.speaks_plaintext(target)) {
        Route::OriginateTls { or_plaintext } => match originate(sidecar, connection, or_plaintext).await? {
            Some(peer) => Ok(peer),
            None => {
                tracing::warn!(peer = %target, "the peer showed that it speaks no TLS: dialling it again in plaintext");
                sidecar.peer_memory.saw_plaintext(target);
                sidecar.metrics.permissive_fallbacks.inc();
                connect_plaintext(sidecar, connection).await
            }
        },
        Route::Passthrough => connect_plaintext(sidecar, connection).await,
        Route::Reject(reason) => Err(reason),
        Route::TerminateTls => unreachable!("an outgoing connection never ends TLS"),
    }
}

/// Connects, again and again while the peer answers that nobody listens: an agent that is restarted is back within a second,
/// and the app, whose connection hangs in the meantime, would take longer than that to dial anew.
async fn connect(sidecar: &Sidecar, connection: &mut Connection, deadline: Instant) -> Result<TcpStream, Reason> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match dial(connection.peer(), FarEnd::Peer(sidecar.config.limits.peer_timeout), left).await {
            Ok(stream) => {
                sidecar.dialled(connection, started);
                return Ok(stream);
            }
            Err(error) => error,
        };
        if is_shortage(&error) {
            connection.detail = Some(error.to_string());
            return Err(Reason::NoResources);
        }
        if error.kind() != io::ErrorKind::ConnectionRefused || Instant::now() + pause >= deadline {
            connection.detail = Some(error.to_string());
            return Err(Reason::PeerUnreachable);
        }
        sidecar.metrics.connect_retries.inc();
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect_plaintext(sidecar: &Sidecar, connection: &mut Connection) -> Result<Peer, Reason> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let peer = connect(sidecar, connection, deadline)
        .await
        .inspect_err(|_| sidecar.peer_memory.forget_plaintext(connection.peer()))?;
    connection.plaintext = true;
    sidecar.board.plaintext(connection);
    Ok(Peer::in_plaintext(peer))
}

/// The peer, over TLS; `None` if `or_plaintext` and the peer showed that it speaks no TLS. A peer that has no time for a
/// handshake, or that breaks one off, is dialled again, as one that is being restarted.
async fn originate(sidecar: &Sidecar, connection: &mut Connection, or_plaintext: bool) -> Result<Option<Peer>, Reason> {
    let Some(credentials) = sidecar.credentials() else {
        return Err(connection.fail(Failed::without_credentials()));
    };
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let timeout = sidecar.config.limits.handshake_timeout;
    let name = ServerName::IpAddress(connection.peer().ip().into());
    let mut pause = FIRST_PAUSE;
    let mut breaches = 0;
    loop {
        let mut stream = connect(sidecar, connection, deadline).await?;
        let started = Instant::now();
        let session = Session::client(&credentials.client, name.clone());
        let session = session.map_err(|error| connection.fail(Failed::of_tls(&error)))?;
        let mut seen = Seen::default();
        let demands = sidecar.demands(connection, &credentials);
        let shaken = tokio::time::timeout(timeout, shake_hands(&mut stream, session, demands, &mut seen)).await;
        let Ok(shaken) = shaken else { return Err(connection.fail(Failed::timed_out(timeout))) };
        let error = match shaken {
            Ok(shaken) => {
                let (peer, agreed) = shaken.over(stream);
                sidecar.shook_hands(connection, started);
                connection.agreed = Some(agreed);
                sidecar.peer_memory.saw_tls(connection.peer());
                return Ok(Some(peer));
            }
            Err(error) => error,
        };
        let speaks_no_tls = seen.speaks_no_tls(&error);
        let was_turned_away = seen.was_turned_away(&error);
        let is_breach = seen.is_breach(&error);
        breaches += u32::from(is_breach);
        if (was_turned_away || (is_breach && breaches < BREACHES)) && Instant::now() + pause < deadline {
            sidecar.metrics.connect_retries.inc();
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        }
        // A way that was too slow for so many attempts proves nothing.
        let is_proof = speaks_no_tls && (!is_breach || breaches >= BREACHES);
        if or_plaintext && is_proof && !sidecar.speaks_tls_with(connection.peer()) {
            return Ok(None);
        }
        let mut failed = Failed::of(&error);
        if speaks_no_tls {
            failed.detail.push_str("; a peer without TLS behaves so: has it an agent?");
        }
        if was_turned_away {
            failed
                .detail
                .push_str("; an agent that has no credentials yet, or too many unfinished handshakes, says so");
        }
        return Err(connection.fail(failed));
    }
}
