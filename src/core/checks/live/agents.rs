//! The sidecars' word on themselves.

use std::collections::BTreeSet;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::core::checks::Check;
use crate::core::checks::live::Asked;
use crate::core::facts::Facts;
use crate::core::report::{CheckResult, Observed, Severity};
use crate::core::status::Status;

/// cert-manager renews at two thirds of the lifetime, so a healthy certificate never comes this close to its end.
const EXPIRES_SOON: Duration = Duration::hours(6);
/// Certificates are often valid from the second in which they were made.
const MOST_SKEW_MS: u64 = 10_000;
/// Older refusals may be of another age of the cluster.
const RECENT: Duration = Duration::minutes(15);

/// Whether a container of ours is in the pod.
fn has_agent(asked: &Asked<'_>) -> bool {
    let Some(spec) = &asked.pod.spec else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.into_iter().any(|container| container.name == "bypassctl" || container.name == "bypassctl-proxy")
}

pub(super) fn of_pod(facts: &Facts, asked: &Asked<'_>) -> Vec<CheckResult> {
    if !has_agent(asked) {
        return Vec::new();
    }
    let check = |code, severity| Check { code, severity, object: asked.object.clone().into() };
    let logs = format!("kubectl logs {} -c bypassctl", asked.arguments());
    // Nothing is asked of whoever leaves; members' own check says so.
    if asked.is_leaving() || asked.is_gone() {
        return Vec::new();
    }
    let is_young = asked.is_young(facts.taken);
    let status = match (&asked.live.agent, &asked.agent) {
        (Observed::Unavailable(reason), _) if !asked.is_running() => {
            return vec![check("agent-answers", Severity::Error).skip(reason, "ask again once the pod runs")];
        }
        (Observed::Unavailable(reason), _) if Asked::is_forbidden(reason) => {
            return vec![
                check("agent-answers", Severity::Error).skip(reason, "get the right, or ask somebody who has it"),
            ];
        }
        (Observed::Unavailable(reason), _) if is_young => {
            let message = format!("the sidecar does not answer yet: {reason}");
            return vec![check("agent-answers", Severity::Error).pending(message)];
        }
        (Observed::Unavailable(reason), _) => {
            return vec![check("agent-answers", Severity::Error).fail(
                format!("the sidecar does not answer: {reason}"),
                "nobody knows what it does with remoting; it may not be running, or listen on another admin port",
                &logs,
            )];
        }
        (Observed::Seen(_), None) => {
            return vec![check("agent-answers", Severity::Error).fail(
                "what answers on the admin port is no bypassctl sidecar",
                "another process of the pod has taken the port; give the sidecar another one with --admin-port",
                &logs,
            )];
        }
        (Observed::Seen(_), Some(status)) => status,
    };
    let mut results = vec![check("agent-answers", Severity::Error).pass(format!("bypassctl {}", status.version))];
    results.push(ready(check("agent-ready", Severity::Error), is_young, status, &logs));
    results.extend(rules(check("rules-effective", Severity::Error), status, asked));
    results.extend(certificate(check("certificate-valid", Severity::Error), status, facts.taken, &logs));
    results.extend(refusals(check, status, facts, &logs));
    results.push(plaintext(check("plaintext-left", Severity::Warning), status));
    results.extend(clock(check("clocks-agree", Severity::Warning), asked));
    results
}

fn ready(check: Check, is_young: bool, status: &Status, logs: &str) -> CheckResult {
    match &status.readiness {
        Some(readiness) if !readiness.ready => {
            let reasons: Vec<String> = readiness.reasons.iter().map(ToString::to_string).collect();
            if is_young {
                return check.pending(format!("the sidecar is not ready yet: {}", reasons.join("; ")));
            }
            check.fail(
                format!("the sidecar is not ready: {}", reasons.join("; ")),
                "remoting of this pod does not work, or not safely, until the reason is gone",
                logs,
            )
        }
        _ => check.pass("the sidecar is ready"),
    }
}

