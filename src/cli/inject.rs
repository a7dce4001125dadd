//! Commands that bring the agent to pods, and the command line to its users.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::cli::ClusterPortArgs;
use crate::core::backend::BackendChoice;
use crate::core::config::DEFAULT_WEBHOOK_ADMIN_PORT;
use crate::core::inject::SidecarKind;
use crate::core::route::{TlsMode, TrafficPath};

/// What is added to a pod, unless its annotations say otherwise.
#[derive(Debug, Args)]
pub struct InjectionArgs {
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    /// Image of both containers
    #[arg(long, env = "BYPASSCTL_IMAGE", default_value = concat!("bypassctl:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// imagePullPolicy of both containers [default: Kubernetes']
    #[arg(long, env = "BYPASSCTL_IMAGE_PULL_POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,
    /// How the sidecar lives
    #[arg(long, env = "BYPASSCTL_SIDECAR", default_value = "native")]
    pub sidecar: SidecarKind,
    /// How connections come to the sidecar; by ports the pod needs no capability (docs/restricted.md)
    #[arg(long, env = "BYPASSCTL_PATH", default_value = "rules")]
    pub path: TrafficPath,
    /// What the sidecar does with peers that do not speak TLS
    #[arg(long, env = "BYPASSCTL_MODE", default_value = "strict")]
    pub mode: TlsMode,
    /// Day on which permissive mode is to end (YYYY-MM-DD)
    #[arg(long, env = "BYPASSCTL_PERMISSIVE_UNTIL", value_name = "DATE")]
    pub permissive_until: Option<String>,
    /// Which peers may connect: spiffe://… (a trailing * matches the rest), dns:NAME, or ca; repeatable
    /// [default: the identity of the pod's own certificate]
    #[arg(long, env = "BYPASSCTL_ALLOW", value_delimiter = ',', value_name = "IDENTITY")]
    pub allow: Vec<String>,
    /// Secret with tls.crt, tls.key and ca.crt; {name} stands for the workload's name
    #[arg(long, env = "BYPASSCTL_TLS_SECRET", default_value = "{name}-remoting-tls", value_name = "NAME")]
    pub tls_secret: String,
    /// By which packet filter of the kernel the rules are made
    #[arg(long, env = "BYPASSCTL_BACKEND", default_value = "auto")]
    pub backend: BackendChoice,
    /// Let the sidecar make events of its pod, which kubectl describe shows; its service account needs the right to
    #[arg(long, env = "BYPASSCTL_EVENTS")]
    pub events: bool,
    /// Let the pod be ready only while its remoting is (bypassctl.io/remoting-ready); its service account needs the right to
    /// say so
    #[arg(long, env = "BYPASSCTL_READINESS_GATE")]
    pub readiness_gate: bool,
}

#[derive(Debug, Args)]
pub struct InjectArgs {
    /// Manifests; - or nothing for stdin
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub injection: InjectionArgs,
    /// Take away what inject added
    #[arg(long, env = "BYPASSCTL_UNINJECT")]
    pub uninject: bool,
}

#[derive(Debug, Args)]
pub struct ShimArgs {
    /// Directory that the app's container shares
    #[arg(long, env = "BYPASSCTL_INSTALL", value_name = "DIR")]
    pub install: PathBuf,
    /// The library [default: the one beside this executable]
    #[arg(long, env = "BYPASSCTL_LIBRARY", value_name = "FILE")]
    pub library: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WebhookArgs {
    #[command(flatten)]
    pub injection: InjectionArgs,
    /// Where the API server calls, by HTTPS; its path is /mutate
    #[arg(long, env = "BYPASSCTL_LISTEN", default_value = "[::]:9443", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Where probes and scrapers ask, at the same address, by HTTP: /healthz, /ready, /metrics
    #[arg(long, env = "BYPASSCTL_ADMIN_PORT", default_value_t = DEFAULT_WEBHOOK_ADMIN_PORT, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub admin_port: u16,
    /// Directory with tls.crt and tls.key, of cert-manager for instance; followed when they change
    #[arg(long, env = "BYPASSCTL_TLS_DIR", value_name = "DIR", required_unless_present = "self_signed")]
    pub tls_dir: Option<PathBuf>,
    /// Make a certificate, share it with the other replicas, and tell the API server of its root
    #[arg(long, env = "BYPASSCTL_SELF_SIGNED", conflicts_with = "tls_dir", requires_all = ["secret", "service",
        "webhook_configuration"])]
    pub self_signed: bool,
    /// With --self-signed: the Secret that keeps the certificate, in the Service's namespace
    #[arg(long, env = "BYPASSCTL_SECRET", value_name = "NAMESPACE/NAME", requires = "self_signed",
        value_parser = namespaced)]
    pub secret: Option<(String, String)>,
    /// With --self-signed: the Service that the API server calls
    #[arg(long, env = "BYPASSCTL_SERVICE", value_name = "NAME", requires = "self_signed")]
    pub service: Option<String>,
    /// With --self-signed: the MutatingWebhookConfiguration that calls it
    #[arg(long, env = "BYPASSCTL_WEBHOOK_CONFIGURATION", value_name = "NAME", requires = "self_signed")]
    pub webhook_configuration: Option<String>,
    /// Instead of the pod's own service account: a kubeconfig, for trying it out
    #[arg(long, env = "BYPASSCTL_KUBECONFIG", value_name = "FILE", requires = "self_signed")]
    pub kubeconfig: Option<PathBuf>,
}

fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to; it is made if it is not there
    pub dir: PathBuf,
}
