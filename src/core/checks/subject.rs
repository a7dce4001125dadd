//! A workload as the checks see it: which container is the app, which are the agent's, what the app is told to do.
//!
//! Invariant: what is not a node of an Akka or Pekko cluster, as far as can be seen, is no subject and is never judged.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, Service};

use crate::core::facts::{Facts, Source, Workload};
use crate::core::report::Observed;

pub(in crate::core) use agent::AGENT_OPTIONS;
pub(in crate::core) use agent::{Agent, AgentContainer};
pub(super) use mesh::{Mesh, MeshKind, holds, namespace_of, ports as mesh_ports};
pub(super) use settings::{Setting, Settings};
pub(in crate::core) use settings::{is_jvm_options, is_read, set_by_variable};

mod agent;
mod environment;
pub(in crate::core) mod hocon;
mod mesh;
mod settings;

/// Remoting ports of the presets, and the one that Pekko's own page about Istio writes by mistake.
const KNOWN_REMOTING: [u16; 4] = [2552, 25520, 17355, WRONG_PEKKO_PORT];
/// Management ports of the presets.
const KNOWN_MANAGEMENT: [u16; 2] = [8558, 7626];
/// What Pekko's page about Istio has where Artery's port should be.
pub(super) const WRONG_PEKKO_PORT: u16 = 7355;

/// Where the way of discovery is set.
const METHODS: [&str; 2] =
    ["management.cluster.bootstrap.contact-point-discovery.discovery-method", "discovery.method"];
/// Who says a port that nobody says.
const DEFAULT: &str = "the default, as nothing in the manifest says it";

/// A workload that looks like nodes of a cluster.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) facts: &'a Facts,
    pub(super) workload: &'a Workload,
    /// `kind/namespace/name`.
    pub(super) object: String,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) pod: &'a PodSpec,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) app: Option<&'a Container>,
    pub(super) settings: Settings,
    pub(super) agent: Agent<'a>,
    pub(super) mesh: Option<Mesh>,
}

/// Nothing, for pods without labels or annotations.
pub(super) static NONE: BTreeMap<String, String> = BTreeMap::new();

