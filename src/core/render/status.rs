//! A sidecar's [`Status`] as text for people.

use std::fmt::Write as _;

use crate::core::status::{Certificate, Credentials, Group, Readiness, Refusal, Rules, Status, Text};

/// Refusals and plaintext peers that are shown; JSON has them all.
const MOST: usize = 10;

/// The lines, ending in a newline; with ANSI colours where `colour` holds.
#[must_use]
pub fn text(status: &Status, colour: bool) -> String {
    let mut text = status.readiness.as_ref().map(|state| readiness(state, colour)).unwrap_or_default();
    text.push('\n');
    let up = duration(status.uptime_seconds);
    fact(&mut text, "mode", status.mode.to_string());
    fact(&mut text, "version", format!("{}, up for {up}", status.version));
    fact(&mut text, "rules", rules(&status.rules));
    match &status.credentials {
        Some(credentials) => certificates(&mut text, credentials),
        None => fact(&mut text, "certificate", "none: no TLS".to_owned()),
    }
    let open: u64 = status.connections.iter().map(|group| group.connections).sum();
    let _ = writeln!(text, "\nconnections: {open}");
    for group in &status.connections {
        connections(&mut text, group);
    }
    let shown = |count: usize| if count > MOST { format!(", the last {MOST} of them") } else { String::new() };
    let count = status.refusals.len();
    let _ = writeln!(text, "\nrefused or failed lately: {count}{}", shown(count));
    for one in status.refusals.iter().take(MOST) {
        refusal(&mut text, one);
    }
    let count = status.plaintext_peers.len();
    if count > 0 {
        let _ = writeln!(text, "\npeers in plaintext: {count}{}", if count > MOST { ", some of them" } else { "" });
    }
    for peer in status.plaintext_peers.iter().take(MOST) {
        let (direction, address, number) = (&peer.direction, &peer.peer, peer.connections);
        let _ = writeln!(text, "  {direction:<8} {address}  {number} so far, last at {}", peer.last);
    }
    text
}

/// The readiness alone: one line, and one a reason and a note.
#[must_use]
pub fn readiness(state: &Readiness, colour: bool) -> String {
    let (sign, ansi, word) = if state.ready { ("✓", "32", "ready") } else { ("✗", "31", "not ready") };
    let sign = if colour { format!("\x1b[{ansi}m{sign}\x1b[0m") } else { sign.to_owned() };
    let mut text = format!("{sign} {word}\n");
    for reason in &state.reasons {
        let _ = writeln!(text, "    reason: {reason}");
    }
    for note in &state.notes {
        let _ = writeln!(text, "    note: {note}");
    }
    text
}

fn fact(text: &mut String, name: &str, value: String) {
    let _ = writeln!(text, "{name:<12} {value}");
}

fn rules(rules: &Rules) -> String {
    if !rules.expected {
        return "none expected: a fixed target stands in for them".to_owned();
    }
    let family = |(name, family): (&String, &crate::core::status::Family)| {
        let detail = family.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        format!("{name} {}{detail}", family.state.to_string().replace('_', " "))
    };
    let mut parts: Vec<String> = rules.families.iter().map(family).collect();
    if let Some(watch) = &rules.watch {
        let whole = if watch.faults.is_empty() { "whole" } else { "not whole" };
        let repairs = if watch.repairs > 0 { format!(", put back {} times", watch.repairs) } else { String::new() };
        parts.push(format!("read with NET_ADMIN: {whole}{repairs}"));
    }
    parts.join("; ")
}

fn certificates(text: &mut String, credentials: &Credentials) {
    let names = |certificate: &Certificate| match certificate.subject_alt_names.as_slice() {
        [] => certificate.subject.to_string(),
        names => list(names),
    };
    match credentials.chain.first() {
        Some(leaf) => fact(text, "certificate", format!("{}, until {}", names(leaf), leaf.not_after)),
        None => {
            fact(text, "certificate", "none yet, so no connection is made with TLS".to_owned());
            return;
        }
    }
    for root in &credentials.roots {
        fact(text, "root", format!("{}, until {}", root.subject, root.not_after));
    }
    fact(text, "allowed", list(&credentials.allowed));
    for warning in &credentials.warnings {
        fact(text, "warning", warning.to_string());
    }
}

