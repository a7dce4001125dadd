use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use time::macros::datetime;

use super::*;
use crate::core::checks;
use crate::core::config::ClusterPorts;
use crate::core::facts::Rollout;
use crate::core::manifests::{Named, Reader};
use crate::core::report::{CheckResult, Observed, Severity, Status};

const NOW: OffsetDateTime = datetime!(2026-01-02 12:00 UTC);
/// More than two minutes before.
const LONG_AGO: &str = "2026-01-02T11:30:00Z";
const JUST_NOW: &str = "2026-01-02T11:59:30Z";

fn pod(made: &str, status: Value) -> Pod {
    let spec = json!({"containers": [{"name": "app"}], "initContainers": [
        {"name": "bypassctl-init"}, {"name": "bypassctl", "restartPolicy": "Always"}]});
    let owner =
        json!({"kind": "ReplicaSet", "name": "shop-7f9", "controller": true, "apiVersion": "apps/v1", "uid": "1"});
    serde_json::from_value(json!({"metadata": {"name": "shop-7f9-a", "namespace": "web", "labels": {"app": "shop"},
        "creationTimestamp": made, "ownerReferences": [owner]}, "spec": spec, "status": status}))
    .unwrap()
}

fn event(kind: &str, name: &str, reason: &str, message: &str) -> Event {
    serde_json::from_value(json!({"metadata": {}, "involvedObject": {"kind": kind, "name": name, "namespace": "web"},
        "reason": reason, "message": message, "lastTimestamp": "2026-01-02T11:59:00Z"}))
    .unwrap()
}

/// What is judged of these pods of a Deployment of as many as are wanted.
fn judged(wanted: u8, pods: Vec<Pod>, events: Vec<Event>) -> Vec<CheckResult> {
    judged_with(wanted, pods, events, Vec::new())
}

fn judged_with(wanted: u8, pods: Vec<Pod>, events: Vec<Event>, nodes: Vec<Node>) -> Vec<CheckResult> {
    judged_by(wanted, |facts| {
        facts.objects.pods = Observed::Seen(pods);
        facts.objects.events = Observed::Seen(events);
        facts.objects.nodes = Observed::Seen(nodes);
    })
}

fn judged_by(wanted: u8, change: impl FnOnce(&mut Facts)) -> Vec<CheckResult> {
    let manifest = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: shop, namespace: web}}\nspec:\n  replicas: {wanted}\n  \
         selector: {{matchLabels: {{app: shop}}}}\n  template:\n    metadata: {{labels: {{app: shop}}}}\n    spec:\n      \
         containers: [{{name: app, ports: [{{containerPort: 8558, name: management}}, {{containerPort: 2552}}]}}]\n"
    );
    let mut reader = Reader::new("web");
    reader.text("a", &manifest, Named::Itself);
    let mut facts = reader.facts(NOW, ClusterPorts::new(None, &[], &[]).unwrap());
    facts.source =
        Source::Cluster { context: "c".to_owned(), server_version: "v1.35.0".to_owned(), namespace: "web".to_owned() };
    change(&mut facts);
    let ours = |check: &CheckResult| check.code.starts_with("pods-");
    checks::run(&facts).into_iter().filter(ours).collect()
}

/// The one result that is no pass.
fn only(results: Vec<CheckResult>) -> CheckResult {
    let mut others: Vec<CheckResult> = results.into_iter().filter(|check| check.status != Status::Pass).collect();
    assert_eq!(others.len(), 1, "{others:#?}");
    others.remove(0)
}

fn container(state: Value) -> Value {
    json!({"name": "app", "image": "x", "imageID": "x", "ready": false, "restartCount": 0, "state": state})
}

fn running(ready: &str, since: &str, container: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [container], "conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": since, "message": "containers with unready status: [app]"}]})
}

fn healthy() -> Value {
    running("True", LONG_AGO, container(json!({"running": {}})))
}

#[test]
fn pods_that_run_and_are_ready_pass_everything() {
    let results = judged(1, vec![pod(LONG_AGO, healthy())], Vec::new());
    let codes: Vec<&str> = results.iter().map(|check| check.code).collect();
    assert_eq!(codes, ["pods-running", "pods-restart", "pods-ready", "pods-wanted"]);
    assert!(results.iter().all(|check| check.status == Status::Pass), "{results:#?}");
}

