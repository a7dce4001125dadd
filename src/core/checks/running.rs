//! Whether the pods run at all, as Kubernetes tells it: what was never made, scheduled, pulled, configured or started is in
//! no cluster, whatever its manifest says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Event, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use time::{Duration, OffsetDateTime};

use crate::core::asked::{Asked, PATIENCE};
use crate::core::checks::discovery::matches;
use crate::core::checks::subject::{NONE, Subject, seen};
use crate::core::checks::{Findings, word};
use crate::core::facts::{Facts, Source, Workload, key, last_seen};

/// A restart longer ago is history.
const RECENT: Duration = Duration::minutes(10);
/// As many restarts, the last one lately, are a loop; the kubelet calls it one only between two turns.
const LOOP: i32 = 3;
/// Characters of what Kubernetes says that are repeated.
const LONGEST: usize = 400;

/// What a container waits for on its ordinary way; each other reason is a failure (kubelet, container status reasons).
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

pub(super) fn run(facts: &Facts, subjects: &[Subject], findings: &mut Findings) {
    // Of manifests nobody has made pods yet.
    let (Source::Cluster { .. }, Ok(pods)) = (&facts.source, seen(&facts.objects.pods)) else { return };
    let events = seen(&facts.objects.events).unwrap_or_default();
    let is_ours = |pod: &&Pod| {
        facts.live.contains_key(&key(&pod.metadata)) || subjects.iter().any(|subject| owns(subject.workload, pod))
    };
    for pod in pods.iter().filter(is_ours) {
        of_pod(pod, facts, events, findings);
    }
    for subject in subjects {
        wanted(subject, pods, events, facts.taken, findings);
    }
}

/// Whether the workload counts this pod as its own.
fn owns(workload: &Workload, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref().unwrap_or(&NONE);
    let empty = |labels: &BTreeMap<String, String>| labels.is_empty();
    pod.metadata.namespace == workload.metadata.namespace
        && workload.selector.as_ref().is_some_and(|selector| {
            let selects_all = selector.match_labels.as_ref().is_none_or(empty)
                && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
            !selects_all && matches(selector, labels)
        })
}

/// Whether a pod of the workload says that it is a member of a cluster.
pub(super) fn has_joined(subject: &Subject) -> bool {
    let Ok(pods) = seen(&subject.facts.objects.pods) else { return false };
    let ours = pods.iter().filter(|pod| owns(subject.workload, pod));
    ours.filter_map(|pod| Asked::new(subject.facts, pod)).any(|asked| asked.joined().is_some())
}

/// Addresses of the workload's pods of one family, the one that each pod is called by; none of manifests.
pub(super) fn addresses(subject: &Subject) -> Vec<IpAddr> {
    let Ok(pods) = seen(&subject.facts.objects.pods) else { return Vec::new() };
    let ours = pods.iter().filter(|pod| owns(subject.workload, pod) && is_there(pod));
    ours.filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()).collect()
}

/// How a pod stands.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::core) enum State {
    /// Its containers run.
    Runs,
    /// It is on its ordinary way.
    Starts(String),
    /// It does not run, and will not by itself.
    Broken {
        /// Why.
        reason: String,
        /// The container whose log tells more.
        log_of: Option<String>,
    },
}

/// How the pod stands; `None` where nothing is expected of it: it leaves, has done its work, or is replaced by another.
pub(in crate::core) fn state(pod: &Pod, now: OffsetDateTime) -> Option<State> {
    let status = pod.status.as_ref()?;
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let controlled = pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    if pod.metadata.deletion_timestamp.is_some() || phase == "Succeeded" || (phase == "Failed" && controlled) {
        return None;
    }
    if phase == "Failed" {
        let said = [&status.reason, &status.message].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
        return Some(broken(if said.is_empty() { "it has failed".to_owned() } else { said }));
    }
    if let Some(container) = container_statuses(status).find_map(|one| failing(one, now)) {
        return Some(container);
    }
    if phase == "Running" {
        return Some(State::Runs);
    }
    let (reason, log_of) = waits_for(pod, status);
    let waited = pod.metadata.creation_timestamp.as_ref().map(|time| since(time, now));
    Some(match waited {
        Some(waited) if waited < PATIENCE => State::Starts(reason),
        waited => {
            let waited = waited.map(|waited| format!(", {} min after it was made", waited.whole_minutes()));
            State::Broken { reason: reason + &waited.unwrap_or_default(), log_of }
        }
    })
}

