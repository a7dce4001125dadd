//! What an app is told, as far as a manifest shows it: environment, `-D` options, ConfigMaps.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::core::facts::Facts;
use crate::core::report::Observed;

/// Variables that hold options of a JVM.
const OPTIONS: [&str; 7] =
    ["JAVA_OPTS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_OPTIONS", "SBT_OPTS", "JVM_OPTS"];

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
const READ: [&str; 16] = [
    "cluster.shutdown-after-unsuccessful-join-seed-nodes",
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
    "remote.artery.canonical.port",
    "remote.artery.transport",
    "remote.classic.netty.tcp.port",
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
#[derive(Clone, Debug, Default)]
pub(in crate::core::checks) struct Settings {
    by_path: BTreeMap<String, Setting>,
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
        let mut settings = Self::default();
        // What comes later beats what came before: a file, the environment, options.
        settings.config_maps(container, pod, namespace, facts);
        for variable in container.env.iter().flatten() {
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            let field = field.and_then(|field| match field.field_path.as_str() {
                "metadata.namespace" => Some(namespace),
                path => labels.get(path.strip_prefix("metadata.labels['")?.strip_suffix("']")?).map(String::as_str),
            });
            if let Some(value) = variable.value.as_deref().or(field) {
                settings.variable(&variable.name, value, &format!("env {}", variable.name));
            }
        }
        let arguments = container.command.iter().chain(&container.args).flatten();
        for argument in arguments {
            settings.options(argument, "the command line");
        }
        settings
    }

    /// What is set at this path.
    pub(in crate::core::checks) fn get(&self, path: &str) -> Option<&Setting> {
        debug_assert!(is_read(path) || LOOKED_FOR.contains(&path), "{path} is in no list of what is read");
        self.by_path.get(path)
    }

    /// How many of them are settings of Akka or Pekko.
    pub(super) fn of_cluster(&self) -> usize {
        self.of_cluster
    }

    fn set(&mut self, path: &str, value: &str, source: &str) {
        let ours = path.strip_prefix("akka.").or_else(|| path.strip_prefix("pekko."));
        self.of_cluster += usize::from(ours.is_some());
        let setting = Setting { value: value.trim().trim_matches(['"', '\'']).to_owned(), source: source.to_owned() };
        self.by_path.insert(ours.unwrap_or(path).to_owned(), setting);
    }

    fn variable(&mut self, name: &str, value: &str, source: &str) {
        if is_jvm_options(name) {
            return self.options(value, source);
        }
        if let Some(mangled) = name.strip_prefix("CONFIG_FORCE_") {
            return self.set(&unmangled(mangled), value, source);
        }
        let of_cluster = ["AKKA_", "PEKKO_"].iter().any(|prefix| name.starts_with(prefix));
        self.of_cluster += usize::from(of_cluster || name == BARE);
        if let Some(path) = set_by_variable(name) {
            self.by_path.insert(path, Setting { value: value.trim().to_owned(), source: source.to_owned() });
        }
    }

    fn options(&mut self, text: &str, source: &str) {
        for option in text.split_whitespace() {
            let option = option.trim_matches(['"', '\'']);
            if let Some((path, value)) =
                option.strip_prefix("-D").or_else(|| option.strip_prefix("-J-D")).and_then(|rest| rest.split_once('='))
            {
                self.set(path, value, &format!("-D in {}", source.trim_start_matches("env ")));
            }
        }
    }

    fn config_maps(&mut self, container: &Container, pod: &PodSpec, namespace: &str, facts: &Facts) {
        let Observed::Seen(maps) = &facts.objects.config_maps else { return };
        let find = |name: &str| maps.get_key_value(&format!("{namespace}/{name}"));
        for (name, map) in mounted(container, pod).filter_map(find) {
            for (_, text) in map.iter().filter(|(file, _)| file.ends_with(".conf") || file.ends_with(".properties")) {
                for (path, value) in hocon(text) {
                    self.set(&path, &value, &format!("ConfigMap {name}"));
                }
            }
        }
        for source in container.env_from.iter().flatten() {
            let Some((name, map)) = source.config_map_ref.as_ref().and_then(|from| find(&from.name)) else { continue };
            for (variable, value) in map {
                let variable = format!("{}{variable}", source.prefix.as_deref().unwrap_or_default());
                self.variable(&variable, value, &format!("env {variable} of ConfigMap {name}"));
            }
        }
        for variable in container.env.iter().flatten() {
            let from = variable.value_from.as_ref().and_then(|from| from.config_map_key_ref.as_ref());
            let Some((from, (name, map))) = from.and_then(|from| Some((from, find(&from.name)?))) else { continue };
            if let Some(value) = map.get(&from.key) {
                self.variable(&variable.name, value, &format!("env {} of ConfigMap {name}", variable.name));
            }
        }
    }
}

/// Names of ConfigMaps whose files this container sees.
fn mounted<'a>(container: &'a Container, pod: &'a PodSpec) -> impl Iterator<Item = &'a str> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.filter_map(|mount| {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
        volume.config_map.as_ref().map(|map| map.name.as_str())
    })
}

/// The only variable without a prefix that the documentation uses.
const BARE: &str = "REQUIRED_CONTACT_POINT_NR";

/// The path, without `akka.` or `pekko.`, of what a variable of this name sets.
pub(in crate::core) fn set_by_variable(name: &str) -> Option<String> {
    if let Some(mangled) = name.strip_prefix("CONFIG_FORCE_") {
        let path = unmangled(mangled);
        return Some(path.strip_prefix("akka.").or_else(|| path.strip_prefix("pekko.")).unwrap_or(&path).to_owned());
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

/// Paths and plain values of HOCON, as far as they are written one a line: enough for what people write, and never a guess
/// about substitutions or includes.
pub(in crate::core) fn hocon(text: &str) -> Vec<(String, String)> {
    let mut stack: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let line = line.split('#').next().unwrap_or_default().trim().trim_end_matches(',');
        if let Some(path) = line.strip_suffix('{') {
            if stack.len() < 32 {
                stack.push(path.trim().trim_end_matches(['=', ':']).trim().trim_matches('"').to_owned());
            }
        } else if line.starts_with('}') {
            stack.pop();
        } else if let Some((path, value)) = line.split_once(['=', ':']) {
            let value = value.trim();
            // `${?PORT}` says nothing here, and an object on one line is read by nobody.
            if !value.contains("${") && !value.starts_with(['{', '[']) && !value.is_empty() {
                let path = stack.iter().map(String::as_str).chain([path.trim()]).filter(|part| !part.is_empty());
                found.push((path.collect::<Vec<_>>().join("."), value.trim_matches('"').to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hocon_is_read_by_its_paths() {
        let text = "akka {\n  remote.artery { # here\n    canonical.port = 25520\n  }\n  cluster.x: \"off\"\n}\npekko.a = ${?B}\n";
        let expected = [("akka.remote.artery.canonical.port", "25520"), ("akka.cluster.x", "off")];
        assert_eq!(hocon(text), expected.map(|(path, value)| (path.to_owned(), value.to_owned())));
    }

    #[test]
    fn forced_settings_are_unmangled_as_typesafe_config_does() {
        assert_eq!(unmangled("akka_coordinated__shutdown_exit__jvm"), "akka.coordinated-shutdown.exit-jvm");
    }
}
