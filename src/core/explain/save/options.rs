//! The options of one line of iptables-save.

use crate::core::explain::filters::{
    Condition, Field, INVALID, LOCAL, MarkOf, NEW, Nat, SetMark, Statement, Step, Tproxy, UNICAST, UNTRACKED,
};
use crate::core::explain::save::{condition, network};
use crate::core::ruleset::{Family, Side};

/// `NF_CT_STATE_BIT` of established and related.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;

/// Targets that leave a packet's way alone (iptables-extensions(8)).
const HARMLESS: [&str; 10] =
    ["LOG", "NFLOG", "ULOG", "TCPMSS", "CHECKSUM", "CLASSIFY", "TRACE", "AUDIT", "DSCP", "TOS"];

/// Reads options in their order.
pub(super) struct Reader {
    family: Family,
    /// A `!` stands before the next option.
    pub(super) negated: bool,
    /// The match that options belong to.
    module: String,
    conditions: Vec<Step>,
    statement: Option<Statement>,
    /// Saving or restoring a mark, and the masks of both.
    copy: Option<(MarkOf, MarkOf)>,
    nfmask: u32,
    ctmask: u32,
}

impl Reader {
    pub(super) const fn new(family: Family) -> Self {
        Self {
            family,
            negated: false,
            module: String::new(),
            conditions: Vec::new(),
            statement: None,
            copy: None,
            nfmask: u32::MAX,
            ctmask: u32::MAX,
        }
    }

    pub(super) fn steps(mut self) -> Vec<Step> {
        if let Some((target, from)) = self.copy {
            let mask = |mark| if mark == MarkOf::Packet { self.nfmask } else { self.ctmask };
            self.statement = Some(Statement::Mark(SetMark::copy(target, mask(target), from, mask(from))));
        }
        self.conditions.into_iter().chain(self.statement.map(Step::Do)).collect()
    }

    pub(super) fn does(&mut self, statement: Statement) {
        self.statement = Some(statement);
    }

    pub(super) fn target(&mut self, target: &str) {
        let statement = match target {
            "ACCEPT" => Statement::Accept,
            "DROP" => Statement::Drop,
            "REJECT" => Statement::Reject,
            "RETURN" => Statement::Return,
            "REDIRECT" => Statement::Nat(Nat::Redirect(None)),
            "DNAT" => Statement::Nat(Nat::Destination { address: None, port: None }),
            "SNAT" | "MASQUERADE" => Statement::Nat(Nat::Source),
            "NOTRACK" => Statement::NoTrack,
            "TPROXY" => Statement::Tproxy(Tproxy { address: None, port: None, mark: (0, 0), ends: true }),
            harmless if HARMLESS.contains(&harmless) => return,
            other => Statement::Unknown(other.to_owned()),
        };
        self.does(statement);
    }

    pub(super) fn option(&mut self, option: &str, values: &[String]) {
        let understood = match self.statement {
            Some(_) => self.target_option(option, values),
            None => self.condition(option, values),
        };
        if understood.is_none() {
            let name = format!("{option} {}", values.join(" "));
            match &mut self.statement {
                Some(Statement::Unknown(_) | Statement::Accept | Statement::Drop | Statement::Reject) => {}
                Some(statement) => *statement = Statement::Unknown(name),
                None => self.conditions.push(condition(Condition::Unknown(name))),
            }
        }
    }

    fn condition(&mut self, option: &str, values: &[String]) -> Option<()> {
        let (value, negated) = (values.first().map(String::as_str).unwrap_or_default(), self.negated);
        let family = self.family;
        let found = match option {
            "-m" => {
                value.clone_into(&mut self.module);
                return Some(());
            }
            "-p" if matches!(value, "all" | "0") => return Some(()),
            "-p" => Condition::equal(Field::Protocol, protocol(value)?, negated),
            "-s" | "-d" => {
                let (address, mask) = network(value)?;
                let field = if option == "-s" { Field::Source(family) } else { Field::Destination(family) };
                Condition::masked(field, address, mask, negated)
            }
            "-i" => interface(Side::In, value, negated),
            "-o" => interface(Side::Out, value, negated),
            "--dport" | "--dports" => Condition::in_ranges(Field::DestinationPort, ranges(value)?, negated),
            "--sport" | "--sports" => Condition::in_ranges(Field::SourcePort, ranges(value)?, negated),
            "--uid-owner" => Condition::in_ranges(Field::Uid, vec![range(value, '-')?], negated),
            "--gid-owner" => Condition::in_ranges(Field::Gid, vec![range(value, '-')?], negated),
            "--mark" => {
                let field = if self.module == "connmark" { Field::ConnectionMark } else { Field::Mark };
                let (mark, mask) = masked(value)?;
                Condition::masked(field, mark, mask, negated)
            }
            "--ctstate" | "--state" => Condition::any_bit(Field::ConnectionState, states(value)?, negated),
            "--dst-type" => Condition::equal(Field::DestinationType, address_type(value)?, negated),
            "--src-type" => Condition::equal(Field::SourceType, address_type(value)?, negated),
            "--tcp-flags" => Condition::masked(Field::TcpFlags, flags(values.get(1)?)?, flags(value)?, negated),
            "--syn" => Condition::masked(Field::TcpFlags, 0x02_u32, 0x17_u32, negated),
            _ => return None,
        };
        self.conditions.push(condition(found));
        Some(())
    }

