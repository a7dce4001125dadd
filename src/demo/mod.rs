//! The main job on one machine: two pods under a mesh that captures everything, the real `init` and `proxy` in each, and
//! an outsider who tries to get in.
//!
//! [`Lab`] is what is set up, [`story`] what happens in it, [`promise`] what that must show. Nothing here prints.

mod agent;
mod artery;
mod holders;
mod http;
mod intruder;
mod lab;
mod mesh;
mod probe;
pub mod promise;
mod server;
pub mod story;

use std::io;

pub use self::lab::{Lab, PodDoor};
use crate::netfilter::NetfilterError;
use crate::sandbox::pod::SandboxError;
use crate::tls::issue::IssueError;

/// Ports of the applications: remoting, management, and one that has nothing to do with the cluster.
pub const REMOTING_PORT: u16 = crate::core::ports::DEFAULT_REMOTING_PORT;
/// See [`REMOTING_PORT`].
pub const MANAGEMENT_PORT: u16 = crate::core::ports::DEFAULT_MANAGEMENT_PORT;
/// See [`REMOTING_PORT`].
pub const HTTP_PORT: u16 = 8080;
/// User id that the applications' sockets belong to.
const APP_UID: u32 = 1000;

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No pods.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// No rules for the mesh.
    #[error("cannot put the mesh's rules in pod {pod}")]
    Rules {
        /// The pod.
        pod: &'static str,
        /// What the kernel said.
        #[source]
        source: NetfilterError,
    },
    /// No certificates.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A command of ours failed.
    #[error("{what}: expected success, saw {seen}{}", quoted(log))]
    Child {
        /// The command.
        what: String,
        /// How it ended, or did not.
        seen: String,
        /// Its exit code.
        code: Option<i32>,
        /// The end of its log.
        log: Vec<String>,
    },
    /// The machine failed.
    #[error("cannot {attempt}")]
    Io {
        /// What was being done.
        attempt: String,
        /// The failure.
        #[source]
        source: io::Error,
    },
}

impl DemoError {
    /// Whether another machine, or more privilege, would do.
    #[must_use]
    pub const fn is_environment(&self) -> bool {
        matches!(
            self,
            Self::Sandbox(_)
                | Self::Rules { source: NetfilterError::Unsupported(_) | NetfilterError::NotPermitted(_), .. }
                | Self::Child { code: Some(3), .. }
        )
    }

    fn io(attempt: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let attempt = attempt.to_owned();
        move |source| Self::Io { attempt, source }
    }
}

fn quoted(log: &[String]) -> String {
    let mut text = String::new();
    for line in log {
        text.push_str("\n    | ");
        text.push_str(line);
    }
    text
}
