//! Checks: facts in, results out. A check never gathers, and a gatherer never judges.

pub mod pod;
