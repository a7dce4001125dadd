//! What can be seen of the pod that this process runs in.
//!
//! Gathers and never judges; [`crate::core::checks`] judges.

pub mod admin;
pub mod dialled;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod listeners;
