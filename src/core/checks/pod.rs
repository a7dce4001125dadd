//! `check pod`: this pod's rules, listeners, certificates and sidecar.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use time::{Duration, OffsetDateTime};

use crate::core::checks::Check;
use crate::core::config::{AgentPorts, ClusterPorts, RedirectMode};
use crate::core::plan::{OUTPUT_CHAIN, PREROUTING_CHAIN, TABLE};
use crate::core::ports::PortSet;
use crate::core::report::{CheckResult, Observed, Severity};
use crate::core::ruleset::{Action, Hook, Ruleset};
use crate::core::verdict::{Packet, Protocol, first_match};

/// A certificate that ends within this time is worth a warning: cert-manager renews at two thirds of the lifetime, so
/// a healthy one never comes this close.
const EXPIRES_SOON: Duration = Duration::hours(6);

/// What was seen of this pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// The cluster's ports, as configured.
    pub cluster: ClusterPorts,
    /// The sidecar's ports, as configured.
    pub agent_ports: AgentPorts,
    /// Our table; needs NET_ADMIN to be seen.
    pub rules: Observed<Option<Ruleset>>,
    /// Whether there is a table of our name that somebody else made; it is not in `rules`.
    pub foreign_table: bool,
    /// Listening TCP sockets of this network namespace.
    pub listeners: Observed<Vec<SocketAddr>>,
    /// The sidecar's own word.
    pub agent: Observed<AgentFacts>,
    /// Certificate, key and CA files; where none are named, what the sidecar says that it uses.
    pub certificates: Observed<Result<CertificateDates, String>>,
    /// When the facts were gathered.
    pub now: OffsetDateTime,
}

/// What the sidecar's admin port says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFacts {
    /// Whether `/ready` was 200.
    pub ready: bool,
    /// What `/ready` said.
    pub reasons: String,
    /// Whether its canary comes back: `None` if it sends none.
    pub rules_effective: Option<bool>,
    /// The certificate that it uses, or why it has none; `None` without TLS.
    pub certificate: Option<Result<CertificateDates, String>>,
    /// Whether it has the pod's ports, and expects no rules.
    pub by_ports: bool,
}

/// The leaf certificate's dates and identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateDates {
    /// Subject and names, for people.
    pub identity: String,
    /// First second of validity.
    pub not_before: OffsetDateTime,
    /// Last second of validity.
    pub not_after: OffsetDateTime,
}

/// Every check's code.
pub const CODES: [&str; 9] = [
    "rules-present",
    "rules-fit-ports",
    "rules-effective",
    "agent-listening",
    "agent-ready",
    "certificate-valid",
    "certificate-renewed",
    "app-remoting-listening",
    "app-management-listening",
];

impl PodFacts {
    fn is_by_ports(&self) -> bool {
        matches!(&self.agent, Observed::Seen(agent) if agent.by_ports)
    }
}

/// Runs every check of a pod, in an order that leads from cause to effect.
#[must_use]
pub fn run(facts: &PodFacts) -> Vec<CheckResult> {
    let mut results = if facts.is_by_ports() {
        ["rules-present", "rules-fit-ports", "rules-effective"].map(needs_no_rules).to_vec()
    } else {
        vec![rules_present(facts), rules_fit_ports(facts), rules_effective(facts)]
    };
    results.extend([agent_listening(facts), agent_ready(facts), certificates(facts), certificate_expiry(facts)]);
    results.extend([app_listening(facts), management_listening(facts)]);
    results
}

const RULES: &str = "table/bypassctl";
const AGENT: &str = "container/bypassctl";
const APP: &str = "container/app";
const CERTIFICATES: &str = "files/tls";

fn needs_no_rules(code: &'static str) -> CheckResult {
    let check = Check { code, severity: Severity::Error, object: RULES.into() };
    check.skip("the agent has --path ports, and needs no rules", "see agent-listening and agent-ready")
}

