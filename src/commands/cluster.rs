//! `bypassctl check cluster`: gathers facts of a namespace, judges them, prints the report; with `--wait` until all is well.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::cli::{CheckClusterArgs, ClusterPortArgs, SelectionArgs, TargetArgs};
use crate::cluster::client::{self, ClientError, Target};
use crate::cluster::gather::{gather, gather_live};
use crate::cluster::selection::Selection;
use crate::commands::check::{failed, judged, known_codes, saved, tell};
use crate::commands::{Failure, Outcome, chain};
use crate::core::checks;
use crate::core::config::ClusterPorts;
use crate::core::facts::Facts;
use crate::core::report::{Report, Status};

/// Between two looks at a cluster that is waited for.
const PAUSE: Duration = Duration::from_secs(2);
/// At most this long nothing is said while waiting.
const SILENCE: Duration = Duration::from_secs(15);

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
            target: Target { kubeconfig: kubeconfig.clone(), context: context.clone(), namespace: namespace.clone() },
            selection: selection.map_err(|error| Failure::usage(anyhow::anyhow!(error)))?,
            ports: ClusterPorts::new(ports.preset, &ports.remoting_port, &ports.management_port)
                .map_err(Failure::usage)?,
        })
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
    known_codes(&args.result)?;
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
    tell(&report, &args.result, args.all)
}

async fn look(question: &Question, args: &CheckClusterArgs) -> Result<Report, Failure> {
    let facts = question.ask().await?;
    if let Some(file) = &args.save_facts {
        saved::save(&facts, file)?;
    }
    Ok(judged(checks::run(&facts), &args.result))
}

/// Looks until nothing fails, or the time is over; says on standard error what is not well yet.
async fn wait(question: &Question, args: &CheckClusterArgs, limit: Duration) -> Result<Report, Failure> {
    let start = Instant::now();
    let mut said = (String::new(), start);
    loop {
        let looked = look(question, args).await;
        let over = start.elapsed() + PAUSE > limit;
        let wrong = match &looked {
            Ok(report) if !failed(report, &args.result) => return looked,
            Ok(report) => failing(report),
            Err(failure) if is_final(failure) => return looked,
            Err(failure) => chain(&failure.error),
        };
        if over {
            return looked;
        }
        if wrong != said.0 || said.1.elapsed() >= SILENCE {
            // Nobody reads it; the result still comes.
            let _ = writeln!(std::io::stderr(), "after {} s: {wrong}", start.elapsed().as_secs());
            said = (wrong, Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A cluster that is being made may not be there yet, but a context that is not there will not come.
pub(super) fn is_final(failure: &Failure) -> bool {
    failure.error.downcast_ref::<ClientError>().is_some_and(ClientError::is_usage)
}

fn failing(report: &Report) -> String {
    let failing: Vec<String> = report
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail)
        .map(|check| format!("{} {}: {}", check.code, check.object, check.message))
        .collect();
    format!("{} not well: {}", failing.len(), failing.join("; "))
}
