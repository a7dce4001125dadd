//! Validated settings of `bypassctl proxy`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::core::breaker;
use crate::core::collector::CollectorUrl;
use crate::core::config::{AgentPorts, ClusterPorts, ConfigError};
use crate::core::drift::Expectation;
use crate::core::identity::{Allow, IdentityError, TrustDomain};
use crate::core::policy::PeerAddress;
use crate::core::ports::PortSet;
use crate::core::route::{TlsMode, TrafficPath, is_this_host};
use crate::core::source::TlsSource;

/// Why the sidecar's settings do not go together.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Ports with two uses.
    #[error(transparent)]
    Ports(#[from] ConfigError),
    /// A rule that does not parse.
    #[error("--allow: {0}")]
    Allow(#[from] IdentityError),
    /// No such day.
    #[error("--permissive-until {0:?} is no date: write YYYY-MM-DD")]
    Date(String),
    /// Namespaces of pods that nobody asks for.
    #[error("--peer-namespace says whose pods --peer-address pod asks for: give both, or neither")]
    NoPods,
    /// A mode with TLS needs all three files.
    #[error(
        "no {what}: give --tls-dir or {option}, or a source of certificates such as --spiffe-socket (or --mode disabled for no TLS at all)"
    )]
    NoTlsFile {
        /// What is missing.
        what: &'static str,
        /// The option that names it.
        option: &'static str,
    },
    /// A fixed target that leads back to the sidecar.
    #[error("{option} {target} is the sidecar's own port: every connection would come back to it")]
    Loop {
        /// The option.
        option: &'static str,
        /// Its value.
        target: SocketAddr,
    },
    /// What has no meaning without rules, or with them.
    #[error("{option} has no meaning with --path {path}: {why}")]
    OtherPath {
        /// The option.
        option: &'static str,
        /// The path that was chosen.
        path: TrafficPath,
        /// Why.
        why: &'static str,
    },
    /// Nothing to listen on.
    #[error("--path ports needs --pod-ip, the addresses that peers dial: from the downward API (status.podIPs)")]
    NoPodAddress,
    /// An address where the app listens, or that is none.
    #[error("--pod-ip {0} is not an address that peers dial; the app alone listens on loopback")]
    BadPodAddress(IpAddr),
    /// More sockets than make sense.
    #[error("--path ports takes at most {MOST_LISTENERS} remoting ports, and --remoting-port names {0}")]
    TooManyPorts(usize),
    /// A fixed target that nobody can listen on.
    #[error("{option} {target}: port 0 cannot be dialled")]
    NoPort {
        /// The option.
        option: &'static str,
        /// Its value.
        target: SocketAddr,
    },
}

/// Remoting ports that a sidecar listens on itself: more than any pod has.
const MOST_LISTENERS: usize = 64;

/// The oldest version of TLS that peers may speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2, with forward secrecy and AEAD alone: what Akka 2.6's own TLS speaks
    #[default]
    #[serde(rename = "1.2")]
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3
    #[serde(rename = "1.3")]
    #[value(name = "1.3")]
    V13,
}

/// What kind of key a certificate gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyAlgorithm {
    /// NIST P-256: small and fast
    #[default]
    #[value(name = "ec-p256")]
    EcP256,
    /// RSA of 2048 bits: the only kind that Akka's RotatingKeysSSLEngineProvider reads
    #[value(name = "rsa-2048")]
    Rsa2048,
}

/// Where certificate chain, key and roots are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Roots, PEM.
    pub ca: PathBuf,
    /// Roots for the SPIFFE IDs of other trust domains, PEM.
    #[serde(serialize_with = "federated", skip_serializing_if = "Vec::is_empty")]
    pub federated: Vec<(TrustDomain, PathBuf)>,
    /// Certificate revocation lists, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
}

