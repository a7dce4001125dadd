//! `bypassctl certs`: a development authority, what certificates say, and whether they would do.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use time::OffsetDateTime;

use crate::cli::{
    CertsArgs, CertsCaArgs, CertsCommand, CertsInspectArgs, CertsIssueArgs, CertsRevokeArgs, OutputFormat,
};
use crate::commands::{Failure, Outcome, print};
use crate::core::identity::Allow;
use crate::core::native;
use crate::core::policy::allowed_text;
use crate::core::report::plain;
use crate::tls::inspect::{self, Shown};
use crate::tls::issue::{DevelopmentCa, IssueError, LeafRequest};
use crate::tls::{CertificateFacts, CredentialError, Credentials, has_signed, read_regular, timestamp};

mod verify;

/// Whoever has it is the authority, or the workload.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
/// More files than a directory of certificates has.
const MOST_FILES: usize = 1000;

pub(super) fn run(args: &CertsArgs) -> Result<Outcome, Failure> {
    match &args.command {
        CertsCommand::Ca(args) => ca(args),
        CertsCommand::Issue(args) => issue(args),
        CertsCommand::Revoke(args) => revoke(args),
        CertsCommand::Inspect(args) => inspect(args),
        CertsCommand::Verify(args) => verify::run(args),
    }
}

fn ca(args: &CertsCaArgs) -> Result<Outcome, Failure> {
    let not_after = OffsetDateTime::now_utc() + time::Duration::days(args.days.into());
    let ca = DevelopmentCa::lasting(&args.common_name, not_after, args.key_type).map_err(issuing)?;
    let files = [("ca.crt", ca.certificate_pem(), PUBLIC), ("ca.key", &*ca.key_pem(), SECRET)];
    write_all(&args.dir, &files, args.force)?;
    print(&format!(
        "{}: authority {}, until {}\nKeep ca.key where nobody else can read it: whoever has it is the authority.\n",
        args.dir.display(),
        plain(&args.common_name),
        timestamp(not_after)
    ))?;
    Ok(Outcome::Done)
}

fn issue(args: &CertsIssueArgs) -> Result<Outcome, Failure> {
    let ca = authority(&args.ca_dir)?;
    let last = |id: &crate::core::identity::SpiffeId| id.path().rsplit('/').next().unwrap_or_default().to_owned();
    let common_name = args.common_name.clone().or_else(|| args.spiffe_id.as_ref().map(last));
    let now = OffsetDateTime::now_utc();
    for name in &args.dns {
        format!("dns:{name}")
            .parse::<Allow>()
            .map_err(|error| Failure::usage(anyhow::Error::from(error).context("--dns")))?;
    }
    let asked = now + time::Duration::days(args.days.into());
    let ca_ends = read_certificate(ca.certificate_pem().as_bytes())?.not_after;
    if asked > ca_ends {
        let ends = timestamp(ca_ends);
        tracing::warn!(ends, "--days goes beyond the authority's own end: the certificate ends with it");
    }
    let request = LeafRequest {
        common_name: common_name.filter(|name| !name.is_empty()).or(args.dns.first().cloned()).unwrap_or_default(),
        spiffe_id: args.spiffe_id.as_ref().map(ToString::to_string),
        dns_names: args.dns.clone(),
        ip_addresses: args.ip.clone(),
        not_before: now - time::Duration::HOUR,
        not_after: asked.min(ca_ends),
    };
    let leaf = ca.issue_with_key(&request, args.key_type).map_err(issuing)?;
    let files = [
        ("tls.crt", leaf.certificate_pem.as_str(), PUBLIC),
        ("tls.key", &*leaf.key_pem, SECRET),
        ("ca.crt", ca.certificate_pem(), PUBLIC),
    ];
    write_all(&args.dir, &files, args.force)?;
    let text = describe(&[read_certificate(leaf.certificate_pem.as_bytes())?], now);
    print(&format!("{}\n{text}", args.dir.display()))?;
    Ok(Outcome::Done)
}

