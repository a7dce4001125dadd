//! What the app's own containers get where there are no rules: the library, and where to listen.
//!
//! Invariant: what a variable says already stays, and ours comes behind it; taken away again, the containers are what they were.

use serde_json::{Value, json};

use crate::core::inject::{LIBRARY, Options, Refused, SHIM_AGENT_PORT, SHIM_PORTS, SHIM_VOLUME};

/// Where the containers find the library.
pub(super) const SHIM_DIR: &str = "/var/run/bypassctl/shim";

/// What one container gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppChange {
    /// Which of the pod's containers, as they are before anything is added.
    pub container: usize,
    /// Before its other variables.
    pub env: Vec<Value>,
    /// Which of its variables, as they are, gets what behind its value.
    pub joined: Vec<(usize, String)>,
    /// Before its other mounts.
    pub mounts: Vec<Value>,
}

/// A variable that lists things, what separates them, and what of ours is in it.
fn lists() -> [(&'static str, &'static str, String); 2] {
    let library = format!("{SHIM_DIR}/{LIBRARY}");
    let akka = ["artery.bind.hostname", "classic.netty.tcp.bind-hostname", "netty.tcp.bind-hostname"];
    let pekko = &akka[..2];
    let settings = akka.iter().map(|key| ("akka", key)).chain(pekko.iter().map(|key| ("pekko", key)));
    let settings: Vec<String> = settings.map(|(name, key)| format!("-D{name}.remote.{key}=127.0.0.1")).collect();
    let java = format!("-agentpath:{library} {}", settings.join(" "));
    [("LD_PRELOAD", ":", library), ("JAVA_TOOL_OPTIONS", " ", java)]
}

/// What is ours in a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ours {
    /// All of it.
    Whole,
    /// This, behind what was there.
    Behind(String),
}

/// Whether a variable of a container is ours, or has ours in it.
pub(super) fn ours(name: Option<&str>, value: Option<&str>) -> Option<Ours> {
    if name == Some(SHIM_PORTS) {
        return Some(Ours::Whole);
    }
    let (_, separator, own) = lists().into_iter().find(|(list, ..)| name == Some(list))?;
    let behind = format!("{separator}{own}");
    match value? {
        value if value == own => Some(Ours::Whole),
        value if value.ends_with(&behind) => Some(Ours::Behind(behind)),
        _ => None,
    }
}

/// What the app's containers get.
pub(super) fn changes(template: &Value, options: &Options) -> Result<Vec<AppChange>, Refused> {
    let containers = template["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let apps = apps(containers, options)?;
    apps.into_iter().map(|at| change(at, &containers[at], options)).collect()
}

/// The containers that have a remoting port; the only one needs not say so.
fn apps(containers: &[Value], options: &Options) -> Result<Vec<usize>, Refused> {
    if containers.len() == 1 {
        return Ok(vec![0]);
    }
    let is_remoting = |port: &Value| {
        let number = port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
        number.is_some_and(|port| options.ports.remoting.contains(port))
    };
    let has_remoting =
        |container: &Value| container["ports"].as_array().is_some_and(|ports| ports.iter().any(is_remoting));
    let apps: Vec<usize> = (0..containers.len()).filter(|at| has_remoting(&containers[*at])).collect();
    if apps.is_empty() { Err(Refused::NoApp(options.ports.remoting.to_string())) } else { Ok(apps) }
}

fn change(at: usize, container: &Value, options: &Options) -> Result<AppChange, Refused> {
    let name = || container["name"].as_str().unwrap_or_default().to_owned();
    let env = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Of several with one name Kubernetes takes the last.
    let find = |variable: &str| env.iter().rposition(|item| item["name"] == variable);
    let by_hand = |what: &str| Refused::ByHand(format!("{what} in container {}", name()));
    let mounts = container["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if mounts.iter().any(|mount| mount["name"] == SHIM_VOLUME || mount["mountPath"] == SHIM_DIR) {
        return Err(by_hand("mount of the library"));
    }
    if let Some(variable) = [SHIM_PORTS, SHIM_AGENT_PORT].into_iter().find(|variable| find(variable).is_some()) {
        return Err(by_hand(variable));
    }
    let mut change = AppChange { container: at, ..AppChange::default() };
    for (variable, separator, own) in lists() {
        let Some(place) = find(variable) else {
            change.env.push(json!({"name": variable, "value": own}));
            continue;
        };
        match env[place]["value"].as_str() {
            Some(value) if value.contains(SHIM_DIR) => return Err(by_hand(variable)),
            Some(value) if !value.is_empty() => change.joined.push((place, format!("{separator}{own}"))),
            _ => return Err(Refused::UnseenVariable { container: name(), variable, own }),
        }
    }
    change.env.push(json!({"name": SHIM_PORTS, "value": options.ports.remoting.to_string()}));
    change.mounts.push(json!({"name": SHIM_VOLUME, "mountPath": SHIM_DIR, "readOnly": true}));
    Ok(change)
}