impl TlsFiles {
    /// The files that the options name; a file's own option beats the directory. Nothing is revoked, and no other trust
    /// domain is trusted.
    ///
    /// # Errors
    /// If a file is named by neither.
    pub fn new(
        dir: Option<&Path>,
        certificate: Option<&Path>,
        key: Option<&Path>,
        ca: Option<&Path>,
    ) -> Result<Self, SidecarError> {
        let file = |own: Option<&Path>, name: &str, what, option| {
            own.map(Path::to_owned)
                .or_else(|| dir.map(|dir| dir.join(name)))
                .ok_or(SidecarError::NoTlsFile { what, option })
        };
        Ok(Self::three(
            file(certificate, "tls.crt", "certificate", "--tls-cert")?,
            file(key, "tls.key", "private key", "--tls-key")?,
            file(ca, "ca.crt", "CA", "--tls-ca")?,
        ))
    }

    /// The three that there always are.
    #[must_use]
    pub const fn three(certificate: PathBuf, key: PathBuf, ca: PathBuf) -> Self {
        Self { certificate, key, ca, federated: Vec::new(), revoked: None }
    }
}

/// What `--tls-federated` says: a trust domain and the file with its roots.
///
/// # Errors
/// If it is not `TRUST_DOMAIN=FILE`.
pub fn parse_federated(text: &str) -> Result<(TrustDomain, PathBuf), String> {
    let (domain, file) = text.split_once('=').filter(|(_, file)| !file.is_empty()).ok_or("write TRUST_DOMAIN=FILE")?;
    let domain = domain.parse().map_err(|error: IdentityError| error.to_string())?;
    Ok((domain, file.into()))
}

/// The settings as they were given; what clap has parsed is typed already.
#[derive(Clone, Debug)]
pub struct RawSidecar {
    /// The cluster's ports.
    pub cluster: ClusterPorts,
    /// The sidecar's ports.
    pub agent: AgentPorts,
    /// How connections come.
    pub path: TrafficPath,
    /// `--pod-ip`.
    pub pod_ips: Vec<IpAddr>,
    /// What to do with peers that do not speak TLS.
    pub mode: TlsMode,
    /// `--permissive-until`.
    pub permissive_until: Option<String>,
    /// Where credentials come from; `None` in a mode without TLS.
    pub tls: Option<TlsSource>,
    /// `--allow`.
    pub allow: Vec<String>,
    /// `--tls-min-version`.
    pub tls_min_version: TlsVersion,
    /// `--ca-overlap`.
    pub ca_overlap: Duration,
    /// `--recycle-within`.
    pub recycle_within: Duration,
    /// `--peer-address`.
    pub peer_address: PeerAddress,
    /// `--peer-namespace`.
    pub peer_namespaces: Vec<String>,
    /// `--bind-address`.
    pub bind_addresses: Vec<IpAddr>,
    /// `--outbound-target`.
    pub outbound_target: Option<SocketAddr>,
    /// `--inbound-target`.
    pub inbound_target: Option<SocketAddr>,
    /// Limits in time and number.
    pub limits: Limits,
    /// `--fault-injection`.
    pub fault_injection: bool,
    /// Who is told what.
    pub observe: Observe,
}

/// What is told beside the sidecar's own metrics, and under which names of this pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observe {
    /// Istio's standard TCP metrics too.
    pub istio_metrics: bool,
    /// This pod's workload.
    pub workload: Option<String>,
    /// This pod's namespace.
    pub workload_namespace: Option<String>,
    /// The Kubernetes cluster's name.
    pub cluster_name: String,
    /// Where spans go.
    pub otlp_endpoint: Option<CollectorUrl>,
}

/// Limits in time and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// A TLS handshake, the wait for the first bytes included.
    #[serde(serialize_with = "seconds", rename = "handshake_timeout_seconds")]
    pub handshake_timeout: Duration,
    /// Handshakes unfinished at a time, in each direction.
    pub max_handshakes: u32,
    /// Connections open at a time, in each direction.
    pub max_connections: u32,
    /// Connections open at a time with one other pod, in each direction.
    pub max_connections_per_peer: u32,
    /// When a peer that cannot be had is left alone.
    #[serde(serialize_with = "breaker")]
    pub breaker: breaker::Policy,
    /// How long a peer may leave bytes or keepalives unanswered.
    #[serde(serialize_with = "seconds", rename = "peer_timeout_seconds")]
    pub peer_timeout: Duration,
    /// How long a half-closed connection lives without a byte.
    #[serde(serialize_with = "seconds", rename = "half_close_timeout_seconds")]
    pub half_close_timeout: Duration,
    /// From the signal to the end.
    #[serde(serialize_with = "seconds", rename = "drain_timeout_seconds")]
    pub drain_timeout: Duration,
}

