//! What `init` says of its proof, and what it does when the rules do not work.

use crate::support::init::{init, must_init};
use crate::support::mesh::ISTIO;
use crate::support::pod::Pod;
use crate::support::setup::{Setup, check_all};

/// Rules of somebody else under which ours stand and do nothing.
const FAULTS: [(&str, &str); 5] = [
    (
        "no packet is tracked, so no NAT applies",
        "chain p { type filter hook prerouting priority -300; notrack; }
         chain o { type filter hook output priority -300; notrack; }",
    ),
    (
        "no IPv6 packet going out is tracked",
        "chain o { type filter hook output priority -300; meta nfproto ipv6 notrack; }",
    ),
    ("nothing that arrives is tracked", "chain p { type filter hook prerouting priority -300; iifname != lo notrack; }"),
    (
        "another chain has bound the connection before us",
        "chain o { type filter hook output priority -300; tcp dport 2552 notrack; }",
    ),
    ("the agent's listener is cut off", "chain i { type filter hook input priority 0; tcp dport 15552 drop; }"),
];

/// Rules that stand but do not work are taken back, exit code 4, and the foreign rules that broke them are left as they
/// were: no pod starts in the belief that its remoting is encrypted.
#[test]
fn rules_that_do_not_work_are_rolled_back() {
    for mesh in [None, Some(ISTIO)] {
        for (fault, chains) in FAULTS {
            let (pod, _peer) = Pod::pair();
            if let Some(mesh) = mesh {
                mesh.load(&pod);
            }
            pod.feed("nft -f -", &format!("table inet foreign {{ {chains} }}"));
            let before = pod.nft_ruleset();
            let finished = init(&pod, &[]);
            assert_eq!(finished.code, 4, "{fault}: {finished}");
            assert_eq!(pod.nft_ruleset(), before, "{fault}: {finished}");
            assert!(finished.stderr.contains("rolled back"), "{fault}: {finished}");
        }
    }
}

/// `--no-verify` applies what the proof would have refused: it is the way to look at a fault.
#[test]
fn without_proof_the_rules_stay() {
    let (pod, _peer) = Pod::pair();
    pod.feed("nft -f -", &format!("table inet foreign {{ {} }}", FAULTS[0].1));
    must_init(&pod, &["--no-verify"]);
    assert!(pod.nft_ruleset().contains("table inet bypassctl"));
}
