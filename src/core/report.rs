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
}

impl Report {
    /// The report of these results.
    #[must_use]
    pub fn new(checks: Vec<CheckResult>) -> Self {
        let count = |status| checks.iter().filter(|check| check.status == status).count();
        let summary = Summary { pass: count(Status::Pass), fail: count(Status::Fail), skip: count(Status::Skip) };
        Self { checks, summary }
    }

    /// Whether a check of at least this severity failed.
    #[must_use]
    pub fn failed(&self, at_least: Severity) -> bool {
        self.checks.iter().any(|check| check.status == Status::Fail && check.severity >= at_least)
    }
}
