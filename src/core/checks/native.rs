//! Whether nodes with TLS of their own and nodes with the agent can talk.

use crate::core::checks::Findings;
use crate::core::checks::subject::{Subject, seen};
use crate::core::native::{Shown, common_name};
use crate::core::report::Observed;
use crate::core::status::Status;

const PROVIDER: &str = "remote.artery.ssl.ssl-engine-provider";

pub(super) fn run(subject: &Subject, subjects: &[Subject], findings: &mut Findings) {
    let transport = subject.settings.get("remote.artery.transport").filter(|setting| setting.value == "tls-tcp");
    let Some(transport) = transport else { return };
    if subject.agent.proxy.is_some() {
        let message = format!("the app speaks TLS itself ({}), and the sidecar wraps it once more", transport.source);
        return findings.fail("native-tls-twice", &subject.object, message, &subject.kubectl("describe"));
    }
    findings.pass("native-tls-twice", &subject.object, "the app's own TLS is the only one");
    let others: Vec<&Subject> =
        subjects.iter().filter(|other| other.agent.proxy.is_some() && same_cluster(subject, other)).collect();
    if others.is_empty() {
        return;
    }
    let (code, object) = ("native-tls", &subject.object);
    let provider = subject.settings.get(PROVIDER).map(|setting| setting.value.as_str());
    if !provider.is_some_and(|provider| provider.ends_with("RotatingKeysSSLEngineProvider")) {
        return findings.skip(code, object, "the app's certificates are in key stores, as far as can be seen; Akka's enabled-algorithms need a suite with ECDHE");
    }
    let is_akka = !provider.is_some_and(|provider| provider.contains("pekko"));
    let own = certificates(subject);
    let mut wrong = Vec::new();
    let mut judged = own.len();
    for (name, shown) in &own {
        wrong.extend(shown.obstacles().into_iter().map(|obstacle| format!("certificate {name}: {obstacle}")));
    }
    for other in others {
        let minimum = other.agent.proxy.as_ref().and_then(|proxy| proxy.option("tls-min-version"));
        if is_akka && minimum == Some("1.3") {
            wrong.push(format!(
                "the sidecar of {} speaks TLS 1.3 alone (--tls-min-version), and Akka's RotatingKeysSSLEngineProvider TLS 1.2",
                other.object
            ));
        }
        let theirs = certificates(other).into_iter().chain(live(other));
        for (name, shown) in theirs {
            judged += 1;
            wrong.extend(shown.obstacles().into_iter().map(|obstacle| format!("certificate {name}: {obstacle}")));
            let unshared = own.iter().find_map(|(own, mine)| Some((own, mine.no_shared_name(&shown)?)));
            wrong.extend(unshared.map(|(own, obstacle)| format!("certificates {own} and {name}: {obstacle}")));
        }
    }
    wrong.sort();
    wrong.dedup();
    if !wrong.is_empty() {
        return findings.fail(code, object, wrong.join("; "), "bypassctl certs inspect tls.crt");
    }
    if judged == 0 {
        return findings.skip(code, object, "no certificate of either is to be seen");
    }
    findings.pass(code, object, format!("{judged} certificates are as both kinds of nodes want them"));
}

/// By bootstrap's name for it, or else by the label that discovery selects by.
fn same_cluster(one: &Subject, other: &Subject) -> bool {
    let name = |subject: &Subject| subject.service_name().map(|setting| setting.value.clone());
    let same = match (name(one), name(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.labels.get("app").is_some_and(|app| other.labels.get("app") == Some(app)),
    };
    one.namespace == other.namespace && same
}

/// What cert-manager is asked for, of the secrets that its pods mount.
fn certificates(subject: &Subject) -> Vec<(String, Shown)> {
    let secrets =
        subject.pod.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
    let secrets: Vec<&str> = secrets.collect();
    let requested = seen(&subject.facts.objects.certificates).unwrap_or_default().iter();
    let of_it = requested.filter(|one| one.namespace == subject.namespace && secrets.contains(&one.secret.as_str()));
    let shown = of_it.map(|one| {
        let usages = one.usages.iter().map(String::as_str);
        let names = one.dns_names.iter().map(String::as_str);
        (one.name.clone(), Shown::new(&one.algorithm, one.common_name.as_deref(), names, usages))
    });
    shown.collect()
}

/// What the sidecars of its pods show.
fn live<'a>(subject: &'a Subject) -> impl Iterator<Item = (String, Shown)> + 'a {
    let pods = seen(&subject.facts.objects.pods).unwrap_or_default().iter();
    let its = pods.filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        pod.metadata.namespace.as_deref() == Some(subject.namespace)
            && !subject.labels.is_empty()
            && subject.labels.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    });
    its.filter_map(|pod| {
        let key = crate::core::facts::key(&pod.metadata);
        let Observed::Seen(status) = &subject.facts.live.get(&key)?.agent else { return None };
        let status = <Status as serde::Deserialize>::deserialize(status).ok()?;
        let leaf = status.credentials?.chain.into_iter().next()?;
        let names: Vec<String> = leaf.subject_alt_names.iter().map(ToString::to_string).collect();
        let names = names.iter().filter_map(|name| name.strip_prefix("dns:"));
        let usages: Vec<String> = leaf.usages.iter().map(ToString::to_string).collect();
        let subject = leaf.subject.to_string();
        let key_kind = leaf.key?.to_string();
        let shown = Shown::new(&key_kind, common_name(&subject), names, usages.iter().map(String::as_str));
        Some((format!("of pod {key}"), shown))
    })
}
