//! The real `init` and the real `proxy` in a pod: this executable again, inside the pod's namespace.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{APP_UID, DemoError, http};
use crate::core::config::{DEFAULT_ADMIN_PORT, DEFAULT_AGENT_UID};
use crate::sandbox::children::{Household, Process};
use crate::sandbox::pod::Pod;
use crate::tls::issue::IssuedLeaf;

/// `init` promises its proof within half a second; a busy machine may take longer.
const INIT_PATIENCE: Duration = Duration::from_secs(15);
const READY_PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

/// Certificate, key and CA of one agent, laid out as Kubernetes mounts a secret: each file is a link through `..data`,
/// which is swapped in one step.
#[derive(Debug)]
pub(super) struct Mount {
    directory: PathBuf,
    version: u32,
}

impl Mount {
    /// Writes the first version, readable by the agent's user alone.
    pub(super) fn new(directory: PathBuf, ca_pem: &str, leaf: &IssuedLeaf) -> io::Result<Self> {
        private_directory(&directory)?;
        let mut mount = Self { directory, version: 0 };
        mount.update(ca_pem, leaf)?;
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(name), mount.directory.join(name))?;
        }
        Ok(mount)
    }

    /// Puts another version in place of all three files, at once.
    pub(super) fn update(&mut self, ca_pem: &str, leaf: &IssuedLeaf) -> io::Result<()> {
        self.version += 1;
        let version = format!("..version_{}", self.version);
        let directory = self.directory.join(&version);
        private_directory(&directory)?;
        for (name, pem) in [("tls.crt", &*leaf.certificate_pem), ("tls.key", &*leaf.key_pem), ("ca.crt", ca_pem)] {
            let path = directory.join(name);
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
            io::Write::write_all(&mut file, pem.as_bytes())?;
            chown(&path, Some(DEFAULT_AGENT_UID), Some(DEFAULT_AGENT_UID))?;
        }
        let next = self.directory.join("..data_next");
        symlink(&version, &next)?;
        fs::rename(next, self.directory.join("..data"))
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    chown(path, Some(DEFAULT_AGENT_UID), Some(DEFAULT_AGENT_UID))
}

/// Runs `bypassctl init` in a pod, and says how long it took.
pub(super) fn init(household: &Household, pod: &Pod, arguments: &[&str]) -> Result<Duration, DemoError> {
    let what = ["bypassctl init", &arguments.join(" "), "in pod", pod.name()].join(" ");
    let mut command = this_executable();
    command.arg("init").args(arguments);
    let start = Instant::now();
    let process = household.spawn(pod.netns(), command).map_err(DemoError::io(&what))?;
    let status = process.wait(INIT_PATIENCE).map_err(DemoError::io(&what))?;
    if status.is_some_and(|status| status.success()) {
        return Ok(start.elapsed());
    }
    let seen = status.map_or("still running".to_owned(), |status| status.to_string());
    Err(DemoError::Child { what, seen, code: status.and_then(|status| status.code()), log: process.log().tail() })
}

/// A running `bypassctl proxy`.
#[derive(Debug)]
pub(super) struct Agent {
    process: Process,
}

impl Agent {
    /// Starts the sidecar of a pod as its own user; returns at once.
    pub(super) fn start(household: &Household, pod: &Pod, mount: &Mount) -> Result<Self, DemoError> {
        let mut command = this_executable();
        command.arg("proxy").arg("--tls-dir").arg(&mount.directory).uid(DEFAULT_AGENT_UID).gid(DEFAULT_AGENT_UID);
        let process = household
            .spawn(pod.netns(), command)
            .map_err(DemoError::io(&format!("start bypassctl proxy in pod {}", pod.name())))?;
        Ok(Self { process })
    }

    /// Waits until `/ready` says yes.
    pub(super) fn await_ready(&self, pod: &Pod) -> Result<(), DemoError> {
        let deadline = Instant::now() + READY_PATIENCE;
        let what = format!("bypassctl proxy in pod {}", pod.name());
        loop {
            let answer = admin(pod, "/ready");
            let answer = match &answer {
                Ok(text) => http::parse(text).map_or((0, text.as_str()), |answer| answer),
                Err(_) => (0, "no answer"),
            };
            if answer.0 == 200 {
                return Ok(());
            }
            let ended = self.process.wait(Duration::ZERO).map_err(DemoError::io(&what))?;
            if ended.is_some() || Instant::now() > deadline {
                let seen = ended.map_or_else(
                    || format!("/ready still says {} {}", answer.0, answer.1.trim()),
                    |status| status.to_string(),
                );
                let code = ended.and_then(|status| status.code());
                return Err(DemoError::Child { what, seen, code, log: self.process.log().tail() });
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it, as an out-of-memory kill would.
    pub(super) fn kill(&self, pod: &Pod) -> Result<(), DemoError> {
        self.process.kill().map_err(DemoError::io(&format!("kill the agent of pod {}", pod.name())))
    }

    /// Where its log is at, for [`Self::line_about`].
    pub(super) fn log_length(&self) -> usize {
        self.process.log().lines().len()
    }

    /// The first line after `after` lines that names the peer, without its time stamp.
    pub(super) fn line_about(&self, after: usize, peer: SocketAddr, patience: Duration) -> Option<String> {
        let peer = peer.to_string();
        self.process.log().wait_for(after, patience, |line| line.contains(&peer)).map(|line| without_time(&line))
    }

    /// The last lines of its log.
    pub(super) fn tail(&self) -> Vec<String> {
        self.process.log().tail()
    }

    /// Process id.
    pub(super) const fn id(&self) -> u32 {
        self.process.id()
    }
}

/// GETs a path of a pod's admin port.
pub(super) fn admin(pod: &Pod, path: &str) -> io::Result<String> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_ADMIN_PORT);
    http::get(pod.connect(APP_UID, address, CONNECT_PATIENCE)?, path)
}

/// This very file, also after an upgrade replaced or removed it: the link is the kernel's (proc(5)), and needs no
/// permission on the directories above, which the agent's user would lack.
fn this_executable() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("bypassctl").current_dir("/");
    command
}

/// A log line from its level on.
fn without_time(line: &str) -> String {
    match line.split_once(' ') {
        Some((time, rest)) if time.ends_with('Z') => rest.trim_start().to_owned(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_quoted_without_its_time() {
        assert_eq!(without_time("2026-01-02T03:04:05.678901Z  WARN proxy: refused"), "WARN proxy: refused");
        assert_eq!(without_time("no time here"), "no time here");
    }
}
