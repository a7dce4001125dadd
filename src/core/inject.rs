//! What `inject` and the webhook add to a pod: the init container, the sidecar, its certificate.
//!
//! Invariant: everything that is added to the pod carries one of [`NAMES`], what is added to the app's containers is known by
//! what it says (`apps`), and nothing else changes, so taking it away again leaves what was there before.

mod apps;
mod containers;
mod edits;
mod emit;
mod remove;
mod schema;
mod templates;
mod text;
mod tree;
mod value;

use std::collections::BTreeMap;

use serde_json::Value;

pub use apps::AppChange;
pub(in crate::core) use emit::yaml;
pub use text::{Edited, Untouched, annotate, inject, uninject};
pub use value::{apply, is_injected, remove};

use crate::core::backend::BackendChoice;
use crate::core::config::{AgentPorts, ClusterPorts, ConfigError};
use crate::core::identity::Allow;
use crate::core::ports::{PortError, PortRange, Preset};
use crate::core::route::{TlsMode, TrafficPath};
use crate::core::sidecar::{check_listeners, parse_date};

/// The names of what is added: containers and volume.
pub const NAMES: [&str; 4] = [INIT, SIDECAR, VOLUME, SHIM_VOLUME];
/// The init container.
pub const INIT: &str = "bypassctl-init";
/// The sidecar.
pub const SIDECAR: &str = "bypassctl";
/// The certificate's volume.
pub const VOLUME: &str = "bypassctl-tls";
/// The volume that brings the library to the app.
pub const SHIM_VOLUME: &str = "bypassctl-shim";
/// Where annotations of ours begin.
pub const PREFIX: &str = "bypassctl.io/";
/// The annotation that says which version injected.
pub const INJECTED: &str = "bypassctl.io/injected";
/// The annotation, or label, by which a pod says what it wants of the node's CNI plugin.
pub const RULES: &str = "bypassctl.io/rules";
/// The condition that a pod's readiness gate waits for.
pub const GATE: &str = "bypassctl.io/remoting-ready";
/// The library that apps preload where there are no rules.
pub const LIBRARY: &str = "libbypassctl_preload.so";
/// The library's remoting ports.
pub(in crate::core) const SHIM_PORTS: &str = "BYPASSCTL_SHIM_PORTS";
/// The port on which the library finds the sidecar.
pub(in crate::core) const SHIM_AGENT_PORT: &str = "BYPASSCTL_SHIM_AGENT_PORT";
/// User of the sidecar, whom the rules exempt.
pub const AGENT_UID: i64 = 12552;

/// How the sidecar lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SidecarKind {
    /// an init container that is never over: started before the app, stopped after it (Kubernetes 1.29 and later)
    Native,
    /// an ordinary container, the first of the pod
    Classic,
}

/// What to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The image of both containers.
    pub image: String,
    /// `imagePullPolicy`; `None` leaves it to Kubernetes.
    pub pull_policy: Option<String>,
    /// How the sidecar lives.
    pub sidecar: SidecarKind,
    /// How connections come to the sidecar.
    pub path: TrafficPath,
    /// Remoting and management.
    pub ports: ClusterPorts,
    /// What to do with peers that do not speak TLS.
    pub mode: TlsMode,
    /// Day on which permissive mode is to end.
    pub permissive_until: Option<String>,
    /// Who may connect; empty for the identity of the pod's own certificate.
    pub allow: Vec<String>,
    /// The Secret with `tls.crt`, `tls.key` and `ca.crt`; `{name}` stands for the workload's name.
    pub tls_secret: String,
    /// By which packet filter the rules are made.
    pub backend: BackendChoice,
    /// Whether the sidecar makes events of the pod.
    pub events: bool,
    /// Whether the pod is ready only while its remoting is.
    pub readiness_gate: bool,
}

