//! Pods made of network namespaces on this machine, for the demo and the tests.

pub mod capture;
pub mod children;
mod links;
pub mod netns;
pub mod pod;
pub mod privilege;
pub mod tables;
