//! A connection that arrives from a peer: TLS ended, the peer authorized, handed to the app.
//!
//! Invariant: the app is not dialled before the peer is authorized, and is dialled at the original destination: Artery
//! binds the pod's address, not loopback.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::core::crowd::Place;
use crate::core::outcome::Reason;
use crate::core::route::{self, OriginalDst, Route, TlsMode, TrafficPath};
use crate::core::wire::FirstBytes;
use crate::proxy::connection::Connection;
use crate::proxy::handshake::{Failed, HURRIED, Patience, first_bytes, last_word, shake_hands};
use crate::proxy::pump::Peer;
use crate::proxy::socket::{CONNECT_TIMEOUT, FarEnd, dial, is_shortage, original_dst, reset_on_close, tune};
use crate::proxy::unfinished::Unfinished;
use crate::proxy::{Joined, Sidecar};
use crate::tls::Session;

/// Lets the peer in and dials the app.
pub(super) async fn meet(
    peer: TcpStream,
    unfinished: Unfinished,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Joined, Reason> {
    let entered = async {
        let target = destination(&peer, sidecar)?;
        connection.target = Some(target);
        sidecar.enter(connection, &peer).await
    };
    let place = match entered.await {
        Ok(place) => place,
        Err(reason) => {
            reset_on_close(&peer);
            return Err(reason);
        }
    };
    // What holds it back by order is not the peer's fault, and begins before its time does.
    let limit = sidecar.config.limits.handshake_timeout;
    let patience = Patience { started: Instant::now(), limit, unfinished: &unfinished };
    let Some(secured) = unfinished.keep(secure(peer, patience, sidecar, connection)).await else {
        return Err(Reason::TooManyUnfinished);
    };
    let peer = secured?;
    drop(unfinished);
    hand_over(peer, place, sidecar, connection).await
}

/// The peer, authorized.
async fn secure(
    peer: TcpStream,
    patience: Patience<'_>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Peer, Reason> {
    match decide(&peer, patience, sidecar, connection).await {
        Ok(Route::TerminateTls) => terminate(peer, patience, sidecar, connection).await,
        Ok(Route::Passthrough) => {
            connection.plaintext = true;
            sidecar.board.plaintext(connection);
            sidecar.metrics.plaintext_accepted.inc();
            Ok(Peer::in_plaintext(peer))
        }
        Ok(Route::OriginateTls { .. }) => unreachable!("an arriving connection never begins TLS"),
        Ok(Route::Reject(reason)) | Err(reason) => {
            reset_on_close(&peer);
            Err(reason)
        }
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
    peer: TcpStream,
    patience: Patience<'_>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Peer, Reason> {
    let Some(credentials) = sidecar.credentials() else {
        return Err(connection.fail(Failed::without_credentials()));
    };
    let started = Instant::now();
    let session = Session::server(&credentials.server);
    let session = session.map_err(|error| connection.fail(Failed::of_tls(&error)))?;
    match patience.with(HURRIED, shake_hands(peer, session, sidecar.demands(connection, &credentials))).await {
        Some(Ok((peer, agreed))) => {
            sidecar.shook_hands(connection, started);
            connection.agreed = Some(agreed);
            Ok(peer)
        }
        Some(Err(unsecured)) => {
            last_word(unsecured.stream).await;
            Err(connection.fail(Failed::of(&unsecured.error)))
        }
        None => Err(connection.fail(Failed::timed_out(patience.started.elapsed()))),
    }
}

async fn hand_over(peer: Peer, place: Place, sidecar: &Sidecar, connection: &mut Connection) -> Result<Joined, Reason> {
    let Some(target) = connection.target else { return Err(Reason::NotRedirected) };
    let started = Instant::now();
    match dial(target, FarEnd::App, CONNECT_TIMEOUT).await {
        Ok(app) => {
            sidecar.dialled(connection, started);
            Ok(Joined { app, peer, place })
        }
        Err(error) => {
            connection.detail = Some(error.to_string());
            reset_on_close(&peer.stream);
            Err(if is_shortage(&error) { Reason::NoResources } else { Reason::AppUnreachable })
        }
    }
}
