//! Every check on manifests and clusters: code, severity, what it promises, why that matters, what to do.
//!
//! Invariant: this table is the one source. `docs/checks.md` is what [`markdown`] prints, and a result of a code that is
//! not here cannot be made.

use std::fmt::Write as _;

use crate::core::checks::paths;
use crate::core::report::Severity;

mod live;
mod pods;
mod surroundings;

/// A check's fixed words.
#[derive(Debug)]
pub struct Entry {
    /// Stable, kebab-case; the anchor in the documentation too.
    pub code: &'static str,
    /// How bad a failure is.
    pub severity: Severity,
    /// What is so where all is well.
    pub title: &'static str,
    /// What goes wrong where it is not.
    pub why: &'static str,
    /// What to do then.
    pub fix: &'static str,
}

/// Checks by category, in the order in which they run.
pub const CATEGORIES: [(&str, &[Entry]); 13] = [
    ("What was read", surroundings::READING),
    ("Ports", pods::PORTS),
    ("Probes", pods::PROBES),
    ("The mesh", pods::MESH),
    ("The agent", pods::AGENT),
    ("Rights", surroundings::RIGHTS),
    ("Discovery", surroundings::DISCOVERY),
    ("Network policies", surroundings::NETWORK),
    ("Rollout", surroundings::ROLLOUT),
    ("Pods", surroundings::RUNNING),
    ("The running cluster", live::LIVE),
    ("check pod", pods::CHECK_POD),
    ("check pre", live::PRE),
];

/// All checks.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    CATEGORIES.iter().flat_map(|(_, entries)| entries.iter())
}

/// The check of this code.
#[must_use]
pub fn entry(code: &str) -> Option<&'static Entry> {
    entries().find(|entry| entry.code == code)
}

/// Where the documentation speaks of it, from the repository's root.
#[must_use]
pub fn anchor(code: &str) -> String {
    format!("docs/checks.md#{code}")
}

/// A severity's word.
#[must_use]
pub fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// One check for people.
#[must_use]
pub fn section(entry: &Entry) -> String {
    let Entry { code, severity, title, why, fix } = entry;
    let mut text = format!("### {code}\n\n*{}* · {title}.\n\n{why}.\n\nWhat to do: {fix}.\n", word(*severity));
    if *code == "pre-path" {
        let _ = write!(text, "\n{}", paths::table());
    }
    text
}

/// Codes and titles, one a line.
#[must_use]
pub fn list() -> String {
    let mut text = String::new();
    for (category, entries) in CATEGORIES.into_iter().filter(|(_, entries)| !entries.is_empty()) {
        let _ = writeln!(text, "{category}");
        for Entry { code, severity, title, .. } in entries {
            let _ = writeln!(text, "  {code:<28} {:<8} {title}", word(*severity));
        }
    }
    text
}

/// The whole as a page.
#[must_use]
pub fn markdown() -> String {
    let mut text = PREFACE.to_owned();
    for (category, entries) in CATEGORIES.into_iter().filter(|(_, entries)| !entries.is_empty()) {
        let _ = write!(text, "\n## {category}\n");
        for entry in entries {
            let _ = write!(text, "\n{}", section(entry));
        }
    }
    text
}

const PREFACE: &str = "# Checks

What `bypassctl check` looks at, by code. `bypassctl check explain CODE` prints a section of this page, `bypassctl check
explain --all` the whole page; it is made from the table in `src/core/checks/catalog`, not written by hand.

A failure of severity error or warning makes the exit code 1 (`--fail-on error`: errors alone); info never does.
`--suppress CODE` leaves a check out. A check that cannot be judged is skipped, and says why. What is not well yet, and on its
ordinary way (a pod of the last two minutes that has not joined), is pending: no failure, but `--wait` waits for it.
";