fn broken(reason: impl Into<String>) -> State {
    State::Broken { reason: reason.into(), log_of: None }
}

fn since(time: &Time, now: OffsetDateTime) -> Duration {
    Duration::seconds(now.unix_timestamp().saturating_sub(time.0.as_second()))
}

fn container_statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

/// A container that failed to start, or started and failed.
fn failing(container: &ContainerStatus, now: OffsetDateTime) -> Option<State> {
    let (state, name) = (container.state.as_ref()?, &container.name);
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if ORDINARY.contains(&reason) || reason.is_empty() {
            return None;
        }
        if reason == "CrashLoopBackOff" {
            return Some(loops(container));
        }
        let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        return Some(broken(format!("container {name}: {reason}{message}")));
    }
    if container.restart_count >= LOOP && !container.ready && restarted_lately(container, now) {
        return Some(loops(container));
    }
    let end = state.terminated.as_ref().filter(|end| end.exit_code != 0)?;
    Some(State::Broken { reason: format!("container {name} {}", ended(end)), log_of: Some(name.clone()) })
}

fn restarted_lately(container: &ContainerStatus, now: OffsetDateTime) -> bool {
    let end = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    end.and_then(|end| end.finished_at.as_ref()).is_some_and(|finished| since(finished, now) < RECENT)
}

fn loops(container: &ContainerStatus) -> State {
    let last = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.clone())
    };
    let end = last(&container.state).or_else(|| last(&container.last_state));
    let end = end.map(|end| format!(": it {}", ended(&end))).unwrap_or_default();
    let name = &container.name;
    let reason = match container.restart_count {
        0 | 1 => format!("container {name} does not stay up{end}"),
        count => format!("container {name} starts again and again ({count} times){end}"),
    };
    State::Broken { reason, log_of: Some(container.name.clone()) }
}

/// As in `ended with exit code 137 (OOMKilled)`; what the app itself left as its last message may hold anything.
fn ended(end: &ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().filter(|reason| *reason != "Error");
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("ended with exit code {}{reason}", end.exit_code)
}

