//! Whether the agent's containers fit each other, the app and Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Container;
use time::Date;
use time::macros::format_description;

use crate::core::checks::Findings;
use crate::core::checks::library::names_library;
use crate::core::checks::subject::{AgentContainer, Subject};
use crate::core::inject::LIBRARY;
use crate::core::inject::RULES;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    let agent = &subject.agent;
    if !agent.is_there() {
        return alone_on_host(subject, findings);
    }
    complete(subject, findings);
    host_network(subject, findings);
    ports_free(subject, findings);
    if let Some(init) = &agent.init {
        net_admin(subject, findings, init);
    }
    if let Some(proxy) = &agent.proxy {
        native(subject, findings, proxy);
        tls(subject, findings, proxy);
        permissive(subject, findings, proxy);
        grace(subject, findings, proxy);
    }
    if let (Some(init), Some(proxy)) = (&agent.init, &agent.proxy) {
        order(subject, findings, init, proxy);
        ports_agreed(subject, findings, init, proxy);
    }
    user(subject, findings);
}

fn complete(subject: &Subject, findings: &mut Findings) {
    let (code, object) = ("agent-complete", &subject.object);
    let next = &(subject.kubectl("get") + " -o yaml");
    let asks_the_node =
        subject.annotations.get(RULES).or(subject.labels.get(RULES)).is_some_and(|rules| rules == "capture");
    match (&subject.agent.init, &subject.agent.proxy) {
        (Some(_), Some(_)) => findings.pass(code, object, "init and proxy are there"),
        (Some(init), None) if init.only_bypasses() => {
            findings.pass(code, object, "init only lets past, and needs no proxy")
        }
        (Some(init), None) if init.has_file() => {
            findings.skip(code, object, "init has a configuration file, which is not seen")
        }
        (Some(_), None) => findings.fail(code, object, "there is `bypassctl init`, and no `bypassctl proxy`", next),
        (None, Some(proxy)) if proxy.option("outbound-target").is_some() => {
            findings.pass(code, object, "the proxy has fixed targets, and needs no rules");
        }
        (None, Some(proxy)) if proxy.option("path") == Some("ports") => {
            if asks_the_node {
                let message =
                    format!("the proxy has --path ports, and {RULES}: capture asks for rules that lead to nobody");
                findings.fail(code, object, message, next);
            } else if subject.pod.containers.iter().any(preloads) {
                findings.pass(code, object, "the proxy has the pod's ports, and the app preloads the library");
            } else {
                let message = format!("the proxy has --path ports, and no container preloads {LIBRARY}");
                findings.fail(code, object, message, "bypassctl inject --path ports FILE");
            }
        }
        (None, Some(_)) if asks_the_node => {
            findings.pass(
                code,
                object,
                format!("the proxy is there, and the node's CNI plugin makes its rules ({RULES})"),
            );
        }
        (None, _) => findings.fail(code, object, "there is `bypassctl proxy`, and no `bypassctl init`", next),
    }
}

/// Whether what a container dials can reach the proxy without rules; what its image sets is not seen.
pub(super) fn preloads(container: &Container) -> bool {
    let variables = container.env.iter().flatten();
    variables
        .filter(|variable| variable.name == "LD_PRELOAD")
        .any(|variable| variable.value.as_deref().is_some_and(names_library))
}

/// Of a pod without the agent.
fn alone_on_host(subject: &Subject, findings: &mut Findings) {
    let (code, object) = ("host-network", &subject.object);
    if subject.pod.host_network != Some(true) {
        return findings.pass(code, object, "the pod has a network of its own");
    }
    let message = format!("remoting {} is open on the address of the pod's node", subject.remoting().0);
    findings.fail(code, object, message, &(subject.kubectl("get") + " -o yaml"));
}

fn host_network(subject: &Subject, findings: &mut Findings) {
    if subject.pod.host_network == Some(true) {
        let next = subject.kubectl("get") + " -o yaml";
        findings.fail("agent-host-network", &subject.object, "the pod is on its host's network", &next);
    } else {
        findings.pass("agent-host-network", &subject.object, "the pod has a network of its own");
    }
}

fn ports_free(subject: &Subject, findings: &mut Findings) {
    let Some(agent) = subject.agent.proxy.as_ref().or(subject.agent.init.as_ref()) else { return };
    let own = agent.own_ports();
    let ours: BTreeSet<&str> = subject.agent.containers().map(|agent| agent.container.name.as_str()).collect();
    let others = subject.pod.containers.iter().chain(subject.pod.init_containers.iter().flatten());
    let taken: Vec<String> = others
        .filter(|container| !ours.contains(container.name.as_str()))
        .flat_map(|container| container.ports.iter().flatten().map(move |port| (&container.name, port.container_port)))
        .filter(|(_, port)| own.iter().any(|own| i32::from(*own) == *port))
        .map(|(name, port)| format!("container {name} has port {port}"))
        .collect();
    if taken.is_empty() {
        return findings.pass("agent-port-free", &subject.object, "nobody else declares the agent's ports");
    }
    findings.fail("agent-port-free", &subject.object, taken.join(" and "), &(subject.kubectl("get") + " -o yaml"));
}

