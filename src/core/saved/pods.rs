//! What checks read of a pod's template.

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapEnvSource, ConfigMapKeySelector, ConfigMapVolumeSource, Container, ContainerPort,
    EnvFromSource, EnvVar, EnvVarSource, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource, SecretVolumeSource,
    SecurityContext, ServiceAccountTokenProjection, TCPSocketAction, Volume, VolumeMount, VolumeProjection,
};

use super::values::{argument_list, image, path, variable};
use crate::core::checks::is_agent;

pub(super) fn spec(spec: &PodSpec) -> PodSpec {
    let containers = |list: &Vec<Container>| list.iter().map(container).collect::<Vec<_>>();
    PodSpec {
        containers: containers(&spec.containers),
        init_containers: spec.init_containers.as_ref().map(containers),
        automount_service_account_token: spec.automount_service_account_token,
        host_network: spec.host_network,
        node_name: spec.node_name.clone(),
        security_context: spec
            .security_context
            .as_ref()
            .map(|context| PodSecurityContext { run_as_user: context.run_as_user, ..PodSecurityContext::default() }),
        service_account: spec.service_account.clone(),
        service_account_name: spec.service_account_name.clone(),
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        volumes: spec.volumes.as_ref().map(|volumes| volumes.iter().map(volume).collect()),
        ..PodSpec::default()
    }
}

/// Names, and what a ConfigMap's settings, a Secret and the API's token are found by; of drivers and other sources nothing.
fn volume(volume: &Volume) -> Volume {
    let token = |source: &ProjectedVolumeSource| {
        let found = source.sources.iter().flatten().find_map(|one| one.service_account_token.as_ref())?;
        let token =
            ServiceAccountTokenProjection { path: found.path.clone(), ..ServiceAccountTokenProjection::default() };
        let token = VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() };
        Some(ProjectedVolumeSource { sources: Some(vec![token]), default_mode: None })
    };
    Volume {
        name: volume.name.clone(),
        config_map: volume
            .config_map
            .as_ref()
            .map(|map| ConfigMapVolumeSource { name: map.name.clone(), ..ConfigMapVolumeSource::default() }),
        secret: volume.secret.as_ref().map(|secret| SecretVolumeSource {
            secret_name: secret.secret_name.clone(),
            ..SecretVolumeSource::default()
        }),
        projected: volume.projected.as_ref().and_then(token),
        ..Volume::default()
    }
}

fn container(container: &Container) -> Container {
    let ours = is_agent(container);
    let security = container.security_context.as_ref().map(|context| SecurityContext {
        run_as_user: context.run_as_user,
        privileged: context.privileged,
        capabilities: context
            .capabilities
            .as_ref()
            .map(|capabilities| Capabilities { add: capabilities.add.clone(), drop: None }),
        ..SecurityContext::default()
    });
    let port = |port: &ContainerPort| ContainerPort {
        name: port.name.clone(),
        container_port: port.container_port,
        protocol: port.protocol.clone(),
        ..ContainerPort::default()
    };
    let mount = |mount: &VolumeMount| VolumeMount {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        ..VolumeMount::default()
    };
    // That there is a hook is all that is asked.
    let waits = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
    let hooks = Lifecycle { pre_stop: Some(LifecycleHandler::default()), ..Lifecycle::default() };
    let (command, args) = argument_list(container, ours);
    Container {
        name: container.name.clone(),
        image: container.image.as_deref().and_then(|name| image(name, ours)),
        command,
        args,
        env: container.env.as_ref().map(|env| env.iter().map(|one| env_var(one, ours)).collect()),
        env_from: container.env_from.as_ref().map(|sources| sources.iter().map(env_source).collect()),
        lifecycle: waits.then_some(hooks),
        liveness_probe: container.liveness_probe.as_ref().map(probe),
        readiness_probe: container.readiness_probe.as_ref().map(probe),
        startup_probe: container.startup_probe.as_ref().map(probe),
        ports: container.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
        restart_policy: container.restart_policy.clone(),
        security_context: security,
        volume_mounts: container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mount).collect()),
        ..Container::default()
    }
}

fn env_var(one: &EnvVar, ours: bool) -> EnvVar {
    let source = one.value_from.as_ref().map(|from| EnvVarSource {
        field_ref: from.field_ref.as_ref().map(|field| ObjectFieldSelector {
            field_path: field.field_path.clone(),
            ..ObjectFieldSelector::default()
        }),
        config_map_key_ref: from.config_map_key_ref.as_ref().map(|map| ConfigMapKeySelector {
            name: map.name.clone(),
            key: map.key.clone(),
            optional: None,
        }),
        ..EnvVarSource::default()
    });
    let value = one.value.as_deref().map(|value| variable(&one.name, value, ours));
    EnvVar { name: one.name.clone(), value, value_from: source }
}

fn env_source(source: &EnvFromSource) -> EnvFromSource {
    EnvFromSource {
        config_map_ref: source
            .config_map_ref
            .as_ref()
            .map(|map| ConfigMapEnvSource { name: map.name.clone(), optional: None }),
        prefix: source.prefix.clone(),
        secret_ref: None,
    }
}

fn probe(probe: &Probe) -> Probe {
    Probe {
        initial_delay_seconds: probe.initial_delay_seconds,
        period_seconds: probe.period_seconds,
        failure_threshold: probe.failure_threshold,
        timeout_seconds: probe.timeout_seconds,
        http_get: probe.http_get.as_ref().map(|http| HTTPGetAction {
            path: http.path.as_deref().map(path),
            port: http.port.clone(),
            ..HTTPGetAction::default()
        }),
        tcp_socket: probe
            .tcp_socket
            .as_ref()
            .map(|tcp| TCPSocketAction { port: tcp.port.clone(), ..TCPSocketAction::default() }),
        exec: probe.exec.as_ref().map(|_| ExecAction::default()),
        grpc: probe.grpc.as_ref().map(|grpc| GRPCAction { port: grpc.port, service: None }),
        ..Probe::default()
    }
}