    fn target_option(&mut self, option: &str, values: &[String]) -> Option<()> {
        let value = values.first().map(String::as_str).unwrap_or_default();
        match (&mut self.statement, option) {
            (Some(Statement::Nat(Nat::Redirect(port))), "--to-ports") => *port = Some(value.parse().ok()?),
            (Some(Statement::Nat(nat @ Nat::Destination { .. })), "--to-destination") => {
                let (address, port) = match value.parse::<std::net::SocketAddr>() {
                    Ok(both) => (Some(both.ip()), Some(both.port())),
                    Err(_) => match value.strip_prefix(':') {
                        // It lies in the range already, so it stays.
                        Some("0-65535" | "1-65535") => (None, None),
                        Some(port) => (None, Some(port.parse().ok()?)),
                        None => (Some(value.parse().ok()?), None),
                    },
                };
                *nat = Nat::Destination { address, port };
            }
            (Some(Statement::Nat(_)), "--random" | "--random-fully" | "--persistent") => {}
            (Some(Statement::Nat(Nat::Source)), _) | (Some(Statement::Reject), _) => {}
            (Some(Statement::Tproxy(tproxy)), "--on-port") => {
                tproxy.port = value.parse().ok().filter(|port| *port != 0);
            }
            (Some(Statement::Tproxy(tproxy)), "--on-ip") => tproxy.address = Some(value.parse().ok()?),
            (Some(Statement::Tproxy(tproxy)), "--tproxy-mark") => tproxy.mark = masked(value)?,
            (Some(Statement::Unknown(name)), "--set-xmark" | "--set-mark") if name == "MARK" || name == "CONNMARK" => {
                let target = if name == "MARK" { MarkOf::Packet } else { MarkOf::Connection };
                let (mark, mask) = masked(value)?;
                self.statement = Some(Statement::Mark(SetMark::constant(target, mark, mask)));
            }
            (Some(Statement::Unknown(name)), "--save-mark") if name == "CONNMARK" => {
                self.copy = Some((MarkOf::Connection, MarkOf::Packet));
            }
            (Some(Statement::Unknown(name)), "--restore-mark") if name == "CONNMARK" => {
                self.copy = Some((MarkOf::Packet, MarkOf::Connection));
            }
            (_, "--nfmask") => self.nfmask = number(value)?,
            (_, "--ctmask") => self.ctmask = number(value)?,
            (_, "--mask") => (self.nfmask, self.ctmask) = (number(value)?, number(value)?),
            (Some(Statement::Unknown(name)), "--notrack") if name == "CT" => {
                self.statement = Some(Statement::NoTrack);
            }
            // In any zone a first packet is new.
            (Some(Statement::Unknown(name)), "--zone" | "--zone-orig" | "--zone-reply") if name == "CT" => {
                self.statement = None;
            }
            _ => return None,
        }
        Some(())
    }
}

fn interface(side: Side, value: &str, negated: bool) -> Condition {
    let prefix = value.ends_with('+');
    Condition::Interface { side, name: value.trim_end_matches('+').to_owned(), prefix, negated }
}

fn protocol(name: &str) -> Option<u32> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "ipv6-icmp" | "icmpv6" => Some(58),
        "sctp" => Some(132),
        number => number.parse().ok(),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn masked(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    Some((number(value)?, number(mask)?))
}

fn range(text: &str, between: char) -> Option<(u128, u128)> {
    let (first, last) = text.split_once(between).unwrap_or((text, text));
    let bound = |text: &str, open: u32| if text.is_empty() { Some(open) } else { text.parse().ok() };
    Some((bound(first, 0)?.into(), bound(last, u16::MAX.into())?.into()))
}

fn ranges(text: &str) -> Option<Vec<(u128, u128)>> {
    text.split(',').map(|part| range(part, ':')).collect()
}

fn states(text: &str) -> Option<u32> {
    text.split(',').try_fold(0, |bits, state| {
        Some(
            bits | match state {
                "INVALID" => INVALID,
                "ESTABLISHED" => ESTABLISHED,
                "RELATED" => RELATED,
                "NEW" => NEW,
                "UNTRACKED" => UNTRACKED,
                _ => return None,
            },
        )
    })
}

fn address_type(text: &str) -> Option<u32> {
    match text {
        "LOCAL" => Some(LOCAL),
        "UNICAST" => Some(UNICAST),
        _ => None,
    }
}

fn flags(text: &str) -> Option<u32> {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    text.split(',').try_fold(0, |bits, name| match name {
        "NONE" => Some(bits),
        "ALL" => Some(bits | 0x3f),
        name => NAMES.iter().position(|known| *known == name).map(|bit| bits | 1 << bit),
    })
}