/// Why nothing was added to a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The rules would be the node's.
    #[error("the pod is on the host network: its rules would be the node's; remove hostNetwork, or inject: \"false\"")]
    HostNetwork,
    /// Linux only.
    #[error("the pod wants to run on {0}; packet filters are programmed on Linux only")]
    OtherSystem(String),
    /// Somebody else's.
    #[error(
        "there is a {0} already that `bypassctl inject` did not make; remove it, or annotate the pod with \
         bypassctl.io/inject: \"false\""
    )]
    ByHand(String),
    /// What it dials would pass the sidecar by.
    #[error(
        "{0} runs as user {AGENT_UID}, which is the sidecar's: the rules would let its remoting out in plaintext; give it \
         another user"
    )]
    AgentsUser(String),
    /// Nobody says which container it is.
    #[error(
        "which of the containers is the app? Name its remoting port ({0}) among its ports, as --path ports needs it"
    )]
    NoApp(String),
    /// Where nothing can be put behind.
    #[error(
        "{variable} of container {container} is not written there (valueFrom, or nothing): put {own} behind what it comes to, \
         and give it as a value"
    )]
    UnseenVariable {
        /// Whose.
        container: String,
        /// Its name.
        variable: &'static str,
        /// What has to be in it.
        own: String,
    },
    /// It would never be over.
    #[error("a {0} is never over while a classic sidecar runs; leave --sidecar at native")]
    NeverOver(String),
    /// No pod.
    #[error("the pod has no containers")]
    NoContainers,
    /// The sidecar would not start with it.
    #[error("{0}: {1}")]
    BadOption(&'static str, String),
    /// An annotation that means nothing, most likely misspelt.
    #[error("there is no annotation {name}; there are {}", ANNOTATIONS.join(", "))]
    UnknownAnnotation {
        /// As it was written.
        name: String,
    },
    /// An annotation with a value that it cannot have.
    #[error("annotation {name}: {value:?}: {reason}")]
    BadAnnotation {
        /// As it was written.
        name: String,
        /// As it was written.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// All annotations that the pod template may have.
pub const ANNOTATIONS: [&str; 16] = [
    "bypassctl.io/inject",
    "bypassctl.io/injected",
    "bypassctl.io/image",
    "bypassctl.io/sidecar",
    "bypassctl.io/path",
    "bypassctl.io/preset",
    "bypassctl.io/remoting-port",
    "bypassctl.io/management-port",
    "bypassctl.io/mode",
    "bypassctl.io/permissive-until",
    "bypassctl.io/allow",
    "bypassctl.io/tls-secret",
    "bypassctl.io/backend",
    "bypassctl.io/events",
    "bypassctl.io/readiness-gate",
    RULES,
];

/// What is added to one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// Before all other init containers.
    pub init_containers: Vec<Value>,
    /// Before all other containers.
    pub containers: Vec<Value>,
    /// Behind the other volumes.
    pub volumes: Vec<Value>,
    /// Behind the other gates.
    pub readiness_gates: Vec<Value>,
    /// In the app's containers.
    pub apps: Vec<AppChange>,
    /// On the pod template.
    pub annotations: BTreeMap<String, String>,
    /// What somebody should know, although it works.
    pub notes: Vec<String>,
}

/// A list of a pod's spec, what is added to it, and whether before what is there.
pub(super) type Addition<'a> = (&'static str, &'a [Value], bool);

impl Injection {
    /// What is added to which list of the pod's spec.
    pub(super) fn additions(&self) -> [Addition<'_>; LISTS.len()] {
        let items = [&self.init_containers, &self.containers, &self.volumes, &self.readiness_gates];
        let first = [true, true, false, false];
        std::array::from_fn(|i| (LISTS[i], &items[i][..], first[i]))
    }
}

/// Lists of a pod's spec that something may be added to.
const LISTS: [&str; 4] = ["initContainers", "containers", "volumes", "readinessGates"];

/// Whether an item of one of [`LISTS`] is ours, by its `name` or `conditionType`.
fn is_ours(name: Option<&str>, condition: Option<&str>) -> bool {
    name.is_some_and(|name| NAMES.contains(&name)) || condition == Some(GATE)
}

/// What to add to a pod template, by the options and its own annotations; `None` if it wants nothing.
///
/// # Errors
/// See [`Refused`].
pub fn plan(kind: &str, name: &str, template: &Value, options: &Options) -> Result<Option<Injection>, Refused> {
    let annotations = template["metadata"]["annotations"].as_object();
    let annotations = annotations.into_iter().flatten().filter(|(name, _)| name.starts_with(PREFIX));
    let mut options = options.clone();
    let mut makes_rules = true;
    let mut preset = None;
    let (mut remoting, mut management) = (None, None);
    for (key, value) in annotations {
        let value = value.as_str().unwrap_or_default();
        let bad = |reason: String| Refused::BadAnnotation { name: key.clone(), value: value.to_owned(), reason };
        match &key[PREFIX.len()..] {
            "inject" => match value {
                "false" | "disabled" => return Ok(None),
                "true" | "enabled" => {}
                _ => return Err(bad("say \"true\" or \"false\"".to_owned())),
            },
            "injected" => {}
            "image" if !value.is_empty() => value.clone_into(&mut options.image),
            "sidecar" => options.sidecar = choice(value).map_err(bad)?,
            "path" => options.path = choice(value).map_err(bad)?,
            "preset" => preset = Some(choice::<Preset>(value).map_err(bad)?),
            "remoting-port" => remoting = Some(ports(value).map_err(|error| bad(error.to_string()))?),
            "management-port" => management = Some(ports(value).map_err(|error| bad(error.to_string()))?),
            "mode" => options.mode = choice(value).map_err(bad)?,
            "permissive-until" => options.permissive_until = Some(value.to_owned()),
            "allow" => options.allow = value.split(',').map(|peer| peer.trim().to_owned()).collect(),
            "tls-secret" if !value.is_empty() => value.clone_into(&mut options.tls_secret),
            "events" => options.events = yes_or_no(value).map_err(bad)?,
            "readiness-gate" => options.readiness_gate = yes_or_no(value).map_err(bad)?,
            "backend" => options.backend = choice(value).map_err(bad)?,
            // By the node's CNI plugin: core::cni::choice.
            "rules" if value == "capture" => makes_rules = false,
            "rules" => return Err(bad("a pod with a sidecar can have capture alone".to_owned())),
            "image" | "tls-secret" => return Err(bad("it is empty".to_owned())),
            _ => return Err(Refused::UnknownAnnotation { name: key.clone() }),
        }
    }
    if preset.is_some() || remoting.is_some() || management.is_some() {
        let given = &options.ports;
        let of = |asked: Option<Vec<PortRange>>, given: &[PortRange]| {
            asked.unwrap_or_else(|| if preset.is_some() { Vec::new() } else { given.to_vec() })
        };
        let (remoting, management) = (of(remoting, given.remoting.ranges()), of(management, given.management.ranges()));
        options.ports =
            ClusterPorts::new(preset, &remoting, &management).map_err(|error: ConfigError| Refused::BadAnnotation {
                name: PREFIX.to_owned() + "…-port",
                value: String::new(),
                reason: error.to_string(),
            })?;
    }
    if !makes_rules && options.path == TrafficPath::Ports {
        let reason = "with path ports nobody listens where the rules would lead; leave out one of the two".to_owned();
        return Err(Refused::BadAnnotation { name: RULES.to_owned(), value: "capture".to_owned(), reason });
    }
    refuse(kind, template, &options)?;
    check_options(&options)?;
    let apps = match options.path {
        TrafficPath::Rules => Vec::new(),
        TrafficPath::Ports => apps::changes(template, &options)?,
    };
    let mut injection = containers::injection(name, template, &options, apps);
    if !makes_rules {
        injection.init_containers.retain(|container| container["name"] != INIT);
    }
    Ok(Some(injection))
}

/// Whether a sidecar would start with these.
///
/// # Errors
/// [`Refused::BadOption`].
pub fn check_options(options: &Options) -> Result<(), Refused> {
    for peer in &options.allow {
        peer.parse::<Allow>().map_err(|error| Refused::BadOption("allow", error.to_string()))?;
    }
    if let Some(day) = &options.permissive_until {
        parse_date(day).map_err(|error| Refused::BadOption("permissive-until", error.to_string()))?;
    }
    // Its own ports are always the defaults.
    let ports = AgentPorts::default().checked(&options.ports);
    ports.map_err(|error| Refused::BadOption("the cluster's ports", error.to_string()))?;
    match options.path {
        TrafficPath::Rules => Ok(()),
        TrafficPath::Ports => check_listeners(&options.ports.remoting)
            .map_err(|error| Refused::BadOption("remoting-port", error.to_string())),
    }
}

fn choice<T: clap::ValueEnum>(value: &str) -> Result<T, String> {
    T::from_str(value, false).map_err(|_| {
        let known: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("it is one of {}", known.join(", "))
    })
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "say \"true\" or \"false\"".to_owned())
}

