//! What overviews say of recorded answers.

use serde_json::{Value, json};

use super::*;

fn node(host: u8) -> String {
    format!("pekko://appka@10.0.0.{host}:2552")
}

/// What pod `own` says, of these members, with this leader.
fn view(own: u8, members: &[u8], leader: u8, unreachable: &[(u8, u8)]) -> Value {
    json!({
        "selfNode": node(own), "leader": node(leader), "oldest": node(leader),
        "oldestPerRole": {"dc-default": node(leader)},
        "members": members.iter().map(|host| json!({"node": node(*host), "nodeUid": "1", "status": "Up",
            "roles": ["dc-default", "web"]})).collect::<Vec<_>>(),
        "unreachable": unreachable.iter().map(|(host, by)| json!({"node": node(*host), "observedBy": [node(*by)]}))
            .collect::<Vec<_>>(),
    })
}

fn agent(mode: &str, connections: Value) -> Value {
    json!({"version": "0.1.0", "mode": mode, "readiness": {"ready": true},
        "credentials": {"chain": [{"subject": "CN=x", "subject_alt_names": ["spiffe://d/ns/shop/sa/shop"],
            "not_after": "2026-12-02T12:00:00Z"}]},
        "connections": connections})
}

fn group(direction: &str, peer: u8, tls: bool) -> Value {
    let (identity, version) = (tls.then_some("spiffe://d/ns/shop/sa/shop"), tls.then_some("TLS 1.3"));
    json!({"direction": direction, "peer": format!("10.0.0.{peer}"), "identity": identity, "tls": version,
        "connections": 2, "oldest_seconds": 9, "bytes_in": 100, "bytes_out": 50})
}

/// Facts of pods `shop-1`… with these views and sidecars.
fn facts(pods: &[(u8, Value, Option<Value>)]) -> Facts {
    let seen = |values: Vec<Value>| json!({"seen": values});
    let objects = pods.iter().map(|(host, ..)| {
        json!({"metadata": {"name": format!("shop-{host}"), "namespace": "shop", "labels": {"app": "shop"}},
            "spec": {"nodeName": "kn1", "containers": [{"name": "app"}]}, "status": {"phase": "Running", "podIP": format!("10.0.0.{host}")}})
    });
    let none = json!({"unavailable": "not asked"});
    let live: serde_json::Map<String, Value> = pods
        .iter()
        .map(|(host, view, agent)| {
            let members = if view.is_null() { none.clone() } else { json!({"seen": view}) };
            let agent = agent.as_ref().map_or_else(|| none.clone(), |agent| json!({"seen": agent}));
            let live = json!({"members": members, "seed_nodes": none, "ready": {"seen": {"status": 200, "body": "OK"}},
                "alive": none, "agent": agent, "agent_config": none, "clock_skew_ms": none});
            (format!("shop/shop-{host}"), live)
        })
        .collect();
    let empty = seen(Vec::new());
    serde_json::from_value(json!({
        "format": 1, "version": "0", "taken": "2026-11-22T12:00:00Z",
        "source": {"cluster": {"context": "test", "server_version": "v1.35.4", "namespace": "shop"}},
        "ports": {"remoting": "2552", "management": "8558"},
        "objects": {"workloads": empty, "pods": seen(objects.collect()), "services": empty, "service_accounts": empty,
            "roles": empty, "role_bindings": empty, "cluster_roles": empty, "cluster_role_bindings": empty,
            "network_policies": empty, "disruption_budgets": empty, "namespaces": empty, "nodes": empty, "events": empty,
            "config_maps": {"seen": {}}, "others": [], "unreadable": []},
        "live": live, "access": {}
    }))
    .unwrap()
}

