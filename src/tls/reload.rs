//! Credentials that follow their files.
//!
//! Invariant: what the receivers see was checked as a whole; a fault on disk changes nothing but [`ReloadState`].

use std::hash::RandomState;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::core::identity::Allow;
use crate::core::sidecar::{TlsFiles, TlsVersion};
use crate::tls::certificate::timestamp;
use crate::tls::credentials::{CredentialError, Credentials};
use crate::tls::files;

/// A kubelet brings a changed secret within a minute or so; a second more does not matter, and reading three small
/// files a second costs nothing.
const PERIOD: Duration = Duration::from_secs(1);

/// How the reloads went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReloadState {
    /// Times that new files were taken.
    pub succeeded: u64,
    /// Times that new files were refused.
    pub failed: u64,
    /// What is wrong with the files on disk now, while the last good ones serve.
    pub fault: Option<String>,
    /// When the credentials in use were taken.
    pub loaded_at: Option<String>,
}

/// Credentials that follow their files.
pub struct Reloader {
    files: TlsFiles,
    allow: Vec<Allow>,
    min_version: TlsVersion,
    in_use: [u64; 2],
    hasher: RandomState,
    /// When the first of the roots in use ends: then they are looked at again, for a root that has ended vouches for nobody.
    roots_end: Option<OffsetDateTime>,
    current: watch::Sender<Arc<Credentials>>,
    state: Arc<Mutex<ReloadState>>,
}

impl Reloader {
    /// Loads the files for the first time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn start(files: TlsFiles, allow: Vec<Allow>, min_version: TlsVersion) -> Result<Self, CredentialError> {
        let set = files::read(&files)?;
        let now = OffsetDateTime::now_utc();
        let credentials = Arc::new(Credentials::check(&set, &files, &allow, min_version, now)?);
        let state = ReloadState { loaded_at: Some(timestamp(now)), ..ReloadState::default() };
        log_taken(&credentials, "credentials loaded");
        let (hasher, roots_end) = (RandomState::new(), first_end(&credentials));
        let in_use = set.fingerprint(&hasher);
        let (current, state) = (watch::Sender::new(credentials), Arc::new(Mutex::new(state)));
        Ok(Self { files, allow, min_version, in_use, hasher, roots_end, current, state })
    }

    /// Sees every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.current.subscribe()
    }

    /// How the reloads go.
    #[must_use]
    pub fn state(&self) -> Arc<Mutex<ReloadState>> {
        Arc::clone(&self.state)
    }

    /// Looks at the files every second until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            // A mount that hangs must hang neither a handshake nor the admin port.
            let Ok(next) = tokio::task::spawn_blocking(move || {
                self.look();
                self
            })
            .await
            else {
                tracing::error!("reading the credentials failed in an unexpected way; they are not followed any more");
                return;
            };
            self = next;
        }
    }

    fn look(&mut self) {
        let now = OffsetDateTime::now_utc();
        let checked = files::read(&self.files).and_then(|set| {
            let fingerprint = set.fingerprint(&self.hasher);
            if self.in_use == fingerprint && self.roots_end.is_none_or(|end| now <= end) {
                return Ok(None);
            }
            Credentials::check(&set, &self.files, &self.allow, self.min_version, now)
                .map(|credentials| Some((fingerprint, credentials)))
        });
        let Ok(mut state) = self.state.lock() else { return };
        match checked {
            Ok(None) => {
                if state.fault.take().is_some() {
                    tracing::info!("the credentials on disk are again the ones in use");
                }
            }
            Ok(Some((fingerprint, credentials))) => {
                state.succeeded += 1;
                state.fault = None;
                state.loaded_at = Some(timestamp(now));
                log_taken(&credentials, "credentials reloaded; new connections use them, old ones live on");
                self.in_use = fingerprint;
                self.roots_end = first_end(&credentials);
                self.current.send_replace(Arc::new(credentials));
            }
            Err(fault) => {
                let fault = fault.to_string();
                if state.fault.as_ref() != Some(&fault) {
                    state.failed += 1;
                    tracing::warn!(%fault, "credentials on disk are not usable; the last good ones stay in use");
                    state.fault = Some(fault);
                }
            }
        }
    }
}

fn first_end(credentials: &Credentials) -> Option<OffsetDateTime> {
    credentials.roots.iter().map(|root| root.not_after).min()
}

fn log_taken(credentials: &Credentials, message: &str) {
    for warning in &credentials.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        identity = %credentials.leaf.identity,
        serial = %credentials.leaf.serial,
        not_after = %timestamp(credentials.leaf.not_after),
        roots = credentials.roots.len(),
        "{message}"
    );
}
