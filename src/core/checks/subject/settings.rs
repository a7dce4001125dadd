//! What an app is told, as far as a manifest shows it: environment, `-D` options, ConfigMaps.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::environment::{Environment, Variable};
use super::hocon::{self, Written};
use crate::core::facts::{Facts, REMOVED};
use crate::core::report::Observed;

/// Variables that hold options of a JVM, in the order in which it takes them (java(1), "JDK_JAVA_OPTIONS"; JVM Tool Interface,
/// "JAVA_TOOL_OPTIONS"): what comes later wins.
const OPTIONS: [&str; 7] =
    ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_OPTS", "JAVA_OPTIONS", "SBT_OPTS", "JVM_OPTS", BEHIND_ARGUMENTS];
/// The one that comes behind the command line.
const BEHIND_ARGUMENTS: &str = "_JAVA_OPTIONS";

/// Variables that documentation and samples read in their application.conf, and what they set there.
const VARIABLES: [(&str, &str); 12] = [
    ("CLUSTER_BOOTSTRAP_SERVICE_NAME", "management.cluster.bootstrap.contact-point-discovery.service-name"),
    ("REQUIRED_CONTACT_POINT_NR", "management.cluster.bootstrap.contact-point-discovery.required-contact-point-nr"),
    (
        "CLUSTER_BOOTSTRAP_REQUIRED_CONTACT_POINT_NR",
        "management.cluster.bootstrap.contact-point-discovery.required-contact-point-nr",
    ),
    ("REMOTING_PORT", "remote.artery.canonical.port"),
    ("REMOTE_PORT", "remote.artery.canonical.port"),
    ("ARTERY_PORT", "remote.artery.canonical.port"),
    ("REMOTE_ARTERY_CANONICAL_PORT", "remote.artery.canonical.port"),
    ("MANAGEMENT_PORT", "management.http.port"),
    ("MANAGEMENT_HTTP_PORT", "management.http.port"),
    ("MANAGEMENT_HTTP_HOSTNAME", "management.http.hostname"),
    ("MANAGEMENT_HTTP_BIND_HOSTNAME", "management.http.bind-hostname"),
    ("DISCOVERY_METHOD", "discovery.method"),
];

/// What checks read, by its path without `akka.` or `pekko.`. A saved file of facts keeps these values and no others.
const READ: [&str; 22] = [
    "cluster.shutdown-after-unsuccessful-join-seed-nodes",
    "config.file",
    "config.resource",
    "coordinated-shutdown.exit-jvm",
    "discovery.kubernetes-api.pod-label-selector",
    "discovery.method",
    "management.cluster.bootstrap.contact-point-discovery.discovery-method",
    "management.cluster.bootstrap.contact-point-discovery.required-contact-point-nr",
    "management.cluster.bootstrap.contact-point-discovery.service-name",
    "management.http.bind-hostname",
    "management.http.hostname",
    "management.http.port",
    "networkaddress.cache.ttl",
    "remote.artery.bind.hostname",
    "remote.artery.canonical.port",
    "remote.artery.ssl.ssl-engine-provider",
    "remote.artery.transport",
    "remote.classic.netty.tcp.bind-hostname",
    "remote.classic.netty.tcp.port",
    "remote.netty.tcp.bind-hostname",
    "remote.netty.tcp.port",
    "sun.net.inetaddr.ttl",
];
/// What checks look for without caring what it is set to.
const LOOKED_FOR: [&str; 4] =
    ["cluster.seed-nodes", "cluster.seed-nodes.0", "remote.classic.netty.ssl", "remote.netty.ssl"];

/// A value and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core::checks) struct Setting {
    pub(in crate::core::checks) value: String,
    /// `-D in JAVA_OPTS`, `env AKKA_…`, `ConfigMap shop/app`.
    pub(in crate::core::checks) source: String,
}

/// Settings by their path without `akka.` or `pekko.` in front; other properties of a JVM by their whole name.
///
/// Invariant: what may be set to something that is not to be seen is unknown, and has no value.
#[derive(Clone, Debug, Default)]
pub(in crate::core::checks) struct Settings {
    by_path: BTreeMap<String, Setting>,
    /// Paths of which they, and all below them, may have been set to anything, and by whom; empty for all paths.
    unknown: Vec<(String, String)>,
    of_cluster: usize,
}