impl<'a> Subject<'a> {
    /// The workload as a subject; `None` where nothing of a cluster is to be seen.
    pub(super) fn new(facts: &'a Facts, workload: &'a Workload) -> Option<Self> {
        let pod = workload.template.spec.as_ref()?;
        let metadata = workload.template.metadata.as_ref();
        let labels = metadata.and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&NONE);
        let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref()).unwrap_or(&NONE);
        let namespace = workload.metadata.namespace.as_deref().unwrap_or("default");
        let name = workload.metadata.name.as_deref().or(workload.metadata.generate_name.as_deref()).unwrap_or_default();
        let agent = Agent::of(pod);
        let candidates = pod.containers.iter().filter(|container| !is_foreign(container));
        let read = |container: &'a Container| (container, Settings::of(container, pod, labels, namespace, facts));
        let mut candidates: Vec<_> = candidates.map(read).collect();
        // The container that says most of a cluster is the app.
        candidates.sort_by_key(|(container, settings)| std::cmp::Reverse(likeness(container, settings, facts)));
        let mut candidates = candidates.into_iter();
        let (app, settings) = match candidates.next() {
            Some((app, settings)) if likeness(app, &settings, facts) > 0 => (Some(app), settings),
            Some((app, settings)) if agent.is_there() || workload.kind == "AkkaCluster" => (Some(app), settings),
            None if agent.is_there() => (None, Settings::default()),
            _ => return None,
        };
        Some(Self {
            facts,
            workload,
            object: format!("{}/{namespace}/{name}", workload.kind),
            namespace,
            name,
            pod,
            labels,
            annotations,
            app,
            settings,
            mesh: Mesh::of(facts, namespace, labels, annotations, pod),
            agent,
        })
    }

    /// Whether the object was read from manifests: what is not among them may still exist.
    pub(super) fn offline(&self) -> bool {
        self.facts.source == Source::Files
    }

    /// The remoting port of the app, as well as it can be told, and who says so.
    pub(super) fn remoting(&self) -> (u16, &'static str) {
        self.port(
            &["remote.artery.canonical.port", "remote.netty.tcp.port", "remote.classic.netty.tcp.port"],
            is_remoting_name,
            &KNOWN_REMOTING,
            &self.facts.ports.remoting,
        )
    }

    /// The management port of the app, as well as it can be told, and who says so.
    pub(super) fn management(&self) -> (u16, &'static str) {
        self.port(&["management.http.port"], is_management_name, &KNOWN_MANAGEMENT, &self.facts.ports.management)
    }

    fn port(
        &self,
        keys: &[&str],
        named: fn(&str) -> bool,
        known: &[u16],
        asked: &crate::core::ports::PortSet,
    ) -> (u16, &'static str) {
        let set = keys.iter().find_map(|key| self.settings.get(key)).and_then(|setting| setting.value.parse().ok());
        if let Some(port) = set.filter(|port| *port != 0) {
            return (port, "the app's settings");
        }
        let numbers = || self.container_ports().map(|(_, number)| number);
        let by_name = self.container_ports().find(|(name, _)| named(name)).map(|(_, number)| number);
        if let Some(port) = by_name.or_else(|| numbers().find(|port| asked.contains(*port))) {
            return (port, "the container's ports");
        }
        if let Some(port) = numbers().find(|port| known.contains(port)) {
            return (port, "the container's ports");
        }
        (asked.ranges().first().map_or(0, |range| range.first()), DEFAULT)
    }

    /// Why remoting's port may be another than [`Self::remoting`] says.
    pub(super) fn remoting_unseen(&self) -> Option<String> {
        self.unseen(self.remoting(), "remote.artery.canonical.port")
    }

    /// Why management's port may be another than [`Self::management`] says.
    pub(super) fn management_unseen(&self) -> Option<String> {
        self.unseen(self.management(), "management.http.port")
    }

    /// Why a port that nothing declares may be another one than the default.
    pub(super) fn unseen(&self, port: (u16, &str), key: &str) -> Option<String> {
        let source = self.settings.unknown(key)?;
        (port.1 == DEFAULT).then(|| format!("{key} is not to be seen ({source})"))
    }

    /// Name and number of the app's declared TCP ports.
    pub(super) fn container_ports(&self) -> impl Iterator<Item = (&str, u16)> {
        let ports = self.app.and_then(|app| app.ports.as_deref()).unwrap_or_default().iter();
        let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        tcp.filter_map(|port| {
            Some((port.name.as_deref().unwrap_or_default(), u16::try_from(port.container_port).ok()?))
        })
    }

    /// How many pods are wanted; `None` where it is left to the default or to somebody else.
    pub(super) fn replicas(&self) -> Option<i32> {
        self.workload.replicas
    }

    /// The pods' service account.
    pub(super) fn service_account(&self) -> &str {
        let named = [&self.pod.service_account_name, &self.pod.service_account];
        named.into_iter().flatten().map(String::as_str).find(|name| !name.is_empty()).unwrap_or("default")
    }

    /// The name by which bootstrap looks for pods, and where it is written.
    pub(super) fn service_name(&self) -> Option<&Setting> {
        self.settings.get("management.cluster.bootstrap.contact-point-discovery.service-name")
    }

    /// How bootstrap looks for contact points; `None` where it is not to be seen.
    pub(super) fn discovery_method(&self) -> Option<&str> {
        METHODS.iter().find_map(|key| self.settings.get(key)).map(|setting| setting.value.as_str())
    }

    /// Whether something that is not to be seen says how bootstrap looks for contact points.
    pub(super) fn method_is_unknown(&self) -> bool {
        self.discovery_method().is_none() && self.settings.unknown(METHODS[0]).is_some()
    }

    /// Whether bootstrap asks DNS: it says so, or its service name is that of a headless Service of these pods and not
    /// that of their label, where the method is not to be seen.
    pub(super) fn asks_dns(&self) -> bool {
        if let Some(method) = self.discovery_method() {
            return method.ends_with("dns");
        }
        let Some(name) = self.service_name().map(|setting| setting.value.split('.').next().unwrap_or_default()) else {
            return false;
        };
        let services = seen(&self.facts.objects.services).unwrap_or_default().iter();
        let mut ours = services.filter(|service| service.metadata.namespace.as_deref() == Some(self.namespace));
        self.labels.get("app").map(String::as_str) != Some(name)
            && ours.any(|service| {
                let headless = service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
                headless && service.metadata.name.as_deref() == Some(name) && self.is_selected_by(service)
            })
    }

    /// Whether the Service selects these pods.
    pub(super) fn is_selected_by(&self, service: &Service) -> bool {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
        })
    }

    /// Whether the pods must read the Kubernetes API to find each other.
    pub(super) fn needs_api(&self) -> bool {
        self.discovery_method()
            .map_or_else(|| !self.method_is_unknown() && !self.asks_dns(), |method| method == "kubernetes-api")
            && self.settings.get("cluster.seed-nodes").is_none()
            && self.settings.get("cluster.seed-nodes.0").is_none()
    }

    /// Whether remoting has TLS of its own, or may have, without the agent and without a mesh.
    pub(super) fn has_own_tls(&self) -> bool {
        let tls = |key: &str, value: &str| self.settings.get(key).is_some_and(|setting| setting.value == value);
        tls("remote.artery.transport", "tls-tcp")
            || self.settings.unknown("remote.artery.transport").is_some()
            || ["remote.netty.ssl", "remote.classic.netty.ssl"].iter().any(|key| self.settings.get(key).is_some())
    }

    /// `kubectl` about this workload.
    pub(super) fn kubectl(&self, verb: &str) -> String {
        let (kind, name) = (self.workload.kind.to_lowercase(), super::word(self.name, "NAME"));
        format!("kubectl {verb} {kind} {name} -n {}", super::word(self.namespace, "NAMESPACE"))
    }
}

