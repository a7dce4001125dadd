//! The webhook's metrics; every name begins with `bypassctl_webhook_`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use time::OffsetDateTime;

use crate::core::admission::Verdict;

/// Why something has no verdict.
#[derive(Clone, Copy, Debug)]
pub(super) enum NoVerdict {
    /// It was no review.
    Invalid,
    /// It did not arrive, or there was no room for it.
    Dropped,
}

impl NoVerdict {
    const ALL: [Self; 2] = [Self::Invalid, Self::Dropped];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Dropped => "dropped",
        }
    }
}

/// Why a connection is closed before its time; see [`crate::webhook::door::Door`].
const REASONS: [&str; 3] = ["share", "full", "gave_way"];
const PORTS: [&str; 2] = ["webhook", "admin"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPort {
    port: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    port: &'static str,
    reason: &'static str,
}

/// Counts connections of a port that are closed before their time.
#[derive(Clone, Debug)]
pub(super) struct TurnedAway {
    port: &'static str,
    counters: Family<ByReason, Counter>,
}

impl TurnedAway {
    pub(super) fn count(&self, reason: &'static str) {
        self.counters.get_or_create(&ByReason { port: self.port, reason }).inc();
    }

    pub(super) fn port(&self) -> &'static str {
        self.port
    }
}

/// A gauge that may be absent: 0 would be an end in 1970.
#[derive(Clone, Debug, Default)]
struct Maybe(Arc<Mutex<Option<i64>>>);

impl Maybe {
    fn set(&self, value: Option<i64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl EncodeMetric for Maybe {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let value = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        value.map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    reviews: Family<ByVerdict, Counter>,
    duration: Histogram,
    connections: Family<ByPort, Gauge>,
    turned_away: Family<ByReason, Counter>,
    ready: Gauge,
    not_after: Maybe,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("bypassctl_webhook");
        let reviews = Family::<ByVerdict, Counter>::default();
        registry.register("reviews", "Pods that the API server asked about, by verdict", reviews.clone());
        for verdict in Verdict::ALL.into_iter().map(Verdict::name).chain(NoVerdict::ALL.map(NoVerdict::name)) {
            // A counter that appears with its first event has no increase to alert on.
            let _ = reviews.get_or_create(&ByVerdict { verdict });
        }
        // 50 µs to 0.4 s: a review takes some 0.1 ms.
        let duration = Histogram::new(exponential_buckets(0.00005, 2.0, 14));
        registry.register("review_duration_seconds", "Time that a review took", duration.clone());
        let connections = Family::<ByPort, Gauge>::default();
        registry.register("connections", "Connections that are open, by port", connections.clone());
        let turned_away = Family::<ByReason, Counter>::default();
        let help = "Connections that were closed because there were too many, by port and reason";
        registry.register("connections_turned_away", help, turned_away.clone());
        for (port, reason) in PORTS.into_iter().flat_map(|port| REASONS.map(|reason| (port, reason))) {
            let _ = turned_away.get_or_create(&ByReason { port, reason });
        }
        let ready = Gauge::default();
        registry.register("ready", "Whether /ready says yes", ready.clone());
        let not_after = Maybe::default();
        let help = "When the certificate in use ends, in seconds since 1970";
        registry.register("certificate_not_after_timestamp_seconds", help, not_after.clone());
        Self { registry, reviews, duration, connections, turned_away, ready, not_after }
    }

    pub(super) fn reviewed(&self, verdict: Verdict, took: Duration) {
        self.reviews.get_or_create(&ByVerdict { verdict: verdict.name() }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn unanswered(&self, why: NoVerdict) {
        self.reviews.get_or_create(&ByVerdict { verdict: why.name() }).inc();
    }

    /// For a port's door.
    pub(super) fn turned_away(&self, port: &'static str) -> TurnedAway {
        TurnedAway { port, counters: self.turned_away.clone() }
    }

    /// `connections` are those of the ports `webhook` and `admin`.
    pub(super) fn render(
        &self,
        ready: bool,
        not_after: Option<OffsetDateTime>,
        connections: [usize; PORTS.len()],
    ) -> Result<String, std::fmt::Error> {
        for (port, open) in PORTS.into_iter().zip(connections) {
            self.connections.get_or_create(&ByPort { port }).set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        self.ready.set(i64::from(ready));
        self.not_after.set(not_after.map(OffsetDateTime::unix_timestamp));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_certificate_is_none_that_has_ended() {
        let metrics = Metrics::new();
        let name = "bypassctl_webhook_certificate_not_after_timestamp_seconds";
        let has =
            |not_after| metrics.render(false, not_after, [0, 0]).unwrap().lines().any(|line| line.starts_with(name));
        assert!(!has(None));
        let text = metrics.render(true, Some(OffsetDateTime::UNIX_EPOCH), [0, 0]).unwrap();
        assert!(text.contains(&format!("\n{name} 0\n")), "{text}");
        assert!(!has(None));
    }
}
