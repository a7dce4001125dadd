//! Prometheus metrics; every name begins with `bypassctl_`.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;

use crate::core::outcome::Reason;
use crate::core::route::{Direction, TlsMode};
use crate::proxy::{Sidecar, istio, traffic};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDirection {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLimit {
    direction: &'static str,
    option: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWay {
    direction: &'static str,
    way: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFamily {
    family: &'static str,
}

/// When credentials end, in seconds since 1970. Without credentials there is no such time, and no metric of it: a 0 would
/// set off the alarm of whoever compares it with now.
#[derive(Clone, Debug, Default)]
struct Ends {
    leaf: Gauge,
    roots: Gauge,
}

impl Collector for Ends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, end) in [
            (
                "certificate_not_after_timestamp_seconds",
                "When our certificate expires, in seconds since 1970",
                &self.leaf,
            ),
            (
                "roots_not_after_timestamp_seconds",
                "When the first of our roots expires, in seconds since 1970",
                &self.roots,
            ),
        ] {
            if end.get() != 0 {
                end.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }
}

/// All metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    connections: Family<ByReason, Counter>,
    active: Family<ByDirection, Gauge>,
    bytes: Family<ByWay, Counter>,
    connects: Family<ByDirection, Histogram>,
    handshakes: Family<ByDirection, Histogram>,
    accept_errors: Family<ByDirection, Counter>,
    waits: Family<ByLimit, Counter>,
    denied: Family<ByDirection, Counter>,
    rules: Family<ByFamily, Gauge>,
    rules_whole: Gauge,
    rules_repairs: Counter<u64, AtomicU64>,
    lines_lost: Counter<u64, AtomicU64>,
    pub(super) plaintext_accepted: Counter,
    pub(super) permissive_fallbacks: Counter,
    pub(super) connect_retries: Counter,
    faults: Gauge,
    strays: Gauge,
    open_circuits: Gauge,
    overdue: Gauge,
    ready: Gauge,
    ends: Ends,
    reloads_ok: Counter<u64, AtomicU64>,
    reloads_failed: Counter<u64, AtomicU64>,
}

/// Counts a connection as active until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveGuard(Gauge);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// 0.1 ms to 6.6 s: on one node a dial takes 0.1 ms, and is given up after 4 s.
fn connect_buckets() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.0001, 2.0, 17))
}

/// 1 ms to 8 s: a handshake on one node takes 1 to 3 ms.
fn handshake_buckets() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.001, 2.0, 14))
}

impl Metrics {
    pub(super) fn new(mode: TlsMode, watches_rules: bool) -> Self {
        let mut registry = Registry::with_prefix("bypassctl");
        let connections = Family::<ByReason, Counter>::default();
        registry.register("connections", "Connections that ended, by reason", connections.clone());
        let active = Family::<ByDirection, Gauge>::default();
        registry.register("connections_active", "Connections that are open", active.clone());
        let bytes = Family::<ByWay, Counter>::default();
        registry.register("bytes", "Bytes of the app's streams, in (to the app) and out (from it)", bytes.clone());
        let connects = Family::<ByDirection, Histogram>::new_with_constructor(connect_buckets);
        let help = "Dials that succeeded: of the peer (outbound), of the app (inbound)";
        registry.register("connect_duration_seconds", help, connects.clone());
        let handshakes = Family::<ByDirection, Histogram>::new_with_constructor(handshake_buckets);
        registry.register("handshake_duration_seconds", "TLS handshakes that succeeded", handshakes.clone());
        let accept_errors = Family::<ByDirection, Counter>::default();
        let help = "Times that the kernel would not hand over a connection: for want of descriptors or memory";
        registry.register("accept_errors", help, accept_errors.clone());
        for direction in [Direction::Inbound, Direction::Outbound] {
            // A counter that appears with its first error has no increase to alert on.
            let _ = accept_errors.get_or_create(&ByDirection { direction: direction.name() });
        }
        let waits = Family::<ByLimit, Counter>::default();
        let help = "Times that the next connection had to wait because as many as may be were open, or unfinished";
        registry.register("accept_waits", help, waits.clone());
        let denied = Family::<ByDirection, Counter>::default();
        registry.register("denied", "Peers whose certificate or identity was refused", denied.clone());
        let plaintext_accepted = Counter::default();
        registry.register("plaintext_accepted", "Plaintext connections let in", plaintext_accepted.clone());
        let permissive_fallbacks = Counter::default();
        let help = "Peers dialled again in plaintext because they showed that they speak no TLS";
        registry.register("permissive_fallbacks", help, permissive_fallbacks.clone());
        let connect_retries = Counter::default();
        let help = "Times that a peer was dialled again because nobody listened or it had no place";
        registry.register("connect_retries", help, connect_retries.clone());
        let faults = Gauge::default();
        registry.register("faults_active", "Ordered faults that are in force", faults.clone());
        let strays = Gauge::default();
        let help = "Peers that are dialled past the sidecar, with --path ports, as they were seen last";
        registry.register("strays", help, strays.clone());
        let open_circuits = Gauge::default();
        let help = "Peers that are left alone because they could not be had";
        registry.register("circuits_open", help, open_circuits.clone());
        let overdue = Gauge::default();
        registry.register("permissive_overdue", "1 if permissive mode has outlived its day", overdue.clone());
        let rules = Family::<ByFamily, Gauge>::default();
        registry.register("rules_present", "1 if the rules redirect the sidecar's canary to it", rules.clone());
        let rules_whole = Gauge::default();
        let lines_lost = Counter::default();
        let help = "Log lines that were lost: nobody took them in time, or they could not be written";
        registry.register("log_lines_lost", help, lines_lost.clone());
        let rules_repairs = Counter::default();
        if watches_rules {
            let help = "1 if the rules, read with NET_ADMIN, do all that they have to; -1 if they cannot be seen";
            registry.register("rules_whole", help, rules_whole.clone());
            registry.register("rules_repairs", "Times that the sidecar put the rules back", rules_repairs.clone());
        }
        let ready = Gauge::default();
        registry.register("ready", "1 if /ready says so", ready.clone());
        let ends = Ends::default();
        registry.register_collector(Box::new(ends.clone()));
        let reloads_ok = Counter::default();
        registry.register("certificate_reloads", "Times that changed credentials were taken", reloads_ok.clone());
        let reloads_failed = Counter::default();
        let help = "Times that changed credentials were not usable";
        registry.register("certificate_reloads_failed", help, reloads_failed.clone());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION").to_owned()), ("mode", mode.to_string())]);
        registry.register("build", "What runs here", build);
        Self {
            registry,
            connections,
            active,
            bytes,
            connects,
            handshakes,
            accept_errors,
            waits,
            denied,
            rules,
            rules_whole,
            rules_repairs,
            lines_lost,
            plaintext_accepted,
            permissive_fallbacks,
            connect_retries,
            faults,
            strays,
            open_circuits,
            overdue,
            ready,
            ends,
            reloads_ok,
            reloads_failed,
        }
    }

