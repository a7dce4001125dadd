//! Which rules a pod gets, by what its own record says.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::core::checks::Agent;
use crate::core::checks::AgentContainer;
use crate::core::cni::Settings;
use crate::core::config::{
    AgentPorts, ClusterPorts, DEFAULT_AGENT_UID, DEFAULT_MESH_MARK, DEFAULT_MESH_UID, RedirectMode, SideDoors,
};
use crate::core::inject::RULES;
use crate::core::plan::RedirectPlan;
use crate::core::ports::{PortRange, Preset};

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing, for this reason.
    Leave(&'static str),
    /// These rules.
    Program(Box<RedirectPlan>),
}

/// Decides. The ports of a pod with a sidecar are those that the sidecar is told, so that rules and sidecar agree; those of
/// any other, and of a sidecar that reads them where nobody sees them, are those of its annotations, or the node's.
///
/// # Errors
/// What of the pod's record makes no sense, and what to write.
pub fn choose(pod: &Pod, settings: &Settings) -> Result<Choice, String> {
    let metadata = &pod.metadata;
    let Some(spec) = &pod.spec else { return Ok(Choice::Leave("it has no spec")) };
    if settings.excludes(metadata.namespace.as_deref().unwrap_or_default()) {
        return Ok(Choice::Leave("its namespace is excluded"));
    }
    if spec.host_network == Some(true) {
        return Ok(Choice::Leave("it is on the host network"));
    }
    let agent = Agent::of(spec);
    let told = |key: &str| {
        let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
        annotation.or_else(|| metadata.labels.as_ref()?.get(key)).map(String::as_str)
    };
    let mode = match told(RULES) {
        Some("none") => return Ok(Choice::Leave("it says that it wants none")),
        Some("capture") => RedirectMode::Capture,
        Some("bypass") => RedirectMode::Bypass,
        Some(other) => return Err(format!("{RULES} is {other:?}; write capture, bypass or none")),
        None if agent.init.is_some() => return Ok(Choice::Leave("an init container of its own makes them")),
        None if agent.proxy.as_ref().is_some_and(|proxy| proxy.option("outbound-target").is_some()) => {
            return Ok(Choice::Leave("its sidecar has fixed targets"));
        }
        None if agent.proxy.as_ref().is_some_and(|proxy| proxy.option("path") == Some("ports")) => {
            return Ok(Choice::Leave("its sidecar has the pod's ports, and needs none"));
        }
        None if agent.proxy.is_some() => RedirectMode::Capture,
        None => return Ok(Choice::Leave("it has no sidecar of ours, and asks for none")),
    };
    let seen = agent.proxy.as_ref().filter(|proxy| !is_hidden(proxy));
    let port = |option: &'static str, node: &Option<String>| match seen {
        Some(proxy) => proxy.option(option).map(str::to_owned),
        None => told(&format!("bypassctl.io/{option}")).map(str::to_owned).or_else(|| node.clone()),
    };
    let own = seen.map_or(AgentPorts::default(), |proxy| {
        let [outbound, inbound, admin] = proxy.own_ports();
        AgentPorts { outbound, inbound, admin }
    });
    let plan = RedirectPlan {
        mode,
        cluster: cluster(
            port("preset", &settings.preset).as_deref(),
            port("remoting-port", &settings.remoting_port).as_deref(),
            port("management-port", &settings.management_port).as_deref(),
        )?,
        agent: own,
        agent_uid: agent.proxy.as_ref().map_or(Ok(DEFAULT_AGENT_UID), |proxy| uid(spec, proxy))?,
        mesh_uids: vec![DEFAULT_MESH_UID],
        mesh_mark: DEFAULT_MESH_MARK,
        side_doors: SideDoors::Closed,
    };
    Ok(Choice::Program(Box::new(plan.checked().map_err(|error| error.to_string())?)))
}

/// Whether its options are read from where a pod's record does not show them.
fn is_hidden(proxy: &AgentContainer<'_>) -> bool {
    let variables = proxy.container.env.iter().flatten();
    let unseen = |name: &str| name.starts_with("BYPASSCTL_") && (name.ends_with("_PORT") || name.ends_with("_PRESET"));
    proxy.has_file() || variables.into_iter().any(|variable| variable.value.is_none() && unseen(&variable.name))
}

/// The user that the sidecar runs as, whom the rules exempt.
fn uid(spec: &PodSpec, proxy: &AgentContainer<'_>) -> Result<u32, String> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let own = proxy.container.security_context.as_ref().and_then(|context| context.run_as_user);
    let uid = own.or(of_pod).unwrap_or_else(|| i64::from(DEFAULT_AGENT_UID));
    u32::try_from(uid).map_err(|_| format!("runAsUser {uid} of container {} is no user id", proxy.container.name))
}

