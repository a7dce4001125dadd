//! Long lists of ports, names that somebody else took, halves that a killed run left, rules that other tools do not know.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bypassctl::core::ruleset::Family;
use nix::fcntl::{Flock, FlockArg};

use crate::support::backend::{Backend, rules};
use crate::support::init::{bypassctl, init, must_init};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, Identity, call};
use crate::support::roles::{APP, REMOTING, agent, app, peer};
use crate::support::setup::check_all;

/// Hundreds of ports and ranges are applied, proven and removed by every backend; each of them is redirected, and a port
/// between two of them is not. Quickly, too: reading long lists back once took seconds.
#[test]
fn hundreds_of_ports_work_with_every_backend() {
    let ranges = (0..150).map(|i| format!("{}-{}", 30_000 + 10 * i, 30_004 + 10 * i));
    let remoting = (0..300).map(|i| (20_000 + 3 * i).to_string()).chain(ranges).collect::<Vec<_>>().join(",");
    check_all(&Backend::ALL, |backend, cells| {
        let (pod, other) = Pod::pair();
        // Time of the processor, as this machine may be busy with other things.
        let mut command = std::process::Command::new("bash");
        command.args(["-c", "TIMEFORMAT=user=%U; time \"$@\"", "bash"]).arg(bypassctl(&[]).get_program());
        command.args(["init", "--backend", backend.name(), "--remoting-port", &remoting]);
        let finished = pod.finish(command, "");
        let user = finished.stderr.rsplit_once("user=").and_then(|(_, seconds)| seconds.trim().parse::<f32>().ok());
        cells.check(format!("{backend} exit code"), &finished.code, &0);
        cells.check(format!("{backend} proven"), &finished.stdout.matches("proven live").count(), &36);
        cells.check(format!("{backend} within 4 s: {user:?}"), &user.is_some_and(|user| user < 4.0), &true);
        let listeners = [app(&pod), agent(&pod), peer(&other, &[20_001, 30_005])];
        for family in Family::BOTH {
            for (port, who) in [
                (20_000, "agent-outbound"),
                (20_897, "agent-outbound"),
                (31_494, "agent-outbound"),
                (20_001, "peer"),
                (30_005, "peer"),
            ] {
                let to = other.at(family, port);
                cells.check(format!("{backend} {to}"), &call(&pod, APP, to), &Answer::from(who, to));
            }
        }
        drop(listeners);
        must_init(&pod, &["--cleanup"]);
        cells.check(format!("{backend} after cleanup"), &rules(&pod), &String::new());
    });
}

/// A table of our name that somebody else made is neither replaced nor removed: exit code 3, and the way out is named. Nor
/// does `explain` call its rules ours.
#[test]
fn a_foreign_table_of_our_name_is_left_alone() {
    let foreign = "table inet bypassctl {
        set blocked { type inet_service; elements = { 25 } }
        chain guard { type filter hook output priority 0; tcp dport @blocked drop; }
    }";
    let (pod, _peer) = Pod::pair();
    pod.feed("nft -f -", foreign);
    let before = rules(&pod);
    for arguments in [&[][..], &["--no-verify"], &["--backend", "nft"]] {
        let finished = init(&pod, arguments);
        assert_eq!(finished.code, 3, "{arguments:?}: {finished}");
        for word in
            ["table inet bypassctl", "did not make", "nft delete table inet bypassctl", "--backend iptables-nft"]
        {
            assert!(finished.stderr.contains(word), "{arguments:?}: no word of {word}: {finished}");
        }
        assert_eq!(rules(&pod), before, "{arguments:?}");
    }
    let finished = init(&pod, &["--cleanup"]);
    assert_eq!(finished.code, 0, "{finished}");
    for words in ["table inet bypassctl is somebody else's, and is left alone", "nothing of ours to remove"] {
        assert!(finished.stdout.contains(words), "no word of {words}: {finished}");
    }
    assert!(!finished.stdout.contains("there is no table"), "{finished}");
    assert_eq!(rules(&pod), before);
    let checked = pod.finish(bypassctl(&["check", "pod"]), "");
    assert_eq!(checked.code, 1, "{checked}");
    assert!(checked.stdout.contains("✗ rules-present") && checked.stdout.contains("somebody else's"), "{checked}");
    let explained = pod.finish(bypassctl(&["explain", "--to", "10.77.0.12:25"]), "");
    assert!(explained.stdout.contains("tcp dport"), "{explained}");
    assert!(!explained.stdout.contains("bypassctl's own"), "{explained}");
    // The way out, and back.
    must_init(&pod, &["--backend", "iptables-nft"]);
    must_init(&pod, &["--cleanup"]);
    assert_eq!(rules(&pod), before);
}

