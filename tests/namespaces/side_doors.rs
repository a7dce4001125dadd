//! Plaintext ways to the app's remoting port that go past the agent.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bypassctl::core::ruleset::Family;

use crate::support::forge::silent_ack;
use crate::support::mesh::Mesh;
use crate::support::pod::Pod;
use crate::support::probe::{Answer, Identity, Listener, ask, call};
use crate::support::roles::{AGENT, APP, APP_PORTS, CONTROL, LOOPBACKS, MANAGEMENT, MESH, REMOTING, ROOT, agent, app};
use crate::support::setup::{Order, Setup, check_all};

/// An app that listens on loopback too, as one does that binds 0.0.0.0.
fn app_everywhere(pod: &Pod) -> Vec<Listener> {
    let at = LOOPBACKS.into_iter().flat_map(|ip| APP_PORTS.map(|port| SocketAddr::new(ip, port)));
    let mut listeners = app(pod);
    listeners.extend(at.map(|at| Listener::tcp(pod, "app", APP, at)));
    listeners
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    Family::BOTH.map(|family| pod.address(family)).into_iter().chain(LOOPBACKS)
}

/// Every mesh proxy that rules can know in this setup: 1337 always, the mesh's own once its rules tell its uid, and
/// ambient's by its mark.
fn known_proxies(setup: Setup) -> Vec<Identity> {
    let told = |mesh: &Mesh| mesh.mark.is_some() || setup.order == Order::MeshFirst;
    let own = setup.mesh.filter(told).map(|mesh| mesh.proxy());
    let marked = Identity { mark: Some(0x539), ..ROOT };
    let mut known = vec![MESH, marked];
    known.extend(own.filter(|own| !known.contains(own)));
    known
}

/// In strict mode a mesh proxy in the pod cannot hand plaintext to the app's remoting port, in either family; everything
/// else it can, and the agent and the app itself can.
#[test]
fn a_mesh_proxy_in_the_pod_cannot_reach_remoting_in_plaintext() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, _other) = setup.build(&[]);
        let _app = app_everywhere(&pod);
        for ip in addresses(&pod) {
            let to = SocketAddr::new(ip, REMOTING);
            for proxy in known_proxies(*setup) {
                cells.check(format!("{setup} {proxy} to {to}"), &call(&pod, proxy, to), &Answer::Refused);
            }
            for who in [AGENT, APP] {
                cells.check(format!("{setup} {who} to {to}"), &call(&pod, who, to), &Answer::from("app", to));
            }
        }
        // To loopback: what a mesh proxy dials at the pod's own address, meshes send to their inbound listener.
        for ip in LOOPBACKS {
            for port in [MANAGEMENT, CONTROL] {
                let to = SocketAddr::new(ip, port);
                cells.check(format!("{setup} {MESH} to {to}"), &call(&pod, MESH, to), &Answer::from("app", to));
            }
        }
    });
}

/// A mesh proxy that borrows an address, Istio's 127.0.0.6 or, where the mesh's rules bring the replies back to it, the
/// caller's own, is refused all the same.
#[test]
fn a_borrowed_source_address_opens_no_side_door() {
    let setups: Vec<Setup> = Setup::all().into_iter().filter(|setup| setup.mesh.is_some()).collect();
    check_all(&setups, |setup, cells| {
        let mesh = setup.mesh.expect("only setups with a mesh");
        for doors in ["open", "closed"] {
            let (pod, other) = setup.build(&["--side-doors", doors]);
            let _app = app_everywhere(&pod);
            let mut borrowed = vec![IpAddr::from([127, 0, 0, 6])];
            if mesh.mark.is_some() {
                borrowed.extend(Family::BOTH.map(|family| other.address(family)));
            }
            for source in borrowed {
                let proxy = Identity { source: Some(SocketAddr::new(source, 0)), ..mesh.proxy() };
                let to = SocketAddr::new(pod.address(Family::of(source)), REMOTING);
                let reached = matches!(call(&pod, proxy, to), Answer::From { who, .. } if who == "app");
                let told = known_proxies(*setup).contains(&mesh.proxy());
                let cell = format!("{setup} {doors} {proxy} from {source} to {to} answered");
                cells.check(cell, &reached, &(doors == "open" || !told));
            }
        }
    });
}

/// A neighbour that forges half a connection, so that the rules take the rest for one older than themselves, does not
/// reach the app in plaintext.
#[test]
fn a_forged_half_connection_opens_no_side_door() {
    const PORT: u16 = 40000;
    check_all(&Setup::all(), |setup, cells| {
        for doors in ["open", "closed"] {
            let (pod, other) = setup.build(&["--side-doors", doors]);
            let _listeners = [app(&pod), agent(&pod)];
            for family in Family::BOTH {
                let (from, to) = (other.at(family, PORT), pod.at(family, REMOTING));
                silent_ack(&other, from, to).expect("a raw socket");
                let answer = call(&other, Identity { source: Some(from), ..APP }, to);
                let cell = format!("{setup} {doors} {} {answer} in plaintext", family.name());
                let reached = matches!(answer, Answer::From { who, .. } if who == "app");
                cells.check(cell, &reached, &(doors == "open"));
            }
        }
    });
}

/// `--side-doors open` lets the mesh's proxy through, for a migration, and so does bypass mode, in which the app has no
/// agent to be judged by.
#[test]
fn open_side_doors_and_bypass_mode_let_a_mesh_proxy_through() {
    for args in [["--side-doors", "open"], ["--mode", "bypass"]] {
        check_all(&Setup::all(), |setup, cells| {
            let (pod, other) = setup.build(&args);
            let _app = app_everywhere(&pod);
            let proxy = setup.mesh.map_or(MESH, |mesh| mesh.proxy());
            for ip in addresses(&pod) {
                let to = SocketAddr::new(ip, REMOTING);
                cells.check(
                    format!("{setup} {args:?} {proxy} to {to}"),
                    &call(&pod, proxy, to),
                    &Answer::from("app", to),
                );
            }
            let _udp = Listener::udp(&other, "aeron", APP, other.at(Family::V4, REMOTING));
            let to = other.at(Family::V4, REMOTING);
            cells.check(format!("{setup} {args:?} udp to {to}"), &ask(&pod, APP, to), &Answer::from("aeron", to));
        });
    }
}

/// Aeron's UDP on the remoting port passes every mesh and every agent by: it is refused both ways, to the pod itself too.
#[test]
fn aeron_udp_is_refused_both_ways() {
    check_all(&Setup::all(), |setup, cells| {
        let (pod, other) = setup.build(&[]);
        let listen = |pod: &Pod| {
            Family::BOTH
                .map(|family| [REMOTING, CONTROL].map(|port| Listener::udp(pod, "aeron", APP, pod.at(family, port))))
        };
        let _listeners = [listen(&pod), listen(&other)];
        for family in Family::BOTH {
            for (from, to) in [(&pod, &other), (&other, &pod), (&pod, &pod)] {
                let at = to.at(family, REMOTING);
                cells.check(format!("{setup} udp to {at}"), &ask(from, APP, at), &Answer::Refused);
                let at = to.at(family, CONTROL);
                cells.check(format!("{setup} udp to {at}"), &ask(from, APP, at), &Answer::from("aeron", at));
            }
        }
    });
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        self.mark.map_or(Ok(()), |mark| write!(f, " mark {mark:#x}"))
    }
}
