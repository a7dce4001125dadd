//! The command line, as clap structs and nothing more.
//!
//! Every option is also an environment variable (`BYPASSCTL_` and its name) and a key of the configuration file; see
//! [`crate::commands::parse`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::core::backend::BackendChoice;
use crate::core::collector::CollectorUrl;
use crate::core::config::{
    DEFAULT_ADMIN_PORT, DEFAULT_AGENT_UID, DEFAULT_INBOUND_PORT, DEFAULT_MESH_MARK, DEFAULT_OUTBOUND_PORT,
    RedirectMode, SideDoors,
};
use crate::core::directory::parse_namespace;
use crate::core::identity::TrustDomain;
use crate::core::policy::PeerAddress;
use crate::core::ports::{PortRange, Preset};
use crate::core::route::{TlsMode, TrafficPath};
use crate::core::sidecar::{TlsVersion, parse_federated};

pub use certs::{
    CertsArgs, CertsCaArgs, CertsCommand, CertsInspectArgs, CertsIssueArgs, CertsRevokeArgs, CertsVerifyArgs,
};
pub use check::{
    CheckArgs, CheckClusterArgs, CheckCommand, CheckExplainArgs, CheckFilesArgs, CheckPodArgs, CheckPreArgs, FailOn,
    ReportFormat, ResultArgs, SchemaArgs, SchemaOf, SelectionArgs, TargetArgs,
};
pub use cni::{CniArgs, CniCommand, CniHostArgs, CniInstallArgs, CniRepair};
pub use inject::{CompletionsArgs, InjectArgs, InjectionArgs, ManArgs, ShimArgs, WebhookArgs};
pub use render::{ManifestArgs, RenderAnnotationsArgs, RenderArgs, RenderCommand, RenderTlsArgs, SettingsFormat};
pub use source::SourceArgs;

mod certs;
mod check;
mod cni;
mod inject;
mod render;
mod source;

/// Lets Akka and Pekko cluster traffic bypass any service mesh, and gives it mutual TLS of its own
#[derive(Debug, Parser)]
#[command(name = "bypassctl", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done; 1 what was asked about is not well; 2 bad arguments or configuration; \
    3 the environment cannot do it; 4 rules applied but not proven, rolled back; 5 a runtime failure.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// YAML file with options as keys; an option or its environment variable beats it
    #[arg(long, global = true, env = "BYPASSCTL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, global = true, env = "BYPASSCTL_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Log filter: error, warn, info, debug, trace, off, or directives such as bypassctl::proxy=debug
    #[arg(long, global = true, env = "BYPASSCTL_LOG_LEVEL", default_value = "info", value_name = "FILTER")]
    pub log_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Program the rules of this network namespace, prove them, exit
    Init(InitArgs),
    /// The sidecar: mutual TLS for remoting
    Proxy(Box<ProxyArgs>),
    /// Find out what is wrong, and what to do next
    Check(CheckArgs),
    /// Print the JSON Schema of what other programs read
    Schema(SchemaArgs),
    /// The state of a cluster: members, leader, who is unreachable, who talks to whom with which identity; with --local,
    /// what the sidecar of this pod does
    Status(Box<StatusArgs>),
    /// Say where a packet goes in this network namespace, rule by rule, through everybody's tables
    Explain(ExplainArgs),
    /// Add the init container and the sidecar to manifests, from stdin or files to stdout
    Inject(InjectArgs),
    /// Print what can be done without the agent: annotations, TLS of the app's own, a network policy, rights
    Render(RenderArgs),
    /// Add them to pods as they are created: a mutating admission webhook
    Webhook(Box<WebhookArgs>),
    /// Bring the library that takes an app's connections to the sidecar, where no rules may be made, to a shared directory
    Shim(ShimArgs),
    /// Certificates: a development authority, what one says, whether one would do
    Certs(CertsArgs),
    /// As a container runtime calls it, the CNI plugin that makes pods' rules; with a command, what installs it on a node
    Cni(CniArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write man pages to a directory
    Man(ManArgs),
    /// Show the whole thing on this machine: pods as network namespaces, a mesh that captures everything, real TLS
    Demo(DemoArgs),
}