/// A table of ours that another version wrote, or somebody added to, is ours all the same: replaced, and removed.
#[test]
fn a_table_of_ours_with_unknown_rules_is_replaced() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let ours = rules(&pod);
    let more = "add chain inet bypassctl later { type filter hook input priority 5; limit rate 5/second accept; }
                add rule inet bypassctl output meta length 1-100 counter";
    pod.feed("nft -f -", more);
    must_init(&pod, &[]);
    assert_eq!(rules(&pod), ours);
    pod.feed("nft -f -", more);
    must_init(&pod, &["--cleanup"]);
    assert_eq!(rules(&pod), "");
}

/// A chain of iptables that is named like ours and holds rules of somebody else is neither emptied nor removed.
#[test]
fn a_foreign_chain_of_our_name_is_left_alone() {
    for backend in Backend::IPTABLES {
        let tool = backend.name();
        for (chain, code) in [("BYPASSCTL_OUTPUT", 3), ("BYPASSCTL_AUDIT", 0)] {
            let (pod, _peer) = Pod::pair();
            for rule in [
                format!("-N {chain}"),
                format!("-A {chain} -p tcp --dport 25 -j RETURN"),
                format!("-A OUTPUT -j {chain}"),
            ] {
                pod.sh(&format!("{tool} -w -t nat {rule}"));
            }
            let before = rules(&pod);
            let finished = init(&pod, &["--backend", tool]);
            assert_eq!(finished.code, code, "{chain}: {finished}");
            if code != 0 {
                for word in [chain, "nat", "did not make", "--backend nft"] {
                    assert!(finished.stderr.contains(word), "no word of {word}: {finished}");
                }
                assert_eq!(rules(&pod), before, "{tool} {chain}");
            }
            let finished = init(&pod, &["--cleanup"]);
            assert_eq!(finished.code, 0, "{finished}");
            assert!(finished.stderr.contains(chain) && finished.stderr.contains("left alone"), "{finished}");
            assert_eq!(rules(&pod), before, "{tool} {chain}");
            must_init(&pod, &["--backend", "nft"]);
        }
    }
}

/// What a tool run of `init` left that was killed between the families, or at any moment, the next run makes whole or
/// removes.
#[test]
fn what_a_killed_run_of_a_tool_left_is_healed() {
    check_all(&Backend::IPTABLES, |backend, cells| {
        let arguments = ["--backend", backend.name()];
        let (reference, _peer) = Pod::pair();
        let start = std::time::Instant::now();
        must_init(&reference, &arguments);
        let longest = start.elapsed();
        let whole = rules(&reference);
        let (pod, _peer) = Pod::pair();
        // In place of IPv6's tool, something that kills who runs it: IPv4's rules stand by then.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let fake = folder.path().join(format!("ip6{}-restore", &backend.name()[2..]));
        fs::write(&fake, "#!/bin/sh\nkill -9 $PPID\n").expect("writing");
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("its own file");
        for next in ["init", "cleanup"] {
            let mut command = bypassctl(&[&["init"], &arguments[..]].concat());
            command.env("PATH", folder.path());
            cells.check(format!("{backend} killed"), &pod.finish(command, "").code, &-1);
            let left = rules(&pod);
            let halves = (left.contains("iptables-") && left.contains("BYPASSCTL"), left == whole);
            cells.check(format!("{backend} left one family"), &format!("{halves:?}"), &"(true, false)".to_owned());
            if next == "init" {
                must_init(&pod, &arguments);
                cells.check(format!("{backend} healed"), &rules(&pod), &whole);
            }
            must_init(&pod, &["--cleanup"]);
            cells.check(format!("{backend} cleaned up"), &rules(&pod), &String::new());
        }
        for step in 0..12 {
            let mut command = bypassctl(&[&["init"], &arguments[..]].concat());
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let after = longest * step / 12;
            pod.run(move || {
                let mut child = command.spawn().expect("bypassctl starts");
                std::thread::sleep(after);
                child.kill().expect("a child of this test");
                child.wait().expect("a child of this test")
            });
            must_init(&pod, &arguments);
            cells.check(format!("{backend} killed after {after:?}"), &filled(&rules(&pod)), &filled(&whole));
            must_init(&pod, &["--cleanup"]);
            cells.check(format!("{backend} killed after {after:?}, cleaned up"), &filled(&rules(&pod)), &String::new());
        }
    });
}

