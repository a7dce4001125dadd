//! Whether app, manifest and agent mean the same ports.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Container;

use crate::core::checks::Findings;
use crate::core::checks::subject::{AgentContainer, MeshKind, Subject, WRONG_PEKKO_PORT};
use crate::core::ports::PortSet;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    let Some(app) = subject.app else { return };
    valid(subject, findings, app);
    agreed(subject, findings, &Kind::remoting());
    agreed(subject, findings, &Kind::management());
    pekko(subject, findings);
}

/// What the API server asks of a container's ports (Kubernetes API, ContainerPort).
fn valid(subject: &Subject, findings: &mut Findings, app: &Container) {
    let ports = app.ports.as_deref().unwrap_or_default();
    let mut wrong: Vec<String> = ports
        .iter()
        .filter(|port| !(1..=65535).contains(&port.container_port))
        .map(|port| format!("{} is no port: there are 1 to 65535", port.container_port))
        .collect();
    let mut names = BTreeSet::new();
    let doubled = ports.iter().filter_map(|port| port.name.as_deref()).filter(|name| !names.insert(*name));
    wrong.extend(doubled.map(|name| format!("two ports are called {name:?}")));
    if wrong.is_empty() {
        return findings.pass("container-ports", &subject.object, format!("{} ports are declared", ports.len()));
    }
    let message = format!("of container {}, {}", app.name, wrong.join(" and "));
    findings.fail("container-ports", &subject.object, message, "kubectl apply --dry-run=server -f FILE");
}

/// What differs between remoting and management.
struct Kind {
    code: &'static str,
    name: &'static str,
    /// Where the app is told.
    key: &'static str,
    names: &'static [&'static str],
    port: fn(&Subject) -> (u16, &'static str),
    of_agent: fn(&AgentContainer) -> PortSet,
}

impl Kind {
    fn remoting() -> Self {
        Self {
            code: "remoting-port-agreed",
            name: "remoting",
            key: "remote.artery.canonical.port",
            names: &["remoting", "akka-remote", "artery", "pekko-remote"],
            port: |subject| subject.remoting(),
            of_agent: |agent| agent.remoting(),
        }
    }

    fn management() -> Self {
        Self {
            code: "management-port-agreed",
            name: "management",
            key: "management.http.port",
            names: &["management", "akka-mgmt-http", "pekko-mgmt-http"],
            port: |subject| subject.management(),
            of_agent: |agent| agent.management(),
        }
    }
}

fn agreed(subject: &Subject, findings: &mut Findings, kind: &Kind) {
    let (port, source) = (kind.port)(subject);
    if let Some(reason) = subject.unseen((port, source), kind.key) {
        return findings.skip(kind.code, &subject.object, reason);
    }
    let mut others = Vec::new();
    // A port of that name beside the right number may be another framework's.
    let declared = subject.container_ports().any(|(_, number)| number == port);
    for (name, number) in subject.container_ports().filter(|_| !declared) {
        if kind.names.contains(&name) && number != port {
            others.push(format!("the container's port {name} says {number}"));
        }
    }
    for agent in subject.agent.containers().filter(|agent| !agent.has_file()) {
        let ports = (kind.of_agent)(agent);
        if !ports.contains(port) {
            others.push(format!("container {} has {} {ports}", agent.container.name, kind.name));
        }
    }
    if others.is_empty() {
        return findings.pass(kind.code, &subject.object, format!("{} is {port}, says {source}", kind.name));
    }
    let message = format!("{} is {port}, says {source}, but {}", kind.name, others.join(" and "));
    findings.fail(kind.code, &subject.object, message, &(subject.kubectl("get") + " -o yaml"));
}

fn pekko(subject: &Subject, findings: &mut Findings) {
    let of_mesh = subject.annotations.iter().filter(|(key, _)| MeshKind::is_of_a_mesh(key));
    let mut places: Vec<String> = of_mesh
        .filter(|(_, list)| list.split(',').any(|port| port.trim() == WRONG_PEKKO_PORT.to_string()))
        .map(|(key, _)| format!("annotation {key}"))
        .collect();
    // A declared port changes nothing by itself; beside a mesh or the agent somebody means it.
    let is_beside = subject.mesh.is_some() || subject.agent.is_there();
    if is_beside && subject.container_ports().any(|(_, number)| number == WRONG_PEKKO_PORT) {
        places.push("the container's ports".to_owned());
    }
    let remoting = subject.agent.containers().filter(|agent| {
        let ports = agent.remoting();
        ports.ranges().len() < 4 && ports.contains(WRONG_PEKKO_PORT) && !ports.contains(17355)
    });
    places.extend(remoting.map(|agent| format!("container {}", agent.container.name)));
    let wanted = subject.settings.get("remote.artery.canonical.port").is_some_and(|port| port.value == "7355");
    if places.is_empty() || wanted {
        return findings.pass("pekko-port", &subject.object, "nothing has 7355 for a port of Pekko");
    }
    let message = format!("7355 is in {}; Pekko's remoting is 17355", places.join(" and "));
    findings.fail("pekko-port", &subject.object, message, &(subject.kubectl("get") + " -o yaml"));
}
