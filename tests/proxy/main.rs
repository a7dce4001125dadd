//! The real executable, as outbound and inbound sidecar on loopback, with fixed targets instead of rules.

mod admin;
mod batches;
mod harness;
mod intruder;
mod lifecycle;
mod log;
mod metrics;
mod permissive;
mod refusals;
mod resilience;
mod startup;
mod status;
mod traces;
mod traffic;
