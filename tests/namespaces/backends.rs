//! Which backend holds beside which mesh: backend × mesh × order × mode, each by family × direction × port.
//!
//! What is expected stands in one table, which docs/backends.md shows; what is seen is compared with it cell by cell.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use bypassctl::core::plan::CANARY;
use bypassctl::core::ruleset::Family;

use crate::support::backend::{Backend, rules};
use crate::support::init::{init, must_init};
use crate::support::mesh::{MESHES, Mesh, VARIANTS};
use crate::support::pod::Pod;
use crate::support::probe::{Answer, call};
use crate::support::roles::{AGENT, AGENT_OUTBOUND, APP, APP_PORTS, CONTROL, REMOTING, agent, app, mesh_proxy, peer};
use crate::support::setup::{Order, check_all};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Every connection goes where it should, the control port's to the mesh.
    Holds,
    /// `init` exits with 4 and leaves what was there.
    Refused,
    /// The mesh came after `init` and took connections; run again, `init` comes first again, and everything holds.
    Mended,
    /// The mesh came after `init` and took connections; run again, `init` exits with 4.
    Overtaken,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Refused => "exit 4",
            Self::Mended => "again",
            Self::Overtaken => "overtaken",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    backend: Backend,
    mesh: Mesh,
    order: Order,
    mode: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20} {:<15} {:<9} {:<7}", self.mesh.name, self.backend, format!("{:?}", self.order), self.mode)
    }
}

fn meshes() -> impl Iterator<Item = Mesh> {
    MESHES.into_iter().chain(VARIANTS)
}

/// Chains of nft come before every mesh's. In one and the same iptables ours are at the head, until a mesh inserts its own;
/// beside another backend the one registered last is asked first, in nat for what is captured, in mangle for TPROXY.
fn expected(case: &Case) -> Outcome {
    let Case { backend, mesh, order, mode } = *case;
    let late = order == Order::OursFirst;
    if backend == Backend::Nft {
        Outcome::Holds
    } else if mesh.backend() == backend {
        if mesh.inserts && late && mode == "capture" { Outcome::Mended } else { Outcome::Holds }
    } else if mesh.is_tproxy() {
        if late { Outcome::Overtaken } else { Outcome::Refused }
    } else if late && mode == "capture" {
        Outcome::Overtaken
    } else {
        Outcome::Holds
    }
}

/// The table of docs/backends.md.
fn table() -> String {
    let columns =
        Backend::ALL.into_iter().flat_map(|backend| [Order::OursFirst, Order::MeshFirst].map(|order| (backend, order)));
    let columns: Vec<_> = columns.collect();
    let order = |order| if order == Order::OursFirst { "ours first" } else { "mesh first" };
    let heads: Vec<String> = columns.iter().map(|(backend, first)| format!("{backend}, {}", order(*first))).collect();
    let mut table = format!("| mesh | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for mesh in meshes() {
        let cell = |(backend, order): &(Backend, Order)| {
            let [capture, bypass] =
                ["capture", "bypass"].map(|mode| expected(&Case { backend: *backend, mesh, order: *order, mode }));
            if capture == bypass { capture.to_string() } else { format!("{capture}; bypass: {bypass}") }
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        table += &format!("| {} | {} |\n", mesh.name, cells.join(" | "));
    }
    table
}

/// The documentation shows the expectations that the test below holds the backends to.
#[test]
fn the_documented_table_is_the_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md");
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(text.contains(&table()), "{} must hold\n{}", path.display(), table());
}

fn seen(case: &Case) -> (Outcome, String) {
    let arguments = ["--backend", case.backend.name(), "--mode", case.mode];
    let (pod, other) = Pod::pair();
    if case.order == Order::OursFirst {
        must_init(&pod, &arguments);
        case.mesh.load(&pod);
    } else {
        case.mesh.load(&pod);
        let before = rules(&pod);
        let finished = init(&pod, &arguments);
        if finished.code == 4 {
            assert_eq!(rules(&pod), before, "{case}: rolled back");
            assert!(finished.stderr.contains("--backend nft"), "{case}: names no way out: {finished}");
            return (Outcome::Refused, String::new());
        }
        assert_eq!(finished.code, 0, "{case}: {finished}");
    }
    let wrong = strays(case, &pod, &other);
    if wrong.is_empty() {
        return (Outcome::Holds, wrong);
    }
    assert_eq!(case.order, Order::OursFirst, "{case}: init said that it was proven, and {wrong}");
    if case.mode == "capture" {
        // `/ready` says so: the canary does not come back to the agent.
        let _listeners = [agent(&pod), mesh_proxy(&pod, Some(case.mesh))];
        let to = SocketAddr::new(CANARY[0], AGENT_OUTBOUND);
        assert_ne!(call(&pod, AGENT, to), Answer::from("agent-outbound", to), "{case}: the canary sees nothing");
    }
    let again = init(&pod, &arguments);
    if again.code == 4 {
        return (Outcome::Overtaken, wrong);
    }
    assert_eq!(again.code, 0, "{case}: {again}");
    let still = strays(case, &pod, &other);
    assert_eq!(still, "", "{case}: proven by the second run");
    (Outcome::Mended, wrong)
}

