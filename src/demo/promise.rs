//! What the demo promises, and whether what was seen keeps it: pure functions from observations to findings.

use std::fmt;
use std::time::Duration;

use crate::core::ruleset::Family;
use crate::sandbox::capture::Tally;

/// A dead agent's port refuses within a round trip; a mesh or a route that took over would not.
const AT_ONCE: Duration = Duration::from_millis(250);

/// Whether one promise was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is promised.
    pub promise: String,
    /// Whether it was kept.
    pub kept: bool,
    /// What had to be seen.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// A line of a log that says the same, if there is one.
    pub quote: Option<String>,
}

/// Who took a connection, as dialler and destination agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taker {
    /// A proxy of the mesh, by the name that it answered with.
    Mesh(String),
    /// The app, dialled by the other pod itself.
    App,
    /// The app, dialled by the agent of its own pod.
    Agents,
    /// Nobody; how that showed.
    Nobody(String),
}

impl fmt::Display for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(name) => write!(f, "{name}"),
            Self::App => write!(f, "the app, straight"),
            Self::Agents => write!(f, "the app, via agents"),
            Self::Nobody(how) => write!(f, "nobody: {how}"),
        }
    }
}

/// Connections of one kind, under the mesh alone and with the bypass, in both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Who dials whom, such as `a → b`.
    pub path: String,
    /// Destination port.
    pub port: u16,
    /// What the port is for.
    pub purpose: &'static str,
    /// Who must take it under the mesh alone, and with the bypass.
    pub expected: [Taker; 2],
    /// Who took it, by family, under the mesh alone and with the bypass.
    pub seen: Vec<(Family, [Taker; 2])>,
}

impl Route {
    /// Whether both families went where they had to, before and after.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.seen.len() == Family::BOTH.len() && self.seen.iter().all(|(_, seen)| *seen == self.expected)
    }
}

/// What crossed the wire of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Remoting between the cluster's pods.
    pub remoting: Tally,
    /// Management between them, which is plain HTTP: a control that the capture would see plaintext.
    pub management: Tally,
    /// The intruders at the remoting port, one of whom spoke plaintext: the other control.
    pub intruders: Tally,
}

impl Wire {
    /// Remoting is TLS and nothing else, seen by a capture that sees plaintext where there is some.
    #[must_use]
    pub fn judge(&self) -> Finding {
        let Self { remoting, management, intruders } = self;
        let controls = management.plaintext_packets > 0 && intruders.plaintext_packets > 0;
        Finding {
            promise: "no plaintext on the wire".to_owned(),
            kept: remoting.plaintext_packets == 0 && remoting.tls_packets > 0 && controls,
            expected: "remoting in TLS and without plaintext; plaintext of management and of the intruder".to_owned(),
            seen: format!(
                "remoting: {} packets, {} bytes, plaintext in {}, TLS records in {} of {} with data; as controls, \
                 plaintext in {} packets of management and {} of the intruders",
                remoting.packets,
                remoting.bytes,
                remoting.plaintext_packets,
                remoting.tls_packets,
                remoting.data_packets,
                management.plaintext_packets,
                intruders.plaintext_packets
            ),
            quote: None,
        }
    }
}

/// Somebody who must not reach the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who, such as `a plaintext intruder`.
    pub who: &'static str,
    /// How the connection ended for the intruder; `None` if it did not end.
    pub ended: Option<String>,
    /// Connections that the app saw meanwhile.
    pub reached_the_app: usize,
    /// What the agent's line must say.
    pub must_say: Vec<String>,
    /// The agent's line.
    pub line: Option<String>,
}

impl Refusal {
    /// The intruder was turned away, the app saw nothing, and the agent says why.
    #[must_use]
    pub fn judge(&self) -> Finding {
        let line = self.line.as_deref().unwrap_or_default();
        let missing: Vec<&str> =
            self.must_say.iter().filter(|part| !line.contains(*part)).map(String::as_str).collect();
        let ended = self.ended.as_deref().unwrap_or("the connection stayed open");
        let app = match self.reached_the_app {
            0 => "the app saw nothing".to_owned(),
            count => format!("the app saw {count} connections"),
        };
        let log = match (&self.line, missing.as_slice()) {
            (None, _) => "; the agent said nothing".to_owned(),
            (_, []) => String::new(),
            (_, missing) => format!("; the agent's line lacks {}", missing.join(" and ")),
        };
        Finding {
            promise: format!("{} is refused", self.who),
            kept: self.ended.is_some() && self.reached_the_app == 0 && self.line.is_some() && missing.is_empty(),
            expected: format!(
                "the connection ends, the app sees nothing, and the agent's log says {}",
                self.must_say.join(" and ")
            ),
            seen: format!("{ended}; {app}{log}"),
            quote: self.line.clone(),
        }
    }
}

/// A certificate replaced under a running connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Serial numbers that the agent shows before, and after.
    pub serials: [Option<String>; 2],
    /// Serial number that a new connection is shown.
    pub serial_of_new: Option<String>,
    /// Frames sent on the old connection, from before to after; or why no more could be.
    pub sent: Result<u64, String>,
    /// Frames received of it.
    pub received: u64,
    /// Frames of it lost, repeated or out of order.
    pub out_of_order: u64,
    /// Whether it was closed meanwhile.
    pub closed: bool,
}

