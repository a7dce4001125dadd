//! A connection that arrives from a peer: TLS ended, the peer authorized, handed to the app.
//!
//! Invariant: the app is not dialled before the peer is authorized, and is dialled at the original destination: Artery
//! binds the pod's address, not loopback.

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::core::outcome::Reason;
use crate::core::route::{self, OriginalDst, Route, TlsMode};
use crate::core::wire::FirstBytes;
use crate::proxy::Sidecar;
use crate::proxy::accept::Unfinished;
use crate::proxy::connection::Connection;
use crate::proxy::handshake::{Agreed, Failed, first_bytes, last_word};
use crate::proxy::pump::PeerStream;
use crate::proxy::socket::{FarEnd, dial, original_dst, reset_on_close, tune};

/// Serves a connection to its end.
pub(super) async fn serve(
    peer: TcpStream,
    unfinished: Unfinished,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Reason {
    match decide(&peer, sidecar, connection).await {
        Ok(Route::TerminateTls) => match terminate(peer, sidecar, connection).await {
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
            hand_over(peer, sidecar, connection).await
        }
        Ok(Route::OriginateTls { .. }) => unreachable!("an arriving connection never begins TLS"),
        Ok(Route::Reject(reason)) | Err(reason) => {
            reset_on_close(&peer);
            reason
        }
    }
}

async fn decide(peer: &TcpStream, sidecar: &Sidecar, connection: &mut Connection) -> Result<Route, Reason> {
    let config = &sidecar.config;
    let listener = peer.local_addr().map_err(|_| Reason::PeerReset)?;
    tune(peer, FarEnd::Peer).map_err(|_| Reason::PeerReset)?;
    let original = original_dst(peer).unwrap_or(OriginalDst::NotRedirected);
    connection.target = Some(route::target(original, listener, config.inbound_target, &config.remoting)?);
    if config.mode == TlsMode::Disabled {
        return Ok(Route::Passthrough);
    }
    let first = first_bytes(peer, config.limits.handshake_timeout).await.map_err(|_| Reason::PeerReset)?;
    connection.first = (first != FirstBytes::Tls).then_some(first);
    Ok(route::inbound(config.mode, first))
}

async fn terminate(
    peer: TcpStream,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<TlsStream<TcpStream>, Reason> {
    let Some(credentials) = sidecar.credentials() else { return Err(Reason::HandshakeFailed) };
    let started = std::time::Instant::now();
    let handshake = TlsAcceptor::from(std::sync::Arc::clone(&credentials.server)).accept(peer);
    let timeout = sidecar.config.limits.handshake_timeout;
    let left = timeout.saturating_sub(connection.started.elapsed());
    match tokio::time::timeout(left, handshake.into_fallible()).await {
        Ok(Ok(stream)) => {
            sidecar.shook_hands(connection, started);
            connection.agreed = Some(Agreed::of(stream.get_ref().1));
            Ok(stream)
        }
        Ok(Err((error, peer))) => {
            last_word(peer).await;
            Err(connection.fail(Failed::of(&error)))
        }
        Err(_) => Err(connection.fail(Failed::timed_out(timeout))),
    }
}

async fn hand_over<P: PeerStream>(peer: P, sidecar: &Sidecar, connection: &mut Connection) -> Reason {
    let Some(target) = connection.target else { return Reason::NotRedirected };
    let started = std::time::Instant::now();
    match dial(target, FarEnd::App).await {
        Ok(app) => {
            sidecar.dialled(connection, started);
            sidecar.pump(app, peer, connection).await
        }
        Err(error) => {
            connection.detail = Some(error.to_string());
            reset_on_close(peer.tcp());
            Reason::AppUnreachable
        }
    }
}
