//! What `init` says of its proof, and what it does when the rules do not work.

use bypassctl::core::ruleset::Family;

use crate::support::init::{init, must_init};
use crate::support::mesh::ISTIO;
use crate::support::pod::Pod;
use crate::support::probe::{Answer, Listener, call};
use crate::support::roles::{APP, MANAGEMENT, REMOTING, agent, app, mesh_proxy, peer};
use crate::support::setup::{Setup, check_all};

/// Rules of somebody else under which ours stand and do nothing.
const FAULTS: [(&str, &str); 7] = [
    (
        "no packet is tracked, so no NAT applies",
        "chain p { type filter hook prerouting priority -300; notrack; }
         chain o { type filter hook output priority -300; notrack; }",
    ),
    (
        "no IPv6 packet that leaves is tracked",
        "chain o { type filter hook output priority -300; meta nfproto ipv6 notrack; }",
    ),
    (
        "nothing that arrives is tracked",
        "chain p { type filter hook prerouting priority -300; iifname != lo notrack; }",
    ),
    ("outgoing remoting is not tracked", "chain o { type filter hook output priority -300; tcp dport 2552 notrack; }"),
    ("the agent is cut off", "chain i { type filter hook input priority 0; tcp dport { 15552, 15553 } drop; }"),
    (
        "TPROXY takes what arrives before our guard is asked",
        "chain p {
            type filter hook prerouting priority -152;
            iifname != lo meta nfproto ipv4 tcp dport { 2552, 8558 } tproxy ip to :15006 meta mark set 0x1 accept
        }",
    ),
    ("outgoing management is dropped", "chain o { type filter hook output priority 0; tcp dport 8558 drop; }"),
];

/// Rules that stand but do not work are taken back, exit code 4, and the foreign rules that broke them are left as they
/// were: no pod starts in the belief that its remoting is encrypted.
#[test]
fn rules_that_do_not_work_are_rolled_back() {
    let faults: Vec<String> = (0..FAULTS.len()).map(|fault| fault.to_string()).collect();
    check_all(&faults, |fault, cells| {
        let (fault, chains) = FAULTS[fault.parse::<usize>().expect("its own number")];
        for mesh in [None, Some(ISTIO)] {
            let (pod, _peer) = Pod::pair();
            if let Some(mesh) = mesh {
                mesh.load(&pod);
            }
            pod.feed("nft -f -", &format!("table inet foreign {{\n{chains}\n}}"));
            let before = pod.nft_ruleset();
            if fault.starts_with("TPROXY") {
                // It leaves connections their destination, so that they only seem to arrive where they should.
                let finished = init(&pod, &["--mode", "bypass"]);
                cells.check(format!("{fault}, bypass mode: exit code"), &finished.code, &4);
            }
            let finished = init(&pod, &[]);
            let cell = format!("{fault}, {}:", mesh.map_or("no mesh", |mesh| mesh.name));
            cells.check(format!("{cell} exit code"), &finished.code, &4);
            cells.check(format!("{cell} says so"), &finished.stderr.contains("not proven"), &true);
            cells.check(format!("{cell} what stands"), &pod.nft_ruleset(), &before);
        }
    });
}

/// A run that is not proven puts back the rules of an earlier run, rather than none: a pod that was safe stays safe.
#[test]
fn a_failed_run_leaves_the_earlier_runs_rules() {
    let (pod, _peer) = Pod::pair();
    must_init(&pod, &["--remoting-port", "2552"]);
    pod.feed("nft -f -", &format!("table inet foreign {{\n{}\n}}", FAULTS[3].1));
    let before = pod.sh("nft --stateless list table inet bypassctl");
    let finished = init(&pod, &["--remoting-port", "2552,25520"]);
    assert_eq!(finished.code, 4, "{finished}");
    assert_eq!(pod.sh("nft --stateless list table inet bypassctl"), before);
}

/// `--no-verify` applies what the proof would have refused, and says that nothing is proven.
#[test]
fn without_proof_the_rules_stay_and_are_said_to_be_unproven() {
    let (pod, _peer) = Pod::pair();
    pod.feed("nft -f -", &format!("table inet foreign {{\n{}\n}}", FAULTS[0].1));
    let finished = init(&pod, &["--no-verify"]);
    assert_eq!(finished.code, 0, "{finished}");
    assert!(finished.stdout.contains("not proven"), "{finished}");
    assert!(pod.nft_ruleset().contains("table inet bypassctl"));
}

/// In an empty pod every port is proven by a live connection, both ways and in both families, under every mesh.
#[test]
fn in_an_empty_pod_every_proof_is_live() {
    check_all(&Setup::all(), |setup, cells| {
        for mode in ["capture", "bypass"] {
            let (pod, _peer) = setup.build(&["--no-verify", "--mode", mode]);
            let finished = init(&pod, &["--mode", mode, "--remoting-port", "2552,25520-25522"]);
            let mut proofs = Vec::new();
            for family in Family::BOTH {
                for direction in ["outbound", "inbound"] {
                    for port in [REMOTING, 25520, 25522, MANAGEMENT] {
                        proofs.push(format!("proven live: {} {direction} {port} ", family.name()));
                    }
                }
            }
            let missing: Vec<&str> =
                proofs.iter().map(String::as_str).filter(|p| !finished.stdout.contains(*p)).collect();
            cells.check(format!("{setup} {mode} not live"), &missing.join(", "), &String::new());
            cells.check(format!("{setup} {mode} read back"), &finished.stdout.contains("read-back"), &false);
        }
    });
}

