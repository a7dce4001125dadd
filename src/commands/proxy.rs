//! `bypassctl proxy`: the sidecar.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::{AnnounceArgs, ProxyArgs, SourceArgs, TlsArgs};
use crate::cluster::addresses;
use crate::cluster::announce::Announcer;
use crate::cluster::client::{Target, connect_for_long};
use crate::commands::{Failure, Outcome};
use crate::core::breaker::Policy;
use crate::core::config::{AgentPorts, ClusterPorts};
use crate::core::directory::Directory;
use crate::core::news::Standing;
use crate::core::policy::PeerAddress;
use crate::core::route::{TlsMode, TrafficPath};
use crate::core::sidecar::{Limits, Observe, RawSidecar, SidecarConfig, SidecarError, TlsFiles};
use crate::core::source::{Asked, CsrSigner, Issuer, IstioCa, TlsSource, UnixEndpoint};
use crate::netfilter::guard::Guard;
use crate::proxy::log::LogFilter;
use crate::proxy::{self, Companions, Listeners};
use crate::sources::Source;
use crate::tls::{Reloader, Terms};

/// Until the API server is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// An API server that is away does not keep the sidecar from ending.
const GOODBYE: Duration = Duration::from_secs(3);

/// Runs the sidecar until it is told to stop.
pub(super) fn run(args: ProxyArgs, log: LogFilter) -> Result<Outcome, Failure> {
    forbid_core_dumps();
    let repair = args.repair;
    if repair && args.path == TrafficPath::Ports {
        let error =
            SidecarError::OtherPath { option: "--repair", path: args.path, why: "there are no rules to put back" };
        return Err(Failure::usage(error));
    }
    let announcement = announcement(&args.announce);
    let config = configure(args).map_err(Failure::usage)?;
    let terms = Terms { allow: config.allow.clone(), min_version: config.tls_min_version, overlap: config.ca_overlap };
    let (reloader, source) = match config.tls.clone() {
        None => (None, None),
        Some(TlsSource::Files(files)) => (Some(Reloader::start(files, terms).map_err(Failure::usage)?), None),
        Some(TlsSource::Asked(asked)) => {
            let (source, supplied) = Source::new(asked);
            (Some(Reloader::follow(supplied, terms)), Some(source))
        }
    };
    let guard = guard(&config, repair)?;
    raise_descriptor_limit();
    warn_of_few_descriptors(config.limits.max_connections);
    // Accepts, and serves the admin port; connections have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let listeners = Listeners::bind(&config)?;
        // Ends with the runtime.
        source.map(|source| tokio::spawn(source.run()));
        let directory = (config.peer_address == PeerAddress::Pod).then(|| {
            let (sender, directory) = watch::channel(Directory::default());
            let namespaces = config.peer_namespaces.clone();
            tokio::spawn(async move { addresses::follow(namespaces, &sender).await });
            directory
        });
        let (news, announcing) = announcement
            .map(|announcement| {
                let (news, heard) = watch::channel(Standing::default());
                (news, tokio::spawn(announce(announcement, heard)))
            })
            .unzip();
        let companions = Companions { reloader, rules: guard.as_ref().map(Guard::state), directory, log, news };
        let result = proxy::run(config, listeners, companions).await;
        if let Some(announcing) = announcing {
            // Whoever is told last is told that nobody is there any more.
            let _ = tokio::time::timeout(GOODBYE, announcing).await;
        }
        result
    });
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    result?;
    Ok(Outcome::Done)
}

/// Which pod Kubernetes is told of, and what.
struct Announcement {
    namespace: String,
    pod: String,
    uid: String,
    events: bool,
    condition: bool,
}

fn announcement(args: &AnnounceArgs) -> Option<Announcement> {
    let AnnounceArgs { events, readiness_gate: condition, pod_name, pod_namespace, pod_uid } = args;
    let (namespace, pod, uid) = (pod_namespace.clone()?, pod_name.clone()?, pod_uid.clone()?);
    (*events || *condition).then_some(Announcement { namespace, pod, uid, events: *events, condition: *condition })
}

/// An API server that is away holds up nobody.
async fn announce(announcement: Announcement, heard: watch::Receiver<Standing>) {
    let Announcement { namespace, pod, uid, events, condition } = announcement;
    let mut before = None;
    let client = loop {
        match connect_for_long(&Target::default()).await {
            Ok(cluster) => break cluster.client,
            Err(error) => {
                let text = error.to_string();
                if before.as_ref() != Some(&text) {
                    warn!(error = text, "Kubernetes cannot be told of this pod's state");
                }
                if error.is_usage() {
                    return;
                }
                before = Some(text);
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    Announcer { client, namespace, pod, uid, events, condition }.run(heard).await;
}

/// Watches over the rules where that is allowed; where it is not, the sidecar's canary is all there is.
fn guard(config: &SidecarConfig, repair: bool) -> Result<Option<Guard>, Failure> {
    let Some(expectation) = config.expectation(Uid::effective().as_raw()) else { return Ok(None) };
    match Guard::start(expectation, repair) {
        Ok(guard) => Ok(Some(guard)),
        Err(error) if repair => Err(Failure::environment(anyhow::Error::from(error).context(
            "--repair: the rules can neither be watched nor put back; give the sidecar NET_ADMIN, or leave the option out",
        ))),
        Err(error) if error.is_for_want_of_privilege() => {
            info!("no NET_ADMIN, so the rules are not read: the sidecar dials itself through them every 5 s instead");
            Ok(None)
        }
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "the rules cannot be watched; dialling through them instead");
            Ok(None)
        }
    }
}

/// A core would hold the private key, and so would the memory that a process of the same user may read while this is dumpable.
fn forbid_core_dumps() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        warn!(%error, "core dumps cannot be forbidden: one would hold the private key");
    }
}