fn ports(value: &str) -> Result<Vec<PortRange>, PortError> {
    value.split(',').map(str::parse).collect()
}

fn refuse(kind: &str, template: &Value, options: &Options) -> Result<(), Refused> {
    let spec = &template["spec"];
    if spec["hostNetwork"] == true {
        return Err(Refused::HostNetwork);
    }
    if let Some(system) = spec["os"]["name"].as_str().filter(|system| *system != "linux") {
        return Err(Refused::OtherSystem(system.to_owned()));
    }
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err(Refused::NoContainers);
    }
    if options.sidecar == SidecarKind::Classic {
        // Whose pods they are besides Jobs, workflow engines' for instance, nobody can list.
        let ends = spec["restartPolicy"].as_str().filter(|policy| *policy != "Always");
        match ends {
            _ if matches!(kind, "Job" | "CronJob") => return Err(Refused::NeverOver(kind.to_owned())),
            Some(policy) => return Err(Refused::NeverOver(format!("{kind} with restartPolicy {policy}"))),
            None => {}
        }
    }
    let uid = |of: &Value| of["securityContext"]["runAsUser"].as_i64();
    for list in LISTS {
        for item in spec[list].as_array().into_iter().flatten() {
            let condition = item["conditionType"].as_str();
            let name = item["name"].as_str();
            if is_ours(name, condition) {
                let name = name.or(condition).unwrap_or_default();
                return Err(Refused::ByHand(format!("{name} among its {list}")));
            }
            let name = name.unwrap_or_default();
            if list.ends_with("ontainers") && uid(item).or_else(|| uid(spec)) == Some(AGENT_UID) {
                return Err(Refused::AgentsUser(format!("container {name}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
