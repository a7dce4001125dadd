//! What bypassctl decides, and nothing that it does.
//!
//! Invariant: no file here touches a socket, a file, a process, the environment, the clock or a cluster;
//! `tests/architecture.rs` holds it to that.

pub mod admission;
pub(crate) mod asked;
pub mod backend;
pub mod breaker;
pub mod checks;
pub mod cni;
pub mod collector;
pub mod config;
pub(crate) mod crowd;
pub mod directory;
pub mod drift;
pub mod explain;
pub mod facts;
pub mod fallback;
pub mod faults;
pub mod handover;
pub mod identity;
pub mod inject;
pub mod istio;
pub mod manifests;
pub mod membership;
pub mod native;
pub mod news;
pub mod outcome;
pub mod overview;
pub(crate) mod places;
pub mod plan;
pub mod policy;
pub mod ports;
pub mod render;
pub mod report;
pub mod route;
pub mod ruleset;
pub mod saved;
pub mod sidecar;
pub mod source;
pub mod status;
pub mod verdict;
pub mod wire;
pub mod xtables;
