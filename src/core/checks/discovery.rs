//! Whether the nodes can find each other: names, labels, contact points, DNS.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::checks::subject::{Subject, seen};
use crate::core::checks::{Findings, running};
use crate::core::facts::{Facts, REMOVED};

pub(super) fn run(subject: &Subject, all: &[Subject], findings: &mut Findings) {
    selector(subject, findings);
    if subject.settings.get("cluster.seed-nodes").is_none() && subject.settings.get("cluster.seed-nodes.0").is_none() {
        name(subject, findings);
        strangers(subject, findings);
        contact_points(subject, all, findings);
        dns(subject, findings);
    }
    jvm_dns(subject, findings);
}

/// Whether a selector matches labels (Kubernetes API, LabelSelector: an empty one matches everything).
pub(super) fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    exact
        && expressions.into_iter().all(|expression| {
            let value = labels.get(&expression.key);
            let among = value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

fn selector(subject: &Subject, findings: &mut Findings) {
    let Some(selector) = &subject.workload.selector else { return };
    if matches(selector, subject.labels) {
        return findings.pass("selector-matches", &subject.object, "the selector matches the template's labels");
    }
    let wanted = pairs(selector.match_labels.iter().flatten());
    let message = format!("the selector wants {wanted}, and the template has {}", pairs(subject.labels));
    findings.fail("selector-matches", &subject.object, message, "kubectl apply --dry-run=server -f FILE");
}

fn pairs<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs: Vec<String> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "no labels".to_owned() } else { pairs.join(",") }
}

/// The label selector with which bootstrap asks the API server; `None` where its name is not to be seen.
pub(super) fn bootstrap_label(subject: &Subject) -> Option<(String, String)> {
    if !subject.needs_api() {
        return None;
    }
    // reference.conf of akka-discovery-kubernetes-api: pod-label-selector = "app=%s"
    let key = "discovery.kubernetes-api.pod-label-selector";
    if subject.settings.unknown(key).is_some() {
        return None;
    }
    let selector = subject.settings.get(key).map_or("app=%s", |setting| setting.value.as_str());
    let selector = match subject.service_name() {
        Some(name) => selector.replace("%s", &name.value),
        None if selector.contains("%s") => return None,
        None => selector.to_owned(),
    };
    selector.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
}

fn name(subject: &Subject, findings: &mut Findings) {
    let (code, object) = ("bootstrap-service-name", &subject.object);
    let Some((key, value)) = bootstrap_label(subject) else {
        let reason = if subject.needs_api() || subject.method_is_unknown() {
            "the name or the labels that bootstrap looks for are not to be seen"
        } else {
            "discovery does not go by labels"
        };
        return findings.skip(code, object, reason);
    };
    if value.contains(',') {
        return findings.skip(code, object, format!("{key}={value} is more than this check reads"));
    }
    if subject.labels.get(&key) == Some(&value) {
        return findings.pass(code, object, format!("bootstrap looks for {key}={value}, and the pods have it"));
    }
    let selector = subject.settings.get("discovery.kubernetes-api.pod-label-selector");
    if running::has_joined(subject) {
        return findings.pass(code, object, "a cluster has formed, whatever is not seen of its settings");
    }
    // The image's own settings may look for another label, app.kubernetes.io/name for instance.
    if selector.is_none() && subject.labels.values().any(|label| *label == value) {
        let reason = format!("no label is {key}={value}, another one is {value}; pod-label-selector is not to be seen");
        return findings.skip(code, object, reason);
    }
    let fixed = selector.filter(|selector| !selector.value.contains("%s"));
    let source = fixed.or_else(|| subject.service_name()).map_or("", |setting| setting.source.as_str());
    let message = format!("bootstrap looks for {key}={value} ({source}), and the pods have {}", pairs(subject.labels));
    let namespace = super::word(subject.namespace, "NAMESPACE");
    findings.fail(code, object, message, &format!("kubectl get pods -n {namespace} --show-labels"));
}

