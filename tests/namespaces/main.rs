//! `bypassctl init` in real network namespaces, under the rules of real meshes.
//!
//! Each test makes pods of its own and shares nothing, so they run in parallel. They need root, which scripts/test gives
//! them.

#[path = "../support/mod.rs"]
mod support;

mod backends;
mod bad_input;
mod cni;
mod cni_install;
mod confined;
mod dead_peer;
mod drift;
mod explain;
mod lifecycle;
mod matrix;
mod proof;
mod prove_only;
mod refusals;
mod side_doors;
mod split;
mod tools;
mod traffic;
