//! What happens, step by step, each step told as soon as it is seen.

use std::thread;
use std::time::{Duration, Instant};

use super::agent::{self, Agent};
use super::artery::{Dialler, Flow};
use super::lab::{self, Lab, MEMBER, Member, STRANGER, identity};
use super::promise::{Cleanup, Finding, Outage, Refusal, Rotation, Route, Taker, Wire};
use super::{APP_UID, DemoError, HTTP_PORT, MANAGEMENT_PORT, REMOTING_PORT, holders, http, intruder, mesh, probe};
use crate::core::ruleset::Family;
use crate::sandbox::children::Household;
use crate::sandbox::pod::Pod;
use crate::tls::issue::{DevelopmentCa, IssuedLeaf};

const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than an agent takes to notice new files.
const ROTATION_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// Frames before and after a rotation, so that both are in the midst of traffic.
const RUN_UP: u64 = 20;

/// Something to tell.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step of the set-up, by one word, and what it came to.
    Step(&'static str, String),
    /// Where connections go.
    Routes(Vec<Route>),
    /// A promise, and the end of the agents' logs in case it was broken.
    Finding(Finding, Vec<String>),
}

/// Sets everything up, and shows what the mesh, the bypass and the agents do.
///
/// # Errors
/// If a step could not be made at all; a promise that is broken is an event.
pub fn show(household: &Household, tell: &mut dyn FnMut(Event)) -> Result<Lab, DemoError> {
    let mut lab = Lab::raise(household)?;
    let told = lab.doors().iter().map(|door| format!("{} {}", door.name, door.addresses.join(" "))).collect::<Vec<_>>();
    tell(Event::Step("pods", told.join(", ")));
    tell(Event::Step("mesh", "in a and b: everything that leaves → 15001, everything that arrives → 15006".to_owned()));
    let mut routes = ROUTES.map(|kind| kind.seen_alone(&lab));
    install(&mut lab, tell)?;
    for (kind, route) in ROUTES.iter().zip(&mut routes) {
        kind.see_with_bypass(&lab, route);
    }
    tell(Event::Routes(routes.into()));
    let mut find = |lab: &Lab, finding| tell(Event::Finding(finding, logs(lab)));
    for finding in intrusions(&lab)? {
        find(&lab, finding);
    }
    let finding = rotation(&mut lab)?.judge();
    find(&lab, finding);
    let finding = outage(&mut lab)?.judge();
    find(&lab, finding);
    find(&lab, wire(&lab).judge());
    Ok(lab)
}

/// Takes everything down, and shows that nothing is left.
///
/// # Errors
/// If a step could not be made at all.
pub fn take_down(lab: Lab, tell: &mut dyn FnMut(Event)) -> Result<(), DemoError> {
    let log = logs(&lab);
    let namespaces = lab.namespaces()?;
    let household = lab.household.clone();
    let mut cleanup =
        Cleanup { mesh_untouched: true, rules_restored: true, objects: 0, processes: 0, namespaces: 0, scratch: false };
    for member in [&lab.a, &lab.b] {
        let mesh = member.before.of_table(mesh::TABLE);
        cleanup.objects += mesh.len();
        cleanup.mesh_untouched &= lab::rules_of(&member.pod)?.of_table(mesh::TABLE) == mesh;
        if let Some(agent) = &member.agent {
            agent.kill(&member.pod)?;
        }
        agent::init(&household, &member.pod, &["--cleanup"])?;
        cleanup.rules_restored &= lab::rules_of(&member.pod)? == member.before;
    }
    cleanup.processes = household.running();
    drop(lab);
    household.close();
    cleanup.namespaces = holders::count(&namespaces);
    cleanup.scratch = household.scratch().exists();
    tell(Event::Finding(cleanup.judge(), log));
    Ok(())
}

/// Rules first, then the sidecar, as in a pod.
fn install(lab: &mut Lab, tell: &mut dyn FnMut(Event)) -> Result<(), DemoError> {
    let household = lab.household.clone();
    let [a, b] = both(lab, |member| agent::init(&household, &member.pod, &[]))?;
    let millis = |took: Duration| took.as_millis();
    let told = format!("bypassctl init: rules in place and proven, a {} ms, b {} ms", millis(a), millis(b));
    tell(Event::Step("init", told));
    let [a, b] = both(lab, |member| {
        let start = Instant::now();
        let agent = Agent::start(&household, &member.pod, &member.mount)?;
        agent.await_ready(&member.pod)?;
        member.agent = Some(agent);
        Ok(start.elapsed())
    })?;
    let told = format!("bypassctl proxy, as {}: ready, a {} ms, b {} ms", identity(MEMBER), millis(a), millis(b));
    tell(Event::Step("proxy", told));
    Ok(())
}