fn net_admin(subject: &Subject, findings: &mut Findings, init: &AgentContainer) {
    let context = init.container.security_context.as_ref();
    let added =
        context.and_then(|context| context.capabilities.as_ref()).and_then(|capabilities| capabilities.add.as_ref());
    let has = added
        .is_some_and(|added| added.iter().any(|name| matches!(name.trim_start_matches("CAP_"), "NET_ADMIN" | "ALL")));
    if has || context.and_then(|context| context.privileged) == Some(true) {
        return findings.pass("agent-net-admin", &subject.object, "init has NET_ADMIN");
    }
    let message = format!("container {} is not given NET_ADMIN", init.container.name);
    findings.fail("agent-net-admin", &subject.object, message, "kubectl logs POD -c bypassctl-init");
}

fn native(subject: &Subject, findings: &mut Findings, proxy: &AgentContainer) {
    let always = proxy.container.restart_policy.as_deref() == Some("Always");
    let has_stop = proxy.container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
    let name = &proxy.container.name;
    match proxy.at {
        Some(_) if always => findings.pass("agent-native-sidecar", &subject.object, format!("container {name} is one")),
        None if has_stop => {
            findings.pass("agent-native-sidecar", &subject.object, format!("container {name} waits in a preStop hook"))
        }
        Some(_) => {
            let message = format!("init container {name} has no restartPolicy: Always, so the pod waits for its end");
            findings.fail("agent-holds-pod", &subject.object, message, &subject.kubectl("edit"));
        }
        None => {
            let message = format!("container {name} is a plain one, and is stopped together with the app");
            findings.fail(
                "agent-native-sidecar",
                &subject.object,
                message,
                "kubectl explain pod.spec.initContainers.restartPolicy",
            );
        }
    }
}

fn order(subject: &Subject, findings: &mut Findings, init: &AgentContainer, proxy: &AgentContainer) {
    match (init.at, proxy.at) {
        (None, _) => {
            let message = format!("container {} runs `bypassctl init`, and is no init container", init.container.name);
            findings.fail("agent-order", &subject.object, message, "kubectl describe pod POD");
        }
        (Some(init), Some(proxy)) if proxy < init => {
            let message = "the sidecar stands before init, and waits for rules that init makes only after it";
            findings.fail("agent-order", &subject.object, message, "kubectl describe pod POD");
        }
        _ => findings.pass("agent-order", &subject.object, "init comes first"),
    }
}

fn ports_agreed(subject: &Subject, findings: &mut Findings, init: &AgentContainer, proxy: &AgentContainer) {
    let (code, object) = ("agent-ports-agreed", &subject.object);
    if init.has_file() || proxy.has_file() {
        return findings.skip(code, object, "the agent has a configuration file, which is not seen");
    }
    let mut differences = Vec::new();
    if init.remoting() != proxy.remoting() && !init.only_bypasses() {
        differences.push(format!("remoting {} and {}", init.remoting(), proxy.remoting()));
    }
    for (name, (of_init, of_proxy)) in
        ["outbound", "inbound", "admin"].iter().zip(init.own_ports().iter().zip(proxy.own_ports()))
    {
        if *of_init != of_proxy {
            differences.push(format!("{name} {of_init} and {of_proxy}"));
        }
    }
    if differences.is_empty() {
        return findings.pass(code, object, format!("both have remoting {}", init.remoting()));
    }
    let message = format!("init and proxy differ: {}", differences.join(", "));
    findings.fail(code, object, message, &(subject.kubectl("get") + " -o yaml"));
}

fn user(subject: &Subject, findings: &mut Findings) {
    let Some(init) = &subject.agent.init else { return };
    if init.has_file() {
        return findings.skip("agent-uid", &subject.object, "init has a configuration file, which is not seen");
    }
    let uid = init.agent_uid();
    let of_pod = subject.pod.security_context.as_ref().and_then(|context| context.run_as_user);
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    };
    let mut wrong = Vec::new();
    if let Some(proxy) = &subject.agent.proxy
        && let Some(actual) = of(proxy.container).filter(|actual| *actual != uid)
    {
        wrong.push(format!("container {} runs as {actual}, and the rules exempt {uid}", proxy.container.name));
    }
    if let Some(app) = subject.app
        && of(app) == Some(uid)
    {
        wrong.push(format!("the app's container {} runs as {uid}, which the rules exempt", app.name));
    }
    if wrong.is_empty() {
        return findings.pass("agent-uid", &subject.object, format!("the rules exempt {uid}"));
    }
    findings.fail("agent-uid", &subject.object, wrong.join(" and "), &(subject.kubectl("get") + " -o yaml"));
}

