//! `bypassctl inject` on whole manifests, byte for byte: what Akka's and Pekko's documentation tell people to write, in our words.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A manifest of `tests/checks/healthy`, the options for it, and whether the checks find nothing in what comes of it: the first has
/// a web server in it, which wants no agent, a classic sidecar is stopped together with its app, and the last has nodes with other ports.
const MANIFESTS: [(&str, &[&str], bool); 4] = [
    ("akka", &[], false),
    ("akka-minimal", &["--readiness-gate", "--events"], true),
    ("istio", &["--sidecar", "classic"], false),
    ("pekko-dns", &["--preset", "pekko"], false),
];

fn bypassctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bypassctl")).env_clear().args(args).output().unwrap()
}

#[test]
fn documented_manifests_become_the_golden_files_and_back() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (name, options, is_clean) in MANIFESTS {
        let manifest = tests.join(format!("checks/healthy/{name}.yaml"));
        let golden = tests.join(format!("golden/inject/{name}.yaml"));
        let (manifest, golden) = (manifest.to_str().unwrap(), golden.to_str().unwrap());
        let injected =
            bypassctl(&[&["inject", "--image", "registry.example/bypassctl:1"][..], options, &[manifest]].concat());
        assert!(injected.status.success(), "{name}: {injected:?}");
        let text = String::from_utf8(injected.stdout).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION");
        assert_eq!(
            text,
            fs::read_to_string(golden).unwrap_or_default(),
            "if this is as it should be, make it {golden}"
        );
        let back = bypassctl(&["inject", "--uninject", golden]);
        assert_eq!(String::from_utf8(back.stdout).unwrap(), fs::read_to_string(manifest).unwrap(), "{name}");
        let checked = bypassctl(&["check", "files", golden]);
        assert_eq!(checked.status.success(), is_clean, "{name}: {}", String::from_utf8_lossy(&checked.stdout));
    }
}
