//! What the tests that need network namespaces share: pods, meshes, and who answers a call.
//!
//! Invariant: nothing here skips. Without the privilege that a test needs, it fails and names the script that gives it.

pub(crate) mod backend;
pub(crate) mod forge;
pub(crate) mod init;
pub(crate) mod mesh;
pub(crate) mod pod;
pub(crate) mod probe;
pub(crate) mod roles;
pub(crate) mod setup;
pub(crate) mod sidecar;
