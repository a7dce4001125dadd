//! A cluster's [`Overview`] as text for people, and the cells of its tables for whoever draws them.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use time::format_description::well_known::Rfc3339;

use crate::core::overview::{Cluster, NodeState, Overview};
use crate::core::render::columns::{self, Column, cut};

/// The columns of [`node_rows`].
pub const NODE_COLUMNS: [Column; 7] = [
    Column { name: "pod", least: 20, rank: 0, keeps_end: true },
    Column { name: "node", least: 8, rank: 5, keeps_end: true },
    Column { name: "member", least: 15, rank: 0, keeps_end: false },
    Column { name: "roles", least: 6, rank: 6, keeps_end: false },
    Column { name: "ready", least: 5, rank: 2, keeps_end: false },
    Column { name: "sidecar", least: 12, rank: 3, keeps_end: false },
    Column { name: "certificate", least: 11, rank: 4, keeps_end: false },
];
/// The columns of [`path_rows`].
pub const PATH_COLUMNS: [Column; 6] = [
    Column { name: "from", least: 12, rank: 0, keeps_end: true },
    Column { name: "to", least: 12, rank: 0, keeps_end: true },
    Column { name: "TLS", least: 9, rank: 1, keeps_end: false },
    Column { name: "who dials", least: 12, rank: 4, keeps_end: true },
    Column { name: "who is dialled", least: 14, rank: 3, keeps_end: true },
    Column { name: "open", least: 4, rank: 2, keeps_end: false },
];
/// Rows of a table as text; JSON has all of them.
const MOST_ROWS: usize = 200;
/// Lines of the verdict as text.
const MOST_LINES: usize = 50;

/// The lines, ending in a newline, their tables at most `width` columns wide; with ANSI colours where `colour` holds.
#[must_use]
pub fn text(overview: &Overview, width: u16, colour: bool) -> String {
    let mut text = header(overview) + "\n\n";
    for cluster in overview.clusters.iter().take(MOST_LINES) {
        text += &(cluster_line(overview, cluster) + "\n");
    }
    table(&mut text, &NODE_COLUMNS, node_rows(overview), width);
    table(&mut text, &PATH_COLUMNS, path_rows(overview), width);
    for (sign, ansi, line) in verdict(overview) {
        let sign = if colour { format!("\x1b[{ansi}m{sign}\x1b[0m") } else { sign.to_owned() };
        let _ = writeln!(text, "{sign} {line}");
    }
    text
}

/// Whether a row of a table is about something that is not well.
#[must_use]
pub fn is_bad<const N: usize>(row: &[String; N]) -> bool {
    let words = ["unreachable", "not joined", "Down", "PLAINTEXT", "not ready"];
    row.iter().any(|cell| words.iter().any(|word| cell.contains(word)))
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
    let few = |texts: &[String], sign: &'static str, ansi: &'static str| {
        let shown = texts.iter().take(MOST_LINES).cloned();
        let more = texts.len().checked_sub(MOST_LINES).filter(|more| *more > 0);
        shown.chain(more.map(|more| format!("and {more} more"))).map(|text| (sign, ansi, text)).collect::<Vec<_>>()
    };
    let mut lines = few(&overview.problems, "✗", "31");
    if overview.well {
        lines.push(("✓", "32", "well".to_owned()));
    }
    lines.extend(few(&overview.notes, "-", "90"));
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
            // The worst first: the end is cut where there is no room.
            for (is, word) in [
                (!state.unreachable_from.is_empty(), "unreachable"),
                (state.leader, "leader"),
                (state.oldest, "oldest"),
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
            (Some(tls), true) => format!("PLAINTEXT, and {tls}"),
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

fn table<const N: usize>(text: &mut String, columns: &[Column; N], mut rows: Vec<[String; N]>, width: u16) {
    if rows.is_empty() {
        return;
    }
    let all = rows.len();
    if all > MOST_ROWS {
        rows.sort_by_key(|row| !is_bad(row));
        rows.truncate(MOST_ROWS);
    }
    // A border and a space on each side of a cell.
    let fitted = columns::fit(columns, &rows, usize::from(width).saturating_sub(4), 3);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table
        .force_no_tty()
        .set_header(fitted.heads.iter().zip(&fitted.widths).map(|(head, width)| cut(head, *width, false)));
    table.add_rows(fitted.rows);
    let _ = writeln!(text, "{table}");
    if all > MOST_ROWS {
        let _ = writeln!(text, "and {} more, which --output json has", all - MOST_ROWS);
    }
    text.push('\n');
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
            "Up, unreachable, leader",
            "✗ shop-1 is unreachable from x\n- mind\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("well\n"), "{text}");
    }

    /// Nine thousand members, as somebody may tell us of, and names as a Deployment's pods have them.
    fn large() -> Overview {
        let node = |number: usize| NodeState {
            pod: Some(format!("cart-7d9c6b5f4d-{number:05}")),
            host: Some("ip-10-0-12-34.eu-central-1.compute.internal".to_owned()),
            status: Some("Up".to_owned()),
            roles: vec!["shopping-cart".to_owned()],
            unreachable_from: if number == 8999 { vec!["x".to_owned()] } else { Vec::new() },
            ..NodeState::default()
        };
        Overview {
            context: "test".to_owned(),
            namespace: "shop".to_owned(),
            taken: datetime!(2026-11-22 18:00 UTC),
            well: false,
            problems: (0..9000).map(|number| format!("cart-{number} is unreachable")).collect(),
            notes: Vec::new(),
            clusters: Vec::new(),
            nodes: (0..9000).map(node).collect(),
            paths: Vec::new(),
        }
    }

    #[test]
    fn what_is_too_much_for_anybody_is_counted_and_the_bad_is_shown() {
        let text = text(&large(), 120, false);
        assert!(text.lines().count() < 300, "{} lines", text.lines().count());
        assert!(text.contains("and 8800 more, which --output json has") && text.contains("and 8950 more"), "{text}");
        assert!(text.contains("cart-7d9c6b5f4d-08999"), "the one that is unreachable is left out");
    }

    #[test]
    fn names_end_and_state_stay_on_a_narrow_terminal() {
        let mut overview = large();
        overview.nodes = overview.nodes.split_off(8998);
        overview.problems.truncate(1);
        for width in [20, 40, 80, 120] {
            let text = text(&overview, width, false);
            let table: Vec<&str> = text.lines().filter(|line| line.contains(['│', '┌'])).collect();
            assert!(table.iter().all(|line| line.chars().count() <= usize::from(width)), "{width}:\n{text}");
            let row = table.iter().find(|line| line.contains("8999")).unwrap_or_else(|| panic!("{width}:\n{text}"));
            assert!(row.contains(if width < 40 { "Up" } else { "Up, unreachable" }), "{width}:\n{text}");
        }
    }
}
