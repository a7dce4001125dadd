//! `bypassctl cni install`: the plugin on this node, kept there until SIGTERM.
//!
//! Invariant: the runtime's list names the plugin only while its executable is there and its kubeconfig has worked; else no pod
//! of the node would start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{EvictParams, ListParams};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::cli::{CniInstallArgs, CniRepair};
use crate::cluster::client::{Cluster, Target, causes, connect};
use crate::cni::files::{Access, FilesError, Host};
use crate::cni::netns::PodNetns;
use crate::cni::pods::{Bare, without_rules};
use crate::commands::cni::host;
use crate::commands::{Failure, Outcome, chain};
use crate::core::cni::Settings;
use crate::core::config::RedirectMode;
use crate::core::plan::RedirectPlan;
use crate::core::ports::{PortRange, PortSet};

/// How long the node may be without the plugin after somebody has rewritten its configuration. Four small files are read.
const PERIOD: Duration = Duration::from_secs(1);
/// How often pods without rules are looked for.
const POD_PERIOD: Duration = Duration::from_secs(30);
/// How old a half-written file is that nobody writes any more.
const STALE: Duration = Duration::from_mins(1);
/// How long the API server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// More than a node has pods.
const MOST_PODS: u32 = 1000;
/// Of no pod: that it may be asked for is what counts.
const NOBODY: &str = "bypassctl-cni-asks-whether-it-may";

pub(super) fn run(args: CniInstallArgs) -> Result<Outcome, Failure> {
    let mut installer = Installer::new(args).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kept = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = installer.keep() => {}
        }
        Ok::<_, anyhow::Error>(())
    });
    runtime.shutdown_background();
    kept?;
    installer.leave()?;
    Ok(Outcome::Done)
}

struct Installer {
    host: Host,
    settings: Settings,
    server: String,
    service_account_dir: PathBuf,
    node_name: Option<String>,
    repair: CniRepair,
    netns_dir: PathBuf,
    /// The executable as it was written.
    written: Option<(u64, SystemTime)>,
    /// What the kubeconfig was made of when it last worked.
    proven: bool,
    installed: bool,
    /// What is wrong, so that it is told once.
    told: Option<String>,
    /// Pods that were told of, by uid.
    reported: BTreeSet<String>,
}

impl Installer {
    fn new(args: CniInstallArgs) -> anyhow::Result<Self> {
        let host = host(&args.host).map_err(|failure| failure.error)?;
        host.remove_leftovers(STALE);
        let list = |ranges: &[PortRange]| PortSet::new(ranges.iter().copied()).map(|ports| ports.to_string());
        let word = |value: clap::builder::PossibleValue| value.get_name().to_owned();
        let settings = Settings {
            kubeconfig: Some(host.kubeconfig()),
            exclude_namespaces: Some(args.exclude_namespace),
            preset: args.cluster.preset.and_then(|preset| preset.to_possible_value()).map(word),
            remoting_port: list(&args.cluster.remoting_port),
            management_port: list(&args.cluster.management_port),
            backend: args.backend.to_possible_value().map(word),
        };
        Ok(Self {
            host,
            settings,
            server: args.api_server.map_or_else(in_cluster, Ok)?,
            service_account_dir: args.service_account_dir,
            node_name: args.node_name,
            repair: args.repair_pods,
            netns_dir: args.netns_dir,
            written: None,
            proven: false,
            installed: false,
            told: None,
            reported: BTreeSet::new(),
        })
    }

