//! Checks on what the pods of a running cluster say.

use super::Entry;
use crate::core::report::Severity::Info;

pub(super) const LIVE: &[Entry] = &[Entry {
    code: "cluster-readable",
    severity: Info,
    title: "all that the checks need may be read",
    why: "What may not be read is not judged: silence about it is no health",
    fix: "use an account with the least role that the reference names",
}];
