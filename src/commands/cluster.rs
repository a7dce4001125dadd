//! `bypassctl check cluster`: gathers facts of a namespace, judges them, prints the report; with `--wait` until all is well.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cli::{CheckClusterArgs, ClusterPortArgs, SelectionArgs, TargetArgs};
use crate::cluster::client::{self, ClientError, Target};
use crate::cluster::gather::{gather, gather_live};
use crate::cluster::selection::Selection;
use crate::commands::check::{failed, judged, saved, tell, threshold};
use crate::commands::{Failure, Outcome, chain};
use crate::core::checks;
use crate::core::config::ClusterPorts;
use crate::core::facts::Facts;
use crate::core::report::{Report, Severity, Status, plain};

/// Between two looks at a cluster that is waited for.
const PAUSE: Duration = Duration::from_secs(2);
/// At most this long nothing is said while waiting.
const SILENCE: Duration = Duration::from_secs(15);

/// Failures that are named while waiting.
const MOST_TOLD: usize = 5;

/// What is asked for, validated.
pub(super) struct Question {
    target: Target,
    selection: Selection,
    ports: ClusterPorts,
}

impl Question {
    pub(super) fn new(
        target: &TargetArgs,
        selection: &SelectionArgs,
        ports: &ClusterPortArgs,
    ) -> Result<Self, Failure> {
        let TargetArgs { kubeconfig, context, namespace } = target;
        let selection = Selection::parse(selection.workload_name.as_deref(), selection.selector.as_deref());
        Ok(Self {
            target: Target {
                kubeconfig: kubeconfig.clone(),
                context: context.clone(),
                namespace: namespace.clone(),
                is_direct: false,
            },
            selection: selection.map_err(|error| Failure::usage(anyhow::anyhow!(error)))?,
            ports: ClusterPorts::new(ports.preset, &ports.remoting_port, &ports.management_port)
                .map_err(Failure::usage)?,
        })
    }

    /// The command, at the cluster that was named, where one was: whoever copies it may have another current context.
    fn aimed(&self, mut command: String) -> String {
        let is_plain = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || ":/@._-".contains(c));
        let asks_a_cluster =
            ["kubectl ", "bypassctl check cluster", "bypassctl status"].iter().any(|start| command.starts_with(start));
        if !asks_a_cluster || command.contains("--help") || command.contains(" -- ") {
            return command;
        }
        let file = self.target.kubeconfig.as_ref().and_then(|file| file.to_str());
        for (option, value) in [("--kubeconfig", file), ("--context", self.target.context.as_deref())] {
            if let Some(value) = value.filter(is_plain) {
                command = format!("{command} {option} {value}");
            }
        }
        command
    }

    /// The facts as they are now, as far as the state of a cluster needs them.
    pub(super) async fn ask_live(&self) -> Result<Facts, Failure> {
        let cluster = client::connect(&self.target).await.map_err(unreachable)?;
        gather_live(&cluster, &self.selection, &self.ports).await.map_err(Failure::usage)
    }

    /// The facts as they are now.
    pub(super) async fn ask(&self) -> Result<Facts, Failure> {
        let cluster = client::connect(&self.target).await.map_err(unreachable)?;
        gather(&cluster, &self.selection, &self.ports).await.map_err(Failure::usage)
    }
}

