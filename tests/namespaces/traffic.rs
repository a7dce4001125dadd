//! The agent's own calls, calls to the pod itself, and connections that are older than the rules.

use std::net::SocketAddr;

use bypassctl::core::plan::CANARY;
use bypassctl::core::ruleset::Family;

use crate::support::init::{init, must_init};
use crate::support::mesh::{ISTIO, ISTIO_LEGACY, ISTIO_TPROXY};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, Call, Listener, ask, call};
use crate::support::roles::{
    AGENT, AGENT_ADMIN, AGENT_OUTBOUND, APP, CONTROL, LOOPBACKS, MANAGEMENT, MESH, REMOTING, agent, app, mesh_proxy,
    peer,
};
use crate::support::setup::{Setup, check_all};

const HTTPS: u16 = 443;
const DNS: u16 = 53;
/// Istio's and Kuma's DNS proxies listen here, or near it.
const MESH_DNS: u16 = 15053;

/// Whatever the agent dials — its peers, the API server, certificate sources — goes straight, before and after the mesh's
/// proxy lives.
#[test]
fn what_the_agent_dials_bypasses_the_mesh() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&[]);
        let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, setup.mesh), peer(&other, &[HTTPS])];
        for family in Family::BOTH {
            for port in [REMOTING, MANAGEMENT, CONTROL, HTTPS] {
                let to = other.at(family, port);
                cells.check(format!("{setup} to {to}"), &call(&pod, AGENT, to), &Answer::from("peer", to));
            }
        }
    });
}

/// A mesh that captures DNS does not have the agent's: it must find its peers while the mesh's proxy is down.
#[test]
fn the_agents_dns_bypasses_a_mesh_that_captures_dns() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&[]);
        pod.feed(
            "nft -f -",
            &format!(
                "table inet mesh-dns {{
                    chain output {{
                        type nat hook output priority -100; policy accept;
                        meta l4proto udp th dport {DNS} redirect to :{MESH_DNS}
                    }}
                }}"
            ),
        );
        let _mesh = LOOPBACKS.map(|ip| Listener::udp(&pod, "mesh-dns", MESH, SocketAddr::new(ip, MESH_DNS)));
        let _dns = Family::BOTH.map(|family| Listener::udp(&other, "dns", APP, other.at(family, DNS)));
        for family in Family::BOTH {
            let to = other.at(family, DNS);
            cells.check(format!("{setup} the agent to {to}"), &ask(&pod, AGENT, to), &Answer::from("dns", to));
            let captured = matches!(ask(&pod, APP, to), Answer::From { who, .. } if who == "mesh-dns");
            cells.check(format!("{setup} the app to {to} captured by the mesh"), &captured, &true);
        }
    });
}

/// The kubelet's probes of the agent arrive in plaintext, which a mesh in strict mode would refuse: they go straight.
#[test]
fn probes_of_the_agents_admin_port_bypass_the_mesh() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&[]);
        let _listeners = [agent(&pod), mesh_proxy(&pod, setup.mesh)];
        for family in Family::BOTH {
            let to = pod.at(family, AGENT_ADMIN);
            cells.check(format!("{setup} to {to}"), &call(&other, APP, to), &Answer::from("agent-admin", to));
        }
    });
}

/// The agent can see that the rules stand without reading them: what it dials at the canary's address comes back to it.
#[test]
fn the_agents_canary_comes_back_to_it() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, _other) = setup.build(&[]);
        let _listeners = [agent(&pod), mesh_proxy(&pod, setup.mesh)];
        for address in CANARY {
            let to = SocketAddr::new(address, AGENT_OUTBOUND);
            cells.check(format!("{setup} to {to}"), &call(&pod, AGENT, to), &Answer::from("agent-outbound", to));
        }
    });
}

