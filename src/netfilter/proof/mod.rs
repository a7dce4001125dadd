//! Proof that the rules do what they are for, in an empty pod, before the app starts.
//!
//! Reading the rules back shows that they are there, not that they win: a mesh may sit before them. So the namespace
//! dials itself, outward to a documentation address and inward over a temporary [`link`], and sees where a random token
//! ends. Nothing leaves the pod, and nothing stays behind.

mod dial;
mod elsewhere;
mod link;
mod scaffold;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub use self::elsewhere::{ElsewhereError, prove_made_elsewhere};

use self::dial::{Arrival, Listener, Probe, Token};
use self::scaffold::{Scaffold, ScaffoldError};
use crate::core::backend::Backend;
use crate::core::config::RedirectMode;
use crate::core::plan::{RedirectPlan, TABLE};
use crate::core::ports::PortSet;
use crate::core::ruleset::Family;
use crate::core::xtables::CHAIN_PREFIX;
use crate::netfilter::backend::Standing;
use crate::netfilter::iptables::{self, IptablesError};
use crate::netfilter::{self, NetfilterError, foreign, namespace};

/// Where meshes listen: Istio, ambient, Kuma (out, in), Linkerd (out, in), Consul (in).
const MESH_PORTS: [u16; 5] = [15001, 15006, 4140, 4143, 20000];
/// How long a probe may take. Nothing but this kernel is between its ends, but the kernel may be busy, and then a pod
/// must not fail: only a probe that arrives nowhere waits this long.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Ports of one list that are probed, a family and a direction.
const MOST_SAMPLES: usize = 8;

/// One thing that was proven, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What was proven.
    pub subject: Subject,
    /// How.
    pub kind: ProofKind,
}

/// A family, a direction, a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Out of the pod or into it.
    pub direction: Direction,
    /// TCP port.
    pub port: u16,
    /// Where it must end.
    pub expected: Expected,
}

/// Out of the pod or into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a process of the pod to another pod.
    Outbound,
    /// From another pod to this one.
    Inbound,
}

/// Where a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// At the agent's listener.
    Agent(u16),
    /// Where it was going.
    Straight,
}

/// How strong a proof is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofKind {
    /// A connection went there.
    Live,
    /// The rules stand as written, and no nat chain comes before them; no connection could be made, for this reason.
    ReadBack(String),
    /// A connection went, and nobody of this pod took it.
    Untaken,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        write!(f, "{} {direction} {} ", self.family.name(), self.port)?;
        match self.expected {
            Expected::Agent(port) => write!(f, "to the agent ({port})"),
            Expected::Straight => f.write_str("straight"),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ProofKind::Live => write!(f, "proven live: {}", self.subject),
            ProofKind::Untaken => write!(f, "as far as can be told without NET_ADMIN: {}", self.subject),
            ProofKind::ReadBack(why) => write!(f, "proven by read-back only ({why}): {}", self.subject),
        }
    }
}

/// Why the rules are not proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The kernel does not have what was written.
    #[error("the kernel's rules are not what was written; something changed them meanwhile: {0}")]
    NotAsWritten(String),
    /// Connections ended elsewhere.
    #[error("the rules stand but something in this pod beats them:\n  {}\n{}", shortened(.failures), way_out(*.backend))]
    Ineffective {
        /// By what the rules stand.
        backend: Backend,
        /// A line each.
        failures: Vec<String>,
    },
    /// Rules could not be read, or the proof's own not applied.
    #[error("the proof could not be carried out")]
    Netfilter(#[from] NetfilterError),
    /// The same, by a tool.
    #[error("the proof could not be carried out")]
    Iptables(#[from] IptablesError),
}

const fn way_out(backend: Backend) -> &'static str {
    match backend {
        Backend::Nft => "Run `nft list ruleset` in the pod to see what else is there",
        Backend::Iptables(_) => {
            "iptables' rules can be overtaken: --backend nft comes before every mesh's rules, on a node with nf_tables. \
             Run `iptables-save` and `nft list ruleset` in the pod to see what else is there"
        }
    }
}

