//! The page for people: a summary that needs no scripts, and what draws `/status` live over it.
//!
//! Invariant: nothing that a stranger says is markup. Here it is escaped; the script uses textContent alone, and the
//! policy of the answer lets the browser refuse everything else.

use std::fmt::Write as _;

use time::OffsetDateTime;

use crate::proxy::Sidecar;
use crate::proxy::canary::Rules;
use crate::tls::timestamp;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A page and the policy that it has to be sent with.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

/// The page; `None` if there is no randomness for its nonce.
pub(super) fn render(sidecar: &Sidecar, now: OffsetDateTime) -> Option<Page> {
    let nonce = nonce()?;
    // Strangers' words come last: no mark in them is replaced.
    let (head, foot) = PAGE.split_once("@summary@").expect("the page has a place for the summary");
    let fill = |part: &str| part.replace("@style@", STYLE).replace("@script@", SCRIPT).replace("@nonce@", &nonce);
    let mut html = fill(head);
    summary(&mut html, sidecar, now);
    connections(&mut html, sidecar);
    refusals(&mut html, sidecar);
    plaintext(&mut html, sidecar);
    html.push_str(&fill(foot));
    Some(Page { html, policy: policy(&nonce) })
}

/// What the browser may do with the page: run our script, read `/status`, and nothing else.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    )
}

/// 128 bits, as CSP wants them to be unguessable.
fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_words_are_no_markup() {
        assert_eq!(escape("<b title=\"x\">&amp;"), "&lt;b title=&quot;x&quot;&gt;&amp;amp;");
    }

    #[test]
    fn the_page_has_each_mark_where_it_is_to_be() {
        let marks = |mark: &str| PAGE.matches(mark).count();
        assert_eq!(["@nonce@", "@style@", "@script@", "@summary@"].map(marks), [2, 1, 1, 1]);
        for part in [STYLE, SCRIPT] {
            assert!(
                !part.contains("@nonce@") && !part.contains("@summary@") && !part.contains("</"),
                "it ends its element"
            );
        }
    }

    #[test]
    fn the_script_has_no_way_to_write_markup() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
    }
}
