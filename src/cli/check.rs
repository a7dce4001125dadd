//! The command line of `check` and `schema`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};

use super::{AgentPortArgs, ClusterPortArgs, TlsArgs};
use crate::core::checks::catalog;

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(subcommand)]
    pub what: CheckCommand,
}

#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// This pod: rules, listeners, certificates, the sidecar
    Pod(CheckPodArgs),
    /// Manifests, without a cluster: YAML and JSON, also from Helm and Kustomize
    Files(CheckFilesArgs),
    /// A namespace of a cluster, from wherever there is a kubeconfig: its objects, and what the pods say of themselves
    Cluster(Box<CheckClusterArgs>),
    /// Before anything is installed: whether this node, or the namespace that is named, lets bypassctl run
    Pre(CheckPreArgs),
    /// What a check looks at, why that matters, and what to do
    Explain(CheckExplainArgs),
}

/// What comes out of a check, whichever it is.
#[derive(Debug, Args)]
pub struct ResultArgs {
    /// Form of the result
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "text")]
    pub output: ReportFormat,
    /// Codes of checks to leave out; `bypassctl check explain` lists them
    #[arg(long, env = "BYPASSCTL_SUPPRESS", value_delimiter = ',', value_name = "CODE", value_parser = codes(),
        hide_possible_values = true)]
    pub suppress: Vec<String>,
    /// Lowest severity whose failure makes the exit code 1
    #[arg(long, env = "BYPASSCTL_FAIL_ON", default_value = "warning")]
    pub fail_on: FailOn,
}

fn codes() -> PossibleValuesParser {
    PossibleValuesParser::new(catalog::entries().map(|entry| entry.code))
}

#[derive(Debug, Args)]
pub struct CheckPodArgs {
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    #[command(flatten)]
    pub agent: AgentPortArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub result: ResultArgs,
}

#[derive(Debug, Args)]
pub struct CheckFilesArgs {
    /// Files, directories (*.yaml, *.yml, *.json in them and below), or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    /// Namespace of objects that name none
    #[arg(long, short, env = "BYPASSCTL_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Say in the text what passed and what was skipped, too
    #[arg(long, env = "BYPASSCTL_ALL")]
    pub all: bool,
    /// Write what was read to this file, without secrets: a bug report that another machine can judge
    #[arg(long, env = "BYPASSCTL_SAVE_FACTS", value_name = "FILE")]
    pub save_facts: Option<PathBuf>,
    #[command(flatten)]
    pub result: ResultArgs,
}

#[derive(Debug, Args)]
pub struct CheckPreArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// This node and the context's namespace; where a namespace, context or kubeconfig is named, it is the namespace alone
    #[arg(long, env = "BYPASSCTL_WITH_NAMESPACE")]
    pub with_namespace: bool,
    #[command(flatten)]
    pub result: ResultArgs,
}

/// Which part of which cluster.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Kubeconfig [default: what KUBECONFIG names, then ~/.kube/config, then the pod's own service account]
    #[arg(long, env = "BYPASSCTL_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, env = "BYPASSCTL_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace [default: the context's]
    #[arg(long, short, env = "BYPASSCTL_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
}

/// Which pods of a namespace.
#[derive(Debug, Args)]
pub struct SelectionArgs {
    /// One workload and its pods, as in deployment/shop [default: everything in the namespace]
    #[arg(value_name = "KIND/NAME", env = "BYPASSCTL_WORKLOAD_NAME")]
    pub workload_name: Option<String>,
    /// Workloads and pods with these labels, as in app=shop
    #[arg(long, short = 'l', env = "BYPASSCTL_SELECTOR", value_name = "LABELS", conflicts_with = "workload_name")]
    pub selector: Option<String>,
}

#[derive(Debug, Args)]
pub struct CheckClusterArgs {
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    /// Look again until nothing fails, at most for this long [default with no value: 300]
    #[arg(long, env = "BYPASSCTL_WAIT", value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "300", conflicts_with = "facts", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: Option<u64>,
    /// Say in the text what passed and what was skipped, too
    #[arg(long, env = "BYPASSCTL_ALL")]
    pub all: bool,
    /// Write what was seen to this file, without secrets: a bug report that another machine can judge
    #[arg(long, env = "BYPASSCTL_SAVE_FACTS", value_name = "FILE")]
    pub save_facts: Option<PathBuf>,
    /// Judge what --save-facts wrote (- for standard input), and ask no cluster
    #[arg(long, env = "BYPASSCTL_FACTS", value_name = "FILE",
        conflicts_with_all = ["kubeconfig", "context", "namespace", "workload_name", "selector", "save_facts"])]
    pub facts: Option<PathBuf>,
    #[command(flatten)]
    pub result: ResultArgs,
}

#[derive(Debug, Args)]
pub struct CheckExplainArgs {
    /// The check; without one, all are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// Without a code: print all of docs/checks.md
    #[arg(long, env = "BYPASSCTL_ALL", conflicts_with = "code")]
    pub all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people: only failures are explained
    Text,
    /// A few lines, for a chat message
    Short,
    /// For programs: see `bypassctl schema check`
    Json,
    /// For build servers: JUnit XML
    Junit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Warnings and errors
    Warning,
    /// Errors alone
    Error,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Whose
    pub of: SchemaOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// Of `check … --output json`
    Check,
    /// Of the configuration file
    Config,
}