fn rules(check: Check, status: &Status, asked: &Asked<'_>) -> Option<CheckResult> {
    if !status.rules.expected {
        return None;
    }
    let mut wrong: Vec<String> =
        status.rules.watch.iter().flat_map(|watch| &watch.faults).map(ToString::to_string).collect();
    for (family, seen) in status.rules.families.iter().filter(|(_, seen)| seen.state.to_string() == "missing") {
        let detail = seen.detail.as_ref().map(ToString::to_string).unwrap_or_default();
        wrong.push(format!("{family}: the canary was not redirected {detail}").trim_end().to_owned());
    }
    if wrong.is_empty() {
        return Some(check.pass("remoting is redirected to the sidecar"));
    }
    Some(check.fail(
        wrong.join("; "),
        "the mesh or somebody else captures remoting; init's log says what it made and proved, and `bypassctl explain` in a \
         container with NET_ADMIN of that pod (kubectl debug --profile=netadmin) where a packet goes",
        &format!("kubectl logs {} -c bypassctl-init", asked.arguments()),
    ))
}

fn certificate(check: Check, status: &Status, now: OffsetDateTime, logs: &str) -> Option<CheckResult> {
    let leaf = status.credentials.as_ref()?.chain.first()?;
    let Ok(end) = OffsetDateTime::parse(&leaf.not_after.to_string(), &Rfc3339) else {
        return Some(check.skip("the sidecar's certificate has no readable end", "ask its /status"));
    };
    let names: Vec<String> = leaf.subject_alt_names.iter().map(ToString::to_string).collect();
    let names = if names.is_empty() { leaf.subject.to_string() } else { names.join(", ") };
    let left = end - now;
    Some(if left <= Duration::ZERO {
        let hint =
            "every new connection is refused; whoever issues certificates has stopped, or the volume is not updated";
        check.fail(format!("the certificate of {names} ended at {}", leaf.not_after), hint, logs)
    } else if left <= EXPIRES_SOON {
        let message = format!("the certificate of {names} ends in {} minutes", left.whole_minutes());
        let hint = "it should have been renewed long ago; without renewal remoting stops at its end";
        Check { code: "certificate-renewed", severity: Severity::Warning, ..check }.fail(message, hint, logs)
    } else {
        check.pass(format!("the certificate of {names} is valid for {} more hours", left.whole_hours()))
    })
}

/// Those of pods and members are faults of the cluster; those of strangers (a scanner, a probe) are what the sidecar is for.
fn refusals(
    check: impl Fn(&'static str, Severity) -> Check,
    status: &Status,
    facts: &Facts,
    logs: &str,
) -> Vec<CheckResult> {
    let known = known_addresses(facts);
    let mut of_peers = Refusals::default();
    let mut of_strangers = Refusals::default();
    for refusal in &status.refusals {
        let at = OffsetDateTime::parse(&refusal.at.to_string(), &Rfc3339);
        if !at.is_ok_and(|at| facts.taken - at <= RECENT) {
            continue;
        }
        // The port is another one each time.
        let peer = refusal.peer.to_string();
        let peer = peer.rsplit_once(':').map_or(peer.as_str(), |(address, _)| address).trim_matches(['[', ']']);
        let whom = refusal.identity.as_ref().map(|identity| format!(" ({identity})")).unwrap_or_default();
        let text = format!("{} {peer}{whom}: {}", refusal.direction, refusal.reason);
        let hint = refusal.hint.as_ref().map(ToString::to_string);
        // Whoever we dial is meant to be a peer.
        let is_peer = known.contains(peer) || refusal.direction.to_string() == "outbound";
        if is_peer { &mut of_peers } else { &mut of_strangers }.add(text, hint);
    }
    let accepted = check("peers-accepted", Severity::Error);
    let mut results = vec![if of_peers.count == 0 {
        accepted.pass("no connection of a pod or a member was refused lately")
    } else {
        of_peers.failure(accepted, logs)
    }];
    if of_strangers.count > 0 {
        results.push(of_strangers.failure(check("strangers-refused", Severity::Info), logs));
    }
    results
}

#[derive(Default)]
struct Refusals {
    count: usize,
    texts: Vec<String>,
    hint: Option<String>,
}

impl Refusals {
    fn add(&mut self, text: String, hint: Option<String>) {
        self.count += 1;
        self.hint = self.hint.take().or(hint);
        if !self.texts.contains(&text) && self.texts.len() < 5 {
            self.texts.push(text);
        }
    }

    fn failure(self, check: Check, logs: &str) -> CheckResult {
        let hint = self.hint.unwrap_or_else(|| {
            "the sidecar's log names the identity that was seen and those that are allowed".to_owned()
        });
        let message = format!("{} connections were refused in 15 minutes: {}", self.count, self.texts.join("; "));
        check.fail(message, &hint, logs)
    }
}

/// Addresses of pods of the namespace, and of whom members see.
fn known_addresses(facts: &Facts) -> BTreeSet<String> {
    let Observed::Seen(pods) = &facts.objects.pods else { return BTreeSet::new() };
    let of_pods = pods.iter().filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        let more = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
        status.pod_ip.clone().into_iter().chain(more)
    });
    let asked = pods.iter().filter_map(|pod| Asked::new(facts, pod));
    let of_members = asked.flat_map(|asked| {
        let members = asked.view.map(|view| view.members).unwrap_or_default();
        members.into_iter().map(|member| member.node.host)
    });
    of_pods.chain(of_members).collect()
}