#[test]
fn a_whole_cluster_is_well_and_its_paths_are_told_with_both_identities() {
    let all = [1, 2];
    let overview = Overview::of(&facts(&[
        (1, view(1, &all, 1, &[]), Some(agent("strict", json!([group("outbound", 2, true)])))),
        (2, view(2, &all, 1, &[]), Some(agent("strict", json!([group("inbound", 1, true)])))),
    ]));
    assert!(overview.well, "{:?}", overview.problems);
    assert_eq!(overview.clusters.len(), 1);
    assert_eq!((overview.clusters[0].members, overview.clusters[0].seen_by.len()), (2, 2));
    let first = &overview.nodes[0];
    assert!(first.leader && first.oldest && first.ready == Some(true));
    assert_eq!((first.status.as_deref(), first.roles.as_slice()), (Some("Up"), ["web".to_owned()].as_slice()));
    assert_eq!(first.agent.as_ref().unwrap().certificate_days, Some(10));
    let identity = Some("spiffe://d/ns/shop/sa/shop".to_owned());
    let path = Path {
        from: "shop-1".to_owned(),
        to: "shop-2".to_owned(),
        from_identity: identity.clone(),
        to_identity: identity,
        tls: Some("TLS 1.3".to_owned()),
        plaintext: false,
        connections: 2,
        bytes: 100,
    };
    assert_eq!(overview.paths, [path]);
}

#[test]
fn two_clusters_of_one_app_are_a_split() {
    let overview = Overview::of(&facts(&[
        (1, view(1, &[1, 2], 1, &[]), None),
        (2, view(2, &[1, 2], 1, &[]), None),
        (3, view(3, &[3], 3, &[]), None),
    ]));
    assert_eq!(overview.clusters.len(), 2);
    let [problem] = overview.problems.as_slice() else { panic!("{:?}", overview.problems) };
    assert!(problem.contains("split into 2 clusters of system appka: {shop-1, shop-2} and {shop-3}"), "{problem}");
}

#[test]
fn an_unreachable_member_is_told_with_those_that_do_not_hear_it() {
    let overview = Overview::of(&facts(&[(1, view(1, &[1, 2, 9], 1, &[(2, 1)]), None), (2, Value::Null, None)]));
    assert!(overview.problems.contains(&format!("shop-2 is unreachable from {}", node(1))), "{:?}", overview.problems);
    assert!(overview.notes.iter().any(|note| note.starts_with("shop-2 does not say")), "{:?}", overview.notes);
    assert!(overview.notes.iter().any(|note| note.starts_with(&node(9))), "{:?}", overview.notes);
    assert_eq!(overview.nodes.len(), 3);
}

#[test]
fn who_has_not_joined_and_who_has_no_leader_is_not_well() {
    let lonely = json!({"selfNode": node(1), "members": [], "unreachable": [], "oldestPerRole": {}});
    let mut leaderless = view(2, &[2], 2, &[]);
    leaderless["leader"] = Value::Null;
    let overview = Overview::of(&facts(&[(1, lonely, None), (2, leaderless, None)]));
    let problems = overview.problems.join("\n");
    assert!(problems.contains("shop-1 has not joined") && problems.contains("of shop-2 has no leader"), "{problems}");
}

#[test]
fn plaintext_is_a_problem_where_the_mode_is_strict_and_a_note_where_it_is_permissive() {
    let of = |mode: &str| {
        let connections = json!([group("outbound", 2, true), group("outbound", 2, false)]);
        Overview::of(&facts(&[(1, view(1, &[1], 1, &[]), Some(agent(mode, connections)))]))
    };
    let strict = of("strict");
    assert!(strict.problems[0].contains("plaintext from shop-1 to 10.0.0.2, although"), "{:?}", strict.problems);
    assert_eq!(strict.paths[0].connections, 4);
    let permissive = of("permissive");
    assert!(permissive.well && permissive.notes[0].contains("plaintext from shop-1"), "{:?}", permissive.notes);
}

#[test]
fn a_running_pod_that_the_others_do_without_is_not_well() {
    let overview = Overview::of(&facts(&[(1, view(1, &[1], 1, &[]), None), (2, Value::Null, None)]));
    let [problem] = overview.problems.as_slice() else { panic!("{:?}", overview.problems) };
    assert!(problem.contains("shop-2 runs, and is no member"), "{problem}");
}