fn revoke(args: &CertsRevokeArgs) -> Result<Outcome, Failure> {
    let ca = authority(&args.ca_dir)?;
    let mut revoked = Vec::new();
    let root = CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes())
        .map_err(|error| anyhow!("the authority has no certificate: {error}"))?;
    let own = read_certificate(ca.certificate_pem().as_bytes())?.subject;
    for path in &args.certificates {
        let (der, certificate) = (ders_of(path)?.swap_remove(0), chain_of(path)?.swap_remove(0));
        // In a list of ours it would be revoked for nobody.
        if !has_signed(&root, &der) {
            let (path, issuer) = (path.display(), &certificate.issuer);
            return Err(Failure::usage(anyhow!(
                "{path} was issued by {issuer}, and not with the key of this {own}, which can revoke its own alone; name the issuer's \
                 directory with --ca-dir"
            )));
        }
        revoked.push(certificate);
    }
    let list = ca.revoke(&revoked, args.days).map_err(issuing)?;
    let dir = args.tls_crl.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = args
        .tls_crl
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Failure::usage(anyhow!("--tls-crl {} names no file", args.tls_crl.display())))?;
    let is_list = |bytes: Vec<u8>| bytes.is_empty() || bytes.windows(19).any(|window| window == b"-----BEGIN X509 CRL");
    if args.tls_crl.exists() && !read_regular(&args.tls_crl).is_ok_and(is_list) {
        let error =
            anyhow!("--tls-crl {} is there, and is no revocation list: name another file", args.tls_crl.display());
        return Err(Failure::usage(error));
    }
    write_all(dir, &[(name, &list, PUBLIC)], true)?;
    print(&format!(
        "{}: {} revoked; to be replaced within {} days\n",
        args.tls_crl.display(),
        revoked.len(),
        args.days
    ))?;
    Ok(Outcome::Done)
}

fn issuing(error: IssueError) -> Failure {
    match error {
        IssueError::Name { .. } | IssueError::NoAuthority(_) => Failure::usage(error),
        IssueError::Generate { .. } => error.into(),
    }
}

fn authority(dir: &Path) -> Result<DevelopmentCa, Failure> {
    let read = |name: &str| {
        let path = dir.join(name);
        let bytes = read_regular(&path).map(zeroize::Zeroizing::new);
        let text = bytes.and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::other("it is no text"))?;
            Ok(zeroize::Zeroizing::new(text.to_owned()))
        });
        text.with_context(|| {
            format!("the authority's {} cannot be read; `bypassctl certs ca --dir` makes one", path.display())
        })
    };
    let (certificate, key) = (read("ca.crt").map_err(Failure::usage)?, read("ca.key").map_err(Failure::usage)?);
    DevelopmentCa::from_pem(&certificate, &key)
        .map_err(|error| Failure::usage(anyhow::Error::from(error).context(format!("{}", dir.display()))))
}

/// All files or, as far as one can see beforehand, none; each is there as a whole or not at all.
fn write_all(dir: &Path, files: &[(&str, &str, u32)], force: bool) -> Result<(), Failure> {
    let at = |name: &str| dir.join(name);
    if let Some((name, ..)) = files.iter().find(|(name, ..)| !force && at(name).symlink_metadata().is_ok()) {
        let error = anyhow!("{} is there already; --force writes over it", at(name).display());
        return Err(Failure::usage(error));
    }
    let environment = |error: io::Error, path: PathBuf| {
        Failure::environment(anyhow::Error::from(error).context(format!("{} cannot be written", path.display())))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| environment(error, dir.to_owned()))?;
    let mut written = Vec::new();
    let result = files.iter().try_for_each(|(name, content, mode)| {
        let path = at(&format!(".{name}.{}", std::process::id()));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path).map_err(|e| (e, at(name)))?;
        written.push(path);
        file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| (error, at(name)))
    });
    let result = result.and_then(|()| {
        let finished = written.iter().zip(files).map(|(path, (name, ..))| (path, at(name)));
        finished.into_iter().try_for_each(|(path, to)| fs::rename(path, &to).map_err(|error| (error, to)))
    });
    result.map_err(|(error, path)| {
        // What was begun goes; that it cannot be removed says no more than why it was begun in vain.
        written.iter().for_each(|path| drop(fs::remove_file(path)));
        environment(error, path)
    })
}

