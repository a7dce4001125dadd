//! A network namespace held by a thread.
//!
//! Network namespaces belong to threads: whatever runs on the thread, a child process too, is inside. The namespace
//! goes when the last thread, process and file descriptor in it goes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace of its own, empty but for `lo`, which is down.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN in the user namespace.
    pub fn new() -> io::Result<Self> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Self { file: File::open("/proc/thread-self/ns/net")? })
        })
    }

    /// The namespace as a file, for `setns` or for moving a link into it.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` on a thread inside the namespace and waits for its result. Child processes that `work` starts are
    /// inside too, and stay there.
    ///
    /// # Errors
    /// Those of `setns`.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let file = self.file.try_clone()?;
        in_thread(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }
}

fn in_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let _ = sender.send(work());
    })?;
    match receiver.recv() {
        Ok(result) => result,
        Err(mpsc::RecvError) => {
            std::panic::resume_unwind(thread.join().expect_err("a thread that sent nothing panicked"))
        }
    }
}
