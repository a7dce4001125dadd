//! What the sidecar notices when somebody meddles with the rules while it serves, and what it does about it.

use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::init::{bypassctl, must_init};
use crate::support::mesh::ISTIO;
use crate::support::pod::Pod;
use crate::support::setup::{Setup, check_all};
use crate::support::sidecar::{DEADLINE, NET_ADMIN, NOTHING, Sidecar, as_agent};

const OUR_TABLE: &str = "nft --stateless list table inet bypassctl";

/// With NET_ADMIN every way to lose the rules turns `/ready`, and says what was changed and by whom.
#[test]
fn lost_changed_and_overridden_rules_turn_ready_and_are_named() {
    let (pod, _peer) = Pod::pair();
    ISTIO.load(&pod);
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &[]);
    sidecar.await_ready(200, "ready");
    assert_eq!(sidecar.metric("bypassctl_rules_whole"), Some(1));
    let shadow = "add table inet other
         add chain inet other first { type nat hook output priority -199; }
         add rule inet other first tcp dport 2552 redirect to :15001";
    for (meddling, told) in [
        ("delete table inet bypassctl", "rules: table inet bypassctl is gone"),
        ("flush chain inet bypassctl prerouting", "rules: chain prerouting of table inet bypassctl has lost `"),
        (
            "insert rule inet bypassctl output accept",
            "rules: chain output of table inet bypassctl has gained `counter accept`",
        ),
        ("delete chain inet bypassctl side_doors_in", "rules: table inet bypassctl has lost its chain side_doors_in"),
        ("add rule inet bypassctl output ct state established", "which bypassctl never writes"),
        (shadow, "rules: remoting that the app dials"),
    ] {
        pod.feed("nft -f -", &format!("{meddling}\n"));
        let body = sidecar.await_ready(503, told);
        if meddling == shadow {
            assert!(body.contains("does not go to the agent's port 15552"), "{body}");
            pod.sh("nft delete table inet other");
        }
        assert_eq!(sidecar.metric("bypassctl_rules_whole"), Some(0), "{meddling}");
        must_init(&pod, &[]);
        sidecar.await_ready(200, "ready");
    }
    let log = sidecar.log();
    assert!(log.contains("\"by\":\"nft (process "), "{log}");
    assert!(log.contains("the sidecar does it itself with --repair"), "{log}");
}

/// No mesh in any order, put in anew or taken away under the sidecar, is an alarm: the rules still do what they have to.
#[test]
fn what_meshes_do_is_no_alarm() {
    let setups: Vec<Setup> = Setup::all();
    check_all(&setups, |setup, cells| {
        let (pod, _peer) = setup.build(&[]);
        let sidecar = Sidecar::start(&pod, NET_ADMIN, &[]);
        sidecar.await_ready(200, "ready");
        if let Some(mesh) = setup.mesh {
            mesh.load_rules(&pod);
            std::thread::sleep(Duration::from_millis(300));
            cells.check(format!("{setup} mesh again"), &ready(&sidecar), &"200 []".to_owned());
            mesh.remove_rules(&pod);
            std::thread::sleep(Duration::from_millis(300));
        }
        cells.check(format!("{setup} mesh gone"), &ready(&sidecar), &"200 []".to_owned());
    });
}

fn ready(sidecar: &Sidecar<'_>) -> String {
    let (status, body) = sidecar.get("/ready").expect("an answer");
    let reasons: Vec<&str> = body.lines().filter(|line| line.starts_with("reason")).collect();
    format!("{status} {reasons:?}")
}

/// `--repair` puts back exactly what stood, and ours before whoever came in between.
#[test]
fn with_repair_the_rules_come_back_as_they_were() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &["--side-doors=open", "--mesh-mark=4242"]);
    let before = pod.sh(OUR_TABLE);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &["--repair"]);
    sidecar.await_ready(200, "ready");
    for meddling in [
        "delete table inet bypassctl",
        "flush chain inet bypassctl output",
        "table inet other { chain first { type nat hook output priority -199; tcp dport 2552 redirect to :15001; }; }",
    ] {
        let repairs = sidecar.metric("bypassctl_rules_repairs_total").unwrap();
        pod.feed("nft -f -", &format!("{meddling}\n"));
        let end = Instant::now() + DEADLINE;
        while sidecar.metric("bypassctl_rules_repairs_total") == Some(repairs) {
            assert!(Instant::now() < end, "{meddling}: no repair\n{}", sidecar.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        sidecar.await_ready(200, "ready");
        assert_eq!(pod.sh(OUR_TABLE), before, "{meddling}");
    }
}

/// A sidecar that finds no rules at its start makes those that its options ask for.
#[test]
fn with_repair_missing_rules_are_made_from_the_options() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &["--remoting-port=2553", "--mesh-uid=1337"]);
    let wanted = pod.sh(OUR_TABLE);
    must_init(&pod, &["--cleanup"]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &["--repair", "--remoting-port=2553"]);
    sidecar.await_ready(200, "ready");
    assert_eq!(pod.sh(OUR_TABLE), wanted);
}

