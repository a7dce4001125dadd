//! The rules' life by the iptables tools: applied, applied again, moved from one backend to another, refused, removed.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use bypassctl::core::ruleset::Family;
use nix::fcntl::{Flock, FlockArg};

use crate::support::backend::{Backend, rules};
use crate::support::forge::silent_ack;
use crate::support::init::{bypassctl, init, must_init};
use crate::support::mesh::{ISTIO, ISTIO_LEGACY, Mesh};
use crate::support::pod::{Finished, Pod};
use crate::support::probe::{Answer, Identity, Listener, ask, call};
use crate::support::roles::{APP, LOOPBACKS, MANAGEMENT, MESH, REMOTING, agent, app, mesh_proxy, peer};
use crate::support::setup::check_all;

/// Options of `init` and the golden files that `--dry-run` prints for them, IPv4's first.
const GOLDEN: [(&str, &[&str]); 3] = [
    ("capture", &[]),
    ("bypass", &["--mode", "bypass"]),
    ("port-lists", &["--remoting-port", "2552,25520-25522", "--management-port", "8558", "--management-port", "7626"]),
];

fn by(backend: Backend) -> [&'static str; 2] {
    ["--backend", backend.name()]
}

/// The backends, beside nothing and beside a mesh by either iptables.
fn cases() -> Vec<String> {
    let meshes = ["none", "nft", "legacy"];
    Backend::IPTABLES.iter().flat_map(|backend| meshes.map(|mesh| format!("{backend} {mesh}"))).collect()
}

fn case(text: &str) -> (Backend, Option<Mesh>) {
    let (backend, mesh) = text.split_once(' ').expect("a backend and a mesh");
    let backend = Backend::ALL.into_iter().find(|one| one.name() == backend).expect("a backend's name");
    (
        backend,
        [("nft", ISTIO), ("legacy", ISTIO_LEGACY)].into_iter().find(|(name, _)| *name == mesh).map(|(_, mesh)| mesh),
    )
}

/// `--dry-run` prints exactly the golden files, the same for both iptables, and changes nothing; what it prints is what
/// stands after `init`, in the words of `iptables-save`.
#[test]
fn a_dry_run_prints_the_golden_of_each_family() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, options) in GOLDEN {
        let golden = ["v4", "v6"].map(|family| fs::read_to_string(folder.join(format!("{name}.{family}"))));
        let golden = golden.map(Result::unwrap_or_default).concat();
        for backend in Backend::IPTABLES {
            let (pod, _peer) = Pod::pair();
            let finished = init(&pod, &[&by(backend)[..], &["--dry-run"], options].concat());
            assert_eq!(finished.code, 0, "{finished}");
            assert_eq!(finished.stdout, golden, "{name}: if this is as it should be, split it into the files");
            assert_eq!(rules(&pod), "", "{name}");
        }
        let (pod, _peer) = Pod::pair();
        must_init(&pod, &[&by(Backend::IptablesLegacy)[..], options].concat());
        for (command, dump) in [("iptables-legacy-save", &golden), ("ip6tables-legacy-save", &golden)] {
            let saved = pod.sh(command);
            let (v4, v6) = dump.split_once("# IPv6").expect("both families");
            let text = if command.starts_with("ip6") { v6 } else { v4 };
            for rule in text.lines().filter(|line| line.starts_with("-A ")) {
                assert!(saved.contains(rule), "{name}: {rule} is not what stands:\n{saved}");
            }
        }
    }
}

/// Applied twice is applied once, by either tool, beside any; a change of mode leaves nothing behind, and a change of
/// backend leaves rules in one alone.
#[test]
fn applied_twice_by_a_tool_is_applied_once() {
    check_all(&cases(), |text, cells| {
        let (backend, mesh) = case(text);
        let (pod, _peer) = Pod::pair();
        if let Some(mesh) = mesh {
            mesh.load(&pod);
        }
        must_init(&pod, &by(backend));
        let once = rules(&pod);
        must_init(&pod, &by(backend));
        cells.check(format!("{text} again"), &rules(&pod), &once);
        must_init(&pod, &[&by(backend)[..], &["--mode", "bypass"]].concat());
        must_init(&pod, &by(backend));
        cells.check(format!("{text} to bypass and back"), &sorted(&rules(&pod)), &sorted(&once));
        for other in Backend::ALL.into_iter().filter(|other| *other != backend) {
            must_init(&pod, &by(other));
            cells.check(format!("{text} to {other}: changed"), &(rules(&pod) == once), &false);
        }
        must_init(&pod, &by(backend));
        cells.check(format!("{text} by way of the others"), &sorted(&rules(&pod)), &sorted(&once));
    });
}