/// Does the same with both members at the same time.
fn both<T: Send>(
    lab: &mut Lab,
    work: impl Fn(&mut Member) -> Result<T, DemoError> + Sync,
) -> Result<[T; 2], DemoError> {
    let (a, b) = thread::scope(|scope| {
        let a = scope.spawn(|| work(&mut lab.a));
        let b = work(&mut lab.b);
        (a.join(), b)
    });
    Ok([a.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, b?])
}

/// A kind of connection to b, and who must take it with the bypass; under the mesh alone, the mesh must.
struct RouteKind {
    from_outside: bool,
    port: u16,
    purpose: &'static str,
    /// `None`: the mesh still.
    with_bypass: Option<Taker>,
}

const ROUTES: [RouteKind; 5] = [
    RouteKind { from_outside: false, port: HTTP_PORT, purpose: "the app's HTTP", with_bypass: None },
    RouteKind { from_outside: true, port: HTTP_PORT, purpose: "the app's HTTP", with_bypass: None },
    RouteKind { from_outside: false, port: MANAGEMENT_PORT, purpose: "management", with_bypass: Some(Taker::App) },
    RouteKind { from_outside: true, port: MANAGEMENT_PORT, purpose: "management", with_bypass: Some(Taker::App) },
    RouteKind { from_outside: false, port: REMOTING_PORT, purpose: "remoting", with_bypass: Some(Taker::Agents) },
];

impl RouteKind {
    fn dialler<'a>(&self, lab: &'a Lab) -> &'a Pod {
        if self.from_outside { &lab.outsider } else { &lab.a.pod }
    }

    fn dial(&self, lab: &Lab, family: Family) -> Taker {
        probe::dial(self.dialler(lab), &lab.b, self.port, family)
    }

    fn seen_alone(&self, lab: &Lab) -> Route {
        let dialler = self.dialler(lab);
        let captor = if self.from_outside { mesh::inbound_of(&lab.b.pod) } else { mesh::outbound_of(dialler) };
        let captured = Taker::Mesh(captor);
        let not_yet = || Taker::Nobody("not tried".to_owned());
        Route {
            path: format!("{} → {}", dialler.name(), lab.b.pod.name()),
            port: self.port,
            purpose: self.purpose,
            expected: [captured.clone(), self.with_bypass.clone().unwrap_or(captured)],
            seen: Family::BOTH.map(|family| (family, [self.dial(lab, family), not_yet()])).into(),
        }
    }

    fn see_with_bypass(&self, lab: &Lab, route: &mut Route) {
        for (family, [_, with_bypass]) in &mut route.seen {
            *with_bypass = self.dial(lab, *family);
        }
    }
}

