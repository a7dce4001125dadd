//! A pod's network namespace, as a container runtime names it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};

/// `NSFS_MAGIC` (linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);

/// A network namespace that is held open: it stays for as long as this does, whoever else lets it go.
#[derive(Debug)]
pub struct PodNetns {
    file: File,
    path: PathBuf,
}

/// Why it is none that rules could be made in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No such file, or none that may be opened.
    #[error("the network namespace {} cannot be opened: {source}", path.display())]
    Open {
        /// As it was named.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another kind of file.
    #[error("{} is no namespace", .0.display())]
    NoNamespace(PathBuf),
    /// Rules there would be everybody's.
    #[error("{} is the node's own network namespace", .0.display())]
    Own(PathBuf),
    /// No privilege, or a namespace of another kind.
    #[error("the network namespace {} cannot be entered: {source}", path.display())]
    Enter {
        /// As it was named.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Gone while work was done in it.
    #[error("the network namespace {} has vanished meanwhile", .0.display())]
    Vanished(PathBuf),
}

impl PodNetns {
    /// Opens it, unless it is this process's own.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type() != NSFS {
            return Err(NetnsError::NoNamespace(path.to_owned()));
        }
        let (own, its) = (std::fs::metadata("/proc/self/ns/net").map_err(failed)?, file.metadata().map_err(failed)?);
        if (own.dev(), own.ino()) == (its.dev(), its.ino()) {
            return Err(NetnsError::Own(path.to_owned()));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Takes the calling thread into it, for good.
    ///
    /// # Errors
    /// [`NetnsError::Enter`].
    pub fn enter(&self) -> Result<(), NetnsError> {
        let failed = |errno: nix::Error| NetnsError::Enter { path: self.path.clone(), source: errno.into() };
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(failed)
    }

    /// Runs `work` on a thread inside of it.
    ///
    /// # Errors
    /// [`NetnsError::Enter`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().map(|()| work()));
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Device and inode, which tell it from every other one while it is held open.
    #[must_use]
    pub fn id(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// That it still goes by its name: whoever removed it has given the pod up.
    ///
    /// # Errors
    /// [`NetnsError::Vanished`].
    pub fn still_there(&self) -> Result<(), NetnsError> {
        let numbers = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let now = std::fs::metadata(&self.path).map(numbers);
        match (now, self.file.metadata().map(numbers)) {
            (Ok(now), Ok(then)) if now == then => Ok(()),
            _ => Err(NetnsError::Vanished(self.path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pods_namespace_is_refused() {
        let refused = |path: &str| PodNetns::open(Path::new(path)).unwrap_err().to_string();
        assert!(refused("/no/such/namespace").contains("cannot be opened: No such file"));
        assert!(refused("/proc/self/status").contains("is no namespace"));
        assert!(refused("/proc/self/ns/net").contains("the node's own"));
    }
}