fn tls(subject: &Subject, findings: &mut Findings, proxy: &AgentContainer) {
    let (code, object) = ("agent-tls", &subject.object);
    if proxy.has_file() {
        return findings.skip(code, object, "the proxy has a configuration file, which is not seen");
    }
    if proxy.option("mode") == Some("disabled") {
        return findings.pass(code, object, "TLS is disabled");
    }
    if ["spiffe-socket", "istio-ca", "csr-signer"].into_iter().any(|source| proxy.option(source).is_some()) {
        return findings.skip(code, object, "the proxy asks somebody for credentials, which no manifest shows");
    }
    let Some(file) = proxy.option("tls-dir").or(proxy.option("tls-cert")) else {
        return findings.fail(
            code,
            object,
            "the proxy is given neither --tls-dir nor --tls-cert",
            "bypassctl proxy --help",
        );
    };
    let mounts = proxy.container.volume_mounts.iter().flatten();
    let below = |path: &str| file == path || file.starts_with(&format!("{}/", path.trim_end_matches('/')));
    let Some(mount) = mounts.into_iter().find(|mount| below(mount.mount_path.trim_end_matches('/'))) else {
        let message = format!("nothing is mounted at {file} in container {}", proxy.container.name);
        return findings.fail(code, object, message, "kubectl describe pod POD");
    };
    if subject.pod.volumes.iter().flatten().any(|volume| volume.name == mount.name)
        || subject.workload.kind == "StatefulSet"
    {
        return findings.pass(code, object, format!("{file} is mounted"));
    }
    findings.fail(
        code,
        object,
        format!("the volume {} of {file} is not among the pod's", mount.name),
        "kubectl describe pod POD",
    );
}

fn permissive(subject: &Subject, findings: &mut Findings, proxy: &AgentContainer) {
    let (code, object) = ("agent-permissive", &subject.object);
    if proxy.option("mode") != Some("permissive") {
        return findings.pass(code, object, "the proxy is not permissive, as far as can be seen");
    }
    let next = "kubectl exec POD -c bypassctl -- bypassctl status --local";
    let Some(until) = proxy.option("permissive-until") else {
        return findings.fail(code, object, "the proxy is permissive, and has no --permissive-until", next);
    };
    match Date::parse(until, format_description!("[year]-[month]-[day]")) {
        Err(_) => findings.fail(code, object, format!("--permissive-until {until} is no date (YYYY-MM-DD)"), next),
        Ok(date) if date < subject.facts.taken.date() => {
            findings.fail(code, object, format!("permissive mode was to end on {date}"), next);
        }
        Ok(date) => findings.pass(code, object, format!("permissive mode ends on {date}")),
    }
}

fn grace(subject: &Subject, findings: &mut Findings, proxy: &AgentContainer) {
    // Kubernetes' default of the one, ours of the other.
    let grace = subject.pod.termination_grace_period_seconds.unwrap_or(30);
    let drain = proxy.option("drain-timeout").and_then(|seconds| seconds.parse().ok()).unwrap_or(25_i64);
    if drain < grace || grace < 20 {
        // A grace period that is too short for the app itself is grace-period's to say.
        return findings.pass("agent-grace", &subject.object, format!("{drain} s to drain, {grace} s of grace"));
    }
    let message = format!("the sidecar may drain for {drain} s, and is killed after {grace} s");
    findings.fail("agent-grace", &subject.object, message, &(subject.kubectl("get") + " -o yaml"));
}

/// One version in each namespace: clusters do not reach across.
pub(super) fn versions(subjects: &[Subject], findings: &mut Findings) {
    let mut by_namespace: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for subject in subjects {
        let versions = by_namespace.entry(subject.namespace).or_default();
        for agent in subject.agent.containers() {
            versions.entry(version(agent.container.image.as_deref().unwrap_or_default())).or_insert(&subject.object);
        }
    }
    for (namespace, versions) in by_namespace.into_iter().filter(|(_, versions)| !versions.is_empty()) {
        let object = format!("Namespace/{namespace}");
        if versions.len() == 1 {
            findings.pass("agent-version", &object, "all images of the agent are of one version");
            continue;
        }
        let seen: Vec<String> = versions.iter().map(|(version, object)| format!("{version} in {object}")).collect();
        findings.fail("agent-version", &object, seen.join(", "), "kubectl get pods -o custom-columns=IMAGE:..image");
    }
}

/// What stands behind the name of an image.
fn version(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    if let Some((_, digest)) = name.split_once('@') {
        return digest;
    }
    name.split_once(':').map_or("latest", |(_, tag)| tag)
}