    async fn keep(&mut self) {
        let mut looked: Option<tokio::time::Instant> = None;
        loop {
            let fault = self.install().await.err().map(|error| chain(&error));
            if fault != self.told {
                match &fault {
                    Some(fault) => warn!(error = fault, "the plugin is not installed, or not up to date"),
                    None => info!("the plugin is installed and up to date"),
                }
                self.told = fault;
            }
            if self.installed && looked.is_none_or(|at| at.elapsed() >= POD_PERIOD) {
                self.look_at_pods().await;
                looked = Some(tokio::time::Instant::now());
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn install(&mut self) -> anyhow::Result<()> {
        self.install_executable()?;
        let access = Access::of(&self.server, &self.service_account_dir)?;
        if self.host.install_kubeconfig(&access)? {
            info!(path = %self.host.kubeconfig().display(), "the plugin's kubeconfig is written");
            self.proven = false;
        }
        if !self.proven {
            self.prove().await?;
            self.proven = true;
        }
        if let Some(path) = self.host.install_plugin(&self.settings)? {
            let path = path.display();
            match self.installed {
                false => info!(%path, "the plugin is in the node's network configuration"),
                true => {
                    warn!(%path, "somebody has rewritten the node's network configuration: the plugin is in it again")
                }
            }
        }
        self.installed = true;
        Ok(())
    }

    /// Read as a whole once; then it is enough that nobody has touched it.
    fn install_executable(&mut self) -> Result<(), FilesError> {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        let path = self.host.executable();
        if self.written.is_some() && self.written == stamp(&path) {
            return Ok(());
        }
        if self.host.install_executable(Path::new("/proc/self/exe"))? {
            info!(path = %path.display(), "the plugin's executable is written");
        }
        self.written = stamp(&path);
        Ok(())
    }

    async fn cluster(&self) -> anyhow::Result<Cluster> {
        let kubeconfig = Some(self.host.kubeconfig());
        // As the plugin, which no proxy of the environment stands before.
        Ok(connect(&Target { kubeconfig, is_direct: true, ..Target::default() }).await?)
    }

    /// That the plugin will be told of pods.
    async fn prove(&self) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster().await?.client, "default");
        let asked = tokio::time::timeout(LIMIT, pods.get_opt(NOBODY)).await.context("no answer of the API server")?;
        asked.map(drop).map_err(|error| anyhow!("the plugin may not get pods: {}", causes(&error)))
    }

    async fn look_at_pods(&mut self) {
        let Some(node) = self.node_name.clone() else { return };
        let looked = async {
            let client = self.cluster().await?.client;
            let all: Api<Pod> = Api::all(client.clone());
            let of_node = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(MOST_PODS);
            let listed =
                tokio::time::timeout(LIMIT, all.list(&of_node)).await.context("no answer of the API server")?;
            let pods = listed.map_err(|error| anyhow!("pods cannot be listed: {}", causes(&error)))?.items;
            Ok::<_, anyhow::Error>((client, pods))
        };
        let (client, pods) = match looked.await {
            Ok(seen) => seen,
            Err(error) => return warn!(error = chain(&error), "pods without rules are not looked for"),
        };
        let (settings, netns_dir) = (self.settings.clone(), self.netns_dir.clone());
        let seen = tokio::task::spawn_blocking(move || without_rules(&pods, &settings, &netns_dir)).await;
        let seen = seen.unwrap_or_default();
        for pod in seen.unclear {
            if self.reported.insert(format!("{pod} {} unclear", pod.uid.as_deref().unwrap_or_default())) {
                warn!(%pod, "nothing is done to it: its address is in network namespaces of others too, so which is its own \
                    cannot be told; a pod with NET_ADMIN may have given itself that address");
            }
        }
        for bare in seen.bare {
            self.treat(&client, bare).await;
        }
    }

    async fn treat(&mut self, client: &kube::Client, bare: Bare) {
        let pod = bare.name.clone();
        let is_new = self.reported.insert(format!("{pod} {}", pod.uid.as_deref().unwrap_or_default()));
        if is_new {
            warn!(%pod, "it should have rules and has none: it started before the plugin was there, or somebody removed them");
        }
        let done = match self.repair {
            CniRepair::Report => return,
            CniRepair::Rules => {
                let backend = self.settings.backend.clone().unwrap_or_default();
                let made = tokio::task::spawn_blocking(move || make_rules(&bare, &backend)).await;
                made.map_err(anyhow::Error::from).flatten().map(|()| "its rules are made")
            }
            CniRepair::Evict => {
                let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
                let evicted = pods.evict(&pod.name, &EvictParams::default()).await;
                evicted.map(|_| "it is evicted").map_err(|error| anyhow!("{}", causes(&error)))
            }
        };
        match done {
            Ok(done) => info!(%pod, "{done}"),
            Err(error) => warn!(%pod, error = chain(&error), "it is left without rules"),
        }
    }

    /// The executable stays: runtimes that remember a pod's configuration call it once more for each pod that ends.
    fn leave(&self) -> Result<(), FilesError> {
        let removed = self.host.remove_plugin()?;
        for path in removed.lists {
            info!(path = %path.display(), "the plugin is out of the node's network configuration");
        }
        self.host.remove_leftovers(Duration::ZERO);
        // What may still name the plugin needs its kubeconfig.
        if let Some(error) = removed.failed.into_iter().next() {
            return Err(error);
        }
        self.host.remove_kubeconfig()?;
        Ok(())
    }
}

/// As every container is told it.
fn in_cluster() -> anyhow::Result<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = variable("KUBERNETES_SERVICE_HOST")
        .ok_or_else(|| anyhow!("--api-server is not given, and this is no pod: KUBERNETES_SERVICE_HOST is not set"))?;
    let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Ok(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
}

/// By `init` in the pod's network namespace. Its ports are taken there by now, so that nothing can be proven by dialling; the
/// sidecar's canary does that.
fn make_rules(bare: &Bare, backend: &str) -> anyhow::Result<()> {
    let RedirectPlan { mode, cluster, agent, agent_uid, .. } = &bare.plan;
    let mode = if *mode == RedirectMode::Capture { "capture" } else { "bypass" };
    let arguments = [
        format!("--mode={mode}"),
        format!("--remoting-port={}", cluster.remoting),
        format!("--management-port={}", cluster.management),
        format!("--outbound-port={}", agent.outbound),
        format!("--inbound-port={}", agent.inbound),
        format!("--admin-port={}", agent.admin),
        format!("--agent-uid={agent_uid}"),
        format!("--backend={backend}"),
    ];
    let run = || {
        let mut init = Command::new("/proc/self/exe");
        init.env_clear().args(["init", "--no-verify"]).args(&arguments).stdin(Stdio::null());
        init.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output()
    };
    let output = PodNetns::open(&bare.netns)?.run(run)?.context("bypassctl init cannot be started")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(anyhow!("{}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))),
    }
}