/// The rules alone: killed between a tool's end and its own next step, `init` can leave a built-in chain without a rule.
fn filled(rules: &str) -> String {
    let mut lines: Vec<&str> = rules.lines().filter(|line| line.contains("-save -A ")).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Native tables that iptables' tools, or an older nft, cannot make sense of are in nobody's way; and beside our table
/// every tool of this machine works as before: we never ask nft, and use no expression that an older one stumbles over.
#[test]
fn rules_that_other_tools_do_not_know_are_in_nobodys_way() {
    let exotic = "table inet exotic {
        map ways { type ipv4_addr . inet_service : verdict; }
        set seen { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
        counter hits { }
        chain sift {
            type filter hook input priority 10;
            ip saddr . tcp dport vmap @ways
            ct state invalid log prefix \"odd \" group 3
            tcp option maxseg size set 1400 counter name hits
            socket transparent 1 meta cpu 99 limit rate over 10/second burst 5 packets counter
            jhash ip saddr mod 4 == 1 numgen inc mod 4 == 3 ip saddr @seen counter
            osf name \"Linux\" ct count over 3 tcp dport 1 quota over 10 mbytes drop
        }
    }";
    for backend in Backend::ALL {
        let (pod, _peer) = Pod::pair();
        pod.feed("nft -f -", exotic);
        let theirs = "nft --stateless list table inet exotic";
        let before = pod.sh(theirs);
        must_init(&pod, &["--backend", backend.name()]);
        for tool in ["iptables-nft", "ip6tables-nft"] {
            pod.sh(&format!("{tool}-save"));
            pod.sh(&format!("{tool} -w -t nat -A OUTPUT -p tcp --dport 7 -j REDIRECT --to-ports 9"));
            assert!(pod.sh(&format!("{tool} -t nat -S")).contains("--dport 7"), "{backend}");
            pod.sh(&format!("{tool} -w -t nat -D OUTPUT -p tcp --dport 7 -j REDIRECT --to-ports 9"));
        }
        // The listing can be loaded again: nothing in it is a word that nft does not know.
        let listing = pod.sh("nft list ruleset");
        if backend == Backend::Nft {
            assert!(listing.contains("table inet bypassctl"), "{listing}");
            Pod::alone().feed("nft -f -", &pod.sh("nft list table inet bypassctl"));
        }
        let explained = pod.finish(bypassctl(&["explain", "--to", "10.77.0.12:2552"]), "");
        assert_eq!(explained.code, 0, "{backend}: {explained}");
        must_init(&pod, &["--cleanup"]);
        assert_eq!(pod.sh(theirs), before, "{backend}");
        assert!(!rules(&pod).to_lowercase().contains("bypassctl"), "{backend}");
    }
}

/// A table of our name without a chain is somebody else's as soon as it holds anything; an empty one may be taken.
#[test]
fn a_table_of_our_name_without_chains_is_taken_only_if_empty() {
    for content in ["set mine { type ipv4_addr; }", "counter hits { }"] {
        let (pod, _peer) = Pod::pair();
        pod.feed("nft -f -", &format!("table inet bypassctl {{\n{content}\n}}"));
        let before = rules(&pod);
        let finished = init(&pod, &[]);
        assert_eq!(finished.code, 3, "{content}: {finished}");
        assert!(finished.stderr.contains("did not make"), "{content}: {finished}");
        assert_eq!(init(&pod, &["--cleanup"]).code, 0, "{content}");
        assert_eq!(rules(&pod), before, "{content}");
    }
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let ours = rules(&pod);
    must_init(&pod, &["--cleanup"]);
    pod.sh("nft add table inet bypassctl");
    must_init(&pod, &[]);
    assert_eq!(rules(&pod), ours);
}

/// A user id in somebody's rule is a mesh proxy's only if the rule exempts it from nat: an accounting rule or a firewall's
/// that names the app's own does not make the app's connections side doors.
#[test]
fn a_user_id_outside_of_nat_is_no_mesh_proxys() {
    let filters = "table inet accounts {
        chain out { type filter hook output priority 0; meta skuid 1000 counter; meta skuid 1000 accept; jump more; }
        chain more { meta skuid 1000 return; }
        chain nat { type nat hook output priority -100; meta skuid 1000 counter; oifname \"lo\" meta skuid != 1000 return; }
        chain idle { meta skuid 1000 return; }
        chain post { type nat hook postrouting priority 100; meta skuid 1000 return; }
    }";
    let tools = [
        "-t filter -A OUTPUT -m owner --uid-owner 1000 -j ACCEPT",
        "-t raw -A OUTPUT -m owner --uid-owner 1000 -j ACCEPT",
    ];
    for backend in Backend::ALL {
        let (pod, _other) = Pod::pair();
        pod.feed("nft -f -", filters);
        for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
            for rule in tools {
                pod.sh(&format!("{tool} -w {rule}"));
            }
        }
        must_init(&pod, &["--backend", backend.name()]);
        let _listeners = app(&pod);
        for family in Family::BOTH {
            let to = pod.at(family, REMOTING);
            assert_eq!(call(&pod, APP, to), Answer::from("app", to), "{backend} {to}");
        }
    }
}

