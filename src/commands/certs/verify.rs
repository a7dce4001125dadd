//! `bypassctl certs verify`: what `proxy` would check, of files or of whoever it would ask.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::cli::{CertsVerifyArgs, OutputFormat};
use crate::commands::certs::{ders_of, describe, native};
use crate::commands::proxy::tls_source;
use crate::commands::{Failure, Outcome, print};
use crate::core::identity::Allow;
use crate::core::policy::allowed_text;
use crate::core::report::plain;
use crate::core::sidecar::TlsFiles;
use crate::core::source::{Asked, Issuer, TlsSource};
use crate::sources::Source;
use crate::tls::{CertificateFacts, Credentials, Reloader, Terms};

const PERIOD: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize)]
struct Verdict {
    peer: String,
    identity: String,
    admitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What keeps the two apart if one of them is a node with TLS of its own.
    native_obstacles: Vec<String>,
}

pub(super) fn run(args: &CertsVerifyArgs) -> Result<Outcome, Failure> {
    let allow = args.allow.iter().map(|text| text.trim().parse()).collect::<Result<Vec<Allow>, _>>();
    let allow = allow.map_err(|error| Failure::usage(anyhow::Error::from(error).context("--allow")))?;
    let now = OffsetDateTime::now_utc();
    let source = tls_source(&args.tls, args.source.clone()).map_err(Failure::usage)?;
    let credentials = match &source {
        TlsSource::Files(files) => Credentials::load(files, &allow, now).map(Arc::new).map_err(Failure::not_well),
        TlsSource::Asked(asked) => ask(asked.clone(), allow, Duration::from_secs(args.wait)),
    };
    let credentials = match credentials {
        Err(failure) if args.output == OutputFormat::Json && failure.is_not_well() => {
            let answer =
                serde_json::json!({"source": source.to_string(), "fault": super::super::chain(&failure.error)});
            print(&format!("{answer:#}\n"))?;
            return Err(failure);
        }
        credentials => credentials?,
    };
    let mut verdicts = Vec::new();
    for path in &args.peer {
        let chain = ders_of(path)?;
        let admitted = credentials.admit(&chain, now);
        let facts = CertificateFacts::of(&chain[0]);
        let native_obstacles = facts.as_ref().map_or_else(|_| Vec::new(), |peer| apart(&credentials.leaf, peer));
        verdicts.push(Verdict {
            peer: path.display().to_string(),
            identity: facts.map_or_else(|error| format!("malformed: {error}"), |facts| facts.identity.to_string()),
            admitted: admitted.is_ok(),
            reason: admitted.err().map(|error| why(&error)),
            native_obstacles,
        });
    }
    let warnings: Vec<String> = credentials.warnings.iter().cloned().chain(exposed_key(&source)).collect();
    match args.output {
        OutputFormat::Json => {
            let Credentials { chain, roots, allowed, revocations, .. } = &*credentials;
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let answer = serde_json::json!({
                "source": source.to_string(), "chain": chain, "roots": roots, "allowed": allowed,
                "revocations": revocations, "warnings": warnings, "peers": verdicts,
            });
            print(&format!("{answer:#}\n"))?;
        }
        OutputFormat::Text => print(&text(&source, &credentials, &warnings, &verdicts, now))?,
    }
    let is_well = verdicts.iter().all(|verdict| verdict.admitted);
    Ok(if is_well { Outcome::Done } else { Outcome::NotWell })
}

/// On a disk that others reach. In a pod a Secret's files are its containers' alone, whatever their mode.
fn exposed_key(source: &TlsSource) -> Option<String> {
    let TlsSource::Files(TlsFiles { key, .. }) = source else { return None };
    let mode = std::fs::metadata(key).ok()?.mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        format!("private key {} may be read by every user of this machine (mode {mode:04o}): chmod 0600", key.display())
    })
}

/// Asks as `proxy` does, until there are usable credentials. An approver may take its time; what else is wrong is told at once.
fn ask(asked: Asked, allow: Vec<Allow>, wait: Duration) -> Result<Arc<Credentials>, Failure> {
    let is_patient = matches!(asked.issuer, Issuer::Csr(_));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (source, supplied) = Source::new(asked);
    let who = supplied.from.clone();
    let reloader = Reloader::follow(supplied, Terms { allow, ..Terms::default() });
    let (mut current, state) = (reloader.subscribe(), reloader.state());
    let answer = runtime.block_on(async {
        tokio::spawn(source.run());
        tokio::spawn(reloader.run(CancellationToken::new()));
        let end = tokio::time::Instant::now() + wait;
        loop {
            if let Some(credentials) = current.borrow_and_update().clone() {
                return Ok(credentials);
            }
            let fault = state.lock().unwrap_or_else(PoisonError::into_inner).fault.clone();
            let is_late = tokio::time::Instant::now() >= end;
            match fault {
                Some(fault) if is_late || !is_patient => return Err(anyhow!(fault).context("no credentials")),
                None if is_late => {
                    return Err(anyhow!(
                        "no credentials: {who} has not answered within the {} s of --wait",
                        wait.as_secs()
                    ));
                }
                _ => tokio::time::sleep(PERIOD).await,
            }
        }
    });
    // What still runs has nothing to finish.
    runtime.shutdown_background();
    answer.map_err(Failure::not_well)
}

/// What keeps the two apart if one of them is a node with TLS of its own.
fn apart(own: &CertificateFacts, peer: &CertificateFacts) -> Vec<String> {
    let (own, peer) = (native(own), native(peer));
    let named = |who: &'static str, obstacles: Vec<String>| {
        obstacles.into_iter().map(move |obstacle| format!("{who}: {obstacle}")).collect::<Vec<_>>()
    };
    [named("ours", own.obstacles()), named("theirs", peer.obstacles()), own.no_shared_name(&peer).into_iter().collect()]
        .concat()
}

fn why(error: &rustls::Error) -> String {
    let denial = crate::tls::denial(error).map(ToString::to_string);
    denial.or(crate::tls::distrust(error).map(ToString::to_string)).unwrap_or_else(|| error.to_string())
}

fn text(
    source: &TlsSource,
    credentials: &Credentials,
    warnings: &[String],
    verdicts: &[Verdict],
    now: OffsetDateTime,
) -> String {
    let mut text = match source {
        TlsSource::Files(_) => String::new(),
        TlsSource::Asked(_) => format!("{}\n", plain(&source.to_string())),
    };
    text += &describe(&credentials.chain[..1], now);
    let _ = writeln!(text, "The key fits, and the chain leads to one of {} roots.", credentials.roots.len());
    let _ = writeln!(text, "Let in: {}", plain(&allowed_text(&credentials.allowed)));
    for list in &credentials.revocations {
        let _ = writeln!(text, "Revoked by {}: {}", plain(&list.issuer), list.revoked);
    }
    for warning in warnings {
        let _ = writeln!(text, "warning: {}", plain(warning));
    }
    for Verdict { peer, identity, reason, native_obstacles, .. } in verdicts {
        let verdict = reason.as_ref().map_or("let in".to_owned(), |reason| format!("refused: {reason}"));
        let _ = writeln!(text, "{}", plain(&format!("{peer} ({identity}): {verdict}")));
        let native = match native_obstacles.as_slice() {
            [] => "the two may talk".to_owned(),
            obstacles => format!("the two cannot talk: {}", obstacles.join("; ")),
        };
        let _ =
            writeln!(text, "  {}", plain(&format!("if one is a node with RotatingKeysSSLEngineProvider: {native}")));
    }
    text
}
