//! A [`Report`] in each form: text and a few lines for people, JSON and JUnit for programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use crate::core::checks::catalog;
use crate::core::report::{CheckResult, Report, Severity, Status};

/// How text is to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// With ANSI colours.
    pub colour: bool,
    /// With what passed and what was skipped.
    pub all: bool,
}

/// Failures that the short form names; a chat message is no report.
const SHORT: usize = 5;

/// The report's lines by object, ending in a newline.
#[must_use]
pub fn text(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for (object, checks) in by_object(report) {
        let shown: Vec<_> =
            checks.iter().filter(|check| style.all || matches!(check.status, Status::Fail | Status::Pending)).collect();
        if shown.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}", paint(object, "1", style.colour));
        for check in shown {
            render_check(&mut text, check, style.colour);
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{}", report.summary.text());
    text
}

/// Results of one object together, objects in the order in which they were first judged.
fn by_object(report: &Report) -> Vec<(&str, Vec<&CheckResult>)> {
    let mut at = std::collections::HashMap::new();
    let mut groups: Vec<(&str, Vec<&CheckResult>)> = Vec::new();
    for check in &report.checks {
        let at = *at.entry(check.object.as_str()).or_insert_with(|| {
            groups.push((&check.object, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(check);
    }
    groups
}

fn paint(text: &str, ansi: &str, colour: bool) -> String {
    if colour { format!("\x1b[{ansi}m{text}\x1b[0m") } else { text.to_owned() }
}

fn render_check(text: &mut String, check: &CheckResult, colour: bool) {
    let (sign, ansi) = match (check.status, check.severity) {
        (Status::Pass, _) => ("✓", "32"),
        (Status::Skip, _) => ("-", "90"),
        (Status::Pending, _) => ("…", "33"),
        (Status::Fail, Severity::Error) => ("✗", "31"),
        (Status::Fail, Severity::Warning) => ("!", "33"),
        (Status::Fail, Severity::Info) => ("i", "36"),
    };
    let _ = writeln!(text, "  {} {:<26} {}", paint(sign, ansi, colour), check.code, check.message);
    if check.status == Status::Fail {
        let _ = writeln!(text, "      {}", check.hint);
        let _ = writeln!(text, "      next: {}", paint(&check.next, "1", colour));
    }
}

/// A few lines: how it stands, the worst failures, where to read on.
#[must_use]
pub fn short(report: &Report) -> String {
    let mut failures: Vec<&CheckResult> = report.checks.iter().filter(|check| check.status == Status::Fail).collect();
    failures.sort_by_key(|check| std::cmp::Reverse(check.severity));
    let mut text = report.summary.text() + "\n";
    for check in failures.iter().take(SHORT) {
        let CheckResult { code, severity, object, message, .. } = check;
        let _ = writeln!(text, "{} {code} {object}: {message}", catalog::word(*severity));
    }
    let codes: BTreeSet<&str> = failures.iter().skip(SHORT).map(|check| check.code).collect();
    if !codes.is_empty() {
        let names = codes.into_iter().collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "and {} more: {names}", failures.len() - SHORT);
    }
    text
}

/// One line of JSON, as `schema check` describes it, with each check's place in the documentation.
#[must_use]
pub fn json(report: &Report) -> String {
    let mut value = serde_json::to_value(report).unwrap_or_else(|_| json!({}));
    for check in value["checks"].as_array_mut().into_iter().flatten() {
        if let Some(code) = check["code"].as_str().map(catalog::anchor) {
            check["docs"] = code.into();
        }
    }
    value.to_string() + "\n"
}

/// JUnit XML: an object is a suite, a check a case. What is below the threshold is said, and fails no build.
#[must_use]
pub fn junit(report: &Report, threshold: Severity) -> String {
    let counts = |checks: &[&CheckResult]| {
        let failures = checks.iter().filter(|check| fails(check, threshold)).count();
        let skipped = checks.iter().filter(|check| matches!(check.status, Status::Skip | Status::Pending)).count();
        format!("tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\"", checks.len())
    };
    let every: Vec<&CheckResult> = report.checks.iter().collect();
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let _ = writeln!(text, "<testsuites name=\"bypassctl check\" {}>", counts(&every));
    for (object, checks) in by_object(report) {
        let _ = writeln!(text, "  <testsuite name=\"{}\" {}>", escaped(object), counts(&checks));
        for check in checks {
            let _ = write!(text, "    <testcase name=\"{}\" classname=\"{}\"", escaped(check.code), escaped(object));
            let message = escaped(&check.message);
            let _ = match check.status {
                Status::Pass => writeln!(text, "/>"),
                Status::Skip => writeln!(text, "><skipped message=\"{message}\"/></testcase>"),
                Status::Pending => writeln!(text, "><skipped message=\"not yet: {message}\"/></testcase>"),
                Status::Fail => {
                    let severity = catalog::word(check.severity);
                    let body = escaped(&format!("{}\nnext: {}", check.hint, check.next));
                    if fails(check, threshold) {
                        writeln!(
                            text,
                            "><failure type=\"{severity}\" message=\"{message}\">{body}</failure></testcase>"
                        )
                    } else {
                        writeln!(text, "><system-out>{severity}: {message}\n{body}</system-out></testcase>")
                    }
                }
            };
        }
        text += "  </testsuite>\n";
    }
    text + "</testsuites>\n"
}

fn fails(check: &CheckResult, threshold: Severity) -> bool {
    check.status == Status::Fail && check.severity >= threshold
}

/// For text and attributes alike; control characters have gone in [`Report::new`], and XML 1.0 has no others to forbid
/// but U+FFFE and U+FFFF.
fn escaped(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => clean += "&amp;",
            '<' => clean += "&lt;",
            '>' => clean += "&gt;",
            '"' => clean += "&quot;",
            '\'' => clean += "&apos;",
            '\u{fffe}' | '\u{ffff}' => clean.push('\u{fffd}'),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, message: &str) -> CheckResult {
        CheckResult {
            code: "rules-present",
            severity: Severity::Error,
            status,
            object: "table/bypassctl".to_owned(),
            message: message.to_owned(),
            hint: "because".to_owned(),
            next: "bypassctl init".to_owned(),
        }
    }

    const ALL: Style = Style { colour: true, all: true };

    #[test]
    fn only_failures_are_explained() {
        let rendered = text(&Report::new(vec![check(Status::Pass, "seen"), check(Status::Skip, "seen")]), ALL);
        assert!(!rendered.contains("because"), "{rendered}");
        let rendered = text(&Report::new(vec![check(Status::Fail, "seen")]), Style::default());
        assert!(rendered.contains("because") && rendered.contains("next: bypassctl init"), "{rendered}");
        assert!(rendered.ends_with("0 passed, 1 failed, 0 skipped\n"), "{rendered}");
    }

    #[test]
    fn nothing_that_a_stranger_wrote_acts_on_a_terminal() {
        let report = Report::new(vec![check(Status::Fail, "\u{1b}[2J\u{9b}31m\u{202e}\u{7}gone\nnext: rm")]);
        for rendered in [text(&report, Style::default()), short(&report), json(&report), junit(&report, Severity::Info)]
        {
            let bad = rendered.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(bad, None, "{rendered}");
            assert!(!rendered.contains("\nnext: rm"), "{rendered}");
        }
    }

    #[test]
    fn junit_escapes_what_xml_would_take_for_its_own() {
        let report = Report::new(vec![check(Status::Fail, "<a b=\"c\">&]]>'")]);
        let rendered = junit(&report, Severity::Warning);
        assert!(rendered.contains("message=\"&lt;a b=&quot;c&quot;&gt;&amp;]]&gt;&apos;\""), "{rendered}");
        assert!(rendered.contains("tests=\"1\" failures=\"1\""), "{rendered}");
    }

    #[test]
    fn the_short_form_stays_short() {
        let report = Report::new(vec![check(Status::Fail, "seen"); 50]);
        assert!(short(&report).lines().count() <= 8);
    }

    #[test]
    fn json_says_where_the_documentation_is() {
        let rendered = json(&Report::new(vec![check(Status::Fail, "seen")]));
        assert!(rendered.contains("\"docs\":\"docs/checks.md#rules-present\""), "{rendered}");
    }
}
