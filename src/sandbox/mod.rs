//! Pods made of network namespaces on this machine, for the demo and the tests.

pub mod netns;