/// The app's call to its own pod's address reaches the app: no agent, no mesh, no TLS to itself.
#[test]
fn the_apps_call_to_its_own_pod_reaches_the_app() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, _other) = setup.build(&[]);
        let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, setup.mesh)];
        for family in Family::BOTH {
            for (port, who) in [(REMOTING, APP), (MANAGEMENT, APP), (REMOTING, AGENT), (MANAGEMENT, AGENT)] {
                let to = pod.at(family, port);
                let cell = format!("{setup} uid {} to {to}", who.uid);
                cells.check(cell, &call(&pod, who, to), &Answer::from("app", to));
            }
        }
    });
}

/// Without the agent remoting fails closed, and at once: refused both ways, neither captured by the mesh nor let through.
#[test]
fn a_dead_agent_means_refused_both_ways() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&[]);
        let _listeners = [app(&pod), mesh_proxy(&pod, setup.mesh), peer(&other, &[])];
        for family in Family::BOTH {
            for (from, to) in [(&pod, &other), (&other, &pod)] {
                let to = to.at(family, REMOTING);
                cells.check(format!("{setup} to {to}"), &call(from, APP, to), &Answer::Refused);
            }
        }
    });
}

/// Connections that were there before the rules go on, straight or through the mesh as they began: those of remoting,
/// management and the rest, both ways, through a second `init` and through `--cleanup` too.
#[test]
fn connections_older_than_the_rules_go_on() {
    let setups = [None, Some(ISTIO), Some(ISTIO_LEGACY), Some(ISTIO_TPROXY)];
    let cases: Vec<String> = (0..setups.len() * 2).map(|case| case.to_string()).collect();
    check_all(&cases, |case, cells| {
        let case: usize = case.parse().expect("the case's own number");
        let (mesh, mode) = (setups[case / 2], ["capture", "bypass"][case % 2]);
        let (pod, other) = Pod::pair();
        if let Some(mesh) = mesh {
            mesh.load(&pod);
        }
        let _listeners = [app(&pod), mesh_proxy(&pod, mesh), peer(&other, &[])];
        let mut calls = Vec::new();
        for family in Family::BOTH {
            for port in [REMOTING, MANAGEMENT, CONTROL] {
                for (from, to) in [(&pod, &other), (&other, &pod)] {
                    let to = to.at(family, port);
                    calls.push((to, Call::open(from, APP, to).unwrap_or_else(|answer| panic!("{to}: {answer}"))));
                }
            }
        }
        for stage in ["init", "init again", "cleanup"] {
            let args = if stage == "cleanup" { vec!["--cleanup"] } else { vec!["--mode", mode] };
            must_init(&pod, &args);
            for (to, call) in &mut calls {
                let cell = format!("{:<20} {mode} to {to} after {stage}", mesh.map_or("no mesh", |mesh| mesh.name));
                let seen = call.still_echoes().map_or_else(|error| error.to_string(), |()| "an echo".to_owned());
                cells.check(cell, &seen, &"an echo".to_owned());
            }
        }
    });
}

/// Remoting and management connections that are older than every rule go on as they are when a mesh that would capture
/// their next packet comes with ours: nobody takes them for new.
#[test]
fn connections_older_than_the_mesh_go_on_straight() {
    check_all(&Setup::all(), |setup, cells| {
        for mode in ["capture", "bypass"] {
            let (pod, other) = Pod::pair();
            let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, setup.mesh), peer(&other, &[])];
            let mut calls = Vec::new();
            for family in Family::BOTH {
                for port in [REMOTING, MANAGEMENT] {
                    for (from, to) in [(&pod, &other), (&other, &pod)] {
                        let to = to.at(family, port);
                        calls.push((to, Call::open(from, APP, to).unwrap_or_else(|answer| panic!("{to}: {answer}"))));
                    }
                }
            }
            setup.apply(&pod, &["--mode", mode]);
            for (to, call) in &mut calls {
                let seen = call.still_echoes().map_or_else(|error| error.to_string(), |()| "an echo".to_owned());
                cells.check(format!("{setup} {mode} to {to}"), &seen, &"an echo".to_owned());
            }
        }
    });
}

