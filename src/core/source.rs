//! Where the sidecar's credentials come from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::core::identity::TrustDomain;
use crate::core::sidecar::TlsFiles;

/// Where the sidecar's credentials come from; serialized, what `/config` shows as `tls`.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum TlsSource {
    /// Files that somebody else keeps fresh.
    Files(TlsFiles),
    /// Somebody who is asked for them.
    Asked(Asked),
}

/// Whoever is asked for credentials, and the files that count beside theirs.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// Who.
    #[serde(flatten)]
    pub issuer: Issuer,
    /// Roots for the SPIFFE IDs of other trust domains, PEM.
    #[serde(serialize_with = "crate::core::sidecar::federated", skip_serializing_if = "Vec::is_empty")]
    pub federated: Vec<(TrustDomain, PathBuf)>,
    /// Certificate revocation lists, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
}

/// Who gives out credentials over a connection.
#[derive(Clone, Debug, Serialize)]
pub enum Issuer {
    /// A SPIFFE Workload API.
    #[serde(rename = "spiffe_socket")]
    Spiffe(UnixEndpoint),
}

fn text<S: Serializer>(text: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// A Unix socket as the SPIFFE Workload Endpoint writes it: `unix:///run/agent.sock` (section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixEndpoint(PathBuf);

impl UnixEndpoint {
    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for UnixEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

impl Serialize for UnixEndpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text(self, serializer)
    }
}

impl FromStr for UnixEndpoint {
    type Err = String;

    fn from_str(address: &str) -> Result<Self, String> {
        let wrong = || format!("{address:?} is no Unix socket: write unix:///run/spire/sockets/agent.sock");
        let rest = address.strip_prefix("unix:").ok_or_else(wrong)?;
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let whole = path.starts_with('/') && !path.ends_with('/') && !path.contains(['?', '#', '\0']);
        if whole { Ok(Self(path.into())) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_an_absolute_path_behind_unix() {
        for text in ["unix:///run/agent.sock", "unix:/run/agent.sock"] {
            assert_eq!(text.parse::<UnixEndpoint>().unwrap().to_string(), "unix:///run/agent.sock");
        }
        for text in ["", "/run/agent.sock", "unix://", "unix:///", "unix://run/agent.sock", "tcp://127.0.0.1:8081"] {
            let error = text.parse::<UnixEndpoint>().unwrap_err();
            assert!(error.contains("write unix:///"), "{error}");
        }
    }
}
