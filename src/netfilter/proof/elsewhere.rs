//! Proof, without any privilege, of rules that somebody else has made: a CNI plugin, another container.
//!
//! The pod dials an address of nobody and sees who gets it. What arrives from outside cannot be tried from in here, and a
//! connection that goes straight leaves the pod and is answered by nobody: that none of the pod's processes took it is all
//! that is seen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::core::config::RedirectMode;
use crate::core::plan::RedirectPlan;
use crate::core::ruleset::Family;
use crate::netfilter::namespace;
use crate::netfilter::proof::dial::{self, Listener, Probe, Token};
use crate::netfilter::proof::{
    Direction, Expected, MESH_PORTS, PROBE_LIMIT, Proof, ProofKind, Subject, describe, place_of, subjects,
};

/// How long nobody may take what is to go straight: a redirect within this kernel takes no millisecond.
const UNTAKEN: Duration = Duration::from_millis(500);

/// Why rules of somebody else's are not proven.
#[derive(Debug, thiserror::Error)]
pub enum ElsewhereError {
    /// They are not there, or do something else.
    #[error("nobody's rules do what ours would:\n  {}", .0.join("\n  "))]
    NotThere(Vec<String>),
    /// The sidecar is up: it proves the rules itself.
    #[error("{0} is taken, most likely by the sidecar, whose own canary tells (`bypassctl status --local`)")]
    Busy(SocketAddr),
    /// No way out of this pod.
    #[error("this pod has no route to anywhere, so nothing can be tried")]
    NoRoute,
    /// A listener or a probe.
    #[error("the proof could not be carried out")]
    Io(#[from] io::Error),
}

/// Proves of the plan what can be proven from inside and without a privilege: its outbound half.
///
/// # Errors
/// See [`ElsewhereError`].
pub fn prove_made_elsewhere(plan: &RedirectPlan) -> Result<Vec<Proof>, ElsewhereError> {
    let families: Vec<Family> = Family::BOTH.into_iter().filter(|family| namespace::has_family(*family)).collect();
    let subjects = outbound(plan, &families);
    let listeners = listeners(plan, &subjects)?;
    let mut probes: Vec<(Subject, Probe)> = Vec::new();
    for subject in subjects {
        match Probe::dial(Direction::Outbound, subject.family, subject.port) {
            Ok(probe) => probes.push((subject, probe)),
            // Then there is no remoting of this family either.
            Err(error) if is_no_route(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if probes.is_empty() {
        return Err(ElsewhereError::NoRoute);
    }
    let tokens = |straight: bool| -> Vec<Token> {
        let meant = probes.iter().filter(|(subject, _)| (subject.expected == Expected::Straight) == straight);
        meant.map(|(_, probe)| probe.token).collect()
    };
    let (redirected, straight) = (tokens(false), tokens(true));
    let mut arrivals = Vec::new();
    for (wanted, limit) in [(redirected, PROBE_LIMIT), (straight, UNTAKEN)] {
        let mut dialled: Vec<&mut Probe> = probes.iter_mut().map(|(_, probe)| probe).collect();
        arrivals.extend(dial::collect(&listeners, &mut dialled, &wanted, limit));
    }
    let (mut proofs, mut failures) = (Vec::new(), Vec::new());
    for (subject, probe) in probes {
        let arrival = arrivals.iter().find(|arrival| arrival.token == probe.token);
        let kind = match (subject.expected, arrival) {
            (Expected::Agent(_), Some(arrival)) if arrival.bound == place_of(subject) => Ok(ProofKind::Live),
            (_, Some(arrival)) => Err(describe(arrival)),
            (Expected::Agent(_), None) => Err("the connection did not come to the agent's port".to_owned()),
            (Expected::Straight, None) if probe.was_taken() => Err("somebody in this pod took it".to_owned()),
            (Expected::Straight, None) if probe.was_refused() => Err(
                "it was refused, and nobody outside of this pod answers there: rules lead it to where nobody listens"
                    .to_owned(),
            ),
            (Expected::Straight, None) => Ok(ProofKind::Untaken),
        };
        match kind {
            Ok(kind) => proofs.push(Proof { subject, kind }),
            Err(seen) => failures.push(format!("{subject}: {seen}")),
        }
    }
    if failures.is_empty() { Ok(proofs) } else { Err(ElsewhereError::NotThere(failures)) }
}

/// The rules exempt the agent's own user: of it, they know the canary alone.
fn outbound(plan: &RedirectPlan, families: &[Family]) -> Vec<Subject> {
    let is_agent = nix::unistd::geteuid().as_raw() == plan.agent_uid;
    let own = plan.agent.outbound;
    let canary = |expected: Expected| {
        let of =
            move |family: &Family| Subject { family: *family, direction: Direction::Outbound, port: own, expected };
        families.iter().map(of)
    };
    if is_agent && plan.mode == RedirectMode::Capture {
        return canary(Expected::Agent(own)).collect();
    }
    let dialled = subjects(plan, families).into_iter().filter(|subject| subject.direction == Direction::Outbound);
    // Rules that capture would exempt it of everything else.
    dialled.chain(canary(Expected::Straight).filter(|_| is_agent)).collect()
}

fn listeners(plan: &RedirectPlan, subjects: &[Subject]) -> Result<Vec<Listener>, ElsewhereError> {
    let redirected = subjects.iter().filter(|subject| subject.expected != Expected::Straight);
    let mut places: Vec<SocketAddr> = redirected.map(|subject| place_of(*subject)).collect();
    places.sort_unstable();
    places.dedup();
    let mut listeners = Vec::new();
    for place in places {
        match Listener::bind_plainly(place, format!("the agent's port {}", place.port())) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(ElsewhereError::Busy(place)),
            Err(error) => return Err(error.into()),
        }
    }
    if plan.mode == RedirectMode::Bypass {
        // Where rules that capture would lead; a sidecar that is up takes the connection itself.
        for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let port = plan.agent.outbound;
            let label = format!("the agent's port {port}");
            listeners.extend(Listener::bind_plainly(SocketAddr::new(loopback, port), label));
        }
    }
    for port in MESH_PORTS {
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            // A mesh's proxy that is up takes the connection itself, which is seen as well.
            listeners.extend(Listener::bind_plainly(SocketAddr::new(any, port), format!("the mesh's port {port}")));
        }
    }
    Ok(listeners)
}

fn is_no_route(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable
    )
}
