//! `bypassctl inject` on whole manifests, byte for byte: what Akka's and Pekko's documentation tell people to write, in our words; and what holds for every
//! manifest that is taken, whatever it looks like.

mod generated;
mod hidden;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bypassctl::core::backend::BackendChoice;
use bypassctl::core::config::ClusterPorts;
use bypassctl::core::inject::{Options, SidecarKind, inject, uninject};
use bypassctl::core::route::{TlsMode, TrafficPath};
use serde_json::Value;

/// A manifest of `tests/checks/healthy`, what it becomes in `tests/golden/inject`, the options for it, and whether the checks find nothing in what comes of it: the first has
/// a web server in it, which wants no agent, a classic sidecar is stopped together with its app, and the last has nodes with other ports.
const MANIFESTS: [(&str, &str, &[&str], bool); 5] = [
    ("akka", "akka", &[], false),
    ("akka-minimal", "akka-minimal", &["--readiness-gate", "--events"], true),
    ("akka-minimal", "ports", &["--path", "ports"], true),
    ("istio", "istio", &["--sidecar", "classic"], false),
    ("pekko-dns", "pekko-dns", &["--preset", "pekko"], false),
];

fn bypassctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bypassctl")).env_clear().args(args).output().unwrap()
}

#[test]
fn documented_manifests_become_the_golden_files_and_back() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (manifest, name, options, is_clean) in MANIFESTS {
        let manifest = tests.join(format!("checks/healthy/{manifest}.yaml"));
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

/// All that can be asked for, with this sidecar on this path.
fn options(sidecar: SidecarKind, path: TrafficPath) -> Options {
    Options {
        image: "registry.example/bypassctl:1".to_owned(),
        pull_policy: None,
        sidecar,
        path,
        ports: ClusterPorts::new(None, &[], &[]).unwrap(),
        mode: TlsMode::Strict,
        permissive_until: None,
        allow: Vec::new(),
        tls_secret: "{name}-remoting-tls".to_owned(),
        backend: BackendChoice::Auto,
        events: true,
        readiness_gate: true,
    }
}

/// Injecting twice is injecting once, taking away leaves nothing of ours, and what another parser can read it still can.
fn holds(text: &str) {
    for (sidecar, path) in [
        (SidecarKind::Native, TrafficPath::Rules),
        (SidecarKind::Classic, TrafficPath::Rules),
        (SidecarKind::Native, TrafficPath::Ports),
    ] {
        let options = options(sidecar, path);
        let once = match inject(text, &options) {
            Ok(once) => once,
            Err(error) => return assert!(!error.to_string().contains("internal error"), "{text}"),
        };
        let twice = inject(&once.text, &options);
        assert_eq!(twice.map(|twice| twice.text), Ok(once.text.clone()), "twice; it was\n{text}");
        let before = uninject(text).map(|edited| edited.text);
        assert_eq!(uninject(&once.text).map(|edited| edited.text), before, "back from\n{}\nit was\n{text}", once.text);
        let read = |text: &str| serde_saphyr::from_multiple::<Value>(text);
        if before.is_ok_and(|before| read(&before).is_ok()) {
            assert!(read(&once.text).is_ok(), "{:?}: {}\nit was\n{text}", read(&once.text), once.text);
        }
    }
}

fn manifests() -> Vec<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut found = Vec::new();
    for directory in ["checks/healthy", "golden/inject"] {
        for entry in fs::read_dir(tests.join(directory)).unwrap() {
            found.push(fs::read_to_string(entry.unwrap().path()).unwrap());
        }
    }
    assert!(found.len() >= 8, "{}", found.len());
    found
}

#[test]
fn the_documented_manifests_keep_what_is_promised() {
    for text in manifests() {
        holds(&text);
        holds(&text.replace('\n', "\r\n"));
        holds(text.trim_end());
    }
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below.max(1)
    }
}

/// Lines gone, doubled, moved, indented, commented, in flow style; keys of what was injected where none belong.
fn mangled(text: &str, dice: &mut Dice) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=dice.throw(3) {
        let at = dice.throw(lines.len());
        match dice.throw(11) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines.insert(at, String::new()),
            3 => lines[at] += "   # said of it",
            4 => lines.insert(at, "# said by itself".to_owned()),
            5 => lines[at].insert_str(0, "  "),
            6 => {
                let other = dice.throw(lines.len());
                lines.swap(at, other);
            }
            7 => lines[at] = lines[at].replacen("- ", "-\n", 1).replace('\n', &format!("\n{}  ", "    ")),
            8 => lines[at] += [" {}", " []", " null", " |", " &a", " *a", " !!str"][dice.throw(7)],
            9 => lines.insert(at, "---".to_owned()),
            _ => {
                let ours =
                    ["- name: bypassctl", "annotations:", "bypassctl.io/injected: x", "volumes: []", "metadata: {}"];
                let indent = lines[at].len() - lines[at].trim_start().len();
                lines.insert(at, format!("{:indent$}{}", "", ours[dice.throw(ours.len())]));
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn mangled_manifests_keep_it_too_or_are_refused() {
    let mut dice = Dice(7);
    for text in manifests() {
        // One document at a time: a refusal of one is one of all.
        for document in text.split("\n---\n") {
            for _ in 0..60 {
                holds(&mangled(document, &mut dice));
            }
        }
    }
}

/// What `inject --path ports` makes of an app with these variables.
fn with_variables(variables: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("pod.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers:\n  - name: app\n    env:\n{variables}    \
         image: a\n"
    );
    fs::write(&manifest, text).unwrap();
    bypassctl(&["inject", "--image", "registry.example/bypassctl:1", "--path", "ports", manifest.to_str().unwrap()])
}

/// What the library is told by hand, and the sidecar is not, would lead it past the sidecar, or nowhere.
#[test]
fn variables_of_the_library_that_are_there_already_are_refused() {
    for variable in ["BYPASSCTL_SHIM_PORTS", "BYPASSCTL_SHIM_AGENT_PORT"] {
        let refused = with_variables(&format!("    - {{name: {variable}, value: \"9999\"}}\n"));
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{variable}: {complaint}");
        assert!(complaint.contains(&format!("{variable} in container app")), "{complaint}");
    }
}

/// Of several variables with one name Kubernetes takes the last.
#[test]
fn the_library_goes_into_the_last_of_several_variables() {
    let injected = with_variables(
        "    - name: LD_PRELOAD\n      value: /opt/first.so\n    - name: LD_PRELOAD\n      value: /opt/second.so\n",
    );
    let text = String::from_utf8(injected.stdout).unwrap();
    let library = "/var/run/bypassctl/shim/libbypassctl_preload.so";
    assert!(text.contains(&format!("value: /opt/second.so:{library}\n")), "{text}");
    assert!(text.contains("value: /opt/first.so\n"), "{text}");
}
