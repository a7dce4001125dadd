//! Kubernetes as facts: its objects by its API, and what pods answer through it.
//!
//! Gathers and never judges; [`crate::core::checks`] and [`crate::core::membership`] judge. Invariant: it only reads, never a
//! Secret, and what it may not read it names instead. [`announce`] alone writes, and only of its own pod.

pub mod addresses;
pub mod announce;
pub mod ask;
mod bounds;
pub mod client;
mod config_maps;
mod credential;
mod custom;
pub mod gather;
mod lists;
mod pods;
mod review;
mod route;
pub mod selection;
mod workloads;
