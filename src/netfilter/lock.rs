//! One `init` at a time in a network namespace.
//!
//! The lock is an abstract Unix socket address: those belong to the network namespace, need no file and no privilege, and
//! go with the process, however it ends (unix(7)), and with the tools that it has started: one that outlives a killed `init`
//! still changes rules.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

const NAME: &str = "bypassctl-init";
const RETRY: Duration = Duration::from_millis(20);

/// Held until dropped.
#[derive(Debug)]
pub struct NamespaceLock {
    _socket: UnixListener,
}

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error(
        "another bypassctl init has been running in this network namespace for {} seconds; nothing was changed. Wait for \
         it, or end it (`ss -xlp` shows who holds @{NAME})",
        .0.as_secs()
    )]
    Held(Duration),
    /// The socket failed.
    #[error("the lock of this network namespace (abstract socket @{NAME}) cannot be taken")]
    Socket(#[from] io::Error),
}

impl NamespaceLock {
    /// Waits for the lock, at most this long.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(limit: Duration) -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        let start = Instant::now();
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(socket) => {
                    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).map_err(io::Error::from)?;
                    return Ok(Self { _socket: socket });
                }
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error.into()),
                Err(_) if start.elapsed() >= limit => return Err(LockError::Held(limit)),
                Err(_) => thread::sleep(RETRY),
            }
        }
    }
}
