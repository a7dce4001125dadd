//! What a sidecar's `/status` says, as far as it is shown to people.
//!
//! Invariant: no text here holds a control character: identities and details come from strangers, and end in a terminal.
//! What another version leaves out or adds is no error.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::membership::printable;

/// A text that acts on no terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(printable(&text)))
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// bypassctl's.
    pub version: Text,
    /// strict, permissive or disabled.
    pub mode: Text,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Whether it is ready. Without it, what answers is no sidecar.
    pub readiness: Option<Readiness>,
    /// What is known of the rules.
    pub rules: Rules,
    /// `None` without TLS.
    pub credentials: Option<Credentials>,
    /// Open ones, by peer and identity.
    pub connections: Vec<Group>,
    /// The newest first.
    pub refusals: Vec<Refusal>,
    /// Peers that spoke plaintext and were let.
    pub plaintext_peers: Vec<PlaintextPeer>,
}

/// Whether the sidecar is ready.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it is.
    pub ready: bool,
    /// Why not.
    #[serde(default)]
    pub reasons: Vec<Text>,
    /// What somebody should know although it is.
    #[serde(default)]
    pub notes: Vec<Text>,
}

/// What is known of the rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Whether there are to be any.
    pub expected: bool,
    /// The canary's answer of each family.
    pub families: BTreeMap<String, Family>,
    /// What reading them says; `None` without NET_ADMIN.
    pub watch: Option<Watch>,
}

/// The canary's answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Family {
    /// present, missing, no_route or unknown.
    pub state: Text,
    /// Why missing.
    pub detail: Option<Text>,
}

/// What reading the rules says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// What is wrong with them.
    pub faults: Vec<Text>,
    /// How often they were put back.
    pub repairs: u64,
}

/// Certificates in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// Our own, leaf first.
    pub chain: Vec<Certificate>,
    /// What peers may lead to.
    pub roots: Vec<Certificate>,
    /// What is wrong with the files without making them unusable.
    pub warnings: Vec<Text>,
    /// Who may connect.
    pub allowed: Vec<Text>,
}

/// One certificate.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Subject.
    pub subject: Text,
    /// URI, DNS and IP SANs.
    pub subject_alt_names: Vec<Text>,
    /// `EC P-256`, `RSA 2048`; `None` of an older sidecar.
    pub key: Option<Text>,
    /// `server` and `client`; empty for any.
    pub usages: Vec<Text>,
    /// RFC 3339.
    pub not_after: Text,
}

/// Open connections with one peer of one identity.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// inbound or outbound.
    pub direction: Text,
    /// Its address.
    pub peer: Text,
    /// `None` in plaintext.
    pub identity: Option<Text>,
    /// Version and cipher.
    pub tls: Option<Text>,
    /// How many.
    pub connections: u64,
    /// Since the first of them was accepted.
    pub oldest_seconds: u64,
    /// To the app.
    pub bytes_in: u64,
    /// From the app.
    pub bytes_out: u64,
}

/// A connection that came to nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// RFC 3339.
    pub at: Text,
    /// inbound or outbound.
    pub direction: Text,
    /// Address and port.
    pub peer: Text,
    /// Its code.
    pub reason: Text,
    /// Who the peer is, or says to be.
    pub identity: Option<Text>,
    /// What it spoke instead of TLS.
    pub looked_like: Option<Text>,
    /// The error.
    pub detail: Option<Text>,
    /// What to think of.
    pub hint: Option<Text>,
}

/// A peer that spoke plaintext and was let.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlaintextPeer {
    /// Its address.
    pub peer: Text,
    /// inbound or outbound.
    pub direction: Text,
    /// How many so far.
    pub connections: u64,
    /// RFC 3339.
    pub last: Text,
}
