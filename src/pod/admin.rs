//! The sidecar's admin port, asked over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long the whole request may take.
const LIMIT: Duration = Duration::from_secs(3);
/// The largest answer that is read, in bytes.
const LARGEST: usize = 4 << 20;

/// Why the admin port did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens, or the connection broke.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
    /// What answers does not speak HTTP.
    #[error("what listens there does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The answer is too large or broke off.
    #[error("the answer could not be read: {0}")]
    Body(#[source] axum::Error),
    /// It took too long.
    #[error("no answer within {} seconds", LIMIT.as_secs())]
    Timeout,
}

/// GETs a path; the status and the body as text.
///
/// # Errors
/// See [`AdminError`].
pub async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), AdminError> {
    tokio::time::timeout(LIMIT, request(address, path)).await.map_err(|_| AdminError::Timeout)?
}

async fn request(address: SocketAddr, path: &str) -> Result<(StatusCode, String), AdminError> {
    ask(TcpStream::connect(address).await?, &address.to_string(), path).await
}

pub(super) async fn ask<S>(stream: S, host: &str, path: &str) -> Result<(StatusCode, String), AdminError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header("host", host).body(Body::empty());
    let response = sender.send_request(request.expect("a path is a valid URI")).await?;
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), LARGEST).await.map_err(AdminError::Body)?;
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