fn read_certificate(pem: &[u8]) -> Result<CertificateFacts, Failure> {
    let der = CertificateDer::from_pem_slice(pem).map_err(|error| anyhow!("no certificate: {error}"))?;
    CertificateFacts::of(&der).map_err(|error| anyhow!("no certificate: {error}").into())
}

/// The certificates of a file.
fn ders_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let usage = |error: anyhow::Error| Failure::usage(error);
    let bytes = read_regular(path).with_context(|| format!("{} cannot be read", path.display())).map_err(usage)?;
    Credentials::chain_of(&bytes, path).map_err(|error: CredentialError| Failure::usage(error))
}

fn chain_of(path: &Path) -> Result<Vec<CertificateFacts>, Failure> {
    let malformed = |detail| Failure::usage(anyhow!("{}: a certificate in it is malformed: {detail}", path.display()));
    ders_of(path)?.iter().map(|der| CertificateFacts::of(der).map_err(malformed)).collect()
}

/// What was found in one place.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(rename = "in")]
    place: String,
    /// Of a connection: version and cipher suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<String>,
    certificates: Vec<CertificateFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn inspect(args: &CertsInspectArgs) -> Result<Outcome, Failure> {
    let limit = Duration::from_secs(args.handshake_timeout);
    let found: Vec<Found> = args.what.iter().flat_map(|what| look(what, limit)).collect();
    let now = OffsetDateTime::now_utc();
    match args.output {
        OutputFormat::Json => print(&format!("{:#}\n", serde_json::to_value(&found)?))?,
        OutputFormat::Text => {
            let mut text = String::new();
            for Found { place, tls, certificates, error } in &found {
                let how = tls.as_ref().map(|tls| format!(", {tls}")).unwrap_or_default();
                let _ = writeln!(text, "{}{how}", plain(place));
                match error {
                    Some(error) => {
                        let _ = writeln!(text, "  {}", plain(error));
                    }
                    None => text.push_str(&describe(certificates, now)),
                }
            }
            print(&text)?;
        }
    }
    let is_valid = |one: &CertificateFacts| one.not_before <= now && now <= one.not_after;
    let is_well = found.iter().all(|found| found.error.is_none() && found.certificates.iter().all(is_valid));
    Ok(if is_well { Outcome::Done } else { Outcome::NotWell })
}

fn look(what: &str, limit: Duration) -> Vec<Found> {
    let path = Path::new(what);
    if path.is_dir() {
        return look_into(path);
    }
    let found = |tls, certificates: Result<Vec<CertificateFacts>, String>| {
        let (certificates, error) = certificates.map_or_else(|error| (Vec::new(), Some(error)), |found| (found, None));
        Found { place: what.to_owned(), tls, certificates, error }
    };
    // A file may have a colon in its name; nobody listens where a file is.
    if path.exists() || !what.contains(':') {
        return vec![found(None, chain_of(path).map_err(|failure| super::chain(&failure.error)))];
    }
    vec![match dial(what, limit) {
        Err(error) => found(None, Err(format!("{error:#}"))),
        Ok(Shown { chain, version, cipher }) => {
            found(Some(format!("{version} {cipher}")), chain.iter().map(CertificateFacts::of).collect())
        }
    }]
}

/// Files of a directory that have certificates in them; keys and all else are none of ours.
fn look_into(dir: &Path) -> Vec<Found> {
    let failed = |error: String| Found {
        place: dir.display().to_string(),
        tls: None,
        certificates: Vec::new(),
        error: Some(error),
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return vec![failed(format!("cannot be read: {error}"))],
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).take(MOST_FILES).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let Ok(bytes) = read_regular(path) else { continue };
        if bytes.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
            let place = path.display().to_string();
            found.push(match chain_of(path) {
                Ok(certificates) => Found { place, tls: None, certificates, error: None },
                Err(failure) => {
                    Found { place, tls: None, certificates: Vec::new(), error: Some(super::chain(&failure.error)) }
                }
            });
        }
    }
    if found.is_empty() {
        found.push(failed("no file in it holds a certificate (PEM)".to_owned()));
    }
    found
}

