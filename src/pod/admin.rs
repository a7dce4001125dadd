//! The sidecar's admin port, asked over loopback.

use std::net::SocketAddr;

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::http::{Connection, HttpError, LIMIT};

/// GETs a path; the status and the body as text.
///
/// # Errors
/// See [`HttpError`].
pub async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), HttpError> {
    let asked = async { ask(TcpStream::connect(address).await?, &address.to_string(), path).await };
    tokio::time::timeout(LIMIT, asked).await.map_err(|_| HttpError::Timeout)?
}

pub(super) async fn ask<S>(stream: S, host: &str, path: &str) -> Result<(StatusCode, String), HttpError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let answer = Connection::over(stream, host).await?.get(path).await?;
    Ok((answer.status, answer.body))
}
