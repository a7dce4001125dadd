//! The real executable, as outbound and inbound sidecar on loopback, with fixed targets instead of rules.

mod admin;
mod client;
mod crowds;
mod harness;
mod hostile;
mod lifecycle;
mod permissive;
mod refusals;
mod resilience;
mod scarcity;
mod soak;
mod startup;
mod traffic;
