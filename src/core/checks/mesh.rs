//! What the mesh captures, by its annotations, and what that does to the cluster.

use crate::core::checks::Findings;
use crate::core::checks::subject::{Mesh, MeshKind, Subject, holds, mesh_ports};

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    place(subject, findings);
    management_address(subject, findings);
    let Some(mesh) = &subject.mesh else { return };
    probe_rewrite(subject, findings, mesh);
    if mesh.kind == MeshKind::Ambient {
        if subject.agent.is_there() {
            findings.fail(
                "mesh-ambient",
                &subject.object,
                format!("{} and has the agent", mesh.because),
                "bypassctl explain --help",
            );
        } else {
            findings.pass("mesh-ambient", &subject.object, format!("{}, and there is no agent", mesh.because));
        }
        return;
    }
    if subject.agent.is_there() {
        return conflicts(subject, findings, mesh);
    }
    captured(subject, findings, mesh);
}

fn place(subject: &Subject, findings: &mut Findings) {
    if subject.workload.kind == "Pod" {
        return;
    }
    let own = subject.workload.metadata.annotations.iter().flatten().map(|(key, _)| key);
    let misplaced: Vec<&str> = own
        .filter(|key| MeshKind::is_of_a_mesh(key) && !subject.annotations.contains_key(*key))
        .map(String::as_str)
        .collect();
    if misplaced.is_empty() {
        return findings.pass("mesh-annotation-place", &subject.object, "no annotation for a mesh is out of its place");
    }
    let message = format!("{} is on the {} itself, not on its pods", misplaced.join(" and "), subject.workload.kind);
    findings.fail("mesh-annotation-place", &subject.object, message, &(subject.kubectl("edit")));
}

/// Of a pod without the agent: what the mesh takes, and what it leaves without encryption.
fn captured(subject: &Subject, findings: &mut Findings, mesh: &Mesh) {
    let ports = [("remoting", subject.remoting().0), ("management", subject.management().0)];
    let taken = |left: &dyn Fn(u16) -> bool| {
        let taken = ports.iter().filter(|(_, port)| !left(*port));
        taken.map(|(name, port)| format!("{name} {port}")).collect::<Vec<_>>().join(" and ")
    };
    let (mesh_name, because) = (mesh.kind.name(), &mesh.because);
    let (exclude_out, exclude_in) = mesh.kind.exclusions();
    let next = &(subject.kubectl("get") + " -o yaml");
    // Where nothing is excluded, everything is captured, whichever ports they are.
    let excludes = [exclude_out, exclude_in].iter().any(|key| subject.annotations.contains_key(*key));
    let unseen = subject.remoting_unseen().or_else(|| subject.management_unseen());
    if let Some(reason) = unseen.filter(|_| excludes) {
        for code in ["mesh-outbound", "mesh-inbound", "mesh-mtls-lost"] {
            findings.skip(code, &subject.object, &reason);
        }
        return;
    }
    let outbound = taken(&|port| mesh.leaves_outbound(subject.annotations, port));
    if outbound.is_empty() {
        findings.pass("mesh-outbound", &subject.object, format!("{mesh_name} leaves both ports alone"));
    } else {
        let message = format!("{mesh_name} captures outgoing {outbound} ({because}); {exclude_out} does not name it");
        findings.fail("mesh-outbound", &subject.object, message, next);
    }
    let inbound = taken(&|port| mesh.leaves_inbound(subject.annotations, port));
    if inbound.is_empty() {
        findings.pass("mesh-inbound", &subject.object, format!("{mesh_name} leaves both ports alone"));
    } else {
        let message = format!("{mesh_name} captures arriving {inbound} ({because}); {exclude_in} does not name it");
        findings.fail("mesh-inbound", &subject.object, message, next);
    }
    let remoting = subject.remoting().0;
    if !mesh.leaves_outbound(subject.annotations, remoting) {
        return findings.skip("mesh-mtls-lost", &subject.object, "the mesh still captures remoting");
    }
    if subject.has_own_tls() {
        return findings.pass("mesh-mtls-lost", &subject.object, "the app has TLS of its own");
    }
    let message = format!("remoting {remoting} bypasses {mesh_name}, and no TLS of the app's own is to be seen");
    findings.fail("mesh-mtls-lost", &subject.object, message, "bypassctl proxy --help");
}