/// Validated settings of the sidecar; serialized, it is what `/config` shows.
#[derive(Clone, Debug, Serialize)]
pub struct SidecarConfig {
    /// Remoting ports.
    #[serde(rename = "remoting_ports")]
    pub remoting: PortSet,
    /// Management ports.
    #[serde(rename = "management_ports")]
    pub management: PortSet,
    /// Where outgoing remoting is redirected to.
    pub outbound_port: u16,
    /// Where arriving remoting is redirected to.
    pub inbound_port: u16,
    /// Admin HTTP.
    pub admin_port: u16,
    /// How connections come.
    pub path: TrafficPath,
    /// Where peers dial, with [`TrafficPath::Ports`].
    pub pod_ips: Vec<IpAddr>,
    /// What to do with peers that do not speak TLS.
    pub mode: TlsMode,
    /// Last day of permissive mode, in UTC.
    #[serde(serialize_with = "date")]
    pub permissive_until: Option<Date>,
    /// Where credentials come from; `None` without TLS.
    pub tls: Option<TlsSource>,
    /// Rules; empty means whoever has the identity of our own certificate.
    #[serde(serialize_with = "texts")]
    pub allow: Vec<Allow>,
    /// The oldest version of TLS that peers may speak.
    pub tls_min_version: TlsVersion,
    /// How long roots that are replaced go on counting.
    #[serde(serialize_with = "seconds", rename = "ca_overlap_seconds")]
    pub ca_overlap: Duration,
    /// Within what time connections are replaced once credentials have changed; zero for never.
    #[serde(serialize_with = "seconds", rename = "recycle_within_seconds")]
    pub recycle_within: Duration,
    /// Whether a certificate has to go with the peer's address.
    pub peer_address: PeerAddress,
    /// Whose pods are asked for, if it has to; empty means those of our own namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peer_namespaces: Vec<String>,
    /// What the inbound and the admin listener bind; empty means every address.
    pub bind_addresses: Vec<IpAddr>,
    /// Instead of the original destination of outgoing connections.
    pub outbound_target: Option<SocketAddr>,
    /// Instead of the original destination of arriving connections.
    pub inbound_target: Option<SocketAddr>,
    /// Limits in time and number.
    pub limits: Limits,
    /// Whether faults may be ordered through the admin port.
    pub fault_injection: bool,
    /// Who is told what.
    pub observe: Observe,
}

impl TryFrom<RawSidecar> for SidecarConfig {
    type Error = SidecarError;

    fn try_from(raw: RawSidecar) -> Result<Self, SidecarError> {
        let agent = raw.agent.checked(&raw.cluster)?;
        if !raw.peer_namespaces.is_empty() && raw.peer_address != PeerAddress::Pod {
            return Err(SidecarError::NoPods);
        }
        for (option, target) in [("--outbound-target", raw.outbound_target), ("--inbound-target", raw.inbound_target)] {
            let Some(target) = target else { continue };
            if target.port() == 0 {
                return Err(SidecarError::NoPort { option, target });
            }
            if is_this_host(target.ip()) && [agent.outbound, agent.inbound, agent.admin].contains(&target.port()) {
                return Err(SidecarError::Loop { option, target });
            }
        }
        raw.check_path()?;
        Ok(Self {
            remoting: raw.cluster.remoting,
            management: raw.cluster.management,
            outbound_port: agent.outbound,
            inbound_port: agent.inbound,
            admin_port: agent.admin,
            path: raw.path,
            pod_ips: raw.pod_ips,
            mode: raw.mode,
            permissive_until: raw.permissive_until.map(|text| parse_date(&text)).transpose()?,
            tls: raw.tls,
            allow: raw.allow.iter().map(|text| text.trim().parse()).collect::<Result<_, _>>()?,
            tls_min_version: raw.tls_min_version,
            ca_overlap: raw.ca_overlap,
            recycle_within: raw.recycle_within,
            peer_address: raw.peer_address,
            peer_namespaces: raw.peer_namespaces,
            bind_addresses: raw.bind_addresses,
            outbound_target: raw.outbound_target,
            inbound_target: raw.inbound_target,
            limits: raw.limits,
            fault_injection: raw.fault_injection,
            observe: raw.observe,
        })
    }
}