/// The cluster's ports.
#[derive(Debug, Args)]
pub struct ClusterPortArgs {
    /// Ports of a framework's own defaults
    #[arg(long, env = "BYPASSCTL_PRESET")]
    pub preset: Option<Preset>,
    /// Remoting ports: numbers and ranges, comma-separated or repeated [default: 2552]
    #[arg(long, env = "BYPASSCTL_REMOTING_PORT", value_delimiter = ',', value_name = "PORTS")]
    pub remoting_port: Vec<PortRange>,
    /// Management ports: numbers and ranges, comma-separated or repeated [default: 8558]
    #[arg(long, env = "BYPASSCTL_MANAGEMENT_PORT", value_delimiter = ',', value_name = "PORTS")]
    pub management_port: Vec<PortRange>,
}

/// The agent's own ports.
#[derive(Debug, Args)]
pub struct AgentPortArgs {
    /// Where outgoing remoting is redirected to
    #[arg(long, env = "BYPASSCTL_OUTBOUND_PORT", default_value_t = DEFAULT_OUTBOUND_PORT, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub outbound_port: u16,
    /// Where arriving remoting is redirected to
    #[arg(long, env = "BYPASSCTL_INBOUND_PORT", default_value_t = DEFAULT_INBOUND_PORT, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub inbound_port: u16,
    /// Health, metrics and status of the sidecar
    #[arg(long, env = "BYPASSCTL_ADMIN_PORT", default_value_t = DEFAULT_ADMIN_PORT, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub admin_port: u16,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    #[command(flatten)]
    pub agent: AgentPortArgs,
    /// What the rules do with remoting
    #[arg(long, env = "BYPASSCTL_MODE", default_value = "capture")]
    pub mode: RedirectMode,
    /// User id that the sidecar runs as
    #[arg(long, env = "BYPASSCTL_AGENT_UID", default_value_t = DEFAULT_AGENT_UID, value_name = "UID")]
    pub agent_uid: u32,
    /// User ids of a mesh proxy, beside those found in the mesh's own rules [default: 1337]
    #[arg(long, env = "BYPASSCTL_MESH_UID", value_delimiter = ',', value_name = "UIDS")]
    pub mesh_uid: Vec<u32>,
    /// Packet mark that the mesh's own rules skip
    #[arg(long, env = "BYPASSCTL_MESH_MARK", default_value_t = DEFAULT_MESH_MARK, value_name = "MARK")]
    pub mesh_mark: u32,
    /// Plaintext ways past the sidecar that a mesh proxy in the pod could use
    #[arg(long, env = "BYPASSCTL_SIDE_DOORS", default_value = "closed")]
    pub side_doors: SideDoors,
    /// By which packet filter of the kernel the rules are made
    #[arg(long, env = "BYPASSCTL_BACKEND", default_value = "auto")]
    pub backend: BackendChoice,
    /// This pod's address, from the downward API (status.podIP)
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<IpAddr>,
    /// The node's address, from the downward API (status.hostIP): equal to the pod's, the pod is on the host network
    #[arg(long, env = "HOST_IP", value_name = "ADDRESS")]
    pub host_ip: Option<IpAddr>,
    /// Go on in the initial network namespace; only for pods that have a kernel of their own (Kata, Firecracker)
    #[arg(long, env = "BYPASSCTL_ALLOW_INITIAL_NETNS")]
    pub allow_initial_netns: bool,
    /// Print the rules in the language of the backend's tool (auto: nft's), change nothing
    #[arg(long, env = "BYPASSCTL_DRY_RUN")]
    pub dry_run: bool,
    /// Apply the rules without proving them
    #[arg(long, env = "BYPASSCTL_NO_VERIFY")]
    pub no_verify: bool,
    /// Make no rules and need no privilege: prove from inside, as far as that goes, that somebody else's hold, a CNI plugin's
    /// for instance
    #[arg(long, env = "BYPASSCTL_PROVE_ONLY", conflicts_with_all = ["dry_run", "no_verify", "cleanup"])]
    pub prove_only: bool,
    /// Remove the rules that an earlier run left
    #[arg(long, env = "BYPASSCTL_CLEANUP", conflicts_with_all = ["dry_run", "no_verify"])]
    pub cleanup: bool,
}

