//! Which rules a pod gets, by what its own record says.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::core::checks::Agent;
use crate::core::checks::AgentContainer;
use crate::core::cni::Settings;
use crate::core::config::{
    AgentPorts, ClusterPorts, DEFAULT_AGENT_UID, DEFAULT_MESH_MARK, DEFAULT_MESH_UID, RedirectMode, SideDoors,
};
use crate::core::inject::{PREFIX, RULES};
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

/// Options of a sidecar that say which rules it needs, beside those of [`CLUSTER`].
const OWN: [&str; 5] = ["admin-port", "inbound-port", "outbound-port", "outbound-target", "path"];
/// Options that say which ports the cluster has.
const CLUSTER: [&str; 3] = ["preset", "remoting-port", "management-port"];

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
    let proxy = agent.proxy.as_ref();
    let told = |key: &str| {
        let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
        annotation.or_else(|| metadata.labels.as_ref()?.get(key)).map(String::as_str)
    };
    // Flag and variable beat what the sidecar reads elsewhere, so that what is seen is so.
    let is_open = proxy.is_none_or(is_hidden);
    let says = |option: &str| {
        let seen = proxy.and_then(|proxy| proxy.option(option)).filter(|value| !is_reference(value));
        seen.or_else(|| told(&format!("{PREFIX}{option}")).filter(|_| is_open))
    };
    let mode = match told(RULES) {
        Some("none") => return Ok(Choice::Leave("it says that it wants none")),
        Some("capture") if says("path") == Some("ports") => {
            return Err(format!(
                "{RULES} is capture, and its sidecar has --path ports: nobody listens where the rules would lead; leave out \
                 one of the two"
            ));
        }
        Some("capture") => RedirectMode::Capture,
        Some("bypass") => RedirectMode::Bypass,
        Some(other) => return Err(format!("{RULES} is {other:?}; write capture, bypass or none")),
        None if agent.init.is_some() => return Ok(Choice::Leave("an init container of its own makes them")),
        None if proxy.is_some() && says("outbound-target").is_some() => {
            return Ok(Choice::Leave("its sidecar has fixed targets"));
        }
        None if proxy.is_some() && says("path") == Some("ports") => {
            return Ok(Choice::Leave("its sidecar has the pod's ports, and needs none"));
        }
        None if proxy.is_some() => RedirectMode::Capture,
        None => return Ok(Choice::Leave("it has no sidecar of ours, and asks for none")),
    };
    let of_node = [&settings.preset, &settings.remoting_port, &settings.management_port].map(Option::as_deref);
    // The node's are for pods that do not say theirs: its ports would beat the pod's preset.
    let is_nodes = |option: &str| is_open && (option == "preset" || says("preset").is_none());
    let [preset, remoting, management] =
        std::array::from_fn(|i| says(CLUSTER[i]).or_else(|| of_node[i].filter(|_| is_nodes(CLUSTER[i]))));
    if let Some(proxy) = proxy {
        let nobody_says = [preset, remoting, management].iter().all(Option::is_none);
        let needed = OWN.iter().filter(|option| says(option).is_none());
        let mut needed = needed.chain(CLUSTER.iter().filter(|_| nobody_says));
        if let Some(option) = needed.find(|option| is_unseen(proxy, option)) {
            return Err(format!(
                "--{option} of container {} is not to be seen (valueFrom, or $(…)): write it among its arguments, or \
                 annotate the pod with {PREFIX}{option}",
                proxy.container.name
            ));
        }
    }
    let own = |option: &str, default: u16| match says(option) {
        Some(port) => port.parse().map_err(|error| format!("{option} {port:?}: {error}")),
        None => Ok(default),
    };
    let ports = AgentPorts::default();
    let plan = RedirectPlan {
        mode,
        cluster: cluster(preset, remoting, management)?,
        agent: AgentPorts {
            outbound: own("outbound-port", ports.outbound)?,
            inbound: own("inbound-port", ports.inbound)?,
            admin: own("admin-port", ports.admin)?,
        },
        agent_uid: proxy.map_or(Ok(DEFAULT_AGENT_UID), |proxy| uid(spec, proxy))?,
        mesh_uids: vec![DEFAULT_MESH_UID],
        mesh_mark: DEFAULT_MESH_MARK,
        side_doors: SideDoors::Closed,
    };
    Ok(Choice::Program(Box::new(plan.checked().map_err(|error| error.to_string())?)))
}

/// Whether options of it that count here are read from where a pod's record does not show them.
fn is_hidden(proxy: &AgentContainer<'_>) -> bool {
    let words = proxy.container.command.iter().chain(&proxy.container.args).flatten();
    proxy.has_file()
        || proxy.container.env_from.as_ref().is_some_and(|sources| !sources.is_empty())
        || words
            .into_iter()
            .any(|word| is_reference(word.trim_start_matches('-').split('=').next().unwrap_or_default()))
        || OWN.iter().chain(&CLUSTER).chain(&["config"]).any(|option| is_unseen(proxy, option))
}