/// Other workloads that bootstrap would take for nodes.
fn strangers(subject: &Subject, findings: &mut Findings) {
    let Some((key, value)) = bootstrap_label(subject) else { return };
    let Ok(workloads) = seen(&subject.facts.objects.workloads) else { return };
    let of_namespace =
        workloads.iter().filter(|workload| workload.metadata.namespace.as_deref() == Some(subject.namespace));
    let labelled = of_namespace.filter(|workload| {
        let labels = workload.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        labels.is_some_and(|labels| labels.get(&key) == Some(&value))
    });
    let strangers: Vec<String> = labelled
        .filter(|workload| Subject::new(subject.facts, workload).is_none())
        .map(|workload| format!("{} {}", workload.kind, workload.metadata.name.as_deref().unwrap_or_default()))
        .collect();
    if strangers.is_empty() {
        return findings.pass("discovery-strangers", &subject.object, format!("{key}={value} selects nodes alone"));
    }
    let message = format!("{key}={value} selects pods of {} too, which look like no nodes", strangers.join(", "));
    let namespace = super::word(subject.namespace, "NAMESPACE");
    findings.fail(
        "discovery-strangers",
        &subject.object,
        message,
        &format!("kubectl get pods -n {namespace} --show-labels"),
    );
}

fn contact_points(subject: &Subject, all: &[Subject], findings: &mut Findings) {
    let (code, object) = ("contact-points", &subject.object);
    if matches!(subject.workload.kind.as_str(), "Job" | "CronJob" | "DaemonSet" | "Pod") {
        return findings.skip(code, object, format!("a {} says no number of pods", subject.workload.kind));
    }
    // Several workloads may be one cluster, with one name.
    let label = bootstrap_label(subject);
    let together = all.iter().filter(|other| {
        other.object == subject.object
            || (label.is_some() && other.namespace == subject.namespace && bootstrap_label(other) == label)
    });
    let replicas = together.map(Subject::replicas).try_fold(0_i32, |sum, replicas| Some(sum.saturating_add(replicas?)));
    let key = "management.cluster.bootstrap.contact-point-discovery.required-contact-point-nr";
    if let Some(source) = subject.settings.unknown(key) {
        return findings.skip(code, object, format!("required-contact-point-nr is not to be seen ({source})"));
    }
    let setting = subject.settings.get(key);
    let required = setting.and_then(|setting| setting.value.parse::<i32>().ok());
    let next = subject.kubectl("describe");
    if let Some(setting) = setting
        && required.is_none_or(|required| required <= 0)
        && !["$", "{{", REMOVED].iter().any(|filled_in| setting.value.contains(filled_in))
    {
        let message = format!("{} points are required ({}), which is no number above 0", setting.value, setting.source);
        return findings.fail(code, object, message, &next);
    }
    let Some(replicas) = replicas else {
        return findings.skip(code, object, "replicas is not set; an autoscaler may set it");
    };
    if replicas == 0 {
        return findings.skip(code, object, "no pods are wanted at present");
    }
    // reference.conf of cluster-bootstrap: required-contact-point-nr = 2
    let (needed, source) = match (&setting, required) {
        (Some(setting), Some(required)) => (required, setting.source.clone()),
        (Some(setting), None) => return findings.skip(code, object, format!("{} is no number", setting.value)),
        _ => (2, "the default".to_owned()),
    };
    if needed > replicas && !subject.facts.objects.unlisted.is_empty() {
        // Others may be nodes of the same cluster.
        return findings.skip(code, object, subject.facts.objects.unlisted.join("; "));
    }
    if needed > replicas && running::has_joined(subject) {
        return findings.pass(code, object, "a cluster has formed, whatever is not seen of its settings");
    }
    if needed > replicas && setting.is_none() {
        // An image's own application.conf may say it, too.
        let message = format!(
            "bootstrap requires {needed} contact points unless the app's own settings say otherwise, and there {}",
            pods(replicas)
        );
        return findings.fail("contact-points-default", object, message, &next);
    }
    if needed > replicas {
        let message = format!("bootstrap requires {needed} contact points ({source}), and there {}", pods(replicas));
        return findings.fail(code, object, message, &next);
    }
    findings.pass(code, object, format!("{needed} required ({source}), and there {}", pods(replicas)));
    let code = "contact-points-split";
    if needed <= 1 && replicas > 1 {
        let message = format!("one contact point is enough ({source}), and there {}", pods(replicas));
        return findings.fail(code, object, message, &next);
    }
    findings.pass(code, object, format!("{needed} of {replicas} have to agree"));
}

/// As in `are 3 pods`.
fn pods(count: i32) -> String {
    if count == 1 { "is 1 pod".to_owned() } else { format!("are {count} pods") }
}