/// A pod's own network settings, as nodes and CNI plugins make them, do not break the proof, nor weaken it by more than
/// they must.
#[test]
fn a_pods_network_settings_do_not_weaken_the_proof() {
    // Settings, live proofs, proofs by read-back.
    let settings = [
        ("ipv4/conf/all/rp_filter=1", 8, 0),
        ("ipv4/conf/all/rp_filter=2", 8, 0),
        ("ipv4/conf/all/src_valid_mark=1 ipv4/fwmark_reflect=1 ipv4/tcp_fwmark_accept=1", 8, 0),
        ("ipv4/conf/all/arp_ignore=2 ipv4/tcp_syncookies=2", 8, 0),
        ("ipv4/ip_forward=1 ipv6/conf/all/forwarding=1", 8, 0),
        ("ipv6/bindv6only=1", 8, 0),
        // A pod without IPv6 has no IPv6 to prove.
        ("ipv6/conf/all/disable_ipv6=1", 4, 0),
        // Here new links get none, the proof's own neither, but lo and eth0 have theirs.
        ("ipv6/conf/default/disable_ipv6=1", 4, 4),
    ];
    let cases = settings.map(|(setting, ..)| setting);
    check_all(&cases, |setting, cells| {
        let (pod, _peer) = Pod::pair();
        for (file, value) in setting.split(' ').filter_map(|setting| setting.split_once('=')) {
            pod.feed(&format!("tee /proc/sys/net/{file}"), value);
        }
        let finished = init(&pod, &[]);
        let (_, live, read_back) = settings.iter().find(|(other, ..)| other == setting).expect("one of the settings");
        cells.check(format!("{setting} exit code"), &finished.code, &0);
        cells.check(format!("{setting} live"), &finished.stdout.matches("proven live").count(), live);
        cells.check(format!("{setting} read back"), &finished.stdout.matches("read-back").count(), read_back);
    });
}

/// In a pod that is up already, as when an init container runs again, the listeners that are taken limit the proof, which
/// says what kind it is; and none of the probes reaches whoever listens there.
#[test]
fn in_a_pod_that_is_up_the_proof_says_what_it_rests_on() {
    let (pod, other) = Pod::pair();
    let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, None), peer(&other, &[])];
    let finished = init(&pod, &[]);
    assert_eq!(finished.code, 0, "{finished}");
    for port in ["2552 to the agent", "8558 straight"] {
        assert!(finished.stdout.contains(port), "{finished}");
    }
    assert!(finished.stdout.contains("proven by read-back only"), "{finished}");
    assert_eq!(
        call(&pod, APP, other.at(Family::V4, REMOTING)),
        Answer::from("agent-outbound", other.at(Family::V4, REMOTING))
    );
}

/// Whatever `init` says of a foreign nat chain beside ours, traffic agrees: proven means that ours wins.
#[test]
fn the_proof_agrees_with_the_traffic_beside_a_foreign_nat_chain() {
    let cases = [-199, -198, -101, -100, 0].map(|priority: i32| priority.to_string());
    check_all(&cases, |priority, cells| {
        let (pod, other) = Pod::pair();
        let table = format!(
            "table inet foreign {{
                chain o {{ type nat hook output priority {priority}; meta l4proto tcp redirect to :15001; }}
                chain p {{ type nat hook prerouting priority {priority}; meta l4proto tcp redirect to :15006; }}
            }}"
        );
        pod.feed("nft -f -", &table);
        // Written anew after ours, it is registered later, and at the same priority the later is asked first.
        for stage in ["theirs first", "ours first"] {
            if stage == "ours first" {
                must_init(&pod, &["--no-verify"]);
                pod.feed("nft -f -", &format!("table inet foreign\ndelete table inet foreign\n{table}"));
            }
            let proven = match init(&pod, &[]).code {
                0 => true,
                4 => false,
                code => panic!("exit code {code}"),
            };
            if !proven {
                must_init(&pod, &["--no-verify"]);
            }
            let _listeners: [Vec<Listener>; 4] = [app(&pod), agent(&pod), mesh_proxy(&pod, None), peer(&other, &[])];
            let mut holds = true;
            for family in Family::BOTH {
                let calls = [
                    (&pod, other.at(family, REMOTING), "agent-outbound"),
                    (&other, pod.at(family, REMOTING), "agent-inbound"),
                    (&pod, other.at(family, MANAGEMENT), "peer"),
                    (&other, pod.at(family, MANAGEMENT), "app"),
                ];
                holds &= calls.into_iter().all(|(from, to, who)| call(from, APP, to) == Answer::from(who, to));
            }
            cells.check(format!("at {priority}, {stage}: traffic holds"), &holds, &proven);
        }
    });
}
