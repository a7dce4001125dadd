//! Which pods can be asked, and on which ports.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::core::config::{ClusterPorts, DEFAULT_ADMIN_PORT};

/// Where a pod answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// The app's management.
    pub(super) management: u16,
    /// The sidecar's admin port, where there is a sidecar.
    pub(super) agent: Option<u16>,
}

/// The names that the Akka and Pekko documentation and their charts use.
const NAMES: [&str; 5] = ["management", "akka-mgmt-http", "pekko-mgmt-http", "remoting", "akka-remote"];

/// Whether the pod says of itself that it is a node of a cluster, or has a sidecar.
pub(super) fn is_node(pod: &Pod, ports: &ClusterPorts) -> bool {
    let known = |port: i32| {
        u16::try_from(port).is_ok_and(|port| ports.management.contains(port) || ports.remoting.contains(port))
    };
    let declared = containers(pod).flat_map(|container| container.ports.iter().flatten());
    let mut declared = declared
        .filter(|port| port.name.as_deref().is_some_and(|name| NAMES.contains(&name)) || known(port.container_port));
    let env = containers(pod).flat_map(|container| container.env.iter().flatten());
    let mut env = env.filter(|env| {
        env.name == "AKKA_CLUSTER_BOOTSTRAP_SERVICE_NAME" || env.name.ends_with("REQUIRED_CONTACT_POINT_NR")
    });
    declared.next().is_some() || env.next().is_some() || agent(pod).is_some()
}

/// Where the pod is to be asked.
pub(super) fn ports(pod: &Pod, ports: &ClusterPorts) -> Ports {
    let declared: Vec<_> = containers(pod).flat_map(|container| container.ports.iter().flatten()).collect();
    let by_name = declared.iter().find(|port| port.name.as_deref() == Some("management"));
    let named = by_name.and_then(|port| u16::try_from(port.container_port).ok());
    let mut numbers = declared.iter().filter_map(|port| u16::try_from(port.container_port).ok());
    let known = numbers.find(|port| ports.management.contains(*port));
    let first = || ports.management.iter().next().unwrap_or(crate::core::ports::DEFAULT_MANAGEMENT_PORT);
    Ports { management: named.or(known).unwrap_or_else(first), agent: agent(pod).map(admin_port) }
}

/// Containers that run beside each other: native sidecars are among the init containers.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let native = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.into_iter().flat_map(|spec| &spec.containers).chain(native)
}

fn agent(pod: &Pod) -> Option<&Container> {
    let of_ours = |image: &str| image.rsplit('/').next().is_some_and(|name| name.starts_with("bypassctl"));
    containers(pod).find(|one| one.name == "bypassctl" || one.image.as_deref().is_some_and(of_ours))
}

fn admin_port(agent: &Container) -> u16 {
    let args: Vec<&String> = agent.command.iter().flatten().chain(agent.args.iter().flatten()).collect();
    let apart =
        args.iter().position(|arg| *arg == "--admin-port").and_then(|at| args.get(at + 1).map(|arg| arg.as_str()));
    let joined = args.iter().find_map(|arg| arg.strip_prefix("--admin-port="));
    let env =
        agent.env.iter().flatten().find(|env| env.name == "BYPASSCTL_ADMIN_PORT").and_then(|env| env.value.as_deref());
    apart.or(joined).or(env).and_then(|port| port.parse().ok()).unwrap_or(DEFAULT_ADMIN_PORT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "shop-0"}, "spec": spec})).unwrap()
    }

    fn default_ports() -> ClusterPorts {
        ClusterPorts::new(None, &[], &[]).unwrap()
    }

    #[test]
    fn the_port_called_management_is_the_one() {
        let named = pod(json!({"containers": [{"name": "app", "ports": [
            {"containerPort": 8558, "name": "other"}, {"containerPort": 7626, "name": "management"}]}]}));
        assert_eq!(ports(&named, &default_ports()), Ports { management: 7626, agent: None });
        let bare = pod(json!({"containers": [{"name": "app"}]}));
        assert_eq!(ports(&bare, &default_ports()).management, 8558);
        assert!(is_node(&named, &default_ports()) && !is_node(&bare, &default_ports()));
    }

    #[test]
    fn a_sidecar_is_found_with_its_admin_port_and_its_init_container_is_none() {
        let native = |args: Value| {
            pod(json!({"containers": [{"name": "app"}], "initContainers": [
                {"name": "bypassctl-init", "image": "r/bypassctl:1", "args": ["init"]},
                {"name": "bypassctl", "image": "r/bypassctl:1", "restartPolicy": "Always", "args": args}]}))
        };
        for (args, port) in [
            (json!(["proxy"]), 15550),
            (json!(["proxy", "--admin-port", "15600"]), 15600),
            (json!(["proxy", "--admin-port=15601"]), 15601),
        ] {
            assert_eq!(ports(&native(args), &default_ports()).agent, Some(port));
        }
        let init_alone = pod(json!({"containers": [{"name": "app", "image": "shop"}], "initContainers": [
            {"name": "bypassctl-init", "image": "bypassctl", "args": ["init", "--mode", "bypass"]}]}));
        assert_eq!(ports(&init_alone, &default_ports()).agent, None);
    }
}
