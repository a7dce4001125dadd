//! Where a [`Reloader`](crate::tls::Reloader) looks for credentials: at files, or at what somebody has supplied.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::core::identity::TrustDomain;
use crate::core::sidecar::TlsFiles;
use crate::tls::credentials::CredentialError;
use crate::tls::files::{self, Bundles, Material};

/// The last that somebody has supplied, and what keeps them from supplying more.
#[derive(Clone, Default)]
pub struct Supply {
    /// The last.
    pub material: Option<Arc<Material>>,
    /// What is wrong; always in the same words for the same thing.
    pub fault: Option<String>,
}

/// Credentials that come through a channel, and files that count beside them.
#[derive(Clone, Debug)]
pub struct Supplied {
    /// What comes.
    pub supply: watch::Receiver<Supply>,
    /// Who supplies, in messages.
    pub from: String,
    /// Roots, PEM; `None` if they are supplied too.
    pub ca: Option<PathBuf>,
    /// More roots for the SPIFFE IDs of other trust domains, PEM.
    pub federated: Vec<(TrustDomain, PathBuf)>,
    /// More certificate revocation lists, PEM.
    pub revoked: Option<PathBuf>,
}

impl std::fmt::Debug for Supply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supply").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// Where to look.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Files(TlsFiles),
    Supplied(Supplied),
}

/// What was found, and what its parts are called in messages.
pub(super) type Found = (Material, TlsFiles);

impl Origin {
    /// `None` as long as nothing was ever supplied.
    pub(super) fn read(&self, bundles: Bundles) -> Result<Option<Found>, CredentialError> {
        match self {
            Self::Files(files) => Ok(Some((files::read(files, bundles)?, files.clone()))),
            Self::Supplied(supplied) => supplied.read(bundles),
        }
    }

    /// Why nothing new comes.
    pub(super) fn fault(&self) -> Option<String> {
        let Self::Supplied(Supplied { supply, from, .. }) = self else { return None };
        if supply.has_changed().is_err() {
            return Some(format!("nobody asks {from} any more: the task that did has died"));
        }
        supply.borrow().fault.clone()
    }

    /// Returns when it is worth looking before it is time.
    pub(super) async fn changed(&mut self) {
        if let Self::Supplied(Supplied { supply, .. }) = self
            && supply.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Revocation lists, of whoever supplies them and of the file; `None` where there is none, or it cannot be read now. And
    /// what they are called in messages.
    pub(super) fn lists(&self) -> ([Option<Vec<u8>>; 2], PathBuf) {
        let read = |path: &Path| files::read_regular(path).ok();
        match self {
            Self::Files(TlsFiles { revoked, .. }) => {
                ([None, revoked.as_deref().and_then(read)], revoked.clone().unwrap_or_default())
            }
            Self::Supplied(Supplied { supply, from, revoked, .. }) => {
                let supplied = supply.borrow().material.as_ref().map(|material| material.revoked.clone());
                ([supplied, revoked.as_deref().and_then(read)], revoked.clone().unwrap_or_else(|| from.into()))
            }
        }
    }

    pub(super) const fn is_supplied(&self) -> bool {
        matches!(self, Self::Supplied(_))
    }
}

impl Supplied {
    fn read(&self, bundles: Bundles) -> Result<Option<Found>, CredentialError> {
        let Some(material) = self.supply.borrow().material.clone() else { return Ok(None) };
        let mut set = Material::clone(&material);
        let label = PathBuf::from(&self.from);
        let mut names = TlsFiles::three(label.clone(), label.clone(), self.ca.clone().unwrap_or_else(|| label.clone()));
        names.federated = set.federated.iter().map(|(domain, _)| (domain.clone(), label.clone())).collect();
        names.federated.extend(self.federated.iter().cloned());
        names.revoked = self.revoked.clone().or_else(|| (!set.revoked.is_empty()).then_some(label));

        let files = TlsFiles { federated: self.federated.clone(), revoked: self.revoked.clone(), ..names.clone() };
        let beside = files::read_beside(&files, self.ca.is_some(), bundles)?;
        set.ca.extend(beside.ca);
        set.federated.extend(beside.federated);
        set.revoked.extend(beside.revoked);
        Ok(Some((set, names)))
    }
}
