//! Whether bypassctl can run at all: on this node, and in a namespace.

use crate::core::checks::{Check, paths};
use crate::core::report::{CheckResult, Observed, Severity};

/// `CAP_NET_ADMIN` (linux/capability.h).
const NET_ADMIN: u32 = 12;
/// The label by which a namespace enforces a Pod Security level.
pub const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What was seen of the node, from within this process.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Effective capabilities of this process, as bits.
    pub capabilities: Observed<u64>,
    /// Whether the kernel has nf_tables for family inet; why not.
    pub nf_tables: Observed<Result<(), String>>,
    /// Why each variant of iptables (nft, legacy) cannot be used; `None` where it can.
    pub iptables: Vec<(&'static str, Option<String>)>,
}

/// What was seen of a namespace.
#[derive(Clone, Debug)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// Its Pod Security level; `None` where it has none.
    pub enforced: Observed<Option<String>>,
    /// DaemonSets that install the CNI plugin.
    pub plugins: Observed<Vec<Plugin>>,
    /// The API server's, as in `v1.35.4`.
    pub server_version: String,
}

/// A DaemonSet that installs the CNI plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// `namespace/name`.
    pub name: String,
    /// Nodes on which it is installed.
    pub ready: i32,
    /// Nodes on which it is to be.
    pub wanted: i32,
}

impl Plugin {
    const fn is_everywhere(&self) -> bool {
        self.ready > 0 && self.ready >= self.wanted
    }
}

/// Judges a node.
#[must_use]
pub fn node(facts: &NodeFacts) -> Vec<CheckResult> {
    let check = |code, severity| Check { code, severity, object: "node/this".into() };
    let capability = check("pre-net-admin", Severity::Error);
    let capability = match &facts.capabilities {
        Observed::Seen(bits) if bits >> NET_ADMIN & 1 == 1 => capability.pass("this process has NET_ADMIN"),
        Observed::Seen(_) => capability.fail(
            "this process does not have NET_ADMIN",
            "init needs it, and it alone; run this check as init is to run, with capabilities.add: [NET_ADMIN]",
            "kubectl get pod POD -o jsonpath='{.spec.initContainers[*].securityContext}'",
        ),
        Observed::Unavailable(reason) => capability.skip(reason, "/proc/self/status must be readable"),
    };
    let iptables: Vec<String> = facts
        .iptables
        .iter()
        .filter(|(_, lacking)| lacking.is_none())
        .map(|(name, _)| format!("iptables-{name}"))
        .collect();
    let backend = check("pre-backend", Severity::Error);
    let backend = match &facts.nf_tables {
        Observed::Seen(Ok(())) => backend.pass("the kernel has nf_tables: no tool is needed"),
        Observed::Seen(Err(reason)) if !iptables.is_empty() => {
            backend.pass(format!("no nf_tables ({reason}), but {}", iptables.join(" and ")))
        }
        Observed::Seen(Err(reason)) => {
            let lacking = facts
                .iptables
                .iter()
                .filter_map(|(name, lacking)| Some(format!("iptables-{name}: {}", lacking.as_ref()?)));
            let reasons: Vec<String> = [format!("nft: {reason}")].into_iter().chain(lacking).collect();
            backend.fail(
                format!("no backend for the rules: {}", reasons.join("; ")),
                "load the modules on the node, or use the image with the iptables tools",
                "modprobe -a nf_tables nft_chain_nat nft_redir",
            )
        }
        Observed::Unavailable(reason) => backend.skip(reason, "run it with NET_ADMIN"),
    };
    vec![capability, backend, path_of_node(facts)]
}

/// The strongest way to rules that this process has, and why it has no stronger one.
fn path_of_node(facts: &NodeFacts) -> CheckResult {
    let check = Check { code: "pre-path", severity: Severity::Info, object: "node/this".into() };
    let has_capability = match &facts.capabilities {
        Observed::Seen(bits) => bits >> NET_ADMIN & 1 == 1,
        Observed::Unavailable(reason) => return check.skip(reason, "/proc/self/status must be readable"),
    };
    if !has_capability {
        return check.fail(
            "no rules by this process, which does not have NET_ADMIN",
            "where pods may not have it the node's CNI plugin makes their rules (docs/cni.md), or the sidecar does without any \
             (`inject --path ports`, docs/restricted.md)",
            "bypassctl init --prove-only",
        );
    }
    let nft = match &facts.nf_tables {
        Observed::Seen(Ok(())) => None,
        Observed::Seen(Err(reason)) | Observed::Unavailable(reason) => Some(reason.clone()),
    };
    let tools = facts.iptables.iter().map(|(name, lacking)| (format!("iptables-{name}"), lacking.clone()));
    let mut passed_over = Vec::new();
    for (backend, lacking) in std::iter::once(("nft".to_owned(), nft)).chain(tools) {
        match lacking {
            None if passed_over.is_empty() => {
                return check.pass(format!("init by {backend}, the strongest there is; {}", paths::INIT));
            }
            None => {
                let passed_over = passed_over.join("; not by ");
                return check.pass(format!("init by {backend}; not by {passed_over}; {}", paths::INIT));
            }
            Some(reason) => passed_over.push(format!("{backend}: {reason}")),
        }
    }
    let hint = "load the modules on the node, or use the image with the iptables tools";
    check.fail(format!("none: {}", passed_over.join("; ")), hint, "modprobe -a nf_tables nft_chain_nat nft_redir")
}

