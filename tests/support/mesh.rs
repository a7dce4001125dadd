//! The rule sets of `tests/meshes`, put into a pod as their README says.

use std::fs;
use std::path::{Path, PathBuf};

use super::pod::Pod;

/// A mesh, by the rules that it leaves in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// Folder in `tests/meshes`.
    pub(crate) name: &'static str,
    /// User id of its proxy.
    pub(crate) uid: u32,
    /// Mark that its proxy's own packets carry, where rules tell it by that.
    pub(crate) mark: Option<u32>,
    programmer: Programmer,
}

/// The tool that writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programmer {
    IptablesNft,
    IptablesLegacy,
    Nft { table: &'static str },
}

const fn by_uid(name: &'static str, uid: u32, programmer: Programmer) -> Mesh {
    Mesh { name, uid, mark: None, programmer }
}

/// Istio in its most common form.
pub(crate) const ISTIO: Mesh = by_uid("istio_iptnft", 1337, Programmer::IptablesNft);
/// Istio on a node with legacy iptables.
pub(crate) const ISTIO_LEGACY: Mesh = by_uid("istio_legacy", 1337, Programmer::IptablesLegacy);
/// Istio with TPROXY inbound; its proxy marks what it hands to the app.
pub(crate) const ISTIO_TPROXY: Mesh =
    Mesh { name: "istio-tproxy_iptnft", uid: 1337, mark: Some(0x539), programmer: Programmer::IptablesNft };
/// Istio ambient, whose proxy is root and known by its mark.
pub(crate) const AMBIENT: Mesh =
    Mesh { name: "ambient_iptnft", uid: 0, mark: Some(0x539), programmer: Programmer::IptablesNft };

/// Every mesh that there is test data of.
pub(crate) const MESHES: [Mesh; 7] = [
    ISTIO,
    ISTIO_LEGACY,
    by_uid("istio_native", 1337, Programmer::Nft { table: "inet istio-proxy-nat" }),
    ISTIO_TPROXY,
    AMBIENT,
    by_uid("linkerd_iptnft", 1337, Programmer::IptablesNft),
    by_uid("kuma_auto", 65534, Programmer::IptablesNft),
];

const FAMILIES: [(&str, &str, &str); 2] = [("v4", "iptables", "ip"), ("v6", "ip6tables", "ip -6")];

impl Mesh {
    /// Puts the mesh's rules, and its policy routing, into the pod.
    pub(crate) fn load(&self, pod: &Pod) {
        self.load_rules(pod);
        for (ip, mark, table) in self.policy_routes() {
            pod.sh(&format!("{ip} rule add fwmark {mark} lookup {table}"));
            pod.sh(&format!("{ip} route add local default dev lo table {table}"));
        }
    }

    /// Puts the rules in anew, as the mesh's own tool does when it runs again: what it wrote before is flushed.
    pub(crate) fn load_rules(&self, pod: &Pod) {
        if let Programmer::Nft { table } = self.programmer {
            pod.feed("nft -f -", &format!("table {table}\ndelete table {table}\n{}", self.read("ruleset.nft")));
            return;
        }
        for (family, tool, _) in FAMILIES {
            let (kind, wait) = if self.programmer == Programmer::IptablesNft { ("nft", "") } else { ("legacy", "-w") };
            pod.feed(&format!("{tool}-{kind}-restore {wait}"), &self.read(&format!("{kind}.{family}")));
        }
    }

    /// Takes the rules away, as the mesh's clean-up does.
    pub(crate) fn remove_rules(&self, pod: &Pod) {
        if let Programmer::Nft { table } = self.programmer {
            pod.sh(&format!("nft delete table {table}"));
            return;
        }
        for (family, tool, _) in FAMILIES {
            let kind = if self.programmer == Programmer::IptablesNft { "nft" } else { "legacy" };
            let dump = self.read(&format!("{kind}.{family}"));
            for table in dump.lines().filter_map(|line| line.strip_prefix('*')) {
                pod.sh(&format!("{tool}-{kind} -w -t {table} -F"));
                pod.sh(&format!("{tool}-{kind} -w -t {table} -X"));
            }
        }
    }

    /// `ip` with its family, mark, table: every `ip rule` of the dump that looks at a mark.
    fn policy_routes(&self) -> Vec<(&'static str, String, String)> {
        let dump = self.read("iprule");
        let mut families = FAMILIES.iter().map(|(.., ip)| *ip);
        let mut ip = "";
        let mut routes = Vec::new();
        for line in dump.lines() {
            if line.starts_with("0:") {
                ip = families.next().expect("the rules of two families");
            }
            if let Some((_, rule)) = line.split_once("fwmark ") {
                let (mark, table) = rule.split_once(" lookup ").expect("a rule that names its table");
                routes.push((ip, mark.to_owned(), table.trim().to_owned()));
            }
        }
        routes
    }

    fn read(&self, file: &str) -> String {
        let path = folder().join(self.name).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meshes")
}
