//! Credentials that follow their files, or whoever supplies them.
//!
//! Invariant: what the receivers see was checked as a whole; a fault at the source changes nothing but [`ReloadState`].

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::core::identity::Allow;
use crate::core::sidecar::{TlsFiles, TlsVersion};
use crate::tls::certificate::timestamp;
use crate::tls::credentials::{CredentialError, Credentials};
use crate::tls::files::{Bundles, Material};
use crate::tls::origin::{Found, Origin, Supplied};
use crate::tls::revocation::read_revocations;

/// A kubelet brings a changed secret within a minute or so; a second more does not matter, and reading three small
/// files a second costs nothing.
const PERIOD: Duration = Duration::from_secs(1);
const MOST_FORMER: usize = 8;

/// How the reloads went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReloadState {
    /// Times that new files were taken.
    pub succeeded: u64,
    /// Times that new files were refused.
    pub failed: u64,
    /// What is wrong with the files on disk, or with whoever supplies credentials, while the last good ones serve.
    pub fault: Option<String>,
    /// When the credentials in use were taken.
    pub loaded_at: Option<String>,
}

/// What credentials have to serve for.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Who may connect; empty for whoever has our own identity.
    pub allow: Vec<Allow>,
    /// The oldest version of TLS that peers may speak.
    pub min_version: TlsVersion,
    /// How long roots that are replaced go on counting.
    pub overlap: Duration,
}

/// Credentials that follow their files, or whoever supplies them.
pub struct Reloader {
    origin: Origin,
    terms: Terms,
    /// What is at the source, as far as it was usable.
    latest: Option<[u64; 2]>,
    hasher: RandomState,
    /// The last usable revocation lists, of whoever supplies them and of the file, and what was last tried of them.
    lists: [Vec<u8>; 2],
    tried: Option<u64>,
    /// What the parts of the last set are called.
    names: TlsFiles,
    past: Past,
    /// When what is in use has to be looked at again though the files are the same: a root that has ended vouches for
    /// nobody.
    look_again: Option<OffsetDateTime>,
    current: watch::Sender<Option<Arc<Credentials>>>,
    state: Arc<Mutex<ReloadState>>,
}

