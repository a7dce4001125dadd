//! The real executable, as outbound and inbound sidecar on loopback, with fixed targets instead of rules.

mod admin;
mod batches;
mod client;
mod crowds;
mod harness;
mod hostile;
mod identity;
mod issuers;
mod istio_ca;
mod lifecycle;
mod log;
mod metrics;
mod one_way;
mod peer_pods;
mod permissive;
mod preload;
mod pressure;
mod refusals;
mod resilience;
mod scarcity;
mod soak;
mod spiffe;
mod startup;
mod status;
mod traces;
mod traffic;