/// Somebody who removes the rules again and again is not fought for ever.
#[test]
fn a_fight_over_the_rules_ends_in_waiting() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &["--repair"]);
    sidecar.await_ready(200, "ready");
    let end = Instant::now() + DEADLINE;
    while !sidecar.log().contains("somebody undoes it each time") {
        assert!(Instant::now() < end, "{}", sidecar.log());
        // It may be gone already.
        pod.feed("nft -f -", "table inet bypassctl\ndelete table inet bypassctl\n");
        std::thread::sleep(Duration::from_millis(150));
    }
    assert_eq!(sidecar.metric("bypassctl_rules_repairs_total"), Some(5));
    sidecar.await_ready(503, "table inet bypassctl is gone");
}

/// Rules in iptables are watched over too: those on nf_tables by the kernel's word, legacy ones by looking.
#[test]
fn rules_in_iptables_are_watched_over_and_put_back() {
    let tools = [
        (Backend::IptablesNft, "iptables-nft", NET_ADMIN.to_owned()),
        (
            Backend::IptablesLegacy,
            "iptables-legacy",
            NET_ADMIN.replace("net_admin", "net_admin,+net_raw").replace("--regid=12552", "--regid=0"),
        ),
    ];
    for (backend, tool, privileges) in tools {
        let (pod, _peer) = Pod::pair();
        let mut command = bypassctl(&["init", "--backend", backend.name()]);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        let finished = pod.finish(command, "");
        assert_eq!(finished.code, 0, "{backend:?}: {finished}");
        let sidecar = Sidecar::start(&pod, &privileges, &["--repair"]);
        sidecar.await_ready(200, "ready");
        assert_eq!(sidecar.metric("bypassctl_rules_repairs_total"), Some(0), "{backend:?}: {}", sidecar.log());
        pod.sh(&format!("{tool} -w -t nat -F OUTPUT"));
        let end = Instant::now() + DEADLINE;
        while sidecar.metric("bypassctl_rules_repairs_total") != Some(1) {
            assert!(Instant::now() < end, "{backend:?}: no repair\n{}", sidecar.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        sidecar.await_ready(200, "ready");
        let saved = pod.sh(&format!("{tool}-save -t nat"));
        assert!(
            saved.lines().any(|line| line.starts_with("-A OUTPUT") && line.contains("BYPASSCTL_")),
            "{backend:?}: {saved}\n{}",
            sidecar.log()
        );
    }
}

/// Without NET_ADMIN nothing is read, and the sidecar's own call through the rules still tells that they are gone.
#[test]
fn without_net_admin_lost_rules_are_noticed_and_it_is_said_who_can_put_them_back() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NOTHING, &[]);
    sidecar.await_ready(200, "ready");
    assert_eq!(sidecar.metric("bypassctl_rules_whole"), None, "nobody has looked");
    pod.sh("nft delete table inet bypassctl");
    sidecar.await_ready(503, "run `bypassctl init` in this pod");
    must_init(&pod, &[]);
    sidecar.await_ready(200, "ready");
    assert!(sidecar.log().contains("no NET_ADMIN, so the rules are not read"), "{}", sidecar.log());
}

#[test]
fn repair_without_net_admin_is_refused_at_the_start() {
    let (pod, _peer) = Pod::pair();
    let finished = pod.finish(as_agent(NOTHING, &["--repair"]), "");
    assert_eq!(finished.code, 3, "{finished}");
    assert!(finished.stderr.contains("give the sidecar NET_ADMIN"), "{finished}");
    let finished = pod.finish(as_agent(NET_ADMIN, &["--repair", "--outbound-target=10.77.0.12:2552"]), "");
    assert_eq!(finished.code, 2, "{finished}");
}

/// The sidecar's uid is not the one that the rules exempt: what it dials would come back to it.
#[test]
fn rules_for_another_uid_than_the_sidecars_are_named() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &["--agent-uid=2000"]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &[]);
    sidecar.await_ready(503, "what the agent dials");
}
