//! The network agent that Akka and Pekko clusters on Kubernetes need beside a service mesh.
//!
//! Four data flows, each crossing one border (│) between deciding and doing:
//!
//! ```text
//! raw config, pod facts → Config → RedirectPlan → Ruleset │ apply → read back → proof
//! accept → OriginalDst → route() → TLS → authorize() │ pump → Outcome
//! AdmissionReview → inject::plan() → patch │ answer
//! kube, namespace, sidecar, files, manifests → Facts │ checks → Report → text, short, JSON, JUnit
//! ```
//!
//! `main` → [`cli`], [`commands`] → {[`demo`], [`cluster`], [`cni`], [`netfilter`], [`proxy`], [`sources`], [`tls`], [`sandbox`],
//! [`webhook`]} → [`core`]. Nothing imports
//! `commands`; `core` decides and does nothing else.

pub mod cli;
pub mod cluster;
pub mod cni;
pub mod commands;
pub mod core;
pub mod demo;
mod flood;
pub mod http;
pub mod listen;
pub mod netfilter;
pub mod pod;
pub mod proxy;
pub mod sandbox;
pub mod sources;
pub mod tls;
pub mod webhook;