/// A second `init`, as when the pod's init containers run again, does not break what the rules have redirected already.
#[test]
fn redirected_connections_live_through_a_second_init() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&[]);
        let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, setup.mesh), peer(&other, &[])];
        let mut calls = Vec::new();
        for family in Family::BOTH {
            for (from, to, who) in [(&pod, &other, "agent-outbound"), (&other, &pod, "agent-inbound")] {
                let to = to.at(family, REMOTING);
                let call = Call::open(from, APP, to).unwrap_or_else(|answer| panic!("{to}: {answer}"));
                cells.check(format!("{setup} to {to}"), &call.answer, &Answer::from(who, to));
                calls.push((to, call));
            }
        }
        must_init(&pod, &[]);
        for (to, call) in &mut calls {
            let seen = call.still_echoes().map_or_else(|error| error.to_string(), |()| "an echo".to_owned());
            cells.check(format!("{setup} to {to} after init"), &seen, &"an echo".to_owned());
        }
        let cleanup = init(&pod, &["--cleanup"]);
        let warned = cleanup.stderr.contains("under live connections") && cleanup.stderr.contains("connections=4");
        cells.check(format!("{setup} warned of 4 connections: {}", cleanup.stderr), &warned, &true);
        for (to, call) in &mut calls {
            // With the last nat chain of the namespace goes the redirection of what is connected.
            let (seen, expected) = (call.still_echoes().is_ok(), setup.mesh.is_some());
            cells.check(format!("{setup} to {to} goes on after clean-up"), &seen, &expected);
        }
    });
}

/// Lists and ranges of ports hold to their very ends: the first and the last port of each are ours, their neighbours are
/// the mesh's.
#[test]
fn lists_and_ranges_of_ports_hold_to_their_ends() {
    let options = ["--remoting-port", "2552,25520-25522,3001", "--management-port", "8558,7626-7627"];
    let (remoting, management) = ([2552, 3001, 25520, 25521, 25522], [8558, 7626, 7627]);
    let neighbours = [2551, 2553, 3000, 3002, 7625, 7628, 8557, 8559, 25519, 25523];
    let setups: Vec<_> = Setup::all().into_iter().filter(|setup| setup.mesh.is_some()).collect();
    check_all(&setups, |setup, cells| {
        let (pod, other) = setup.build(&options);
        let ports = [&remoting[..], &management, &neighbours].concat();
        let listen = |pod: &Pod, name| -> Vec<Listener> {
            let at = ports.iter().flat_map(|port| Family::BOTH.map(|family| pod.at(family, *port)));
            at.map(|at| Listener::tcp(pod, name, APP, at)).collect()
        };
        let _listeners = [listen(&pod, "app"), listen(&other, "peer"), agent(&pod), mesh_proxy(&pod, setup.mesh)];
        for family in Family::BOTH {
            for port in &ports {
                let (out, into) = match port {
                    port if remoting.contains(port) => ("agent-outbound", "agent-inbound"),
                    port if management.contains(port) => ("peer", "app"),
                    _ => ("mesh-outbound", "mesh-inbound"),
                };
                for (from, to, who) in [(&pod, other.at(family, *port), out), (&other, pod.at(family, *port), into)] {
                    cells.check(format!("{setup} to {to}"), &call(from, APP, to), &Answer::from(who, to));
                }
            }
        }
    });
}

/// Hundreds of ports are as good as one: applied whole, proven, and each of them is the agent's.
#[test]
fn hundreds_of_ports_are_applied_and_proven() {
    let (pod, other) = Pod::pair();
    let ports: Vec<u16> = (0..500).map(|i| 20_000 + 2 * i).collect();
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    ISTIO.load(&pod);
    must_init(&pod, &["--remoting-port", &list]);
    let _listeners = [agent(&pod), mesh_proxy(&pod, Some(ISTIO))];
    for port in ports.iter().step_by(83).chain(ports.last()) {
        for family in Family::BOTH {
            let (to, between) = (other.at(family, *port), other.at(family, port + 1));
            assert_eq!(call(&pod, APP, to), Answer::from("agent-outbound", to));
            assert_eq!(call(&pod, APP, between), Answer::from("mesh-outbound", between));
        }
    }
}