fn cluster(preset: Option<&str>, remoting: Option<&str>, management: Option<&str>) -> Result<ClusterPorts, String> {
    let preset = preset.map(|name| {
        <Preset as clap::ValueEnum>::from_str(name, true)
            .map_err(|_| format!("preset {name:?}: write akka, akka-artery or pekko"))
    });
    let ranges = |what: &str, list: Option<&str>| {
        let parsed = list.into_iter().flat_map(|list| list.split(',')).map(|range| range.trim().parse::<PortRange>());
        parsed.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{what}: {error}"))
    };
    let (remoting, management) = (ranges("remoting-port", remoting)?, ranges("management-port", management)?);
    ClusterPorts::new(preset.transpose()?, &remoting, &management).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(annotations: Value, spec: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "shop", "annotations": annotations}, "spec": spec}),
        )
        .unwrap()
    }

    fn sidecar(args: Value) -> Value {
        json!({"containers": [{"name": "app"}], "initContainers": [{"name": "bypassctl", "image": "r/bypassctl:1",
            "restartPolicy": "Always", "args": args, "securityContext": {"runAsUser": 2000}}]})
    }

    fn program(pod: &Pod) -> RedirectPlan {
        match choose(pod, &Settings::default()).unwrap() {
            Choice::Program(plan) => *plan,
            Choice::Leave(why) => panic!("left: {why}"),
        }
    }

    fn left(pod: &Pod) -> &'static str {
        match choose(pod, &Settings::default()).unwrap() {
            Choice::Program(plan) => panic!("{plan:?}"),
            Choice::Leave(why) => why,
        }
    }

    #[test]
    fn a_pod_with_a_sidecar_gets_the_rules_that_the_sidecar_is_told() {
        let plan = program(&pod(
            json!({"bypassctl.io/remoting-port": "1"}),
            sidecar(json!(["proxy", "--preset=pekko", "--remoting-port", "4000,4010-4012", "--admin-port=4001"])),
        ));
        assert_eq!((plan.mode, plan.agent_uid), (RedirectMode::Capture, 2000));
        assert_eq!((plan.cluster.remoting.to_string().as_str(), plan.agent.admin), ("4000,4010-4012", 4001));
        assert_eq!(plan.cluster.management.to_string(), "7626");
    }

    #[test]
    fn what_a_sidecar_reads_elsewhere_stands_in_annotations_or_is_the_nodes() {
        let hidden = sidecar(json!(["proxy", "--config=/etc/x.yaml"]));
        let plan = program(&pod(json!({"bypassctl.io/preset": "pekko"}), hidden.clone()));
        assert_eq!(plan.cluster.remoting.to_string(), "17355");
        let settings = Settings { preset: Some("akka-artery".to_owned()), ..Settings::default() };
        let Ok(Choice::Program(plan)) = choose(&pod(json!({}), hidden), &settings) else { panic!() };
        assert_eq!(plan.cluster.remoting.to_string(), "25520");
    }

    #[test]
    fn a_pod_is_left_alone_unless_it_has_a_sidecar_without_rules_or_asks() {
        let bare = json!({"containers": [{"name": "app"}]});
        assert!(left(&pod(json!({}), bare.clone())).contains("no sidecar"));
        assert!(left(&pod(json!({RULES: "none"}), sidecar(json!(["proxy"])))).contains("wants none"));
        let fixed = sidecar(json!(["proxy", "--outbound-target=10.0.0.1:2552"]));
        assert!(left(&pod(json!({}), fixed)).contains("fixed targets"));
        assert!(left(&pod(json!({}), sidecar(json!(["proxy", "--path=ports"])))).contains("the pod's ports"));
        let mut own = sidecar(json!(["proxy"]));
        let init = json!({"name": "bypassctl-init", "image": "bypassctl", "args": ["init"]});
        own["initContainers"].as_array_mut().unwrap().insert(0, init);
        assert!(left(&pod(json!({}), own)).contains("of its own"));
        let mut host = sidecar(json!(["proxy"]));
        host["hostNetwork"] = true.into();
        assert!(left(&pod(json!({RULES: "capture"}), host)).contains("host network"));
        assert_eq!(program(&pod(json!({RULES: "bypass"}), bare.clone())).mode, RedirectMode::Bypass);
        assert_eq!(program(&pod(json!({RULES: "capture"}), bare)).agent_uid, DEFAULT_AGENT_UID);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let refused =
            |annotations: Value, spec: Value| choose(&pod(annotations, spec), &Settings::default()).unwrap_err();
        let bare = json!({"containers": [{"name": "app"}]});
        assert!(refused(json!({RULES: "yes"}), bare.clone()).contains("capture, bypass or none"));
        let annotations = json!({RULES: "bypass", "bypassctl.io/preset": "erlang"});
        assert!(refused(annotations, bare).contains("akka-artery"));
        assert!(refused(json!({}), sidecar(json!(["proxy", "--remoting-port=x"]))).contains("remoting-port"));
        let mut root = sidecar(json!(["proxy"]));
        root["initContainers"][0]["securityContext"]["runAsUser"] = 0.into();
        assert!(refused(json!({}), root).contains("--agent-uid 0"));
    }
}
