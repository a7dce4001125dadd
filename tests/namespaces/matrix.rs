//! Who gets a connection: mesh × order × mode × family × direction × port.

use bypassctl::core::ruleset::Family;

use crate::support::pod::Pod;
use crate::support::probe::{Answer, call};
use crate::support::roles::{APP, APP_PORTS, MANAGEMENT, REMOTING, agent, app, mesh_proxy, peer};
use crate::support::setup::{Cells, Order, Setup, check_all};

/// What of ours is in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ours {
    Absent,
    Capture,
    Bypass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

/// Who should answer.
fn expected(ours: Ours, under_mesh: bool, direction: Direction, port: u16) -> &'static str {
    if ours == Ours::Capture && port == REMOTING {
        return if direction == Direction::Out { "agent-outbound" } else { "agent-inbound" };
    }
    let straight = !under_mesh || (ours != Ours::Absent && [REMOTING, MANAGEMENT].contains(&port));
    match (direction, straight) {
        (Direction::Out, true) => "peer",
        (Direction::Out, false) => "mesh-outbound",
        (Direction::In, true) => "app",
        (Direction::In, false) => "mesh-inbound",
    }
}

fn fill(setup: Setup, ours: Ours, cells: &mut Cells) {
    let (pod, other) = match ours {
        Ours::Absent => {
            let (pod, other) = Pod::pair();
            if let Some(mesh) = setup.mesh {
                mesh.load(&pod);
            }
            (pod, other)
        }
        Ours::Capture => setup.build(&["--mode", "capture"]),
        Ours::Bypass => setup.build(&["--mode", "bypass"]),
    };
    look(setup, ours, &pod, &other, cells);
}

/// Who gets which connection of a pod whose rules stand, and of its peer.
pub(crate) fn look(setup: Setup, ours: Ours, pod: &Pod, other: &Pod, cells: &mut Cells) {
    let _listeners = [app(pod), agent(pod), mesh_proxy(pod, setup.mesh), peer(other, &[])];
    for family in Family::BOTH {
        for port in APP_PORTS {
            for (direction, from, to) in [(Direction::Out, pod, other), (Direction::In, other, pod)] {
                let to = to.at(family, port);
                let expected = Answer::from(expected(ours, setup.mesh.is_some(), direction, port), to);
                let cell = format!("{setup} {ours:?} {direction:?} {} {port}", family.name());
                cells.check(cell, &call(from, APP, to), &expected);
            }
        }
    }
}

/// Without bypassctl every mesh captures remoting, management and the control port, both ways and in both families: the
/// tests below could fail.
#[test]
fn without_our_rules_every_mesh_captures_everything() {
    let setups: Vec<_> = Setup::all().into_iter().filter(|setup| setup.order == Order::MeshFirst).collect();
    check_all(&setups, |setup, cells| fill(*setup, Ours::Absent, cells));
}

/// Remoting goes to the agent and management goes straight, and the mesh keeps every other port, whichever mesh it is and
/// whoever came first.
#[test]
fn in_capture_mode_the_agent_has_remoting_and_the_mesh_has_the_rest() {
    check_all(&Setup::all(), |setup, cells| fill(*setup, Ours::Capture, cells));
}

/// Remoting and management go straight, and the mesh keeps every other port, whichever mesh it is and whoever came first.
#[test]
fn in_bypass_mode_remoting_goes_straight_and_the_mesh_has_the_rest() {
    check_all(&Setup::all(), |setup, cells| fill(*setup, Ours::Bypass, cells));
}
