//! The status for people, as one page without scripts.

use std::fmt::Write as _;

use time::OffsetDateTime;

use crate::proxy::Sidecar;
use crate::proxy::canary::Rules;
use crate::tls::timestamp;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;\
    color:#1c2530;background:#fff}h1{font-size:1.3rem}h2{font-size:1rem;margin:2rem 0 .4rem}\
    table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde3ea;\
    vertical-align:top;overflow-wrap:anywhere}th{font-weight:600;color:#5a6776}.ok{color:#137a3e}.bad{color:#b3261e}\
    .none{color:#5a6776}@media(prefers-color-scheme:dark){body{color:#e3e8ee;background:#14181d}\
    th,td{border-color:#2b333d}.ok{color:#5ad48a}.bad{color:#ff8a80}th,.none{color:#97a3b1}}";

/// The page.
pub(super) fn render(sidecar: &Sidecar, now: OffsetDateTime) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>bypassctl proxy</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>bypassctl proxy</h1>"
    );
    summary(&mut page, sidecar, now);
    connections(&mut page, sidecar);
    refusals(&mut page, sidecar);
    plaintext(&mut page, sidecar);
    page.push_str(
        "<p class=\"none\"><a href=\"/status\">status</a> · <a href=\"/config\">config</a> · \
         <a href=\"/metrics\">metrics</a> · <a href=\"/ready\">ready</a></p></body></html>",
    );
    page
}

fn summary(page: &mut String, sidecar: &Sidecar, now: OffsetDateTime) {
    let readiness = sidecar.readiness(now);
    let (class, word) = if readiness.ready { ("ok", "ready") } else { ("bad", "not ready") };
    let mut rows = vec![
        ("State", format!("<b class=\"{class}\">{word}</b> {}", escape(&readiness.reasons.join("; ")))),
        ("Mode", sidecar.config.mode.to_string()),
    ];
    if !readiness.notes.is_empty() {
        rows.push(("Notes", escape(&readiness.notes.join("; "))));
    }
    if let Some(credentials) = sidecar.credentials() {
        let leaf = &credentials.leaf;
        let allowed = crate::core::policy::allowed_text(&credentials.allowed);
        rows.push(("Our identity", escape(&leaf.identity.to_string())));
        rows.push(("Valid until", timestamp(leaf.not_after)));
        rows.push(("Allowed peers", escape(&allowed)));
    }
    for (family, rules) in sidecar.canary.states() {
        let text = match rules {
            Rules::Present => "<span class=\"ok\">present</span>".to_owned(),
            Rules::Missing(detail) => format!("<span class=\"bad\">missing</span>: {}", escape(&detail)),
            Rules::NoRoute => "no route of this family".to_owned(),
            Rules::Unknown => "not known yet".to_owned(),
        };
        rows.push((if family == "IPv4" { "IPv4 rules" } else { "IPv6 rules" }, text));
    }
    page.push_str("<table>");
    for (name, value) in rows {
        push(page, format_args!("<tr><th>{name}</th><td>{value}</td></tr>"));
    }
    page.push_str("</table>");
}

fn connections(page: &mut String, sidecar: &Sidecar) {
    let rows = sidecar.board.groups().into_iter().map(|group| {
        vec![
            group.direction.name().to_owned(),
            group.peer.to_string(),
            group.identity.unwrap_or_else(|| "none (plaintext)".to_owned()),
            group.tls.unwrap_or_default(),
            group.connections.to_string(),
            group.bytes_in.to_string(),
            group.bytes_out.to_string(),
        ]
    });
    table(page, "Connections", &["", "Peer", "Identity", "TLS", "Number", "Bytes in", "Bytes out"], rows);
}

fn refusals(page: &mut String, sidecar: &Sidecar) {
    let rows = sidecar.board.refusals().into_iter().map(|refusal| {
        let who = refusal.identity.or(refusal.looked_like).unwrap_or_default();
        let why = [refusal.detail.as_deref(), refusal.hint].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let direction = refusal.direction.name().to_owned();
        vec![refusal.at, direction, refusal.peer.to_string(), refusal.reason.to_string(), who, why]
    });
    table(page, "Refused or failed lately", &["When", "", "Peer", "Reason", "Seen", "Why"], rows);
}

fn plaintext(page: &mut String, sidecar: &Sidecar) {
    let rows = sidecar.board.plaintext_peers().into_iter().map(|peer| {
        vec![peer.direction.name().to_owned(), peer.peer.to_string(), peer.connections.to_string(), peer.last]
    });
    table(page, "Peers in plaintext", &["", "Peer", "Connections", "Last"], rows);
}

fn table(page: &mut String, title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    push(page, format_args!("<h2>{title}</h2>"));
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        page.push_str("<p class=\"none\">none</p>");
        return;
    }
    page.push_str("<table><tr>");
    for head in heads {
        push(page, format_args!("<th>{head}</th>"));
    }
    page.push_str("</tr>");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            push(page, format_args!("<td>{}</td>", escape(&cell)));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes every text");
}

/// Subjects and identities come from strangers' certificates.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
