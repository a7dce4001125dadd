//! Whether the sidecar is ready, and why not.
//!
//! Permissive mode past its day is a note and not a failure: a pod that is not ready leaves its Service and stops a
//! rolling update, so a date would take down a cluster that works. Log, metric and note say it instead.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use crate::core::route::TlsMode;
use crate::proxy::Sidecar;
use crate::proxy::faults::seconds_left;
use crate::tls::{ReloadState, timestamp};

/// How often an overdue permissive mode is logged.
const REMINDER: Duration = Duration::from_secs(3600);

/// Whether the sidecar is ready.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// Why not.
    pub(super) reasons: Vec<String>,
    /// What somebody should know although it is ready.
    pub(super) notes: Vec<String>,
}

impl Readiness {
    /// One line a reason and a note.
    pub(super) fn text(&self) -> String {
        let mut text = String::from(if self.ready { "ready\n" } else { "not ready\n" });
        for reason in &self.reasons {
            text.push_str(&format!("reason: {reason}\n"));
        }
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        text
    }
}

impl Sidecar {
    /// Whether the sidecar is ready. That the listeners are up needs no question: nothing runs before they are bound.
    pub(super) fn readiness(&self, now: OffsetDateTime) -> Readiness {
        let mut reasons = Vec::new();
        let mut notes = Vec::new();
        if self.lifecycle.drain.is_cancelled() {
            reasons.push("the sidecar is stopping".to_owned());
        }
        if let Some(credentials) = self.credentials()
            && !credentials.is_valid_at(now)
        {
            let leaf = &credentials.leaf;
            reasons.push(if now < leaf.not_before {
                format!("our certificate is not valid before {}, or the clock is wrong", timestamp(leaf.not_before))
            } else {
                format!("our certificate is not valid: it expired at {}", timestamp(leaf.not_after))
            });
        }
        let is_waiting = self.credentials.is_some() && self.credentials().is_none();
        let fault = self.reload_state().and_then(|state| state.fault);
        if is_waiting {
            let fault = fault.as_deref().unwrap_or("whoever is asked for them has not answered yet");
            reasons.push(format!("no credentials yet, so no connection is made with TLS: {fault}"));
        }
        reasons.extend(self.canary.fault());
        let strays = self.strays.fault();
        if self.config.mode == TlsMode::Strict {
            reasons.extend(strays);
        } else {
            notes.extend(strays);
        }
        if let Some(rules) = self.rules() {
            reasons.extend(rules.faults.into_iter().map(|fault| format!("rules: {fault}")));
            notes.extend(rules.notes.into_iter().map(|note| format!("rules: {note}")));
        }
        if let Some(fault) = fault.filter(|_| !is_waiting) {
            notes.push(format!("new credentials are not usable, the last good ones serve: {fault}"));
        }
        if let Some(directory) = &self.directory {
            let directory = directory.borrow();
            reasons.extend(directory.lacks().map(|lack| format!("--peer-address pod lets nobody in: {lack}")));
            notes.extend(directory.doubts());
        }
        for fault in self.faults.active() {
            notes.push(format!("fault injection, for {} s more: it {fault}", seconds_left(&fault)));
        }
        if self.config.mode == TlsMode::Disabled {
            notes.push("mode disabled: remoting goes in plaintext".to_owned());
        }
        if self.config.is_permissive_overdue(now) {
            notes.push("permissive mode has outlived --permissive-until: go on to --mode strict".to_owned());
        }
        Readiness { ready: reasons.is_empty(), reasons, notes }
    }

    /// How the reloads of the credentials go; `None` without TLS.
    pub(super) fn reload_state(&self) -> Option<ReloadState> {
        self.reloads.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Logs changes of readiness, and an overdue permissive mode once an hour.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let mut before = None;
    let mut reminded: Option<std::time::Instant> = None;
    loop {
        // First of all, so that the canary has had its first answer.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = OffsetDateTime::now_utc();
        let readiness = sidecar.readiness(now);
        if before.as_ref() != Some(&readiness.reasons) {
            if readiness.ready {
                tracing::info!("ready");
            } else {
                tracing::warn!(reasons = readiness.reasons.join("; "), "not ready");
            }
            before = Some(readiness.reasons);
        }
        if sidecar.config.is_permissive_overdue(now) && reminded.is_none_or(|at| at.elapsed() >= REMINDER) {
            let until = sidecar.config.permissive_until.map(tracing::field::display);
            tracing::warn!(until, "permissive mode has outlived its day: go on to --mode strict");
            reminded = Some(std::time::Instant::now());
        }
    }
}
