//! Whether the app is told the same as its sidecar where there are no rules, so that what it dials goes through the library.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Container;

use crate::core::checks::Findings;
use crate::core::checks::agent::preloads;
use crate::core::checks::subject::{AgentContainer, Subject};
use crate::core::config::DEFAULT_OUTBOUND_PORT;
use crate::core::inject::{LIBRARY, SHIM_AGENT_PORT, SHIM_PORTS};
use crate::core::ports::{DEFAULT_REMOTING_PORT, PortError, PortRange, PortSet};

/// Where remoting listens, where that is not where it is dialled.
const BINDS: [&str; 3] =
    ["remote.artery.bind.hostname", "remote.classic.netty.tcp.bind-hostname", "remote.netty.tcp.bind-hostname"];
const TRANSPORT: &str = "remote.artery.transport";

/// What is wrong, and what cannot be told.
#[derive(Default)]
struct Seen {
    wrong: Vec<String>,
    unseen: Vec<&'static str>,
}

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    let Some(proxy) = subject.agent.proxy.as_ref().filter(|proxy| proxy.option("path") == Some("ports")) else {
        return;
    };
    // Where nobody preloads it, agent-complete says so.
    let Some(app) = subject.app.filter(|_| subject.pod.containers.iter().any(preloads)) else { return };
    let (code, object) = ("agent-library", &subject.object);
    let mut seen = Seen::default();
    seen.loaded(app);
    if !proxy.has_file() {
        seen.ports(app, proxy);
    }
    seen.settings(subject);
    if !seen.wrong.is_empty() {
        let message = format!("container {}: {}", app.name, seen.wrong.join("; "));
        return findings.fail(code, object, message, "bypassctl inject --path ports FILE");
    }
    if proxy.has_file() {
        return findings.skip(code, object, "the proxy has a configuration file, which is not seen");
    }
    if !seen.unseen.is_empty() {
        return findings.skip(code, object, format!("not to be seen: {}", seen.unseen.join(", ")));
    }
    findings.pass(code, object, format!("container {} dials through the library", app.name));
}

impl Seen {
    fn loaded(&mut self, app: &Container) {
        match value(app, "LD_PRELOAD") {
            Value::Text(list) if names_library(list) => {}
            Value::Text(list) if list.contains("$(") => self.unseen.push("LD_PRELOAD"),
            Value::Unseen => self.unseen.push("LD_PRELOAD"),
            // Of two with one name Kubernetes takes the last.
            _ => self.wrong.push(format!("its LD_PRELOAD, of several the last, has no {LIBRARY}")),
        }
        let words = app.command.iter().chain(&app.args).flatten().map(String::as_str);
        let variables = ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"].map(|name| value(app, name));
        let texts = variables.iter().filter_map(Value::text).chain(words);
        let mut options = texts.flat_map(str::split_whitespace).map(|option| option.trim_matches(['"', '\'']));
        let is_agent = |option: &str| {
            let path = option.strip_prefix("-agentpath:").and_then(|path| path.split('=').next());
            path.is_some_and(names_library)
        };
        if options.any(is_agent) {
            return;
        }
        if variables
            .iter()
            .any(|variable| variable.text().map_or(*variable == Value::Unseen, |text| text.contains("$(")))
        {
            return self.unseen.push("JAVA_TOOL_OPTIONS");
        }
        self.wrong.push(format!(
            "its JAVA_TOOL_OPTIONS have no -agentpath:…/{LIBRARY}, without which the JVM starts where the library is missing"
        ));
    }

    fn ports(&mut self, app: &Container, proxy: &AgentContainer) {
        let remoting = proxy.remoting();
        match value(app, SHIM_PORTS) {
            Value::Unseen => self.unseen.push(SHIM_PORTS),
            Value::Absent if remoting == PortSet::single(DEFAULT_REMOTING_PORT) => {}
            Value::Absent => self.wrong.push(format!(
                "{SHIM_PORTS} is not set and means {DEFAULT_REMOTING_PORT}, and the sidecar's remoting ports are {remoting}"
            )),
            Value::Text(list) => match port_set(list) {
                Some(ports) if ports == remoting => {}
                Some(ports) => self.wrong.push(format!(
                    "{SHIM_PORTS} is {ports}, and the sidecar's remoting ports are {remoting}: what differs is dialled in \
                     plaintext, or refused"
                )),
                None => self.wrong.push(format!("{SHIM_PORTS} is no list of ports, so that every connection is refused")),
            },
        }
        let [outbound, ..] = proxy.own_ports();
        match value(app, SHIM_AGENT_PORT) {
            Value::Unseen => self.unseen.push(SHIM_AGENT_PORT),
            Value::Absent if outbound == DEFAULT_OUTBOUND_PORT => {}
            Value::Absent => self.wrong.push(format!(
                "{SHIM_AGENT_PORT} is not set and means {DEFAULT_OUTBOUND_PORT}, and the sidecar has {outbound} (--outbound-port)"
            )),
            Value::Text(port) if port.trim().parse() == Ok(outbound) => {}
            Value::Text(_) => {
                self.wrong.push(format!("{SHIM_AGENT_PORT} is not {outbound}, which the sidecar has (--outbound-port)"));
            }
        }
    }

    fn settings(&mut self, subject: &Subject) {
        for path in BINDS {
            if let Some(setting) = subject.settings.get(path)
                && !is_loopback(&setting.value)
            {
                self.wrong.push(format!("{path} is no loopback address ({})", setting.source));
            }
            if subject.settings.unknown(path).is_some() {
                self.unseen.push(path);
            }
        }
        if let Some(setting) = subject.settings.get(TRANSPORT).filter(|setting| setting.value == "aeron-udp") {
            self.wrong.push(format!("{TRANSPORT} is aeron-udp, and UDP is not taken ({})", setting.source));
        }
    }
}

/// A variable of a container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Absent,
    Unseen,
    Text(&'a str),
}

impl<'a> Value<'a> {
    fn text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

fn value<'a>(container: &'a Container, name: &str) -> Value<'a> {
    let Some(variable) = container.env.iter().flatten().rfind(|variable| variable.name == name) else {
        let may_be_there = container.env_from.as_ref().is_some_and(|from| !from.is_empty());
        return if may_be_there { Value::Unseen } else { Value::Absent };
    };
    if variable.value_from.is_some() {
        return Value::Unseen;
    }
    let text = variable.value.as_deref().unwrap_or_default();
    let is_number = matches!(name, SHIM_PORTS | SHIM_AGENT_PORT);
    if is_number && text.contains("$(") { Value::Unseen } else { Value::Text(text) }
}

/// Whether it is the library, or a list with it.
pub(super) fn names_library(list: &str) -> bool {
    list.split([':', ' ']).any(|path| path.rsplit('/').next() == Some(LIBRARY))
}

fn port_set(list: &str) -> Option<PortSet> {
    let ranges: Result<Vec<PortRange>, PortError> = list.split(',').map(|part| part.trim().parse()).collect();
    PortSet::new(ranges.ok()?)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