fn shortened(failures: &[String]) -> String {
    const MOST: usize = 8;
    let mut lines = failures[..failures.len().min(MOST)].to_vec();
    if failures.len() > MOST {
        lines.push(format!("and {} more", failures.len() - MOST));
    }
    lines.join("\n  ")
}

/// Proves that the rules, which stand, do what `plan` is for.
///
/// # Errors
/// [`ProofError`]; the rules still stand then, the proof's own traces do not.
pub fn prove(plan: &RedirectPlan, standing: &Standing) -> Result<Vec<Proof>, ProofError> {
    read_back(standing)?;
    let backend = standing.backend();
    let families: Vec<Family> = Family::BOTH.into_iter().filter(|family| namespace::has_family(*family)).collect();
    let subjects = subjects(plan, &families);
    let scaffold = match Scaffold::build(backend, &families, &subjects) {
        Ok(scaffold) => scaffold,
        Err(ScaffoldError::Rules(error)) => return Err(error),
        Err(ScaffoldError::Link(reason)) => return by_read_back(backend, subjects, &reason),
    };
    let verdicts = probe_all(plan, &subjects, &scaffold.without);
    let left = scaffold.passed_straight();
    drop(scaffold);
    judge(backend, verdicts, &left?)
}

/// Removes what a run that was killed in its proof left behind.
///
/// # Errors
/// See [`ProofError`].
pub fn remove_leftovers() -> Result<(), ProofError> {
    if link::exists() {
        tracing::warn!("removing what an earlier, killed run left of its proof");
        scaffold::remove()?;
    }
    Ok(())
}

fn read_back(standing: &Standing) -> Result<(), ProofError> {
    let differs = |what: String| Err(ProofError::NotAsWritten(what));
    match standing {
        Standing::Nft(applied) => {
            for ruleset in &applied.rulesets {
                let name = format!("table {} {TABLE}", ruleset.family.name());
                let Some(found) = netfilter::read(ruleset.family, TABLE)? else {
                    return differs(format!("{name} is gone"));
                };
                for chain in &ruleset.chains {
                    let same = found.ruleset.chains.iter().find(|other| other.name == chain.name);
                    if same != Some(chain) {
                        return differs(format!("chain {} of {name} differs", chain.name));
                    }
                }
            }
        }
        Standing::Iptables(held) => {
            let found = iptables::held(held.variant, CHAIN_PREFIX)?;
            if let Some(what) = held.difference(found.as_ref()) {
                return differs(what);
            }
        }
    }
    Ok(())
}

fn subjects(plan: &RedirectPlan, families: &[Family]) -> Vec<Subject> {
    let (out, into) = match plan.mode {
        RedirectMode::Capture => (Expected::Agent(plan.agent.outbound), Expected::Agent(plan.agent.inbound)),
        RedirectMode::Bypass => (Expected::Straight, Expected::Straight),
    };
    let mut subjects = Vec::new();
    for family in families.iter().copied() {
        for (ports, out, into) in
            [(&plan.cluster.remoting, out, into), (&plan.cluster.management, Expected::Straight, Expected::Straight)]
        {
            for port in samples(ports) {
                subjects.push(Subject { family, direction: Direction::Outbound, port, expected: out });
                subjects.push(Subject { family, direction: Direction::Inbound, port, expected: into });
            }
        }
    }
    subjects
}

/// Both ends of every range, and of a long list every so many-th: one rule decides for all ports of a list.
fn samples(ports: &PortSet) -> Vec<u16> {
    let mut ends: Vec<u16> = ports.ranges().iter().flat_map(|range| [range.first(), range.last()]).collect();
    ends.dedup();
    let last = ends.len() - 1;
    let mut samples: Vec<u16> = (0..MOST_SAMPLES).map(|i| ends[i * last / (MOST_SAMPLES - 1)]).collect();
    samples.dedup();
    samples
}

