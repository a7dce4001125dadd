//! Checks: facts in, results out. A check never gathers, and a gatherer never judges.

use std::borrow::Cow;

use crate::core::facts::Facts;
use crate::core::report::{CheckResult, Severity, Status};

pub mod live;
pub mod pod;
pub mod pre;
pub mod readable;

/// Runs every check of a cluster's facts, in an order that leads from cause to effect.
#[must_use]
pub fn run_all(facts: &Facts) -> Vec<CheckResult> {
    let mut results = readable::run(facts);
    results.extend(live::run(facts));
    results
}

/// A check's fixed part, about one object.
struct Check {
    code: &'static str,
    severity: Severity,
    /// `kind/namespace/name`, or `kind/name`.
    object: Cow<'static, str>,
}

impl Check {
    fn result(self, status: Status, message: impl Into<String>, hint: &str, next: &str) -> CheckResult {
        CheckResult {
            code: self.code,
            severity: self.severity,
            status,
            object: self.object.into_owned(),
            message: message.into(),
            hint: hint.to_owned(),
            next: next.to_owned(),
        }
    }

    /// All is well; the message says what was seen.
    fn pass(self, message: impl Into<String>) -> CheckResult {
        self.result(Status::Pass, message, "", "")
    }

    /// Not well: what was seen, why that matters and what to do, and the next command.
    fn fail(self, message: impl Into<String>, hint: &str, next: &str) -> CheckResult {
        self.result(Status::Fail, message, hint, next)
    }

    /// Could not be judged: why, and how it could be.
    fn skip(self, message: impl Into<String>, hint: &str) -> CheckResult {
        self.result(Status::Skip, message, hint, "")
    }
}
