//! What the webhook answers the API server: an `AdmissionReview` in, the same with a JSON patch out.
//!
//! Invariant: a pod that is asked for either gets all of [`crate::core::inject::plan`], or is refused with the reason, or
//! wants nothing; never a part. What is said of it is bounded, whatever the pod says.

mod read;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::core::inject::{self, Injection, Options, is_injected};

pub use read::read;

/// Of a name, in bytes: a namespace, and what a pod may be called.
const LONGEST_NAME: usize = 320;
/// Of a reason, in bytes.
const LONGEST_REASON: usize = 1024;
/// Of a note, in bytes; API servers pass on no more of a warning.
const LONGEST_NOTE: usize = 256;
const MOST_NOTES: usize = 8;
/// API servers' are UUIDs.
const LONGEST_UID: usize = 128;

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod gets the agent.
    Injected,
    /// It has it already, or wants none.
    Untouched,
    /// It cannot have it, and may not be without.
    Refused,
}

impl Verdict {
    /// Every one, for metrics that exist before they happen.
    pub const ALL: [Self; 3] = [Self::Injected, Self::Untouched, Self::Refused];

    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Untouched => "untouched",
            Self::Refused => "refused",
        }
    }
}

/// A judged review.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The `AdmissionReview` to send back.
    pub review: Value,
    /// What it says.
    pub verdict: Verdict,
    /// Which pod, as `namespace/name`; a name that is not given yet ends with `*`.
    pub pod: String,
    /// What somebody should know: the refusal, or warnings.
    pub notes: Vec<String>,
}

/// What is no review of a pod that is to be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReview {
    /// It could not be read.
    #[error("the body is no JSON: {0}")]
    NoJson(String),
    /// It would take too much memory.
    #[error("the body has more than {0} values, and no pod has as many")]
    TooMany(u32),
    /// It asks about something else.
    #[error("no AdmissionReview of admission.k8s.io/v1 that the webhook can answer: {0}")]
    Other(&'static str),
}

/// Judges one review.
///
/// # Errors
/// If it is none, or asks about something else than a pod that is created: the configuration asks for nothing else.
pub fn review(asked: &Value, options: &Options) -> Result<Answer, NoReview> {
    if asked["apiVersion"] != "admission.k8s.io/v1" || asked["kind"] != "AdmissionReview" {
        return Err(NoReview::Other("apiVersion and kind are others"));
    }
    let request = &asked["request"];
    let uid = request["uid"].as_str().ok_or(NoReview::Other("its request has no uid"))?;
    if uid.len() > LONGEST_UID {
        return Err(NoReview::Other("its request's uid is none"));
    }
    if request["kind"]["group"] != "" || request["kind"]["kind"] != "Pod" {
        return Err(NoReview::Other("it is not about a Pod"));
    }
    if request["operation"] != "CREATE" || request["subResource"].as_str().is_some_and(|sub| !sub.is_empty()) {
        return Err(NoReview::Other("nothing is created"));
    }
    let pod = &request["object"];
    if !pod["spec"].is_object() {
        return Err(NoReview::Other("its pod has no spec"));
    }
    let mut response = json!({"uid": uid, "allowed": true});
    let (verdict, notes) = match judge(pod, options) {
        Ok(Some(injection)) => {
            let patch = Value::from(patch(pod, &injection)).to_string();
            response["patchType"] = "JSONPatch".into();
            response["patch"] = json!(ByteString(patch.into_bytes()));
            (Verdict::Injected, shortened(injection.notes))
        }
        Ok(None) => (Verdict::Untouched, Vec::new()),
        Err(refused) => {
            let refused = cut(refused.to_string(), LONGEST_REASON);
            let message = format!("bypassctl: {refused}; to run this pod without the agent, annotate it {OPT_OUT}");
            response["allowed"] = false.into();
            response["status"] = json!({"status": "Failure", "reason": "Forbidden", "code": 403, "message": message});
            (Verdict::Refused, vec![refused])
        }
    };
    if verdict == Verdict::Injected && !notes.is_empty() {
        response["warnings"] = notes.iter().map(|note| format!("bypassctl: {note}")).collect();
    }
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Ok(Answer { review, verdict, pod: shown_name(request), notes })
}

const OPT_OUT: &str = "bypassctl.io/inject: \"false\"";

