//! What credentials are made of, and files of it, read as one set.
//!
//! Invariant: the files of a [`Material`] stood together on disk at one moment. Kubernetes changes a secret mount
//! by swapping one symlink (`..data`); whoever reads in between gets one file of the old set and one of the new.

use std::fs::OpenOptions;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::core::identity::TrustDomain;
use crate::core::sidecar::TlsFiles;
use crate::tls::CredentialError;

/// A secret that a writer changes as often as this is not readable at all.
const ATTEMPTS: usize = 5;
/// What a file of revocation lists is called in messages.
pub(super) const REVOKED: &str = "revocation list";
/// Far more than any bundle of roots: a mistaken path must not fill the memory.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What credentials are made of, as PEM; the key is wiped when it goes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// The chain, leaf first.
    pub certificate: Vec<u8>,
    /// The leaf's key.
    pub key: Zeroizing<Vec<u8>>,
    /// Roots that peers may lead to.
    pub ca: Vec<u8>,
    /// Roots of other trust domains.
    pub federated: Vec<(TrustDomain, Vec<u8>)>,
    /// Revocation lists; empty without any.
    pub revoked: Vec<u8>,
    /// Roots that were replaced and still count, until then; what is wrong with them is nobody's business any more.
    pub former: Vec<(Vec<u8>, OffsetDateTime)>,
    /// Roots that were replaced, of whatever trust domain: what they have revoked stays revoked.
    pub retired: Vec<Vec<u8>>,
}

impl Material {
    /// The roots of all trust domains, PEM.
    pub(super) fn anchors(&self) -> Vec<u8> {
        let others = self.federated.iter().flat_map(|(_, pem)| [b"\n".as_slice(), pem.as_slice()]);
        std::iter::once(self.ca.as_slice()).chain(others).collect::<Vec<_>>().concat()
    }

    /// Tells sets apart without keeping the key; the hasher's own keys are random, so nobody can aim at a collision.
    pub(super) fn fingerprint(&self, hasher: &RandomState) -> [u64; 2] {
        [0_u8, 1].map(|salt| {
            hasher.hash_one((salt, &self.certificate, &*self.key, &self.ca, &self.federated, &self.revoked))
        })
    }
}

/// Whether other trust domains' bundles have to be there. What somebody else hands over stops a start, and nothing later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bundles {
    Needed,
    Wanted,
}

/// Reads the files until two readings in a row agree.
pub(super) fn read(files: &TlsFiles, bundles: Bundles) -> Result<Material, CredentialError> {
    settled(files, |files| read_once(files, bundles))
}

/// The files that count beside what somebody has issued; certificate and key come from there, the roots too unless
/// `reads_ca`.
pub(super) fn read_beside(files: &TlsFiles, reads_ca: bool, bundles: Bundles) -> Result<Material, CredentialError> {
    settled(files, |files| {
        let ca = if reads_ca { read_file("CA", &files.ca)? } else { Vec::new() };
        Ok(Material {
            ca,
            federated: read_federated(files, bundles)?,
            revoked: read_revoked(files)?,
            ..Material::default()
        })
    })
}

fn settled(
    files: &TlsFiles,
    read_once: impl Fn(&TlsFiles) -> Result<Material, CredentialError>,
) -> Result<Material, CredentialError> {
    let mut last = read_once(files)?;
    for _ in 0..ATTEMPTS {
        let again = read_once(files)?;
        if again == last {
            return Ok(again);
        }
        last = again;
    }
    let source = io::Error::other("the files change while they are read");
    Err(CredentialError::Unreadable { what: "certificate", path: files.certificate.clone(), source })
}

fn read_once(files: &TlsFiles, bundles: Bundles) -> Result<Material, CredentialError> {
    Ok(Material {
        certificate: read_file("certificate", &files.certificate)?,
        key: Zeroizing::new(read_file("private key", &files.key)?),
        ca: read_file("CA", &files.ca)?,
        federated: read_federated(files, bundles)?,
        revoked: read_revoked(files)?,
        former: Vec::new(),
        retired: Vec::new(),
    })
}

/// One that cannot be read is empty then: nobody vouches for its domain.
fn read_federated(files: &TlsFiles, bundles: Bundles) -> Result<Vec<(TrustDomain, Vec<u8>)>, CredentialError> {
    let read = |path| match read_file("CA", path) {
        Err(_) if bundles == Bundles::Wanted => Ok(Vec::new()),
        read => read,
    };
    files.federated.iter().map(|(domain, path)| Ok((domain.clone(), read(path)?))).collect()
}

fn read_revoked(files: &TlsFiles) -> Result<Vec<u8>, CredentialError> {
    files.revoked.as_deref().map_or(Ok(Vec::new()), |path| read_file(REVOKED, path))
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, CredentialError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            CredentialError::Missing { what, path: path.to_owned() }
        }
        _ => CredentialError::Unreadable { what, path: path.to_owned(), source },
    };
    read_regular(path).map_err(failed)
}

/// Reads a file that is one: opening a FIFO would wait for its writer, for ever perhaps, and a device may have no end.
///
/// # Errors
/// The system's, or if it is larger than 4 MiB.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // Room for all of it, and for the read that finds the end: a buffer that grows leaves copies of a key behind.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or(0) + 64);
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}