impl Settings {
    pub(super) fn of(
        container: &Container,
        pod: &PodSpec,
        labels: &BTreeMap<String, String>,
        namespace: &str,
        facts: &Facts,
    ) -> Self {
        let environment = Environment::of(container, labels, namespace, facts);
        let of = |name: &'static str| Some((environment.variables.get(name)?.value.as_deref()?, name));
        let words = container.command.iter().chain(&container.args).flatten();
        let arguments = OPTIONS
            .into_iter()
            .filter(|name| *name != BEHIND_ARGUMENTS)
            .filter_map(of)
            .chain(words.map(|word| (&word[..], "the command line")))
            .chain(of(BEHIND_ARGUMENTS));
        let mut properties = Self::default();
        for (text, source) in arguments {
            properties.options(text, source, &environment);
        }
        let mut settings = Self::default();
        // What comes later beats what came before. Variables are read by reference.conf and by files that are not seen, so
        // that a file that is seen beats them; those that force a setting beat files, and options beat everything.
        for (name, variable) in &environment.variables {
            settings.variable(name, variable);
        }
        settings.config_maps(container, pod, namespace, facts, &properties, &environment);
        for (name, variable) in &environment.variables {
            if let Some(mangled) = name.strip_prefix(FORCE) {
                settings.known_or_not(&unmangled(mangled), variable.value.as_deref(), &variable.source);
            }
        }
        settings.over(properties);
        settings
    }

    /// What is set at this path.
    pub(in crate::core::checks) fn get(&self, path: &str) -> Option<&Setting> {
        debug_assert!(is_read(path) || LOOKED_FOR.contains(&path), "{path} is in no list of what is read");
        self.by_path.get(path)
    }

    /// Who may have set this path to something that is not to be seen.
    pub(in crate::core::checks) fn unknown(&self, path: &str) -> Option<&str> {
        let covers = |above: &str| is_below(path, above);
        let unknown = self.unknown.iter().rev().find(|(above, _)| covers(above));
        unknown.filter(|_| !self.by_path.contains_key(path)).map(|(_, source)| source.as_str())
    }

    /// How many of them are settings of Akka or Pekko.
    pub(super) fn of_cluster(&self) -> usize {
        self.of_cluster
    }

    fn set(&mut self, path: &str, value: &str, source: &str) {
        let ours = bare(path);
        self.of_cluster += usize::from(ours.len() < path.len());
        let setting = Setting { value: value.trim().trim_matches(['"', '\'']).to_owned(), source: source.to_owned() };
        self.by_path.insert(ours.to_owned(), setting);
    }

    fn set_unknown(&mut self, path: &str, source: &str) {
        let ours = bare(path);
        self.of_cluster += usize::from(ours.len() < path.len() && !ours.is_empty());
        self.by_path.retain(|below, _| !is_below(below, ours));
        self.unknown.push((ours.to_owned(), source.to_owned()));
    }

    /// Sets it, unless the value holds something that another program fills in.
    fn known_or_not(&mut self, path: &str, value: Option<&str>, source: &str) {
        match value.filter(|value| !["${", "{{", REMOVED].iter().any(|unknown| value.contains(unknown))) {
            Some(value) => self.set(path, value, source),
            None => self.set_unknown(path, source),
        }
    }

    /// Lets others, which came later, win.
    fn over(&mut self, later: Self) {
        for (path, source) in later.unknown {
            self.set_unknown(&path, &source);
        }
        self.by_path.extend(later.by_path);
        self.of_cluster += later.of_cluster;
    }

    fn variable(&mut self, name: &str, variable: &Variable) {
        if name.starts_with(FORCE) || is_jvm_options(name) {
            return;
        }
        let of_cluster = ["AKKA_", "PEKKO_"].iter().any(|prefix| name.starts_with(prefix));
        self.of_cluster += usize::from(of_cluster || name == BARE);
        let Some(path) = set_by_variable(name) else { return };
        self.known_or_not(&path, variable.value.as_deref(), &variable.source);
    }

    fn options(&mut self, text: &str, source: &str, environment: &Environment) {
        for option in text.split_whitespace() {
            let option = option.trim_matches(['"', '\'']);
            let property = option.strip_prefix("-D").or_else(|| option.strip_prefix("-J-D"));
            let Some((path, value)) = property.and_then(|rest| rest.split_once('=')) else { continue };
            // What is left of `$` is for a shell.
            let value = environment.expanded(value).filter(|value| !value.contains('$'));
            self.known_or_not(path, value.as_deref(), &format!("-D in {source}"));
        }
    }

    fn config_maps(
        &mut self,
        container: &Container,
        pod: &PodSpec,
        namespace: &str,
        facts: &Facts,
        properties: &Self,
        environment: &Environment,
    ) {
        let Observed::Seen(maps) = &facts.objects.config_maps else { return };
        let find = |name: &str| maps.get_key_value(&format!("{namespace}/{name}"));
        let files: Vec<File> = mounted(container, pod)
            .filter_map(find)
            .flat_map(|(map, files)| files.iter().map(move |(name, text)| File { map, name, text }))
            .filter(|file| file.is_configuration())
            .collect();
        let (chosen, is_certain) = chosen(&files, properties);
        if chosen.is_empty() && !files.is_empty() {
            self.set_unknown("", "the file that config.file or config.resource names");
        }
        for file in chosen {
            self.file(&file, is_certain, environment);
        }
    }

