//! Single texts: which values are known to be harmless, because checks compare them with words, ports and paths of their own.

use k8s_openapi::api::core::v1::Container;

use crate::core::checks::{
    AGENT_OPTIONS, has_secret, hocon, is_jvm_options, is_read, is_secret, set_by_variable, takes_secret,
};
use crate::core::facts::REMOVED;
use crate::core::inject::{LIBRARY, RULES, SHIM_AGENT_PORT, SHIM_PORTS};

/// What stands where a secret was: still one to the check that looks for them.
const REDACTED: &str = "REDACTED";
/// The same for an argument.
const SECRET_ARGUMENT: &str = "secret=REDACTED";
/// The same for an address with a password in it.
const REDACTED_URL: &str = "redacted://redacted:redacted@redacted";
/// Characters of a reason that are kept.
const LONGEST_REASON: usize = 1000;
/// Characters of a setting that are kept: a service's name, a label selector, an address.
const LONGEST_VALUE: usize = 300;

const LEGACY_PROBES: &str = "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION";

/// Annotations that ask for a mesh or for rules of ours, with one word for a value.
const WORDS_OF: [&str; 9] = [
    RULES,
    "consul.hashicorp.com/connect-inject",
    "consul.hashicorp.com/transparent-proxy",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/inject",
    "linkerd.io/inject",
    "kuma.io/sidecar-injection",
    "istio.io/dataplane-mode",
    "sidecar.istio.io/rewriteAppHTTPProbers",
];
const WORDS: [&str; 10] =
    ["NONE", "true", "false", "enabled", "disabled", "ingress", "ambient", "none", "capture", "bypass"];
/// Annotations that list ports and address ranges.
const LISTS_OF: [&str; 4] = [
    "traffic.sidecar.istio.io/",
    "config.linkerd.io/skip-",
    "traffic.kuma.io/",
    "consul.hashicorp.com/transparent-proxy-exclude-",
];

/// The value of an annotation, where checks read it.
pub(super) fn annotation(key: &str, value: &str) -> String {
    let word = WORDS_OF.contains(&key) && WORDS.contains(&value);
    let list = LISTS_OF.iter().any(|prefix| key.starts_with(prefix)) && value.split(',').all(is_port_or_range);
    if word || list {
        return value.to_owned();
    }
    if key == "proxy.istio.io/config" && crate::core::checks::asks_for_legacy_probes(value) {
        return format!("{LEGACY_PROBES}: \"true\"");
    }
    REMOVED.to_owned()
}

/// `*`, a port, a range of ports, an address or a network.
fn is_port_or_range(item: &str) -> bool {
    let item = item.trim();
    let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    let is_network = |(address, prefix): (&str, &str)| is_address(address) && prefix.parse::<u8>().is_ok();
    item.is_empty()
        || item == "*"
        || item.parse::<crate::core::ports::PortRange>().is_ok()
        || is_address(item)
        || item.split_once('/').is_some_and(is_network)
}

/// The value of a variable; `ours` where it is the agent's.
pub(super) fn variable(name: &str, value: &str, ours: bool) -> String {
    if is_jvm_options(name) {
        return options(value);
    }
    if name == "LD_PRELOAD" {
        return value.split([':', ' ']).map(library).collect::<Vec<_>>().join(":");
    }
    if is_secret(name, value) {
        return redacted(name).to_owned();
    }
    if matches!(name, SHIM_PORTS | SHIM_AGENT_PORT) {
        return ports(value);
    }
    let of_agent = name.strip_prefix("BYPASSCTL_").map(|option| option.to_lowercase().replace('_', "-"));
    if ours && of_agent.is_some_and(|option| AGENT_OPTIONS.contains(&option.as_str())) {
        return harmless(value);
    }
    match set_by_variable(name) {
        Some(path) => setting(&path, value),
        None if name == LEGACY_PROBES && value == "true" => value.to_owned(),
        None => REMOVED.to_owned(),
    }
}

/// Ports for the library, or that they are none, or filled in by Kubernetes.
fn ports(value: &str) -> String {
    match harmless(value) {
        kept if kept != REMOVED => kept,
        _ if value.contains("$(") => "$()".to_owned(),
        _ => "none".to_owned(),
    }
}