/// Chains are listed in the order of their making.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// `--cleanup` restores exactly what was there, whichever backend had the rules, and removes them from every backend that
/// has them; it makes no legacy table.
#[test]
fn cleanup_restores_what_was_there_whichever_backend_had_rules() {
    check_all(&cases(), |text, cells| {
        let (backend, mesh) = case(text);
        let (pod, _peer) = Pod::pair();
        if let Some(mesh) = mesh {
            mesh.load(&pod);
        }
        let (before, legacy) = (rules(&pod), pod.legacy_tables());
        for options in [&[][..], &["--no-verify"], &["--mode", "bypass"]] {
            must_init(&pod, &[&by(backend)[..], options].concat());
            cells.check(format!("{text} {options:?} was noticed"), &(rules(&pod) == before), &false);
            must_init(&pod, &["--cleanup"]);
            cells.check(format!("{text} {options:?} cleanup"), &rules(&pod), &before);
            must_init(&pod, &["--cleanup"]);
            cells.check(format!("{text} {options:?} cleanup again"), &rules(&pod), &before);
        }
        if backend != Backend::IptablesLegacy {
            cells.check(format!("{text} legacy tables"), &pod.legacy_tables(), &legacy);
        }
    });
}

/// Somebody's rules in a chain that was made for ours keep that chain; half-written rules of ours do not stand in the way.
#[test]
fn what_others_put_beside_our_chains_stays() {
    for backend in Backend::IPTABLES {
        let (pod, _peer) = Pod::pair();
        let tool = backend.name();
        pod.sh(&format!("{tool} -w -t nat -N BYPASSCTL_OUTPUT"));
        pod.sh(&format!("{tool} -w -t nat -A BYPASSCTL_OUTPUT -p tcp --dport 9 -m comment --comment old -j ACCEPT"));
        pod.sh(&format!("{tool} -w -t nat -N BYPASSCTL_HALF"));
        must_init(&pod, &by(backend));
        pod.sh(&format!("{tool} -w -t mangle -A PREROUTING -p tcp --dport 7 -j ACCEPT"));
        must_init(&pod, &["--cleanup"]);
        let left = pod.sh(&format!("{tool}-save"));
        assert!(left.contains("-A PREROUTING -p tcp -m tcp --dport 7 -j ACCEPT"), "{backend}: {left}");
        assert!(!left.contains("BYPASSCTL"), "{backend}: {left}");
    }
}

/// A folder for the head of `PATH` with a tool that fails as if IPv6's rules were forbidden.
fn failing_tool(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    fs::write(&path, "#!/bin/sh\necho \"$0: Permission denied (you must be root)\" >&2\nexit 4\n").expect("writing");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its own file");
    folder
}

/// One family that cannot be had leaves both as they were: nothing, or the rules of the earlier run.
#[test]
fn one_family_without_permission_leaves_both_as_they_were() {
    for backend in Backend::IPTABLES {
        let folder = failing_tool(&format!("ip6{}-restore", &backend.name()[2..]));
        let (pod, _peer) = Pod::pair();
        for earlier in [&[][..], &["--remoting-port", "4000"]] {
            if !earlier.is_empty() {
                must_init(&pod, &[&by(backend)[..], earlier].concat());
            }
            let before = rules(&pod);
            let mut command = bypassctl(&["init", "--backend", backend.name()]);
            command.env("PATH", folder.path());
            let finished = pod.finish(command, "");
            assert_eq!(finished.code, 3, "{backend}: {finished}");
            assert!(finished.stderr.contains("ip6tables") && finished.stderr.contains("NET_ADMIN"), "{finished}");
            assert_eq!(rules(&pod), before, "{backend} {earlier:?}");
        }
    }
}

