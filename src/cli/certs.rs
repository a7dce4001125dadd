//! `bypassctl certs`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{OutputFormat, SourceArgs, TlsArgs};
use crate::core::identity::SpiffeId;
use crate::core::sidecar::KeyAlgorithm;

#[derive(Debug, Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    pub command: CertsCommand,
}

#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make a development authority: ca.crt and ca.key
    Ca(CertsCaArgs),
    /// Have such an authority issue a certificate: tls.crt, tls.key and ca.crt, as `proxy --tls-dir` reads them
    Issue(CertsIssueArgs),
    /// Have such an authority revoke certificates: a list for `proxy --tls-crl`
    Revoke(CertsRevokeArgs),
    /// Say what certificates say: of files, of a directory's files, or of whoever listens on HOST:PORT and speaks TLS
    Inspect(CertsInspectArgs),
    /// Check a certificate, its key and its roots as `proxy` does, of files or of whoever `proxy` would ask, and say whether
    /// others would be let in
    Verify(CertsVerifyArgs),
}

#[derive(Debug, Args)]
pub struct CertsCaArgs {
    /// Directory to write to; made if it is not there
    #[arg(long, env = "BYPASSCTL_DIR", value_name = "DIR")]
    pub dir: PathBuf,
    /// The authority's name
    #[arg(long, env = "BYPASSCTL_COMMON_NAME", default_value = "bypassctl development CA", value_name = "NAME")]
    pub common_name: String,
    /// Days that it is to last
    #[arg(long, env = "BYPASSCTL_DAYS", default_value_t = 365, value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// What kind of key it gets
    #[arg(long, env = "BYPASSCTL_KEY_TYPE", default_value = "ec-p256")]
    pub key_type: KeyAlgorithm,
    /// Write over files that are there
    #[arg(long, env = "BYPASSCTL_FORCE")]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct CertsIssueArgs {
    /// The authority's directory, with ca.crt and ca.key
    #[arg(long, env = "BYPASSCTL_CA_DIR", value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// Directory to write to; made if it is not there
    #[arg(long, env = "BYPASSCTL_DIR", value_name = "DIR")]
    pub dir: PathBuf,
    /// Whose it is to be: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT
    #[arg(long, env = "BYPASSCTL_SPIFFE_ID", value_name = "SPIFFE_ID", required_unless_present = "dns")]
    pub spiffe_id: Option<SpiffeId>,
    /// DNS names; repeatable. Native TLS nodes of Akka 2.6 demand one that all share
    #[arg(long, env = "BYPASSCTL_DNS", value_delimiter = ',', value_name = "NAME")]
    pub dns: Vec<String>,
    /// IP addresses; repeatable
    #[arg(long, env = "BYPASSCTL_IP", value_delimiter = ',', value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    /// Subject's common name [default: the last part of the SPIFFE ID, or the first DNS name]
    #[arg(long, env = "BYPASSCTL_COMMON_NAME", value_name = "NAME")]
    pub common_name: Option<String>,
    /// Days that it is to last
    #[arg(long, env = "BYPASSCTL_DAYS", default_value_t = 30, value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// What kind of key it gets
    #[arg(long, env = "BYPASSCTL_KEY_TYPE", default_value = "ec-p256")]
    pub key_type: KeyAlgorithm,
    /// Write over files that are there
    #[arg(long, env = "BYPASSCTL_FORCE")]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct CertsRevokeArgs {
    /// The authority's directory, with ca.crt and ca.key
    #[arg(long, env = "BYPASSCTL_CA_DIR", value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// File to write the list to, in place of an older one
    #[arg(long, env = "BYPASSCTL_TLS_CRL", value_name = "FILE")]
    pub tls_crl: PathBuf,
    /// Days until a newer list is to be there
    #[arg(long, env = "BYPASSCTL_DAYS", default_value_t = 30, value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// All certificates that are revoked, PEM; none for a list of nobody
    #[arg(value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CertsInspectArgs {
    /// Files with certificates (PEM), directories with such files, or HOST:PORT
    #[arg(value_name = "WHAT", required = true)]
    pub what: Vec<String>,
    /// Seconds that HOST:PORT may take
    #[arg(long, env = "BYPASSCTL_HANDSHAKE_TIMEOUT", default_value_t = 10, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=300))]
    pub handshake_timeout: u64,
    /// Form of the answer
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "text")]
    pub output: OutputFormat,
}

#[derive(Debug, Args)]
pub struct CertsVerifyArgs {
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Seconds that whoever is asked for credentials may take
    #[arg(long, env = "BYPASSCTL_WAIT", default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
    /// Which peers may connect, as for `proxy` [default: the identity of our own certificate]
    #[arg(long, env = "BYPASSCTL_ALLOW", value_delimiter = ',', value_name = "IDENTITY")]
    pub allow: Vec<String>,
    /// Others' certificates, PEM with their intermediates: whether each would be let in; repeatable
    #[arg(long, env = "BYPASSCTL_PEER", value_delimiter = ',', value_name = "FILE")]
    pub peer: Vec<PathBuf>,
    /// Form of the answer
    #[arg(long, short, env = "BYPASSCTL_OUTPUT", default_value = "text")]
    pub output: OutputFormat,
}
