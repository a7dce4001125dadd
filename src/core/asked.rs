//! A pod beside what it and its sidecar said when they were asked, read once for the checks and for the overview.
//!
//! Invariant: no text here has a control character that a pod chose.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize as _;
use time::{Duration, OffsetDateTime};

use crate::core::checks::word;
use crate::core::facts::{Facts, Live, key};
use crate::core::membership::{View, printable};
use crate::core::report::Observed;
use crate::core::status::Status;

/// Longer than a pull of a common image, the start of a JVM and the forming of a cluster with bootstrap's defaults (15 to
/// 40 s); whoever waits longer waits for something.
pub(in crate::core) const PATIENCE: Duration = Duration::minutes(2);

/// How the reason begins where every way to ask a pod is forbidden to whoever asks.
pub(crate) const FORBIDDEN: &str = "forbidden";

/// A pod that was asked.
pub(in crate::core) struct Asked<'a> {
    /// `pod/namespace/name`.
    pub(in crate::core) object: String,
    pub(in crate::core) pod: &'a Pod,
    pub(in crate::core) live: &'a Live,
    /// What it says of the cluster; why not, where it says nothing that could be read.
    pub(in crate::core) view: Result<View, String>,
    /// The sidecar's word, if what answers is one: older ones, and strangers, have no readiness.
    pub(in crate::core) agent: Option<Status>,
}

impl<'a> Asked<'a> {
    /// `None` for a pod that nobody asked.
    pub(in crate::core) fn new(facts: &'a Facts, pod: &'a Pod) -> Option<Self> {
        let key = key(&pod.metadata);
        let live = facts.live.get(&key)?;
        let view = match &live.members {
            Observed::Seen(answer) => View::parse(answer),
            Observed::Unavailable(reason) => Err(printable(reason)),
        };
        let agent = match &live.agent {
            Observed::Seen(answer) => Status::deserialize(answer).ok(),
            Observed::Unavailable(_) => None,
        };
        let agent = agent.filter(|status| status.readiness.is_some());
        Some(Self { object: format!("pod/{key}"), pod, live, view, agent })
    }

    pub(in crate::core) fn name(&self) -> &'a str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(in crate::core) fn namespace(&self) -> &'a str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// What a command about it needs, whatever it is called: `-n NAMESPACE POD`.
    pub(in crate::core) fn arguments(&self) -> String {
        format!("-n {} {}", word(self.namespace(), "NAMESPACE"), word(self.name(), "POD"))
    }

    /// Whether nothing is known of it because whoever asks may not.
    pub(in crate::core) fn is_forbidden(reason: &str) -> bool {
        reason.starts_with(FORBIDDEN)
    }

    /// Whether it is being deleted.
    pub(in crate::core) fn is_leaving(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether its containers run; who does not cannot answer.
    pub(in crate::core) fn is_running(&self) -> bool {
        self.pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    }

    /// Whether it, or a container of it, has started too lately to be blamed for what is not there yet.
    pub(in crate::core) fn is_young(&self, now: OffsetDateTime) -> bool {
        let Some(status) = &self.pod.status else { return true };
        let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let running = containers.filter_map(|one| one.state.as_ref()?.running.as_ref()?.started_at.as_ref());
        let started = status.start_time.iter().chain(running).map(|time| time.0.as_second()).max();
        started.is_some_and(|started| now.unix_timestamp() - started < PATIENCE.whole_seconds())
    }

    /// Whether one of these pods comes or goes: views differ, and members are on their way, for as long as that takes.
    pub(in crate::core) fn are_in_motion(pods: &[&Self], now: OffsetDateTime) -> bool {
        let leaves = |pod: &Pod| {
            // The time at which its grace ends.
            let end = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second());
            end.is_some_and(|end| now.unix_timestamp() - end < PATIENCE.whole_seconds())
        };
        pods.iter().any(|one| one.is_young(now) || leaves(one.pod) || one.is_gone())
    }

    /// Whether it went between being listed and being asked.
    pub(in crate::core) fn is_gone(&self) -> bool {
        self.view.as_ref().is_err_and(|reason| reason.contains(&format!("pods \"{}\" not found", self.name())))
    }

    /// What it sees of the cluster that it has joined.
    pub(in crate::core) fn joined(&self) -> Option<&View> {
        self.view.as_ref().ok().filter(|view| view.joined())
    }

    /// The label by which bootstrap finds its peers, else who owns the pod.
    pub(in crate::core) fn app(&self) -> &'a str {
        let labels = self.pod.metadata.labels.as_ref();
        let label = ["app", "app.kubernetes.io/name"].iter().find_map(|name| labels?.get(*name));
        let owner = || Some(&self.pod.metadata.owner_references.as_ref()?.first()?.name);
        label.or_else(owner).map_or_else(|| self.name(), String::as_str)
    }
}
