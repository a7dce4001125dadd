//! Which part of the code may know which: the layout of `src/lib.rs`, kept by reading the sources as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of a few hundred lines can be read at one go; past this it has to be split.
const LINES: usize = 500;

/// What a part of the crate may name of the crate. A part is a file or folder directly in `src`.
const ALLOWED: [(&str, &[&str]); 17] = [
    ("main", &["commands"]),
    (
        "lib",
        &[
            "cli",
            "cluster",
            "cni",
            "commands",
            "core",
            "demo",
            "flood",
            "http",
            "listen",
            "netfilter",
            "pod",
            "proxy",
            "sandbox",
            "sources",
            "tls",
            "webhook",
        ],
    ),
    ("cli", &["core"]),
    (
        "commands",
        &[
            "cli",
            "cluster",
            "cni",
            "core",
            "demo",
            "http",
            "netfilter",
            "pod",
            "proxy",
            "sandbox",
            "sources",
            "tls",
            "webhook",
        ],
    ),
    ("demo", &["core", "netfilter", "sandbox", "tls"]),
    ("cni", &["cluster", "core", "netfilter"]),
    ("netfilter", &["core"]),
    ("cluster", &["core", "http"]),
    ("flood", &[]),
    ("http", &[]),
    ("listen", &[]),
    ("pod", &["core", "http", "netfilter"]),
    ("proxy", &["core", "flood", "listen", "pod", "tls"]),
    ("tls", &["core"]),
    ("sandbox", &["core"]),
    ("sources", &["cluster", "core", "tls"]),
    ("webhook", &["cluster", "core", "flood", "listen", "tls"]),
];

/// What `core` may not touch: sockets, files, processes, the environment, the clock, a runtime, a cluster.
const IMPURE: [&str; 15] = [
    "tokio",
    "kube",
    "nix",
    "socket2",
    "rtnetlink",
    "netlink_sys",
    "std::fs",
    "std::process",
    "std::env",
    "std::thread",
    "std::os",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime::now",
];

/// A source file: its path below `src`, and its code without comments and without its tests.
struct Source {
    path: String,
    code: String,
    lines: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        // A module's own tests come last, and may look into anything.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        Self { path: path.to_owned(), code: flattened(&code), lines: text.lines().count() }
    }

    /// `core/plan.rs` is of part `core`, `main.rs` of part `main`.
    fn part(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Parts of the crate that the code names, by `crate::part` and, in the binary, `bypassctl::part`.
    fn named_parts(&self) -> BTreeSet<&str> {
        let of_crate = ["crate::", "bypassctl::"].into_iter().flat_map(|root| self.code.match_indices(root));
        of_crate
            .filter(|(at, _)| !self.code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            .map(|(at, root)| self.code[at + root.len()..].split(|c: char| !c.is_alphanumeric() && c != '_'))
            .filter_map(|mut words| words.next())
            .filter(|word| !word.is_empty() && *word != self.part())
            .collect()
    }

    fn broken_rules(&self) -> Vec<String> {
        let (path, part) = (&self.path, self.part());
        let mut broken = Vec::new();
        if self.lines >= LINES {
            broken.push(format!("{path} has {} lines; split it, {LINES} is too many", self.lines));
        }
        let none: &[&str] = &[];
        let allowed = match ALLOWED.iter().find(|(name, _)| *name == part) {
            Some((_, allowed)) => allowed,
            None if part == "core" => none,
            None => return vec![format!("{path}: ALLOWED says nothing of {part}; decide where it stands")],
        };
        for named in self.named_parts().into_iter().filter(|named| !allowed.contains(named)) {
            broken.push(format!("{path} names crate::{named}; {part} may name {allowed:?}"));
        }
        if part == "core" {
            let touched = IMPURE.iter().filter(|name| contains_path(&self.code, name));
            broken.extend(touched.map(|name| format!("{path} names {name}; core decides and does nothing else")));
        }
        broken
    }
}

/// `use a::{b, c::{d, e}};` as `use a::b; use a::c::d; use a::c::e;`, so that a path is found by its text.
fn flattened(code: &str) -> String {
    let mut flat = String::new();
    let mut rest = code;
    while let Some(at) = next_use(rest) {
        flat += &rest[..at];
        let (tree, after) = rest[at + "use ".len()..].split_once(';').unwrap_or((&rest[at + "use ".len()..], ""));
        let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
        for path in paths(&tree) {
            flat += &format!("use {path};\n");
        }
        rest = after;
    }
    flat + rest
}

fn next_use(code: &str) -> Option<usize> {
    let starts = code.match_indices("use ").map(|(at, _)| at);
    starts.into_iter().find(|at| code[..*at].chars().next_back().is_none_or(char::is_whitespace))
}

fn paths(tree: &str) -> Vec<String> {
    let Some((prefix, inner)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inner = inner.trim().strip_suffix('}').unwrap_or(inner);
    let mut depth = 0;
    let mut branches = vec![String::new()];
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            branches.push(String::new());
        } else if let Some(branch) = branches.last_mut() {
            branch.push(c);
        }
    }
    let leaves = branches.iter().filter(|branch| !branch.trim().is_empty()).flat_map(|branch| paths(branch.trim()));
    leaves.map(|leaf| format!("{}{leaf}", prefix.trim())).collect()
}

