//! `bypassctl check`: gathers facts, judges them, prints the report.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{CheckArgs, CheckCommand, CheckExplainArgs, CheckPodArgs, FailOn, ReportFormat, ResultArgs, TlsArgs};
use crate::commands::proxy::tls_files;
use crate::commands::{Failure, Outcome, cluster, pre, print};
use crate::core::checks::pod::{self, AgentFacts, CertificateDates, PodFacts};
use crate::core::checks::{self, catalog};
use crate::core::config::{AgentPorts, ClusterPorts};
use crate::core::plan::TABLE;
use crate::core::render::report::{self, Style};
use crate::core::report::{CheckResult, Observed, Report, Severity, plain};
use crate::core::ruleset::TableFamily;
use crate::http::HttpError;
use crate::netfilter;
use crate::pod::{admin, listeners};
use crate::tls::Credentials;

mod files;
pub(super) mod saved;

pub(super) fn run(args: &CheckArgs) -> Result<Outcome, Failure> {
    match &args.what {
        CheckCommand::Pod(args) => check_pod(args),
        CheckCommand::Files(args) => files::run(args),
        CheckCommand::Explain(args) => explain(args),
        CheckCommand::Cluster(args) => cluster::check(args),
        CheckCommand::Pre(args) => pre::check(args),
    }
}

fn check_pod(args: &CheckPodArgs) -> Result<Outcome, Failure> {
    let facts = gather(args)?;
    tell(&judged(pod::run(&facts), &args.result), &args.result, true)
}

/// The report, without what is suppressed.
pub(super) fn judged(results: Vec<CheckResult>, args: &ResultArgs) -> Report {
    Report::new(checks::unless_suppressed(results, &args.suppress))
}

/// Whether something failed that counts.
pub(super) fn failed(report: &Report, args: &ResultArgs) -> bool {
    report.failed(threshold(args))
}

pub(super) fn threshold(args: &ResultArgs) -> Severity {
    match args.fail_on {
        FailOn::Warning => Severity::Warning,
        FailOn::Error => Severity::Error,
    }
}

/// Prints the report; `all` if the text is to name what passed, too.
pub(super) fn tell(report: &Report, args: &ResultArgs, all: bool) -> Result<Outcome, Failure> {
    print(&match args.output {
        ReportFormat::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            report::text(report, Style { colour, all })
        }
        ReportFormat::Short => report::short(report),
        ReportFormat::Json => report::json(report),
        ReportFormat::Junit => report::junit(report, threshold(args)),
    })?;
    Ok(if failed(report, args) { Outcome::NotWell } else { Outcome::Done })
}

fn explain(args: &CheckExplainArgs) -> Result<Outcome, Failure> {
    let text = match &args.code {
        None if args.all => catalog::markdown(),
        None => catalog::list(),
        Some(code) => match catalog::entry(code) {
            Some(entry) => catalog::section(entry),
            None => {
                let error = anyhow::anyhow!("there is no check {code:?}; `bypassctl check explain` lists them");
                return Err(Failure::usage(error));
            }
        },
    };
    print(&text)?;
    Ok(Outcome::Done)
}

fn gather(args: &CheckPodArgs) -> Result<PodFacts, Failure> {
    let cluster = ClusterPorts::new(args.cluster.preset, &args.cluster.remoting_port, &args.cluster.management_port)
        .map_err(Failure::usage)?;
    let agent = &args.agent;
    let agent_ports =
        AgentPorts { outbound: agent.outbound_port, inbound: agent.inbound_port, admin: agent.admin_port }
            .checked(&cluster)
            .map_err(Failure::usage)?;
    let now = OffsetDateTime::now_utc();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let foreign_table = netfilter::is_foreign(TableFamily::Inet, TABLE).unwrap_or_default();
    let rules = if foreign_table { Ok(None) } else { netfilter::read(TableFamily::Inet, TABLE) };
    let rules = rules.map(|table| table.map(|table| table.ruleset));
    let rules = match (observed(rules), netfilter::rules_elsewhere()) {
        (Observed::Seen(None), Some(place)) => {
            Observed::Unavailable(format!("{place}, which this check does not read"))
        }
        (rules, _) => rules,
    };
    let agent = runtime.block_on(ask_agent(agent_ports.admin));
    Ok(PodFacts {
        rules,
        foreign_table,
        listeners: observed(listeners::listening()),
        certificates: certificates(&args.tls, &agent, now),
        agent,
        cluster,
        agent_ports,
        now,
    })
}

fn observed<T>(seen: Result<T, impl std::fmt::Display>) -> Observed<T> {
    seen.map_or_else(|error| Observed::Unavailable(error.to_string()), Observed::Seen)
}

async fn ask_agent(port: u16) -> Observed<AgentFacts> {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let answers = async {
        let (code, reasons) = admin::get(address, "/ready").await?;
        let (_, status) = admin::get(address, "/status").await?;
        Ok::<_, HttpError>((code.is_success(), reasons, status))
    };
    match answers.await {
        Ok((ready, reasons, status)) => {
            let status: Value = serde_json::from_str(&status).unwrap_or_default();
            let (rules_effective, certificate) = (rules_effective(&status), certificate_in_use(&status));
            let by_ports = status["path"] == "ports";
            Observed::Seen(AgentFacts { ready, reasons, rules_effective, certificate, by_ports })
        }
        Err(error) => Observed::Unavailable(error.to_string()),
    }
}

