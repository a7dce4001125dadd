//! A [`Report`] as text for people: what is well in one line each, what is not with its reason and the next command.

use std::fmt::Write as _;

use crate::core::report::{CheckResult, Report, Severity, Status};

/// The report's lines, ending in a newline; with ANSI colours where `colour` holds.
#[must_use]
pub fn text(report: &Report, colour: bool) -> String {
    let mut text = String::new();
    for check in &report.checks {
        render_check(&mut text, check, colour);
    }
    let summary = report.summary;
    let _ = writeln!(text, "\n{} passed, {} failed, {} skipped", summary.pass, summary.fail, summary.skip);
    text
}

fn render_check(text: &mut String, check: &CheckResult, colour: bool) {
    let (sign, ansi) = match (check.status, check.severity) {
        (Status::Pass, _) => ("✓", "32"),
        (Status::Skip, _) => ("-", "90"),
        (Status::Fail, Severity::Error) => ("✗", "31"),
        (Status::Fail, Severity::Warning | Severity::Info) => ("!", "33"),
    };
    let sign = if colour { format!("\x1b[{ansi}m{sign}\x1b[0m") } else { sign.to_owned() };
    let _ = writeln!(text, "{sign} {:<26} {}", check.code, check.message);
    if check.status == Status::Fail {
        let _ = writeln!(text, "    {}: {}", check.object, check.hint);
        let _ = writeln!(text, "    next: {}", check.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_are_explained() {
        let check = |status| CheckResult {
            code: "rules-present",
            severity: Severity::Error,
            status,
            object: "table/bypassctl".to_owned(),
            message: "seen".to_owned(),
            hint: "because".to_owned(),
            next: "bypassctl init".to_owned(),
        };
        let rendered = text(&Report::new(vec![check(Status::Pass), check(Status::Skip)]), false);
        assert!(!rendered.contains("because"), "{rendered}");
        let rendered = text(&Report::new(vec![check(Status::Fail)]), true);
        assert!(rendered.contains("because") && rendered.contains("next: bypassctl init"), "{rendered}");
        assert!(rendered.ends_with("0 passed, 1 failed, 0 skipped\n"), "{rendered}");
    }
}
