//! Whether bypassctl can run at all: on this node, and in a namespace.

use crate::core::checks::Check;
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
    /// The API server's, as in `v1.35.4`.
    pub server_version: String,
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
    vec![capability, backend]
}

/// Judges a namespace.
#[must_use]
pub fn namespace(facts: &NamespaceFacts) -> Vec<CheckResult> {
    let name = &facts.name;
    let check = |code, severity| Check { code, severity, object: format!("namespace/{name}").into() };
    let security = check("pre-pod-security", Severity::Error);
    let security = match &facts.enforced {
        Observed::Seen(None) => security.pass("no Pod Security level is enforced by a label: NET_ADMIN is allowed"),
        Observed::Seen(Some(level)) if level == "privileged" => security.pass("Pod Security level privileged allows NET_ADMIN"),
        Observed::Seen(Some(level)) => security.fail(
            format!("Pod Security level {level} is enforced, which refuses pods whose init container adds NET_ADMIN"),
            "the pods of this namespace need level privileged, or rules made by somebody else, a CNI plugin for instance",
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
    vec![security, native]
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
            let facts = NamespaceFacts { name: "shop".to_owned(), enforced, server_version: version.to_owned() };
            namespace(&facts).iter().map(|check| check.status).collect::<Vec<_>>()
        };
        assert_eq!(of(None, "v1.35.4"), [Status::Pass, Status::Pass]);
        assert_eq!(of(Some("privileged"), "v1.29.0-eks-1"), [Status::Pass, Status::Pass]);
        assert_eq!(of(Some("baseline"), "v1.28+"), [Status::Fail, Status::Fail]);
        assert_eq!(of(None, "unknown"), [Status::Pass, Status::Skip]);
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
        assert_eq!(of(1 << 12, Ok(()), Some("no tool")), [Status::Pass, Status::Pass]);
        assert_eq!(of(0, Err("none".to_owned()), None), [Status::Fail, Status::Pass]);
        assert_eq!(of(0, Err("none".to_owned()), Some("no tool")), [Status::Fail, Status::Fail]);
    }
}
