//! A connection that arrives from a peer: TLS ended, the peer authorized, handed to the app.
//!
//! Invariant: the app is not dialled before the peer is authorized, and is dialled at the original destination: Artery
//! binds the pod's address, not loopback.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::core::crowd::Place;
use crate::core::outcome::Reason;
use crate::core::route::{self, OriginalDst, Route, TlsMode, TrafficPath};
use crate::core::wire::FirstBytes;
use crate::proxy::connection::Connection;
use crate::proxy::handshake::{
    Failed, HURRIED, Patience, Seen, Shaken, first_bytes, last_word, shake_hands, turn_away,
};
use crate::proxy::pump::Peer;
use crate::proxy::socket::{CONNECT_TIMEOUT, FarEnd, dial, is_shortage, original_dst, reset_on_close, tune};
use crate::proxy::unfinished::Unfinished;
use crate::proxy::{Joined, Sidecar};
use crate::tls::Session;

/// Lets the peer in and dials the app.
pub(super) async fn meet(
    mut peer: TcpStream,
    unfinished: Unfinished,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Joined, Reason> {
    let mut seen = Seen::default();
    let met = unfinished.keep(secure(&mut peer, &unfinished, &mut seen, sidecar, connection));
    // Once nobody is accepted any more the app has gone, or has had its time: a stranger that says nothing is not waited for.
    let met = match sidecar.lifecycle.stop_accepting.run_until_cancelled(met).await {
        Some(Some(met)) => met,
        Some(None) => Err(Parting::TurnAway(Reason::TooManyUnfinished)),
        None => Err(Parting::TurnAway(Reason::Drained)),
    };
    match met {
        Ok(secured) => {
            drop(unfinished);
            hand_over(peer, secured, sidecar, connection).await
        }
        Err(parting) => {
            // Parting takes its time, and nothing is left to finish.
            drop(unfinished);
            Err(part(peer, parting, &seen, sidecar).await)
        }
    }
}

/// A peer that may talk to the app.
struct Secured {
    /// `None` in plaintext.
    shaken: Option<Shaken>,
    place: Place,
    room: OwnedSemaphorePermit,
}

/// How a peer that does not get in is left.
enum Parting {
    Reset(Reason),
    /// Nothing was said yet: see [`turn_away`].
    TurnAway(Reason),
    /// An alert is under way.
    LastWord(Reason),
}

async fn part(peer: TcpStream, parting: Parting, seen: &Seen, sidecar: &Sidecar) -> Reason {
    match parting {
        Parting::Reset(reason) => {
            reset_on_close(&peer);
            reason
        }
        Parting::TurnAway(reason) => {
            refuse(&peer, seen, sidecar);
            reason
        }
        Parting::LastWord(reason) => {
            last_word(peer).await;
            reason
        }
    }
}

/// Refuses a connection that nothing has been answered to.
pub(super) fn refuse(peer: &TcpStream, seen: &Seen, sidecar: &Sidecar) {
    match sidecar.config.mode {
        TlsMode::Disabled => reset_on_close(peer),
        TlsMode::Strict | TlsMode::Permissive => turn_away(peer, seen),
    }
}

/// The peer, authorized.
async fn secure(
    peer: &mut TcpStream,
    unfinished: &Unfinished,
    seen: &mut Seen,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Secured, Parting> {
    connection.target = Some(destination(peer, sidecar).map_err(Parting::Reset)?);
    let place = sidecar.enter(connection, peer).await.map_err(|reason| match reason {
        Reason::TooManyOfPeer => Parting::TurnAway(reason),
        _ => Parting::Reset(reason),
    })?;
    // What holds it back by order is not the peer's fault, and begins before its time does.
    let limit = sidecar.config.limits.handshake_timeout;
    let patience = Patience { started: Instant::now(), limit, unfinished };
    let shaken = match decide(peer, patience, sidecar, connection).await {
        Ok(Route::TerminateTls) => Some(terminate(peer, patience, seen, sidecar, connection).await?),
        Ok(Route::Passthrough) => {
            connection.plaintext = true;
            sidecar.board.plaintext(connection);
            sidecar.metrics.plaintext_accepted.inc();
            None
        }
        Ok(Route::OriginateTls { .. }) => unreachable!("an arriving connection never begins TLS"),
        Ok(Route::Reject(reason)) | Err(reason) => return Err(Parting::Reset(reason)),
    };
    match patience.with(HURRIED, unfinished.room()).await {
        Some(room) => Ok(Secured { shaken, place, room }),
        None => Err(Parting::Reset(connection.fail(Failed::timed_out(patience.started.elapsed())))),
    }
}

fn destination(peer: &TcpStream, sidecar: &Sidecar) -> Result<SocketAddr, Reason> {
    let config = &sidecar.config;
    let listener = peer.local_addr().map_err(|_| Reason::PeerReset)?;
    tune(peer, FarEnd::Peer(sidecar.config.limits.peer_timeout)).map_err(|_| Reason::PeerReset)?;
    if config.path == TrafficPath::Ports {
        return route::on_loopback(listener, config.inbound_target);
    }
    let original = original_dst(peer).unwrap_or(OriginalDst::NotRedirected);
    route::target(original, listener, config.inbound_target, &config.remoting)
}

async fn decide(
    peer: &TcpStream,
    patience: Patience<'_>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Route, Reason> {
    let config = &sidecar.config;
    if config.mode == TlsMode::Disabled {
        return Ok(Route::Passthrough);
    }
    let first = first_bytes(peer, patience).await.map_err(|_| Reason::PeerReset)?;
    connection.first = (first != FirstBytes::Tls).then_some(first);
    Ok(route::inbound(config.mode, first))
}

async fn terminate(
    peer: &mut TcpStream,
    patience: Patience<'_>,
    seen: &mut Seen,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Shaken, Parting> {
    let Some(credentials) = sidecar.credentials() else {
        return Err(Parting::TurnAway(connection.fail(Failed::without_credentials())));
    };
    let started = Instant::now();
    let session = Session::server(&credentials.server);
    let session = session.map_err(|error| Parting::TurnAway(connection.fail(Failed::of_tls(&error))))?;
    let demands = sidecar.demands(connection, &credentials);
    match patience.with(HURRIED, shake_hands(peer, session, demands, seen)).await {
        Some(Ok(shaken)) => {
            sidecar.shook_hands(connection, started);
            Ok(shaken)
        }
        Some(Err(error)) => Err(Parting::LastWord(connection.fail(Failed::of(&error)))),
        None => Err(Parting::TurnAway(connection.fail(Failed::timed_out(patience.started.elapsed())))),
    }
}

async fn hand_over(
    peer: TcpStream,
    secured: Secured,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Joined, Reason> {
    let Secured { shaken, place, room } = secured;
    let peer = match shaken {
        None => Peer::in_plaintext(peer),
        Some(shaken) => {
            let (peer, agreed) = shaken.over(peer);
            connection.agreed = Some(agreed);
            peer
        }
    };
    let Some(target) = connection.target else { return Err(Reason::NotRedirected) };
    let started = Instant::now();
    match dial(target, FarEnd::App, CONNECT_TIMEOUT).await {
        Ok(app) => {
            sidecar.dialled(connection, started);
            Ok(Joined { app, peer, place, room })
        }
        Err(error) => {
            connection.detail = Some(error.to_string());
            reset_on_close(&peer.stream);
            Err(if is_shortage(&error) { Reason::NoResources } else { Reason::AppUnreachable })
        }
    }
}
