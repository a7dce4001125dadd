//! A connection that the app dials: accepted on loopback, taken to the peer over TLS.
//!
//! Invariant: the app gets no byte before the peer is authorized, and a reset as soon as the peer cannot be had. Artery
//! takes a stray byte for a broken peer, and an open silent connection for a slow one.

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::core::outcome::Reason;
use crate::core::plan::CANARY;
use crate::core::route::{self, OriginalDst, Route};
use crate::proxy::Sidecar;
use crate::proxy::accept::Unfinished;
use crate::proxy::connection::Connection;
use crate::proxy::handshake::{Agreed, Failed, Watched};
use crate::proxy::socket::{FarEnd, dial, original_dst, reset_on_close, tune};

enum Peer {
    Tls(Box<TlsStream<Watched>>),
    Plaintext(TcpStream),
}

/// Serves a connection to its end; `None` if it was the sidecar's own canary.
pub(super) async fn serve(
    app: TcpStream,
    unfinished: Unfinished,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Option<Reason> {
    let original = original_dst(&app).unwrap_or(OriginalDst::NotRedirected);
    if let OriginalDst::Known(address) = original
        && CANARY.contains(&address.ip())
    {
        sidecar.canary.receive(app).await;
        return None;
    }
    let peer = match reach_peer(&app, original, sidecar, connection).await {
        Ok(peer) => peer,
        Err(reason) => {
            reset_on_close(&app);
            return Some(reason);
        }
    };
    drop(unfinished);
    let target = connection.peer();
    Some(match peer {
        Peer::Tls(peer) => {
            let reason = sidecar.pump(app, *peer, connection).await;
            sidecar.peer_memory.saw_tls(target);
            reason
        }
        Peer::Plaintext(peer) => {
            let reason = sidecar.pump(app, peer, connection).await;
            if reason == Reason::PeerReset {
                sidecar.peer_memory.forget_plaintext(target);
            }
            reason
        }
    })
}

async fn reach_peer(
    app: &TcpStream,
    original: OriginalDst,
    sidecar: &Sidecar,
    connection: &mut Connection,
) -> Result<Peer, Reason> {
    let config = &sidecar.config;
    let listener = app.local_addr().map_err(|_| Reason::AppReset)?;
    tune(app, FarEnd::App).map_err(|_| Reason::AppReset)?;
    let target = route::target(original, listener, config.outbound_target, &config.remoting)?;
    connection.target = Some(target);
    match route::outbound(config.mode, sidecar.peer_memory.speaks_plaintext(target)) {
        Route::OriginateTls { or_plaintext } => match originate(sidecar, connection, or_plaintext).await? {
            Some(peer) => Ok(Peer::Tls(Box::new(peer))),
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

async fn connect(sidecar: &Sidecar, connection: &mut Connection) -> Result<TcpStream, Reason> {
    let started = std::time::Instant::now();
    let stream = dial(connection.peer(), FarEnd::Peer).await.map_err(|error| {
        connection.detail = Some(error.to_string());
        Reason::PeerUnreachable
    })?;
    sidecar.dialled(connection, started);
    Ok(stream)
}

async fn connect_plaintext(sidecar: &Sidecar, connection: &mut Connection) -> Result<Peer, Reason> {
    let peer =
        connect(sidecar, connection).await.inspect_err(|_| sidecar.peer_memory.forget_plaintext(connection.peer()))?;
    connection.plaintext = true;
    sidecar.board.plaintext(connection);
    Ok(Peer::Plaintext(peer))
}

/// The TLS stream to the peer; `None` if `or_plaintext` and the peer showed that it speaks no TLS.
async fn originate(
    sidecar: &Sidecar,
    connection: &mut Connection,
    or_plaintext: bool,
) -> Result<Option<TlsStream<Watched>>, Reason> {
    let Some(credentials) = sidecar.credentials() else { return Err(Reason::HandshakeFailed) };
    let stream = Watched::new(connect(sidecar, connection).await?);
    let name = ServerName::IpAddress(connection.peer().ip().into());
    let started = std::time::Instant::now();
    let handshake = TlsConnector::from(std::sync::Arc::clone(&credentials.client)).connect(name, stream);
    let timeout = sidecar.config.limits.handshake_timeout;
    match tokio::time::timeout(timeout, handshake.into_fallible()).await {
        Ok(Ok(stream)) => {
            sidecar.shook_hands(connection, started);
            connection.agreed = Some(Agreed::of(stream.get_ref().1));
            sidecar.peer_memory.saw_tls(connection.peer());
            Ok(Some(stream))
        }
        Ok(Err((error, stream)))
            if or_plaintext && stream.speaks_no_tls(&error) && !sidecar.peer_memory.speaks_tls(connection.peer()) =>
        {
            Ok(None)
        }
        Ok(Err((error, _))) => Err(connection.fail(Failed::of(&error))),
        Err(_) => Err(connection.fail(Failed::timed_out(timeout))),
    }
}
