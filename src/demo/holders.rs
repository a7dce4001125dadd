//! Who still holds a namespace.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::sandbox::netns::Netns;

const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

/// The kernel's name of a namespace, such as `net:[4026532000]`.
pub(super) fn name_of(netns: &Netns) -> io::Result<String> {
    link(format!("/proc/self/fd/{}", netns.file().as_raw_fd()).as_ref())
        .ok_or_else(|| io::Error::other("/proc does not say which namespace this is"))
}

/// How many of these namespaces a process is in, or this process has open, when the threads that are about to leave
/// have left.
pub(super) fn count(names: &BTreeSet<String>) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = held();
        let count = names.iter().filter(|name| held.contains(*name)).count();
        if count == 0 || Instant::now() > deadline {
            return count;
        }
        thread::sleep(POLL);
    }
}

fn held() -> BTreeSet<String> {
    let processes = entries("/proc".as_ref());
    let tasks = processes.iter().flat_map(|process| entries(&process.join("task")));
    let entered = tasks.map(|task| task.join("ns/net"));
    let opened = entries("/proc/self/fd".as_ref());
    entered.chain(opened).filter_map(|path| link(&path)).collect()
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    // What is no directory, gone, or another user's, has no entries.
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn link(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_its_own_namespace() {
        assert!(held().contains(&link("/proc/self/ns/net".as_ref()).unwrap()));
    }
}
