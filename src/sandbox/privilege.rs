//! The privilege to make namespaces: root's, or that of a user namespace of our own.
//!
//! Rootless needs several user ids, not one: the rules tell the agent from the app by `skuid`, which is the kernel's id
//! of the socket's maker, and a user namespace that one ordinary user maps alone has one such id, whatever it is called
//! inside. So `newuidmap` and a range in /etc/subuid are needed.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

/// How the privilege was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// This process is root.
    Root,
    /// This process is root in a user namespace of its own, and an ordinary user outside.
    UserNamespace,
}

/// Why there is no privilege, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Root of a container or of `unshare -r`, with too few user ids.
    #[error(
        "user id {missing} does not exist in this user namespace (/proc/self/uid_map), so the agent and the app cannot \
         be told apart; run it as the machine's root, or as an ordinary user with newuidmap"
    )]
    IdsMissing {
        /// The lowest id that is needed and not mapped.
        missing: u32,
    },
    /// The kernel or its administrator forbids user namespaces.
    #[error(
        "neither root nor able to make a user namespace ({0}); run it with sudo, or allow user namespaces: \
         sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
    )]
    NoUserNamespace(#[source] Errno),
    /// No range of user ids.
    #[error(
        "not root, and {file} has no range of {needed} ids for {user}, so the agent and the app could not have user ids \
         of their own; run it with sudo, or: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )]
    NoSubordinateIds {
        /// /etc/subuid or /etc/subgid.
        file: &'static str,
        /// How many ids are needed.
        needed: u32,
        /// The user's name, or number.
        user: String,
    },
    /// newuidmap is not there, or refused.
    #[error(
        "not root, and newuidmap cannot give this user several user ids ({0}); run it with sudo, or: \
         sudo apt-get install uidmap"
    )]
    NoMapping(String),
    /// Something that does not fail on an ordinary machine.
    #[error("cannot become root in a user namespace")]
    Io(#[from] io::Error),
}

/// Makes this process root over namespaces that it makes, with user ids and group ids 0 to `highest_id` distinct. Call
/// it before there is a second thread.
///
/// # Errors
/// No root, and no way round it; see the variants.
pub fn acquire(highest_id: u32) -> Result<Privilege, PrivilegeError> {
    if Uid::effective().is_root() {
        for map in ["/proc/self/uid_map", "/proc/self/gid_map"] {
            if !maps(&fs::read_to_string(map)?, highest_id) {
                return Err(PrivilegeError::IdsMissing { missing: highest_id });
            }
        }
        return Ok(Privilege::Root);
    }
    let uid_map = mapping("/etc/subuid", Uid::effective().as_raw(), highest_id)?;
    let gid_map = mapping("/etc/subgid", Gid::effective().as_raw(), highest_id)?;
    // newuidmap has to run outside, as the user that owns the new namespace; hence before unshare, and waiting.
    let mut mapper = Command::new("/bin/sh")
        .args(["-c", "read -r go && newuidmap $1 $2 2>&1 && newgidmap $1 $3 2>&1 && echo mapped", "mapper"])
        .args([std::process::id().to_string(), uid_map, gid_map])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut go), Some(said)) = (mapper.stdin.take(), mapper.stdout.take()) else {
        return Err(io::Error::other("/bin/sh has no standard input and output").into());
    };
    let unshared = unshare(CloneFlags::CLONE_NEWUSER);
    if unshared.is_ok() {
        go.write_all(b"go\n")?;
    }
    drop(go);
    let said: Vec<String> = BufReader::new(said).lines().collect::<Result<_, _>>()?;
    mapper.wait()?;
    unshared.map_err(PrivilegeError::NoUserNamespace)?;
    if said.last().is_none_or(|line| line != "mapped") {
        let why = said.first().map_or("it is not installed", String::as_str);
        return Err(PrivilegeError::NoMapping(why.to_owned()));
    }
    become_root().map_err(io::Error::from)?;
    Ok(Privilege::UserNamespace)
}

fn become_root() -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    setgroups(&[])
}

/// Opens this process's /proc entries, and so the way into its namespaces, to the user that started it: a change of
/// credentials without an exec after it, also a thread's, closes them (kernel/cred.c, `commit_creds`).
///
/// # Errors
/// None on a kernel that has prctl(2).
pub fn admit_own_user() -> io::Result<()> {
    Ok(set_dumpable(true)?)
}

/// Arguments of newuidmap: id 0 is the user, the ids from 1 are the user's subordinate ones.
fn mapping(file: &'static str, own_id: u32, highest_id: u32) -> Result<String, PrivilegeError> {
    let uid = Uid::effective();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let text = fs::read_to_string(file).unwrap_or_default();
    let (first, count) = subordinate_range(&text, &name, uid.as_raw(), highest_id)
        .ok_or(PrivilegeError::NoSubordinateIds { file, needed: highest_id, user: name })?;
    Ok(format!("0 {own_id} 1 1 {first} {count}"))
}

/// The first range of the user that is long enough; lines are `name-or-uid:first:count` (subuid(5)).
fn subordinate_range(text: &str, name: &str, uid: u32, needed: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((owner == name || owner == uid.to_string()) && count >= needed).then_some((first, count))
    })
}

/// Whether ids 0 to `highest` all exist, by the lines `inside outside count` of user_namespaces(7).
fn maps(map: &str, highest: u32) -> bool {
    let ranges: Vec<(u64, u64)> = map
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<u64>);
            let (inside, _, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
            Some((inside, inside + count))
        })
        .collect();
    let mut id = 0;
    while id <= u64::from(highest) {
        match ranges.iter().find(|(first, end)| (*first..*end).contains(&id)) {
            Some((_, end)) => id = *end,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number_and_must_be_long_enough() {
        let text = "other:1:65536\nme:100000:10\n1000:300000:65536\n";
        assert_eq!(subordinate_range(text, "me", 1000, 12552), Some((300_000, 65536)));
        assert_eq!(subordinate_range(text, "me", 7, 12552), None);
        assert_eq!(subordinate_range("", "me", 1000, 12552), None);
    }

    #[test]
    fn ids_are_mapped_only_without_gaps() {
        assert!(maps("         0          0 4294967295\n", 12552));
        assert!(maps("0 1000 1\n1 100000 65536\n", 12552));
        assert!(!maps("0 1000 1\n", 12552));
        assert!(!maps("0 1000 1\n2 100000 65536\n", 12552));
    }
}
