//! A connection that arrives from a peer: TLS ended, the peer authorized, handed to the app.
//!
//! Invariant: the app is not dialled before the peer is authorized, and is dialled at the original destination: Artery
//! binds the pod's address, not loopback.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::core::outcome::Reason;
use crate::core::route::{self, OriginalDst, Route, TlsMode};
use crate::core::wire::FirstBytes;
use crate::proxy::Sidecar;
use crate::proxy::accept::Unfinished;
use crate::proxy::connection::Connection;
use crate::proxy::handshake::{Agreed, Failed, HURRIED, Patience, first_bytes, last_word, shake_hands};
use crate::proxy::pump::Peer;
use crate::proxy::socket::{CONNECT_TIMEOUT, FarEnd, dial, original_dst, reset_on_close, tune};
use crate::tls::Session;

/// Serves a connection to its end.
pub(super) async fn serve(
    peer: TcpStream,
    unfinished: Option<Unfinished>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Reason {
    let entered = Box::pin(async {
        let target = destination(&peer, sidecar)?;
        connection.target = Some(target);
        sidecar.enter(connection).await
    });
    let _place = match entered.await {
        Ok(place) => place,
        Err(reason) => {
            reset_on_close(&peer);
            return reason;
        }
    };
    // Boxed: what a handshake needs is not to be kept for the days that the connection lives.
    match Box::pin(decide(&peer, unfinished.as_ref(), sidecar, connection)).await {
        Ok(Route::TerminateTls) => match Box::pin(terminate(peer, unfinished.as_ref(), sidecar, connection)).await {
            Ok(peer) => {
                drop(unfinished);
                hand_over(peer, sidecar, connection).await
            }
            Err(reason) => reason,
        },
        Ok(Route::Passthrough) => {
            drop(unfinished);
            connection.plaintext = true;
            sidecar.board.plaintext(connection);
            sidecar.metrics.plaintext_accepted.inc();
            hand_over(Peer::in_plaintext(peer), sidecar, connection).await
        }
        Ok(Route::OriginateTls { .. }) => unreachable!("an arriving connection never begins TLS"),
        Ok(Route::Reject(reason)) | Err(reason) => {
            reset_on_close(&peer);
            reason
        }
    }
}

fn destination(peer: &TcpStream, sidecar: &Sidecar) -> Result<SocketAddr, Reason> {
    let config = &sidecar.config;
    let listener = peer.local_addr().map_err(|_| Reason::PeerReset)?;
    tune(peer, FarEnd::Peer(sidecar.config.limits.peer_timeout)).map_err(|_| Reason::PeerReset)?;
    let original = original_dst(peer).unwrap_or(OriginalDst::NotRedirected);
    route::target(original, listener, config.inbound_target, &config.remoting)
}

async fn decide(
    peer: &TcpStream,
    unfinished: Option<&Unfinished>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Route, Reason> {
    let config = &sidecar.config;
    if config.mode == TlsMode::Disabled {
        return Ok(Route::Passthrough);
    }
    let patience = Patience { started: connection.started, limit: config.limits.handshake_timeout, unfinished };
    let first = first_bytes(peer, patience).await.map_err(|_| Reason::PeerReset)?;
    connection.first = (first != FirstBytes::Tls).then_some(first);
    Ok(route::inbound(config.mode, first))
}

async fn terminate(
    peer: TcpStream,
    unfinished: Option<&Unfinished>,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Peer, Reason> {
    let Some(credentials) = sidecar.credentials() else { return Err(Reason::HandshakeFailed) };
    let started = std::time::Instant::now();
    let session = Session::server(std::sync::Arc::clone(&credentials.server));
    let session = session.map_err(|error| connection.fail(Failed::of_tls(&error)))?;
    let limit = sidecar.config.limits.handshake_timeout;
    let patience = Patience { started: connection.started, limit, unfinished };
    match patience.with(HURRIED, shake_hands(peer, session)).await {
        Some(Ok(peer)) => {
            sidecar.shook_hands(connection, started);
            connection.agreed = peer.session.as_ref().map(|session| Agreed::of(session.state()));
            Ok(peer)
        }
        Some(Err(unsecured)) => {
            last_word(unsecured.stream).await;
            Err(connection.fail(Failed::of(&unsecured.error)))
        }
        None => Err(connection.fail(Failed::timed_out(connection.started.elapsed()))),
    }
}

async fn hand_over(peer: Peer, sidecar: &Sidecar, connection: &mut Connection) -> Reason {
    let Some(target) = connection.target else { return Reason::NotRedirected };
    let started = std::time::Instant::now();
    match Box::pin(dial(target, FarEnd::App, CONNECT_TIMEOUT)).await {
        Ok(app) => {
            sidecar.dialled(connection, started);
            sidecar.pump(app, peer, connection).await
        }
        Err(error) => {
            connection.detail = Some(error.to_string());
            reset_on_close(&peer.stream);
            Reason::AppUnreachable
        }
    }
}
