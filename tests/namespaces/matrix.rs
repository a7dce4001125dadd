//! Who gets a connection: mesh × order × mode × family × direction × port.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bypassctl::core::ruleset::Family;

use crate::support::init::must_init;
use crate::support::mesh::{MESHES, Mesh};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, call};
use crate::support::roles::{APP, APP_PORTS, CONTROL, MANAGEMENT, REMOTING, agent, app, mesh_proxy, peer};

/// What of ours is in the pod, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    Absent,
    Capture(Order),
    Bypass(Order),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    OursFirst,
    MeshFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

const ORDERS: [Order; 2] = [Order::OursFirst, Order::MeshFirst];

/// One pod's worth of cells.
#[derive(Clone, Copy, Debug)]
struct Case {
    mesh: Option<Mesh>,
    ours: Ours,
}

/// A cell that is not as it should be.
struct Mismatch {
    case: Case,
    direction: Direction,
    family: Family,
    port: u16,
    expected: Answer,
    seen: Answer,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, direction, family, port, expected, seen } = self;
        let mesh = case.mesh.map_or("none", |mesh| mesh.name);
        let (ours, direction) = (format!("{:?}", case.ours), format!("{direction:?}"));
        write!(f, "{mesh:<20} {ours:<20} {direction:<4} {} {port:<5} ", family.name())?;
        write!(f, "expected {:<36} saw {seen}", expected.to_string())
    }
}

fn meshes() -> impl Iterator<Item = Option<Mesh>> {
    std::iter::once(None).chain(MESHES.map(Some))
}

/// Who should answer.
fn expected(case: Case, direction: Direction, port: u16) -> &'static str {
    let bypassed = match case.ours {
        Ours::Absent => false,
        Ours::Bypass(_) => port == REMOTING || port == MANAGEMENT,
        Ours::Capture(_) if port == REMOTING => {
            return if direction == Direction::Out { "agent-outbound" } else { "agent-inbound" };
        }
        Ours::Capture(_) => port == MANAGEMENT,
    };
    match (direction, case.mesh.is_none() || bypassed) {
        (Direction::Out, true) => "peer",
        (Direction::Out, false) => "mesh-outbound",
        (Direction::In, true) => "app",
        (Direction::In, false) => "mesh-inbound",
    }
}

fn run(case: Case) -> Vec<Mismatch> {
    let (pod, other) = Pod::pair();
    let init = || match case.ours {
        Ours::Absent => {}
        Ours::Capture(_) => must_init(&pod, &["--mode", "capture"]),
        Ours::Bypass(_) => must_init(&pod, &["--mode", "bypass"]),
    };
    let ours_first = matches!(case.ours, Ours::Capture(Order::OursFirst) | Ours::Bypass(Order::OursFirst));
    if ours_first {
        init();
    }
    if let Some(mesh) = case.mesh {
        mesh.load(&pod);
    }
    if !ours_first {
        init();
    }
    let _listeners = [app(&pod), agent(&pod), mesh_proxy(&pod, case.mesh), peer(&other, &[])];
    let mut mismatches = Vec::new();
    for family in Family::BOTH {
        for port in APP_PORTS {
            for (direction, from, to) in [(Direction::Out, &pod, &other), (Direction::In, &other, &pod)] {
                let to = to.at(family, port);
                let expected = Answer::from(expected(case, direction, port), to);
                let seen = call(from, APP, to);
                if seen != expected {
                    mismatches.push(Mismatch { case, direction, family, port, expected, seen });
                }
            }
        }
    }
    mismatches
}

fn run_all(cases: &[Case]) {
    let (next, mismatches) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = run(*case);
            mismatches.lock().expect("no other thread has panicked").extend(found);
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let mismatches = mismatches.into_inner().expect("no thread has panicked");
    let table: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
    let cells = cases.len() * Family::BOTH.len() * APP_PORTS.len() * 2;
    assert!(table.is_empty(), "{} of {cells} cells are wrong:\n{}", table.len(), table.join("\n"));
}

/// Without bypassctl every mesh captures remoting, management and the control port, both ways and in both families: the
/// tests below could fail.
#[test]
fn without_our_rules_every_mesh_captures_everything() {
    let cases: Vec<_> = meshes().map(|mesh| Case { mesh, ours: Ours::Absent }).collect();
    assert!(APP_PORTS.contains(&CONTROL));
    run_all(&cases);
}

/// Remoting goes to the agent and management goes straight, and the mesh keeps every other port, whichever mesh it is and
/// whoever came first.
#[test]
fn in_capture_mode_the_agent_has_remoting_and_the_mesh_has_the_rest() {
    let cases: Vec<_> =
        meshes().flat_map(|mesh| ORDERS.map(|order| Case { mesh, ours: Ours::Capture(order) })).collect();
    run_all(&cases);
}

/// Remoting and management go straight, and the mesh keeps every other port, whichever mesh it is and whoever came first.
#[test]
fn in_bypass_mode_remoting_goes_straight_and_the_mesh_has_the_rest() {
    let cases: Vec<_> =
        meshes().flat_map(|mesh| ORDERS.map(|order| Case { mesh, ours: Ours::Bypass(order) })).collect();
    run_all(&cases);
}
