//! Which mesh a pod will be in, and what its annotations let past.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::core::facts::Facts;
use crate::core::fallback;
use crate::core::ports::PortSet;
use crate::core::report::Observed;

/// Networks that Consul leaves alone; whether the pods are among them, nobody can tell from here.
const CONSUL_CIDRS: &str = "consul.hashicorp.com/transparent-proxy-exclude-outbound-cidrs";

/// A mesh that captures by a sidecar, or on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core::checks) enum MeshKind {
    Istio,
    Linkerd,
    Kuma,
    Consul,
    Ambient,
}

impl MeshKind {
    pub(in crate::core::checks) fn name(self) -> &'static str {
        match self {
            Self::Istio => "Istio",
            Self::Linkerd => "Linkerd",
            Self::Kuma => "Kuma",
            Self::Consul => "Consul",
            Self::Ambient => "Istio ambient",
        }
    }

    /// The annotation that keeps outgoing ports from the mesh, and the one for arriving ones.
    pub(in crate::core::checks) fn exclusions(self) -> (&'static str, &'static str) {
        let mesh = match self {
            Self::Istio | Self::Ambient => fallback::Mesh::Istio,
            Self::Linkerd => fallback::Mesh::Linkerd,
            Self::Kuma => fallback::Mesh::Kuma,
            Self::Consul => fallback::Mesh::Consul,
        };
        mesh.annotations().into()
    }

    /// Annotations that mean something on a pod alone.
    pub(in crate::core::checks) fn is_of_a_mesh(annotation: &str) -> bool {
        const PREFIXES: [&str; 5] = [
            "traffic.sidecar.istio.io/",
            "config.linkerd.io/skip-",
            "traffic.kuma.io/",
            "sidecar.istio.io/",
            "consul.hashicorp.com/",
        ];
        PREFIXES.iter().any(|prefix| annotation.starts_with(prefix))
    }
}

/// The mesh of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core::checks) struct Mesh {
    pub(in crate::core::checks) kind: MeshKind,
    /// What says so.
    pub(in crate::core::checks) because: String,
    /// Annotations of the namespace that hold for its pods: Linkerd reads them there, too.
    inherited: Texts,
}

type Texts = BTreeMap<String, String>;

impl Mesh {
    pub(super) fn of(
        facts: &Facts,
        namespace: &str,
        labels: &Texts,
        annotations: &Texts,
        pod: &PodSpec,
    ) -> Option<Self> {
        let of_namespace = namespace_of(facts, namespace);
        let empty = Texts::new();
        let (ns_labels, ns_annotations) = of_namespace.unwrap_or((&empty, &empty));
        let says =
            |texts: &Texts, key: &str, values: &[&str]| texts.get(key).is_some_and(|v| values.contains(&v.as_str()));
        let container = |name: &str| {
            let init = pod.init_containers.iter().flatten();
            init.chain(&pod.containers).any(|container| container.name == name)
        };
        let linkerd = ns_annotations.iter().filter(|(key, _)| key.starts_with("config.linkerd.io/"));
        let inherited: Texts = linkerd.map(|(key, value)| (key.clone(), value.clone())).collect();
        let found =
            |kind, because: &str| Some(Self { kind, because: because.to_owned(), inherited: inherited.clone() });
        // No mesh injects a sidecar into a pod on its host's network.
        if pod.host_network == Some(true) {
            return None;
        }
        let on = |key: &str, values: &[&str]| says(labels, key, values) || says(annotations, key, values);
        if on("sidecar.istio.io/inject", &["false"])
            || on("linkerd.io/inject", &["disabled"])
            || on("kuma.io/sidecar-injection", &["disabled"])
            || on("consul.hashicorp.com/connect-inject", &["false"])
        {
            return None;
        }
        if container("istio-proxy") || on("sidecar.istio.io/inject", &["true"]) {
            return found(MeshKind::Istio, "the pod asks for Istio's sidecar");
        }
        if container("linkerd-proxy") || on("linkerd.io/inject", &["enabled", "ingress"]) {
            return found(MeshKind::Linkerd, "the pod asks for Linkerd's sidecar");
        }
        if container("kuma-sidecar") || on("kuma.io/sidecar-injection", &["enabled", "true"]) {
            return found(MeshKind::Kuma, "the pod asks for Kuma's sidecar");
        }
        if container("consul-dataplane") || on("consul.hashicorp.com/connect-inject", &["true"]) {
            return found(MeshKind::Consul, "the pod asks for Consul's sidecar");
        }
        if on("istio.io/dataplane-mode", &["ambient"])
            || (says(ns_labels, "istio.io/dataplane-mode", &["ambient"]) && !on("istio.io/dataplane-mode", &["none"]))
        {
            return found(MeshKind::Ambient, "namespace or pod is labelled istio.io/dataplane-mode=ambient");
        }
        if says(ns_labels, "istio-injection", &["enabled"])
            || ns_labels.contains_key("istio.io/rev")
            || labels.contains_key("istio.io/rev")
        {
            return found(MeshKind::Istio, "the namespace is labelled for Istio's injection");
        }
        if says(ns_annotations, "linkerd.io/inject", &["enabled", "ingress"]) {
            return found(MeshKind::Linkerd, "the namespace is annotated for Linkerd's injection");
        }
        if says(ns_labels, "kuma.io/sidecar-injection", &["enabled", "true"]) {
            return found(MeshKind::Kuma, "the namespace is labelled for Kuma's injection");
        }
        let prefixed = |prefix: &str| annotations.keys().any(|key| key.starts_with(prefix));
        if prefixed("traffic.sidecar.istio.io/") {
            return found(MeshKind::Istio, "the pod has annotations for Istio's sidecar");
        }
        if prefixed("config.linkerd.io/skip-") {
            return found(MeshKind::Linkerd, "the pod has annotations for Linkerd's sidecar");
        }
        if prefixed("traffic.kuma.io/") {
            return found(MeshKind::Kuma, "the pod has annotations for Kuma's sidecar");
        }
        if prefixed("consul.hashicorp.com/transparent-proxy") {
            return found(MeshKind::Consul, "the pod has annotations for Consul's sidecar");
        }
        None
    }