/// Who nat rules exempt is refused at the side doors, whichever way they say it and wherever they stand.
#[test]
fn a_user_id_that_nat_exempts_is_a_mesh_proxys() {
    let nat = |rules: &str| {
        format!(
            "table inet mesh {{
                chain to {{ tcp dport 9 redirect to :15001; }}
                chain deep {{ {rules} }}
                chain out {{ type nat hook output priority -100; tcp dport 9 goto deep; }}
            }}"
        )
    };
    for (native, tool) in [
        (nat("meta skuid 4711 return;"), ""),
        (nat("meta skuid 4711 accept;"), ""),
        (nat("tcp dport 9 meta skuid != 4711 redirect to :15001;"), ""),
        (nat("tcp dport 9 meta skuid != 4711 jump to;"), ""),
        (String::new(), "-m owner --uid-owner 4711 -j RETURN"),
        (String::new(), "-p tcp --dport 9 -m owner ! --uid-owner 4711 -j REDIRECT --to-ports 15001"),
    ] {
        for variant in if tool.is_empty() { &["nft"][..] } else { &["nft", "legacy"] } {
            let (pod, _other) = Pod::pair();
            pod.feed("nft -f -", &native);
            if !tool.is_empty() {
                pod.sh(&format!("iptables-{variant} -w -t nat -N DEEP"));
                pod.sh(&format!("iptables-{variant} -w -t nat -A OUTPUT -j DEEP"));
                pod.sh(&format!("iptables-{variant} -w -t nat -A DEEP {tool}"));
            }
            must_init(&pod, &[]);
            let _listeners = app(&pod);
            for family in Family::BOTH {
                let answer = call(&pod, Identity::uid(4711), pod.at(family, REMOTING));
                assert_eq!(answer, Answer::Refused, "{native} {variant} {tool}");
            }
        }
    }
}

/// Rules in every backend, of which one cannot be reached: the others' are removed all the same, and it is said which are
/// gone and which are not.
#[test]
fn a_cleanup_that_one_backend_refuses_says_what_is_gone() {
    let standing = || {
        let (pod, _peer) = Pod::pair();
        must_init(&pod, &["--backend", "iptables-legacy"]);
        pod.feed("nft -f -", &init(&pod, &["--dry-run"]).stdout);
        let scripts = init(&pod, &["--dry-run", "--backend", "iptables-nft"]).stdout;
        let at = scripts.find("# IPv6").expect("IPv6's script after IPv4's");
        pod.feed("iptables-nft-restore --noflush", &scripts[..at]);
        pod.feed("ip6tables-nft-restore --noflush", &scripts[at..]);
        pod
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fake = folder.path().join("iptables-nft-restore");
    fs::write(&fake, "#!/bin/sh\necho no such luck >&2; exit 1\n").expect("writing");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("its own file");
    let lock = tempfile::NamedTempFile::new().expect("a temporary file");
    let _held = Flock::lock(lock.reopen().expect("its own file"), FlockArg::LockExclusive).expect("a free lock");
    for (variable, value, left, why, gone) in [
        ("PATH", folder.path(), "iptables-nft", "no such luck", "iptables-legacy"),
        ("XTABLES_LOCKFILE", lock.path(), "iptables-legacy", "xtables lock", "iptables-nft"),
    ] {
        let pod = standing();
        let mut command = bypassctl(&["init", "--cleanup"]);
        command.env(variable, value);
        let finished = pod.finish(command, "");
        assert_eq!(finished.code, 5, "{finished}");
        for words in [
            format!("removed table inet bypassctl, chains BYPASSCTL_* of {gone};"),
            format!("not wholly:\n  chains BYPASSCTL_* of {left}: "),
            why.to_owned(),
        ] {
            assert!(finished.stderr.contains(&words), "no word of {words:?}: {finished}");
        }
        assert!(!finished.stderr.contains("changed nothing"), "{finished}");
        let rules = rules(&pod);
        assert!(!rules.contains("table inet bypassctl"), "{rules}");
        assert!(!rules.contains(&format!("{gone}-save -A BYPASSCTL")), "{rules}");
        assert!(rules.contains(&format!("{left}-save -A BYPASSCTL")), "{rules}");
        must_init(&pod, &["--cleanup"]);
        assert_eq!(filled(&self::rules(&pod)), "");
    }
}
