//! Checks: facts in, results out. A check never gathers, and a gatherer never judges.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::core::facts::{Facts, Workload, key};
use crate::core::report::{CheckResult, Observed, Severity, Status};

pub(in crate::core) use mesh::asks_for_legacy_probes;
pub(in crate::core) use secrets::{has_secret, is_secret, takes_secret};
use subject::Subject;
pub(in crate::core) use subject::{
    AGENT_OPTIONS, Agent, AgentContainer, hocon, is_agent, is_jvm_options, is_read, set_by_variable,
};

mod agent;
pub mod catalog;
mod discovery;
mod library;
pub mod live;
mod mesh;
mod native;
mod network;
pub mod nodes;
pub mod paths;
pub mod pod;
mod ports;
pub mod pre;
mod probes;
mod rbac;
pub mod readable;
mod rollout;
pub(in crate::core) mod running;
mod secrets;
mod subject;

/// Judges manifests or a cluster: each workload that looks like nodes of a cluster, then what the pods said.
#[must_use]
pub fn run(facts: &Facts) -> Vec<CheckResult> {
    let lone = lone_pods(facts);
    let workloads = match &facts.objects.workloads {
        Observed::Seen(workloads) => workloads.as_slice(),
        Observed::Unavailable(_) => &[],
    };
    let subjects: Vec<Subject> =
        workloads.iter().chain(&lone).filter_map(|workload| Subject::new(facts, workload)).collect();
    let mut findings = Findings::default();
    read(facts, &subjects, &mut findings);
    running::run(facts, &subjects, &mut findings);
    for subject in &subjects {
        ports::run(subject, &mut findings);
        probes::run(subject, &mut findings);
        mesh::run(subject, &mut findings);
        agent::run(subject, &mut findings);
        library::run(subject, &mut findings);
        native::run(subject, &subjects, &mut findings);
        secrets::run(subject, &mut findings);
        rbac::run(subject, &mut findings);
        discovery::run(subject, &subjects, &mut findings);
        network::run(subject, &subjects, &mut findings);
        rollout::run(subject, &mut findings);
    }
    agent::versions(&subjects, &mut findings);
    discovery::services(facts, &subjects, &mut findings);
    let mut results = readable::run(facts);
    results.append(&mut findings.0);
    results.extend(live::run(facts));
    results
}

/// What was read, and whether anything of it is a subject.
fn read(facts: &Facts, subjects: &[Subject], findings: &mut Findings) {
    for unreadable in &facts.objects.unreadable {
        findings.fail(
            "manifest-readable",
            &unreadable.place,
            &unreadable.reason,
            "bypassctl check explain manifest-readable",
        );
    }
    let object = "manifests";
    match &facts.objects.workloads {
        Observed::Unavailable(reason) => findings.skip("workload-found", object, reason),
        Observed::Seen(_) if subjects.is_empty() && !facts.objects.unlisted.is_empty() => {
            findings.skip("workload-found", object, facts.objects.unlisted.join("; "));
        }
        Observed::Seen(_) if subjects.is_empty() => findings.fail(
            "workload-found",
            object,
            "no workload here looks like nodes of an Akka or Pekko cluster",
            "bypassctl check explain workload-found",
        ),
        Observed::Seen(_) => {
            let names = subjects.iter().take(5).map(|subject| subject.object.as_str()).collect::<Vec<_>>().join(", ");
            let more = if subjects.len() > 5 { ", …" } else { "" };
            findings.pass("workload-found", object, format!("{} found: {names}{more}", subjects.len()));
        }
    }
}

/// Pods that nobody made and that are not among the workloads, as where workloads could not be listed.
fn lone_pods(facts: &Facts) -> Vec<Workload> {
    let Observed::Seen(pods) = &facts.objects.pods else { return Vec::new() };
    let known: BTreeSet<String> = match &facts.objects.workloads {
        Observed::Seen(workloads) => {
            workloads.iter().filter(|workload| workload.kind == "Pod").map(|workload| key(&workload.metadata)).collect()
        }
        Observed::Unavailable(_) => BTreeSet::new(),
    };
    pods.iter().filter(|pod| !known.contains(&key(&pod.metadata))).filter_map(Workload::bare).collect()
}

/// Results as they come; severity and words are the catalog's.
#[derive(Debug, Default)]
struct Findings(Vec<CheckResult>);

