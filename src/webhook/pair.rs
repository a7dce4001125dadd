//! The certificate that is served, and where it comes from.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::core::sidecar::TlsFiles;
use crate::tls::{CredentialError, Serving, read_regular, timestamp};
use crate::webhook::own::Own;

/// A kubelet brings a changed secret within a minute or so.
const PERIOD: Duration = Duration::from_secs(2);

/// Where the certificate comes from.
pub enum Source {
    /// Files of somebody else's; the API server is told of their CA by somebody else, cert-manager for instance.
    Files(PathBuf),
    /// Made here, and told to the API server here.
    Own(Box<Own>),
}

/// What is served now.
#[derive(Debug)]
pub(super) struct Current {
    server: RwLock<Arc<ServerConfig>>,
    state: RwLock<State>,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) not_after: OffsetDateTime,
    /// Why the next one cannot be had, while this one serves.
    pub(super) fault: Option<String>,
}

impl Current {
    pub(super) fn new(serving: &Serving) -> Arc<Self> {
        let state = State { not_after: serving.leaf.not_after, fault: None };
        Arc::new(Self { server: RwLock::new(with_alpn(serving)), state: RwLock::new(state) })
    }

    /// For the next handshake.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, serving: &Serving) {
        tracing::info!(
            names = ?serving.leaf.subject_alt_names, not_after = %timestamp(serving.leaf.not_after),
            "another certificate serves now"
        );
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = with_alpn(serving);
        let state = State { not_after: serving.leaf.not_after, fault: None };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Says what is wrong once, not every time that it is looked at.
    pub(super) fn report(&self, fault: Option<String>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.fault == fault {
            return;
        }
        match &fault {
            Some(fault) => tracing::warn!(%fault, "the last good certificate stays in use"),
            None => tracing::info!("the certificate in use is again the right one"),
        }
        state.fault = fault;
    }
}

fn with_alpn(serving: &Serving) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&serving.server);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Certificate and key as they are on disk.
#[derive(PartialEq, Eq)]
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

pub(super) fn places(dir: &std::path::Path) -> TlsFiles {
    TlsFiles::three(dir.join("tls.crt"), dir.join("tls.key"), dir.join("ca.crt"))
}

/// Reads and checks the pair of a directory.
pub(super) fn load(places: &TlsFiles) -> Result<(Files, Serving), CredentialError> {
    let read = |what: &'static str, path: &PathBuf| {
        read_regular(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => CredentialError::Missing { what, path: path.clone() },
            _ => CredentialError::Unreadable { what, path: path.clone(), source },
        })
    };
    let files = Files {
        certificate: read("certificate", &places.certificate)?,
        key: Zeroizing::new(read("private key", &places.key)?),
    };
    let serving = Serving::check(&files.certificate, &files.key, places, OffsetDateTime::now_utc())?;
    Ok((files, serving))
}

/// Follows the files. A pair of which one file is already new and the other still old does not fit, and is looked at again.
pub(super) async fn follow(places: TlsFiles, mut in_use: Files, current: Arc<Current>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let asked = places.clone();
        match tokio::task::spawn_blocking(move || load(&asked)).await {
            Ok(Ok((files, _))) if files == in_use => current.report(None),
            Ok(Ok((files, serving))) => {
                current.replace(&serving);
                in_use = files;
            }
            Ok(Err(fault)) => current.report(Some(fault.to_string())),
            Err(panic) => current.report(Some(format!("reading it failed in an unexpected way: {panic}"))),
        }
    }
}