impl RawSidecar {
    fn check_path(&self) -> Result<(), SidecarError> {
        if self.path == TrafficPath::Rules {
            return Ok(());
        }
        if self.outbound_target.is_some() {
            let why = "the preloaded library says where each connection goes";
            return Err(SidecarError::OtherPath { option: "--outbound-target", path: self.path, why });
        }
        if self.pod_ips.is_empty() {
            return Err(SidecarError::NoPodAddress);
        }
        if let Some(address) = self.pod_ips.iter().find(|ip| is_this_host(**ip) || ip.is_multicast()) {
            return Err(SidecarError::BadPodAddress(*address));
        }
        check_listeners(&self.cluster.remoting)
    }
}

/// Whether a sidecar can listen on these ports itself.
///
/// # Errors
/// [`SidecarError::TooManyPorts`].
pub fn check_listeners(remoting: &PortSet) -> Result<(), SidecarError> {
    match remoting.iter().take(MOST_LISTENERS + 1).count() {
        ports if ports > MOST_LISTENERS => Err(SidecarError::TooManyPorts(remoting.iter().count())),
        _ => Ok(()),
    }
}

impl SidecarConfig {
    /// Whether lists say what was revoked.
    #[must_use]
    pub fn has_revocations(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsSource::may_revoke)
    }

    /// Whether connections may be ended though neither side wants it.
    #[must_use]
    pub fn retires(&self) -> bool {
        self.has_revocations() || !self.recycle_within.is_zero()
    }

    /// Whether rules are to redirect connections to the sidecar.
    #[must_use]
    pub const fn expects_rules(&self) -> bool {
        matches!(self.path, TrafficPath::Rules) && self.outbound_target.is_none()
    }

    /// What the rules have to do for a sidecar of this user; `None` where a fixed target makes do without them.
    #[must_use]
    pub fn expectation(&self, agent_uid: u32) -> Option<Expectation> {
        let redirected = self.expects_rules() && self.inbound_target.is_none();
        redirected.then(|| Expectation {
            cluster: ClusterPorts { remoting: self.remoting.clone(), management: self.management.clone() },
            agent: AgentPorts { outbound: self.outbound_port, inbound: self.inbound_port, admin: self.admin_port },
            agent_uid,
        })
    }

    /// Whether permissive mode has outlived its day.
    #[must_use]
    pub fn is_permissive_overdue(&self, now: OffsetDateTime) -> bool {
        self.mode == TlsMode::Permissive && self.permissive_until.is_some_and(|until| now.date() > until)
    }
}

pub(crate) fn parse_date(text: &str) -> Result<Date, SidecarError> {
    Date::parse(text, format_description!("[year]-[month]-[day]")).map_err(|_| SidecarError::Date(text.to_owned()))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

fn breaker<S: Serializer>(policy: &breaker::Policy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([("failures", u64::from(policy.failures)), ("pause_seconds", policy.pause.as_secs())])
}

fn texts<S: Serializer>(allow: &[Allow], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(allow.iter().map(ToString::to_string))
}

pub(crate) fn federated<S: Serializer>(federated: &[(TrustDomain, PathBuf)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(federated.iter().map(|(domain, path)| (domain.to_string(), path)))
}

fn date<S: Serializer>(date: &Option<Date>, serializer: S) -> Result<S::Ok, S::Error> {
    match date {
        Some(date) => serializer.collect_str(date),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