fn list(texts: &[Text]) -> String {
    texts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn connections(text: &mut String, group: &Group) {
    let identity = group.identity.as_ref().map_or_else(|| "plaintext".to_owned(), ToString::to_string);
    let tls = group.tls.as_ref().map(|tls| format!(", {tls}")).unwrap_or_default();
    let _ = writeln!(text, "  {:<8} {}  {identity}{tls}", group.direction, group.peer);
    let (oldest, into, out) = (duration(group.oldest_seconds), bytes(group.bytes_in), bytes(group.bytes_out));
    let _ = writeln!(text, "           {} open, the oldest for {oldest}; {into} in, {out} out", group.connections);
}

fn refusal(text: &mut String, refusal: &Refusal) {
    let seen = refusal.identity.as_ref().or(refusal.looked_like.as_ref());
    let seen = seen.map(|seen| format!(", seen: {seen}")).unwrap_or_default();
    let (at, peer, reason) = (&refusal.at, &refusal.peer, &refusal.reason);
    let _ = writeln!(text, "  {at} {:<8} {peer}  {reason}{seen}", refusal.direction);
    for (name, what) in [("detail", &refusal.detail), ("hint", &refusal.hint)] {
        if let Some(what) = what {
            let _ = writeln!(text, "      {name}: {what}");
        }
    }
}

/// In the largest unit of which there is at least one, and the next.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// In binary units, with one digit after the point.
fn bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, bits)| bytes >> bits > 0) {
        None => format!("{bytes} B"),
        Some((unit, bits)) => format!("{}.{} {unit}", bytes >> bits, (bytes >> (bits - 10)) % 1024 * 10 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(status: serde_json::Value) -> Status {
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn everything_that_somebody_would_ask_for_is_said() {
        let rendered = text(
            &parsed(json!({
                "version": "0.1.0", "mode": "strict", "uptime_seconds": 3700,
                "readiness": {"ready": false, "reasons": ["rules are missing"], "notes": ["mind"]},
                "rules": {"expected": true, "families": {"IPv4": {"state": "missing", "detail": "gone"},
                    "IPv6": {"state": "no_route"}}, "watch": {"faults": ["x"], "repairs": 2}},
                "credentials": {"chain": [{"subject": "", "subject_alt_names": ["spiffe://d/a"], "not_after": "2026"}],
                    "roots": [{"subject": "CN=CA", "not_after": "2030"}], "allowed": ["spiffe://d/*"], "warnings": []},
                "connections": [{"direction": "inbound", "peer": "10.0.0.2", "identity": "spiffe://d/b", "tls": "TLS 1.3 X",
                    "connections": 2, "oldest_seconds": 90, "bytes_in": 1536, "bytes_out": 5}],
                "refusals": [{"at": "then", "direction": "inbound", "peer": "10.0.0.9:1", "reason": "denied",
                    "identity": "spiffe://d/c", "detail": "not allowed", "hint": "name it"}],
                "plaintext_peers": [{"peer": "10.0.0.3", "direction": "outbound", "connections": 4, "last": "now"}],
                "added_later": 1
            })),
            false,
        );
        for part in [
            "✗ not ready\n    reason: rules are missing\n    note: mind\n",
            "up for 1 h 1 min",
            "IPv4 missing (gone); IPv6 no route; read with NET_ADMIN: not whole, put back 2 times",
            "spiffe://d/a, until 2026",
            "CN=CA, until 2030",
            "connections: 2\n  inbound  10.0.0.2  spiffe://d/b, TLS 1.3 X\n",
            "2 open, the oldest for 1 min 30 s; 1.5 KiB in, 5 B out",
            "10.0.0.9:1  denied, seen: spiffe://d/c\n      detail: not allowed\n      hint: name it",
            "peers in plaintext: 1\n  outbound 10.0.0.3  4 so far",
        ] {
            assert!(rendered.contains(part), "{part:?} is not in\n{rendered}");
        }
    }

    #[test]
    fn what_a_stranger_sent_cannot_write_to_the_terminal() {
        let refusal = json!({"peer": "10.0.0.9:1", "reason": "denied", "identity": "a\u{1b}[2Jb\nready"});
        let rendered = text(&parsed(json!({"refusals": [refusal]})), false);
        assert!(rendered.contains("a\u{fffd}[2Jb\u{fffd}ready") && !rendered.contains('\u{1b}'), "{rendered}");
    }
}