#[test]
fn whoever_finds_no_node_is_waited_for_and_then_not() {
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}]});
    let found = only(judged(1, vec![pod(JUST_NOW, unschedulable.clone())], Vec::new()));
    assert_eq!((found.code, found.status), ("pods-running", Status::Pending));
    let found = only(judged(1, vec![pod(LONG_AGO, unschedulable)], Vec::new()));
    assert_eq!((found.code, found.status), ("pods-running", Status::Fail));
    assert!(found.message.contains("3 Insufficient cpu., 30 min after it was made"), "{}", found.message);
    assert_eq!(found.next, "kubectl describe pod shop-7f9-a -n web");
}

#[test]
fn a_container_that_cannot_start_fails_at_once_with_what_the_kubelet_says() {
    for (reason, message) in [
        ("ErrImagePull", "not found"),
        ("ImagePullBackOff", "Back-off pulling image"),
        ("InvalidImageName", "couldn't parse"),
        ("CreateContainerConfigError", "secret \"db\" not found"),
        ("RunContainerError", "exec: no such file"),
    ] {
        let waiting = container(json!({"waiting": {"reason": reason, "message": message}}));
        let status = json!({"phase": "Pending", "containerStatuses": [waiting]});
        let found = only(judged(1, vec![pod(JUST_NOW, status)], Vec::new()));
        assert_eq!((found.code, found.status), ("pods-running", Status::Fail), "{reason}");
        assert_eq!(found.message, format!("container app: {reason}: {message}"));
    }
}

#[test]
fn a_loop_is_one_whether_it_waits_or_runs_between_two_turns() {
    let end = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-02T11:58:00Z"}});
    let in_turns = |state| {
        let mut app = container(state);
        app["restartCount"] = json!(7);
        app
    };
    for state in [json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"running": {}})] {
        let mut app = in_turns(state);
        app["lastState"] = end.clone();
        let found = only(judged(1, vec![pod(LONG_AGO, running("False", LONG_AGO, app))], Vec::new()));
        assert_eq!(
            found.message,
            "container app starts again and again (7 times): it ended with exit code 137 (OOMKilled)"
        );
        assert_eq!(found.next, "kubectl logs shop-7f9-a -n web -c app --previous");
    }
    // Of an old pod that runs, the restarts of its whole life.
    let mut well = in_turns(json!({"running": {}}));
    well["lastState"] = end.clone();
    well["ready"] = json!(true);
    let found = only(judged(1, vec![pod(LONG_AGO, running("True", LONG_AGO, well))], Vec::new()));
    assert_eq!((found.code, found.severity), ("pods-restart", Severity::Info));
    let mut once = container(json!({"running": {}}));
    once["lastState"] = end;
    once["restartCount"] = json!(1);
    let found = only(judged(1, vec![pod(LONG_AGO, running("True", LONG_AGO, once.clone()))], Vec::new()));
    assert_eq!((found.code, found.status), ("pods-restart", Status::Fail));
    once["lastState"]["terminated"]["finishedAt"] = json!("2026-01-02T09:00:00Z");
    let results = judged(1, vec![pod(LONG_AGO, running("True", LONG_AGO, once))], Vec::new());
    assert!(results.iter().all(|check| check.status == Status::Pass), "{results:#?}");
}

#[test]
fn what_holds_a_starting_pod_is_named() {
    let init = |name: &str, started: bool| {
        json!({"name": name, "image": "x", "imageID": "x", "ready": false, "restartCount": 0, "started": started,
            "state": {"running": {}}})
    };
    let waiting = container(json!({"waiting": {"reason": "PodInitializing"}}));
    for (inits, said, next) in [
        (
            json!([init("bypassctl", false)]),
            "sidecar bypassctl runs and has not started",
            "logs shop-7f9-a -n web -c bypassctl",
        ),
        (json!([init("bypassctl", true), init("other", false)]), "init container other still runs", "-c other"),
        (json!([init("bypassctl", true)]), "its containers are being made", "describe pod shop-7f9-a"),
    ] {
        let status =
            json!({"phase": "Pending", "initContainerStatuses": inits, "containerStatuses": [waiting.clone()]});
        let found = only(judged(1, vec![pod(LONG_AGO, status)], Vec::new()));
        assert!(found.message.contains(said) && found.next.contains(next), "{found:#?}");
    }
    let status = json!({"phase": "Pending", "containerStatuses": [waiting]});
    let events = vec![event("Pod", "shop-7f9-a", "FailedMount", "no volume"), event("Pod", "other", "Failed", "x")];
    let found = only(judged(1, vec![pod(JUST_NOW, status)], events));
    assert_eq!(found.message, "its containers are being made; FailedMount: no volume");
}