fn contains_path(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        // A crate's name counts only where a path starts with it; `std::net::Tcp` is the start of several names.
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || (c == ':' && !path.contains("::")));
        let ends = path.ends_with("Tcp") || path.ends_with("Udp");
        let ends = ends || !after.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let is_path = path.contains("::") || code[at + path.len()..].starts_with("::");
        starts && ends && is_path
    })
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path: PathBuf = entry.expect("a directory entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let name = path.strip_prefix(&src).expect("a path in src").to_string_lossy().into_owned();
                sources.push(Source::new(&name, &text));
            }
        }
    }
    sources
}

/// `core` is pure, dependencies point one way, and no file grows past what can be read at one go.
#[test]
fn every_file_keeps_to_its_place() {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "core/plan.rs"), "the sources were not found");
    let broken: Vec<String> = sources.iter().flat_map(Source::broken_rules).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Each rule of this file is one that code can break: a snippet that breaks it is caught.
#[test]
fn a_file_out_of_its_place_is_caught() {
    let bad = [
        ("core/plan.rs", "use tokio::net::TcpStream;"),
        ("core/plan.rs", "use std::{collections::BTreeMap, fs};"),
        ("core/plan.rs", "use std::net::{IpAddr, TcpListener};"),
        ("core/plan.rs", "fn f() { let _ = std::env::var(\"HOME\"); }"),
        ("core/plan.rs", "fn f() { let _ = std::time::Instant::now(); }"),
        ("core/plan.rs", "fn f() { let _ = SystemTime::now(); }"),
        ("core/checks/pod.rs", "use crate::netfilter::table;"),
        ("netfilter/apply.rs", "use crate::commands::Failure;"),
        ("proxy/inbound.rs", "use crate::{\n    core::config,\n    cli::ProxyArgs,\n};"),
        ("netfilter/apply.rs", "fn f() { crate::tls::load(); }"),
        ("sandbox/pod.rs", "use crate::tls::Credentials;"),
        ("main.rs", "use bypassctl::core::plan;"),
        ("elsewhere.rs", "fn f() {}"),
    ];
    for (path, code) in bad {
        assert_eq!(Source::new(path, code).broken_rules().len(), 1, "{path}: {code}");
    }
    let long = "// a line\n".repeat(LINES);
    assert_eq!(Source::new("core/plan.rs", &long).broken_rules().len(), 1);
}

/// Comments, a module's own tests and names that only look alike are no offence.
#[test]
fn a_file_in_its_place_is_not_blamed() {
    let good = [
        (
            "core/plan.rs",
            "//! No tokio::net here, no std::fs.\nuse std::net::{IpAddr, Ipv4Addr};\nuse std::time::Duration;",
        ),
        ("core/plan.rs", "use crate::core::config::Config;\nfn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ("core/plan.rs", "fn f(kube_name: &str, tokio: u8, unix: u8) {}"),
        ("commands/init.rs", "use crate::core::plan;\nuse crate::netfilter;\nuse super::Failure;"),
        ("proxy/inbound.rs", "use crate::tls::Credentials;\nuse tokio::net::TcpStream;"),
        ("main.rs", "fn main() { bypassctl::commands::main(std::env::args_os()) }"),
    ];
    for (path, code) in good {
        assert_eq!(Source::new(path, code).broken_rules(), Vec::<String>::new(), "{path}: {code}");
    }
}