    /// Whether the pod has a proxy that captures nothing by itself.
    fn captures_nothing(&self, annotations: &Texts) -> bool {
        let says = |key: &str, value: &str| annotations.get(key).is_some_and(|found| found == value);
        let config = annotations.get("proxy.istio.io/config");
        match self.kind {
            MeshKind::Istio => {
                says("sidecar.istio.io/interceptionMode", "NONE")
                    || config.is_some_and(|config| config.contains("interceptionMode: NONE"))
            }
            MeshKind::Consul => says("consul.hashicorp.com/transparent-proxy", "false"),
            _ => false,
        }
    }

    /// Whether the mesh leaves this outgoing port alone.
    pub(in crate::core::checks) fn leaves_outbound(&self, annotations: &Texts, port: u16) -> bool {
        let istio = |key: &str| annotations.get(&format!("traffic.sidecar.istio.io/{key}"));
        if self.captures_nothing(annotations) || annotations.contains_key(CONSUL_CIDRS) {
            return true;
        }
        let key = self.kind.exclusions().0;
        let listed = holds(annotations.get(key).or(self.inherited.get(key)), port);
        if self.kind != MeshKind::Istio {
            return listed || self.kind == MeshKind::Ambient;
        }
        let captures = istio("includeOutboundIPRanges").is_none_or(|ranges| ranges.trim() == "*");
        let nothing = istio("includeOutboundIPRanges").is_some_and(|ranges| ranges.trim().is_empty());
        let some_out = istio("excludeOutboundIPRanges").is_some_and(|ranges| !ranges.trim().is_empty());
        // Some ranges alone are captured: whether the pods are among them, nobody can tell from here.
        listed
            || nothing
            || some_out
            || (!captures && !istio("includeOutboundPorts").is_some_and(|list| holds(Some(list), port)))
    }

    /// Whether the mesh leaves this arriving port alone.
    pub(in crate::core::checks) fn leaves_inbound(&self, annotations: &Texts, port: u16) -> bool {
        if self.captures_nothing(annotations) {
            return true;
        }
        let key = self.kind.exclusions().1;
        let listed = holds(annotations.get(key).or(self.inherited.get(key)), port);
        if self.kind != MeshKind::Istio {
            return listed || self.kind == MeshKind::Ambient;
        }
        match annotations.get("traffic.sidecar.istio.io/includeInboundPorts").map(|list| list.trim()) {
            None | Some("*") => listed,
            Some(list) => listed || !holds(Some(&list.to_owned()), port),
        }
    }
}

/// Whether a list of ports and ranges, as meshes write them, holds the port.
pub(in crate::core::checks) fn holds(list: Option<&String>, port: u16) -> bool {
    list.is_some_and(|list| ports(list).is_some_and(|ports| ports.contains(port)))
}

/// The ports of such a list; what is no port is left out.
pub(in crate::core::checks) fn ports(list: &str) -> Option<PortSet> {
    PortSet::new(list.split(',').filter_map(|part| part.trim().parse().ok()))
}

/// Labels and annotations of a namespace, where it was seen.
pub(in crate::core::checks) fn namespace_of<'a>(facts: &'a Facts, name: &str) -> Option<(&'a Texts, &'a Texts)> {
    let Observed::Seen(namespaces) = &facts.objects.namespaces else { return None };
    let metadata = namespaces.iter().map(|namespace| &namespace.metadata).find(|m| m.name.as_deref() == Some(name))?;
    let none = &super::NONE;
    Some((metadata.labels.as_ref().unwrap_or(none), metadata.annotations.as_ref().unwrap_or(none)))
}
