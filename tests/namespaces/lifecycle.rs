//! The rules' life: applied, applied again, listed, removed, and what others do meanwhile.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use bypassctl::core::ruleset::Family;

use crate::support::init::{bypassctl, init, must_init};
use crate::support::mesh::{ISTIO, ISTIO_LEGACY};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, call};
use crate::support::roles::{APP, REMOTING, agent, app, mesh_proxy, peer};
use crate::support::setup::{Order, Setup, check_all};

const OUR_TABLE: &str = "nft --stateless list table inet bypassctl";

/// Options of `init` and the golden file that `--dry-run` prints for them.
const GOLDEN: [(&str, &[&str]); 7] = [
    ("capture", &[]),
    ("bypass", &["--mode", "bypass"]),
    ("preset-pekko", &["--preset", "pekko"]),
    ("preset-akka-artery", &["--preset", "akka-artery"]),
    ("port-lists", &["--remoting-port", "2552,25520-25522", "--management-port", "8558", "--management-port", "7626"]),
    ("side-doors-open", &["--side-doors", "open"]),
    (
        "own-ids",
        &[
            "--agent-uid=2000",
            "--outbound-port=4001",
            "--inbound-port=4002",
            "--admin-port=4003",
            "--mesh-uid=1337,65534",
            "--mesh-mark=4242",
        ],
    ),
];

/// `--dry-run` prints exactly the golden file, in nft's own language, and changes nothing.
#[test]
fn a_dry_run_prints_the_golden_file_and_changes_nothing() {
    let (pod, _peer) = Pod::pair();
    let mut wrong = Vec::new();
    for (name, options) in GOLDEN {
        let finished = init(&pod, &[&["--dry-run"], options].concat());
        assert_eq!(finished.code, 0, "{name}: {finished}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.nft"));
        let golden = fs::read_to_string(&path).unwrap_or_default();
        if finished.stdout != golden {
            let command = format!("bypassctl init --dry-run {} > tests/golden/{name}.nft", options.join(" "));
            wrong.push(format!("{name}: if this is as it should be, as root: {command}\n{}", finished.stdout));
        }
        assert_eq!(pod.nft_ruleset(), "", "{name}");
    }
    assert_eq!(pod.legacy_tables(), "");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What `--dry-run` prints and what `init` does is the same: `nft -f` with the one leaves the table that netlink leaves
/// with the other.
#[test]
fn the_dry_runs_text_makes_the_same_table_as_init() {
    for (name, options) in GOLDEN {
        let (by_text, by_netlink) = (Pod::pair(), Pod::pair());
        let text = init(&by_text.0, &[&["--dry-run"], options].concat()).stdout;
        by_text.0.feed("nft -f -", &text);
        must_init(&by_netlink.0, options);
        let table = by_netlink.0.sh(OUR_TABLE);
        assert!(table.contains("type nat hook output"), "{name}: {table}");
        assert_eq!(table, by_text.0.sh(OUR_TABLE), "{name}");
    }
}

/// Applied twice is applied once: nothing is doubled, nothing moves.
#[test]
fn applied_twice_is_applied_once() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, _peer) = setup.build(&[]);
        // A mesh that came after us may have told its proxy's uid meanwhile: that is a change, and not of our making.
        must_init(&pod, &[]);
        let once = pod.nft_ruleset();
        must_init(&pod, &[]);
        cells.check(format!("{setup} init again"), &sorted_by_table(&pod.nft_ruleset()), &sorted_by_table(&once));
        must_init(&pod, &["--mode", "bypass"]);
        must_init(&pod, &[]);
        cells.check(
            format!("{setup} to bypass and back"),
            &sorted_by_table(&pod.nft_ruleset()),
            &sorted_by_table(&once),
        );
    });
}

/// Tables are listed in the order of their making, and ours is made anew; what they hold is what counts.
fn sorted_by_table(ruleset: &str) -> String {
    let mut tables: Vec<&str> = ruleset.split_inclusive("\n}\n").collect();
    tables.sort_unstable();
    tables.concat()
}

/// `--cleanup` restores exactly what was there, to the byte: the mesh's rules, its legacy tables, routes and links.
#[test]
fn cleanup_restores_exactly_what_was_there() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, _peer) = Pod::pair();
        if let Some(mesh) = setup.mesh {
            mesh.load(&pod);
        }
        let before = everything(&pod);
        // The second time there is nothing of ours to remove, and that is no error.
        for options in [&[][..], &["--no-verify"], &["--mode", "bypass"]] {
            if setup.order == Order::MeshFirst {
                must_init(&pod, options);
                let between = everything(&pod);
                cells.check(format!("{setup} {options:?} was noticed"), &(between == before), &false);
            }
            must_init(&pod, &["--cleanup"]);
            cells.check(format!("{setup} {options:?} cleanup"), &everything(&pod), &before);
        }
    });
}

/// What `init` could have left: rules, legacy tables, links, addresses, routes.
fn everything(pod: &Pod) -> String {
    let mut all = format!("{}{}", pod.nft_ruleset(), pod.legacy_tables());
    // Saving reads the tables that are there and makes none.
    for command in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        let dump = pod.sh(command);
        let rules = dump.lines().filter(|line| line.starts_with('-')).map(|line| format!("{line}\n"));
        all.extend(rules);
    }
    // Of links the names: the kernel sees to their state by and by.
    all.extend(pod.sh("ip -o link").lines().filter_map(|line| Some(format!("{}\n", line.split(' ').nth(1)?))));
    for command in ["ip -o address", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route"] {
        // Link-local addresses it makes by itself, and takes a second to find them unique.
        let listed = pod.sh(command).replace(" linkdown", "");
        all.extend(listed.lines().filter(|line| !line.contains("fe80:")).map(|line| format!("{line}\n")));
    }
    all
}

