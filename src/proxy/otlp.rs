//! Spans on their way to a collector, by OTLP over HTTP.
//!
//! Invariant: nobody waits for the collector. A span is queued or dropped, and everything else happens on a thread of its
//! own; the queue is bounded.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper_util::rt::TokioIo;
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::core::collector::CollectorUrl;

/// Spans that wait, at most; the SDK's own default.
const QUEUE: usize = 2048;
/// Spans of one request, at most.
const BATCH: usize = 512;
/// How long a span waits for company.
const LINGER: Duration = Duration::from_secs(1);
/// One request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// At most this often a collector that does not work is logged.
const REMINDER: Duration = Duration::from_secs(60);
/// What a collector may answer, in bytes.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The exporter's own reason.
    #[error("--otlp-endpoint: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// No thread or no runtime for it.
    #[error("--otlp-endpoint: no thread for the exporter: {0}")]
    Thread(#[from] std::io::Error),
}

/// How it goes, for metrics.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) exported: AtomicU64,
    pub(super) dropped: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Span(Box<SpanData>),
    /// Answered once everything before it has been sent or dropped.
    Flush(oneshot::Sender<()>),
}

/// The end of the queue that spans go into.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Message>,
    pub(super) fate: Arc<Fate>,
}

impl Queue {
    /// Starts the exporter's thread.
    pub(super) fn start(url: &CollectorUrl, resource: &Resource) -> Result<Self, OtlpError> {
        let client = Client { url: url.clone(), last_error: Arc::default() };
        let last_error = Arc::clone(&client.last_error);
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(url.to_string())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIMEOUT)
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        exporter.set_resource(resource);
        let (sender, queue) = mpsc::channel(QUEUE);
        let fate = Arc::new(Fate::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outlet = Outlet { queue, exporter, url: url.to_string(), last_error, fate: Arc::clone(&fate) };
        std::thread::Builder::new().name("otlp".to_owned()).spawn(move || runtime.block_on(outlet.run()))?;
        Ok(Self { sender, fate })
    }

    /// Waits until what is queued has been sent or dropped, or the time is up.
    pub(super) async fn flush(&self, limit: Duration) {
        let (done, wait) = oneshot::channel();
        let flushed = async {
            if self.sender.send(Message::Flush(done)).await.is_ok() {
                let _ = wait.await;
            }
        };
        // What is not out by then is lost with the process.
        let _ = timeout(limit, flushed).await;
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(Message::Span(Box::new(span))).is_err() {
            self.fate.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The end of the queue that spans come out of.
struct Outlet {
    queue: mpsc::Receiver<Message>,
    exporter: SpanExporter,
    url: String,
    last_error: Arc<Mutex<Option<String>>>,
    fate: Arc<Fate>,
}

impl Outlet {
    async fn run(mut self) {
        let mut warned: Option<Instant> = None;
        let mut works = true;
        while let Some(first) = self.queue.recv().await {
            let (batch, flushes) = self.gather(first).await;
            let spans = batch.len() as u64;
            let result = if batch.is_empty() { Ok(()) } else { self.exporter.export(batch).await };
            match result {
                Ok(()) => {
                    self.fate.exported.fetch_add(spans, Ordering::Relaxed);
                    if !works && spans > 0 {
                        tracing::info!(endpoint = self.url, "the collector takes spans again");
                        works = true;
                    }
                }
                Err(error) => {
                    let dropped = self.fate.dropped.fetch_add(spans, Ordering::Relaxed) + spans;
                    works = false;
                    if warned.is_none_or(|at| at.elapsed() >= REMINDER) {
                        warned = Some(Instant::now());
                        let cause = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take();
                        let error = cause.unwrap_or_else(|| error.to_string());
                        tracing::warn!(endpoint = self.url, %error, dropped, "spans are dropped: the collector does not take them");
                    }
                }
            }
            for flush in flushes {
                // Whoever has stopped waiting needs no answer.
                let _ = flush.send(());
            }
        }
    }

    async fn gather(&mut self, first: Message) -> (Vec<SpanData>, Vec<oneshot::Sender<()>>) {
        let (mut batch, mut flushes) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + LINGER;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Span(span) => batch.push(*span),
                Message::Flush(done) => flushes.push(done),
            }
            if batch.len() >= BATCH || !flushes.is_empty() {
                break;
            }
            next = timeout_at(deadline, self.queue.recv()).await.ok().flatten();
        }
        (batch, flushes)
    }
}

/// One connection a request: there is at most one a second.
#[derive(Debug)]
struct Client {
    url: CollectorUrl,
    /// The exporter keeps a failed request's cause to itself.
    last_error: Arc<Mutex<Option<String>>>,
}

impl Client {
    async fn post(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        *request.uri_mut() = self.url.path.parse()?;
        request.headers_mut().insert("host", self.url.authority().parse()?);
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request.map(Body::from)).await?;
        let (head, body) = answer.into_parts();
        let body = to_bytes(Body::new(body), LARGEST_ANSWER).await?;
        driver.abort();
        Ok(Response::from_parts(head, body))
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let result = match timeout(TIMEOUT, self.post(request)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs()).into()),
            };
            result.inspect_err(|error| {
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            })
        })
    }
}