#[test]
fn a_pod_that_is_not_ready_fails_after_two_minutes_with_the_probe_s_last_word() {
    let unready = |since| vec![pod(LONG_AGO, running("False", since, container(json!({"running": {}}))))];
    let events = || vec![event("Pod", "shop-7f9-a", "Unhealthy", "Readiness probe failed: connection refused")];
    let found = only(judged(1, unready(JUST_NOW), events()));
    assert_eq!((found.code, found.status), ("pods-ready", Status::Pending));
    let found = only(judged(1, unready(LONG_AGO), events()));
    assert_eq!((found.code, found.status), ("pods-ready", Status::Fail));
    assert!(found.message.ends_with("[app]; Unhealthy: Readiness probe failed: connection refused"));
}

#[test]
fn pods_that_nobody_makes_are_missed() {
    let denied = "pods \"shop-7f9-\" is forbidden: exceeded quota: q";
    let events = vec![
        event("ReplicaSet", "shop-7f9", "FailedCreate", denied),
        event("ReplicaSet", "shop-other-7f9", "FailedCreate", "of another"),
    ];
    let found = only(judged(3, vec![pod(LONG_AGO, healthy())], events));
    assert_eq!((found.code, found.status), ("pods-wanted", Status::Fail));
    assert_eq!(found.message, format!("1 of 3 wanted pods were made; FailedCreate: {denied}"));
    assert_eq!(found.next, "kubectl get events -n web --field-selector reason=FailedCreate");
    let none = only(judged(0, Vec::new(), Vec::new()));
    assert_eq!((none.code, none.status), ("pods-scaled-down", Status::Fail));
}

#[test]
fn of_pods_that_leave_or_are_replaced_nothing_is_expected() {
    let mut leaving = pod(LONG_AGO, json!({"phase": "Running"}));
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let evicted = pod(LONG_AGO, json!({"phase": "Failed", "reason": "Evicted"}));
    let done = pod(LONG_AGO, json!({"phase": "Succeeded"}));
    let results = judged(1, vec![pod(LONG_AGO, healthy()), leaving, evicted, done], Vec::new());
    assert!(results.iter().all(|check| check.status == Status::Pass), "{results:#?}");
    let mut bare = pod(LONG_AGO, json!({"phase": "Failed", "reason": "Evicted", "message": "disk"}));
    bare.metadata.owner_references = None;
    assert_eq!(state(&bare, NOW), Some(broken("Evicted: disk")));
}

#[test]
fn a_node_that_is_gone_is_named() {
    let mut gone = pod(LONG_AGO, running("False", LONG_AGO, container(json!({"running": {}}))));
    gone.spec.as_mut().unwrap().node_name = Some("kn1".to_owned());
    let node = json!({"metadata": {"name": "kn1"}, "status": {"conditions": [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}});
    let nodes = vec![serde_json::from_value(node).unwrap()];
    let found = only(judged_with(1, vec![gone], Vec::new(), nodes));
    assert!(found.message.ends_with("; its node kn1 is not ready (NodeStatusUnknown)"), "{}", found.message);
}

#[test]
fn a_rollout_that_is_refused_or_stuck_fails_and_one_that_goes_on_is_pending() {
    let with = |rollout: Rollout| {
        only(judged_by(1, |facts| {
            facts.objects.pods = Observed::Seen(vec![pod(LONG_AGO, healthy())]);
            facts.objects.events = Observed::Seen(Vec::new());
            let Observed::Seen(workloads) = &mut facts.objects.workloads else { unreachable!() };
            workloads[0].rollout = Some(rollout);
        }))
    };
    let going = with(Rollout::default());
    assert_eq!((going.code, going.status), ("pods-wanted", Status::Pending));
    let refused =
        with(Rollout { refused: Some("FailedCreate: violates PodSecurity".to_owned()), ..Rollout::default() });
    assert_eq!(refused.status, Status::Fail);
    assert_eq!(refused.message, "0 of 1 pods are of the present template; FailedCreate: violates PodSecurity");
    let stuck = with(Rollout { stalled: Some("ProgressDeadlineExceeded".to_owned()), ..Rollout::default() });
    assert_eq!((stuck.status, &stuck.next[..]), (Status::Fail, "kubectl rollout status deployment shop -n web"));
}