fn by_read_back(backend: Backend, subjects: Vec<Subject>, reason: &str) -> Result<Vec<Proof>, ProofError> {
    let before = match backend {
        Backend::Nft => foreign::nat_chains_before_ours()?,
        Backend::Iptables(variant) => iptables::before_ours(variant)?,
    };
    if !before.is_empty() {
        let list = before.join(", ");
        let failures = vec![format!("nat chains that come before ours, or may: {list} ({reason})")];
        return Err(ProofError::Ineffective { backend, failures });
    }
    let kind = ProofKind::ReadBack(reason.to_owned());
    Ok(subjects.into_iter().map(|subject| Proof { subject, kind: kind.clone() }).collect())
}

/// What a probe found.
enum Verdict {
    /// It went, and arrived here.
    Sent(Subject, Option<Arrival>),
    /// It could not be made, for this reason.
    Impossible(Subject, String),
}

fn probe_all(plan: &RedirectPlan, subjects: &[Subject], without: &[(Family, String)]) -> Vec<Verdict> {
    let (listeners, busy) = listeners(plan, subjects);
    let own_uid = nix::unistd::geteuid().as_raw();
    let mut verdicts = Vec::new();
    let mut probes: Vec<(Subject, Probe)> = Vec::new();
    for subject in subjects {
        let obstacle = match (subject.direction, subject.expected) {
            (Direction::Outbound, Expected::Agent(_)) if own_uid == plan.agent_uid => {
                Some("init runs as the agent's user id, whose own connections the rules exempt".to_owned())
            }
            (Direction::Outbound, Expected::Straight) => None,
            _ => busy
                .iter()
                .find(|(place, _)| *place == place_of(*subject))
                .map(|(place, why)| format!("{place}: {why}")),
        };
        let without = without.iter().find(|(family, _)| *family == subject.family);
        let unrouted = without.map(|(family, why)| format!("a new link gets no {} here: {why}", family.name()));
        if let Some(obstacle) = unrouted.or(obstacle) {
            verdicts.push(Verdict::Impossible(*subject, obstacle));
            continue;
        }
        match Probe::dial(subject.direction, subject.family, subject.port) {
            Ok(probe) => probes.push((*subject, probe)),
            Err(error) => verdicts.push(Verdict::Impossible(*subject, format!("the probe could not be sent: {error}"))),
        }
    }
    let wanted = |subject: &Subject| subject.direction == Direction::Inbound || subject.expected != Expected::Straight;
    let tokens: Vec<Token> = probes.iter().filter(|(s, _)| wanted(s)).map(|(_, probe)| probe.token).collect();
    let mut dialled: Vec<&mut Probe> = probes.iter_mut().map(|(_, probe)| probe).collect();
    let arrivals = dial::collect(&listeners, &mut dialled, &tokens, PROBE_LIMIT);
    verdicts.extend(probes.iter().map(|(subject, probe)| {
        let arrival = arrivals.iter().find(|arrival| arrival.token == probe.token).cloned();
        Verdict::Sent(*subject, arrival)
    }));
    verdicts
}

