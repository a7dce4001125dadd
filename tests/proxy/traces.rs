//! With --otlp-endpoint a collector is told of each connection, and no connection waits for it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::harness::{App, Certificates, DEADLINE, Sidecar, assert_echo, connect, eventually, free_port, local};

/// Takes what exporters send.
struct Collector {
    endpoint: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let request = take(stream.unwrap());
                taken.lock().unwrap().push(request);
            }
        });
        Self { endpoint, requests }
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|one| &one.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The span of this name that a predicate holds for.
    fn span(&self, name: &str, is_meant: impl Fn(&Span) -> bool) -> Span {
        eventually(&format!("a span {name}"), || {
            self.spans().into_iter().find(|span| span.name == name && is_meant(span))
        })
    }

    fn resource(&self) -> Vec<KeyValue> {
        self.requests.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap().attributes
    }
}

fn take(mut stream: TcpStream) -> ExportTraceServiceRequest {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    ExportTraceServiceRequest::decode(body.as_slice()).unwrap()
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.clone());
    match found.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

fn of(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key)
}

fn counted(sidecar: &Sidecar, what: &str) -> u64 {
    let metrics = sidecar.get("/metrics").1;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("bypassctl_spans_{what}_total ")));
    line.unwrap_or_else(|| panic!("no bypassctl_spans_{what}_total in\n{metrics}")).parse().unwrap()
}

/// Promise: how a connection came about is told while it is open, and all of it at its end, in one trace.
#[test]
fn a_connection_is_one_trace_told_as_it_goes() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let (app, collector) = (App::echo(), Collector::start());
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let traced = ["--otlp-endpoint", &collector.endpoint, "--workload", "cart-v2"];
    let near = Sidecar::between(&dir, far.inbound, local(1), &traced);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "hello");

    let connecting = collector.span("connect", |_| true);
    assert_eq!(of(&connecting, "bypassctl.peer.identity"), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(of(&connecting, "network.peer.port"), far.inbound.port().to_string());
    assert_eq!(of(&connecting, "bypassctl.direction"), "outbound");
    assert_eq!(of(&connecting, "tls.protocol.version"), "1.3");
    for step in ["dial", "handshake"] {
        let step = collector.span(step, |step| step.parent_span_id == connecting.span_id);
        assert!(step.start_time_unix_nano < step.end_time_unix_nano, "{step:?}");
        assert!(step.end_time_unix_nano <= connecting.end_time_unix_nano + 1_000_000, "{step:?} in {connecting:?}");
    }
    assert_eq!(attribute(&collector.resource(), "service.name"), "cart-v2");
    assert!(collector.spans().iter().all(|span| span.name != "connection"), "it is still open");

    drop(stream);
    let whole = collector.span("connection", |_| true);
    assert_eq!((&whole.span_id, &whole.trace_id), (&connecting.parent_span_id, &connecting.trace_id));
    assert_eq!((of(&whole, "bypassctl.reason"), of(&whole, "bypassctl.bytes_out")), ("closed".into(), "5".into()));
    assert!(whole.start_time_unix_nano <= connecting.start_time_unix_nano + 1_000_000);
    assert!(whole.status.is_none_or(|status| status.code == 0), "a normal end is no error");
    eventually("all four are counted", || (counted(&near, "exported") == 4).then_some(()));
    assert_eq!(counted(&near, "dropped"), 0);
    assert!(!far.get("/metrics").1.contains("bypassctl_spans"), "nobody asked it for traces");
}

/// Promise: a refused peer is a trace too, with the reason and whom it claimed to be.
#[test]
fn a_refusal_is_a_span_with_its_reason() {
    let certificates = Certificates::new();
    let (app, collector) = (App::echo(), Collector::start());
    let traced = ["--otlp-endpoint", &collector.endpoint];
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &traced);
    let stranger = Sidecar::between(&certificates.tls_dir("stranger"), far.inbound, local(1), &["--allow", "ca"]);
    let _ = connect(stranger.outbound).map(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()));
    let refused = collector.span("connection", |span| of(span, "bypassctl.reason") == "denied");
    assert_eq!(of(&refused, "bypassctl.peer.identity"), "spiffe://cluster.local/ns/shop/sa/stranger");
    assert_eq!(of(&refused, "error.type"), "denied");
    let status = refused.status.clone().expect("a status");
    assert!(status.code == 2 && status.message.contains("stranger"), "{status:?}");
}

/// Promise: what ends with the sidecar is told before it goes.
#[test]
fn what_is_queued_at_the_end_is_sent() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let (app, collector) = (App::echo(), Collector::start());
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let traced = ["--otlp-endpoint", &collector.endpoint, "--drain-timeout", "0"];
    let mut near = Sidecar::between(&dir, far.inbound, local(1), &traced);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "hello");
    near.signal(Signal::SIGTERM);
    assert!(eventually("the end", || near.has_ended()).success());
    let last = collector.span("connection", |_| true);
    assert_eq!(of(&last, "bypassctl.reason"), "drained");
}

/// Promise: a collector that is not there, or takes connections and says nothing, costs spans and one line in the log.
#[test]
fn a_dead_collector_costs_spans_and_nothing_else() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = free_port();
    for (port, cause) in [(closed, "refused"), (silent.local_addr().unwrap().port(), "no answer within 5 s")] {
        let endpoint = format!("http://127.0.0.1:{port}");
        let near = Sidecar::between(&dir, far.inbound, local(1), &["--otlp-endpoint", &endpoint]);
        for _ in 0..3 {
            assert_echo(&mut connect(near.outbound).unwrap(), "as if nothing was wrong");
        }
        near.log_line(&["spans are dropped", cause, &format!("{endpoint}/v1/traces")]);
        assert!(counted(&near, "dropped") >= 4);
        assert_echo(&mut connect(near.outbound).unwrap(), "still");
        std::thread::sleep(std::time::Duration::from_millis(2500));
        assert_eq!(near.log().matches("spans are dropped").count(), 1, "{}", near.log());
    }
}
