//! The ways of remoting round a mesh, from the strongest to the weakest, and what each of them cannot do.
//!
//! Invariant: `pre-path`, `check explain pre-path` and with it `docs/checks.md` take their words from here alone.

use std::fmt;
use std::fmt::Write as _;

/// One way.
#[derive(Debug, PartialEq, Eq)]
pub struct Path {
    /// What makes it.
    pub name: &'static str,
    /// What the mesh does not see.
    pub bypassed: &'static str,
    /// What nobody on the network can read.
    pub encrypted: &'static str,
    /// Who can send or receive remoting without it.
    pub circumvented_by: &'static str,
    /// What a stronger way would have given.
    pub lost: &'static str,
}

/// Rules by an init container.
pub const INIT: Path = Path {
    name: "rules by an init container with NET_ADMIN (`init`)",
    bypassed: "remoting and management, both ways",
    encrypted: "remoting, by the sidecar",
    circumvented_by: "processes of the pod that have NET_ADMIN, or the sidecar's user id",
    lost: "nothing",
};

/// Rules by the node's plugin.
pub const CNI: Path = Path {
    name: "rules by the node's CNI plugin (`cni`)",
    bypassed: "remoting and management, both ways",
    encrypted: "remoting, by the sidecar",
    circumvented_by: "processes with the sidecar's user id",
    lost: "`--repair` by the sidecar; a pod that started before the plugin was there is not ready until somebody acts",
};

/// Rules by somebody else.
pub const ELSEWHERE: Path = Path {
    name: "rules by somebody else, proven here (`init --prove-only`)",
    bypassed: "what those rules say, as far as it was proven",
    encrypted: "remoting, by the sidecar",
    circumvented_by: "whoever may change those rules; processes with the sidecar's user id",
    lost: "names of what was lost, and `--repair`: the sidecar sees by its own dial alone that rules are gone",
};

/// Ports and a library.
pub const PORTS: Path = Path {
    name: "the pod's ports and a preloaded library (`inject --path ports`)",
    bypassed: "nothing: exclude both ports by the mesh's annotations",
    encrypted: "remoting, by the sidecar",
    circumvented_by: "the app itself: static programs, Go, system calls of its own; strict peers refuse what they dial",
    lost: "proofs, drift, `--repair`: there are no rules",
};

/// The framework's own TLS.
pub const NATIVE: Path = Path {
    name: "the framework's own `tls-tcp` and the mesh's annotations (`render tls`, `render annotations`)",
    bypassed: "what the annotations say, which a mesh may ignore in silence",
    encrypted: "remoting, by the app",
    circumvented_by: "whoever has a certificate of the same authority: there are no rules for identities",
    lost: "the sidecar: identities, health, metrics, refusals by name",
};

/// The mesh's annotations.
pub const ANNOTATIONS: Path = Path {
    name: "the mesh's annotations alone (`render annotations`, `render network-policy`)",
    bypassed: "what the annotations say, which a mesh may ignore in silence",
    encrypted: "nothing",
    circumvented_by: "every pod that a NetworkPolicy lets through",
    lost: "TLS, and all of the above",
};

/// From the strongest to the weakest.
pub const PATHS: [Path; 6] = [INIT, CNI, ELSEWHERE, PORTS, NATIVE, ANNOTATIONS];

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bypassed, encrypted, circumvented_by, lost, .. } = self;
        write!(f, "bypassed: {bypassed}; encrypted: {encrypted}; got round by: {circumvented_by}; lost: {lost}")
    }
}

/// All of them, as a table of Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = "| path | bypassed | encrypted | got round by | lost |\n|---|---|---|---|---|\n".to_owned();
    for Path { name, bypassed, encrypted, circumvented_by, lost } in PATHS {
        let _ = writeln!(text, "| {name} | {bypassed} | {encrypted} | {circumvented_by} | {lost} |");
    }
    text
}
