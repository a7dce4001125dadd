//! The webhook's metrics; every name begins with `bypassctl_webhook_`.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use time::OffsetDateTime;

use crate::core::admission::Verdict;

/// What could not be judged, beside the verdicts.
const INVALID: &str = "invalid";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    reviews: Family<ByVerdict, Counter>,
    duration: Histogram,
    ready: Gauge,
    not_after: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("bypassctl_webhook");
        let reviews = Family::<ByVerdict, Counter>::default();
        registry.register("reviews", "Pods that the API server asked about, by verdict", reviews.clone());
        for verdict in Verdict::ALL.into_iter().map(Verdict::name).chain([INVALID]) {
            // A counter that appears with its first event has no increase to alert on.
            let _ = reviews.get_or_create(&ByVerdict { verdict });
        }
        // 50 µs to 0.4 s: a review takes some 0.1 ms.
        let duration = Histogram::new(exponential_buckets(0.00005, 2.0, 14));
        registry.register("review_duration_seconds", "Time that a review took", duration.clone());
        let ready = Gauge::default();
        registry.register("ready", "Whether /ready says yes", ready.clone());
        let not_after = Gauge::default();
        let help = "When the certificate in use ends, in seconds since 1970";
        registry.register("certificate_not_after_timestamp_seconds", help, not_after.clone());
        Self { registry, reviews, duration, ready, not_after }
    }

    /// `None` for what was no review.
    pub(super) fn reviewed(&self, verdict: Option<Verdict>, took: Duration) {
        let verdict = verdict.map_or(INVALID, Verdict::name);
        self.reviews.get_or_create(&ByVerdict { verdict }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn render(&self, ready: bool, not_after: Option<OffsetDateTime>) -> Result<String, std::fmt::Error> {
        self.ready.set(i64::from(ready));
        self.not_after.set(not_after.map_or(0, OffsetDateTime::unix_timestamp));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
