//! Connections as OpenTelemetry spans.
//!
//! A connection is one trace: its span `connection` is told at its end, which may be days away, so `connect` below it, with
//! a `dial` and a `handshake`, is told as soon as app and peer are joined. Invariant: identities are all that a span tells of
//! a certificate, and nothing of what the app says.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::core::collector::CollectorUrl;
use crate::core::outcome::{Gravity, Reason};
use crate::core::route::Direction;
use crate::core::sidecar::Observe;
use crate::proxy::connection::Connection;
use crate::proxy::otlp::{OtlpError, Queue};

/// How long the end of the sidecar waits for the collector.
const FAREWELL: Duration = Duration::from_secs(2);

/// Something that was done on the way to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) started: Instant,
    pub(super) took: Duration,
}

/// Makes spans.
#[derive(Debug)]
pub(super) struct Traces {
    tracer: SdkTracer,
    queue: Queue,
}

impl Traces {
    /// Starts the export.
    pub(super) fn start(url: &CollectorUrl, observe: &Observe) -> Result<Self, OtlpError> {
        let named = [("k8s.namespace.name", &observe.workload_namespace)];
        let named = named.into_iter().filter_map(|(key, value)| value.clone().map(|value| KeyValue::new(key, value)));
        let resource = Resource::builder()
            .with_service_name(observe.workload.clone().unwrap_or_else(|| "bypassctl".to_owned()))
            .with_attribute(KeyValue::new("k8s.cluster.name", observe.cluster_name.clone()))
            .with_attributes(named)
            .build();
        let queue = Queue::start(url, &resource)?;
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_span_processor(queue.clone())
            .build();
        let scope = opentelemetry::InstrumentationScope::builder("bypassctl").with_version(env!("CARGO_PKG_VERSION"));
        Ok(Self { tracer: provider.tracer_with_scope(scope.build()), queue })
    }

    /// App and peer are joined: tells how that came about.
    pub(super) fn joined(&self, connection: &mut Connection) {
        let mut span = self.begin(connection);
        self.connect(connection, &span, None);
        span.set_attributes(who(connection));
        connection.span = Some(Box::new(span));
    }

    /// The connection has ended.
    pub(super) fn ended(&self, connection: &mut Connection, reason: Reason) {
        let mut span = match connection.span.take() {
            Some(span) => *span,
            None => {
                let mut span = self.begin(connection);
                self.connect(connection, &span, Some(reason));
                span.set_attributes(who(connection));
                span
            }
        };
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        span.set_attribute(KeyValue::new("bypassctl.reason", reason.code()));
        span.set_attribute(KeyValue::new("bypassctl.bytes_in", bytes(connection.moved.bytes_in.bytes())));
        span.set_attribute(KeyValue::new("bypassctl.bytes_out", bytes(connection.moved.bytes_out.bytes())));
        fail(&mut span, connection, reason);
        span.end();
    }

    /// Waits a little for what is on its way.
    pub(super) async fn finish(&self) {
        self.queue.flush(FAREWELL).await;
    }

    /// How the export goes, made anew for each scrape.
    pub(super) fn metrics(&self) -> Registry {
        let mut registry = Registry::with_prefix("bypassctl");
        let fate = &self.queue.fate;
        for (name, help, value) in [
            ("spans_exported", "Spans that the collector took", &fate.exported),
            ("spans_dropped", "Spans that it did not take, or not soon enough", &fate.dropped),
        ] {
            let counter = Counter::<u64>::default();
            counter.inc_by(value.load(Ordering::Relaxed));
            registry.register(name, help, counter);
        }
        registry
    }

    fn begin(&self, connection: &Connection) -> Span {
        let kind = match connection.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        };
        let builder = SpanBuilder::from_name("connection").with_kind(kind).with_start_time(at(connection.started));
        self.tracer.build_with_context(builder, &Context::new())
    }

    /// The span of all that came before the first byte, with its steps.
    fn connect(&self, connection: &mut Connection, parent: &Span, failed: Option<Reason>) {
        let below = |span: &Span| Context::new().with_remote_span_context(span.span_context().clone());
        let builder = SpanBuilder::from_name("connect").with_start_time(at(connection.started));
        let mut span = self.tracer.build_with_context(builder, &below(parent));
        for step in std::mem::take(&mut connection.steps) {
            let builder = SpanBuilder::from_name(step.name).with_start_time(at(step.started));
            let mut inner = self.tracer.build_with_context(builder, &below(&span));
            inner.end_with_timestamp(at(step.started) + step.took);
        }
        span.set_attributes(who(connection));
        if let Some(reason) = failed {
            span.set_attribute(KeyValue::new("bypassctl.reason", reason.code()));
            fail(&mut span, connection, reason);
        }
        span.end();
    }
}

/// The wall clock's word for a point of the monotonic clock.
fn at(instant: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(instant.elapsed()).unwrap_or(now)
}

fn fail(span: &mut Span, connection: &Connection, reason: Reason) {
    if reason.gravity() == Gravity::Normal {
        return;
    }
    let detail = connection.failed.as_ref().map(|failed| failed.detail.as_str()).or(connection.detail.as_deref());
    span.set_attribute(KeyValue::new("error.type", reason.code()));
    span.set_status(Status::error(detail.unwrap_or(reason.code()).to_owned()));
}

/// Attributes, by OpenTelemetry's semantic conventions where they have a name.
fn who(connection: &Connection) -> Vec<KeyValue> {
    let peer = connection.peer();
    let mut attributes = vec![
        KeyValue::new("network.transport", "tcp"),
        KeyValue::new("network.peer.address", peer.ip().to_string()),
        KeyValue::new("network.peer.port", i64::from(peer.port())),
        KeyValue::new("bypassctl.direction", connection.direction.name()),
    ];
    let seen = connection.failed.as_ref().and_then(|failed| failed.seen.as_deref());
    let mut tell = |key: &'static str, value: Option<String>| {
        attributes.extend(value.map(|value| KeyValue::new(key, value)));
    };
    tell("bypassctl.original_destination", connection.target.map(|target| target.to_string()));
    tell("bypassctl.peer.identity", connection.identity().map(|identity| &**identity).or(seen).map(str::to_owned));
    let agreed = connection.agreed.as_ref();
    let version = agreed.map(|agreed| agreed.tls.version().trim_start_matches("TLS ").to_owned());
    tell("tls.protocol.version", version.or(connection.plaintext.then(|| "none".to_owned())));
    tell("tls.cipher", agreed.map(|agreed| agreed.tls.cipher().to_owned()));
    attributes
}