/// Whether the canary of the sidecar behind this admin port comes back to it; `None` if it does not tell.
pub(super) fn asked_of_sidecar(admin_port: u16) -> Result<Option<bool>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(ask_agent(admin_port)) {
        Observed::Seen(agent) => Ok(agent.rules_effective),
        Observed::Unavailable(_) => Ok(None),
    }
}

/// What the agent's canaries of both families came to.
pub(super) fn rules_effective(status: &Value) -> Option<bool> {
    let families = status["rules"]["families"].as_object()?;
    let states: Vec<&str> = families.values().filter_map(|family| family["state"].as_str()).collect();
    if states.contains(&"missing") {
        return Some(false);
    }
    states.contains(&"present").then_some(true)
}

/// What the agent says of its own certificate; `None` without TLS.
fn certificate_in_use(status: &Value) -> Option<Result<CertificateDates, String>> {
    let credentials = status.get("credentials").filter(|credentials| credentials.is_object())?;
    let text = |value: &Value| plain(value.as_str().unwrap_or_default());
    let source = text(&credentials["source"]);
    let Some(leaf) = credentials["chain"].get(0) else {
        let fault = credentials["reloads"]["fault"].as_str().map_or_else(|| "no answer yet".into(), plain);
        return Some(Err(format!("the agent has no credentials yet: {fault}")));
    };
    let names: Vec<_> = leaf["subject_alt_names"].as_array().into_iter().flatten().map(text).collect();
    let date = |key: &str| {
        let date = leaf[key].as_str().and_then(|date| OffsetDateTime::parse(date, &Rfc3339).ok());
        date.ok_or_else(|| format!("the agent says no {key} of its certificate"))
    };
    let dates = date("not_before").and_then(|not_before| Ok((not_before, date("not_after")?)));
    Some(dates.map(|(not_before, not_after)| {
        let identity = format!("{} [{}], which the agent has from {source}", text(&leaf["subject"]), names.join(", "));
        CertificateDates { identity, not_before, not_after }
    }))
}

fn certificates(
    args: &TlsArgs,
    agent: &Observed<AgentFacts>,
    now: OffsetDateTime,
) -> Observed<Result<CertificateDates, String>> {
    if args.tls_dir.is_none() && args.tls_cert.is_none() {
        return match agent {
            Observed::Seen(AgentFacts { certificate: Some(certificate), .. }) => Observed::Seen(certificate.clone()),
            Observed::Seen(_) => Observed::Unavailable("the agent has no TLS (--mode disabled)".to_owned()),
            Observed::Unavailable(reason) => {
                let reason = format!("no files are named, and the agent, which would tell, does not answer: {reason}");
                Observed::Unavailable(reason)
            }
        };
    }
    let files = tls_files(args);
    let loaded = files.map_err(|error| error.to_string()).and_then(|files| {
        let credentials = Credentials::load(&files, &[], now).map_err(|error| error.to_string())?;
        let leaf = &credentials.leaf;
        let identity = format!("{} [{}]", leaf.subject, leaf.subject_alt_names.join(", "));
        Ok(CertificateDates { identity, not_before: leaf.not_before, not_after: leaf.not_after })
    });
    Observed::Seen(loaded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_agent_tells_of_its_certificate_or_why_it_has_none() {
        assert!(certificate_in_use(&json!({"credentials": null})).is_none());
        let waiting =
            json!({"credentials": {"source": "s", "chain": [], "reloads": {"fault": "no such\u{1b} socket"}}});
        let fault = certificate_in_use(&waiting).unwrap().unwrap_err();
        assert!(fault.contains("no credentials yet: no such") && !fault.contains('\u{1b}'), "{fault}");
        let leaf = json!({"subject": "CN=cart", "subject_alt_names": ["spiffe://d/x"], "not_before": "2026-01-01T00:00:00Z",
            "not_after": "2026-01-02T00:00:00Z"});
        let dates = certificate_in_use(&json!({"credentials": {"source": "Istio's CA i:1", "chain": [leaf]}}));
        let dates = dates.unwrap().unwrap();
        assert_eq!(dates.identity, "CN=cart [spiffe://d/x], which the agent has from Istio's CA i:1");
        assert_eq!((dates.not_after - dates.not_before).whole_hours(), 24);
    }

    #[test]
    fn one_family_without_rules_is_enough_to_fail() {
        let status =
            |v4: &str, v6: &str| json!({"rules": {"families": {"IPv4": {"state": v4}, "IPv6": {"state": v6}}}});
        assert_eq!(rules_effective(&status("present", "missing")), Some(false));
        assert_eq!(rules_effective(&status("present", "no_route")), Some(true));
        assert_eq!(rules_effective(&status("unknown", "unknown")), None);
        assert_eq!(rules_effective(&json!({"rules": {"families": {}}})), None);
    }
}
