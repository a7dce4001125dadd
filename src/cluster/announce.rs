//! Tells Kubernetes of a sidecar's state: events of its pod, and the condition that a readiness gate waits for.
//!
//! Invariant: the data path never waits for it. What cannot be told is logged once, and tried again.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use crate::cluster::client::causes;
use crate::core::inject::GATE;
use crate::core::news::{News, Refused, Standing, between, tell_of};

/// News of the last seconds come together.
const PERIOD: Duration = Duration::from_secs(1);
/// Kubernetes forgets nothing; but somebody may have written over it, and an API server may have been away.
const REPEAT: Duration = Duration::from_secs(60);
/// How long a reason stands before another one takes its place.
const REASONS: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(5);
/// The API takes no longer one, in bytes.
const LONGEST_ACTION: usize = 128;
/// The API takes no longer one, in bytes.
const LONGEST_NOTE: usize = 1000;

/// Which pod, and what of it is told.
#[derive(Clone)]
pub struct Announcer {
    /// The API server.
    pub client: kube::Client,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid, without which `kubectl describe` does not find events.
    pub uid: String,
    /// Whether events are made.
    pub events: bool,
    /// Whether the condition is set.
    pub condition: bool,
}

impl Announcer {
    /// Tells what happens until nobody says anything any more.
    pub async fn run(self, mut standing: watch::Receiver<Standing>) {
        let reporter = Reporter { controller: "bypassctl.io/proxy".to_owned(), instance: Some(self.pod.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let (mut before, mut was) = (Standing::default(), OffsetDateTime::now_utc());
        let mut told: Option<Told> = None;
        let mut turned = was;
        let mut faults = Faults::default();
        let mut refused = Refused::new();
        loop {
            let mut after = standing.borrow_and_update().clone();
            let now = OffsetDateTime::now_utc();
            tell_of(&after.refused, &mut refused);
            after.refused.clone_from(&refused);
            if self.events {
                for news in between(&before, &after, was, now) {
                    faults.note(
                        "an event",
                        "create and patch on events.events.k8s.io",
                        self.publish(&recorder, news).await,
                    );
                }
            }
            if after.ready != before.ready {
                turned = now;
            }
            (before, was) = (after, now);
            if self.condition && told.as_ref().is_none_or(|told| told.is_old(&before)) {
                let set = self.set_condition(&before, turned).await;
                let failed = set.is_err();
                faults.note("the pod's condition", "patch on pods/status", set);
                // Not told: again after a while, whatever it is then.
                told = (!failed).then(|| Told::of(&before));
                if failed {
                    tokio::time::sleep(RETRY).await;
                }
            }
            tokio::time::sleep(PERIOD).await;
            // Certificates end without a change of anything else.
            if let Ok(Err(_)) = tokio::time::timeout(PERIOD, standing.changed()).await {
                // A sidecar that has stopped carries nothing; one that is killed cannot say so.
                let stopped = Standing { why_not: "the sidecar has stopped".to_owned(), ..Standing::default() };
                if self.condition {
                    let turned = if before.ready { OffsetDateTime::now_utc() } else { turned };
                    let set = self.set_condition(&stopped, turned).await;
                    faults.note("the pod's condition", "patch on pods/status", set);
                }
                return;
            }
        }
    }

    async fn publish(&self, recorder: &Recorder, news: News) -> Result<(), kube::Error> {
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.pod.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        };
        // Events of one action are counted together, under the note of the first.
        let event = Event {
            type_: if news.warning { EventType::Warning } else { EventType::Normal },
            reason: news.reason.to_owned(),
            action: cut(&news.note, LONGEST_ACTION).to_owned(),
            note: Some(cut(&news.note, LONGEST_NOTE).to_owned()),
            secondary: None,
        };
        recorder.publish(&event, &pod).await
    }

    /// Written again with the same `turned` it changes nothing, and costs the API server no write.
    async fn set_condition(&self, standing: &Standing, turned: OffsetDateTime) -> Result<(), kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let (status, reason) = if standing.ready { ("True", "Ready") } else { ("False", "NotReady") };
        let condition = json!({
            "type": GATE, "status": status, "reason": reason, "message": cut(&standing.why_not, LONGEST_NOTE),
            "lastTransitionTime": turned.replace_nanosecond(0).unwrap_or(turned).format(&Rfc3339).unwrap_or_default(),
        });
        // Conditions are merged by their type, so the kubelet's are not written. Of another pod of this name nothing is.
        let patch = json!({"metadata": {"uid": self.uid}, "status": {"conditions": [condition]}});
        pods.patch_status(&self.pod, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }
}

/// What the condition says, and since when.
struct Told {
    ready: bool,
    why_not: String,
    at: tokio::time::Instant,
}

impl Told {
    fn of(standing: &Standing) -> Self {
        Self { ready: standing.ready, why_not: standing.why_not.clone(), at: tokio::time::Instant::now() }
    }

    /// Whether it has to be told again. Reasons may change with every look; whether it is ready does not wait.
    fn is_old(&self, standing: &Standing) -> bool {
        self.ready != standing.ready
            || (self.why_not != standing.why_not && self.at.elapsed() > REASONS)
            || self.at.elapsed() > REPEAT
    }
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What failed last, so that it is logged once.
#[derive(Default)]
struct Faults(Option<String>);

impl Faults {
    fn note(&mut self, what: &str, rights: &str, result: Result<(), kube::Error>) {
        match result {
            Ok(()) => self.0 = None,
            Err(error) => {
                let fault = causes(&error);
                if self.0.as_ref() != Some(&fault) {
                    tracing::warn!(error = fault, "{what} cannot be written; the pod's service account needs {rights}");
                    self.0 = Some(fault);
                }
            }
        }
    }
}