/// Judges a namespace.
#[must_use]
pub fn namespace(facts: &NamespaceFacts) -> Vec<CheckResult> {
    let name = &facts.name;
    let check = |code, severity| Check { code, severity, object: format!("namespace/{name}").into() };
    let security = check("pre-pod-security", Severity::Error);
    let security = match &facts.enforced {
        Observed::Seen(None) => security.pass("no Pod Security level is enforced by a label: NET_ADMIN is allowed"),
        Observed::Seen(Some(level)) if level != "privileged" && everywhere(facts).is_some() => {
            security.pass(format!("Pod Security level {level} refuses NET_ADMIN, and pods need none: see pre-path"))
        }
        Observed::Seen(Some(level)) if level == "privileged" => {
            security.pass("Pod Security level privileged allows NET_ADMIN")
        }
        Observed::Seen(Some(level)) => security.fail(
            format!("Pod Security level {level} is enforced, which refuses pods whose init container adds NET_ADMIN"),
            "the pods of this namespace need level privileged, or a path without NET_ADMIN: see pre-path",
            &format!("kubectl label namespace {name} {ENFORCE}=privileged --overwrite"),
        ),
        Observed::Unavailable(reason) => security.skip(reason, "grant get on the namespace"),
    };
    let native = check("pre-native-sidecar", Severity::Warning);
    let version = &facts.server_version;
    let native = match minor(version) {
        Some(minor) if minor >= 29 => {
            native.pass(format!("Kubernetes {version} has native sidecars: they stop after the app"))
        }
        Some(_) => native.fail(
            format!("Kubernetes {version} has no native sidecars, which came with 1.29 and are stable since 1.33"),
            "the sidecar has to be an ordinary container, and may stop before the app has left its cluster",
            "kubectl version",
        ),
        None => native.skip(format!("{version:?} is no version that is understood"), "see `kubectl version`"),
    };
    vec![security, path_of_namespace(facts), native]
}

fn everywhere(facts: &NamespaceFacts) -> Option<&Plugin> {
    match &facts.plugins {
        Observed::Seen(plugins) => plugins.iter().find(|plugin| plugin.is_everywhere()),
        Observed::Unavailable(_) => None,
    }
}

/// The strongest way to rules that pods of the namespace have, and why they have no stronger one.
fn path_of_namespace(facts: &NamespaceFacts) -> CheckResult {
    let name = &facts.name;
    let check = Check { code: "pre-path", severity: Severity::Info, object: format!("namespace/{name}").into() };
    let level = match &facts.enforced {
        Observed::Seen(level) => level.as_deref().filter(|level| *level != "privileged"),
        Observed::Unavailable(reason) => return check.skip(reason, "grant get on the namespace"),
    };
    let Some(level) = level else {
        return check.pass(format!("an init container with NET_ADMIN, the strongest there is; {}", paths::INIT));
    };
    let refused = format!("no init container: Pod Security level {level} refuses its NET_ADMIN");
    let last = "without rules, by the pod's ports and a preloaded library (`inject --path ports`, docs/restricted.md)";
    match (everywhere(facts), &facts.plugins) {
        (Some(plugin), _) => {
            let Plugin { name, ready, wanted } = plugin;
            check.pass(format!(
                "the node's CNI plugin, by {name} on {ready} of {wanted} nodes; {refused}; {}",
                paths::CNI
            ))
        }
        (None, Observed::Unavailable(reason)) => check.pass(format!(
            "{last}; {refused}; whether there is a CNI plugin is not to be seen: {reason}; {}",
            paths::PORTS
        )),
        (None, Observed::Seen(plugins)) => {
            let of = |plugin: &Plugin| format!("{} is on {} of {} nodes", plugin.name, plugin.ready, plugin.wanted);
            let plugins: Vec<String> = plugins.iter().map(of).collect();
            let plugin = if plugins.is_empty() { "there is none".to_owned() } else { plugins.join(", ") };
            check.pass(format!("{last}; {refused}; no CNI plugin: {plugin}; {}", paths::PORTS))
        }
    }
}

