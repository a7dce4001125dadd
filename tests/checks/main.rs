//! `check files`: healthy manifests raise no alarm, and each way to break them is found under its own code.

mod broken;
mod command;
mod server;

use std::collections::BTreeSet;

use bypassctl::core::checks::{self, catalog};
use bypassctl::core::config::ClusterPorts;
use bypassctl::core::facts::Facts;
use bypassctl::core::manifests::{Named, Reader};
use bypassctl::core::report::{CheckResult, Status};
use bypassctl::core::saved;
use time::macros::datetime;

use broken::ISTIO;

fn facts(text: &str) -> Facts {
    let mut reader = Reader::new("default");
    reader.text("manifest.yaml", text, Named::Itself);
    let ports = ClusterPorts::new(None, &[], &[]).expect("the defaults");
    reader.facts(datetime!(2026-01-15 12:00 UTC), ports)
}

fn failures(text: &str) -> Vec<CheckResult> {
    checks::run(&facts(text)).into_iter().filter(|check| check.status == Status::Fail).collect()
}

fn codes(failures: &[CheckResult]) -> BTreeSet<&str> {
    failures.iter().map(|check| check.code).collect()
}

fn said(failures: &[CheckResult]) -> String {
    let lines = failures.iter().map(|check| format!("\n  {} {}: {}", check.code, check.object, check.message));
    lines.collect()
}

#[test]
fn healthy_manifests_raise_no_alarm() {
    for (name, text) in broken::HEALTHY {
        let failures = failures(text);
        assert!(failures.is_empty(), "{name}:{}", said(&failures));
    }
}

#[test]
fn healthy_manifests_are_judged_at_all() {
    for (name, text) in broken::HEALTHY {
        let passed = checks::run(&facts(text)).iter().filter(|check| check.status == Status::Pass).count();
        assert!(passed >= 15, "{name}: only {passed} checks passed");
    }
}

/// The sample of Akka's documentation about Istio is right but for one thing, which the documentation says itself.
#[test]
fn the_documented_exclusion_loses_the_mesh_s_encryption_and_nothing_else() {
    let text = ISTIO.replace("-Dakka.remote.artery.transport=tls-tcp ", "");
    assert_eq!(codes(&failures(&text)), BTreeSet::from(["mesh-mtls-lost"]));
}

#[test]
fn every_failure_says_why_and_what_next() {
    for case in broken::cases() {
        for failure in failures(&case.text()) {
            let complete = !failure.message.is_empty() && !failure.hint.is_empty() && !failure.next.is_empty();
            assert!(complete, "{}: {failure:?}", case.what);
        }
    }
}

#[test]
fn the_page_about_checks_is_the_catalog() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md")).expect("docs/checks.md");
    assert!(page == catalog::markdown(), "write it anew: bypassctl check explain --all > docs/checks.md");
}

#[test]
fn every_code_is_there_once_and_every_check_of_a_pod_has_the_catalog_s_severity() {
    let codes: Vec<&str> = catalog::entries().map(|entry| entry.code).collect();
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    for code in checks::pod::CODES {
        assert!(codes.contains(&code), "{code}");
    }
}

#[test]
fn no_manifest_breaks_the_checks() {
    // Every healthy manifest with one line missing: some are no YAML, some no objects, none may panic.
    for (_, text) in broken::HEALTHY {
        let lines: Vec<&str> = text.lines().collect();
        for gone in 0..lines.len() {
            let kept = lines.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, line)| *line);
            let _ = checks::run(&facts(&kept.collect::<Vec<_>>().join("\n")));
        }
    }
}

