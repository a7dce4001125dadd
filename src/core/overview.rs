//! The state of a cluster and of its mTLS paths, from each pod's own view of both.
//!
//! Invariant: every text comes from Kubernetes, which checks names, or from parsers that leave no control character.

mod paths;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::paths::Path;
use crate::core::asked::Asked;
use crate::core::checks::running::{self, State};
use crate::core::facts::{Facts, Source};
use crate::core::membership::{Member, MemberStatus, Node, View, printable};
use crate::core::report::Observed;
use crate::core::status::Status;

/// Names in one sentence.
const MOST_NAMES: usize = 10;
/// Sentences of one kind: thousands of members that are gone are one fault.
const MOST_SENTENCES: usize = 200;

/// The whole; the field names are the JSON contract.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The kubeconfig's context.
    pub context: String,
    /// The namespace.
    pub namespace: String,
    /// When it was seen.
    #[serde(with = "time::serde::rfc3339")]
    pub taken: OffsetDateTime,
    /// Whether there is no problem.
    pub well: bool,
    /// What is not well.
    pub problems: Vec<String>,
    /// What could not be seen, and what is worth knowing.
    pub notes: Vec<String>,
    /// The clusters that have formed.
    pub clusters: Vec<Cluster>,
    /// Pods that were asked, and members that are none of them.
    pub nodes: Vec<NodeState>,
    /// Who talks to whom, as the sidecars see it.
    pub paths: Vec<Path>,
}

/// A cluster that has formed.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// The actor system's name.
    pub system: String,
    /// The pods' `app` label, or who made them.
    pub app: String,
    /// Who leads, by those that see a leader.
    pub leader: Option<Node>,
    /// Where singletons run.
    pub oldest: Option<Node>,
    /// The same for each role.
    pub oldest_per_role: BTreeMap<String, Node>,
    /// How many members there are.
    pub members: usize,
    /// The pods that see this cluster.
    pub seen_by: Vec<String>,
}

/// A pod, a member, or both.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeState {
    /// `None` for a member that is no pod of those that were asked.
    pub pod: Option<String>,
    /// The Kubernetes node that it runs on.
    pub host: Option<String>,
    /// Its address in the cluster, as far as it is known.
    pub address: Option<Node>,
    /// As in `Up`; `None` if it is no member.
    pub status: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// Whether somebody takes it for the leader.
    pub leader: bool,
    /// Whether somebody takes it for the oldest.
    pub oldest: bool,
    /// Who does not hear it.
    pub unreachable_from: Vec<String>,
    /// Management's `/ready`.
    pub ready: Option<bool>,
    /// Why management could not be asked.
    pub unseen: Option<String>,
    /// Its sidecar.
    pub agent: Option<Agent>,
}

/// A sidecar.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// bypassctl's.
    pub version: String,
    /// strict, permissive or disabled.
    pub mode: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Who its certificate says that it is.
    pub identity: Option<String>,
    /// Days until its certificate ends, rounded down; negative if it has ended.
    pub certificate_days: Option<i64>,
}