/// What a pod that does not run yet waits for, and whose log may tell why.
fn waits_for(pod: &Pod, status: &PodStatus) -> (String, Option<String>) {
    if let Some(scheduled) = condition(status, "PodScheduled").filter(|one| one.status == "False") {
        let message = scheduled.message.as_deref().or(scheduled.reason.as_deref()).unwrap_or("nobody says why");
        return (format!("no node was found for it: {message}"), None);
    }
    let sidecars = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> =
        sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always")).map(|one| one.name.as_str()).collect();
    let running = |one: &&ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
    let init = status.init_container_statuses.iter().flatten().find(|one| {
        let is_sidecar = sidecars.contains(&one.name.as_str());
        running(one) && !(is_sidecar && one.started == Some(true))
    });
    match init {
        Some(one) if sidecars.contains(&one.name.as_str()) => {
            (format!("sidecar {} runs and has not started: its startup probe fails", one.name), Some(one.name.clone()))
        }
        Some(one) => (format!("init container {} still runs", one.name), Some(one.name.clone())),
        None if status.phase.as_deref() == Some("Unknown") => ("its node does not answer".to_owned(), None),
        None => ("its containers are being made".to_owned(), None),
    }
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn of_pod(pod: &Pod, facts: &Facts, events: &[Event], findings: &mut Findings) {
    let now = facts.taken;
    let Some(state) = state(pod, now) else { return };
    let object = format!("pod/{}", key(&pod.metadata));
    let namespace = word(pod.metadata.namespace.as_deref().unwrap_or("default"), "NAMESPACE");
    let name = word(pod.metadata.name.as_deref().unwrap_or_default(), "POD");
    let describe = format!("kubectl describe pod {name} -n {namespace}");
    let said = |reason: String| match latest(events, |event| is_about(event, pod)) {
        Some(event) if !reason.contains(&event) => short(&format!("{reason}; {event}")),
        _ => short(&reason),
    };
    match state {
        State::Runs => findings.pass("pods-running", &object, "its containers run"),
        State::Starts(reason) => return findings.pending("pods-running", &object, said(reason)),
        State::Broken { reason, log_of } => {
            let next = match &log_of {
                Some(container) => {
                    let has_ended = pod.status.iter().flat_map(container_statuses).any(|one| {
                        one.name == *container && one.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
                    });
                    let previous = if has_ended { " --previous" } else { "" };
                    format!("kubectl logs {name} -n {namespace} -c {}{previous}", word(container, "CONTAINER"))
                }
                None => describe.clone(),
            };
            // The log of the container tells more than the event that it is restarted.
            let message = if log_of.is_some() { short(&reason) } else { said(reason) };
            return findings.fail("pods-running", &object, message, &next);
        }
    }
    restarts(pod, now, &object, &format!("{name} -n {namespace}"), findings);
    let said =
        |reason: String| said(node_trouble(facts, pod).map_or(reason.clone(), |node| format!("{reason}; {node}")));
    ready(pod, now, &object, &describe, said, findings);
}

/// What is wrong with the node of a pod: its kubelet tells of nobody any more.
fn node_trouble(facts: &Facts, pod: &Pod) -> Option<String> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    let nodes = seen(&facts.objects.nodes).ok()?;
    let node = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name))?;
    let conditions = node.status.as_ref()?.conditions.iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready" && condition.status != "True")?;
    Some(format!("its node {name} is not ready ({})", ready.reason.as_deref().unwrap_or("nobody says why")))
}

/// A container that runs, and did not always.
fn restarts(pod: &Pod, now: OffsetDateTime, object: &str, arguments: &str, findings: &mut Findings) {
    let Some(one) = pod.status.iter().flat_map(container_statuses).find(|one| restarted_lately(one, now)) else {
        return findings.pass("pods-restart", object, "no container was restarted lately");
    };
    let end = one.last_state.as_ref().and_then(|last| last.terminated.as_ref()).map(ended).unwrap_or_default();
    let next = format!("kubectl logs {arguments} -c {} --previous", word(&one.name, "CONTAINER"));
    let often = if one.restart_count == 1 { "once".to_owned() } else { format!("{} times", one.restart_count) };
    let message = format!("container {} was restarted {often}, the last time because it {end}", one.name);
    findings.fail("pods-restart", object, message, &next);
}

/// Why Kubernetes does not call a pod ready that runs, and whether it may yet; `None` where it does. `/ready` itself may say
/// otherwise.
pub(in crate::core) fn unready(pod: &Pod, now: OffsetDateTime) -> Option<(String, bool)> {
    let condition = condition(pod.status.as_ref()?, "Ready").filter(|condition| condition.status != "True")?;
    let reason = condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or("nobody says why");
    let is_new = condition.last_transition_time.as_ref().is_some_and(|time| since(time, now) < PATIENCE);
    Some((format!("it is not ready: {reason}"), is_new))
}

fn ready(
    pod: &Pod,
    now: OffsetDateTime,
    object: &str,
    describe: &str,
    said: impl Fn(String) -> String,
    findings: &mut Findings,
) {
    if pod.status.as_ref().is_none_or(|status| condition(status, "Ready").is_none()) {
        return;
    }
    match unready(pod, now) {
        None => findings.pass("pods-ready", object, "Kubernetes calls it ready"),
        Some((reason, true)) => findings.pending("pods-ready", object, said(reason)),
        Some((reason, false)) => findings.fail("pods-ready", object, said(reason), describe),
    }
}

