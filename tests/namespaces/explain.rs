//! `bypassctl explain` against reality: what it says of a connection is what becomes of a real one.

use std::net::SocketAddr;

use bypassctl::core::ruleset::Family;
use serde_json::Value;

use crate::support::init::bypassctl;
use crate::support::mesh::{ISTIO, ISTIO_DNS, ISTIO_LEGACY};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, Identity, Listener, ask, call};
use crate::support::roles::{AGENT, APP, APP_PORTS, LOOPBACKS, MESH, agent, app, mesh_proxy, peer};
use crate::support::setup::{Cells, Order, Setup, check_all};

/// The answer as JSON.
fn explain(pod: &Pod, args: &[&str]) -> Value {
    let finished = pod.finish(bypassctl(&[&["explain", "--output", "json"], args].concat()), "");
    assert_eq!(finished.code, 0, "explain {args:?}: {finished}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

/// Who would answer, by the ports that the pod's listeners have.
fn told(answer: &Value) -> String {
    let end = &answer["end"];
    let (kind, port) = (end["kind"].as_str().unwrap_or_default(), end["port"].as_u64().unwrap_or_default());
    let local = end["interface"] == "lo";
    let who = match (kind, port) {
        ("refused", _) => "refused",
        ("dropped", _) => "silence",
        ("no_route", _) => "Network is unreachable (os error 101)",
        ("straight" | "redirected", _) if local && end["listening"] == false => "refused",
        ("straight" | "redirected", 15001) if local => "mesh-outbound",
        ("straight" | "redirected", 15006) if local => "mesh-inbound",
        ("straight" | "redirected", 15053) if local => "mesh-dns",
        ("straight" | "redirected", 15552) if local => "agent-outbound",
        ("straight" | "redirected", 15553) if local => "agent-inbound",
        ("straight", _) if local => "app",
        ("straight", _) => "peer",
        (kind, _) => kind,
    };
    let unsure = if answer["sure"] == true { "" } else { " (unsure)" };
    format!("{who}{unsure}")
}

fn seen(answer: Answer) -> String {
    match answer {
        Answer::From { who, .. } => who,
        Answer::Refused => "refused".to_owned(),
        Answer::Silence => "silence".to_owned(),
        Answer::Error(error) => error,
    }
}

fn fill(setup: Setup, with_ours: bool, cells: &mut Cells) {
    let built = if with_ours { setup.build(&["--no-verify"]) } else { bare(setup) };
    compare(setup, if with_ours { "ours" } else { "no ours" }, &built, cells);
}

fn compare(setup: Setup, rules: &str, (pod, other): &(Pod, Pod), cells: &mut Cells) {
    let _listeners = [app(pod), agent(pod), mesh_proxy(pod, setup.mesh), peer(other, &[])];
    let mut outgoing = vec![APP, AGENT, MESH];
    outgoing.extend(setup.mesh.map(|mesh| mesh.proxy()).filter(|proxy| *proxy != MESH));
    for family in Family::BOTH {
        for port in APP_PORTS {
            let arriving = pod.at(family, port);
            let to_app =
                explain(pod, &["--in", "--to", &arriving.to_string(), "--from", &other.address(family).to_string()]);
            let cell = format!("{setup} {rules} in to {arriving}");
            cells.check(cell, &told(&to_app), &seen(call(other, APP, arriving)));
            for who in &outgoing {
                for to in [other.at(family, port), arriving] {
                    compare_outgoing(setup, rules, pod, *who, to, cells);
                }
            }
        }
    }
}

fn compare_outgoing(setup: Setup, rules: &str, pod: &Pod, who: Identity, to: SocketAddr, cells: &mut Cells) {
    let (uid, mark) = (who.uid.to_string(), who.mark.unwrap_or_default().to_string());
    let answer = explain(pod, &["--to", &to.to_string(), "--from-uid", &uid, "--mark", &mark]);
    let cell = format!("{setup} {rules} uid {uid} mark {mark} to {to}");
    cells.check(cell, &told(&answer), &seen(call(pod, who, to)));
}

fn bare(setup: Setup) -> (Pod, Pod) {
    let (pod, other) = Pod::pair();
    if let Some(mesh) = setup.mesh {
        mesh.load(&pod);
    }
    (pod, other)
}

/// Mesh × order × family × direction × port × user: explain's answer under our rules is the real connection's.
#[test]
fn under_our_rules_explain_says_what_a_real_connection_does() {
    check_all(&Setup::all(), |setup, cells| fill(*setup, true, cells));
}

/// Without our rules there is no order.
#[test]
fn without_our_rules_explain_says_what_a_real_connection_does() {
    let setups: Vec<_> = Setup::all().into_iter().filter(|setup| setup.order == Order::MeshFirst).collect();
    check_all(&setups, |setup, cells| fill(*setup, false, cells));
}

/// The same by the rules of either iptables: bindings to every port, and rules that look at source ports. A mesh of the other
/// iptables has chains of the same priority, and there explain is unsure.
#[test]
fn under_a_tools_rules_explain_says_what_a_real_connection_does() {
    let cases =
        ["none iptables-nft", "istio_iptnft iptables-nft", "none iptables-legacy", "istio_legacy iptables-legacy"];
    check_all(&cases, |case, cells| {
        let (mesh, backend) = case.split_once(' ').expect("a mesh and a backend");
        let mesh = [ISTIO, ISTIO_LEGACY].into_iter().find(|one| one.name == mesh);
        let setup = Setup { mesh, order: Order::MeshFirst };
        compare(setup, backend, &setup.build(&["--no-verify", "--backend", backend]), cells);
    });
}

/// DNS over UDP under a mesh that captures it: the app's goes to the mesh, the agent's and the mesh proxy's own do not, and
/// explain says so, in both orders and families.
#[test]
fn of_captured_dns_explain_says_what_a_real_datagram_does() {
    const DNS: u16 = 53;
    let setups: Vec<_> =
        [Order::OursFirst, Order::MeshFirst].map(|order| Setup { mesh: Some(ISTIO_DNS), order }).into();
    check_all(&setups, |setup, cells| {
        let (pod, other) = setup.build(&["--no-verify"]);
        let captures = LOOPBACKS.map(|ip| Listener::udp(&pod, "mesh-dns", MESH, SocketAddr::new(ip, 15053)));
        for family in Family::BOTH {
            let to = other.at(family, DNS);
            let _server = Listener::udp(&other, "peer", APP, to);
            for (who, expected) in [(APP, "mesh-dns"), (MESH, "peer"), (AGENT, "peer")] {
                let answer = explain(&pod, &["--udp", "--to", &to.to_string(), "--from-uid", &who.uid.to_string()]);
                let cell = format!("{setup} uid {} to {to}", who.uid);
                cells.check(format!("{cell}, told"), &told(&answer), &expected.to_owned());
                cells.check(format!("{cell}, seen"), &seen(ask(&pod, who, to)), &expected.to_owned());
            }
        }
        drop(captures);
    });
}

/// Rules that explain understands in part at most: what it says of them is what happens, or it says that it is unsure.
/// The chain that each stands in, the rule, and whether explain has to know.
const HALF_UNDERSTOOD: [(&str, &str, bool); 15] = [
    (NAT, "ip daddr { 10.77.0.12 } tcp dport { 2552 } redirect to :15001", true),
    (NAT, "ip daddr . tcp dport { 10.77.0.12 . 2552 } redirect to :15001", false),
    (NAT, "tcp dport . meta mark { 2552 . 0 } redirect to :15001", false),
    (NAT, "ip daddr . tcp dport != { 10.77.0.12 . 2552 } redirect to :15001", false),
    (FILTER, "ip daddr 10.77.0.12 socket transparent 0 drop", false),
    (FILTER, "ip daddr 10.77.0.12 tcp dport 2552 drop", true),
    (FILTER, "tcp dport 2552 numgen inc mod 1 == 0 drop", false),
    (FILTER, "tcp dport 2552 jhash ip saddr mod 1 == 0 drop", false),
    (FILTER, "ip daddr 10.77.0.12 rt ip nexthop 10.77.0.12 drop", false),
    (FILTER, "tcp dport 2552 tcp option maxseg exists drop", false),
    (FILTER, "ip daddr 10.77.0.12 ip ttl 64 drop", false),
    (FILTER, "tcp dport != 2000-2551 meta skuid != 2000-3000 drop", true),
    (FILTER, "tcp dport 2552 meta mark set numgen inc mod 1 offset 5 meta mark 5 drop", false),
    (FILTER, "tcp dport 2552 ip daddr set 10.77.0.99", false),
    (FILTER, "ct original ip daddr 10.77.0.12 drop", false),
];
const NAT: &str = "type nat hook output priority -100";
const FILTER: &str = "type filter hook output priority 0";

#[test]
fn what_explain_does_not_understand_it_says() {
    check_all(&["inet", "ip"], |family, cells| {
        let (pod, other) = Pod::pair();
        let to = other.at(Family::V4, 2552);
        let _listeners = [app(&pod), mesh_proxy(&pod, None), peer(&other, &[])];
        for (chain, rule, known) in HALF_UNDERSTOOD {
            pod.sh("nft flush ruleset");
            pod.feed("nft -f -", &format!("table {family} t {{\n chain c {{\n {chain}; {rule}\n }}\n}}\n"));
            let answer = explain(&pod, &["--to", &to.to_string()]);
            let seen = seen(call(&pod, APP, to));
            let told = told(&answer);
            let agrees = told == seen || !known && answer["sure"] == false;
            let cell = format!("{family} {rule}");
            cells.check(cell, &(if agrees { seen.clone() } else { told }), &seen);
        }
    });
}

/// No connection goes to port 0: that is a mistake in the question.
#[test]
fn port_0_is_refused() {
    let refused = Pod::alone().finish(bypassctl(&["explain", "--to", "10.0.0.1:0"]), "");
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("port 0"), "{refused}");
}

/// Of chains of one priority the one registered last runs first; where tables differ in that, explain says that it cannot
/// be sure, and the kernel does what explain assumes.
#[test]
fn at_equal_priority_the_table_made_last_comes_first() {
    let (pod, other) = Pod::pair();
    let to = other.at(Family::V4, 2552);
    let _listeners =
        [1111, 2222].map(|port| Listener::tcp(&pod, &port.to_string(), APP, SocketAddr::from(([127, 0, 0, 1], port))));
    for (table, port) in [("first", 1111), ("second", 2222)] {
        let chain = format!("type nat hook output priority -100; tcp dport 2552 redirect to :{port}");
        pod.feed("nft -f -", &format!("table inet {table} {{\n chain output {{\n {chain}\n }}\n}}\n"));
    }
    let answer = explain(&pod, &["--to", &to.to_string()]);
    assert_eq!(answer["sure"], false, "{answer}");
    assert_eq!(answer["end"]["port"], 2222, "{answer}");
    assert_eq!(seen(call(&pod, APP, to)), "2222");
}

/// Explaining makes no legacy tables where none are, and needs NET_ADMIN, which it names.
#[test]
fn explaining_changes_nothing() {
    let pod = Pod::alone();
    explain(&pod, &["--to", "10.77.0.12:2552", "--in"]);
    assert_eq!(pod.legacy_tables(), "");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_bypassctl")]);
    command.args(["explain", "--to", "10.77.0.12:2552"]);
    let refused = pod.finish(command, "");
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.stderr.contains("NET_ADMIN"), "{refused}");
}
