//! Rulesets as text in the language of a kernel tool.

pub mod columns;
pub mod explain;
pub mod iptables;
pub mod nft;
pub mod overview;
pub mod report;
pub mod status;
