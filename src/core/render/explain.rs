//! An [`Answer`] in plain words.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::core::explain::answer::{Answer, Direction, EndKind, Protocol, Seen};

/// The answer's lines, ending in a newline.
#[must_use]
pub fn text(answer: &Answer) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", asked(answer));
    let _ = writeln!(text, "→ {}{}", if answer.sure { "" } else { "unsure: " }, end(answer));
    match &answer.decided_by {
        Some(rule) => {
            let _ = writeln!(text, "  decided by {}", place(rule));
            let _ = writeln!(text, "    {}", body(rule));
        }
        None if answer.trail.is_empty() => text.push_str("  no rule matched it\n"),
        None => text.push_str("  no rule changed where it goes\n"),
    }
    if !answer.trail.is_empty() {
        text.push_str("\nrules that matched, in order:\n");
    }
    for (i, rule) in answer.trail.iter().enumerate() {
        let _ = writeln!(text, "{:>3}. {}", i + 1, place(rule));
        let _ = writeln!(text, "     {}", body(rule));
        let _ = writeln!(text, "     → {}", rule.effect);
    }
    if !answer.not_asked.is_empty() {
        text.push_str("\nnat chains that were not asked:\n");
    }
    for chain in &answer.not_asked {
        let owner = chain.owner.map(|owner| format!(" of {owner}")).unwrap_or_default();
        let _ = writeln!(text, "  {} {} {}{owner}: {}", chain.hook, chain.table, chain.chain, chain.reason);
    }
    if !answer.unsure.is_empty() {
        text.push_str("\nfrom here on unsure:\n");
    }
    for reason in &answer.unsure {
        let _ = writeln!(text, "  {reason}");
    }
    text
}

/// Where the packet ends and what decided it, in one line.
#[must_use]
pub fn verdict(answer: &Answer) -> String {
    let unsure = if answer.sure { "" } else { ", as far as can be told" };
    match &answer.decided_by {
        Some(rule) => format!("{}{unsure}, decided by {}", end(answer), place(rule)),
        None => format!("{}{unsure}, and no rule decided that", end(answer)),
    }
}

fn asked(answer: &Answer) -> String {
    let packet = &answer.packet;
    let what = if packet.protocol == Protocol::Tcp { "a new TCP connection" } else { "a UDP datagram" };
    let to = SocketAddr::new(packet.to, packet.port);
    let from = packet.from.map(|from| format!(" from {from}")).unwrap_or_default();
    match packet.direction {
        Direction::Out => {
            let uid = packet.uid.map(|uid| format!(" by uid {uid}")).unwrap_or_default();
            format!("{what}{from} to {to}, made here{uid}")
        }
        Direction::In => format!("{what}{from} to {to}, arriving"),
    }
}

fn end(answer: &Answer) -> String {
    let end = &answer.end;
    let at = SocketAddr::new(end.address, end.port);
    let local = end.interface.as_deref() == Some("lo");
    let nobody = if end.listening == Some(false) { ", where nobody listens: refused" } else { "" };
    match end.kind {
        EndKind::Straight if local => format!("straight to this pod's own port {}{nobody}", end.port),
        EndKind::Straight => format!("straight to {at}, out by {}", end.interface.as_deref().unwrap_or("no interface")),
        EndKind::Redirected => format!("to the listener on port {} of this pod{nobody}", end.port),
        EndKind::Rewritten => {
            format!("rewritten to {at}, out by {}", end.interface.as_deref().unwrap_or("no interface"))
        }
        EndKind::Refused => "refused, with an answer".to_owned(),
        EndKind::Dropped => "dropped, without a word".to_owned(),
        EndKind::Forwarded => "for no address of this pod: forwarded, where that is allowed".to_owned(),
        EndKind::NoRoute => "no route leads there".to_owned(),
    }
}

fn place(rule: &Seen) -> String {
    let owner = match rule.owner {
        Some("bypassctl") => "bypassctl's own rule".to_owned(),
        Some(owner) => format!("{owner}'s rule"),
        None => "a rule of nobody known".to_owned(),
    };
    let number = if rule.number == 0 { "policy".to_owned() } else { rule.number.to_string() };
    format!("{owner}: {} {} {} {number} ({})", rule.hook, rule.table, rule.chain, rule.backend)
}

fn body(rule: &Seen) -> String {
    let comment = if rule.comment.is_empty() { String::new() } else { format!("  # {}", rule.comment) };
    format!("{}{comment}", rule.rule)
}
