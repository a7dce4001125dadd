//! What `init` refuses: with a message that says what to do, a documented exit code, and nothing changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::support::init::{bypassctl, init};
use crate::support::pod::{Finished, Pod};

/// Exit codes of design and `--help`.
const USAGE: i32 = 2;
const ENVIRONMENT: i32 = 3;

/// `NET_NS_INIT_INO` (linux/nsfs.h).
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFF9;

/// Arguments, and words of the message that they are answered with.
const BAD_ARGUMENTS: [(&[&str], &[&str]); 18] = [
    (&["--remoting-port", "0"], &["--remoting-port", "1 to 65535"]),
    (&["--remoting-port", "65536"], &["--remoting-port", "1 to 65535"]),
    (&["--management-port", "http"], &["--management-port", "1 to 65535"]),
    (&["--remoting-port", ""], &["--remoting-port"]),
    (&["--remoting-port", "2600-2552"], &["--remoting-port", "lower port first"]),
    (&["--remoting-port", "8558"], &["8558", "--remoting-port", "--management-port"]),
    (&["--remoting-port", "8000-9000"], &["8558", "--remoting-port", "--management-port"]),
    (&["--outbound-port", "0"], &["--outbound-port"]),
    (&["--inbound-port", "65536"], &["--inbound-port"]),
    (&["--outbound-port", "2552"], &["2552", "--outbound-port", "--remoting-port"]),
    (&["--inbound-port", "15552"], &["15552", "--inbound-port", "--outbound-port"]),
    (&["--management-port", "15000-16000"], &["--management-port", "15552"]),
    (&["--agent-uid", "0"], &["--agent-uid"]),
    (&["--agent-uid", "1337"], &["--agent-uid", "--mesh-uid"]),
    (&["--mode", "both"], &["capture", "bypass"]),
    (&["--pod-ip", "10.0.0"], &["--pod-ip"]),
    (&["--remotting-port", "2552"], &["--remotting-port", "--remoting-port"]),
    (&["--cleanup", "--dry-run"], &["--cleanup", "--dry-run"]),
];

fn assert_refused(what: &str, finished: &Finished, code: i32, words: &[&str], pod: &Pod) {
    assert_eq!(finished.code, code, "{what}: {finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{what}: no word of {word:?} in: {finished}");
    }
    assert_eq!(finished.stdout, "", "{what}");
    assert_eq!(pod.nft_ruleset(), "", "{what}: nothing may be half-done");
    assert_eq!(pod.sh("ip -o link").lines().count(), 1, "{what}: a link was left");
}

/// A port, uid or flag that cannot be meant stops the start: exit code 2, and the message names the option.
#[test]
fn bad_arguments_are_refused_by_name() {
    let pod = Pod::alone();
    for (arguments, words) in BAD_ARGUMENTS {
        assert_refused(&format!("{arguments:?}"), &init(&pod, arguments), USAGE, words, &pod);
    }
}

/// A key that no option has, and a file that is none, stop the start: a typing error must not mean the default.
#[test]
fn an_unknown_key_of_the_configuration_is_refused() {
    let pod = Pod::alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("bypassctl.yaml");
    let path = file.to_str().expect("a path in UTF-8").to_owned();
    let files = [
        ("remotting-port: 2552\n", &["unknown key", "remotting-port"][..]),
        ("init:\n  allow: ca\n", &["unknown key", "allow"]),
        ("remoting-port: 70000\n", &["70000", "1 to 65535"]),
        ("remoting-port: {a: b}\n", &["remoting-port"]),
        ("- 2552\n", &["mapping"]),
        ("\t:", &["bypassctl.yaml"]),
    ];
    for (text, words) in files {
        fs::write(&file, text).expect("writing the file");
        assert_refused(text, &init(&pod, &["--config", &path]), USAGE, words, &pod);
    }
    let gone = folder.path().join("gone.yaml");
    let finished = init(&pod, &["--config", gone.to_str().expect("a path in UTF-8")]);
    assert_refused("no file", &finished, USAGE, &["gone.yaml", "cannot be read"], &pod);
}

/// What an environment variable or the file says is used, and a flag beats the environment, which beats the file.
#[test]
fn a_flag_beats_the_environment_and_that_the_file() {
    let pod = Pod::alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("bypassctl.yaml");
    fs::write(&file, "remoting-port: 3001\nmanagement-port: 3002\ninit:\n  inbound-port: 3003\n").expect("writing");
    let mut command = bypassctl(&["init", "--dry-run", "--remoting-port", "5001", "--config"]);
    command.arg(&file).env("BYPASSCTL_REMOTING_PORT", "4001").env("BYPASSCTL_MANAGEMENT_PORT", "4002");
    let finished = pod.finish(command, "");
    assert_eq!(finished.code, 0, "{finished}");
    for wanted in ["dport 5001", "dport 4002", "redirect to :3003"] {
        assert!(finished.stdout.contains(wanted), "{wanted}: {finished}");
    }
    for beaten in [3001, 3002, 4001, 2552, 8558] {
        assert!(!finished.stdout.contains(&format!("dport {beaten}")), "{beaten}: {finished}");
    }
}

/// Runs `bypassctl init` through `setpriv`, which scripts/test installs.
fn init_as(pod: &Pod, setpriv: &[&str], args: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(setpriv).arg(bypassctl(&[]).get_program()).arg("init").args(args).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    pod.finish(command, "")
}

const NO_CAPABILITY: [&str; 2] = ["--bounding-set=-all", "--inh-caps=-all"];