fn judge(pod: &Value, options: &Options) -> Result<Option<Injection>, inject::Refused> {
    // A template that `inject` changed, or a second call after another webhook's change: what is there stays. The annotation
    // alone, copied from elsewhere, is no agent.
    if is_injected(pod) && has_sidecar(&pod["spec"]) {
        return Ok(None);
    }
    let metadata = &pod["metadata"];
    // A Job's pod is one that has to end.
    let kind = if controller(metadata).is_some_and(|(kind, _)| kind == "Job") { "Job" } else { "Pod" };
    inject::plan(kind, &workload(metadata), pod, options)
}

fn has_sidecar(spec: &Value) -> bool {
    let mut containers =
        ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    containers.any(|container| container["name"] == inject::SIDECAR)
}

/// Kind and name of who made the pod.
fn controller(metadata: &Value) -> Option<(&str, &str)> {
    let owner = metadata["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["name"].as_str()?))
}

/// The name that the workload's manifest has: what the Secret of the certificate is named after.
///
/// Source: the names that the controllers of Deployments (`NAME-HASH`, its hash also a label) and CronJobs (`NAME-MINUTES`,
/// since the epoch) give to what they make.
fn workload(metadata: &Value) -> String {
    let Some((kind, name)) = controller(metadata) else {
        let generated = metadata["generateName"].as_str().unwrap_or_default().trim_end_matches('-');
        return metadata["name"].as_str().unwrap_or(generated).to_owned();
    };
    let shorter = match kind {
        "ReplicaSet" => {
            metadata["labels"]["pod-template-hash"].as_str().and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
        }
        "Job" => name
            .rsplit_once('-')
            .filter(|(_, minutes)| minutes.len() >= 8 && minutes.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|(name, _)| name),
        _ => None,
    };
    shorter.unwrap_or(name).to_owned()
}

/// Additions alone, so that it fits whatever else is in the pod; to a variable of the app's too ours is added.
fn patch(pod: &Value, injection: &Injection) -> Vec<Value> {
    let mut patch = Vec::new();
    let metadata = &pod["metadata"];
    if metadata["annotations"].is_object() {
        for (name, value) in &injection.annotations {
            let path = format!("/metadata/annotations/{}", name.replace('~', "~0").replace('/', "~1"));
            patch.push(json!({"op": "add", "path": path, "value": value}));
        }
    } else {
        if !metadata.is_object() {
            patch.push(json!({"op": "add", "path": "/metadata", "value": {}}));
        }
        patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": injection.annotations}));
    }
    // First, while the containers have the places that they were found at.
    for change in &injection.apps {
        let container = &pod["spec"]["containers"][change.container];
        let place = format!("/spec/containers/{}", change.container);
        for (variable, own) in &change.joined {
            let value = container["env"][variable]["value"].as_str().unwrap_or_default().to_owned() + own;
            patch.push(json!({"op": "replace", "path": format!("{place}/env/{variable}/value"), "value": value}));
        }
        for (list, items) in [("env", &change.env), ("volumeMounts", &change.mounts)] {
            if !container[list].is_array() {
                patch.push(json!({"op": "add", "path": format!("{place}/{list}"), "value": items}));
                continue;
            }
            for (at, item) in items.iter().enumerate() {
                patch.push(json!({"op": "add", "path": format!("{place}/{list}/{at}"), "value": item}));
            }
        }
    }
    for (list, items, first) in injection.additions() {
        let path = format!("/spec/{list}");
        if !items.is_empty() && !pod["spec"][list].is_array() {
            patch.push(json!({"op": "add", "path": path, "value": items}));
            continue;
        }
        for (at, item) in items.iter().enumerate() {
            let place = if first { at.to_string() } else { "-".to_owned() };
            patch.push(json!({"op": "add", "path": format!("{path}/{place}"), "value": item}));
        }
    }
    patch
}

fn shown_name(request: &Value) -> String {
    let namespace = request["namespace"].as_str().unwrap_or_default();
    let metadata = &request["object"]["metadata"];
    let shown = match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
        (Some(name), _) => format!("{namespace}/{name}"),
        (None, start) => format!("{namespace}/{}*", start.unwrap_or_default()),
    };
    cut(shown, LONGEST_NAME)
}

fn shortened(mut notes: Vec<String>) -> Vec<String> {
    let more = notes.len().saturating_sub(MOST_NOTES);
    notes.truncate(MOST_NOTES);
    let mut notes: Vec<String> = notes.into_iter().map(|note| cut(note, LONGEST_NOTE)).collect();
    if more > 0 {
        notes.push(format!("and {more} more"));
    }
    notes
}

/// What a pod says may be as long as its author likes, and stands in logs and answers.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