/// Whether it has this option, and the pod's record does not show what it is.
fn is_unseen(proxy: &AgentContainer<'_>, option: &str) -> bool {
    let name = format!("BYPASSCTL_{}", option.to_uppercase().replace('-', "_"));
    match proxy.option(option) {
        Some(value) => is_reference(value),
        None => proxy.container.env.iter().flatten().any(|variable| variable.name == name && variable.value.is_none()),
    }
}

/// Whether the kubelet puts something else in its place.
fn is_reference(text: &str) -> bool {
    text.contains("$(")
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

    /// With both, the sidecar takes both: rules for one of them would let the other out in plaintext.
    #[test]
    fn a_list_that_is_repeated_is_the_whole_of_it() {
        let twice = json!([
            "proxy",
            "--remoting-port=2552",
            "--remoting-port",
            "2553,2600-2601",
            "--management-port=1",
            "--management-port=2"
        ]);
        let mut spec = sidecar(twice);
        spec["initContainers"][0]["env"] = json!([{"name": "BYPASSCTL_REMOTING_PORT", "value": "9"}]);
        let plan = program(&pod(json!({}), spec));
        assert_eq!(plan.cluster.remoting.to_string(), "2552-2553,2600-2601");
        assert_eq!(plan.cluster.management.to_string(), "1-2");
    }

    #[test]
    fn whatever_hides_a_sidecars_options_leaves_the_annotations() {
        let annotated = json!({"bypassctl.io/remoting-port": "17355"});
        let mut from = sidecar(json!(["proxy", "--inbound-port=4000"]));
        from["initContainers"][0]["envFrom"] = json!([{"configMapRef": {"name": "x"}}]);
        let plan = program(&pod(annotated.clone(), from.clone()));
        assert_eq!((plan.cluster.remoting.to_string().as_str(), plan.agent.inbound), ("17355", 4000));
        let ports = json!({"bypassctl.io/path": "ports"});
        assert!(left(&pod(ports.clone(), from)).contains("the pod's ports"));

        let refused = |spec: &Value| choose(&pod(json!({}), spec.clone()), &Settings::default()).unwrap_err();
        let mut path = sidecar(json!(["proxy"]));
        path["initContainers"][0]["env"] = json!([{"name": "BYPASSCTL_PATH", "valueFrom": {}}]);
        assert!(refused(&path).contains("--path of container bypassctl is not to be seen"));
        assert!(left(&pod(ports, path.clone())).contains("the pod's ports"));
        program(&pod(json!({"bypassctl.io/path": "rules"}), path));

        for args in [json!(["proxy", "--remoting-port=$(RP)"]), json!(["proxy", "--remoting-port", "2552,$(RP)"])] {
            let expanded = sidecar(args);
            assert!(refused(&expanded).contains("--remoting-port of container bypassctl is not to be seen"));
            assert_eq!(program(&pod(annotated.clone(), expanded)).cluster.remoting.to_string(), "17355");
        }
        assert!(refused(&sidecar(json!(["proxy", "--outbound-port=$(OP)"]))).contains("--outbound-port"));
        let whole = sidecar(json!(["proxy", "$(OPTIONS)"]));
        assert_eq!(program(&pod(annotated, whole)).cluster.remoting.to_string(), "17355");
    }

    #[test]
    fn the_nodes_ports_do_not_beat_a_pods_preset() {
        let settings = Settings { remoting_port: Some("1".to_owned()), ..Settings::default() };
        let hidden = sidecar(json!(["proxy", "--config=/etc/x.yaml"]));
        let annotated = pod(json!({"bypassctl.io/preset": "pekko"}), hidden);
        let Ok(Choice::Program(plan)) = choose(&annotated, &settings) else { panic!() };
        assert_eq!(plan.cluster.remoting.to_string(), "17355");
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
        let ports = sidecar(json!(["proxy", "--path=ports"]));
        assert!(refused(json!({RULES: "capture"}), ports).contains("nobody listens where the rules would lead"));
        let annotations = json!({RULES: "bypass", "bypassctl.io/preset": "erlang"});
        assert!(refused(annotations, bare).contains("akka-artery"));
        assert!(refused(json!({}), sidecar(json!(["proxy", "--remoting-port=x"]))).contains("remoting-port"));
        let mut root = sidecar(json!(["proxy"]));
        root["initContainers"][0]["securityContext"]["runAsUser"] = 0.into();
        assert!(refused(json!({}), root).contains("--agent-uid 0"));
    }
}
