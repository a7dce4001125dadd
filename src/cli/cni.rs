//! `bypassctl cni`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::ClusterPortArgs;
use crate::core::backend::BackendChoice;
use crate::core::directory::parse_namespace;

#[derive(Debug, Args)]
pub struct CniArgs {
    #[command(subcommand)]
    pub command: Option<CniCommand>,
}

#[derive(Debug, Subcommand)]
pub enum CniCommand {
    /// Install the plugin on this node and keep it installed until SIGTERM: the main process of a DaemonSet
    Install(Box<CniInstallArgs>),
    /// Take it away again: out of the configuration lists, its kubeconfig, its executable
    Uninstall(CniHostArgs),
    /// Say whether it is installed, with exit code 1 if it is not; for probes
    Status(CniHostArgs),
}

/// Where a node's container runtime looks.
#[derive(Clone, Debug, Args)]
pub struct CniHostArgs {
    /// The runtime's directory of plugins
    #[arg(long, env = "BYPASSCTL_CNI_BIN_DIR", default_value = "/opt/cni/bin", value_name = "DIR")]
    pub cni_bin_dir: PathBuf,
    /// The runtime's directory of network configurations
    #[arg(long, env = "BYPASSCTL_CNI_CONF_DIR", default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub cni_conf_dir: PathBuf,
    /// The configuration list in it [default: the first by its name, which is the one that runtimes read]
    #[arg(long, env = "BYPASSCTL_CNI_CONF_NAME", value_name = "FILE")]
    pub cni_conf_name: Option<String>,
}

#[derive(Debug, Args)]
pub struct CniInstallArgs {
    #[command(flatten)]
    pub host: CniHostArgs,
    /// Ports of pods that do not say theirs
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    /// By which packet filter of the kernel the rules are made
    #[arg(long, env = "BYPASSCTL_BACKEND", default_value = "auto")]
    pub backend: BackendChoice,
    /// Namespaces whose pods are left alone, and start while the API server is away
    #[arg(long, env = "BYPASSCTL_EXCLUDE_NAMESPACE", value_delimiter = ',', default_value = "kube-system",
        value_name = "NAMES", value_parser = parse_namespace)]
    pub exclude_namespace: Vec<String>,
    /// Where the plugin reaches the API server [default: the service kubernetes]
    #[arg(long, env = "BYPASSCTL_API_SERVER", value_name = "URL")]
    pub api_server: Option<String>,
    /// Token and ca.crt of the service account that the plugin uses
    #[arg(
        long,
        env = "BYPASSCTL_SERVICE_ACCOUNT_DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount",
        value_name = "DIR"
    )]
    pub service_account_dir: PathBuf,
    /// This node's name, from the downward API (spec.nodeName)
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// What becomes of pods that should have rules and have none, as they started before the plugin was there
    #[arg(
        long,
        env = "BYPASSCTL_REPAIR_PODS",
        default_value = "report",
        requires_if("rules", "node_name"),
        requires_if("evict", "node_name")
    )]
    pub repair_pods: CniRepair,
    /// Where the runtime keeps pods' network namespaces
    #[arg(long, env = "BYPASSCTL_NETNS_DIR", default_value = "/var/run/netns", value_name = "DIR")]
    pub netns_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CniRepair {
    /// They are named in the log
    Report,
    /// The rules are made in their network namespaces
    Rules,
    /// They are evicted, and whoever made them makes others
    Evict,
}