/// Whether as many pods were made as are wanted, of what is wanted now; who makes them says why not.
fn wanted(subject: &Subject, pods: &[Pod], events: &[Event], now: OffsetDateTime, findings: &mut Findings) {
    let (workload, object) = (subject.workload, &subject.object);
    if !matches!(workload.kind.as_str(), "Deployment" | "StatefulSet") {
        return;
    }
    let replicas = workload.replicas.unwrap_or(1);
    if replicas == 0 {
        let next = subject.kubectl("get");
        return findings.fail("pods-scaled-down", object, "it is scaled to 0, so that no pod runs", &next);
    }
    let wanted = usize::try_from(replicas).unwrap_or_default();
    let ours: Vec<&Pod> = pods.iter().filter(|pod| owns(workload, pod) && is_there(pod)).collect();
    let (there, rollout) = (ours.len(), workload.rollout.as_ref());
    let behind = rollout.filter(|rollout| rollout.is_behind(workload.metadata.generation, replicas));
    let message = match behind {
        _ if there < wanted => format!("{there} of {wanted} wanted pods were made"),
        Some(rollout) => format!("{} of {wanted} pods are of the present template", rollout.updated),
        None => return findings.pass("pods-wanted", object, format!("{there} of {wanted} wanted pods were made")),
    };
    let events_next =
        format!("kubectl get events -n {} --field-selector reason=FailedCreate", word(subject.namespace, "NAMESPACE"));
    if let Some(reason) = rollout.and_then(|rollout| rollout.refused.as_ref()) {
        return findings.fail("pods-wanted", object, short(&format!("{message}; {reason}")), &events_next);
    }
    if let Some(reason) = rollout.and_then(|rollout| rollout.stalled.as_ref()) {
        let next = subject.kubectl("rollout status");
        return findings.fail("pods-wanted", object, short(&format!("{message}; {reason}")), &next);
    }
    let failed = |event: &Event| event.reason.as_deref() == Some("FailedCreate") && makes_pods_of(event, workload);
    let is_young =
        |pod: &&Pod| pod.metadata.creation_timestamp.as_ref().is_some_and(|time| since(time, now) < PATIENCE);
    match latest(events, failed) {
        Some(event) if there < wanted => {
            findings.fail("pods-wanted", object, short(&format!("{message}; {event}")), &events_next);
        }
        // A rolling update goes on as long as its Deployment does not say otherwise; a StatefulSet's next pod is made when
        // the last one is ready.
        _ if there >= wanted || ours.iter().any(is_young) => findings.pending("pods-wanted", object, message),
        _ => findings.fail("pods-wanted", object, message, &subject.kubectl("describe")),
    }
}

fn is_there(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_about(event: &Event, pod: &Pod) -> bool {
    let about = &event.involved_object;
    about.kind.as_deref() == Some("Pod") && about.name == pod.metadata.name && about.namespace == pod.metadata.namespace
}

/// A Deployment's pods are made by a ReplicaSet, whose name is the Deployment's and a hash.
fn makes_pods_of(event: &Event, workload: &Workload) -> bool {
    let about = &event.involved_object;
    let (Some(about_name), Some(name)) = (&about.name, &workload.metadata.name) else { return false };
    about.namespace == workload.metadata.namespace
        && match about.kind.as_deref() {
            Some("ReplicaSet") => about_name
                .strip_prefix(name.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|hash| !hash.is_empty() && !hash.contains('-')),
            kind => kind == Some(&workload.kind) && about_name == name,
        }
}

/// The last of these events, as in `FailedMount: …`.
fn latest(events: &[Event], wanted: impl Fn(&Event) -> bool) -> Option<String> {
    let event = events.iter().filter(|event| wanted(event)).max_by_key(|event| last_seen(event))?;
    let reason = event.reason.as_deref().unwrap_or("Warning");
    Some(format!("{reason}: {}", event.message.as_deref().unwrap_or_default()))
}

fn short(text: &str) -> String {
    let mut text = text.trim().to_owned();
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