fn dial(what: &str, limit: Duration) -> anyhow::Result<Shown> {
    let addresses: Vec<SocketAddr> =
        what.to_socket_addrs().with_context(|| format!("{what:?} is neither a file nor HOST:PORT"))?.collect();
    let host = what.rsplit_once(':').map_or(what, |(host, _)| host);
    // An address is no name that SNI could carry.
    let name = ServerName::try_from(host.to_owned()).ok().filter(|name| matches!(name, ServerName::DnsName(_)));
    let mut last = anyhow!("{what:?} has no address");
    for address in addresses {
        match inspect::shown_by(address, name.clone(), limit) {
            Ok(shown) => return Ok(shown),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// One paragraph a certificate.
fn describe(chain: &[CertificateFacts], now: OffsetDateTime) -> String {
    let mut text = String::new();
    for certificate in chain {
        let CertificateFacts { subject, issuer, serial, not_before, not_after, subject_alt_names, key, .. } =
            certificate;
        let names = if subject_alt_names.is_empty() { "none".to_owned() } else { subject_alt_names.join(", ") };
        let when = if now > *not_after {
            "EXPIRED".to_owned()
        } else if now < *not_before {
            "NOT YET VALID".to_owned()
        } else {
            format!("{} days left", (*not_after - now).whole_days())
        };
        let lines = [
            format!("subject {subject}"),
            format!("names   {names}"),
            format!("issuer  {issuer}, serial {serial}"),
            format!("valid   {} to {}, {when}", timestamp(*not_before), timestamp(*not_after)),
            format!("key     {key}"),
        ];
        for line in lines {
            let _ = writeln!(text, "  {}", plain(&line));
        }
        for line in uses(certificate) {
            let _ = writeln!(text, "  {}", plain(&line));
        }
        text.push('\n');
    }
    text
}

/// What it would be allowed to do.
fn uses(certificate: &CertificateFacts) -> Vec<String> {
    if certificate.is_ca {
        return vec!["may     sign certificates: a root or an intermediate, for ca.crt or behind a leaf".to_owned()];
    }
    if let Some(why) = certificate.unfit_as_leaf() {
        return vec![format!("may     do nothing here: {why}")];
    }
    if certificate.identity.is_ambiguous() {
        return vec!["may     do nothing here: it has several SPIFFE IDs, or one beside other URIs".to_owned()];
    }
    let mut lines = Vec::new();
    let roles = match certificate.usages.as_slice() {
        [] => "be a server and a client".to_owned(),
        ["other"] => "be neither server nor client: no sidecar takes it".to_owned(),
        usages => format!("be a {}; a sidecar takes it in both roles, native TLS may not", usages.join(" and a ")),
    };
    let roles = if certificate.usages.len() == 2 { "be a server and a client".to_owned() } else { roles };
    lines.push(format!("may     {roles}"));
    let by = Allow::same_as(&certificate.identity);
    lines.push(match by.is_empty() {
        true => "sidecar lets nobody in by default: it has no SPIFFE ID and no DNS name; --allow ca would".to_owned(),
        false => format!("sidecar of the same identity lets it in; others with --allow {}", allowed_text(&by)),
    });
    let obstacles = native(certificate).obstacles();
    lines.push(match obstacles.is_empty() {
        true => "native  RotatingKeys of Pekko and Akka, if all nodes share a name of it".to_owned(),
        false => format!("native  no TLS of Akka's or Pekko's own: {}", obstacles.join("; ")),
    });
    lines
}

/// As nodes with TLS of their own see it.
fn native(certificate: &CertificateFacts) -> native::Shown {
    let CertificateFacts { key, subject, identity, usages, .. } = certificate;
    let names = identity.dns_names.iter().map(String::as_str);
    native::Shown::new(key, native::common_name(subject), names, usages.iter().copied())
}