impl Rotation {
    /// The old connection lost nothing, and new ones get the new certificate.
    #[must_use]
    pub fn judge(&self) -> Finding {
        let [before, after] = &self.serials;
        let whole = self.sent == Ok(self.received) && self.received > 0 && self.out_of_order == 0 && !self.closed;
        let renewed = before.is_some() && after.is_some() && before != after && self.serial_of_new == *after;
        let serial = |serial: &Option<String>| serial.as_deref().map_or("none".to_owned(), short);
        let flow = match &self.sent {
            Ok(sent) => format!("one connection, {sent} frames sent, {} received", self.received),
            Err(error) => format!("the connection broke ({error}) after {} frames", self.received),
        };
        let closed = if self.closed { ", and closed" } else { "" };
        Finding {
            promise: "a certificate is rotated without a dropped connection".to_owned(),
            kept: whole && renewed,
            expected: "every frame received, in order, on the old connection; a new serial number on a new one"
                .to_owned(),
            seen: format!(
                "{flow}, {} out of order{closed}; serial {} before, {} after, {} on a new connection",
                self.out_of_order,
                serial(before),
                serial(after),
                serial(&self.serial_of_new)
            ),
            quote: None,
        }
    }
}

/// The first and the last digits of a serial number, written with or without colons.
fn short(serial: &str) -> String {
    let digits: String = serial.chars().filter(|c| *c != ':').collect();
    match (digits.get(..4), digits.get(digits.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if digits.len() > 12 => format!("{head}…{tail}"),
        _ => digits,
    }
}

/// An agent killed, and started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// How the app's dialling ended without the agent, by family, and how long that took.
    pub without: Vec<(Family, Taker, Duration)>,
    /// Connections that the other app saw meanwhile.
    pub reached_the_app: usize,
    /// Until the agent was ready again; `None` if it never was.
    pub restart: Option<Duration>,
    /// Who took the app's dialling then.
    pub after: Taker,
}

/// How a refused connection shows.
pub const REFUSED: &str = "connection refused";

impl Outage {
    /// Without its agent a pod sends nothing, in no way, and says so at once; with it, all is well again.
    #[must_use]
    pub fn judge(&self) -> Finding {
        let refused = |(_, taker, took): &(Family, Taker, Duration)| {
            *taker == Taker::Nobody(REFUSED.to_owned()) && *took <= AT_ONCE
        };
        let closed = self.without.len() == Family::BOTH.len() && self.without.iter().all(refused);
        let without: Vec<String> = self
            .without
            .iter()
            .map(|(family, taker, took)| {
                let how = match taker {
                    Taker::Nobody(how) => how.clone(),
                    taken => format!("taken by {taken}"),
                };
                format!("{} {how} after {:.1} ms", family.name(), millis(*took))
            })
            .collect();
        let restart =
            self.restart.map_or("never ready".to_owned(), |took| format!("ready after {:.0} ms", millis(took)));
        Finding {
            promise: "an agent killed fails closed".to_owned(),
            kept: closed && self.reached_the_app == 0 && self.restart.is_some() && self.after == Taker::Agents,
            expected: "connection refused at once in both families, nothing by another way, all well after a restart"
                .to_owned(),
            seen: format!(
                "{}; the other app saw {} connections; started again, {restart}: {}",
                without.join(", "),
                self.reached_the_app,
                self.after
            ),
            quote: None,
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// What is left when all is taken down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Whether the mesh's table was the same while the bypass stood.
    pub mesh_untouched: bool,
    /// Whether all tables are the same as before, handle by handle.
    pub rules_restored: bool,
    /// How many tables, chains and rules were compared.
    pub objects: usize,
    /// Children that still run.
    pub processes: usize,
    /// Namespaces that somebody still holds.
    pub namespaces: usize,
    /// Whether the directory with the keys is still there.
    pub scratch: bool,
}

impl Cleanup {
    /// Nothing is left.
    #[must_use]
    pub fn judge(&self) -> Finding {
        let rules = match (self.mesh_untouched, self.rules_restored) {
            (true, true) => format!("the mesh's {} tables, chains and rules are the same byte for byte", self.objects),
            (true, false) => "init --cleanup left other rules than it found".to_owned(),
            (false, _) => "the mesh's rules were changed".to_owned(),
        };
        let keys = if self.scratch { "the keys are still there" } else { "keys removed" };
        Finding {
            promise: "everything is cleaned up".to_owned(),
            kept: self.mesh_untouched
                && self.rules_restored
                && self.objects > 0
                && self.processes == 0
                && self.namespaces == 0
                && !self.scratch,
            expected: "the mesh's rules as they were, no process, no namespace, no key left".to_owned(),
            seen: format!("{rules}; {} processes, {} namespaces left; {keys}", self.processes, self.namespaces),
            quote: None,
        }
    }
}

#[cfg(test)]
mod tests;
