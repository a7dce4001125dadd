//! What the sidecar notices when somebody meddles with the rules while it serves, and what it does about it.

use std::time::{Duration, Instant};

use crate::confined::{apply_all, no_nfnetlink};
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

/// Somebody who removes the rules again and again is not fought at any price: the pauses grow. Once he stops they come back.
#[test]
fn a_fight_over_the_rules_slows_down_and_is_won_in_the_end() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &["--repair"]);
    sidecar.await_ready(200, "ready");
    let end = Instant::now() + DEADLINE;
    while !sidecar.log().contains("somebody undoes each repair") {
        assert!(Instant::now() < end, "{}", sidecar.log());
        // It may be gone already.
        pod.feed("nft -f -", "table inet bypassctl\ndelete table inet bypassctl\n");
        std::thread::sleep(Duration::from_millis(100));
    }
    let repairs = sidecar.metric("bypassctl_rules_repairs_total").unwrap();
    assert!((2..=4).contains(&repairs), "{repairs} repairs\n{}", sidecar.log());
    sidecar.await_ready(200, "ready");
}

/// Rules that somebody takes out of our table are missed although what is left would be another plan's whole table; one that
/// `init` makes anew on purpose is taken as it is.
#[test]
fn side_doors_that_somebody_opens_are_a_fault_unless_init_did() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let whole = pod.sh(OUR_TABLE);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &[]);
    sidecar.await_ready(200, "ready");
    let doors =
        ["side_doors_in", "side_doors_out"].map(|chain| format!("delete chain inet bypassctl {chain}\n")).concat();
    pod.feed("nft -f -", &doors);
    sidecar.await_ready(503, "has lost its chain side_doors_");
    must_init(&pod, &["--side-doors=open"]);
    sidecar.await_ready(200, "note: rules: the side doors are open");
    must_init(&pod, &[]);
    // By then the watch has seen what init did.
    std::thread::sleep(Duration::from_millis(500));
    sidecar.await_ready(200, "ready");
    assert_eq!(pod.sh(OUR_TABLE), whole);
    let handles = pod.sh("nft --handle list chain inet bypassctl side_doors_out");
    let handle =
        handles.lines().find(|line| line.contains("skuid 1337")).and_then(|line| line.rsplit(' ').next()).unwrap();
    pod.sh(&format!("nft delete rule inet bypassctl side_doors_out handle {handle}"));
    sidecar.await_ready(503, "chain side_doors_out of table inet bypassctl has lost `");
}

/// A mesh that comes later with a uid that the rules do not know could still hand the app plaintext.
#[test]
fn a_mesh_that_comes_later_with_another_uid_is_named() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &[]);
    sidecar.await_ready(200, "ready");
    pod.sh("iptables-nft -t nat -A OUTPUT -m owner --uid-owner 5678 -j RETURN");
    sidecar.await_ready(200, "(uid 5678) may hand the app plaintext");
}

/// What a tool of several commands does one after the other is never remembered half-way as the state that was well.
#[test]
fn a_repair_never_puts_back_a_state_from_the_middle_of_a_change() {
    for _ in 0..3 {
        let (pod, _peer) = Pod::pair();
        init_by(&pod, Backend::IptablesNft);
        let sidecar = Sidecar::start(&pod, NET_ADMIN, &["--repair"]);
        sidecar.await_ready(200, "ready");
        pod.sh("nft add table inet x");
        std::thread::sleep(Duration::from_millis(40));
        pod.sh("iptables-nft -w -t nat -F BYPASSCTL_OUTPUT");
        pod.sh("ip6tables-nft -w -t nat -F BYPASSCTL_OUTPUT");
        let end = Instant::now() + DEADLINE;
        while !pod.sh("iptables-nft-save -t nat").contains("new remoting: to the agent")
            || !pod.sh("ip6tables-nft-save -t nat").contains("new remoting: to the agent")
        {
            assert!(Instant::now() < end, "{}", sidecar.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        sidecar.await_ready(200, "ready");
    }
}

/// Two addresses side by side are both our own.
#[test]
fn neighbouring_addresses_of_the_pod_are_no_alarm() {
    let (pod, _peer) = Pod::pair();
    pod.sh("ip address add 10.77.0.10/24 dev eth0");
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &[]);
    sidecar.await_ready(200, "ready");
}

/// Any process of the pod can take the name of init's lock; that hides nothing, and in the end hinders nobody.
#[test]
fn whoever_holds_the_lock_does_not_keep_the_watch_from_looking() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NET_ADMIN, &["--repair"]);
    sidecar.await_ready(200, "ready");
    let name = SocketAddr::from_abstract_name("bypassctl-init").unwrap();
    let _held = pod.run(move || UnixListener::bind_addr(&name)).unwrap();
    pod.sh("nft delete table inet bypassctl");
    sidecar.await_ready(503, "table inet bypassctl is gone");
    sidecar.await_ready(200, "ready");
    assert!(sidecar.log().contains("longer than any init"), "{}", sidecar.log());
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
        init_by(&pod, backend);
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

/// On a kernel without nf_tables nobody tells of changes, and legacy rules are looked at every few seconds.
#[test]
fn legacy_rules_are_watched_over_on_a_kernel_without_nf_tables() {
    let (pod, _peer) = Pod::pair();
    init_by(&pod, Backend::IptablesLegacy);
    let privileges = NET_ADMIN.replace("net_admin", "net_admin,+net_raw").replace("--regid=12552", "--regid=0");
    let sidecar = Sidecar::start_after(&pod, || apply_all(&no_nfnetlink()), &privileges, &["--repair"]);
    sidecar.await_ready(200, "ready");
    // A flush of what arrives, which the sidecar's own call cannot notice.
    pod.sh("iptables-legacy -w -t nat -F BYPASSCTL_PREROUTING");
    let end = Instant::now() + DEADLINE;
    while !pod.sh("iptables-legacy-save -t nat").contains("--to-ports 15553") {
        assert!(Instant::now() < end, "{}", sidecar.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    sidecar.await_ready(200, "ready");
}

fn init_by(pod: &Pod, backend: Backend) {
    let mut command = bypassctl(&["init", "--backend", backend.name()]);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    let finished = pod.finish(command, "");
    assert_eq!(finished.code, 0, "{backend:?}: {finished}");
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