impl Reloader {
    /// Loads the files for the first time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn start(files: TlsFiles, terms: Terms) -> Result<Self, CredentialError> {
        let mut reloader = Self::new(Origin::Files(files), terms);
        let now = OffsetDateTime::now_utc();
        if let Some(taken) = reloader.take(now)? {
            reloader.show(taken, now, "credentials loaded");
        }
        Ok(reloader)
    }

    /// Waits for what will be supplied.
    #[must_use]
    pub fn follow(supplied: Supplied, terms: Terms) -> Self {
        Self::new(Origin::Supplied(supplied), terms)
    }

    fn new(origin: Origin, terms: Terms) -> Self {
        Self {
            origin,
            latest: None,
            hasher: RandomState::new(),
            lists: Default::default(),
            tried: None,
            names: TlsFiles::default(),
            past: Past::new(terms.overlap),
            terms,
            look_again: None,
            current: watch::Sender::default(),
            state: Arc::default(),
        }
    }

    /// Sees every change; `None` as long as nothing usable was supplied.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.current.subscribe()
    }

    /// How the reloads go.
    #[must_use]
    pub fn state(&self) -> Arc<Mutex<ReloadState>> {
        Arc::clone(&self.state)
    }

    /// Looks at the source every second, and whenever something is supplied, until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
                () = self.origin.changed() => {}
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
        let mut is_new = false;
        let unusable = match self.take(now) {
            Ok(None) => None,
            Ok(Some(taken)) => {
                is_new = true;
                let message = match self.current.borrow().is_some() {
                    true => "credentials reloaded; new connections use them, old ones live on",
                    false => "credentials loaded",
                };
                self.show(taken, now, message);
                None
            }
            Err(fault) => {
                self.end_overlap_alone(now);
                self.end_roots_alone(now);
                self.revoke_alone(now);
                Some(fault.to_string())
            }
        };
        // That nothing newer comes is newer than what is wrong with what came.
        let fault = self.origin.fault().or(unusable);
        let Ok(mut state) = self.state.lock() else { return };
        if state.fault == fault {
            return;
        }
        let (is_supplied, has_any) = (self.origin.is_supplied(), self.current.borrow().is_some());
        match &fault {
            None if is_new => {}
            None => tracing::info!("the credentials at their source are again the ones in use"),
            Some(fault) => {
                state.failed += 1;
                match (is_supplied, has_any) {
                    (false, _) => {
                        tracing::warn!(%fault, "credentials on disk are not usable; the last good ones stay in use");
                    }
                    (true, true) => tracing::warn!(%fault, "no new credentials; the last good ones stay in use"),
                    (true, false) => tracing::warn!(%fault, "no credentials yet, so no connection is made with TLS"),
                }
            }
        }
        state.fault = fault;
    }

    /// What is at the source, checked; `None` if it is what is in use, or nothing yet.
    fn take(&self, now: OffsetDateTime) -> Result<Option<Taken>, CredentialError> {
        let bundles = if self.current.borrow().is_some() { Bundles::Wanted } else { Bundles::Needed };
        let Some((set, names)): Option<Found> = self.origin.read(bundles)? else { return Ok(None) };
        let fingerprint = set.fingerprint(&self.hasher);
        if self.latest == Some(fingerprint) && self.look_again.is_none_or(|at| now <= at) {
            return Ok(None);
        }
        let Terms { allow, min_version, .. } = &self.terms;
        let check = |set: &Material| Credentials::check(set, &names, allow, *min_version, now);
        let mut past = self.past.clone();
        past.turn(set, now);
        // What is not shown yet has to be good already.
        let latest = check(&past.material(None))?;
        let shown = past.pair.as_ref().map(|pair| check(&past.material(Some(pair))));
        let credentials = match shown {
            Some(Ok(earlier)) => {
                tracing::info!(
                    until = timestamp(earlier.leaf.not_after.min(now + self.terms.overlap / 2)),
                    "the former certificate is still shown: peers may not trust the new one's issuer yet"
                );
                earlier
            }
            Some(Err(_)) | None => {
                past.pair = None;
                latest
            }
        };
        Ok(Some(Taken { fingerprint, past, credentials, names }))
    }

    /// Applies new revocation lists to what is in use although the rest of the set has a fault: who lost trust is shut out
    /// whatever becomes of our own certificate. What cannot be had now, or is no list, stays as it was.
    fn revoke_alone(&mut self, now: OffsetDateTime) {
        let Some(current) = self.current.borrow().clone() else { return };
        self.note_lists();
        let pem = self.lists.concat();
        let fingerprint = self.hasher.hash_one(&pem);
        if self.tried.replace(fingerprint) == Some(fingerprint) {
            return;
        }
        match current.with_revocations(&pem, &self.origin.lists().1, now) {
            Ok(credentials) => {
                self.put(credentials, "revocation lists reloaded; the rest of the credentials has a fault")
            }
            Err(fault) => tracing::warn!(%fault, "new revocation lists are not usable"),
        }
    }

    fn note_lists(&mut self) {
        let (read, path) = self.origin.lists();
        for (known, read) in self.lists.iter_mut().zip(read) {
            *known = match read {
                Some(read) if read.is_empty() || read_revocations(&read, &path).is_ok() => read,
                _ => std::mem::take(known),
            };
        }
    }

    /// Puts something in the place of what is in use that is not what lies at the source: once that has no fault it is taken
    /// anew.
    fn put(&mut self, credentials: Credentials, message: &str) {
        log_taken(&credentials, message);
        self.latest = None;
        self.current.send_replace(Some(Arc::new(credentials)));
    }

    /// Shows the certificate that was held back once its time has come, although nothing usable has come since.
    fn end_overlap_alone(&mut self, now: OffsetDateTime) {
        if self.past.pair.as_ref().is_none_or(|pair| now < pair.until) {
            return;
        }
        self.past.end(now);
        let Terms { allow, min_version, .. } = &self.terms;
        match Credentials::check(&self.past.material(None), &self.names, allow, *min_version, now) {
            Ok(credentials) => self.put(credentials, "the latest certificate that was good is shown from now on"),
            Err(fault) => tracing::warn!(%fault, "the former certificate is still shown"),
        }
    }

    /// Does without the roots that have ended although nothing usable has come in their place.
    fn end_roots_alone(&self, now: OffsetDateTime) {
        let living = self.current.borrow().as_ref().and_then(|current| current.without_ended_roots(now));
        if let Some(living) = living {
            log_taken(
                &living,
                "roots have ended, and vouch for nobody any more; nothing usable has come in their place",
            );
            self.current.send_replace(Some(Arc::new(living)));
        }
    }

    fn show(&mut self, taken: Taken, now: OffsetDateTime, message: &str) {
        let Taken { fingerprint, past, credentials, names } = taken;
        self.names = names;
        self.note_lists();
        log_taken(&credentials, message);
        if let Ok(mut state) = self.state.lock() {
            // The first ones are no reload.
            state.succeeded += u64::from(self.current.borrow().is_some());
            state.loaded_at = Some(timestamp(now));
        }
        self.latest = Some(fingerprint);
        let leaf_end = past.pair.is_some().then_some(credentials.leaf.not_after);
        self.tried = Some(self.hasher.hash_one(self.lists.concat()));
        self.look_again = [first_end(&credentials), past.first_end(), leaf_end].into_iter().flatten().min();
        self.past = past;
        if self.terms.overlap.is_zero() {
            self.past.latest = None;
        }
        self.current.send_replace(Some(Arc::new(credentials)));
    }
}