fn plaintext(check: Check, status: &Status) -> CheckResult {
    let mut peers: BTreeSet<String> = status.plaintext_peers.iter().map(|peer| peer.peer.to_string()).collect();
    peers.extend(status.connections.iter().filter(|group| group.tls.is_none()).map(|group| group.peer.to_string()));
    if peers.is_empty() {
        return check.pass("every connection is encrypted");
    }
    let next = check.ours("status");
    let shown: Vec<&str> = peers.iter().take(10).map(String::as_str).collect();
    check.fail(
        format!("{} peers speak plaintext with it: {}", peers.len(), shown.join(", ")),
        "they have no sidecar, or theirs is bypassed; once all have one, end the migration with --mode strict",
        &next,
    )
}

fn clock(check: Check, asked: &Asked<'_>) -> Option<CheckResult> {
    let Observed::Seen(skew) = asked.live.clock_skew_ms else { return None };
    Some(if skew.unsigned_abs() <= MOST_SKEW_MS {
        check.pass(format!("the pod's clock differs from ours by {skew} ms"))
    } else {
        check.fail(
            format!("the pod's clock differs from ours by {} s", skew / 1000),
            "certificates are not yet valid or already expired for one side; set the node's clock by NTP",
            &format!("kubectl get pod {} -o wide", asked.arguments()),
        )
    })
}

pub(super) fn of_cluster(object: &str, pods: &[&Asked<'_>]) -> Vec<CheckResult> {
    let (with, without): (Vec<&Asked<'_>>, Vec<&Asked<'_>>) = pods.iter().copied().partition(|pod| has_agent(pod));
    if with.is_empty() {
        return Vec::new();
    }
    let check = |code| Check { code, severity: Severity::Warning, object: object.to_owned().into() };
    let versions: BTreeSet<String> =
        with.iter().filter_map(|pod| pod.agent.as_ref()).map(|status| status.version.to_string()).collect();
    let shown = versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut results = Vec::new();
    if versions.len() > 1 {
        results.push(check("agent-versions").fail(
            format!("sidecars of several versions: {shown}"),
            "they understand each other, but one of them has faults that another has not; finish the rollout",
            &check("agent-versions").ours("status"),
        ));
    } else if versions.len() == 1 {
        results.push(check("agent-versions").pass(format!("every sidecar is bypassctl {shown}")));
    }
    results.push(if without.is_empty() {
        check("agent-everywhere").pass(format!("{} of {} pods have a sidecar", with.len(), pods.len()))
    } else {
        let names: Vec<&str> = without.iter().map(|pod| pod.name()).take(10).collect();
        check("agent-everywhere").fail(
            format!("{} of {} pods have no sidecar: {}", without.len(), pods.len(), names.join(", ")),
            "pods with a sidecar in strict mode refuse them, and they speak plaintext with the others",
            &check("agent-everywhere").ours("status"),
        )
    });
    results
}