#[derive(Debug, Args)]
pub struct ProxyArgs {
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    #[command(flatten)]
    pub agent: AgentPortArgs,
    /// How connections come to the sidecar
    #[arg(long, env = "BYPASSCTL_PATH", default_value = "rules")]
    pub path: TrafficPath,
    /// With --path ports: this pod's addresses, on whose remoting ports the sidecar listens; from the downward API
    /// (status.podIPs)
    #[arg(long, env = "POD_IP", value_delimiter = ',', value_name = "ADDRESS")]
    pub pod_ip: Vec<IpAddr>,
    /// What to do with peers that do not speak TLS
    #[arg(long, env = "BYPASSCTL_MODE", default_value = "strict")]
    pub mode: TlsMode,
    /// Day on which permissive mode is to end (YYYY-MM-DD); past it /ready and the log say so
    #[arg(long, env = "BYPASSCTL_PERMISSIVE_UNTIL", value_name = "DATE")]
    pub permissive_until: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Which peers may connect: spiffe://… (a trailing * matches the rest), dns:NAME, or ca; repeatable
    /// [default: the identity of our own certificate]
    #[arg(long, env = "BYPASSCTL_ALLOW", value_delimiter = ',', value_name = "IDENTITY")]
    pub allow: Vec<String>,
    /// Oldest version of TLS that peers may speak
    #[arg(long, env = "BYPASSCTL_TLS_MIN_VERSION", default_value = "1.2", value_name = "VERSION")]
    pub tls_min_version: TlsVersion,
    /// Seconds that roots go on counting after others have taken their place; for half of them our old certificate is
    /// still shown, if the new roots alone vouch for the new one
    #[arg(long, env = "BYPASSCTL_CA_OVERLAP", default_value_t = 0, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=2_592_000))]
    pub ca_overlap: u64,
    /// Seconds within which, after a change of credentials, connections made with the earlier ones are closed for their
    /// apps to dial anew, one pod after the other; bytes under way are lost. 0 for never: they live on
    #[arg(long, env = "BYPASSCTL_RECYCLE_WITHIN", default_value_t = 0, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=86400))]
    pub recycle_within: u64,
    /// Whether a peer's certificate has to go with its address
    #[arg(long, env = "BYPASSCTL_PEER_ADDRESS", default_value = "any")]
    pub peer_address: PeerAddress,
    /// With --peer-address pod: namespaces whose pods are asked for, comma-separated or repeated [default: our own]
    #[arg(long, env = "BYPASSCTL_PEER_NAMESPACE", value_delimiter = ',', value_name = "NAMES",
        value_parser = parse_namespace)]
    pub peer_namespace: Vec<String>,
    /// Addresses that the inbound and the admin listener bind; default: every address
    #[arg(long, env = "BYPASSCTL_BIND_ADDRESS", value_delimiter = ',', value_name = "ADDRESS")]
    pub bind_address: Vec<IpAddr>,
    /// Dial this address for every outgoing connection, instead of the original destination
    #[arg(long, env = "BYPASSCTL_OUTBOUND_TARGET", value_name = "ADDRESS:PORT")]
    pub outbound_target: Option<SocketAddr>,
    /// Dial this address for every arriving connection, instead of the original destination
    #[arg(long, env = "BYPASSCTL_INBOUND_TARGET", value_name = "ADDRESS:PORT")]
    pub inbound_target: Option<SocketAddr>,
    /// Seconds that a TLS handshake may take
    #[arg(long, env = "BYPASSCTL_HANDSHAKE_TIMEOUT", default_value_t = 10, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=300))]
    pub handshake_timeout: u64,
    /// Arriving handshakes that may be unfinished at a time; while others wait for one, each has 2 seconds
    #[arg(long, env = "BYPASSCTL_MAX_HANDSHAKES", default_value_t = 256, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_handshakes: u32,
    /// Connections that may be open at a time, in each direction
    #[arg(long, env = "BYPASSCTL_MAX_CONNECTIONS", default_value_t = 4096, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_connections: u32,
    /// Connections that may be open at a time with one other pod, in each direction
    #[arg(long, env = "BYPASSCTL_MAX_CONNECTIONS_PER_PEER", default_value_t = 512, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_connections_per_peer: u32,
    /// Attempts to have a peer that fail in a row until it is left alone for a while; 0 for never
    #[arg(long, env = "BYPASSCTL_BREAKER_FAILURES", default_value_t = 5, value_name = "N")]
    pub breaker_failures: u32,
    /// Seconds that such a peer is left alone, before one attempt is let through
    #[arg(long, env = "BYPASSCTL_BREAKER_PAUSE", default_value_t = 2, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=300))]
    pub breaker_pause: u64,
    /// Seconds that a peer may leave bytes or keepalives unanswered, or its app take no bytes, until its connections are
    /// given up
    #[arg(long, env = "BYPASSCTL_PEER_TIMEOUT", default_value_t = 45, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub peer_timeout: u64,
    /// Seconds that a half-closed connection may linger
    #[arg(long, env = "BYPASSCTL_HALF_CLOSE_TIMEOUT", default_value_t = 60, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub half_close_timeout: u64,
    /// Seconds after SIGTERM in which connections may end by themselves
    #[arg(long, env = "BYPASSCTL_DRAIN_TIMEOUT", default_value_t = 25, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=86400))]
    pub drain_timeout: u64,
    /// Let faults (delay, abort, black hole, throttle) be ordered through the admin port, from loopback; never by default
    #[arg(long, env = "BYPASSCTL_FAULT_INJECTION")]
    pub fault_injection: bool,
    /// Put the rules back when somebody removes, changes or overrides them; needs NET_ADMIN
    #[arg(long, env = "BYPASSCTL_REPAIR", conflicts_with_all = ["outbound_target", "inbound_target"])]
    pub repair: bool,
    #[command(flatten)]
    pub observe: ObserveArgs,
    #[command(flatten)]
    pub announce: AnnounceArgs,
}