fn rules_present(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "rules-present", severity: Severity::Error, object: RULES.into() };
    match &facts.rules {
        Observed::Seen(Some(ruleset)) => {
            let rules: usize = ruleset.chains.iter().map(|chain| chain.rules.len()).sum();
            check.pass(format!("table inet {TABLE} stands with {rules} rules in {} chains", ruleset.chains.len()))
        }
        Observed::Seen(None) if facts.foreign_table => check.fail(
            format!("table inet {TABLE} is somebody else's: none of its chains is one that `bypassctl init` makes"),
            "rules of ours are not there, and init refuses to replace the table: have whoever made it call it something \
             else, or remove it, or run init with --backend iptables-nft",
            "kubectl logs POD -c bypassctl-init",
        ),
        Observed::Seen(None) => check.fail(
            format!("there is no table inet {TABLE} in this network namespace"),
            "without it remoting and management go where the mesh sends them; the init container did not run, failed, or \
             its rules were removed",
            "kubectl logs POD -c bypassctl-init",
        ),
        Observed::Unavailable(reason) => check.skip(reason, "run it where NET_ADMIN is, or rely on rules-effective"),
    }
}

fn rules_fit_ports(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "rules-fit-ports", severity: Severity::Error, object: RULES.into() };
    let ruleset = match &facts.rules {
        Observed::Seen(Some(ruleset)) => ruleset,
        Observed::Seen(None) => return check.skip("there are no rules to judge", "see rules-present"),
        Observed::Unavailable(reason) => return check.skip(reason, "run it where NET_ADMIN is"),
    };
    let wrong = unfit(ruleset, &facts.cluster, facts.agent_ports, RedirectMode::Capture);
    if wrong.is_empty() {
        let ClusterPorts { remoting, management } = &facts.cluster;
        return check.pass(format!("remoting {remoting} goes to the agent, management {management} goes straight"));
    }
    check.fail(
        wrong.join("; "),
        "init, proxy and check must be given the same ports; give each --remoting-port, --management-port and the agent's \
         ports as init had them (a pod in bypass mode has no agent: remoting past it is what it was told)",
        "bypassctl init --dry-run",
    )
}

/// What a table of ours does not do that it has to, for these ports.
#[must_use]
pub fn unfit(ruleset: &Ruleset, cluster: &ClusterPorts, agent: AgentPorts, mode: RedirectMode) -> Vec<String> {
    let mut wrong = Vec::new();
    for port in cluster.remoting.iter() {
        for (chain, hook, agent_port) in
            [(OUTPUT_CHAIN, Hook::Output, agent.outbound), (PREROUTING_CHAIN, Hook::Prerouting, agent.inbound)]
        {
            let capture = mode == RedirectMode::Capture;
            match first_match(ruleset, chain, hook, &syn_to(port, hook)).map(|rule| &rule.action) {
                Some(Action::Redirect(to)) if capture && *to == agent_port => {}
                Some(Action::NullBinding(_)) if !capture => {}
                Some(Action::Redirect(to)) if !capture => {
                    wrong.push(format!("{chain} sends remoting {port} to {to}, not straight"));
                }
                Some(Action::Redirect(to)) => {
                    wrong.push(format!("{chain} sends remoting {port} to {to}, not {agent_port}"));
                }
                Some(Action::NullBinding(_)) => wrong.push(format!("{chain} sends remoting {port} past the agent")),
                _ => wrong.push(format!("{chain} says nothing of remoting {port}")),
            }
        }
    }
    for port in cluster.management.iter() {
        for (chain, hook) in [(OUTPUT_CHAIN, Hook::Output), (PREROUTING_CHAIN, Hook::Prerouting)] {
            let action = first_match(ruleset, chain, hook, &syn_to(port, hook)).map(|rule| &rule.action);
            if !matches!(action, Some(Action::NullBinding(_))) {
                wrong.push(format!("{chain} does not let management {port} go straight"));
            }
        }
    }
    wrong
}