    fn file(&mut self, file: &File, is_certain: bool, environment: &Environment) {
        let source = format!("ConfigMap {}", file.map);
        let entries = file.entries();
        for (path, written) in &entries {
            match written {
                _ if !is_certain => self.set_unknown(path, &format!("one of several files of {source}")),
                Written::Plain(value) => self.known_or_not(path, Some(value), &source),
                Written::Variable(name) => {
                    // A path of the file itself comes before a variable of that name.
                    let in_file = entries.iter().any(|(path, _)| path == name);
                    let variable = environment.variables.get(name).filter(|_| !in_file);
                    let value = variable.and_then(|variable| variable.value.as_deref());
                    self.known_or_not(path, value, &format!("{source}, from ${{{name}}}"));
                }
                Written::Unclear if path.is_empty() => {
                    self.set_unknown(path, &format!("{source}, not all of which is understood"))
                }
                Written::Unclear => self.set_unknown(path, &source),
            }
        }
    }
}

/// A file of a ConfigMap.
#[derive(Clone, Copy)]
struct File<'a> {
    map: &'a str,
    name: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn is_configuration(&self) -> bool {
        [".conf", ".json", ".properties"].iter().any(|end| self.name.ends_with(end))
            && (self.name.ends_with(".conf") || self.name.starts_with("application."))
    }

    fn entries(&self) -> Vec<(String, Written)> {
        if self.name.ends_with(".properties") { hocon::properties(self.text) } else { hocon::read(self.text) }
    }
}

/// The files that the JVM reads, and whether it surely does (Typesafe config: what -Dconfig.file or -Dconfig.resource
/// names, else application.conf over application.json over application.properties).
fn chosen<'a>(files: &[File<'a>], properties: &Settings) -> (Vec<File<'a>>, bool) {
    const NAMED: [&str; 2] = ["config.file", "config.resource"];
    let of_name = |name: &str| files.iter().filter(|file| file.name == name).copied().collect::<Vec<_>>();
    if NAMED.iter().any(|key| properties.unknown(key).is_some()) {
        return (files.to_vec(), false);
    }
    if let Some(named) = NAMED.iter().find_map(|key| properties.get(key)) {
        let named = of_name(named.value.rsplit('/').next().unwrap_or_default());
        let is_certain = named.len() < 2;
        return (named, is_certain);
    }
    let by_default = ["application.properties", "application.json", "application.conf"].map(of_name);
    let is_certain = by_default.iter().all(|files| files.len() < 2);
    let by_default = by_default.concat();
    if by_default.is_empty() {
        // Its name may be given where nobody sees it.
        return (files.to_vec(), files.len() < 2);
    }
    (by_default, is_certain)
}

/// Without `akka.` or `pekko.` in front.
fn bare(path: &str) -> &str {
    match path {
        "akka" | "pekko" => "",
        _ => path.strip_prefix("akka.").or_else(|| path.strip_prefix("pekko.")).unwrap_or(path),
    }
}

/// Whether a path is this one or below it.
fn is_below(path: &str, above: &str) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Names of ConfigMaps whose files this container sees.
fn mounted<'a>(container: &'a Container, pod: &'a PodSpec) -> impl Iterator<Item = &'a str> {
    let mounts = container.volume_mounts.iter().flatten();
    let mut seen = BTreeSet::new();
    let names = mounts.filter_map(|mount| {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
        volume.config_map.as_ref().map(|map| map.name.as_str())
    });
    names.filter(move |name| seen.insert(*name))
}

/// What variables begin with that force a setting.
const FORCE: &str = "CONFIG_FORCE_";
/// The only variable without a prefix that the documentation uses.
const BARE: &str = "REQUIRED_CONTACT_POINT_NR";

/// The path, without `akka.` or `pekko.`, of what a variable of this name sets.
pub(in crate::core) fn set_by_variable(name: &str) -> Option<String> {
    if let Some(mangled) = name.strip_prefix(FORCE) {
        let path = unmangled(mangled);
        return Some(bare(&path).to_owned());
    }
    let short = name.strip_prefix("AKKA_").or_else(|| name.strip_prefix("PEKKO_"));
    let short = short.or_else(|| (name == BARE).then_some(name))?;
    VARIABLES.iter().find(|(known, _)| *known == short).map(|(_, path)| (*path).to_owned())
}

/// Whether checks read what is set at this path, without `akka.` or `pekko.` in front.
pub(in crate::core) fn is_read(path: &str) -> bool {
    READ.contains(&path)
}

/// Whether a variable of this name holds options of a JVM.
pub(in crate::core) fn is_jvm_options(name: &str) -> bool {
    OPTIONS.contains(&name)
}

/// `akka_remote_artery_canonical_port` as Typesafe config reads it: `_` for a dot, `__` a dash, `___` an underscore.
fn unmangled(name: &str) -> String {
    name.replace("___", "\u{1}").replace("__", "\u{2}").replace('_', ".").replace('\u{1}', "_").replace('\u{2}', "-")
}

#[cfg(test)]
mod tests;