/// Where a probe's listener stands.
fn place_of(subject: Subject) -> SocketAddr {
    let (loopback, any): (IpAddr, IpAddr) = match subject.family {
        Family::V4 => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    match (subject.direction, subject.expected) {
        (Direction::Outbound, Expected::Agent(port)) => SocketAddr::new(loopback, port),
        (Direction::Outbound, Expected::Straight) => SocketAddr::new(link::canary(subject.family), subject.port),
        (Direction::Inbound, Expected::Agent(port)) => SocketAddr::new(any, port),
        (Direction::Inbound, Expected::Straight) => SocketAddr::new(link::destination(subject.family), subject.port),
    }
}

/// Listeners where the probes must end and where a mesh would take them, and which of the former are not free.
fn listeners(plan: &RedirectPlan, subjects: &[Subject]) -> (Vec<Listener>, Vec<(SocketAddr, String)>) {
    let mut listeners = Vec::new();
    let mut busy = Vec::new();
    let mut places: Vec<SocketAddr> = subjects
        .iter()
        .filter(|subject| (subject.direction, subject.expected) != (Direction::Outbound, Expected::Straight))
        .map(|subject| place_of(*subject))
        .collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        let label =
            if [plan.agent.outbound, plan.agent.inbound].contains(&place.port()) { "the agent's port" } else { "port" };
        match Listener::bind(place, format!("{label} {}", place.port())) {
            Ok(listener) => listeners.push(listener),
            Err(error) => busy.push((place, format!("no listener could be put there ({error})"))),
        }
    }
    for port in MESH_PORTS {
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            // Where the mesh's proxy is up already, it gets what a listener of ours would have told of.
            listeners.extend(Listener::bind(SocketAddr::new(any, port), format!("the mesh's port {port}")));
        }
    }
    (listeners, busy)
}

fn judge(backend: Backend, verdicts: Vec<Verdict>, left: &[(Family, u16)]) -> Result<Vec<Proof>, ProofError> {
    let mut proofs = Vec::new();
    let mut failures = Vec::new();
    let mut obstacles: Vec<(Subject, String)> = Vec::new();
    for verdict in verdicts {
        let (subject, arrival) = match verdict {
            Verdict::Impossible(subject, reason) => {
                obstacles.push((subject, reason));
                continue;
            }
            Verdict::Sent(subject, arrival) => (subject, arrival),
        };
        match failure(subject, arrival.as_ref(), left) {
            None => proofs.push(Proof { subject, kind: ProofKind::Live }),
            Some(seen) => failures.push(format!("{subject}: {seen}")),
        }
    }
    if !failures.is_empty() {
        return Err(ProofError::Ineffective { backend, failures });
    }
    for (subject, reason) in obstacles {
        proofs.extend(by_read_back(backend, vec![subject], &reason)?);
    }
    Ok(proofs)
}

/// What is wrong with where a probe ended, if anything.
fn failure(subject: Subject, arrival: Option<&Arrival>, left: &[(Family, u16)]) -> Option<String> {
    let place = place_of(subject);
    // TPROXY leaves a connection its destination: who took it, only the listener tells.
    if let Some(arrival) = arrival
        && arrival.bound.port() != place.port()
    {
        return Some(describe(arrival));
    }
    match (subject.direction, subject.expected, arrival) {
        (Direction::Outbound, Expected::Straight, None) => (!left.contains(&(subject.family, subject.port)))
            .then(|| "the connection did not leave as it was made".to_owned()),
        (Direction::Outbound, Expected::Agent(_), Some(arrival)) => {
            let meant = SocketAddr::new(link::canary(subject.family), subject.port);
            (arrival.local != Some(place) || arrival.original != Some(meant)).then(|| describe(arrival))
        }
        (Direction::Inbound, Expected::Agent(port), Some(arrival)) => {
            let meant = SocketAddr::new(link::destination(subject.family), subject.port);
            let there = arrival.local.is_some_and(|local| local.port() == port);
            (!there || arrival.original != Some(meant)).then(|| describe(arrival))
        }
        (Direction::Inbound, Expected::Straight, Some(arrival)) => {
            (arrival.local != Some(place)).then(|| describe(arrival))
        }
        (Direction::Outbound, Expected::Straight, Some(arrival)) => Some(describe(arrival)),
        (_, _, None) => Some("the connection arrived nowhere".to_owned()),
    }
}

fn describe(arrival: &Arrival) -> String {
    let original = arrival.original.map(|address| format!(", redirected from {address}")).unwrap_or_default();
    format!("{} got it{original}", arrival.label)
}
