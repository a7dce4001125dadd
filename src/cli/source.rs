//! Options of who is asked for credentials.

use clap::Args;

use crate::core::source::UnixEndpoint;

/// Who is asked for certificate, key and roots, instead of files.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Ask this SPIFFE Workload API (SPIRE's agent, for instance) for them: unix:///PATH
    /// [default: SPIFFE_ENDPOINT_SOCKET, if no file and nobody else is named]
    #[arg(long, env = "BYPASSCTL_SPIFFE_SOCKET", value_name = "URI",
        conflicts_with_all = ["tls_dir", "tls_cert", "tls_key", "tls_ca"])]
    pub spiffe_socket: Option<UnixEndpoint>,
}