pub(super) fn unreachable(error: ClientError) -> Failure {
    if error.is_usage() { Failure::usage(error) } else { error.into() }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

pub(super) fn check(args: &CheckClusterArgs) -> Result<Outcome, Failure> {
    if let Some(file) = &args.facts {
        return tell(&judged(checks::run(&saved::load(file)?), &args.result), &args.result, args.all);
    }
    let question = Question::new(&args.target, &args.selection, &args.cluster)?;
    let report = runtime()?.block_on(async {
        match args.wait {
            Some(seconds) => wait(&question, args, Duration::from_secs(seconds)).await,
            None => look(&question, args).await,
        }
    })?;
    let outcome = tell(&report, &args.result, args.all)?;
    // Whoever waited wanted it well, and not soon.
    let is_late = args.wait.is_some() && report.summary.pending > 0;
    Ok(if is_late { Outcome::NotWell } else { outcome })
}

async fn look(question: &Question, args: &CheckClusterArgs) -> Result<Report, Failure> {
    let facts = question.ask().await?;
    if let Some(file) = &args.save_facts {
        saved::save(&facts, file)?;
    }
    let mut results = checks::run(&facts);
    for check in &mut results {
        check.next = question.aimed(std::mem::take(&mut check.next));
    }
    Ok(judged(results, &args.result))
}

/// Looks until nothing fails that counts and nothing is pending, or the time is over; says on standard error what is not well yet.
async fn wait(question: &Question, args: &CheckClusterArgs, limit: Duration) -> Result<Report, Failure> {
    let start = Instant::now();
    let mut said = (String::new(), start);
    let mut last = None;
    loop {
        // Whoever hangs is waited for no longer than asked; what was seen before is the result then.
        let left = limit.saturating_sub(start.elapsed());
        let Ok(looked) = tokio::time::timeout(left, look(question, args)).await else {
            return last.unwrap_or_else(|| {
                let seconds = limit.as_secs();
                Err(anyhow!("the cluster has not told everything within the {seconds} s of --wait").into())
            });
        };
        let wrong = match &looked {
            Ok(report) if !failed(report, &args.result) && report.summary.pending == 0 => return looked,
            Ok(report) => failing(report, threshold(&args.result)),
            Err(failure) if is_final(failure) => return looked,
            Err(failure) => chain(&failure.error),
        };
        if start.elapsed() + PAUSE > limit {
            return looked;
        }
        last = Some(looked);
        if wrong != said.0 || said.1.elapsed() >= SILENCE {
            // Nobody reads it; the result still comes.
            let _ = writeln!(std::io::stderr(), "after {} s: {}", start.elapsed().as_secs(), plain(&wrong));
            said = (wrong, Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A cluster that is being made may not be there yet, but a context that is not there will not come.
pub(super) fn is_final(failure: &Failure) -> bool {
    failure.error.downcast_ref::<ClientError>().is_some_and(ClientError::is_usage)
}

/// What keeps it waiting: failures of at least this severity, and what is not yet well.
fn failing(report: &Report, at_least: Severity) -> String {
    let failing: Vec<String> = report
        .checks
        .iter()
        .filter(|check| check.status == Status::Pending || check.status == Status::Fail && check.severity >= at_least)
        .map(|check| format!("{} {}: {}", check.code, check.object, check.message))
        .collect();
    let more = if failing.len() > MOST_TOLD { "; …" } else { "" };
    format!("{} not well: {}{more}", failing.len(), failing[..failing.len().min(MOST_TOLD)].join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::report::CheckResult;

    #[test]
    fn commands_are_for_the_cluster_that_was_named() {
        let question = |context: Option<&str>| Question {
            target: Target { context: context.map(str::to_owned), ..Target::default() },
            selection: Selection::All,
            ports: ClusterPorts::new(None, &[], &[]).unwrap(),
        };
        let aimed = |context, command: &str| question(context).aimed(command.to_owned());
        assert_eq!(aimed(None, "kubectl get pods"), "kubectl get pods");
        assert_eq!(aimed(Some("arn:aws:eks:x/y"), "kubectl get pods"), "kubectl get pods --context arn:aws:eks:x/y");
        assert_eq!(aimed(Some("prod"), "bypassctl status -n a"), "bypassctl status -n a --context prod");
        assert_eq!(aimed(Some("prod"), "bypassctl check explain x"), "bypassctl check explain x");
        assert_eq!(aimed(Some("a; rm"), "kubectl get pods"), "kubectl get pods");
    }

    #[test]
    fn only_what_counts_and_what_is_pending_keeps_it_waiting() {
        let result = |code, severity, status| CheckResult {
            code,
            severity,
            status,
            object: "x".to_owned(),
            message: "seen".to_owned(),
            hint: String::new(),
            next: String::new(),
        };
        let failure = |code, severity| result(code, severity, Status::Fail);
        let report = Report::new(vec![
            result("pods-ready", Severity::Info, Status::Pending),
            failure("disruption-budget", Severity::Info),
            failure("app-ready", Severity::Warning),
            failure("one-cluster", Severity::Error),
        ]);
        assert_eq!(
            failing(&report, Severity::Warning),
            "3 not well: pods-ready x: seen; app-ready x: seen; one-cluster x: seen"
        );
        assert_eq!(failing(&report, Severity::Error), "2 not well: pods-ready x: seen; one-cluster x: seen");
    }
}