/// 35 of `v1.35.4`; a later major version has all that 1.x has.
fn minor(version: &str) -> Option<u32> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major: u32 = parts.next()?.parse().ok()?;
    let digits: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    if major > 1 { Some(u32::MAX) } else { digits.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::report::Status;

    #[test]
    fn a_level_below_privileged_and_an_old_server_fail() {
        let of = |level: Option<&str>, version: &str| {
            let enforced = Observed::Seen(level.map(str::to_owned));
            let plugins = Observed::Seen(Vec::new());
            let facts =
                NamespaceFacts { name: "shop".to_owned(), enforced, plugins, server_version: version.to_owned() };
            namespace(&facts).iter().map(|check| check.status).collect::<Vec<_>>()
        };
        assert_eq!(of(None, "v1.35.4"), [Status::Pass, Status::Pass, Status::Pass]);
        assert_eq!(of(Some("privileged"), "v1.29.0-eks-1"), [Status::Pass, Status::Pass, Status::Pass]);
        assert_eq!(of(Some("baseline"), "v1.28+"), [Status::Fail, Status::Pass, Status::Fail]);
        assert_eq!(of(None, "unknown"), [Status::Pass, Status::Pass, Status::Skip]);
    }

    #[test]
    fn a_restricted_namespace_has_a_path_where_the_plugin_is_on_every_node() {
        let of = |plugins: Observed<Vec<Plugin>>| {
            let enforced = Observed::Seen(Some("restricted".to_owned()));
            let facts =
                NamespaceFacts { name: "shop".to_owned(), enforced, plugins, server_version: "v1.35.4".to_owned() };
            let results = namespace(&facts);
            (results[0].status, results[1].status, results[1].message.clone())
        };
        let plugin = |ready| Observed::Seen(vec![Plugin { name: "b/x-cni".to_owned(), ready, wanted: 3 }]);
        let (security, path, said) = of(plugin(3));
        assert_eq!((security, path), (Status::Pass, Status::Pass));
        assert!(said.contains("b/x-cni on 3 of 3 nodes; no init container: Pod Security level restricted"), "{said}");
        let (security, path, said) = of(plugin(2));
        assert_eq!((security, path), (Status::Fail, Status::Pass));
        assert!(
            said.starts_with("without rules") && said.contains("no CNI plugin: b/x-cni is on 2 of 3 nodes"),
            "{said}"
        );
        let (_, path, said) = of(Observed::Unavailable("forbidden for jane".to_owned()));
        assert!(path == Status::Pass && said.contains("not to be seen: forbidden for jane"), "{said}");
    }

    #[test]
    fn a_node_says_why_it_has_no_stronger_backend() {
        let of = |capabilities, nf_tables: Result<(), String>, lacking: Option<&str>| {
            let iptables = vec![("nft", Some("no tool".to_owned())), ("legacy", lacking.map(str::to_owned))];
            let (capabilities, nf_tables) = (Observed::Seen(capabilities), Observed::Seen(nf_tables));
            node(&NodeFacts { capabilities, nf_tables, iptables }).pop().unwrap().message
        };
        assert!(of(1 << 12, Ok(()), None).starts_with("init by nft, the strongest there is; bypassed: remoting and"));
        let weaker = of(1 << 12, Err("no module".to_owned()), None);
        let begin = "init by iptables-legacy; not by nft: no module; not by iptables-nft: no tool; bypassed: ";
        assert!(weaker.starts_with(begin), "{weaker}");
        assert!(of(1 << 12, Err("x".to_owned()), Some("y")).starts_with("none: nft: x"));
        assert!(of(0, Ok(()), None).contains("does not have NET_ADMIN"));
    }

    #[test]
    fn a_node_without_nf_tables_is_well_with_a_tool() {
        let of = |capabilities, nf_tables, lacking: Option<&str>| {
            let iptables = vec![("nft", lacking.map(str::to_owned))];
            let facts = NodeFacts {
                capabilities: Observed::Seen(capabilities),
                nf_tables: Observed::Seen(nf_tables),
                iptables,
            };
            node(&facts).iter().map(|check| check.status).collect::<Vec<_>>()
        };
        assert_eq!(of(1 << 12, Ok(()), Some("no tool")), [Status::Pass, Status::Pass, Status::Pass]);
        assert_eq!(of(0, Err("none".to_owned()), None), [Status::Fail, Status::Pass, Status::Fail]);
        assert_eq!(of(0, Err("none".to_owned()), Some("no tool")), [Status::Fail, Status::Fail, Status::Fail]);
    }
}
