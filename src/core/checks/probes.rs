//! Whether the kubelet asks the right thing, and waits long enough.

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::checks::Findings;
use crate::core::checks::subject::Subject;

/// Seconds that a node may take to start and to form a cluster before it is killed: half of what Akka's documentation
/// gives it (initial delay 20, ten failures ten seconds apart).
const PATIENCE: i32 = 60;
/// Seconds until management listens: its `/alive` is well from then on, in a cluster or not. The manifests of Akka's own
/// tests leave such a probe at Kubernetes' defaults, which are 30 s.
const START: i32 = 20;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    let Some(app) = subject.app else { return };
    // Nobody waits for a Job to be ready.
    if matches!(subject.workload.kind.as_str(), "Job" | "CronJob") {
        return;
    }
    let object = &subject.object;
    let next = subject.kubectl("get") + " -o yaml";
    match &app.readiness_probe {
        Some(_) => findings.pass("probe-readiness", object, "there is one"),
        None => findings.fail("probe-readiness", object, format!("container {} has none", app.name), &next),
    }
    match &app.liveness_probe {
        Some(_) => findings.pass("probe-liveness", object, "there is one"),
        None => findings.fail("probe-liveness", object, format!("container {} has none", app.name), &next),
    }
    patience(subject, findings, app);
    let probes =
        [("readiness", &app.readiness_probe), ("liveness", &app.liveness_probe), ("startup", &app.startup_probe)];
    let probes: Vec<(&str, &Probe)> = probes.into_iter().filter_map(|(name, p)| Some((name, p.as_ref()?))).collect();
    if probes.is_empty() {
        return;
    }
    ports(subject, findings, &probes);
    let swapped: Vec<String> = probes
        .iter()
        .filter_map(|(name, probe)| {
            let path = path(probe)?;
            let wrong = match *name {
                "readiness" => path.ends_with("/alive"),
                _ => path.ends_with("/ready"),
            };
            wrong.then(|| format!("the {name} probe asks {path}"))
        })
        .collect();
    if swapped.is_empty() {
        findings.pass("probe-path", object, "readiness and liveness ask different things");
    } else {
        findings.fail("probe-path", object, swapped.join(" and "), &next);
    }
}

/// Until a startup probe has succeeded nobody asks the liveness probe.
fn patience(subject: &Subject, findings: &mut Findings, app: &Container) {
    let (code, object) = ("probe-patience", &subject.object);
    let mut probes = [("startup", &app.startup_probe), ("liveness", &app.liveness_probe)]
        .into_iter()
        .filter_map(|(name, probe)| Some((name, probe.as_ref()?)))
        .peekable();
    if probes.peek().is_none() {
        return findings.pass(code, object, "nothing kills a starting node");
    }
    let needed = |probe: &Probe| if asks_alive(subject, probe) { START } else { PATIENCE };
    // A startup probe that asks for more than `/alive` has waited for the cluster.
    let has_waited = app.startup_probe.as_ref().is_some_and(|probe| !asks_alive(subject, probe));
    let asked: Vec<_> = probes.filter(|(name, _)| *name == "startup" || !has_waited).collect();
    match asked.iter().find(|(_, probe)| seconds(probe) < needed(probe)) {
        None => {
            let least = asked.iter().map(|(_, probe)| seconds(probe)).min().unwrap_or_default();
            findings.pass(code, object, format!("a starting node has {least} s"));
        }
        Some((name, probe)) => {
            let what = if asks_alive(subject, probe) { "until management listens" } else { "to start and to join" };
            let message = format!(
                "the {name} probe kills a node that does not answer {} s after its start, and it may need {} s {what}",
                seconds(probe),
                needed(probe)
            );
            findings.fail(code, object, message, &subject.kubectl("describe"));
        }
    }
}

/// Whether it asks management's `/alive`; on a port that nobody declares it is meant, and [`ports`] says what is wrong.
fn asks_alive(subject: &Subject, probe: &Probe) -> bool {
    let Some(http) = &probe.http_get else { return false };
    let number = match &http.port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(named) => {
            subject.container_ports().find(|(name, _)| name == named).map(|(_, number)| number)
        }
    };
    let of_another =
        |number| number != subject.management().0 && subject.container_ports().any(|(_, own)| own == number);
    !number.is_some_and(of_another) && path(probe).is_some_and(|path| path.ends_with("/alive"))
}

/// What is asked for, without a query.
fn path(probe: &Probe) -> Option<&str> {
    let path = probe.http_get.as_ref()?.path.as_deref()?;
    Some(path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/'))
}

/// Seconds from a container's start until the kubelet kills it, if the probe never succeeds.
fn seconds(probe: &Probe) -> i32 {
    let period = probe.period_seconds.unwrap_or(10).max(1);
    let failures = probe.failure_threshold.unwrap_or(3).max(1);
    probe.initial_delay_seconds.unwrap_or(0).saturating_add(period.saturating_mul(failures))
}

fn ports(subject: &Subject, findings: &mut Findings, probes: &[(&str, &Probe)]) {
    let remoting = subject.remoting_unseen().is_none().then(|| subject.remoting().0);
    let management = subject.management_unseen().is_none().then(|| subject.management().0);
    let (mut wrong, mut on_remoting) = (Vec::new(), Vec::new());
    for (name, probe) in probes {
        let http = probe.http_get.as_ref();
        let port = http.map(|http| &http.port).or(probe.tcp_socket.as_ref().map(|tcp| &tcp.port));
        let Some(port) = port else { continue };
        let number = match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(named) => {
                let number = subject.container_ports().find(|(name, _)| name == named).map(|(_, number)| number);
                if number.is_none() {
                    wrong.push(format!(
                        "the {name} probe asks port {named:?}, and no port of the container is called so"
                    ));
                }
                number
            }
        };
        let of_management = path(probe).is_some_and(|path| path == "/ready" || path == "/alive");
        match number {
            Some(number) if Some(number) == remoting => on_remoting.push(format!("the {name} probe dials {number}")),
            // Paths of management on a port that is not declared at all; on another declared one the app may serve them.
            Some(number)
                if of_management
                    && management.is_some_and(|management| management != number)
                    && subject.container_ports().all(|(_, declared)| declared != number) =>
            {
                let management = management.unwrap_or_default();
                wrong.push(format!("the {name} probe asks port {number}, and management is {management}"));
            }
            _ => {}
        }
    }
    let next = subject.kubectl("describe");
    if wrong.is_empty() {
        findings.pass("probe-port", &subject.object, "probes ask ports that the container has");
    } else {
        findings.fail("probe-port", &subject.object, wrong.join("; "), &next);
    }
    if on_remoting.is_empty() {
        findings.pass("probe-remoting", &subject.object, "no probe dials remoting");
    } else {
        findings.fail("probe-remoting", &subject.object, on_remoting.join("; "), &next);
    }
}