/// What is to be shown, and what is remembered of it.
struct Taken {
    fingerprint: [u64; 2],
    past: Past,
    credentials: Credentials,
    names: TlsFiles,
}

/// What was replaced and still counts, beside what has taken its place. Empty without an overlap: then nothing is kept.
#[derive(Clone)]
struct Past {
    overlap: Duration,
    latest: Option<Material>,
    /// The latest roots, of all trust domains, and those before them.
    anchors: Vec<u8>,
    retired: Vec<Vec<u8>>,
    roots: Vec<(Vec<u8>, OffsetDateTime)>,
    /// The pair that is still shown: peers may not know yet who has signed the new one.
    pair: Option<Pair>,
}

#[derive(Clone)]
struct Pair {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    until: OffsetDateTime,
}

impl Past {
    const fn new(overlap: Duration) -> Self {
        Self { overlap, latest: None, anchors: Vec::new(), retired: Vec::new(), roots: Vec::new(), pair: None }
    }

    /// Takes what is new.
    fn turn(&mut self, set: Material, now: OffsetDateTime) {
        self.end(now);
        self.retire(set.anchors());
        let (ca, certificate) = (set.ca.clone(), set.certificate.clone());
        let Some(latest) = self.latest.replace(set) else { return };
        if latest.ca == ca || self.overlap.is_zero() {
            return;
        }
        if latest.certificate != certificate && self.pair.is_none() {
            let Material { certificate, key, .. } = latest;
            self.pair = Some(Pair { certificate, key, until: now + self.overlap / 2 });
        }
        self.roots.push((latest.ca, now + self.overlap));
        // Whoever changes them so often has to do without the oldest.
        if self.roots.len() > MOST_FORMER {
            self.roots.remove(0);
        }
    }

    fn retire(&mut self, anchors: Vec<u8>) {
        if self.anchors == anchors {
            return;
        }
        let former = std::mem::replace(&mut self.anchors, anchors);
        self.retired.retain(|known| *known != former);
        self.retired.push(former);
        if self.retired.len() > MOST_FORMER {
            self.retired.remove(0);
        }
    }

    fn material(&self, pair: Option<&Pair>) -> Material {
        let mut material = self.latest.clone().unwrap_or_default();
        material.retired.clone_from(&self.retired);
        material.former.clone_from(&self.roots);
        if let Some(Pair { certificate, key, .. }) = pair {
            (material.certificate, material.key) = (certificate.clone(), key.clone());
        }
        material
    }

    /// Lets go of what has had its time.
    fn end(&mut self, now: OffsetDateTime) {
        self.roots.retain(|(_, until)| now < *until);
        self.pair.take_if(|pair| now >= pair.until);
    }

    fn first_end(&self) -> Option<OffsetDateTime> {
        self.roots.iter().map(|(_, until)| *until).chain(self.pair.as_ref().map(|pair| pair.until)).min()
    }
}

fn first_end(credentials: &Credentials) -> Option<OffsetDateTime> {
    credentials.roots.iter().map(|root| root.not_after).chain(credentials.next_root).min()
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

#[cfg(test)]
mod tests;
