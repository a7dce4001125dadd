//! gRPC over a stream that somebody else has made.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::http::uri::PathAndQuery;
use hyper::http::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::sources::SourceError;

/// How long to wait for a connection, or for an answer that is due at once.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Certificates and bundles of dozens of trust domains are far smaller.
const LARGEST: usize = 4 << 20;
/// What somebody else says in a log of ours.
const EXCERPT: usize = 200;

/// A connection; it is closed when this goes.
pub(super) struct Connection {
    requests: http2::SendRequest<Body>,
    origin: Uri,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What is the matter if it is not done in time.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(SourceError::Slow(DEADLINE.as_secs())))
}

impl Connection {
    pub(super) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Uri,
    ) -> Result<Self, SourceError> {
        let no_http = |error: hyper::Error| SourceError::Unreachable(format!("it does not speak HTTP/2: {error}"));
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (requests, connection) = handshake.await.map_err(no_http)?;
        let driver = tokio::spawn(async { drop(connection.await) }).abort_handle();
        Ok(Self { requests, origin, driver })
    }

    fn client(
        &self,
    ) -> Grpc<impl Service<Request<Body>, Response = Response<Incoming>, Error = hyper::Error, Future: Send> + use<>>
    {
        let requests = self.requests.clone();
        let service = tower::service_fn(move |request| requests.clone().send_request(request));
        Grpc::with_origin(service, self.origin.clone()).max_decoding_message_size(LARGEST)
    }

    /// An answer of one message.
    pub(super) async fn once<Q, A>(&self, path: &'static str, request: tonic::Request<Q>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let mut client = self.client();
        Ok(client.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    /// An answer of many messages.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        request: tonic::Request<Q>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.client().server_streaming(request, PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }
}

/// What a failed call says: its code, and the beginning of its message on one line.
pub(super) fn excerpt(status: &Status) -> String {
    let said: String = status.message().escape_debug().take(EXCERPT).collect();
    let code = match status.code() {
        Code::Unknown => String::new(),
        code => format!("{code:?}: "),
    };
    format!("{code}{said}")
}
