//! The command line of `check` and `schema`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{AgentPortArgs, ClusterPortArgs, TlsArgs};

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
    /// What a check looks at, why that matters, and what to do
    Explain(CheckExplainArgs),
}

/// What comes out of a check, whichever it is.
#[derive(Debug, Args)]
pub struct ResultArgs {
    /// Form of the result
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "text")]
    pub output: ReportFormat,
    /// Codes of checks to leave out
    #[arg(long, env = "BYPASSCTL_SUPPRESS", value_delimiter = ',', value_name = "CODE")]
    pub suppress: Vec<String>,
    /// Lowest severity whose failure makes the exit code 1
    #[arg(long, env = "BYPASSCTL_FAIL_ON", default_value = "warning")]
    pub fail_on: FailOn,
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
pub struct CheckExplainArgs {
    /// The check; without one, all are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// Without a code: print all of docs/checks.md
    #[arg(long, env = "BYPASSCTL_ALL")]
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
}