fn intrusions(lab: &Lab) -> Result<Vec<Finding>, DemoError> {
    let stranger = lab::leaf(&lab.ca, STRANGER)?;
    let foreign = lab::leaf(&DevelopmentCa::new("bypassctl demo CA")?, MEMBER)?;
    let (member_id, stranger_id) = (identity(MEMBER), identity(STRANGER));
    let cases: [(&'static str, Family, Option<&IssuedLeaf>, Vec<&str>); 3] = [
        ("a plaintext intruder", Family::V4, None, vec!["plaintext_refused", "artery"]),
        ("a wrong identity of the same CA", Family::V6, Some(&stranger), vec!["denied", &stranger_id, &member_id]),
        ("the right identity of a foreign CA", Family::V4, Some(&foreign), vec!["untrusted"]),
    ];
    let mut findings = Vec::new();
    for (who, family, leaf, must_say) in cases {
        let attempt = || DemoError::io(&format!("dial pod b as {who}"));
        let Some(agent) = &lab.b.agent else { continue };
        let (connections, lines) = (lab.b.inbox.count(), agent.log_length());
        let stream = lab.outsider.connect(APP_UID, remoting_of(&lab.b, family), PATIENCE).map_err(attempt())?;
        let intruder = stream.local_addr().map_err(attempt())?;
        let outcome = match leaf {
            None => intruder::plaintext(stream),
            Some(leaf) => intruder::with_certificate(stream, leaf),
        }
        .map_err(attempt())?;
        let line = agent.line_about(lines, intruder, PATIENCE);
        let refusal = Refusal {
            who,
            ended: outcome.ended,
            reached_the_app: lab.b.inbox.count() - connections,
            must_say: must_say.into_iter().map(str::to_owned).collect(),
            line,
        };
        findings.push(refusal.judge());
    }
    Ok(findings)
}

fn rotation(lab: &mut Lab) -> Result<Rotation, DemoError> {
    let attempt = || DemoError::io("dial pod b while its certificate is rotated");
    let token = probe::token();
    let stream = lab.a.pod.connect(APP_UID, remoting_of(&lab.b, Family::V4), PATIENCE).map_err(attempt())?;
    let flow = Flow::start(Dialler::greet(stream, token).map_err(attempt())?).map_err(attempt())?;
    let received = |lab: &Lab, frames| lab.b.inbox.wait_for(token, PATIENCE, |received| received.frames >= frames);
    received(lab, RUN_UP);
    let serials = |lab: &Lab| [serial(&lab.a), serial(&lab.b)];
    let before = serials(lab);
    for member in [&mut lab.a, &mut lab.b] {
        let renewed = lab::leaf(&lab.ca, MEMBER)?;
        let update = member.mount.update(lab.ca.certificate_pem(), &renewed);
        update.map_err(DemoError::io("write the next certificate"))?;
    }
    let deadline = Instant::now() + ROTATION_PATIENCE;
    let mut after = serials(lab);
    while (0..2).any(|pod| after[pod] == before[pod]) && Instant::now() < deadline {
        thread::sleep(POLL);
        after = serials(lab);
    }
    let so_far = received(lab, 0).map_or(0, |received| received.frames);
    received(lab, so_far + RUN_UP);
    // Whoever dials is shown a certificate, also one that is then refused.
    let stranger = lab::leaf(&lab.ca, STRANGER)?;
    let stream = lab.outsider.connect(APP_UID, remoting_of(&lab.b, Family::V4), PATIENCE).map_err(attempt())?;
    let serial_of_new = intruder::with_certificate(stream, &stranger).map_err(attempt())?.serial;
    let sent = flow.stop().map_err(|error| error.to_string());
    let all = *sent.as_ref().unwrap_or(&u64::MAX);
    let received = lab.b.inbox.wait_for(token, PATIENCE, |received| received.frames >= all || received.closed);
    let ([_, before], [_, after]) = (before, after);
    Ok(Rotation {
        serials: [before, after],
        serial_of_new,
        sent,
        received: received.map_or(0, |received| received.frames),
        out_of_order: received.map_or(0, |received| received.out_of_order),
        // The flow's end closed it, when its last frame had been sent.
        closed: received.is_none_or(|received| received.closed && received.frames != all),
    })
}

fn outage(lab: &mut Lab) -> Result<Outage, DemoError> {
    if let Some(agent) = lab.a.agent.take() {
        agent.kill(&lab.a.pod)?;
    }
    let connections = lab.b.inbox.count();
    let without = Family::BOTH.map(|family| {
        let start = Instant::now();
        let taker = probe::dial(&lab.a.pod, &lab.b, REMOTING_PORT, family);
        (family, taker, start.elapsed())
    });
    let reached_the_app = lab.b.inbox.count() - connections;
    let start = Instant::now();
    let agent = Agent::start(&lab.household, &lab.a.pod, &lab.a.mount)?;
    let ready = agent.await_ready(&lab.a.pod);
    let restart = ready.is_ok().then(|| start.elapsed());
    lab.a.agent = Some(agent);
    let after = probe::dial(&lab.a.pod, &lab.b, REMOTING_PORT, Family::V4);
    Ok(Outage { without: without.into(), reached_the_app, restart, after })
}

fn wire(lab: &Lab) -> Wire {
    let tally = |client: &Pod, port| lab.capture.tally(&Family::BOTH.map(|family| client.address(family)), port);
    Wire {
        remoting: tally(&lab.a.pod, REMOTING_PORT),
        management: tally(&lab.a.pod, MANAGEMENT_PORT),
        intruders: tally(&lab.outsider, REMOTING_PORT),
    }
}

/// The serial number of a pod's certificate, by its agent's admin port.
fn serial(member: &Member) -> Option<String> {
    let response = agent::admin(&member.pod, "/status").ok()?;
    let (_, body) = http::parse(&response)?;
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(status.pointer("/credentials/chain/0/serial")?.as_str()?.to_owned())
}

fn remoting_of(member: &Member, family: Family) -> std::net::SocketAddr {
    std::net::SocketAddr::new(member.pod.address(family), REMOTING_PORT)
}

fn logs(lab: &Lab) -> Vec<String> {
    let tail = |member: &Member| {
        let name = member.pod.name();
        let lines = member.agent.as_ref().map(Agent::tail).unwrap_or_default();
        lines.into_iter().map(move |line| format!("agent of {name}: {line}"))
    };
    tail(&lab.a).chain(tail(&lab.b)).collect()
}