    /// The counters of bytes in and of bytes out.
    pub(super) fn bytes(&self, direction: Direction) -> (Counter, Counter) {
        let way = |way| self.bytes.get_or_create(&ByWay { direction: direction.name(), way }).clone();
        (way("in"), way("out"))
    }

    pub(super) fn active(&self, direction: Direction) -> ActiveGuard {
        let gauge = self.active.get_or_create(&ByDirection { direction: direction.name() }).clone();
        gauge.inc();
        ActiveGuard(gauge)
    }

    pub(super) fn connect(&self, direction: Direction, took: Duration) {
        self.connects.get_or_create(&ByDirection { direction: direction.name() }).observe(took.as_secs_f64());
    }

    pub(super) fn waited(&self, direction: Direction, option: &'static str) {
        self.waits.get_or_create(&ByLimit { direction: direction.name(), option }).inc();
    }

    pub(super) fn accept_error(&self, direction: Direction) {
        self.accept_errors.get_or_create(&ByDirection { direction: direction.name() }).inc();
    }

    pub(super) fn handshake(&self, direction: Direction, took: Duration) {
        self.handshakes.get_or_create(&ByDirection { direction: direction.name() }).observe(took.as_secs_f64());
    }

    pub(super) fn ended(&self, direction: Direction, reason: Reason) {
        let direction = direction.name();
        self.connections.get_or_create(&ByReason { direction, reason: reason.code() }).inc();
        if matches!(reason, Reason::Denied | Reason::Untrusted | Reason::Revoked | Reason::NoCertificate) {
            self.denied.get_or_create(&ByDirection { direction }).inc();
        }
    }

    pub(super) fn rules(&self, family: &'static str, present: bool) {
        self.rules.get_or_create(&ByFamily { family }).set(i64::from(present));
    }

    /// The exposition, in the OpenMetrics text format.
    pub(super) fn render(&self, sidecar: &Sidecar, now: OffsetDateTime) -> Result<String, std::fmt::Error> {
        self.overdue.set(i64::from(sidecar.config.is_permissive_overdue(now)));
        self.ready.set(i64::from(sidecar.readiness(now).ready));
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.faults.set(count(sidecar.faults.active().len()));
        self.strays.set(count(sidecar.strays.count()));
        let open = sidecar.circuits.standings().iter().filter(|standing| standing.is_refused()).count();
        self.open_circuits.set(count(open));
        self.lines_lost.inner().store(sidecar.log.lost(), std::sync::atomic::Ordering::Relaxed);
        if let Some(rules) = sidecar.rules() {
            self.rules_whole.set(if rules.seen { i64::from(rules.faults.is_empty()) } else { -1 });
            self.rules_repairs.inner().store(rules.repairs, std::sync::atomic::Ordering::Relaxed);
        }
        if let Some(credentials) = sidecar.credentials() {
            self.ends.leaf.set(credentials.leaf.not_after.unix_timestamp());
            let first = credentials.roots.iter().map(|root| root.not_after.unix_timestamp()).min();
            self.ends.roots.set(first.unwrap_or_default());
        }
        if let Some(state) = sidecar.reload_state() {
            use std::sync::atomic::Ordering::Relaxed;
            self.reloads_ok.inner().store(state.succeeded, Relaxed);
            self.reloads_failed.inner().store(state.failed, Relaxed);
        }
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        let traffic = sidecar.board.traffic();
        encode_registry(&mut text, &traffic::metrics(&traffic))?;
        if sidecar.config.observe.istio_metrics {
            encode_registry(&mut text, &istio::metrics(&traffic, &sidecar.party()))?;
        }
        if let Some(traces) = &sidecar.traces {
            encode_registry(&mut text, &traces.metrics())?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}