/// Runs `init` in the pod after `setup`, in a mount namespace of its own.
fn init_mounted(pod: &Pod, setup: &str, setpriv: &str, args: &[&str]) -> Finished {
    let mut command = Command::new("unshare");
    let script = format!("set -e; {setup}; exec {setpriv} \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(bypassctl(&[]).get_program()).arg("init").args(args);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    pod.finish(command, "")
}

/// Without the backend's tool it says which package has it: exit code 3, nothing changed.
#[test]
fn a_missing_tool_is_named_with_its_package() {
    for backend in Backend::IPTABLES {
        let (pod, _peer) = Pod::pair();
        let tool = format!("/usr/sbin/{}-restore", backend.name());
        let finished = init_mounted(&pod, &format!("mount --bind /dev/null $(readlink -f {tool})"), "", &by(backend));
        assert_eq!(finished.code, 3, "{backend}: {finished}");
        for word in [backend.name(), "package iptables", "--backend nft"] {
            assert!(finished.stderr.contains(word), "{backend}: no word of {word}: {finished}");
        }
        assert_eq!(rules(&pod), "");
    }
}

/// The lock that another tool holds is waited for, and then named, with who holds it.
#[test]
fn a_held_lock_is_waited_for_and_its_holder_named() {
    let (pod, _peer) = Pod::pair();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let start = |pod: &Pod| {
        let mut command = bypassctl(&["init", "--backend", "iptables-legacy"]);
        command.env("XTABLES_LOCKFILE", file.path());
        pod.finish(command, "")
    };
    let held = Flock::lock(file.reopen().expect("its own file"), FlockArg::LockExclusive).expect("a free lock");
    let finished = start(&pod);
    assert_eq!(finished.code, 5, "{finished}");
    let holder = format!("process {}", std::process::id());
    for word in ["xtables lock", file.path().to_str().expect("a path in UTF-8"), holder.as_str()] {
        assert!(finished.stderr.contains(word), "no word of {word}: {finished}");
    }
    assert_eq!(rules(&pod), "");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(1));
            drop(held);
        });
        let finished = start(&pod);
        assert_eq!(finished.code, 0, "{finished}");
    });
}

/// Each backend gets by with the capabilities that docs/backends.md names, on a root file system that nothing can be
/// written to.
#[test]
fn each_backend_needs_no_more_than_documented() {
    let read_only = "mount -t tmpfs -o ro none /run; mount --bind / /; mount -o remount,ro,bind /";
    let ambient = "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all,+net_admin \
                   --inh-caps=-all,+net_admin --ambient-caps=+net_admin";
    let root = "setpriv --no-new-privs --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all,+net_admin,+net_raw";
    for (backend, setpriv) in
        [(Backend::Nft, ambient), (Backend::IptablesNft, ambient), (Backend::IptablesLegacy, root)]
    {
        let (pod, _peer) = Pod::pair();
        let finished = init_mounted(&pod, read_only, setpriv, &by(backend));
        assert_eq!(finished.code, 0, "{backend}: {finished}");
        assert_eq!(finished.stdout.matches("proven live").count(), 8, "{backend}: {finished}");
        let finished = init_mounted(&pod, read_only, setpriv, &["--cleanup"]);
        assert_eq!(finished.code, 0, "{backend}: {finished}");
        assert_eq!(rules(&pod), "", "{backend}");
    }
    let (pod, _peer) = Pod::pair();
    let without = root.replace(",+net_raw", "");
    let finished = init_mounted(&pod, read_only, &without, &by(Backend::IptablesLegacy));
    assert_eq!(finished.code, 3, "{finished}");
    assert!(finished.stderr.contains("NET_RAW"), "{finished}");
}