/// A connection takes two descriptors, and the soft limit is often 1024, for the sake of programs that call select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Beside connections: listeners, the admin port's callers, files that are looked at, and whom the sidecar itself asks.
const OTHER_DESCRIPTORS: u64 = 256;

/// Out of descriptors the sidecar waits for some; that many connections are allowed says the opposite.
fn warn_of_few_descriptors(max_connections: u32) {
    let needed = 4 * u64::from(max_connections) + OTHER_DESCRIPTORS;
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE)
        && limit < needed
    {
        warn!(
            limit,
            needed,
            max_connections,
            "fewer files may be open than --max-connections needs, two a connection in each direction: beyond that connections \
             wait; raise the limit (ulimit -n) or lower --max-connections"
        );
    }
}

/// The files that the options name.
pub(super) fn tls_files(args: &TlsArgs) -> Result<TlsFiles, SidecarError> {
    let TlsArgs { tls_dir, tls_cert, tls_key, tls_ca, tls_federated, tls_crl } = args;
    let files = TlsFiles::new(tls_dir.as_deref(), tls_cert.as_deref(), tls_key.as_deref(), tls_ca.as_deref())?;
    Ok(TlsFiles { federated: tls_federated.clone(), revoked: tls_crl.clone(), ..files })
}

/// What SPIFFE calls its socket (SPIFFE Workload Endpoint, section 4).
const SPIFFE_ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Files, or whoever is asked.
pub(super) fn tls_source(tls: &TlsArgs, source: SourceArgs) -> anyhow::Result<TlsSource> {
    let TlsArgs { tls_dir, tls_cert, tls_key, tls_ca, .. } = tls;
    let names_files = [tls_dir, tls_cert, tls_key, tls_ca].into_iter().any(Option::is_some);
    let SourceArgs { istio_token: token, istio_root: root, trust_domain, .. } = source;
    // clap has seen to it that there is one at most, and that a signer has its roots.
    let issuer = match (source.spiffe_socket, source.istio_ca, source.csr_signer, tls_ca) {
        (Some(endpoint), ..) => Some(Issuer::Spiffe(endpoint)),
        (_, Some(address), ..) => Some(Issuer::Istio(IstioCa { address, token, root, trust_domain })),
        (_, _, Some(name), Some(ca)) => Some(Issuer::Csr(CsrSigner { name, ca: ca.clone(), trust_domain })),
        _ if names_files => None,
        _ => spiffe_environment()?.map(Issuer::Spiffe),
    };
    Ok(match issuer {
        None => TlsSource::Files(tls_files(tls)?),
        Some(issuer) => {
            TlsSource::Asked(Asked { issuer, federated: tls.tls_federated.clone(), revoked: tls.tls_crl.clone() })
        }
    })
}

fn spiffe_environment() -> anyhow::Result<Option<UnixEndpoint>> {
    let text = std::env::var_os(SPIFFE_ENDPOINT_SOCKET).filter(|text| !text.is_empty());
    let parse = |text: std::ffi::OsString| {
        let parsed = text.to_string_lossy().parse();
        parsed.map_err(|error: String| anyhow::anyhow!("{SPIFFE_ENDPOINT_SOCKET}: {error}"))
    };
    text.map(parse).transpose()
}

pub(super) fn configure(args: ProxyArgs) -> anyhow::Result<SidecarConfig> {
    let ProxyArgs { cluster, agent, mode, tls, .. } = args;
    let raw = RawSidecar {
        cluster: ClusterPorts::new(cluster.preset, &cluster.remoting_port, &cluster.management_port)?,
        agent: AgentPorts { outbound: agent.outbound_port, inbound: agent.inbound_port, admin: agent.admin_port },
        path: args.path,
        pod_ips: args.pod_ip,
        mode,
        permissive_until: args.permissive_until,
        tls: if mode == TlsMode::Disabled { None } else { Some(tls_source(&tls, args.source)?) },
        allow: args.allow,
        tls_min_version: args.tls_min_version,
        ca_overlap: Duration::from_secs(args.ca_overlap),
        recycle_within: Duration::from_secs(args.recycle_within),
        peer_address: args.peer_address,
        peer_namespaces: args.peer_namespace,
        bind_addresses: args.bind_address,
        outbound_target: args.outbound_target,
        inbound_target: args.inbound_target,
        limits: Limits {
            handshake_timeout: Duration::from_secs(args.handshake_timeout),
            max_handshakes: args.max_handshakes,
            max_connections: args.max_connections,
            max_connections_per_peer: args.max_connections_per_peer,
            breaker: Policy { failures: args.breaker_failures, pause: Duration::from_secs(args.breaker_pause) },
            peer_timeout: Duration::from_secs(args.peer_timeout),
            half_close_timeout: Duration::from_secs(args.half_close_timeout),
            drain_timeout: Duration::from_secs(args.drain_timeout),
        },
        fault_injection: args.fault_injection,
        observe: Observe {
            istio_metrics: args.observe.istio_metrics,
            workload: args.observe.workload,
            workload_namespace: args.observe.workload_namespace,
            cluster_name: args.observe.cluster_name,
            otlp_endpoint: args.observe.otlp_endpoint,
        },
    };
    Ok(SidecarConfig::try_from(raw)?)
}
