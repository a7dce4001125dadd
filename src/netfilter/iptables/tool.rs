//! The iptables tools: found, run with a bounded wait, and their failures told apart.
//!
//! Invariant: a legacy tool runs only where its tables exist already, or where rules are about to be put into them: to list
//! a table that is not there makes it, and misleads a mesh's own detection.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::core::backend::{Backend, Variant};
use crate::core::ruleset::Family;

/// Where the tools are if `PATH` does not say.
const DIRECTORIES: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin"];
/// Seconds to wait for another who holds the lock: a mesh's own tool takes well under one.
const LOCK_WAIT: &str = "5";
/// `XT_LOCK_NAME` (iptables/xshared.h).
const LOCK: &str = "/run/xtables.lock";
/// A file that every container has and can open, whatever else is read-only, and each pod one of its own.
const NAMESPACE_LOCK: &str = "/proc/self/ns/net";
/// What legacy's restore says both without the capability and without the module.
const NO_TABLE: &str = "unable to initialize table";
/// What names another lock (iptables 1.8.7 and later).
const LOCK_VARIABLE: &str = "XTABLES_LOCKFILE";

/// Why a tool did not do it.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// There is no such tool.
    #[error(
        "the tool {0} is not in this image; it is in the package iptables (Alpine: iptables, and iptables-legacy for the \
         legacy tools): use an image of bypassctl that has it, or --backend nft, which needs none"
    )]
    Missing(String),
    /// It cannot be run.
    #[error("{tool} could not be run")]
    Start {
        /// The tool.
        tool: String,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The kernel lets it do nothing.
    #[error(
        "{tool} may not change rules ({said}): the container needs the {} \
         (securityContext.capabilities.add)", capabilities(*.variant)
    )]
    NotPermitted {
        /// The tool.
        tool: String,
        /// Whose.
        variant: Variant,
        /// What it said.
        said: String,
    },
    /// It has the capabilities, and yet may not list the tables.
    #[error(
        "{tool} may not list the tables ({said}): the capabilities are there, but only the user or the group root may read \
         {file}; give the container runAsUser: 0 or runAsGroup: 0 in its securityContext"
    )]
    NotRoot {
        /// The tool.
        tool: String,
        /// What it said.
        said: String,
        /// What it may not read.
        file: &'static str,
    },
    /// The kernel has no such tables.
    #[error("this kernel has not what {tool} needs ({said}); the node must have the modules loaded")]
    Unsupported {
        /// The tool.
        tool: String,
        /// What it said.
        said: String,
    },
    /// Somebody else holds the lock.
    #[error("{tool} waited {LOCK_WAIT} s for the xtables lock {lock}, which {holder} holds")]
    Locked {
        /// The tool.
        tool: String,
        /// The lock's file.
        lock: String,
        /// Who holds it.
        holder: String,
    },
    /// Somebody else has a chain of our name.
    #[error(
        "there is a chain {chain} in table {table} of {} {} that bypassctl did not make (no rule in it says what for), and \
         it is left as it is. Have whoever made it call it something else, remove it, or use --backend nft",
        Backend::Iptables(*.variant), .family.name()
    )]
    Taken {
        /// Whose.
        variant: Variant,
        /// Of IPv4 or IPv6.
        family: Family,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// Anything else.
    #[error("{tool} failed: {said}")]
    Failed {
        /// The tool.
        tool: String,
        /// What it said.
        said: String,
    },
}

const fn capabilities(variant: Variant) -> &'static str {
    match variant {
        Variant::Nft => "capability NET_ADMIN",
        Variant::Legacy => "capabilities NET_ADMIN and NET_RAW",
    }
}

/// The rules of every table of the family, as `iptables-save` prints them, with counters.
pub(super) fn save(variant: Variant, family: Family) -> Result<String, IptablesError> {
    let tool = tool_name(variant, family, "save");
    let output = run(variant, &tool, &["-c"], "")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Carries out a script; each of its tables is committed as a whole.
pub(super) fn restore(variant: Variant, family: Family, script: &str) -> Result<(), IptablesError> {
    let tool = tool_name(variant, family, "restore");
    run(variant, &tool, &["--noflush", "-w", LOCK_WAIT], script).map(drop)
}

/// Whether both of the family's tools are there.
pub(super) fn missing(variant: Variant, family: Family) -> Option<IptablesError> {
    let tools = ["save", "restore"].map(|verb| tool_name(variant, family, verb));
    tools.into_iter().find(|tool| find(tool).is_none()).map(IptablesError::Missing)
}

fn tool_name(variant: Variant, family: Family, verb: &str) -> String {
    let command = if family == Family::V4 { "iptables" } else { "ip6tables" };
    format!("{command}-{}-{verb}", variant.name())
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from));
    directories.map(|directory| directory.join(tool)).find(|candidate| candidate.is_file())
}

