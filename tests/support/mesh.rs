//! The rule sets of `tests/meshes`, put into a pod as their README says.

use std::fs;
use std::path::{Path, PathBuf};

use super::backend::Backend;
use super::pod::Pod;

/// A mesh, by the rules that it leaves in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// Folder in `tests/meshes`.
    folder: &'static str,
    /// For people: the folder, or what was made of it.
    pub(crate) name: &'static str,
    /// User id of its proxy.
    pub(crate) uid: u32,
    /// Mark that its proxy's own packets carry, where rules tell it by that.
    pub(crate) mark: Option<u32>,
    programmer: Programmer,
    /// Its jumps go to the head of the built-in chains, and not to their end.
    pub(crate) inserts: bool,
}

/// The tool that writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programmer {
    IptablesNft,
    IptablesLegacy,
    Nft { table: &'static str },
}

const fn by_uid(name: &'static str, uid: u32, programmer: Programmer) -> Mesh {
    Mesh { folder: name, name, uid, mark: None, programmer, inserts: false }
}

/// Istio in its most common form.
pub(crate) const ISTIO: Mesh = by_uid("istio_iptnft", 1337, Programmer::IptablesNft);
/// Istio on a node with legacy iptables.
pub(crate) const ISTIO_LEGACY: Mesh = by_uid("istio_legacy", 1337, Programmer::IptablesLegacy);
/// Istio with TPROXY inbound; its proxy marks what it hands to the app.
pub(crate) const ISTIO_TPROXY: Mesh =
    Mesh { mark: Some(0x539), ..by_uid("istio-tproxy_iptnft", 1337, Programmer::IptablesNft) };
/// Istio ambient, whose proxy is root and known by its mark.
pub(crate) const AMBIENT: Mesh = Mesh { mark: Some(0x539), ..by_uid("ambient_iptnft", 0, Programmer::IptablesNft) };

/// Every mesh that there is test data of.
pub(crate) const MESHES: [Mesh; 8] = [
    ISTIO,
    ISTIO_LEGACY,
    by_uid("istio_native", 1337, Programmer::Nft { table: "inet istio-proxy-nat" }),
    ISTIO_TPROXY,
    AMBIENT,
    LINKERD,
    KUMA,
    by_uid("consul_iptnft", 5995, Programmer::IptablesNft),
];

const LINKERD: Mesh = by_uid("linkerd_iptnft", 1337, Programmer::IptablesNft);
const KUMA: Mesh = by_uid("kuma_auto", 65534, Programmer::IptablesNft);

/// Istio told to capture DNS and to drop what conntrack holds for invalid.
pub(crate) const ISTIO_DNS: Mesh = by_uid("istio-dns_iptnft", 1337, Programmer::IptablesNft);

/// What `MESHES` has not: Kuma told to insert its rules, and everything by legacy iptables, whose language is the same.
pub(crate) const VARIANTS: [Mesh; 7] = [
    ISTIO_DNS,
    Mesh { name: "kuma_insert", inserts: true, ..KUMA },
    Mesh { name: "kuma_legacy", programmer: Programmer::IptablesLegacy, ..KUMA },
    Mesh { name: "kuma_insert_legacy", programmer: Programmer::IptablesLegacy, inserts: true, ..KUMA },
    Mesh { name: "istio-tproxy_legacy", programmer: Programmer::IptablesLegacy, ..ISTIO_TPROXY },
    Mesh { name: "ambient_legacy", programmer: Programmer::IptablesLegacy, ..AMBIENT },
    Mesh { name: "linkerd_legacy", programmer: Programmer::IptablesLegacy, ..LINKERD },
];

const FAMILIES: [(&str, &str, &str); 2] = [("v4", "iptables", "ip"), ("v6", "ip6tables", "ip -6")];

impl Mesh {
    /// What its rules are in.
    pub(crate) const fn backend(&self) -> Backend {
        match self.programmer {
            Programmer::IptablesNft => Backend::IptablesNft,
            Programmer::IptablesLegacy => Backend::IptablesLegacy,
            Programmer::Nft { .. } => Backend::Nft,
        }
    }