/// Connections that end where they should not.
fn strays(case: &Case, pod: &Pod, other: &Pod) -> String {
    let _listeners = [app(pod), agent(pod), mesh_proxy(pod, Some(case.mesh)), peer(other, &[])];
    let mut wrong = Vec::new();
    for family in Family::BOTH {
        for port in APP_PORTS {
            let capture = case.mode == "capture" && port == REMOTING;
            let (out, into) = match port {
                CONTROL => ("mesh-outbound", "mesh-inbound"),
                _ if capture => ("agent-outbound", "agent-inbound"),
                _ => ("peer", "app"),
            };
            for (from, to, who) in [(pod, other, out), (other, pod, into)] {
                let to = to.at(family, port);
                let answer = call(from, APP, to);
                if answer != Answer::from(who, to) {
                    wrong.push(format!("{who} {to}: {answer}"));
                }
            }
        }
    }
    wrong.join(", ")
}

/// Each backend holds beside each mesh, or refuses, exactly as the documentation says; and what `init` says is proven,
/// holds.
#[test]
fn a_backend_holds_or_refuses_as_documented() {
    let mut cases = Vec::new();
    for mesh in meshes() {
        // With nft, `matrix.rs` has the rest.
        let all = VARIANTS.contains(&mesh);
        for backend in Backend::ALL.into_iter().filter(|backend| all || *backend != Backend::Nft) {
            for order in [Order::OursFirst, Order::MeshFirst] {
                cases.extend(["capture", "bypass"].map(|mode| Case { backend, mesh, order, mode }));
            }
        }
    }
    check_all(&cases, |case, cells| {
        let (outcome, wrong) = seen(case);
        cells.check(format!("{case} [{wrong}]"), &outcome, &expected(case));
    });
}

/// A mesh of the same iptables that takes its rules and routes away, and makes them again, as Istio's clean-up and re-run and
/// ambient's delete and re-create do, leaves a tool's rules as they were; and they hold all the while.
#[test]
fn a_mesh_that_goes_and_comes_back_leaves_a_tools_rules_alone() {
    let cases = meshes().filter(|mesh| mesh.backend() != Backend::Nft && !mesh.inserts).map(|mesh| Case {
        backend: mesh.backend(),
        mesh,
        order: Order::MeshFirst,
        mode: "capture",
    });
    check_all(&cases.collect::<Vec<_>>(), |case, cells| {
        let (pod, other) = Pod::pair();
        case.mesh.load(&pod);
        must_init(&pod, &["--backend", case.backend.name()]);
        let ours = ours(&pod);
        cells.check(format!("{case} there"), &ours.is_empty(), &false);
        for _ in 0..2 {
            case.mesh.unload(&pod);
            cells.check(format!("{case} ours, the mesh gone"), &self::ours(&pod), &ours);
            let listeners = [app(&pod), agent(&pod), peer(&other, &[])];
            for family in Family::BOTH {
                for (from, to, remoting, control) in
                    [(&pod, &other, "agent-outbound", "peer"), (&other, &pod, "agent-inbound", "app")]
                {
                    for (port, who) in [(REMOTING, remoting), (CONTROL, control)] {
                        let to = to.at(family, port);
                        let cell = format!("{case} to {to}, the mesh gone");
                        cells.check(cell, &call(from, APP, to), &Answer::from(who, to));
                    }
                }
            }
            drop(listeners);
            case.mesh.load(&pod);
            cells.check(format!("{case} ours, the mesh back"), &self::ours(&pod), &ours);
            cells.check(format!("{case} strays, the mesh back"), &strays(case, &pod, &other), &String::new());
        }
    });
}

fn ours(pod: &Pod) -> String {
    rules(pod)
        .lines()
        .filter(|line| line.contains("BYPASSCTL") && line.contains("-save"))
        .collect::<Vec<_>>()
        .join("\n")
}
