//! The containers themselves.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::core::backend::BackendChoice;
use crate::core::config::{AgentPorts, DEFAULT_ADMIN_PORT};
use crate::core::inject::apps::SHIM_DIR;
use crate::core::inject::{
    AGENT_UID, AppChange, GATE, INIT, INJECTED, Injection, Options, SHIM_VOLUME, SIDECAR, SidecarKind, VOLUME,
};
use crate::core::route::{TlsMode, TrafficPath};

/// Seconds that a classic sidecar may hold up the app.
const HOLD: u32 = 60;
/// Where the sidecar finds its certificate.
const TLS_DIR: &str = "/var/run/bypassctl/tls";

pub(super) fn injection(name: &str, template: &Value, options: &Options, apps: Vec<AppChange>) -> Injection {
    let first = match options.path {
        TrafficPath::Rules => init(options),
        TrafficPath::Ports => install(options),
    };
    let mut injection = Injection {
        init_containers: vec![first],
        apps,
        containers: Vec::new(),
        volumes: Vec::new(),
        readiness_gates: Vec::new(),
        annotations: BTreeMap::from([(INJECTED.to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        notes: notes(template, options),
    };
    match options.sidecar {
        SidecarKind::Native => injection.init_containers.push(sidecar(options)),
        SidecarKind::Classic => injection.containers.push(sidecar(options)),
    }
    if options.readiness_gate {
        injection.readiness_gates.push(json!({"conditionType": GATE}));
    }
    if options.mode != TlsMode::Disabled {
        // Read by the sidecar's user alone, since nobody else mounts it; an fsGroup would change the app's volumes too.
        let secret = options.tls_secret.replace("{name}", name);
        injection.volumes.push(json!({"name": VOLUME, "secret": {"secretName": secret, "defaultMode": 0o444}}));
    }
    if options.path == TrafficPath::Ports {
        injection.volumes.push(json!({"name": SHIM_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}}));
    }
    injection
}

/// Brings the library to the app's containers.
fn install(options: &Options) -> Value {
    let mut container = container(INIT, vec!["shim".to_owned(), format!("--install={SHIM_DIR}")], options);
    container["resources"] = resources();
    container["securityContext"] = unprivileged();
    container["volumeMounts"] = json!([{"name": SHIM_VOLUME, "mountPath": SHIM_DIR}]);
    container
}

fn container(name: &str, args: Vec<String>, options: &Options) -> Value {
    let mut container = json!({"name": name, "image": options.image});
    if let Some(policy) = &options.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container["args"] = args.into();
    container
}

fn ports(options: &Options) -> [String; 2] {
    let ports = &options.ports;
    [format!("--remoting-port={}", ports.remoting), format!("--management-port={}", ports.management)]
}

fn init(options: &Options) -> Value {
    let mut args = vec!["init".to_owned()];
    args.extend(ports(options));
    if options.backend != BackendChoice::Auto {
        args.push(format!("--backend={}", word(options.backend)));
    }
    let mut container = container(INIT, args, options);
    container["env"] = json!([
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]);
    container["resources"] = resources();
    container["securityContext"] = json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    container
}

fn sidecar(options: &Options) -> Value {
    let mut args = vec!["proxy".to_owned()];
    args.extend(ports(options));
    if options.path == TrafficPath::Ports {
        args.push("--path=ports".to_owned());
    }
    args.push(format!("--mode={}", word(options.mode)));
    args.extend(options.permissive_until.iter().map(|day| format!("--permissive-until={day}")));
    args.extend(options.allow.iter().map(|peer| format!("--allow={peer}")));
    if options.mode != TlsMode::Disabled {
        args.push(format!("--tls-dir={TLS_DIR}"));
    }
    args.extend(options.events.then(|| "--events".to_owned()));
    args.extend(options.readiness_gate.then(|| "--readiness-gate".to_owned()));
    let mut container = container(SIDECAR, args, options);
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = Vec::new();
    if options.path == TrafficPath::Ports {
        env.push(field("POD_IP", "status.podIPs"));
    }
    if options.events || options.readiness_gate {
        env.push(field("POD_NAME", "metadata.name"));
        env.push(field("POD_NAMESPACE", "metadata.namespace"));
        env.push(field("POD_UID", "metadata.uid"));
    }
    if !env.is_empty() {
        container["env"] = env.into();
    }
    if options.sidecar == SidecarKind::Native {
        container["restartPolicy"] = "Always".into();
    }
    if options.sidecar == SidecarKind::Classic {
        // Containers are started one after the other, and the next one waits for this.
        let wait = format!("--wait={HOLD}");
        container["lifecycle"] =
            json!({"postStart": {"exec": {"command": ["bypassctl", "status", "--local", "--ready", wait]}}});
    }
    container["ports"] = json!([{"name": "bypassctl-admin", "containerPort": DEFAULT_ADMIN_PORT}]);
    // Istio's injector makes every HTTP probe of a pod one that its own proxy answers, and that may start only after us: what
    // must hold before then asks by a command, and what is asked often, by HTTP (docs/decisions/0021-probes-beside-istio.md).
    let ask = |flag: &str| json!({"command": ["bypassctl", "status", "--local", flag]});
    container["startupProbe"] =
        json!({"exec": ask("--ready"), "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 60});
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/ready", "port": DEFAULT_ADMIN_PORT}, "periodSeconds": 5});
    container["livenessProbe"] =
        json!({"exec": ask("--alive"), "periodSeconds": 30, "timeoutSeconds": 5, "failureThreshold": 3});
    container["resources"] = resources();
    container["securityContext"] = unprivileged();
    if options.mode != TlsMode::Disabled {
        container["volumeMounts"] = json!([{"name": VOLUME, "mountPath": TLS_DIR, "readOnly": true}]);
    }
    container
}

/// What Pod Security's level restricted asks for.
fn unprivileged() -> Value {
    json!({
        "runAsUser": AGENT_UID,
        "runAsGroup": AGENT_UID,
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// What a thousand connections need, and a bound that no backlog reaches (docs/benchmarks.md).
fn resources() -> Value {
    json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}})
}

fn word<T: clap::ValueEnum>(choice: T) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn notes(template: &Value, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    let spec = &template["spec"];
    if options.events || options.readiness_gate {
        let account = spec["serviceAccountName"].as_str().unwrap_or("default");
        let rights = match (options.events, options.readiness_gate) {
            (true, true) => "create and patch on events of events.k8s.io, and patch on pods/status",
            (true, false) => "create and patch on events of events.k8s.io",
            _ => "patch on pods/status, without which the pod never becomes ready",
        };
        notes.push(format!("service account {account} needs {rights}"));
        if spec["automountServiceAccountToken"] == false {
            notes.push("the sidecar has no token for that: automountServiceAccountToken is false".to_owned());
        }
    }
    if options.path == TrafficPath::Ports {
        notes.push(
            "what an image or envFrom sets as LD_PRELOAD or JAVA_TOOL_OPTIONS is not seen, and is hidden by what is added; \
             a mesh has to exclude remoting and management by its own annotations (docs/restricted.md)"
                .to_owned(),
        );
    }
    notes.extend(taken_ports(spec, options.path));
    for container in template["spec"]["containers"].as_array().into_iter().flatten() {
        let name = container["name"].as_str().unwrap_or_default();
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            let port = &container[probe]["tcpSocket"]["port"];
            let number = port.as_u64().or_else(|| named_port(container, port.as_str()?));
            if number
                .and_then(|port| u16::try_from(port).ok())
                .is_some_and(|port| options.ports.remoting.contains(port))
            {
                notes.push(format!(
                    "{probe} of container {name} dials remoting: the sidecar answers it, and it says nothing of the app; \
                     ask management's /ready instead"
                ));
            }
        }
    }
    notes
}

/// Ports of the app's containers on which the sidecar listens.
fn taken_ports(spec: &Value, path: TrafficPath) -> Vec<String> {
    let AgentPorts { outbound, inbound, admin } = AgentPorts::default();
    let own = match path {
        TrafficPath::Rules => vec![outbound, inbound, admin],
        TrafficPath::Ports => vec![outbound, admin],
    };
    let containers = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    let mut notes = Vec::new();
    for container in containers {
        let name = container["name"].as_str().unwrap_or_default();
        for port in container["ports"].as_array().into_iter().flatten() {
            let number = port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
            let is_tcp = port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
            if let Some(number) = number.filter(|number| is_tcp && own.contains(number)) {
                notes.push(format!(
                    "port {number} of container {name} is the sidecar's own: one of the two cannot listen; give the container another"
                ));
            }
        }
    }
    notes
}

fn named_port(container: &Value, name: &str) -> Option<u64> {
    let ports = container["ports"].as_array()?;
    ports.iter().find(|port| port["name"] == name)?["containerPort"].as_u64()
}
