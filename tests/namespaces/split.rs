//! Two tables of one family each, where family inet has no nat (Linux before 5.2); this kernel takes them too.

use std::fs;
use std::path::Path;

use bypassctl::core::backend::{Backend, BackendChoice};
use bypassctl::core::config::{AgentPorts, ClusterPorts, RedirectMode, SideDoors};
use bypassctl::core::plan::{RedirectPlan, Substitutes, TABLE};
use bypassctl::core::render::nft;
use bypassctl::core::ruleset::{Family, TableFamily};
use bypassctl::netfilter::backend::Standing;
use bypassctl::netfilter::{self, Families, apply_plan_in, proof};

use crate::support::backend::rules;
use crate::support::init::must_init;
use crate::support::pod::Pod;
use crate::support::probe::{Answer, call};
use crate::support::roles::{APP, APP_PORTS, CONTROL, REMOTING, agent, app, mesh_proxy, peer};
use crate::support::setup::{Setup, check_all};

fn plan(mode: RedirectMode) -> RedirectPlan {
    RedirectPlan {
        mode,
        cluster: ClusterPorts::new(None, &[], &["8558".parse().unwrap(), "7626".parse().unwrap()]).unwrap(),
        agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
        agent_uid: 12552,
        mesh_uids: vec![1337],
        mesh_mark: 1337,
        side_doors: SideDoors::Closed,
    }
}

/// The text of the two tables is the golden file, and `nft -f` makes of it what netlink makes.
#[test]
fn the_split_tables_are_the_golden_file_by_either_way() {
    let tables = plan(RedirectMode::Capture).ruleset(&Substitutes::default()).split();
    let text: String = tables.iter().map(nft::render).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/split.nft");
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "{}\n{text}", path.display());
    let (by_text, by_netlink) = (Pod::alone(), Pod::alone());
    by_text.feed("nft -f -", &text);
    by_netlink.run(move || netfilter::apply(&tables)).expect("two tables");
    assert_eq!(by_text.nft_ruleset(), by_netlink.nft_ruleset());
}

/// Two tables hold beside every mesh in both orders as one table does, are proven live, read back as written, and are
/// replaced by one, or removed, as a whole.
#[test]
fn two_tables_do_what_one_does() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&["--no-verify"]);
        // A mesh that came later may have told its proxy's uid.
        must_init(&pod, &["--no-verify"]);
        let before = rules(&pod);
        must_init(&pod, &["--cleanup"]);
        let proven = pod.run(|| {
            let plan = plan(RedirectMode::Capture);
            let applied = apply_plan_in(&plan, Families::Split).expect("two tables");
            for ruleset in &applied.rulesets {
                let found = netfilter::read(ruleset.family, TABLE).expect("a table of ours").expect("it stands");
                assert_eq!(found.ruleset, *ruleset);
            }
            let standing = Standing::Nft(applied);
            assert_eq!(standing.backend(), Backend::Nft);
            let proofs = proof::prove(&plan, &standing).expect("they hold");
            proofs.iter().filter(|proof| proof.kind == proof::ProofKind::Live).count()
        });
        cells.check(format!("{setup} proven live"), &proven, &12);
        let listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, setup.mesh), peer(&other, &[])];
        for family in Family::BOTH {
            for port in APP_PORTS.into_iter().filter(|port| *port != CONTROL) {
                let capture = port == REMOTING;
                let out = if capture { "agent-outbound" } else { "peer" };
                let into = if capture { "agent-inbound" } else { "app" };
                for (from, to, who) in [(&pod, &other, out), (&other, &pod, into)] {
                    let to = to.at(family, port);
                    cells.check(format!("{setup} {to}"), &call(from, APP, to), &Answer::from(who, to));
                }
            }
        }
        drop(listeners);
        must_init(&pod, &["--no-verify"]);
        cells.check(format!("{setup} one again"), &sorted(&rules(&pod)), &sorted(&before));
    });
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// `--cleanup` removes tables of every family.
#[test]
fn cleanup_removes_split_tables() {
    let pod = Pod::alone();
    pod.run(|| apply_plan_in(&plan(RedirectMode::Bypass), Families::Split)).expect("two tables");
    assert!(pod.nft_ruleset().contains("table ip6 bypassctl"));
    must_init(&pod, &["--cleanup"]);
    assert_eq!(pod.nft_ruleset(), "");
    let gone = pod.run(|| TableFamily::ALL.map(|family| netfilter::read(family, TABLE).expect("readable")));
    assert_eq!(gone, [None, None, None]);
}

/// What is tried first is what comes before every mesh.
#[test]
fn auto_tries_nft_first() {
    assert_eq!(BackendChoice::Auto.candidates().first(), Some(&Backend::Nft));
}