#[test]
fn each_way_to_break_a_manifest_is_found_under_its_code_and_no_other() {
    assert!(broken::cases().count() >= 40);
    let mut wrong = String::new();
    for case in broken::cases() {
        let failures = failures(&case.text());
        if codes(&failures) != BTreeSet::from_iter(case.codes.iter().copied()) {
            wrong += &format!("\n{}: expected {:?}, found{}", case.what, case.codes, said(&failures));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Every check on manifests has at least one way to fail.
#[test]
fn every_check_on_manifests_has_a_broken_variant() {
    let broken: BTreeSet<&str> = broken::cases().flat_map(|case| case.codes.iter().copied()).collect();
    // What a live cluster, a pod or a node alone shows is tested elsewhere.
    let elsewhere = ["Pods", "The running cluster", "check pod", "check pre"];
    let of_files = catalog::CATEGORIES.iter().filter(|(category, _)| !elsewhere.contains(category));
    let codes = of_files.flat_map(|(_, entries)| entries.iter()).map(|entry| entry.code);
    let untested: Vec<&str> = codes.filter(|code| !broken.contains(code)).collect();
    // What all results come to is the command's to say.
    assert_eq!(untested, ["something-judged", "rbac-pods"], "checks without a broken variant");
}

#[test]
fn saved_facts_are_judged_as_the_manifests_themselves() {
    let judged = |facts: &Facts| {
        let results = checks::run(facts).into_iter();
        results.map(|check| (check.code, check.object, check.status)).collect::<Vec<_>>()
    };
    let healthy = broken::HEALTHY.iter().map(|(name, text)| (*name, (*text).to_owned()));
    for (what, text) in healthy.chain(broken::cases().map(|case| (case.what, case.text()))) {
        let facts = facts(&text);
        let saved = saved::from_text(&saved::to_text(&facts).expect("JSON")).expect("facts");
        assert_eq!(judged(&saved), judged(&facts), "{what}");
    }
}

/// The manifests of akka-management's own tests leave a liveness probe on /alive as Kubernetes has it, and others give the
/// one right that discovery uses: neither is a fault.
#[test]
fn what_the_frameworks_give_and_what_they_need_raises_no_alarm() {
    let probes = broken::MINIMAL.replace(
        "          periodSeconds: 10\n          failureThreshold: 10\n          initialDelaySeconds: 20\n",
        "",
    );
    assert!(probes.len() < broken::MINIMAL.len(), "nothing was taken out");
    for text in [
        probes,
        broken::AKKA.replace("\"get\", \"watch\", \"list\"", "\"get\", \"list\""),
        broken::AKKA.replace("\"get\", \"watch\", \"list\"", "\"list\""),
        broken::AKKA.replace("path: /alive", "path: /alive?full"),
        broken::AKKA.replace(
            "name: DB_PASSWORD\n",
            "name: PASSWORD_POLICY\n          value: strict-1\n        - name: DB_PASSWORD\n",
        ),
    ] {
        let failures = failures(&text);
        assert!(failures.is_empty(), "{}", said(&failures));
    }
}

/// A sidecar alone is whole where the node's CNI plugin makes its rules, and only there.
#[test]
fn a_sidecar_whose_rules_the_node_makes_is_complete() {
    let alone = broken::BYPASSCTL.replace("args: [init, --preset, pekko]", "args: [status]");
    assert_eq!(codes(&failures(&alone)), BTreeSet::from(["agent-complete"]));
    for place in [
        "labels: {app: orders, bypassctl.io/rules: capture}",
        "labels: {app: orders}\n      annotations: {bypassctl.io/rules: capture}",
    ] {
        let by_node = alone.replace("      labels: {app: orders}\n", &format!("      {place}\n"));
        assert_ne!(by_node, alone);
        let failures = failures(&by_node);
        assert!(failures.is_empty(), "{}", said(&failures));
    }
}

/// What cannot be read is told by place and kind, never by the value, which may be a secret, nor in a library's words.
#[test]
fn what_is_wrong_in_a_document_is_told_without_its_values() {
    let message = |text: &str| {
        let failures = failures(text);
        failures.iter().find(|check| check.code == "manifest-readable").map(|check| check.message.clone())
    };
    let number = broken::MINIMAL
        .replace("        image: my-service:latest", "        image: x\n        env: [{name: A, value: 87654321}]");
    let said = message(&number).expect("a failure");
    assert!(said.contains("spec.template.spec.containers[0].env[0].value: invalid type: integer, expected"), "{said}");
    assert!(!said.contains("8765"), "{said}");
    let text = broken::MINIMAL.replace("replicas: 3", "replicas: hush");
    let said = message(&text).expect("a failure");
    assert!(said.contains("spec.replicas: invalid type: string") && !said.contains("hush"), "{said}");
    let deep = message(&format!("a: {}{}", "[".repeat(200), "]".repeat(200))).expect("a failure");
    assert!(deep.contains("more than 100 levels") && !deep.contains("Depth"), "{deep}");
    let twice = broken::MINIMAL.replace("kind: Deployment", "kind: Pod\nkind: Deployment");
    let said = message(&twice).expect("a failure");
    assert!(said.contains("the key \"kind\" stands twice") && said.contains("kubectl takes the last one"), "{said}");
    assert!(said.contains("line ") && !said.contains("Policy"), "{said}");
    // The rest of it is judged as kubectl reads it.
    assert_eq!(codes(&failures(&twice)), BTreeSet::from(["manifest-readable"]));
}