impl Findings {
    fn pass(&mut self, code: &'static str, object: &str, message: impl Into<String>) {
        self.push(code, object, |check, _| check.pass(message));
    }

    /// What was seen, and the next command; why it matters and what to do is the catalog's to say.
    fn fail(&mut self, code: &'static str, object: &str, message: impl Into<String>, next: &str) {
        self.push(code, object, |check, entry| {
            check.fail(message, &format!("{}. To do: {}.", entry.why, entry.fix), next)
        });
    }

    fn skip(&mut self, code: &'static str, object: &str, reason: impl Into<String>) {
        self.push(code, object, |check, entry| check.skip(reason, entry.title));
    }

    /// Not well yet: what is waited for.
    fn pending(&mut self, code: &'static str, object: &str, message: impl Into<String>) {
        self.push(code, object, |check, _| check.pending(message));
    }

    fn push(&mut self, code: &'static str, object: &str, result: impl FnOnce(Check, &catalog::Entry) -> CheckResult) {
        let Some(entry) = catalog::entry(code) else { unreachable!("{code} is not in the catalog") };
        let check = Check { code, severity: entry.severity, object: Cow::Owned(object.to_owned()) };
        self.0.push(result(check, entry));
    }
}

/// The results that were not suppressed, by code; and where nothing is among them that says how anything stands, a failure
/// that says so: silence is no health.
#[must_use]
pub fn unless_suppressed(mut results: Vec<CheckResult>, suppressed: &[String]) -> Vec<CheckResult> {
    const CODE: &str = "something-judged";
    let before = results.len();
    let is_suppressed = |code: &str| suppressed.iter().any(|one| one == code);
    results.retain(|check| !is_suppressed(check.code));
    // That nothing was found, and what could be read, says nothing of how it stands.
    let says_something = |check: &CheckResult| {
        check.status != Status::Skip && !["workload-found", "cluster-readable"].contains(&check.code)
    };
    if is_suppressed(CODE) || results.iter().any(says_something) {
        return results;
    }
    let skipped = results.iter().filter(|check| check.status == Status::Skip).count();
    let message = format!(
        "nothing at all was judged, which is no health: {skipped} results were skipped and {} suppressed",
        before - results.len()
    );
    let mut findings = Findings(results);
    findings.fail(CODE, "check", message, "bypassctl check explain something-judged");
    findings.0
}

/// A name as it may stand in a command that somebody copies into a shell; else a placeholder.
pub(in crate::core) fn word<'a>(name: &'a str, placeholder: &'a str) -> &'a str {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let safe = !name.is_empty() && !name.starts_with('-') && name.chars().all(harmless);
    if safe { name } else { placeholder }
}

/// A check's fixed part, about one object.
struct Check {
    code: &'static str,
    severity: Severity,
    /// `kind/namespace/name`, or `kind/name`.
    object: Cow<'static, str>,
}

impl Check {
    /// A command of ours on the cluster that this is about, where the object's name says in which namespace it is.
    fn ours(&self, command: &str) -> String {
        let mut parts = self.object.split('/').skip(1);
        match (parts.next(), parts.next()) {
            (Some(namespace), Some(_)) => format!("bypassctl {command} -n {namespace}"),
            _ => format!("bypassctl {command}"),
        }
    }

    fn result(self, status: Status, message: impl Into<String>, hint: &str, next: &str) -> CheckResult {
        CheckResult {
            code: self.code,
            severity: self.severity,
            status,
            object: self.object.into_owned(),
            message: message.into(),
            hint: hint.to_owned(),
            next: next.to_owned(),
        }
    }

    /// All is well; the message says what was seen.
    fn pass(self, message: impl Into<String>) -> CheckResult {
        self.result(Status::Pass, message, "", "")
    }

    /// Not well: what was seen, why that matters and what to do, and the next command.
    fn fail(self, message: impl Into<String>, hint: &str, next: &str) -> CheckResult {
        self.result(Status::Fail, message, hint, next)
    }

    /// Not well yet, on its ordinary way there: what it waits for.
    fn pending(self, message: impl Into<String>) -> CheckResult {
        self.result(Status::Pending, message, "it takes up to two minutes; ask again, or give --wait", "")
    }

    /// Could not be judged: why, and how it could be.
    fn skip(self, message: impl Into<String>, hint: &str) -> CheckResult {
        self.result(Status::Skip, message, hint, "")
    }
}