fn dns(subject: &Subject, findings: &mut Findings) {
    if !subject.asks_dns() {
        return;
    }
    let (code, object) = ("discovery-dns", &subject.object);
    let services = match seen(&subject.facts.objects.services) {
        Ok(services) => services,
        Err(reason) => return findings.skip(code, object, reason),
    };
    let name = subject.service_name().map(|setting| setting.value.split('.').next().unwrap_or_default());
    let ours = services.iter().filter(|service| service.metadata.namespace.as_deref() == Some(subject.namespace));
    let ours: Vec<&Service> =
        ours.filter(|service| name.is_none_or(|name| service.metadata.name.as_deref() == Some(name))).collect();
    let ours: Vec<&&Service> = ours.iter().filter(|service| subject.is_selected_by(service)).collect();
    if ours.is_empty() {
        return findings.skip(code, object, "the Service that discovery asks for was not found");
    }
    let sees_all = |service: &&&Service| {
        let spec = service.spec.as_ref();
        spec.is_some_and(|spec| {
            spec.publish_not_ready_addresses == Some(true) && spec.cluster_ip.as_deref() == Some("None")
        })
    };
    if ours.iter().any(sees_all) {
        return findings.pass(code, object, "a headless Service publishes pods that are not ready");
    }
    let names: Vec<&str> = ours.iter().filter_map(|service| service.metadata.name.as_deref()).collect();
    let message = format!("discovery asks DNS, and Service {} hides pods that are not ready", names.join(", "));
    findings.fail(code, object, message, "kubectl explain service.spec.publishNotReadyAddresses");
}

fn jvm_dns(subject: &Subject, findings: &mut Findings) {
    let keys = ["networkaddress.cache.ttl", "sun.net.inetaddr.ttl"];
    let Some((key, setting)) = keys.iter().find_map(|key| Some((key, subject.settings.get(key)?))) else { return };
    if setting.value.starts_with('-') {
        let message = format!("{key} is {} ({})", setting.value, setting.source);
        return findings.fail("jvm-dns", &subject.object, message, &subject.kubectl("describe"));
    }
    findings.pass("jvm-dns", &subject.object, format!("{key} is {}", setting.value));
}

/// Services that are meant for the cluster's ports, and select nobody.
pub(super) fn services(facts: &Facts, subjects: &[Subject], findings: &mut Findings) {
    let Ok(services) = seen(&facts.objects.services) else { return };
    for service in services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
        let mut near = subjects.iter().filter(|subject| subject.namespace == namespace).peekable();
        let Some(spec) = service.spec.as_ref().filter(|_| near.peek().is_some()) else { continue };
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { continue };
        let for_cluster = spec.ports.iter().flatten().any(|port| {
            let target = match &port.target_port {
                Some(IntOrString::Int(target)) => *target,
                Some(IntOrString::String(name)) => {
                    return matches!(name.as_str(), "remoting" | "management" | "akka-mgmt-http" | "pekko-mgmt-http");
                }
                None => port.port,
            };
            u16::try_from(target)
                .is_ok_and(|port| facts.ports.remoting.contains(port) || facts.ports.management.contains(port))
        });
        if !for_cluster {
            continue;
        }
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let object = format!("Service/{namespace}/{name}");
        let others = seen(&facts.objects.workloads).unwrap_or_default().iter();
        let any = others.filter(|workload| workload.metadata.namespace.as_deref() == Some(namespace)).any(|workload| {
            let labels = workload.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
            labels.is_some_and(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
        });
        let labels = |pod: &Pod| pod.metadata.labels.clone().unwrap_or_default();
        let holds =
            |labels: BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let mut pods = seen(&facts.objects.pods).unwrap_or_default().iter();
        let unlisted = facts.objects.unlisted.join("; ");
        if any || near.any(|subject| subject.is_selected_by(service)) || pods.any(|pod| holds(labels(pod))) {
            findings.pass("service-selects", &object, format!("{} selects pods", pairs(selector)));
        } else if !unlisted.is_empty() {
            findings.skip("service-selects", &object, unlisted);
        } else {
            let next = format!("kubectl get endpointslices -n {}", super::word(namespace, "NAMESPACE"));
            findings.fail("service-selects", &object, format!("{} selects no pods here", pairs(selector)), &next);
        }
    }
}