/// A new connection of some process to some other pod, or from one.
fn syn_to(port: u16, hook: Hook) -> Packet {
    Packet {
        destination: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        to_this_pod: hook == Hook::Prerouting,
        protocol: Protocol::TcpSyn,
        port,
        // No uid of the agent, of a mesh or of root: any app's.
        uid: (hook == Hook::Output).then_some(u32::MAX - 1),
        mark: 0,
    }
}

fn rules_effective(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "rules-effective", severity: Severity::Error, object: RULES.into() };
    match &facts.agent {
        Observed::Seen(AgentFacts { rules_effective: Some(true), .. }) => {
            check.pass("a connection that the agent makes to test the rules comes back to it")
        }
        Observed::Seen(AgentFacts { rules_effective: Some(false), .. }) => check.fail(
            "a connection that the agent makes to test the rules does not come back to it",
            "the rules are gone, or something else in the pod beats them: remoting may be going through the mesh",
            "bypassctl init",
        ),
        Observed::Seen(AgentFacts { rules_effective: None, .. }) => {
            check.skip("the agent tests no rules: it has fixed targets, or no answer yet", "try again in a few seconds")
        }
        Observed::Unavailable(reason) => {
            check.skip(format!("the agent tells, and it does not answer: {reason}"), "see agent-ready")
        }
    }
}

fn agent_listening(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "agent-listening", severity: Severity::Error, object: AGENT.into() };
    let listeners = match &facts.listeners {
        Observed::Seen(listeners) => listeners,
        Observed::Unavailable(reason) => return check.skip(reason, "/proc/net/tcp must be readable"),
    };
    let AgentPorts { outbound, inbound, .. } = facts.agent_ports;
    let on = |port: u16| listeners.iter().find(|address| address.port() == port);
    let on_pod = |port: u16| listeners.iter().any(|address| address.port() == port && !address.ip().is_loopback());
    let inbound: Vec<u16> = if facts.is_by_ports() { facts.cluster.remoting.iter().collect() } else { vec![inbound] };
    let missing: Vec<String> = std::iter::once(("outbound", outbound, on(outbound).is_some()))
        .chain(inbound.iter().map(|port| ("inbound", *port, on_pod(*port))))
        .filter(|(.., is_there)| !is_there)
        .map(|(name, port, _)| format!("{name} {port}"))
        .collect();
    if !missing.is_empty() {
        return check.fail(
            format!("nothing listens on the agent's ports: {}", missing.join(", ")),
            "the sidecar is not running, so every remoting connection of this pod is refused, out and in; that is meant: \
             it fails closed",
            "kubectl logs POD -c bypassctl",
        );
    }
    match on(outbound).filter(|address| !address.ip().is_loopback()) {
        Some(address) => check.fail(
            format!("the agent's outbound listener is open to the network at {address}"),
            "anybody could use this pod's certificate through it; it must listen on loopback alone",
            "kubectl get pod POD -o yaml",
        ),
        None => {
            let inbound = inbound.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            check.pass(format!("the agent listens on {outbound} (outbound, loopback) and {inbound} (inbound)"))
        }
    }
}

fn agent_ready(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "agent-ready", severity: Severity::Error, object: AGENT.into() };
    match &facts.agent {
        Observed::Seen(agent) if agent.ready => check.pass("the agent says that it is ready"),
        Observed::Seen(agent) => check.fail(
            format!("the agent says that it is not ready: {}", agent.reasons.trim().replace('\n', "; ")),
            "each reason is one of certificate, listeners, rules; see the check of that name",
            "kubectl logs POD -c bypassctl",
        ),
        Observed::Unavailable(reason) => check.fail(
            format!("the agent's admin port {} does not answer: {reason}", facts.agent_ports.admin),
            "the sidecar is not running, or has another --admin-port",
            "kubectl logs POD -c bypassctl",
        ),
    }
}

