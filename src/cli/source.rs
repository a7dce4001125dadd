//! Options of who is asked for credentials.

use std::path::PathBuf;

use clap::Args;

use crate::core::identity::TrustDomain;
use crate::core::source::{HostPort, UnixEndpoint, parse_signer};

/// Who is asked for certificate, key and roots, instead of files.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// Ask this SPIFFE Workload API (SPIRE's agent, for instance) for them: unix:///PATH
    /// [default: SPIFFE_ENDPOINT_SOCKET, if no file and nobody else is named]
    #[arg(long, env = "BYPASSCTL_SPIFFE_SOCKET", value_name = "URI",
        conflicts_with_all = ["tls_dir", "tls_cert", "tls_key", "tls_ca"])]
    pub spiffe_socket: Option<UnixEndpoint>,
    /// Ask Istio's certificate authority for a certificate: istiod.istio-system.svc:15012
    #[arg(long, env = "BYPASSCTL_ISTIO_CA", value_name = "HOST:PORT",
        conflicts_with_all = ["tls_dir", "tls_cert", "tls_key", "tls_ca", "spiffe_socket"])]
    pub istio_ca: Option<HostPort>,
    /// With --istio-ca: the service account's token, projected for the audience istio-ca
    #[arg(
        long,
        env = "BYPASSCTL_ISTIO_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token",
        value_name = "FILE"
    )]
    pub istio_token: PathBuf,
    /// With --istio-ca: the mesh's roots, PEM: they vouch for the authority and for peers
    #[arg(
        long,
        env = "BYPASSCTL_ISTIO_ROOT",
        default_value = "/var/run/secrets/istio/root-cert.pem",
        value_name = "FILE"
    )]
    pub istio_root: PathBuf,
    /// Ask for a certificate by a CertificateSigningRequest to this signer; --tls-ca names its roots
    #[arg(long, env = "BYPASSCTL_CSR_SIGNER", value_name = "DOMAIN/NAME", value_parser = parse_signer,
        requires = "tls_ca", conflicts_with_all = ["tls_dir", "tls_cert", "tls_key", "spiffe_socket", "istio_ca"])]
    pub csr_signer: Option<String>,
    /// With --istio-ca or --csr-signer: the trust domain of the SPIFFE ID that is asked for
    #[arg(long, env = "BYPASSCTL_TRUST_DOMAIN", default_value = "cluster.local", value_name = "NAME")]
    pub trust_domain: TrustDomain,
}
