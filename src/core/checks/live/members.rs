//! Membership, as each member sees it.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::checks::Check;
use crate::core::checks::live::Asked;
use crate::core::facts::{Answer, Facts};
use crate::core::membership::{MemberStatus, Node, View};
use crate::core::report::{CheckResult, Observed, Severity};

pub(super) fn of_pod(facts: &Facts, asked: &Asked<'_>) -> Vec<CheckResult> {
    let check = |code, severity| Check { code, severity, object: asked.object.clone().into() };
    let logs = format!("kubectl logs {}", asked.arguments());
    // Nothing is asked of whoever leaves.
    if asked.is_leaving() || asked.is_gone() {
        return vec![check("management-answers", Severity::Error).skip("the pod is being deleted", "none is needed")];
    }
    let is_young = asked.is_young(facts.taken);
    let view = match &asked.view {
        Ok(view) => view,
        Err(reason) if !asked.is_running() => {
            return vec![check("management-answers", Severity::Error).skip(reason, "ask again once the pod runs")];
        }
        Err(reason) if Asked::is_forbidden(reason) => {
            return vec![
                check("management-answers", Severity::Error).skip(reason, "get the right, or ask somebody who has it"),
            ];
        }
        Err(reason) if is_young => {
            let message = format!("management does not tell of the cluster yet: {reason}");
            return vec![check("management-answers", Severity::Error).pending(message)];
        }
        Err(reason) => {
            return vec![check("management-answers", Severity::Error).fail(
                format!("management does not tell of the cluster: {reason}"),
                "bootstrap's contact points ask the same port; management is not started, listens elsewhere, or its \
                 cluster routes are missing from the classpath",
                &logs,
            )];
        }
    };
    let mut results = vec![check("management-answers", Severity::Error).pass(format!("{} answers", view.self_node))];
    results.push(joined(check("member-joined", Severity::Error), is_young, asked, view, &logs));
    results.extend(app_ready(check("app-ready", Severity::Warning), is_young, &asked.live.ready, &logs));
    results
}

fn joined(check: Check, is_young: bool, asked: &Asked<'_>, view: &View, logs: &str) -> CheckResult {
    let me = view.members.iter().find(|member| member.node == view.self_node);
    if let (Some(me), Some(_)) = (me, &view.leader) {
        return check.pass(format!("it is {} in a cluster of {}", me.status, view.members.len()));
    }
    let seeds = match &asked.live.seed_nodes {
        Observed::Seen(answer) => answer["seedNodes"].as_array().map_or(0, Vec::len),
        Observed::Unavailable(_) => 0,
    };
    if is_young {
        return check.pending("it has not joined yet");
    }
    check.fail(
        format!("it has joined no cluster, and knows {seeds} seed nodes"),
        "it looks for contact points and finds too few, cannot reach their management, or remoting to the seed nodes is \
         refused; the checks on discovery, rights and the sidecar say which",
        logs,
    )
}

fn app_ready(check: Check, is_young: bool, ready: &Observed<Answer>, logs: &str) -> Option<CheckResult> {
    let Observed::Seen(answer) = ready else { return None };
    Some(match answer.status {
        200..300 => check.pass("/ready says OK"),
        404 => return None,
        status if is_young => check.pending(format!("/ready says {status}: {}", answer.body.trim())),
        status => check.fail(
            format!("/ready says {status}: {}", answer.body.trim()),
            "Kubernetes sends it no traffic; a cluster member is ready once it is Up",
            logs,
        ),
    })
}

