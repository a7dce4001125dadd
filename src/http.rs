//! GET over a stream that somebody else has made: a sidecar's admin port, or a pod's management through a port-forward.
//!
//! Invariant: whoever answers can take neither more than [`LIMIT`] of time nor more than [`LARGEST`] of memory.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

/// How long one request may take.
pub const LIMIT: Duration = Duration::from_secs(3);
/// The largest answer that is read, in bytes.
pub const LARGEST: usize = 4 << 20;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
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

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// The body, with a replacement character for what is no UTF-8.
    pub body: String,
    /// What the answerer's clock said, to the second.
    pub date: Option<OffsetDateTime>,
}

impl Answer {
    /// Reads an answer's body.
    ///
    /// # Errors
    /// [`HttpError::Body`].
    pub async fn read(status: StatusCode, headers: &HeaderMap, body: Body) -> Result<Self, HttpError> {
        let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
        // An HTTP date is one of RFC 2822 with GMT for a zone (RFC 9110, 5.6.7).
        let date = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
        let body = to_bytes(body, LARGEST).await.map_err(HttpError::Body)?;
        Ok(Self { status, body: String::from_utf8_lossy(&body).into_owned(), date })
    }
}

/// A connection that takes one request after another.
pub struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Body>,
    driver: AbortHandle,
    host: String,
}

impl Connection {
    /// Speaks HTTP/1.1 over a stream; `host` is what the request's header says.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn over<S>(stream: S, host: &str) -> Result<Self, HttpError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Self { sender, driver, host: host.to_owned() })
    }

    /// Whether the other side will take another request.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// GETs a path.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn get(&mut self, path: &str) -> Result<Answer, HttpError> {
        let asked = async {
            self.sender.ready().await?;
            let request = Request::get(path).header(header::HOST, &self.host).body(Body::empty());
            let response = self.sender.send_request(request.expect("a path is a valid URI")).await?;
            let (head, body) = response.into_parts();
            Answer::read(head.status, &head.headers, Body::new(body)).await
        };
        tokio::time::timeout(LIMIT, asked).await.map_err(|_| HttpError::Timeout)?
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn one_connection_takes_several_requests_and_tells_the_other_side_s_time() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            for body in ["one", "two"] {
                let mut request = vec![0; 4096];
                let count = theirs.read(&mut request).await.unwrap();
                assert!(String::from_utf8_lossy(&request[..count]).contains("host: pod"));
                let date = "Sun, 22 Nov 2026 18:00:56 GMT";
                let answer = format!("HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 3\r\n\r\n{body}");
                theirs.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut connection = Connection::over(ours, "pod").await.unwrap();
        let first = connection.get("/a").await.unwrap();
        assert_eq!((first.body.as_str(), first.status), ("one", StatusCode::OK));
        assert_eq!(first.date, Some(time::macros::datetime!(2026-11-22 18:00:56 UTC)));
        assert_eq!(connection.get("/b").await.unwrap().body, "two");
    }

    #[tokio::test]
    async fn who_never_answers_is_not_waited_for() {
        let (ours, _theirs) = tokio::io::duplex(4096);
        let mut connection = Connection::over(ours, "pod").await.unwrap();
        assert!(matches!(connection.get("/").await, Err(HttpError::Timeout)));
    }
}