/// Of a library's path that it is ours, or filled in by Kubernetes, and nothing else.
fn library(path: &str) -> String {
    match path.rsplit('/').next() {
        Some(LIBRARY) => LIBRARY.to_owned(),
        _ if path.contains("$(") => harmless(path),
        _ => REMOVED.to_owned(),
    }
}

/// What the check on secrets still finds in the place of one.
fn redacted(name: &str) -> &'static str {
    if is_secret(name, REDACTED) { REDACTED } else { REDACTED_URL }
}

/// The value of a setting, by its path without `akka.` or `pekko.` in front.
fn setting(path: &str, value: &str) -> String {
    if is_read(path) { harmless(value) } else { REMOVED.to_owned() }
}

/// What a port, a name, a duration or a path is made of; an address may have a password in it, and so may whatever is long.
fn harmless(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-.,:/%=*$(){}\"'[]".contains(c);
    if value.len() <= LONGEST_VALUE && value.chars().all(plain) && !value.contains("://") {
        value.to_owned()
    } else {
        REMOVED.to_owned()
    }
}

/// A JVM's options: the settings that checks read as they are, of other settings the names, of what is none nothing.
fn options(text: &str) -> String {
    text.split_whitespace().map(option).collect::<Vec<_>>().join(" ")
}

fn option(option: &str) -> String {
    let bare = option.trim_matches(['"', '\'']);
    let setting_ = bare.strip_prefix("-D").or_else(|| bare.strip_prefix("-J-D")).and_then(|rest| rest.split_once('='));
    let Some((name, value)) = setting_ else {
        if let Some(path) = bare.strip_prefix("-agentpath:") {
            return format!("-agentpath:{}", library(path.split('=').next().unwrap_or_default()));
        }
        return if has_secret(bare) { SECRET_ARGUMENT } else { REMOVED }.to_owned();
    };
    if has_secret(bare) {
        return format!("-D{name}={}", redacted(name));
    }
    let path = name.strip_prefix("akka.").or_else(|| name.strip_prefix("pekko.")).unwrap_or(name);
    format!("-D{name}={}", setting(path, value))
}

/// A file of settings: what checks read, and of the rest the paths.
pub(super) fn settings(file: &str, text: &str) -> String {
    use hocon::Written;
    if file.ends_with(".properties") {
        let line = |(path, value): (String, Written)| match value {
            Written::Plain(value) => format!("{path} = {}\n", setting(without_prefix(&path), &value)),
            Written::Variable(_) | Written::Unclear => String::new(),
        };
        return hocon::properties(text).into_iter().map(line).collect();
    }
    let line = |(path, value): (String, Written)| {
        let bare = without_prefix(&path);
        let value = match value {
            Written::Plain(value) if !value.is_empty() && value != hocon::LIST => Written::Plain(setting(bare, &value)),
            Written::Variable(_) if !is_read(bare) => Written::Plain(REMOVED.to_owned()),
            other => other,
        };
        hocon::written(&path, &value)
    };
    hocon::read(text).into_iter().map(line).collect()
}

fn without_prefix(path: &str) -> &str {
    path.strip_prefix("akka.").or_else(|| path.strip_prefix("pekko.")).unwrap_or(path)
}

/// Command and arguments; `ours` where they are the agent's, whose options checks read.
pub(super) fn argument_list(container: &Container, ours: bool) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let mut keeps_next = false;
    let mut before = String::new();
    let mut word = |word: &String| {
        let option = std::mem::replace(&mut before, word.clone());
        if takes_secret(&option, word) {
            return SECRET_ARGUMENT.to_owned();
        }
        let value_of_ours = std::mem::take(&mut keeps_next) && !word.starts_with('-');
        if !ours {
            return options(word);
        }
        if value_of_ours {
            return harmless(word);
        }
        let named = word.strip_prefix("--").map(|option| option.split_once('=').map_or(option, |(name, _)| name));
        if named.is_some_and(|name| AGENT_OPTIONS.contains(&name)) {
            keeps_next = !word.contains('=');
            return harmless(word);
        }
        let program = word.rsplit('/').next() == Some("bypassctl");
        if program || matches!(word.as_str(), "init" | "proxy") { word.clone() } else { REMOVED.to_owned() }
    };
    let mut words = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.iter().map(&mut word).collect());
    let command = words(&container.command);
    (command, words(&container.args))
}