/// Of a pod with the agent: annotations that say something else than the rules do.
fn conflicts(subject: &Subject, findings: &mut Findings, mesh: &Mesh) {
    let mut conflicts = Vec::new();
    let seen = |port: u16, unseen: Option<String>| unseen.is_none().then_some(port);
    let cluster: Vec<u16> = [
        seen(subject.remoting().0, subject.remoting_unseen()),
        seen(subject.management().0, subject.management_unseen()),
    ]
    .into_iter()
    .flatten()
    .collect();
    for include in ["includeOutboundPorts", "includeInboundPorts"] {
        let key = format!("traffic.sidecar.istio.io/{include}");
        let list = subject.annotations.get(&key);
        let named: Vec<String> = cluster.iter().filter(|port| holds(list, **port)).map(ToString::to_string).collect();
        if !named.is_empty() {
            conflicts.push(format!("{key} gives {} to the mesh", named.join(" and ")));
        }
    }
    let (exclude_out, _) = mesh.kind.exclusions();
    if let Some(excluded) = subject.annotations.get(exclude_out).and_then(|list| mesh_ports(list))
        && let Some(agent) = subject.agent.init.as_ref().or(subject.agent.proxy.as_ref())
    {
        let others: Vec<String> = [2552, 25520, 17355, 8558, 7626]
            .into_iter()
            .filter(|port| excluded.contains(*port))
            .filter(|port| !agent.remoting().contains(*port) && !agent.management().contains(*port))
            .map(|port: u16| port.to_string())
            .collect();
        if !others.is_empty() && !agent.has_file() {
            conflicts.push(format!(
                "{exclude_out} excludes {}, which the agent's rules leave to the mesh",
                others.join(" and ")
            ));
        }
    }
    if conflicts.is_empty() {
        return findings.pass("mesh-agent-conflict", &subject.object, "no annotation contradicts the agent's rules");
    }
    findings.fail("mesh-agent-conflict", &subject.object, conflicts.join("; "), &(subject.kubectl("get") + " -o yaml"));
}

const HOSTNAMES: [&str; 2] = ["management.http.bind-hostname", "management.http.hostname"];

fn is_loopback(address: &str) -> bool {
    address == "localhost" || address == "::1" || address.starts_with("127.")
}

fn management_address(subject: &Subject, findings: &mut Findings) {
    let address = HOSTNAMES.iter().find_map(|key| subject.settings.get(key));
    match address {
        Some(address) if is_loopback(&address.value) => {
            let message = format!("management is bound to {} by {}", address.value, address.source);
            findings.fail("management-reachable", &subject.object, message, &subject.kubectl("describe"));
        }
        Some(address) => {
            findings.pass("management-reachable", &subject.object, format!("management is bound to {}", address.value))
        }
        None if HOSTNAMES.iter().any(|key| subject.settings.unknown(key).is_some()) => {
            findings.skip("management-reachable", &subject.object, "management's address is not to be seen");
        }
        None => findings.pass("management-reachable", &subject.object, "nothing binds management to loopback"),
    }
}

const LEGACY: &str = "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION";

/// Whether the value of `proxy.istio.io/config` sets [`LEGACY`].
pub(in crate::core) fn asks_for_legacy_probes(config: &str) -> bool {
    let after = config.split(LEGACY).nth(1).unwrap_or_default();
    after.trim_start_matches(['"', '\'', ':', '=', ' ']).starts_with("true")
}

/// istio `pilot/cmd/pilot-agent/options`, `REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION`: since 1.10 off unless asked for.
fn probe_rewrite(subject: &Subject, findings: &mut Findings, mesh: &Mesh) {
    if mesh.kind != MeshKind::Istio {
        return;
    }
    let config = subject.annotations.get("proxy.istio.io/config");
    let in_annotation = config.is_some_and(|config| asks_for_legacy_probes(config));
    let containers = subject.pod.init_containers.iter().flatten().chain(&subject.pod.containers);
    let in_container = containers
        .filter(|container| container.name == "istio-proxy")
        .flat_map(|container| container.env.iter().flatten())
        .any(|env| env.name == LEGACY && env.value.as_deref() == Some("true"));
    let rewritten =
        subject.annotations.get("sidecar.istio.io/rewriteAppHTTPProbers").is_none_or(|value| value != "false");
    let on_loopback = HOSTNAMES
        .iter()
        .find_map(|key| subject.settings.get(key))
        .is_some_and(|s| is_loopback(&s.value) || s.value == "0.0.0.0");
    if (in_annotation || in_container) && rewritten && !on_loopback {
        let message = format!("{LEGACY} sends probes to localhost, and management is on the pod's address");
        return findings.fail("mesh-probe-rewrite", &subject.object, message, &subject.kubectl("describe"));
    }
    findings.pass("mesh-probe-rewrite", &subject.object, "probes are not sent to localhost");
}