#[test]
fn nobody_who_answers_is_no_health() {
    let overview = Overview::of(&facts(&[(1, Value::Null, None)]));
    assert!(!overview.well && overview.problems[0].contains("no pod says"), "{:?}", overview.problems);
    assert!(!Overview::of(&facts(&[])).well);
}

#[test]
fn thousands_of_members_that_are_gone_are_a_bounded_number_of_sentences() {
    let stranger = |number: usize| format!("pekko://appka@10.1.{}.{}:2552", number / 256, number % 256);
    let mut one = view(1, &[1], 1, &[]);
    for number in 0..9000 {
        let member = json!({"node": stranger(number), "nodeUid": "1", "status": "Up", "roles": []});
        one["members"].as_array_mut().unwrap().push(member);
        let observed_by: Vec<String> = (0..20).map(stranger).collect();
        let unreachable = json!({"node": stranger(number), "observedBy": observed_by});
        one["unreachable"].as_array_mut().unwrap().push(unreachable);
    }
    let overview = Overview::of(&facts(&[(1, one, None)]));
    assert_eq!(overview.nodes.len(), 9001);
    assert_eq!((overview.problems.len(), overview.notes.len()), (201, 201));
    assert_eq!(overview.problems[200], "and 8800 more");
    assert!(overview.problems[0].ends_with("and 10 more"), "{}", overview.problems[0]);
}

#[test]
fn a_pod_that_leaves_is_no_problem_and_one_that_does_not_run_is_one() {
    let lonely = json!({"selfNode": node(3), "members": [], "unreachable": [], "oldestPerRole": {}});
    let mut facts = facts(&[(1, view(1, &[1], 1, &[]), None), (2, Value::Null, None), (3, lonely, None)]);
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    for leaving in [1, 2] {
        pods[leaving].metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-22T12:00:00Z")).unwrap();
    }
    assert!(Overview::of(&facts).well, "{:?}", Overview::of(&facts).problems);
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    pods[1].metadata.deletion_timestamp = None;
    pods[1].status =
        serde_json::from_value(json!({"phase": "Pending", "containerStatuses": [{"name": "app", "image": "x",
        "imageID": "x", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}]}))
        .unwrap();
    let problems = Overview::of(&facts).problems;
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.starts_with("shop-2 does not run: container app: ErrImagePull; see `bypassctl check"), "{problem}");
}

#[test]
fn leaders_that_differ_are_a_problem_where_somebody_is_unreachable() {
    let differ = |unreachable: &[(u8, u8)]| {
        let mut facts = facts(&[(1, view(1, &[1, 2], 1, unreachable), None), (2, view(2, &[1, 2], 2, &[]), None)]);
        let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
        let status = pods[1].status.as_mut().unwrap();
        status.start_time = serde_json::from_value(json!("2026-11-22T11:59:00Z")).unwrap();
        Overview::of(&facts)
    };
    let brief = differ(&[]);
    assert!(brief.well && brief.notes.iter().any(|note| note.contains("more than one leader")), "{:?}", brief.notes);
    assert!(differ(&[(2, 1)]).problems.iter().any(|problem| problem.contains("more than one leader")));
}

#[test]
fn members_that_stay_on_their_way_are_a_problem_once_nobody_comes_or_goes() {
    let mut joining = view(1, &[1], 1, &[]);
    joining["members"][0]["status"] = json!("Joining");
    let mut facts = facts(&[(1, joining, None)]);
    assert!(Overview::of(&facts).problems.iter().any(|problem| problem.starts_with("shop-1 is Joining")));
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    let status = pods[0].status.as_mut().unwrap();
    status.start_time = serde_json::from_value(json!("2026-11-22T11:59:00Z")).unwrap();
    assert!(Overview::of(&facts).well, "{:?}", Overview::of(&facts).problems);
    let Observed::Seen(pods) = &mut facts.objects.pods else { unreachable!() };
    pods[0].status =
        serde_json::from_value(json!({"phase": "Running", "startTime": "2026-11-22T11:59:00Z", "conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-22T11:00:00Z", "message": "probe"}]}))
        .unwrap();
    assert!(Overview::of(&facts).problems.contains(&"shop-1: it is not ready: probe".to_owned()));
}