/// Of the agent's image name and version, of others' nothing: a registry's address may have a password in it.
pub(super) fn image(image: &str, ours: bool) -> Option<String> {
    let name = image.rsplit('/').next().unwrap_or_default();
    let (_, version) = name.split_at(name.find([':', '@']).unwrap_or(name.len()));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_' | '-');
    // `user:password@host` without a path is no version.
    let version = match version.split_once('@') {
        Some((_, digest)) if digest.starts_with("sha256:") && digest.chars().all(plain) => format!("@{digest}"),
        Some(_) => format!(":{REMOVED}"),
        None => version.to_owned(),
    };
    ours.then(|| format!("bypassctl{version}"))
}

/// A probe's path, without its query: what it ends with, where that is management's.
pub(super) fn path(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    match ["/ready", "/alive"].into_iter().find(|end| path.ends_with(end)) {
        Some(end) if path == end => end.to_owned(),
        Some(end) => format!("/{REMOVED}{end}"),
        None => format!("/{REMOVED}"),
    }
}

/// Why something was not seen, without the user and the password of an address in it.
pub(super) fn reason(text: &str) -> String {
    let text: String = text.chars().take(LONGEST_REASON).collect();
    let mut clean = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("://") {
        clean += before;
        clean += "://";
        let end = after.find(|c: char| c.is_whitespace() || "/\"'`,;)".contains(c)).unwrap_or(after.len());
        rest = after[..end].rfind('@').map_or(after, |at| &after[at + 1..]);
    }
    clean + rest
}

/// A reason as Kubernetes' components give them: one word.
pub(super) fn word(text: &str) -> String {
    let is_word = !text.is_empty() && text.len() <= 100 && text.chars().all(|c| c.is_ascii_alphanumeric());
    if is_word { text } else { REMOVED }.to_owned()
}

/// What a probe's failure may come to; the rest of its text is the app's.
const PROBE_ENDS: [&str; 5] =
    ["connection refused", "context deadline exceeded", "no route to host", "connection reset by peer", "EOF"];
/// How messages of the scheduler, the kubelet and the API server begin that name objects and numbers alone.
const MESSAGES: [&str; 6] = [
    "containers with unready status: [",
    "containers with incomplete status: [",
    "the status of pod readiness gate",
    "corresponding condition of pod readiness gate",
    "back-off ",
    "Back-off restarting failed container",
];
/// Refusals of the API server that name objects and numbers alone.
const REFUSALS: [&str; 3] =
    [" is forbidden: exceeded quota", " is forbidden: failed quota", " is forbidden: violates PodSecurity"];

/// A message of Kubernetes' components, where its kind quotes neither an image, nor an answer, nor a command's output.
pub(super) fn message(text: &str) -> String {
    if let Some((probe, end)) = text.split_once(" probe failed: ") {
        let probe = if ["Readiness", "Liveness", "Startup"].contains(&probe) { probe } else { "A" };
        let code = end.strip_prefix("HTTP probe failed with statuscode: ").filter(|code| code.parse::<u16>().is_ok());
        let end = code.map(|code| format!("status code {code}")).or_else(|| {
            let known = PROBE_ENDS.iter().find(|known| end.contains(**known))?;
            Some((*known).to_owned())
        });
        return format!("{probe} probe failed: {}", end.as_deref().unwrap_or(REMOVED));
    }
    let missing = |kind: &str| {
        let name = text.strip_prefix(kind).and_then(|rest| rest.strip_suffix("\" not found"));
        name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')))
    };
    let unscheduled = text.starts_with("0/") && text.contains(" nodes are available");
    let known = unscheduled
        || MESSAGES.iter().any(|start| text.starts_with(start))
        || REFUSALS.iter().any(|refusal| text.contains(refusal))
        || missing("secret \"")
        || missing("configmap \"");
    if known { reason(text) } else { REMOVED.to_owned() }
}