fn run(variant: Variant, tool: &str, arguments: &[&str], input: &str) -> Result<Output, IptablesError> {
    let path = find(tool).ok_or_else(|| IptablesError::Missing(tool.to_owned()))?;
    let lock = (variant == Variant::Legacy).then(lock_file);
    let started = |source| IptablesError::Start { tool: tool.to_owned(), source };
    let mut command = Command::new(path);
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("PATH", DIRECTORIES.join(":"));
    if let Some(lock) = &lock {
        command.env(LOCK_VARIABLE, lock);
    }
    let mut child = command.spawn().map_err(started)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that gives up early closes the pipe; why, it says itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(started)?;
    if output.status.success() {
        return Ok(output);
    }
    let tool = tool.to_owned();
    let said = said(&output.stderr);
    let holds = |words: &[&str]| words.iter().any(|word| said.contains(word));
    Err(if holds(&["xtables lock"]) {
        let lock = lock.unwrap_or_default();
        let holder = holder(Path::new(&lock));
        IptablesError::Locked { tool, lock: lock.to_string_lossy().into_owned(), holder }
    } else if holds(&["Permission denied", "Operation not permitted"]) || holds(&[NO_TABLE]) && !permitted(variant) {
        match unreadable_names().filter(|_| variant == Variant::Legacy && permitted(variant)) {
            Some(file) => IptablesError::NotRoot { tool, said, file },
            None => IptablesError::NotPermitted { tool, variant, said },
        }
    } else if holds(&[
        NO_TABLE,
        "do you need to insmod",
        "Protocol not supported",
        "No chain/target/match by that name",
    ]) {
        IptablesError::Unsupported { tool, said }
    } else {
        IptablesError::Failed { tool, said }
    })
}

/// Whether this process, and so its children, has the variant's capabilities.
fn permitted(variant: Variant) -> bool {
    // linux/capability.h
    const NET_ADMIN: u64 = 1 << 12;
    const NET_RAW: u64 = 1 << 13;
    let wanted = if variant == Variant::Legacy { NET_ADMIN | NET_RAW } else { NET_ADMIN };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_none_or(|effective| effective & wanted == wanted)
}

/// Which of the lists of tables, made for root alone, this process may not read.
fn unreadable_names() -> Option<&'static str> {
    let denied = |file: &&str| File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    Family::BOTH.map(super::names_file).into_iter().find(denied)
}

/// What a tool says, in one line, without its advice to read the manual.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
    let said = lines.collect::<Vec<_>>().join("; ");
    if said.is_empty() { "it did not say why".to_owned() } else { said }
}

/// The default lock, or, where it cannot be opened, one that always can.
fn lock_file() -> OsString {
    if let Some(named) = std::env::var_os(LOCK_VARIABLE) {
        return named;
    }
    let usable =
        File::open(LOCK).is_ok() || OpenOptions::new().write(true).create(true).truncate(false).open(LOCK).is_ok();
    if usable { LOCK } else { NAMESPACE_LOCK }.into()
}

/// Who has locked the file, as `/proc/locks` tells those of the same PID namespace.
fn holder(lock: &Path) -> String {
    let unknown = || "somebody outside this container".to_owned();
    let (Ok(file), Ok(locks)) = (fs::metadata(lock), fs::read_to_string("/proc/locks")) else { return unknown() };
    let Some(pid) = locking_process(&locks, file.ino()) else { return unknown() };
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

/// `1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF`; a process that cannot be seen is 0 or below.
fn locking_process(locks: &str, inode: u64) -> Option<u32> {
    let suffix = format!(":{inode}");
    locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find_map(|words| match words.as_slice() {
        [_, "FLOCK", _, _, pid, file, ..] if file.ends_with(&suffix) => pid.parse().ok().filter(|pid| *pid > 0),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_the_lock_is_found_by_the_files_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 99 00:1a:1234 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF\n3: \
                     FLOCK  ADVISORY  WRITE 0 00:1a:77 0 EOF\n";
        assert_eq!(locking_process(locks, 1234), Some(4711));
        assert_eq!(locking_process(locks, 77), None);
        assert_eq!(locking_process(locks, 34), None);
    }

    #[test]
    fn a_tools_advice_is_left_out() {
        let stderr = b"iptables-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed\nTry `iptables -h' for more\n";
        assert_eq!(said(stderr), "iptables-restore v1.8.9 (nf_tables):; line 3: RULE_APPEND failed");
    }
}