/// What Kubernetes is told.
#[derive(Debug, Args)]
pub struct AnnounceArgs {
    /// Make events of this pod (rules lost, certificate about to end, peer refused), which kubectl describe shows
    #[arg(long, env = "BYPASSCTL_EVENTS", requires_all = ["pod_name", "pod_namespace", "pod_uid"])]
    pub events: bool,
    /// Set this pod's condition bypassctl.io/remoting-ready, for a readiness gate of that name
    #[arg(long, env = "BYPASSCTL_READINESS_GATE", requires_all = ["pod_name", "pod_namespace", "pod_uid"])]
    pub readiness_gate: bool,
    /// This pod's name, from the downward API (metadata.name)
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// This pod's namespace, from the downward API (metadata.namespace)
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// This pod's uid, from the downward API (metadata.uid)
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
}

/// What is told beside the sidecar's own metrics.
#[derive(Debug, Args)]
pub struct ObserveArgs {
    /// Offer connections and bytes under the names of Istio's standard TCP metrics too, so that Kiali draws them
    #[arg(long, env = "BYPASSCTL_ISTIO_METRICS")]
    pub istio_metrics: bool,
    /// This pod's workload, from the downward API (metadata.labels['app']) [default: our certificate's service account]
    #[arg(long, env = "BYPASSCTL_WORKLOAD", value_name = "NAME")]
    pub workload: Option<String>,
    /// This pod's namespace, from the downward API (metadata.namespace) [default: our certificate's]
    #[arg(long, env = "BYPASSCTL_WORKLOAD_NAMESPACE", value_name = "NAME")]
    pub workload_namespace: Option<String>,
    /// This Kubernetes cluster's name, for Istio's metrics and traces
    #[arg(long, env = "BYPASSCTL_CLUSTER_NAME", default_value = "Kubernetes", value_name = "NAME")]
    pub cluster_name: String,
    /// Send a trace of each connection to this OpenTelemetry collector (OTLP, HTTP with protobuf): http://HOST:4318
    #[arg(long, env = "BYPASSCTL_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<CollectorUrl>,
}

