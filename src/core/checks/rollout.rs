//! What an update, a drain and an end do to the cluster.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::checks::Findings;
use crate::core::checks::discovery::matches;
use crate::core::checks::subject::{Subject, seen};

/// Seconds below which a JVM that hands over its shards is killed on the way; Kubernetes' default is 30, and leaving
/// takes 1 to 12 where all is well.
const SHORTEST_GRACE: i64 = 20;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    strategy(subject, findings);
    grace(subject, findings);
    setting(subject, findings, "exit-jvm", "coordinated-shutdown.exit-jvm");
    setting(subject, findings, "join-timeout", "cluster.shutdown-after-unsuccessful-join-seed-nodes");
    budget(subject, findings);
}

/// A number or a percentage of the replicas, rounded as Kubernetes does: surge up, unavailable down.
fn pods(value: &IntOrString, replicas: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or_default();
            let hundredths = replicas.saturating_mul(percent);
            if up { hundredths.saturating_add(99) / 100 } else { hundredths / 100 }
        }
    }
}

fn strategy(subject: &Subject, findings: &mut Findings) {
    // An AkkaCluster's operator fills in surge 1 and unavailable 0.
    if subject.workload.kind != "Deployment" {
        return;
    }
    let object = &subject.object;
    let next = subject.kubectl("get") + " -o yaml";
    let strategy = subject.workload.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return findings.fail("rollout-recreate", object, "the strategy is Recreate", &next);
    }
    findings.pass("rollout-recreate", object, "the strategy is RollingUpdate");
    let Some(replicas) = subject.replicas() else {
        return findings.skip("rollout-unavailable", object, "replicas is not set; an autoscaler may set it");
    };
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let away = pods(unavailable.unwrap_or(&quarter), replicas, false);
    if away > 0 && replicas > 0 {
        let how = if unavailable.is_some() { "as set" } else { "25% where nothing is set" };
        let message = format!("an update takes {away} of {replicas} pods away first ({how})");
        findings.fail("rollout-unavailable", object, message, &next);
    } else {
        findings.pass("rollout-unavailable", object, "an update takes no pod away first");
    }
    let added = pods(surge.unwrap_or(&quarter), replicas, true);
    if added >= replicas && replicas > 1 {
        let message = format!("an update adds {added} pods to {replicas} at once");
        findings.fail("rollout-surge", object, message, &next);
    } else {
        findings.pass("rollout-surge", object, format!("an update adds {added} at a time"));
    }
}

fn grace(subject: &Subject, findings: &mut Findings) {
    let grace = subject.pod.termination_grace_period_seconds.unwrap_or(30);
    if grace < SHORTEST_GRACE {
        let next = subject.kubectl("get") + " -o yaml";
        return findings.fail("grace-period", &subject.object, format!("a node has {grace} s to leave"), &next);
    }
    findings.pass("grace-period", &subject.object, format!("a node has {grace} s to leave"));
}

fn setting(subject: &Subject, findings: &mut Findings, code: &'static str, path: &str) {
    let Some(setting) = subject.settings.get(path) else {
        let source = subject.settings.unknown(path).map(|source| format!(" ({source})")).unwrap_or_default();
        return findings.skip(code, &subject.object, format!("{path} is not to be seen in the manifest{source}"));
    };
    if ["off", "false", "no"].iter().any(|off| setting.value.eq_ignore_ascii_case(off)) {
        let message = format!("{path} is {} ({})", setting.value, setting.source);
        return findings.fail(code, &subject.object, message, &subject.kubectl("describe"));
    }
    findings.pass(code, &subject.object, format!("{path} is {}", setting.value));
}

fn budget(subject: &Subject, findings: &mut Findings) {
    let object = &subject.object;
    let Some(replicas) = subject.replicas().filter(|replicas| *replicas > 1) else { return };
    let budgets = match seen(&subject.facts.objects.disruption_budgets) {
        Ok(budgets) => budgets,
        Err(reason) => return findings.skip("disruption-budget", object, reason),
    };
    let near = budgets.iter().filter(|budget| budget.metadata.namespace.as_deref() == Some(subject.namespace));
    let near: Vec<&PodDisruptionBudget> = near.collect();
    let spec = near
        .iter()
        .filter_map(|budget| budget.spec.as_ref())
        .find(|spec| spec.selector.as_ref().is_some_and(|selector| matches(selector, subject.labels)));
    let next = "kubectl explain poddisruptionbudget.spec";
    let Some(spec) = spec else {
        if subject.offline() && near.is_empty() {
            return findings.skip("disruption-budget", object, "none is among the files");
        }
        return findings.fail("disruption-budget", object, "no disruption budget selects the pods", next);
    };
    findings.pass("disruption-budget", object, "there is one");
    let allowed = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => pods(most, replicas, true),
        (None, Some(least)) => replicas - pods(least, replicas, true),
        (None, None) => return,
    };
    if allowed < 1 {
        let message = format!("the budget lets none of {replicas} pods go");
        return findings.fail("disruption-budget-blocks", object, message, next);
    }
    findings.pass("disruption-budget-blocks", object, format!("the budget lets {allowed} of {replicas} pods go"));
}