pub(super) fn of_cluster(facts: &Facts, object: &str, pods: &[&Asked<'_>]) -> Vec<CheckResult> {
    let views: Vec<(&Asked<'_>, &View)> = pods
        .iter()
        .filter_map(|pod| Some((*pod, pod.view.as_ref().ok()?)))
        .filter(|(_, view)| view.leader.is_some())
        .collect();
    if views.is_empty() {
        return Vec::new();
    }
    let check = |code, severity| Check { code, severity, object: object.to_owned().into() };
    let moves = Asked::are_in_motion(pods, facts.taken);
    vec![
        one_cluster(check("one-cluster", Severity::Error), &views),
        reachable(check("members-reachable", Severity::Error), &views),
        up(check("members-up", Severity::Warning), moves, &views),
        agreed(check("leader-agreed", Severity::Warning), moves, &views),
        pods_behind(check("members-are-pods", Severity::Warning), pods, &views),
        members_behind(check("pods-are-members", Severity::Error), facts, pods, &views),
    ]
}

/// The members that views share with each other, directly or by others; more than one group is a split.
fn groups(views: &[(&Asked<'_>, &View)]) -> Vec<BTreeSet<Node>> {
    let mut groups: Vec<BTreeSet<Node>> = Vec::new();
    for (_, view) in views {
        let mut group: BTreeSet<Node> = view.members.iter().map(|member| member.node.clone()).collect();
        group.insert(view.self_node.clone());
        let (joined, apart): (Vec<_>, Vec<_>) = groups.into_iter().partition(|other| !other.is_disjoint(&group));
        group.extend(joined.into_iter().flatten());
        groups = apart;
        groups.push(group);
    }
    groups
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    let shown = all.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > 8 { format!("{shown} and {} more", all.len() - 8) } else { shown }
}

fn one_cluster(check: Check, views: &[(&Asked<'_>, &View)]) -> CheckResult {
    let (groups, next) = (groups(views), check.ours("status"));
    if let [only] = &groups[..] {
        return check.pass(format!("one cluster of {} members", only.len()));
    }
    let shown: Vec<String> = groups.iter().map(|group| format!("[{}]", list(group))).collect();
    check.fail(
        format!("{} clusters have formed: {}", groups.len(), shown.join(" and ")),
        "each has its own singletons and shards, and they never merge; see which pods are in which, keep the larger one, delete \
         the pods of the others once they reach it, and ask for as many contact points as there are replicas \
         (required-contact-point-nr)",
        &next,
    )
}

fn reachable(check: Check, views: &[(&Asked<'_>, &View)]) -> CheckResult {
    let next = check.ours("status");
    let mut seen: BTreeMap<&Node, BTreeSet<&Node>> = BTreeMap::new();
    for unreachable in views.iter().flat_map(|(_, view)| &view.unreachable) {
        seen.entry(&unreachable.node).or_default().extend(&unreachable.observed_by);
    }
    if seen.is_empty() {
        return check.pass("every member is reachable");
    }
    let shown = seen.iter().map(|(node, by)| format!("{node} (by {})", list(by)));
    check.fail(
        format!("unreachable: {}", list(shown)),
        "nobody joins or leaves until they are reachable again or downed; their pod is gone, or remoting between the two is \
         not let through in one direction",
        &next,
    )
}

/// `moves` where a pod comes or goes, for members are on their way then.
fn up(check: Check, moves: bool, views: &[(&Asked<'_>, &View)]) -> CheckResult {
    let next = check.ours("check cluster --wait");
    let mut other: BTreeMap<&Node, MemberStatus> = BTreeMap::new();
    for member in views.iter().flat_map(|(_, view)| &view.members) {
        if member.status != MemberStatus::Up {
            other.insert(&member.node, member.status.clone());
        }
    }
    if other.is_empty() {
        return check.pass("every member is Up");
    }
    let stays = |status: &MemberStatus| matches!(status, MemberStatus::WeaklyUp | MemberStatus::Down);
    if moves && !other.values().any(stays) {
        return check.pending(list(other.iter().map(|(node, status)| format!("{node} is {status}"))));
    }
    check.fail(
        format!("not Up: {}", list(other.iter().map(|(node, status)| format!("{node} is {status}")))),
        "a member that stays Joining or WeaklyUp waits for one that is unreachable; Leaving and Exiting take seconds",
        &next,
    )
}

fn agreed(check: Check, moves: bool, views: &[(&Asked<'_>, &View)]) -> CheckResult {
    let next = check.ours("status");
    // Of two clusters each has its leader; that is another check's matter.
    for group in groups(views) {
        let of_group = || views.iter().filter(|(_, view)| group.contains(&view.self_node)).map(|(_, view)| view);
        let leaders: BTreeSet<&Node> = of_group().filter_map(|view| view.leader.as_ref()).collect();
        if leaders.len() > 1 && moves && of_group().all(|view| view.unreachable.is_empty()) {
            // Views are taken one after the other, and differ while somebody joins or leaves.
            return check.pending(format!("members see different leaders: {}", list(leaders)));
        }
        if leaders.len() > 1 {
            return check.fail(
                format!("members see different leaders: {}", list(leaders)),
                "gossip has not converged: some see members that others do not, or see them as unreachable",
                &next,
            );
        }
    }
    check.pass("all see the same leader")
}

/// Pods that still run or start, and are of this cluster.
fn addresses<'a>(pods: &'a [&Asked<'_>]) -> BTreeSet<&'a str> {
    pods.iter()
        .filter_map(|pod| pod.pod.status.as_ref())
        .flat_map(|status| {
            let more = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            status.pod_ip.as_deref().into_iter().chain(more)
        })
        .collect()
}

fn pods_behind(check: Check, pods: &[&Asked<'_>], views: &[(&Asked<'_>, &View)]) -> CheckResult {
    let addresses = addresses(pods);
    let own: BTreeSet<&Node> = views.iter().map(|(_, view)| &view.self_node).collect();
    let strangers: BTreeSet<&Node> = views
        .iter()
        .flat_map(|(_, view)| view.members.iter().map(|member| &member.node))
        .filter(|node| {
            !own.contains(node)
                && node.host.parse::<std::net::IpAddr>().is_ok()
                && !addresses.contains(node.host.as_str())
        })
        .collect();
    if strangers.is_empty() {
        return check.pass("every member is one of the pods");
    }
    let unreachable: BTreeSet<&Node> =
        views.iter().flat_map(|(_, view)| view.unreachable.iter().map(|one| &one.node)).collect();
    let (gone, elsewhere): (Vec<&Node>, Vec<&Node>) =
        strangers.into_iter().partition(|stranger| unreachable.contains(stranger));
    if gone.is_empty() {
        return check.pass(format!("{} are none of these pods, and answer: they run elsewhere", list(elsewhere)));
    }
    check.fail(
        format!("members that are none of the pods, and do not answer: {}", list(gone)),
        "their pods are gone without leaving; they block the others until they are downed",
        "kubectl get pods -A -o wide",
    )
}

fn members_behind(check: Check, facts: &Facts, pods: &[&Asked<'_>], views: &[(&Asked<'_>, &View)]) -> CheckResult {
    let next = check.ours("status");
    let members: BTreeSet<&str> =
        views.iter().flat_map(|(_, view)| view.members.iter().map(|member| member.node.host.as_str())).collect();
    let left_out: Vec<&str> = pods
        .iter()
        .filter(|pod| !views.iter().any(|(member, _)| member.name() == pod.name()))
        .filter(|pod| {
            let status = pod.pod.status.as_ref();
            let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
            let address = status.and_then(|status| status.pod_ip.as_deref());
            // One that a rolling update has just started is on its way.
            running
                && !pod.is_leaving()
                && !pod.is_gone()
                && !pod.is_young(facts.taken)
                && !address.is_some_and(|address| members.contains(address))
        })
        .map(|pod| pod.name())
        .collect();
    if left_out.is_empty() {
        return check.pass("every running pod is a member");
    }
    check.fail(
        format!("running pods that are in no view of the cluster: {}", list(left_out)),
        "they never joined, or were downed and did not exit (coordinated-shutdown.exit-jvm = on restarts them)",
        &next,
    )
}
