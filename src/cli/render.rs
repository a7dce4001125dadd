//! Text for people who do without the agent.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::ClusterPortArgs;
use crate::core::fallback::Mesh;
use crate::core::fallback::tls::Framework;

#[derive(Debug, Args)]
pub struct RenderArgs {
    #[command(subcommand)]
    pub what: RenderCommand,
}

#[derive(Debug, Subcommand)]
pub enum RenderCommand {
    /// The manifests, with annotations that keep remoting and management from a mesh; nothing encrypts them then
    Annotations(RenderAnnotationsArgs),
    /// A NetworkPolicy for each workload of nodes: remoting and management between its own pods alone
    NetworkPolicy(ManifestArgs),
    /// Role and RoleBinding that discovery by the Kubernetes API needs
    Rbac(ManifestArgs),
    /// Settings for Artery's own TLS
    Tls(RenderTlsArgs),
}

/// Manifests of nodes.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Manifests; - or nothing for stdin
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    /// Namespace of objects that name none
    #[arg(long, short, env = "BYPASSCTL_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub namespace: String,
}

#[derive(Debug, Args)]
pub struct RenderAnnotationsArgs {
    /// Whose annotations
    #[arg(long, env = "BYPASSCTL_MESH")]
    pub mesh: Mesh,
    #[command(flatten)]
    pub manifests: ManifestArgs,
}

#[derive(Debug, Args)]
pub struct RenderTlsArgs {
    /// Whose settings
    #[arg(long, env = "BYPASSCTL_FRAMEWORK")]
    pub framework: Framework,
    /// Where tls.crt, tls.key and ca.crt are in the app's container
    #[arg(long, env = "BYPASSCTL_TLS_DIR", default_value = "/tls", value_name = "DIR")]
    pub tls_dir: String,
    /// For a configuration file, or for the JVM's command line
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "hocon")]
    pub output: SettingsFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SettingsFormat {
    /// Lines for application.conf
    Hocon,
    /// -D options
    Options,
}
