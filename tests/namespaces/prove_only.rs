//! `init --prove-only`, and `init` where it may make no rules: what can be known, without any privilege, of rules that
//! somebody else has made.

use std::process::Command;

use crate::support::init::{bypassctl, must_init};
use crate::support::mesh::ISTIO;
use crate::support::pod::{Finished, Pod};
use crate::support::roles::mesh_proxy;
use crate::support::setup::{Order, Setup, check_all};
use crate::support::sidecar::{NOTHING, Sidecar};

const NOT_PROVEN: i32 = 4;

/// As a user without any capability; 12552 is the agent's.
fn init_as(pod: &Pod, user: u32, args: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--no-new-privs"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(bypassctl(&[]).get_program()).arg("init").args(args).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    pod.finish(command, "")
}

fn prove(pod: &Pod, args: &[&str]) -> Finished {
    init_as(pod, 1000, &[&["--prove-only"], args].concat())
}

fn assert_says(finished: &Finished, code: i32, parts: &[&str]) {
    assert_eq!(finished.code, code, "{finished}");
    for part in parts {
        assert!(format!("{}{}", finished.stdout, finished.stderr).contains(part), "{part:?}: {finished}");
    }
}

/// Rules that hold are proven beside every mesh, by the app's user and by the agent's, and nothing is changed.
#[test]
fn rules_that_hold_are_proven_without_a_privilege() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, _peer) = setup.build(&[]);
        let before = pod.nft_ruleset();
        for user in [1000, 12552] {
            let finished = init_as(&pod, user, &["--prove-only"]);
            cells.check(format!("{setup} {user} {}", finished.stderr), &finished.code, &0);
            let live = finished.stdout.matches("proven live: ").count();
            cells.check(format!("{setup} {user} live"), &live, &2);
        }
        cells.check(format!("{setup} unchanged"), &pod.nft_ruleset(), &before);
        let (bypass, _other) = setup.build(&["--mode=bypass"]);
        let finished = prove(&bypass, &["--mode=bypass"]);
        cells.check(format!("{setup} bypass {}", finished.stderr), &finished.code, &0);
    });
}

/// Rules that are not there, or for other ports, are not proven, and whoever got the connection is named.
#[test]
fn rules_that_do_not_hold_are_not_proven() {
    let (pod, _peer) = Pod::pair();
    assert_says(
        &prove(&pod, &[]),
        NOT_PROVEN,
        &["IPv4 outbound 2552", "did not come to the agent's port", "CNI plugin"],
    );
    ISTIO.load(&pod);
    let captured = ["IPv4 outbound 2552 to the agent (15552): the mesh's port 15001 got it"];
    assert_says(&prove(&pod, &[]), NOT_PROVEN, &captured);
    assert_says(
        &prove(&pod, &["--mode=bypass"]),
        NOT_PROVEN,
        &["IPv6 outbound 8558 straight: the mesh's port 15001 got it"],
    );
    {
        // A mesh's proxy that is up already, where no listener of ours can stand.
        let _mesh = mesh_proxy(&pod, Some(ISTIO));
        assert_says(&prove(&pod, &["--mode=bypass"]), NOT_PROVEN, &["somebody in this pod took it"]);
    }
    must_init(&pod, &["--preset=pekko"]);
    assert_says(&prove(&pod, &["--preset=pekko"]), 0, &["proven live: IPv4 outbound 17355"]);
    assert_says(&prove(&pod, &[]), NOT_PROVEN, &["outbound 2552"]);
}

/// A connection that is refused was led somewhere within the pod: it did not go straight.
#[test]
fn a_redirect_to_where_nobody_listens_is_not_straight() {
    let (pod, _peer) = Pod::pair();
    let nothing = prove(&pod, &["--mode=bypass"]);
    assert_says(&nothing, 0, &["by somebody else's rules or for want of any"]);
    assert!(!nothing.stdout.contains("rules hold"), "{nothing}");
    pod.sh("nft add table inet other");
    pod.sh("nft add chain inet other out { type nat hook output priority -100; }");
    pod.sh("nft add rule inet other out meta l4proto tcp redirect to :16001");
    assert_says(&prove(&pod, &["--mode=bypass"]), NOT_PROVEN, &["IPv4 outbound 2552 straight: it was refused"]);
    pod.sh("nft delete table inet other");
    must_init(&pod, &[]);
    for user in [1000, 12552] {
        let finished = init_as(&pod, user, &["--prove-only", "--mode=bypass"]);
        assert_says(&finished, NOT_PROVEN, &["straight: the agent's port 15552 got it"]);
    }
}

/// Beside the sidecar, which has the ports, its own canary is asked.
#[test]
fn a_sidecar_that_is_up_tells_of_the_rules() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &[]);
    let sidecar = Sidecar::start(&pod, NOTHING, &[]);
    let wait = |code: u16| {
        let end = std::time::Instant::now() + crate::support::sidecar::DEADLINE;
        while sidecar.get("/ready").is_none_or(|(status, _)| status != code) {
            assert!(std::time::Instant::now() < end, "never {code}: {}", sidecar.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    wait(200);
    assert_says(&prove(&pod, &[]), 0, &["its canary comes back to it"]);
    pod.sh("nft delete table inet bypassctl");
    wait(503);
    assert_says(&prove(&pod, &[]), NOT_PROVEN, &["does not come back to it"]);
}

/// Where it may make none, `init` itself is content with somebody else's; where there are none either, it says both.
#[test]
fn init_without_net_admin_is_content_with_rules_of_somebody_else() {
    let setups: Vec<Setup> =
        [Order::OursFirst, Order::MeshFirst].map(|order| Setup { mesh: Some(ISTIO), order }).into();
    for setup in setups {
        let (pod, _peer) = setup.build(&[]);
        let before = pod.nft_ruleset();
        let content = ["no backend of this container's own: ", "NET_ADMIN", "somebody else's rules hold"];
        assert_says(&init_as(&pod, 1000, &[]), 0, &content);
        assert_says(&init_as(&pod, 1000, &["--backend=nft"]), 3, &["NET_ADMIN"]);
        assert_eq!(pod.nft_ruleset(), before);
    }
    let (pod, _peer) = Pod::pair();
    assert_says(&init_as(&pod, 1000, &[]), 3, &["nobody else's hold", "did not come to the agent's port", "NET_ADMIN"]);
    let usage = prove(&pod, &["--cleanup"]);
    assert_says(&usage, 2, &["cannot be used with"]);
}
