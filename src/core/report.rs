//! What checks say: one result each, and the whole as a report.

use serde::{Deserialize, Serialize};

/// A fact that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed<T> {
    /// It was seen.
    Seen(T),
    /// It could not be seen, for this reason.
    Unavailable(String),
}

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Will go wrong one day, or is wrong already in part.
    Warning,
    /// Remoting does not work, or not safely.
    Error,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Well.
    Pass,
    /// Not well.
    Fail,
    /// Could not be judged.
    Skip,
    /// Not well yet, on its ordinary way there: to be asked again.
    Pending,
}

/// One check's result; the field names are the JSON contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Stable name of the check.
    pub code: &'static str,
    /// How bad a failure of this check is.
    pub severity: Severity,
    /// How it ended.
    pub status: Status,
    /// What it is about: kind/namespace/name, or kind/name.
    pub object: String,
    /// What was seen.
    pub message: String,
    /// Why that matters and what to do; empty where all is well.
    pub hint: String,
    /// The next command to run; empty where all is well.
    pub next: String,
}

/// All results of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which the checks ran.
    pub checks: Vec<CheckResult>,
    /// How many ended how.
    pub summary: Summary,
}

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Well.
    pub pass: usize,
    /// Not well.
    pub fail: usize,
    /// Could not be judged.
    pub skip: usize,
    /// Not well yet, on their ordinary way there.
    pub pending: usize,
}

impl Summary {
    /// As in `12 passed, 1 failed, 0 skipped, 2 not yet`.
    #[must_use]
    pub fn text(&self) -> String {
        let pending = if self.pending > 0 { format!(", {} not yet", self.pending) } else { String::new() };
        format!("{} passed, {} failed, {} skipped{pending}", self.pass, self.fail, self.skip)
    }
}

/// Control characters (C0, DEL, C1), and those that reorder or hide text (Unicode TR 36, bidirectional overrides and
/// zero-width characters).
pub(crate) fn acts_on_terminals(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with `\u{1b}` for an escape.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\r' => clean.push(' '),
            c if acts_on_terminals(c) => clean.extend(c.escape_unicode()),
            c => clean.push(c),
        }
    }
    clean
}

impl Report {
    /// The report of these results. What they quote may come from strangers' manifests: characters that would do
    /// something to a terminal are replaced here, once for every form of output.
    #[must_use]
    pub fn new(mut checks: Vec<CheckResult>) -> Self {
        for check in &mut checks {
            let texts = [&mut check.object, &mut check.message, &mut check.hint, &mut check.next];
            for text in texts.into_iter().filter(|text| text.contains(acts_on_terminals)) {
                *text = plain(text);
            }
        }
        let count = |status| checks.iter().filter(|check| check.status == status).count();
        let summary = Summary {
            pass: count(Status::Pass),
            fail: count(Status::Fail),
            skip: count(Status::Skip),
            pending: count(Status::Pending),
        };
        Self { checks, summary }
    }

    /// Whether a check of at least this severity failed.
    #[must_use]
    pub fn failed(&self, at_least: Severity) -> bool {
        self.checks.iter().any(|check| check.status == Status::Fail && check.severity >= at_least)
    }
}
