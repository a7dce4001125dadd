//! A cluster's [`Overview`] as text for people, and the cells of its tables for whoever draws them.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use time::format_description::well_known::Rfc3339;

use crate::core::overview::{Cluster, NodeState, Overview};

/// The columns of [`node_rows`].
pub const NODE_COLUMNS: [&str; 7] = ["pod", "node", "member", "roles", "ready", "sidecar", "certificate"];
/// The columns of [`path_rows`].
pub const PATH_COLUMNS: [&str; 6] = ["from", "to", "TLS", "who dials", "who is dialled", "open"];

/// The lines, ending in a newline, at most `width` columns wide; with ANSI colours where `colour` holds.
#[must_use]
pub fn text(overview: &Overview, width: u16, colour: bool) -> String {
    let mut text = header(overview) + "\n\n";
    for cluster in &overview.clusters {
        text += &(cluster_line(overview, cluster) + "\n");
    }
    if !overview.nodes.is_empty() {
        let _ = writeln!(text, "{}\n", table(&NODE_COLUMNS, node_rows(overview), width));
    }
    if !overview.paths.is_empty() {
        let _ = writeln!(text, "{}\n", table(&PATH_COLUMNS, path_rows(overview), width));
    }
    for (sign, ansi, line) in verdict(overview) {
        let sign = if colour { format!("\x1b[{ansi}m{sign}\x1b[0m") } else { sign.to_owned() };
        let _ = writeln!(text, "{sign} {line}");
    }
    text
}

/// Where and when.
#[must_use]
pub fn header(overview: &Overview) -> String {
    let taken = overview.taken.replace_nanosecond(0).unwrap_or(overview.taken);
    let taken = taken.format(&Rfc3339).unwrap_or_default();
    format!("context {}, namespace {}, {taken}", overview.context, overview.namespace)
}

/// One cluster in one line.
#[must_use]
pub fn cluster_line(overview: &Overview, cluster: &Cluster) -> String {
    let named = |node: &Option<crate::core::membership::Node>| match node {
        None => "nobody".to_owned(),
        Some(node) => {
            let pod = overview.nodes.iter().find(|state| state.address.as_ref() == Some(node));
            pod.and_then(|state| state.pod.clone()).unwrap_or_else(|| node.to_string())
        }
    };
    let (app, system, members) = (&cluster.app, &cluster.system, cluster.members);
    let (leader, oldest) = (named(&cluster.leader), named(&cluster.oldest));
    format!("{app}: cluster of system {system}, {members} members, leader {leader}, oldest {oldest}")
}

/// Problems and notes, each with its sign and the ANSI colour of that.
#[must_use]
pub fn verdict(overview: &Overview) -> Vec<(&'static str, &'static str, String)> {
    let mut lines: Vec<_> = overview.problems.iter().map(|problem| ("✗", "31", problem.clone())).collect();
    if overview.well {
        lines.push(("✓", "32", "well".to_owned()));
    }
    lines.extend(overview.notes.iter().map(|note| ("-", "90", note.clone())));
    lines
}

/// A row for each pod and each member without one.
#[must_use]
pub fn node_rows(overview: &Overview) -> Vec<[String; 7]> {
    overview.nodes.iter().map(node_row).collect()
}

fn node_row(state: &NodeState) -> [String; 7] {
    let address = || state.address.as_ref().map(ToString::to_string);
    let member = match (&state.status, &state.unseen) {
        (Some(status), _) => {
            let mut text = status.clone();
            for (is, word) in [
                (state.leader, "leader"),
                (state.oldest, "oldest"),
                (!state.unreachable_from.is_empty(), "unreachable"),
            ] {
                if is {
                    text = format!("{text}, {word}");
                }
            }
            text
        }
        (None, Some(_)) => "not seen".to_owned(),
        (None, None) => "not joined".to_owned(),
    };
    let ready = state.ready.map_or("-", |ready| if ready { "yes" } else { "no" });
    let (sidecar, certificate) = match &state.agent {
        None => ("-".to_owned(), "-".to_owned()),
        Some(agent) => {
            let ready = if agent.ready { "" } else { ", not ready" };
            let days = agent.certificate_days.map_or("none".to_owned(), |days| format!("{days} days"));
            (format!("{} {}{ready}", agent.version, agent.mode), days)
        }
    };
    let roles = if state.roles.is_empty() { "-".to_owned() } else { state.roles.join(", ") };
    [
        state.pod.clone().or_else(address).unwrap_or_default(),
        state.host.clone().unwrap_or_else(|| "-".to_owned()),
        member,
        roles,
        ready.to_owned(),
        sidecar,
        certificate,
    ]
}

/// A row for each path.
#[must_use]
pub fn path_rows(overview: &Overview) -> Vec<[String; 6]> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |path: &crate::core::overview::Path| {
        let tls = match (&path.tls, path.plaintext) {
            (Some(tls), false) => tls.clone(),
            (Some(tls), true) => format!("{tls}, and PLAINTEXT"),
            (None, _) => "PLAINTEXT".to_owned(),
        };
        [
            path.from.clone(),
            path.to.clone(),
            tls,
            or_dash(&path.from_identity),
            or_dash(&path.to_identity),
            path.connections.to_string(),
        ]
    };
    overview.paths.iter().map(row).collect()
}

fn table<const N: usize>(columns: &[&str; N], rows: Vec<[String; N]>, width: u16) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.force_no_tty().set_width(width).set_header(columns.iter());
    table.add_rows(rows.iter().map(|row| row.iter()));
    table.to_string()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_after_the_tables() {
        let node = NodeState {
            pod: Some("shop-1".to_owned()),
            status: Some("Up".to_owned()),
            leader: true,
            unreachable_from: vec!["x".to_owned()],
            ..NodeState::default()
        };
        let address = "akka://shop@10.0.0.9:2552".parse().unwrap();
        let overview = Overview {
            context: "test".to_owned(),
            namespace: "shop".to_owned(),
            taken: datetime!(2026-11-22 18:00 UTC),
            well: false,
            problems: vec!["shop-1 is unreachable from x".to_owned()],
            notes: vec!["mind".to_owned()],
            clusters: vec![Cluster {
                system: "shop".to_owned(),
                app: "shop".to_owned(),
                leader: Some(address),
                oldest: None,
                oldest_per_role: std::collections::BTreeMap::new(),
                members: 3,
                seen_by: vec!["shop-1".to_owned()],
            }],
            nodes: vec![node],
            paths: Vec::new(),
        };
        let text = text(&overview, 100, false);
        for part in [
            "context test, namespace shop, 2026-11-22T18:00:00Z",
            "3 members, leader akka://shop@10.0.0.9:2552, oldest nobody",
            "Up, leader, unreachable",
            "✗ shop-1 is unreachable from x\n- mind\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("well\n"), "{text}");
    }
}