/// What a manifest says of a list, or why not.
pub(super) fn seen<T>(list: &Observed<Vec<T>>) -> Result<&[T], &str> {
    match list {
        Observed::Seen(list) => Ok(list),
        Observed::Unavailable(reason) => Err(reason),
    }
}

/// A container that a mesh put there.
fn is_mesh_container(name: &str) -> bool {
    matches!(
        name,
        "istio-proxy"
            | "istio-init"
            | "istio-validation"
            | "linkerd-proxy"
            | "linkerd-init"
            | "kuma-sidecar"
            | "kuma-init"
            | "consul-dataplane"
            | "envoy"
    )
}

fn is_foreign(container: &Container) -> bool {
    is_mesh_container(&container.name) || is_agent(container)
}

/// Whether it is `bypassctl init` or `bypassctl proxy`.
pub(in crate::core) fn is_agent(container: &Container) -> bool {
    AgentContainer::of(container).is_some()
}

fn is_remoting_name(name: &str) -> bool {
    matches!(
        name,
        "remoting" | "akka-remote" | "akka-remoting" | "pekko-remote" | "pekko-remoting" | "artery" | "tcp-remoting"
    )
}

fn is_management_name(name: &str) -> bool {
    matches!(
        name,
        "management"
            | "akka-mgmt-http"
            | "akka-management"
            | "pekko-mgmt-http"
            | "pekko-management"
            | "http-management"
    )
}

/// How many things of this container speak of a cluster.
fn likeness(container: &Container, settings: &Settings, facts: &Facts) -> usize {
    let ports = container.ports.as_deref().unwrap_or_default();
    let numbers = ports.iter().filter_map(|port| u16::try_from(port.container_port).ok());
    let ours = |port: &u16| {
        KNOWN_REMOTING.contains(port)
            || KNOWN_MANAGEMENT.contains(port)
            || facts.ports.remoting.contains(*port)
            || facts.ports.management.contains(*port)
    };
    // "management" alone is a name that others use too.
    let remoting = |name: &&str| is_remoting_name(name) || (is_management_name(name) && *name != "management");
    let names = ports.iter().filter_map(|port| port.name.as_deref()).filter(remoting).count();
    numbers.filter(ours).count() + names + settings.of_cluster()
}
