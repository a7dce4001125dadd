//! Validated settings of the commands. After `try_from` nothing is a raw string, and no option means "default".

use crate::core::ports::{DEFAULT_MANAGEMENT_PORT, DEFAULT_REMOTING_PORT, PortRange, PortSet, Preset};

/// User id that the sidecar runs as, and that the rules exempt.
pub const DEFAULT_AGENT_UID: u32 = 12552;
/// Where the rules send the app's outgoing remoting connections.
pub const DEFAULT_OUTBOUND_PORT: u16 = 15552;
/// Where the rules send remoting connections that arrive.
pub const DEFAULT_INBOUND_PORT: u16 = 15553;
/// Health, metrics and status of the sidecar.
pub const DEFAULT_ADMIN_PORT: u16 = 15550;
/// Health and metrics of the webhook.
pub const DEFAULT_WEBHOOK_ADMIN_PORT: u16 = 15551;
/// User id of Istio's proxy, and of most meshes that copied it (istio.io, "Application Requirements").
pub const DEFAULT_MESH_UID: u32 = 1337;
/// The packet mark that Istio's TPROXY and ambient rules skip: 1337, written 0x539
/// (istio tools/istio-iptables/pkg/constants, `OutboundMark`).
pub const DEFAULT_MESH_MARK: u32 = 1337;

/// Separate ports and ranges of one list: far more than any node listens on, few enough to apply and read back at once.
pub const MOST_RANGES: usize = 1024;

/// Why settings that parse one by one do not go together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// One port with two uses.
    #[error("port {port} is named both as {first} and as {second}; give each use ports of its own")]
    SharedPort {
        /// The port.
        port: u16,
        /// One use, as its option.
        first: &'static str,
        /// The other use.
        second: &'static str,
    },
    /// More than a table should hold.
    #[error(
        "{option} names {ranges} separate ports and ranges; at most {MOST_RANGES} are possible: write neighbours as a range"
    )]
    TooManyRanges {
        /// The option.
        option: &'static str,
        /// How many.
        ranges: usize,
    },
    /// A uid that the rules cannot exempt without exempting the app.
    #[error(
        "--agent-uid 0 would exempt everything that runs as root, the app perhaps among it; use a uid of the agent's own"
    )]
    RootAgent,
    /// The mark that every packet has.
    #[error("--mesh-mark 0 is the mark of every packet that nobody marked; it would refuse the app's own connections")]
    NoMark,
    /// The agent cannot be its own intruder.
    #[error("--mesh-uid {0} is also --agent-uid; the rules refuse the one what they allow the other")]
    MeshIsAgent(u32),
}

/// What the rules are to do with remoting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RedirectMode {
    /// remoting goes through `bypassctl proxy`, everything else that bypasses goes straight
    Capture,
    /// remoting and management go straight, without a sidecar and without TLS of ours
    Bypass,
}

/// Whether a mesh proxy in the pod may hand plaintext to the app's remoting port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SideDoors {
    /// plaintext that the mesh's proxy brings over loopback, and Aeron UDP, are refused
    Closed,
    /// they are let through, for a migration with `bypassctl proxy --mode permissive`
    Open,
}

/// Remoting and management ports.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterPorts {
    /// Artery or classic remoting.
    pub remoting: PortSet,
    /// Akka or Pekko management.
    pub management: PortSet,
}

impl ClusterPorts {
    /// What was asked for; where a list is empty, the preset's port, else the default.
    ///
    /// # Errors
    /// If a port is in both lists, or a list is too long.
    pub fn new(preset: Option<Preset>, remoting: &[PortRange], management: &[PortRange]) -> Result<Self, ConfigError> {
        let (remoting_default, management_default) =
            preset.map_or((DEFAULT_REMOTING_PORT, DEFAULT_MANAGEMENT_PORT), Preset::ports);
        let remoting = PortSet::new(remoting.iter().copied()).unwrap_or_else(|| PortSet::single(remoting_default));
        let management =
            PortSet::new(management.iter().copied()).unwrap_or_else(|| PortSet::single(management_default));
        for (option, ports) in [("--remoting-port", &remoting), ("--management-port", &management)] {
            let ranges = ports.ranges().len();
            if ranges > MOST_RANGES {
                return Err(ConfigError::TooManyRanges { option, ranges });
            }
        }
        match remoting.first_shared(&management) {
            Some(port) => Err(ConfigError::SharedPort { port, first: "--remoting-port", second: "--management-port" }),
            None => Ok(Self { remoting, management }),
        }
    }
}

/// The agent's own ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentPorts {
    /// Where outgoing remoting is redirected to.
    pub outbound: u16,
    /// Where arriving remoting is redirected to.
    pub inbound: u16,
    /// Admin HTTP.
    pub admin: u16,
}

impl Default for AgentPorts {
    fn default() -> Self {
        Self { outbound: DEFAULT_OUTBOUND_PORT, inbound: DEFAULT_INBOUND_PORT, admin: DEFAULT_ADMIN_PORT }
    }
}

impl AgentPorts {
    /// Checks that no port has two uses, the cluster's among them.
    ///
    /// # Errors
    /// The first port with two uses.
    pub fn checked(self, cluster: &ClusterPorts) -> Result<Self, ConfigError> {
        let own = [("--outbound-port", self.outbound), ("--inbound-port", self.inbound), ("--admin-port", self.admin)];
        for (i, (first, port)) in own.into_iter().enumerate() {
            let twice = own.iter().skip(i + 1).find(|(_, other)| *other == port).map(|(option, _)| *option);
            let second = twice
                .or_else(|| cluster.remoting.contains(port).then_some("--remoting-port"))
                .or_else(|| cluster.management.contains(port).then_some("--management-port"));
            if let Some(second) = second {
                return Err(ConfigError::SharedPort { port, first, second });
            }
        }
        Ok(self)
    }
}