/// `init` never makes a legacy table: Istio would take the pod for one with two backends, and its next run would fail.
#[test]
fn no_legacy_table_is_made() {
    let (pod, _peer) = Pod::pair();
    for options in [&[][..], &["--mode", "bypass"], &["--cleanup"]] {
        must_init(&pod, options);
        assert_eq!(pod.legacy_tables(), "", "after init {options:?}");
    }
}

/// The mesh's own tool runs again, cleans up, or writes its rules anew: ours stand, and hold.
#[test]
fn the_meshs_re_run_and_clean_up_leave_our_rules_alone() {
    let setups: Vec<_> = Setup::all().into_iter().filter(|setup| setup.mesh.is_some()).collect();
    check_all(&setups, |setup, cells| {
        let mesh = setup.mesh.expect("only setups with a mesh");
        let (pod, other) = setup.build(&[]);
        let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, setup.mesh), peer(&other, &[])];
        let table = pod.sh(OUR_TABLE);
        for stage in ["re-run", "clean-up", "anew"] {
            if stage == "clean-up" {
                mesh.remove_rules(&pod)
            } else {
                mesh.load_rules(&pod)
            }
            cells.check(format!("{setup} table after {stage}"), &pod.sh(OUR_TABLE), &table);
            for family in Family::BOTH {
                for (from, to, who) in [(&pod, &other, "agent-outbound"), (&other, &pod, "agent-inbound")] {
                    let to = to.at(family, REMOTING);
                    cells.check(format!("{setup} to {to} after {stage}"), &call(from, APP, to), &Answer::from(who, to));
                }
            }
        }
    });
}

/// Killed at any moment, `init` leaves the whole table or none; what its proof left stands in nobody's way, and goes with
/// the next run.
#[test]
fn killed_at_any_moment_it_leaves_all_or_nothing() {
    const KILLS: u32 = 60;
    let (reference, _peer) = Pod::pair();
    let start = Instant::now();
    must_init(&reference, &["--no-verify"]);
    let longest = start.elapsed() * 3;
    let whole = reference.sh(OUR_TABLE);
    let (pod, _peer) = Pod::pair();
    let before = everything(&pod);
    let (mut none, mut all) = (0, 0);
    for step in 0..KILLS {
        let after = longest * step / KILLS;
        let mut command = bypassctl(&["init"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        pod.run(move || {
            let mut child = command.spawn().expect("bypassctl starts");
            std::thread::sleep(after);
            child.kill().expect("a child of this test");
            child.wait().expect("a child of this test")
        });
        if !pod.sh("nft list tables").lines().any(|table| table == "table inet bypassctl") {
            none += 1;
        } else {
            assert_eq!(pod.sh(OUR_TABLE), whole, "killed after {after:?}");
            all += 1;
        }
        if step % 2 == 0 {
            must_init(&pod, &["--cleanup"]);
        }
    }
    assert!(none > 0 && all > 0, "no kill came early ({none}), or none late ({all})");
    must_init(&pod, &[]);
    must_init(&pod, &["--cleanup"]);
    assert_eq!(everything(&pod), before);
}

/// Several runs at a time, as when a restarted init container meets its predecessor, leave one whole table.
#[test]
fn runs_at_the_same_time_leave_one_whole_table() {
    let (reference, _peer) = Pod::pair();
    must_init(&reference, &[]);
    let (pod, _peer) = Pod::pair();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| must_init(&pod, &[]));
        }
    });
    assert_eq!(pod.nft_ruleset(), reference.nft_ruleset());
}

/// A pod with one address family alone is as good as any: what it has is proven, and what it lacks is no failure.
#[test]
fn a_pod_with_one_family_alone_is_proven() {
    for family in Family::BOTH {
        for mesh in [None, Some(ISTIO), Some(ISTIO_LEGACY)] {
            let (pod, other) = Pod::linked(&[family]);
            if let Some(mesh) = mesh {
                mesh.load(&pod);
            }
            must_init(&pod, &[]);
            let _listeners = agent(&pod);
            let to = other.at(family, REMOTING);
            assert_eq!(call(&pod, APP, to), Answer::from("agent-outbound", to), "{mesh:?}");
        }
    }
}

/// The kernel has the rules within 5 ms of `init` turning to it, and the whole of `init`, with its proof, takes less than
/// half a second. The best of some runs counts: this machine's other work is not ours.
#[test]
fn the_rules_are_applied_within_5_ms_and_proven_within_500() {
    let (mut transactions, mut wholes) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let (pod, _peer) = Pod::pair();
        ISTIO.load(&pod);
        let start = Instant::now();
        let finished = init(&pod, &["--log-level", "debug"]);
        wholes.push(start.elapsed().as_millis());
        assert_eq!(finished.code, 0, "{finished}");
        let (_, told) = finished.stderr.split_once("microseconds=").expect("a line that tells the time");
        transactions.push(told.split_whitespace().next().and_then(|number| number.parse::<u32>().ok()));
    }
    let best = transactions.iter().flatten().min().expect("a number");
    assert!(*best < 5000, "{transactions:?} microseconds");
    assert!(wholes.iter().any(|whole| *whole < 500), "{wholes:?} milliseconds");
}
