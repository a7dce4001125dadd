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

impl TlsSource {
    /// Whether it may say what was revoked.
    #[must_use]
    pub const fn may_revoke(&self) -> bool {
        match self {
            Self::Files(files) => files.revoked.is_some(),
            Self::Asked(Asked { issuer: Issuer::Spiffe(_), .. }) => true,
            Self::Asked(asked) => asked.revoked.is_some(),
        }
    }
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
    /// Istio's certificate authority.
    #[serde(rename = "istio_ca")]
    Istio(IstioCa),
    /// A signer of Kubernetes' CertificateSigningRequests.
    #[serde(rename = "csr_signer")]
    Csr(CsrSigner),
}

impl fmt::Display for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(files) => write!(f, "file {}", files.certificate.display()),
            Self::Asked(asked) => asked.issuer.fmt(f),
        }
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(endpoint) => write!(f, "SPIFFE Workload API {endpoint}"),
            Self::Istio(ca) => write!(f, "Istio's CA {}", ca.address),
            Self::Csr(signer) => write!(f, "CertificateSigningRequest to {}", signer.name),
        }
    }
}

/// How to reach Istio's certificate authority, and as whom.
#[derive(Clone, Debug, Serialize)]
pub struct IstioCa {
    /// Where.
    pub address: HostPort,
    /// The service account's token for it.
    pub token: PathBuf,
    /// Whom it is known by, and what vouches for peers, PEM.
    pub root: PathBuf,
    /// The trust domain of our SPIFFE ID.
    #[serde(serialize_with = "text")]
    pub trust_domain: TrustDomain,
}

fn text<S: Serializer>(text: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// A signer of Kubernetes' CertificateSigningRequests, and whom it is known by.
#[derive(Clone, Debug, Serialize)]
pub struct CsrSigner {
    /// `DOMAIN/NAME`.
    pub name: String,
    /// What vouches for its certificates and for peers, PEM.
    pub ca: PathBuf,
    /// The trust domain of our SPIFFE ID.
    #[serde(serialize_with = "text")]
    pub trust_domain: TrustDomain,
}

/// What `--csr-signer` says.
///
/// # Errors
/// If it is not `DOMAIN/NAME`.
pub fn parse_signer(name: &str) -> Result<String, String> {
    let parts = name.split_once('/').filter(|(domain, rest)| domain.contains('.') && !rest.is_empty());
    match parts {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("{name:?} is no signer's name: write DOMAIN/NAME, such as example.com/remoting")),
    }
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

/// A name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name, or an address without brackets.
    pub host: String,
    /// TCP.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text(self, serializer)
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(address: &str) -> Result<Self, String> {
        let wrong = || format!("{address:?}: write HOST:PORT, such as istiod.istio-system.svc:15012");
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(wrong()),
            None => host,
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bare.is_none() && (host.is_empty() || !host.chars().all(is_name)) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
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

    #[test]
    fn a_host_and_a_port_are_a_name_or_an_address() {
        for text in ["istiod.istio-system.svc:15012", "127.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["", "istiod", "istiod:", "istiod:0", "istiod:65536", ":15012", "::1:15012", "[x]:1", "https://i:1"]
        {
            assert!(text.parse::<HostPort>().unwrap_err().contains("HOST:PORT"), "{text}");
        }
    }
}
