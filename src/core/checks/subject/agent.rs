//! The agent's containers in a pod, and what they are told.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::core::config::{DEFAULT_ADMIN_PORT, DEFAULT_AGENT_UID, DEFAULT_INBOUND_PORT, DEFAULT_OUTBOUND_PORT};
use crate::core::ports::{DEFAULT_MANAGEMENT_PORT, DEFAULT_REMOTING_PORT, PortSet, Preset};

/// The options that checks read.
pub(in crate::core) const AGENT_OPTIONS: [&str; 19] = [
    "admin-port",
    "agent-uid",
    "config",
    "csr-signer",
    "drain-timeout",
    "inbound-port",
    "istio-ca",
    "management-port",
    "mode",
    "outbound-port",
    "outbound-target",
    "path",
    "permissive-until",
    "preset",
    "remoting-port",
    "spiffe-socket",
    "tls-cert",
    "tls-dir",
    "tls-min-version",
];

/// Those that may be repeated, each time with more of the list.
const LISTS: [&str; 2] = ["management-port", "remoting-port"];

/// Init container and sidecar.
#[derive(Debug, Default)]
pub(in crate::core) struct Agent<'a> {
    pub(in crate::core) init: Option<AgentContainer<'a>>,
    pub(in crate::core) proxy: Option<AgentContainer<'a>>,
}

/// One of the two.
#[derive(Debug)]
pub(in crate::core) struct AgentContainer<'a> {
    pub(in crate::core) container: &'a Container,
    /// Where it stands among the init containers; `None` where it is a plain container.
    pub(in crate::core) at: Option<usize>,
    options: BTreeMap<String, String>,
}

impl<'a> Agent<'a> {
    pub(in crate::core) fn of(pod: &'a PodSpec) -> Self {
        let mut agent = Self::default();
        let init = pod.init_containers.iter().flatten().enumerate().map(|(at, container)| (Some(at), container));
        for (at, container) in init.chain(pod.containers.iter().map(|container| (None, container))) {
            let Some((command, options)) = AgentContainer::of(container) else { continue };
            let found = AgentContainer { container, at, options };
            match command.as_str() {
                "init" if agent.init.is_none() => agent.init = Some(found),
                "proxy" if agent.proxy.is_none() => agent.proxy = Some(found),
                _ => {}
            }
        }
        agent
    }

    pub(in crate::core) fn is_there(&self) -> bool {
        self.init.is_some() || self.proxy.is_some()
    }

    pub(in crate::core) fn containers(&self) -> impl Iterator<Item = &AgentContainer<'a>> {
        self.init.iter().chain(&self.proxy)
    }
}

impl AgentContainer<'_> {
    /// The command and the options of a container, if it is one of the agent's.
    pub(super) fn of(container: &Container) -> Option<(String, BTreeMap<String, String>)> {
        let image = container.image.as_deref().unwrap_or_default();
        let repository = image.rsplit('/').next().unwrap_or_default();
        let program = container.command.as_ref().and_then(|command| command.first());
        let ours = repository.starts_with("bypassctl")
            || container.name.starts_with("bypassctl")
            || program.is_some_and(|program| program.rsplit('/').next() == Some("bypassctl"));
        if !ours {
            return None;
        }
        let words: Vec<&String> =
            container.command.iter().flatten().skip(1).chain(container.args.iter().flatten()).collect();
        let command = words.iter().find(|word| matches!(word.as_str(), "init" | "proxy"))?;
        let mut options = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            if let (Some(name), Some(value)) = (variable.name.strip_prefix("BYPASSCTL_"), &variable.value) {
                options.insert(name.to_lowercase().replace('_', "-"), value.clone());
            }
        }
        // All of an option's arguments beat its variable.
        let mut arguments: BTreeMap<String, String> = BTreeMap::new();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--") else { continue };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => {
                    let next = words.peek().filter(|next| !next.starts_with("--") && next.as_str() != command.as_str());
                    (option, next.map_or_else(|| "true".to_owned(), |next| (**next).clone()))
                }
            };
            match arguments.get_mut(name).filter(|_| LISTS.contains(&name)) {
                Some(list) => *list = format!("{list},{value}"),
                None => drop(arguments.insert(name.to_owned(), value)),
            }
        }
        options.extend(arguments);
        Some((command.to_string(), options))
    }

    /// An option by its long name, from arguments or environment.
    pub(in crate::core) fn option(&self, name: &str) -> Option<&str> {
        debug_assert!(AGENT_OPTIONS.contains(&name), "--{name} is not in the list of what is read");
        self.options.get(name).map(String::as_str)
    }

    /// Whether it has a configuration file, which a manifest does not show.
    pub(in crate::core) fn has_file(&self) -> bool {
        self.option("config").is_some()
    }

    fn preset(&self) -> (u16, u16) {
        match self.option("preset") {
            Some("akka-artery") => Preset::AkkaArtery.ports(),
            Some("pekko") => Preset::Pekko.ports(),
            _ => (DEFAULT_REMOTING_PORT, DEFAULT_MANAGEMENT_PORT),
        }
    }

    pub(in crate::core) fn remoting(&self) -> PortSet {
        self.ports("remoting-port").unwrap_or_else(|| PortSet::single(self.preset().0))
    }

    pub(in crate::core) fn management(&self) -> PortSet {
        self.ports("management-port").unwrap_or_else(|| PortSet::single(self.preset().1))
    }

    fn ports(&self, option: &str) -> Option<PortSet> {
        self.option(option).and_then(super::mesh::ports)
    }

    /// Outbound, inbound and admin.
    pub(in crate::core) fn own_ports(&self) -> [u16; 3] {
        let port = |name, default| self.option(name).and_then(|port| port.parse().ok()).unwrap_or(default);
        [
            port("outbound-port", DEFAULT_OUTBOUND_PORT),
            port("inbound-port", DEFAULT_INBOUND_PORT),
            port("admin-port", DEFAULT_ADMIN_PORT),
        ]
    }

    /// The uid that the rules exempt.
    pub(in crate::core) fn agent_uid(&self) -> i64 {
        self.option("agent-uid").and_then(|uid| uid.parse().ok()).unwrap_or_else(|| i64::from(DEFAULT_AGENT_UID))
    }

    /// Whether the rules only let past, so that no sidecar is needed.
    pub(in crate::core) fn only_bypasses(&self) -> bool {
        self.option("mode") == Some("bypass")
    }
}