/// Without NET_ADMIN, as root or not, nothing is tried in vain: exit code 3, and the message names the capability.
#[test]
fn without_net_admin_it_says_which_capability_is_missing() {
    let pod = Pod::alone();
    let without = ["--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    for setpriv in [&without[..], &NO_CAPABILITY, &nobody] {
        for args in [&[][..], &["--cleanup"], &["--no-verify"]] {
            let finished = init_as(&pod, setpriv, args);
            assert_refused(
                &format!("{setpriv:?} {args:?}"),
                &finished,
                ENVIRONMENT,
                &["NET_ADMIN", "securityContext"],
                &pod,
            );
        }
    }
}

/// `--dry-run` needs no privilege at all.
#[test]
fn a_dry_run_needs_no_privilege() {
    let pod = Pod::alone();
    let as_root = init(&pod, &["--dry-run"]);
    let nobody = init_as(&pod, &["--reuid=65534", "--regid=65534", "--clear-groups"], &["--dry-run"]);
    assert_eq!(nobody, as_root);
    assert_eq!(nobody.code, 0, "{nobody}");
}

/// NET_ADMIN alone is enough, for a user that is not root, proofs included: what a hardened init container has.
#[test]
fn net_admin_alone_is_enough() {
    let (pod, _peer) = Pod::pair();
    let alone = ["--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin", "--ambient-caps=+net_admin"];
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    let finished = init_as(&pod, &[&user[..], &alone].concat(), &[]);
    assert_eq!(finished.code, 0, "{finished}");
    assert_eq!(finished.stdout.matches("proven live").count(), 8, "{finished}");
    assert!(pod.nft_ruleset().contains("table inet bypassctl"));
}

/// Legacy iptables lists its tables for root or root's group alone: with every capability, that is what is named.
#[test]
fn by_legacy_iptables_it_says_that_only_root_may_list_the_tables() {
    let as_group = |group: &str| {
        let (pod, _peer) = Pod::pair();
        let group = format!("--regid={group}");
        let user = ["--reuid=65534", &group, "--clear-groups"];
        let capabilities = ["--inh-caps=+net_admin,+net_raw", "--ambient-caps=+net_admin,+net_raw"];
        init_as(&pod, &[&user[..], &capabilities].concat(), &["--backend", "iptables-legacy"])
    };
    let finished = as_group("65534");
    assert_eq!(finished.code, ENVIRONMENT, "{finished}");
    for word in ["/proc/net/ip_tables_names", "runAsUser: 0", "runAsGroup: 0"] {
        assert!(finished.stderr.contains(word), "no word of {word}: {finished}");
    }
    assert!(!finished.stderr.contains("needs the capabilities"), "{finished}");
    let finished = as_group("0");
    assert_eq!(finished.code, 0, "{finished}");
}

/// As the agent's own user, whose connections the rules exempt, the proof says that it is weaker for that.
#[test]
fn run_as_the_agents_user_the_proof_says_what_it_lacks() {
    let (pod, _peer) = Pod::pair();
    let user =
        ["--reuid=12552", "--regid=12552", "--clear-groups", "--inh-caps=+net_admin", "--ambient-caps=+net_admin"];
    let finished = init_as(&pod, &user, &[]);
    assert_eq!(finished.code, 0, "{finished}");
    assert!(finished.stdout.contains("init runs as the agent's user id"), "{finished}");
}

/// Redirected connections end on lo: where it is down, that is said, instead of rules applied that cannot work.
#[test]
fn a_namespace_with_lo_down_is_refused() {
    let pod = Pod::alone();
    pod.sh("ip link set lo down");
    let finished = init(&pod, &[]);
    assert_refused("lo down", &finished, ENVIRONMENT, &["lo", "is down", "ip link set lo up"], &pod);
}

/// On the host's network the rules would hit every pod of the node: refused, whatever gives it away.
#[test]
fn the_nodes_network_is_refused() {
    let pod = Pod::alone();
    for address in ["10.0.0.7", "fd00::7"] {
        for args in [&[][..], &["--no-verify"], &["--cleanup"]] {
            let finished = init(&pod, &[&["--pod-ip", address, "--host-ip", address], args].concat());
            assert_refused(address, &finished, ENVIRONMENT, &[address, "hostNetwork"], &pod);
        }
    }
    let mut by_environment = bypassctl(&["init"]);
    by_environment.env("POD_IP", "10.0.0.7").env("HOST_IP", "10.0.0.7");
    assert_refused("POD_IP", &pod.finish(by_environment, ""), ENVIRONMENT, &["10.0.0.7", "hostNetwork"], &pod);
    for link in ["cni0", "cali0123456789a"] {
        let node = Pod::alone();
        node.sh(&format!("ip link add {link} type veth peer name eth0"));
        let finished = init(&node, &[]);
        assert_eq!(finished.code, ENVIRONMENT, "{finished}");
        assert!(finished.stderr.contains(link) && finished.stderr.contains("hostNetwork"), "{finished}");
        assert_eq!(node.nft_ruleset(), "");
    }
    // Since Linux 6.17 the initial namespace has an inode of its own; before, and in a container, there is none to see.
    if fs::metadata("/proc/self/ns/net").expect("this process's own namespace").ino() == INITIAL_NAMESPACE {
        let finished = Finished::from(bypassctl(&["init", "--no-verify"]).output().expect("bypassctl starts"));
        if finished.code == 0 {
            // What should never have been done is undone before the test says so.
            let _ = bypassctl(&["init", "--cleanup", "--allow-initial-netns"]).output();
        }
        assert_eq!(finished.code, ENVIRONMENT, "{finished}");
        assert!(finished.stderr.contains("--allow-initial-netns"), "{finished}");
    }
}