/// Where certificate, key and CA are.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Directory with tls.crt, tls.key and ca.crt, as cert-manager writes them
    #[arg(long, env = "BYPASSCTL_TLS_DIR", value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Certificate chain, PEM; instead of the one in --tls-dir
    #[arg(long, env = "BYPASSCTL_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key, PEM; instead of the one in --tls-dir
    #[arg(long, env = "BYPASSCTL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Roots that peers' certificates must lead to, PEM; instead of those in --tls-dir
    #[arg(long, env = "BYPASSCTL_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Roots for SPIFFE IDs of another trust domain, PEM; repeatable. They vouch for nobody else
    #[arg(long, env = "BYPASSCTL_TLS_FEDERATED", value_delimiter = ',', value_name = "TRUST_DOMAIN=FILE",
        value_parser = parse_federated)]
    pub tls_federated: Vec<(TrustDomain, PathBuf)>,
    /// Certificate revocation lists, PEM; who is on one is refused, and is disconnected when it appears there
    #[arg(long, env = "BYPASSCTL_TLS_CRL", value_name = "FILE")]
    pub tls_crl: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub cluster: ClusterPortArgs,
    /// Show it again and again, every so many seconds [default with no value: 2]; q or Ctrl-C ends it
    #[arg(long, short, env = "BYPASSCTL_WATCH", value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
    /// Not a cluster, but the sidecar in this pod's network namespace, over loopback
    #[arg(long, env = "BYPASSCTL_LOCAL")]
    pub local: bool,
    /// With --local, for exec probes: say nothing if the sidecar is ready, else why not, with exit code 1
    #[arg(long, env = "BYPASSCTL_READY")]
    pub ready: bool,
    /// With --local, for exec probes: say nothing if the sidecar is alive, ready or not, else exit with code 1
    #[arg(long, env = "BYPASSCTL_ALIVE", conflicts_with = "ready")]
    pub alive: bool,
    /// With --ready: until it is, for at most so many seconds
    #[arg(long, env = "BYPASSCTL_WAIT", value_name = "SECONDS", requires = "ready",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: Option<u64>,
    /// With --local: the sidecar's admin port
    #[arg(long, env = "BYPASSCTL_ADMIN_PORT", default_value_t = DEFAULT_ADMIN_PORT, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub admin_port: u16,
    /// Form of the answer; with --local, json is /status as it is
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "text")]
    pub output: OutputFormat,
}

fn with_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "no address with a port; write 10.0.0.7:2552, or [fd00::7]:2552".to_owned())
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Where the packet is going
    #[arg(long, env = "BYPASSCTL_TO", value_name = "ADDRESS:PORT", value_parser = with_port)]
    pub to: SocketAddr,
    /// Where it comes from [default: what the route says; with --in, an address of nobody]
    #[arg(long, env = "BYPASSCTL_FROM", value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// User id of the process that makes it
    #[arg(long, env = "BYPASSCTL_FROM_UID", default_value = "1000", value_name = "UID", conflicts_with = "arriving")]
    pub from_uid: Option<u32>,
    /// Its group id [default: the user id]
    #[arg(long, env = "BYPASSCTL_FROM_GID", value_name = "GID", conflicts_with = "arriving")]
    pub from_gid: Option<u32>,
    /// The mark that it carries from the start, as a mesh proxy's socket may give it
    #[arg(long, env = "BYPASSCTL_MARK", default_value_t = 0, value_name = "MARK")]
    pub mark: u32,
    /// It arrives from outside, and is not made here
    #[arg(id = "arriving", long = "in", env = "BYPASSCTL_IN")]
    pub arriving: bool,
    /// A UDP datagram, not a TCP connection's SYN
    #[arg(long, env = "BYPASSCTL_UDP")]
    pub udp: bool,
    /// Form of the answer
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "text")]
    pub output: OutputFormat,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the pods up until Enter or Ctrl-C, and say how to look inside
    #[arg(long, env = "BYPASSCTL_KEEP")]
    pub keep: bool,
}