impl Overview {
    /// What the facts come to.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let (context, namespace) = match &facts.source {
            Source::Cluster { context, namespace, .. } => (context.clone(), namespace.clone()),
            Source::Files => ("files".to_owned(), String::new()),
        };
        let mut overview = Self {
            context,
            namespace,
            taken: facts.taken,
            well: false,
            problems: Vec::new(),
            notes: Vec::new(),
            clusters: Vec::new(),
            nodes: Vec::new(),
            paths: Vec::new(),
        };
        let none = Vec::new();
        let pods = match &facts.objects.pods {
            Observed::Seen(pods) => pods,
            Observed::Unavailable(reason) => {
                overview.problems.push(reason.clone());
                &none
            }
        };
        let asked: Vec<Asked<'_>> = pods.iter().filter_map(|pod| Asked::new(facts, pod)).collect();
        if asked.is_empty() && overview.problems.is_empty() {
            overview.problems.push(
                "no pod here looks like a node of a cluster: none declares a port of management or remoting, or has a \
                 sidecar; name the workload, as in deployment/shop, or give -n and --management-port"
                    .to_owned(),
            );
        }
        overview.tell_clusters(&asked);
        overview.tell_nodes(&asked);
        overview.paths = paths::paths(pods, asked.iter().filter_map(|one| Some((one.name(), one.agent.as_ref()?))));
        overview.judge(&asked, facts.taken);
        overview.well = overview.problems.is_empty();
        for sentences in [&mut overview.problems, &mut overview.notes] {
            let more = sentences.len().saturating_sub(MOST_SENTENCES);
            if more > 0 {
                sentences.truncate(MOST_SENTENCES);
                sentences.push(format!("and {more} more"));
            }
        }
        overview
    }

    fn tell_clusters(&mut self, asked: &[Asked<'_>]) {
        let moves = Asked::are_in_motion(&asked.iter().collect::<Vec<_>>(), self.taken);
        let mut groups: BTreeMap<(&str, &str), Vec<&Asked<'_>>> = BTreeMap::new();
        for one in asked {
            if let Some(view) = one.joined() {
                groups.entry((one.app(), &view.self_node.system)).or_default().push(one);
            }
        }
        for ((app, system), group) in groups {
            let parts = parts(&group);
            if parts.len() > 1 {
                let names: Vec<String> = parts.iter().map(|part| format!("{{{}}}", names(part))).collect();
                let text = format!(
                    "{app} has split into {} clusters of system {system}: {}",
                    parts.len(),
                    names.join(" and ")
                );
                self.problems.push(text + "; stop all but one of them, and see required-contact-point-nr");
            }
            for part in parts {
                let views: Vec<&View> = part.iter().filter_map(|one| one.joined()).collect();
                let leaders: BTreeSet<&Node> = views.iter().filter_map(|view| view.leader.as_ref()).collect();
                let leader = leaders.first().map(|leader| (*leader).clone());
                match leaders.len() {
                    0 => self.problems.push(format!("the cluster of {} has no leader", names(&part))),
                    1 => {}
                    _ => {
                        let said: Vec<String> = leaders.iter().map(ToString::to_string).collect();
                        let text =
                            format!("the cluster of {} has more than one leader: {}", names(&part), said.join(", "));
                        // Views are taken one after the other: for a moment they differ while somebody joins or leaves.
                        if moves && views.iter().all(|view| view.unreachable.is_empty()) {
                            self.notes.push(text + "; gossip takes seconds, ask again");
                        } else {
                            self.problems.push(text + "; its members do not agree, see who is unreachable");
                        }
                    }
                }
                let first = views.iter().find(|view| Some(&view.self_node) == leader.as_ref()).or(views.first());
                self.clusters.push(Cluster {
                    system: system.to_owned(),
                    app: app.to_owned(),
                    oldest: first.and_then(|view| view.oldest.clone()),
                    oldest_per_role: first.map(|view| view.oldest_per_role.clone()).unwrap_or_default(),
                    members: first.map_or(0, |view| view.members.len()),
                    leader,
                    seen_by: part.iter().map(|one| one.name().to_owned()).collect(),
                });
            }
        }
    }

    fn tell_nodes(&mut self, asked: &[Asked<'_>]) {
        let seen = Seen::by(asked.iter().filter_map(Asked::joined));
        let mut told = BTreeSet::new();
        for one in asked {
            let address = one.view.as_ref().ok().map(|view| view.self_node.clone());
            let address = address.or_else(|| {
                seen.members.keys().find(|node| has_address(one.pod, &node.host)).map(|node| (*node).clone())
            });
            told.extend(address.clone());
            let agent = one.agent.as_ref().map(|status| agent_state(status, self.taken));
            let ready = match &one.live.ready {
                Observed::Seen(answer) => Some(answer.status == 200),
                Observed::Unavailable(_) => None,
            };
            let mut state = NodeState {
                pod: Some(printable(one.name())),
                host: one.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(printable),
                ready,
                unseen: one.view.as_ref().err().cloned(),
                agent,
                ..NodeState::default()
            };
            if let Some(address) = address {
                seen.tell(&mut state, address, one.joined());
            }
            self.nodes.push(state);
        }
        for node in seen.members.keys().filter(|node| !told.contains(**node)) {
            let mut state = NodeState::default();
            seen.tell(&mut state, (*node).clone(), None);
            self.nodes.push(state);
        }
    }

    fn judge(&mut self, asked: &[Asked<'_>], now: OffsetDateTime) {
        let moves = Asked::are_in_motion(&asked.iter().collect::<Vec<_>>(), now);
        for state in &self.nodes {
            let name =
                state.pod.clone().or_else(|| state.address.as_ref().map(ToString::to_string)).unwrap_or_default();
            if !state.unreachable_from.is_empty() {
                self.problems.push(format!(
                    "{name} is unreachable from {}",
                    few(state.unreachable_from.iter().map(String::as_str))
                ));
            }
            match state.status.as_deref() {
                Some("WeaklyUp") => {
                    self.problems.push(format!("{name} is WeaklyUp: it waits for somebody who is unreachable"));
                }
                Some(status @ ("Joining" | "Leaving" | "Exiting")) if moves => {
                    self.notes.push(format!("{name} is {status}"));
                }
                Some(status @ ("Joining" | "Leaving" | "Exiting")) => self.problems.push(format!(
                    "{name} is {status}, and no pod comes or goes: somebody is unreachable, or more members are wanted \
                     (min-nr-of-members)"
                )),
                _ => {}
            }
            if state.status.as_deref() == Some("Down") {
                self.problems.push(format!("{name} is Down: it has to be restarted to join again"));
            }
            if let Some(reason) = &state.unseen {
                self.notes.push(format!("{name} does not say what it sees of the cluster: {reason}"));
            }
            if let Some(agent) = &state.agent
                && agent.certificate_days.is_some_and(|days| days < 0)
            {
                self.problems.push(format!("the certificate of {name} has ended; no new connection is made"));
            }
            if state.pod.is_none() {
                self.notes.push(format!("{name} is a member, and no pod that was asked"));
            }
        }
        for one in asked {
            let name = one.name();
            match running::state(one.pod, now) {
                Some(State::Broken { reason, .. }) => self.problems.push(printable(&format!(
                    "{name} does not run: {reason}; see `bypassctl check cluster -n {}`",
                    one.namespace()
                ))),
                Some(State::Starts(reason)) => {
                    self.notes.push(printable(&format!("{name} does not run yet: {reason}")));
                }
                Some(State::Runs) | None => {}
            }
            // Whoever leaves is in no cluster soon, and its sidecar ends with it.
            if one.is_leaving() || one.is_gone() {
                continue;
            }
            // What has only just started is on its way.
            let is_young = one.is_young(now);
            if one.view.is_ok() && one.joined().is_none() {
                let list = if is_young { &mut self.notes } else { &mut self.problems };
                list.push(format!("{name} has not joined a cluster; see `kubectl logs {}`", one.arguments()));
            }
            if one.is_running()
                && let Some((reason, is_new)) = running::unready(one.pod, now)
            {
                let list = if is_new { &mut self.notes } else { &mut self.problems };
                list.push(printable(&format!("{name}: {reason}")));
            }
            let readiness = one.agent.as_ref().and_then(|agent| agent.readiness.as_ref());
            if let Some(readiness) = readiness.filter(|readiness| !readiness.ready) {
                let reasons: Vec<String> = readiness.reasons.iter().map(ToString::to_string).collect();
                let list = if is_young { &mut self.notes } else { &mut self.problems };
                list.push(format!("the sidecar of {name} is not ready: {}", reasons.join("; ")));
            }
            if let (None, Observed::Seen(_)) = (&one.agent, &one.live.agent) {
                self.notes.push(format!("what answers at the admin port of {name} is no bypassctl of this kind"));
            }
        }
        let formed = asked.iter().any(|one| one.joined().is_some());
        if !formed && asked.iter().any(|one| one.view.is_ok()) {
            self.problems.push("no cluster has formed".to_owned());
        }
        let expected = |one: &&Asked<'_>| {
            one.view.is_err() && one.is_running() && !one.is_leaving() && !one.is_gone() && !one.is_young(now)
        };
        for one in asked.iter().filter(|one| formed && expected(one)) {
            let is_member = |state: &NodeState| state.pod.as_deref() == Some(one.name()) && state.status.is_some();
            if !self.nodes.iter().any(is_member) {
                self.problems.push(format!("{} runs, and is no member of the cluster that the others see", one.name()));
            }
        }
        if !asked.is_empty() && asked.iter().all(|one| one.view.is_err()) {
            let is_new = asked.iter().all(|one| one.is_young(now));
            let list = if is_new { &mut self.notes } else { &mut self.problems };
            list.push("no pod says what it sees of the cluster".to_owned());
        }
        let is_strict =
            |name: &str| asked.iter().any(|one| one.name() == name && one.agent.as_ref().is_some_and(strict));
        for path in self.paths.iter().filter(|path| path.plaintext) {
            let text = format!("plaintext from {} to {}", path.from, path.to);
            if is_strict(&path.from) || is_strict(&path.to) {
                self.problems.push(text + ", although the mode is strict");
            } else {
                self.notes.push(text);
            }
        }
        let versions: BTreeSet<&str> =
            self.nodes.iter().filter_map(|state| state.agent.as_ref()).map(|agent| agent.version.as_str()).collect();
        if versions.len() > 1 {
            let versions: Vec<&str> = versions.into_iter().collect();
            self.notes.push(format!("sidecars of several versions: {}", versions.join(", ")));
        }
        let soon = |agent: &Agent| agent.certificate_days == Some(0);
        for state in self.nodes.iter().filter(|state| state.agent.as_ref().is_some_and(soon)) {
            let until = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
            let name = state.pod.as_deref().unwrap_or_default();
            self.notes.push(format!("the certificate of {name} ends within a day of {until}"));
        }
    }
}

fn strict(status: &Status) -> bool {
    status.mode.to_string() == "strict"
}

/// Pods that see each other, together.
fn parts<'a, 'b>(group: &[&'a Asked<'b>]) -> Vec<Vec<&'a Asked<'b>>> {
    let mut parts: Vec<Vec<&Asked<'_>>> = Vec::new();
    for one in group {
        let (mut mine, others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|part| part.iter().any(|other| know_each_other(one, other)));
        let mut joined: Vec<&Asked<'_>> = mine.drain(..).flatten().collect();
        joined.push(one);
        parts = others;
        parts.push(joined);
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts
}

fn know_each_other(one: &Asked<'_>, other: &Asked<'_>) -> bool {
    match (one.joined(), other.joined()) {
        (Some(a), Some(b)) => a.member(&b.self_node).is_some() || b.member(&a.self_node).is_some(),
        _ => false,
    }
}

fn names(part: &[&Asked<'_>]) -> String {
    few(part.iter().map(|one| one.name()))
}

/// Names, and how many more there are where nobody would read them.
fn few<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(MOST_NAMES);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn has_address(pod: &Pod, host: &str) -> bool {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str());
    let one = status.and_then(|status| status.pod_ip.as_deref());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    // A StatefulSet's pods are known by name: shop-0.shop.default.svc.cluster.local.
    all.chain(one).any(|address| address == host) || host.split('.').next() == Some(name) && !name.is_empty()
}

/// What all views say, by whom it is about: a view may have thousands of members.
#[derive(Default)]
struct Seen<'a> {
    members: BTreeMap<&'a Node, Vec<&'a Member>>,
    observers: BTreeMap<&'a Node, BTreeSet<&'a Node>>,
    leaders: BTreeSet<&'a Node>,
    oldest: BTreeSet<&'a Node>,
}

impl<'a> Seen<'a> {
    fn by(views: impl Iterator<Item = &'a View>) -> Self {
        let mut seen = Self::default();
        for view in views {
            for member in &view.members {
                seen.members.entry(&member.node).or_default().push(member);
            }
            for one in &view.unreachable {
                seen.observers.entry(&one.node).or_default().extend(&one.observed_by);
            }
            seen.leaders.extend(&view.leader);
            seen.oldest.extend(&view.oldest);
        }
        seen
    }

    /// What the views say of this member: its own of itself first, then anybody's.
    fn tell(&self, state: &mut NodeState, address: Node, own: Option<&View>) {
        let members = self.members.get(&address).map(Vec::as_slice).unwrap_or_default();
        if let Some(member) = own.and_then(|view| view.member(&address)).or(members.first().copied()) {
            state.status = Some(member.status.to_string());
            state.roles = member.roles.iter().filter(|role| *role != "dc-default").cloned().collect();
        }
        // Somebody who sees it Down knows more than it does itself.
        if members.iter().any(|member| member.status == MemberStatus::Down) {
            state.status = Some(MemberStatus::Down.to_string());
        }
        state.leader = self.leaders.contains(&address);
        state.oldest = self.oldest.contains(&address);
        state.unreachable_from = self.observers.get(&address).into_iter().flatten().map(ToString::to_string).collect();
        state.address = Some(address);
    }
}

fn agent_state(status: &Status, now: OffsetDateTime) -> Agent {
    let leaf = status.credentials.as_ref().and_then(|credentials| credentials.chain.first());
    let identity = leaf.map(|leaf| leaf.subject_alt_names.first().unwrap_or(&leaf.subject).to_string());
    let chain = status.credentials.iter().flat_map(|credentials| &credentials.chain);
    let ends = chain.filter_map(|one| OffsetDateTime::parse(&one.not_after.to_string(), &Rfc3339).ok());
    let days = ends.min().map(|end| (end - now).whole_seconds().div_euclid(86400));
    Agent {
        version: status.version.to_string(),
        mode: status.mode.to_string(),
        ready: status.readiness.as_ref().is_some_and(|readiness| readiness.ready),
        identity,
        certificate_days: days,
    }
}

#[cfg(test)]
mod tests;