    /// Whether it assigns sockets in mangle.
    pub(crate) fn is_tproxy(&self) -> bool {
        self.folder == ISTIO_TPROXY.folder
    }

    /// Puts the mesh's rules, and its policy routing, into the pod.
    pub(crate) fn load(&self, pod: &Pod) {
        self.program(pod, "--noflush");
        for (ip, mark, table) in self.policy_routes() {
            pod.sh(&format!("{ip} rule add fwmark {mark} lookup {table}"));
            pod.sh(&format!("{ip} route add local default dev lo table {table}"));
        }
    }

    /// Puts the rules in anew, as the mesh's own tool does when it runs again: what it wrote before is flushed.
    pub(crate) fn load_rules(&self, pod: &Pod) {
        self.program(pod, "");
    }

    fn program(&self, pod: &Pod, flush: &str) {
        if let Programmer::Nft { table } = self.programmer {
            pod.feed("nft -f -", &format!("table {table}\ndelete table {table}\n{}", self.read("ruleset.nft")));
            return;
        }
        for (family, tool, _) in FAMILIES {
            let (kind, wait) = if self.programmer == Programmer::IptablesNft { ("nft", "") } else { ("legacy", "-w") };
            pod.feed(&format!("{tool}-{kind}-restore {wait} {flush}"), &self.dump(family));
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
            let dump = self.dump(family);
            for table in dump.lines().filter_map(|line| line.strip_prefix('*')) {
                pod.sh(&format!("{tool}-{kind} -w -t {table} -F"));
                pod.sh(&format!("{tool}-{kind} -w -t {table} -X"));
            }
        }
    }

    /// Takes away what the mesh put in, rule by rule, with its policy routing, and nothing of anybody else's in those tables.
    pub(crate) fn unload(&self, pod: &Pod) {
        for (family, tool, _) in FAMILIES {
            let kind = if self.programmer == Programmer::IptablesNft { "nft" } else { "legacy" };
            let mut script = String::new();
            let dump = self.dump(family);
            for table in dump.split_inclusive("COMMIT\n").filter(|table| table.contains('*')) {
                let chains: Vec<&str> =
                    table.lines().filter_map(|l| l.strip_prefix(':')?.strip_suffix(" - [0:0]")).collect();
                let built_in = |line: &&str| !chains.iter().any(|chain| line.starts_with(&format!("-A {chain} ")));
                let rules = table.lines().filter(|line| line.starts_with("-A ")).filter(built_in);
                script += &table
                    .lines()
                    .filter(|line| line.starts_with('*'))
                    .map(|line| format!("{line}\n"))
                    .collect::<String>();
                script += &chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect::<String>();
                script += &rules.map(|rule| format!("-D {}\n", &rule[3..])).collect::<String>();
                script += &chains.iter().map(|chain| format!("-X {chain}\n")).collect::<String>();
                script += "COMMIT\n";
            }
            pod.feed(&format!("{tool}-{kind}-restore --noflush"), &script);
        }
        for (ip, mark, table) in self.policy_routes() {
            pod.sh(&format!("{ip} rule del fwmark {mark} lookup {table}"));
            pod.sh(&format!("{ip} route del local default dev lo table {table}"));
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

    /// Either iptables prints it, and both read it.
    fn dump(&self, family: &str) -> String {
        let kind = if self.folder == ISTIO_LEGACY.folder { "legacy" } else { "nft" };
        let dump = self.read(&format!("{kind}.{family}"));
        if !self.inserts {
            return dump;
        }
        let line = |line: &str| match line.strip_prefix("-A ").and_then(|rule| rule.split_once(' ')) {
            Some((chain @ ("PREROUTING" | "OUTPUT"), rule)) => format!("-I {chain} 1 {rule}\n"),
            _ => format!("{line}\n"),
        };
        dump.lines().map(line).collect()
    }

    fn read(&self, file: &str) -> String {
        let path = folder().join(self.folder).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meshes")
}