fn certificates(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "certificate-valid", severity: Severity::Error, object: CERTIFICATES.into() };
    match &facts.certificates {
        Observed::Seen(Ok(dates)) => {
            check.pass(format!("{}, from {} until {}", dates.identity, day(dates.not_before), day(dates.not_after)))
        }
        Observed::Seen(Err(reason)) => check.fail(
            reason,
            "without one remoting has no TLS; the agent keeps the last good certificate while it runs, waits for whoever it \
             asks, and cannot start with bad files",
            "kubectl logs POD -c bypassctl",
        ),
        Observed::Unavailable(reason) => check.skip(reason, "pass --tls-dir as bypassctl proxy has it"),
    }
}

fn certificate_expiry(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "certificate-renewed", severity: Severity::Warning, object: CERTIFICATES.into() };
    let Observed::Seen(Ok(dates)) = &facts.certificates else {
        return check.skip("there is no valid certificate to judge", "see certificate-valid");
    };
    let left = dates.not_after - facts.now;
    let lifetime = dates.not_after - dates.not_before;
    if left < EXPIRES_SOON.min(lifetime / 6) {
        return check.fail(
            format!("the certificate ends in {} minutes", left.whole_minutes()),
            "whoever renews it is late; when it has ended, no new connection is made",
            "kubectl get certificaterequest -n NAMESPACE",
        );
    }
    check.pass(format!("the certificate is good for another {} hours", left.whole_hours()))
}

fn app_listening(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "app-remoting-listening", severity: Severity::Warning, object: APP.into() };
    if let (true, Observed::Seen(listeners)) = (facts.is_by_ports(), &facts.listeners) {
        // On the pod's addresses it is the agent who listens.
        let remoting = &facts.cluster.remoting;
        let app = listeners.iter().find(|address| remoting.contains(address.port()) && address.ip().is_loopback());
        return match app {
            Some(address) => check.pass(format!("the app's remoting listens on {address}, and nowhere else")),
            None => check.fail(
                format!("nothing listens on 127.0.0.1 at remoting {remoting}"),
                "the agent hands arriving connections to loopback; the app is not up yet, or lacks artery.bind.hostname \
                 127.0.0.1",
                "kubectl logs POD -c APP",
            ),
        };
    }
    let hint = "the agent hands arriving connections to the pod's address, where nothing listens; set \
                artery.canonical.hostname (or bind.hostname) to the pod's address";
    app_port(facts, check, &facts.cluster.remoting, "remoting", hint)
}

fn management_listening(facts: &PodFacts) -> CheckResult {
    let check = Check { code: "app-management-listening", severity: Severity::Warning, object: APP.into() };
    let hint = "peers and the kubelet dial the pod's address; set management.http.hostname to it";
    app_port(facts, check, &facts.cluster.management, "management", hint)
}

fn app_port(facts: &PodFacts, check: Check, ports: &PortSet, what: &str, hint_on_loopback: &str) -> CheckResult {
    let listeners = match &facts.listeners {
        Observed::Seen(listeners) => listeners,
        Observed::Unavailable(reason) => return check.skip(reason, "/proc/net/tcp must be readable"),
    };
    let mut found: Vec<&SocketAddr> = listeners.iter().filter(|address| ports.contains(address.port())).collect();
    found.sort_by_key(|address| address.ip().is_loopback());
    match found.first() {
        None => check.fail(
            format!("nothing listens on {what} {ports}"),
            "the app is not up yet, or uses other ports (Artery 25520, Pekko 17355 and 7626): compare its configuration",
            "kubectl logs POD -c APP",
        ),
        Some(address) if address.ip().is_loopback() => check.fail(
            format!("the app's {what} listens on {address} alone"),
            hint_on_loopback,
            "kubectl logs POD -c APP",
        ),
        Some(address) => check.pass(format!("the app's {what} listens on {address}")),
    }
}

fn day(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests;