/// A pod without IPv6 works with every backend, and says so.
#[test]
fn a_pod_without_ipv6_works_with_every_backend_and_says_so() {
    for backend in Backend::ALL {
        let (pod, _peer) = Pod::pair();
        pod.feed("tee /proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        let finished = init(&pod, &by(backend));
        assert_eq!(finished.code, 0, "{backend}: {finished}");
        assert!(finished.stdout.contains("no IPv6"), "{backend}: {finished}");
        assert_eq!(finished.stdout.matches("proven live").count(), 4, "{backend}: {finished}");
    }
}

/// Rules of somebody else under which iptables' rules stand and do nothing are noticed as with nft: exit code 4, everything
/// as it was, and the way out named.
#[test]
fn rules_of_a_tool_that_do_not_work_are_rolled_back() {
    let faults = [
        "chain o { type filter hook output priority -301; notrack; }",
        "chain p { type filter hook prerouting priority -301; iifname != lo notrack; }",
        "chain o { type nat hook output priority -150; tcp dport 2552 redirect to :15001; }",
        "chain p { type nat hook prerouting priority -150; tcp dport 2552 redirect to :15006; }",
        "chain o { type filter hook output priority 0; tcp dport 8558 drop; }",
    ];
    check_all(&faults, |fault, cells| {
        for backend in Backend::IPTABLES {
            let (pod, _peer) = Pod::pair();
            pod.feed("nft -f -", &format!("table inet foreign {{\n{fault}\n}}"));
            let before = rules(&pod);
            let finished = init(&pod, &by(backend));
            let cell = format!("{fault}, {backend}:");
            cells.check(format!("{cell} exit code"), &finished.code, &4);
            cells.check(format!("{cell} way out"), &finished.stderr.contains("--backend nft"), &true);
            cells.check(format!("{cell} what stands"), &rules(&pod), &before);
        }
    });
}

/// Legacy tables that were there before a mesh by nf_tables are asked after it: noticed, rolled back, exit code 4.
#[test]
fn legacy_tables_older_than_the_mesh_are_refused() {
    let (pod, _peer) = Pod::pair();
    for tool in ["iptables-legacy", "ip6tables-legacy"] {
        pod.sh(&format!("{tool} -w -t nat -L"));
    }
    ISTIO.load(&pod);
    let before = rules(&pod);
    let finished = init(&pod, &by(Backend::IptablesLegacy));
    assert_eq!(finished.code, 4, "{finished}");
    assert!(finished.stderr.contains("the mesh's port 15001 got it"), "{finished}");
    assert!(finished.stderr.contains("--backend nft"), "{finished}");
    assert_eq!(rules(&pod), before);
    must_init(&pod, &[]);
}

/// With listeners on the probes' ports a backend that others may overtake is not believed on its rules alone.
#[test]
fn read_back_alone_proves_a_tools_rules_only_where_nobody_can_come_first() {
    for backend in Backend::IPTABLES {
        for (mesh, code) in [(None, 0), (Some(ISTIO), 0), (Some(ISTIO_LEGACY), 4)] {
            let (pod, _peer) = Pod::pair();
            if let Some(mesh) = mesh {
                mesh.load(&pod);
            }
            // Beside the mesh of the other variant the one registered last wins, and only a connection can tell which.
            let code = if backend == Backend::IptablesLegacy && mesh.is_some() { 4 - code } else { code };
            let _listeners = [app(&pod), agent(&pod)];
            let finished = init(&pod, &by(backend));
            assert_eq!(finished.code, code, "{backend} {mesh:?}: {finished}");
            assert!((finished.stdout + &finished.stderr).contains("no listener could be put there"), "{backend}");
        }
    }
}

/// The side doors are as closed as by nft: mesh proxies over loopback, a connection that a neighbour forged the first half
/// of, Aeron's UDP.
#[test]
fn the_side_doors_are_closed_by_every_backend() {
    const PORT: u16 = 40000;
    check_all(&cases(), |text, cells| {
        let (backend, mesh) = case(text);
        let (pod, other) = Pod::pair();
        if let Some(mesh) = mesh {
            mesh.load(&pod);
        }
        must_init(&pod, &by(backend));
        let everywhere = LOOPBACKS.map(|ip| Listener::tcp(&pod, "app", APP, SocketAddr::new(ip, REMOTING)));
        let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, mesh), peer(&other, &[]), everywhere.into()];
        for ip in LOOPBACKS {
            let to = SocketAddr::new(ip, REMOTING);
            cells.check(format!("{text} mesh to {to}"), &call(&pod, MESH, to), &Answer::Refused);
            cells.check(format!("{text} app to {to}"), &call(&pod, APP, to), &Answer::from("app", to));
        }
        for family in Family::BOTH {
            let (from, to) = (other.at(family, PORT), pod.at(family, REMOTING));
            silent_ack(&other, from, to).expect("a raw socket");
            let answer = call(&other, Identity { source: Some(from), ..APP }, to);
            let reached = matches!(answer, Answer::From { who, .. } if who == "app");
            cells.check(format!("{text} forged to {to}"), &reached, &false);
            let _udp = [&pod, &other].map(|end| Listener::udp(end, "aeron", APP, end.at(family, REMOTING)));
            for (from, to) in [(&pod, &other), (&other, &pod)] {
                let to = to.at(family, REMOTING);
                cells.check(format!("{text} udp to {to}"), &ask(from, APP, to), &Answer::Refused);
            }
        }
    });
}

/// A port-only DNAT to every port keeps address and port, and no later nat chain is asked: what the agent dials, which is
/// tracked and in no raw rule, goes straight past nat rules that take the rest.
#[test]
fn a_binding_to_every_port_changes_nothing_and_ends_the_meshs_say() {
    let (pod, other) = Pod::pair();
    let chain = "chain o { type nat hook output priority -99; meta l4proto tcp redirect to :15001; }";
    pod.feed("nft -f -", &format!("table inet later {{\n{chain}\n}}"));
    for backend in Backend::IPTABLES {
        must_init(&pod, &by(backend));
        let _listeners = [peer(&other, &[]), mesh_proxy(&pod, None)];
        for family in Family::BOTH {
            for port in [REMOTING, MANAGEMENT, 8080] {
                let to = other.at(family, port);
                assert_eq!(call(&pod, Identity::uid(12552), to), Answer::from("peer", to), "{backend}");
            }
            let to = other.at(family, 8080);
            assert_eq!(call(&pod, APP, to), Answer::from("mesh-outbound", to), "{backend}");
        }
    }
}
