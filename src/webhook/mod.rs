//! `inject` as a mutating admission webhook: HTTPS to the API server, plain HTTP to probes and scrapers.
//!
//! Invariant: it serves with a certificate that the API server has been told of, or not at all, and `/ready` says which.

mod admin;
mod door;
mod metrics;
mod mutate;
mod own;
mod pair;
mod port;
mod server;

pub use own::{Own, OwnError};
pub use pair::Source;
pub use server::{Webhook, WebhookError, run};
