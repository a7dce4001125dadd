use super::*;
use crate::core::config::{RedirectMode, SideDoors};
use crate::core::plan::{RedirectPlan, Substitutes};
use crate::core::ports::Preset;
use crate::core::report::Status;

const NOW: OffsetDateTime = time::macros::datetime!(2026-01-02 12:00 UTC);

fn ruleset(mode: RedirectMode) -> Ruleset {
    let plan = RedirectPlan {
        mode,
        cluster: ClusterPorts::new(Some(Preset::Akka), &[], &[]).unwrap(),
        agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
        agent_uid: 12552,
        mesh_uids: vec![1337],
        mesh_mark: 1337,
        side_doors: SideDoors::Closed,
    };
    plan.ruleset(&Substitutes::default())
}

fn agent(ready: bool, reasons: &str, rules_effective: Option<bool>) -> AgentFacts {
    AgentFacts { ready, reasons: reasons.to_owned(), rules_effective, certificate: None, by_ports: false }
}

fn healthy() -> PodFacts {
    let listeners = ["127.0.0.1:15552", "[::1]:15552", "0.0.0.0:15553", "10.0.0.7:2552", "10.0.0.7:8558"];
    PodFacts {
        cluster: ClusterPorts::new(None, &[], &[]).unwrap(),
        agent_ports: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
        rules: Observed::Seen(Some(ruleset(RedirectMode::Capture))),
        foreign_table: false,
        listeners: Observed::Seen(listeners.iter().map(|text| text.parse().unwrap()).collect()),
        agent: Observed::Seen(agent(true, "", Some(true))),
        certificates: Observed::Seen(Ok(CertificateDates {
            identity: "spiffe://cluster.local/ns/default/sa/appka".to_owned(),
            not_before: NOW - Duration::hours(12),
            not_after: NOW + Duration::hours(12),
        })),
        now: NOW,
    }
}

fn failures(facts: &PodFacts) -> Vec<&'static str> {
    run(facts).into_iter().filter(|check| check.status == Status::Fail).map(|check| check.code).collect()
}

#[test]
fn a_healthy_pod_passes_every_check() {
    assert!(run(&healthy()).iter().all(|check| check.status == Status::Pass), "{:#?}", run(&healthy()));
}

#[test]
fn the_list_of_codes_is_complete() {
    assert_eq!(run(&healthy()).iter().map(|check| check.code).collect::<Vec<_>>(), CODES);
}

#[test]
fn every_failure_says_why_it_matters_and_what_to_run_next() {
    let mut facts = healthy();
    facts.rules = Observed::Seen(None);
    facts.listeners = Observed::Seen(Vec::new());
    facts.agent = Observed::Unavailable("connection refused".to_owned());
    facts.certificates = Observed::Seen(Err("tls.crt is missing".to_owned()));
    let failed: Vec<CheckResult> = run(&facts).into_iter().filter(|check| check.status == Status::Fail).collect();
    assert!(failed.len() >= 6, "{failed:#?}");
    for check in failed {
        assert!(!check.hint.is_empty() && !check.next.is_empty(), "{check:?}");
    }
}

#[test]
fn a_table_of_our_name_that_is_somebody_elses_is_no_rules_of_ours() {
    let mut facts = healthy();
    facts.rules = Observed::Seen(None);
    facts.foreign_table = true;
    assert_eq!(failures(&facts), ["rules-present"]);
    assert!(run(&facts)[0].message.contains("somebody else's"), "{:?}", run(&facts)[0]);
}

#[test]
fn rules_for_other_ports_do_not_fit() {
    let mut facts = healthy();
    facts.cluster = ClusterPorts::new(Some(Preset::Pekko), &[], &[]).unwrap();
    assert!(failures(&facts).contains(&"rules-fit-ports"));
    let mut facts = healthy();
    facts.agent_ports.outbound = 25552;
    assert!(failures(&facts).contains(&"rules-fit-ports"));
}

#[test]
fn rules_that_send_remoting_past_the_agent_do_not_fit() {
    let mut facts = healthy();
    facts.rules = Observed::Seen(Some(ruleset(RedirectMode::Bypass)));
    assert_eq!(failures(&facts), ["rules-fit-ports"]);
}

#[test]
fn a_canary_that_does_not_come_back_fails() {
    let mut facts = healthy();
    facts.agent = Observed::Seen(agent(false, "rules", Some(false)));
    assert_eq!(failures(&facts), ["rules-effective", "agent-ready"]);
}

#[test]
fn an_outbound_listener_that_the_network_reaches_fails() {
    let mut facts = healthy();
    facts.listeners = Observed::Seen(vec!["0.0.0.0:15552".parse().unwrap(), "0.0.0.0:15553".parse().unwrap()]);
    assert!(failures(&facts).contains(&"agent-listening"));
}

#[test]
fn an_app_on_loopback_alone_fails_and_one_on_both_passes() {
    let mut facts = healthy();
    let Observed::Seen(listeners) = &mut facts.listeners else { unreachable!() };
    listeners.push("127.0.0.1:2552".parse().unwrap());
    assert!(failures(&facts).is_empty());
    let Observed::Seen(listeners) = &mut facts.listeners else { unreachable!() };
    listeners.retain(|address| address.to_string() != "10.0.0.7:2552");
    assert_eq!(failures(&facts), ["app-remoting-listening"]);
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning() {
    let mut facts = healthy();
    facts.now = NOW + Duration::hours(9);
    assert_eq!(failures(&facts), ["certificate-renewed"]);
}

#[test]
fn what_cannot_be_seen_is_skipped_and_not_failed() {
    let mut facts = healthy();
    facts.rules = Observed::Unavailable("no NET_ADMIN".to_owned());
    let skipped: Vec<&str> =
        run(&facts).into_iter().filter(|check| check.status == Status::Skip).map(|check| check.code).collect();
    assert_eq!(skipped, ["rules-present", "rules-fit-ports"]);
    assert!(failures(&facts).is_empty());
}

#[test]
fn without_rules_the_agent_has_the_pods_ports_and_the_app_loopback() {
    let by_ports = |listeners: &[&str]| PodFacts {
        rules: Observed::Seen(None),
        agent: Observed::Seen(AgentFacts { by_ports: true, ..agent(true, "", None) }),
        listeners: Observed::Seen(listeners.iter().map(|text| text.parse().unwrap()).collect()),
        ..healthy()
    };
    let well = by_ports(&["127.0.0.1:15552", "10.0.0.7:2552", "127.0.0.1:2552", "10.0.0.7:8558"]);
    assert!(failures(&well).is_empty(), "{:#?}", run(&well));
    assert_eq!(run(&well).iter().filter(|check| check.status == Status::Skip).count(), 3);
    let without_app = by_ports(&["127.0.0.1:15552", "10.0.0.7:2552", "10.0.0.7:8558"]);
    assert_eq!(failures(&without_app), ["app-remoting-listening"]);
    let without_agent = by_ports(&["127.0.0.1:15552", "127.0.0.1:2552", "10.0.0.7:8558"]);
    assert_eq!(failures(&without_agent), ["agent-listening"]);
}
