//! What the CNI plugin and its installer touch on a node: pods' network namespaces, directories of the container runtime.
//!
//! Decides nothing: that is [`crate::core::cni`]'s. Invariant: a file of the runtime's is there as it was or as it is to be, and
//! never half-written.

pub mod files;
pub mod netns;
pub mod pods;
