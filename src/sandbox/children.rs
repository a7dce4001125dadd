//! Child processes inside namespaces, none of which outlives this process, whichever way it ends.
//!
//! Invariant: every child that runs is known to the [`Household`] and to its lifeline, a shell that kills them and
//! removes the scratch directory when this process is gone. (PR_SET_PDEATHSIG would have to be set between fork and
//! exec, which Rust allows in unsafe code only.)

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::Netns;

/// Each line that it reads is the list of what runs; when there are no more lines, this process is gone.
const LIFELINE: &str = r#"
trap '' HUP INT QUIT TERM
while read -r line; do pids=$line; done
[ -z "$pids" ] || kill -9 $pids
rm -rf -- "$1"
"#;
/// Lines that say what went wrong, usually.
const TAIL: usize = 12;
const POLL: Duration = Duration::from_millis(2);

/// Children, their scratch directory, and what sees to both when this process cannot. Clones are the same household.
#[derive(Clone, Debug)]
pub struct Household {
    rooms: Arc<Mutex<Rooms>>,
    scratch: Arc<PathBuf>,
}

#[derive(Debug)]
struct Rooms {
    running: BTreeMap<u32, Child>,
    /// `None` once closed.
    lifeline: Option<Lifeline>,
}

#[derive(Debug)]
struct Lifeline {
    shell: Child,
    stdin: ChildStdin,
}

impl Household {
    /// A household with an empty scratch directory, whose name begins with `name`, which others may enter but not list.
    ///
    /// # Errors
    /// No place for temporary files, or no /bin/sh.
    pub fn new(name: &str) -> io::Result<Self> {
        let scratch = scratch_directory(name)?;
        let shell = Command::new("/bin/sh")
            .args(["-c", LIFELINE, "lifeline"])
            .arg(&scratch)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let lifeline = shell.and_then(|mut shell| {
            let stdin = shell.stdin.take().ok_or_else(|| io::Error::other("/bin/sh has no standard input"))?;
            Ok(Lifeline { shell, stdin })
        });
        let lifeline = lifeline.inspect_err(|_| drop(fs::remove_dir(&scratch)))?;
        let rooms = Rooms { running: BTreeMap::new(), lifeline: Some(lifeline) };
        Ok(Self { rooms: Arc::new(Mutex::new(rooms)), scratch: Arc::new(scratch) })
    }

    /// The scratch directory.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Starts a child in a namespace, with nothing of this process's environment, and collects its output by line.
    ///
    /// # Errors
    /// Those of `spawn`; `Interrupted` once the household is closed.
    pub fn spawn(&self, netns: &Netns, mut command: Command) -> io::Result<Process> {
        let mut rooms = self.rooms();
        if rooms.lifeline.is_none() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "everything is being stopped"));
        }
        // A terminal's Ctrl-C is for this process, which then stops its children in order.
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = netns.run(move || command.spawn())??;
        let log = Log::default();
        if let Some(stdout) = child.stdout.take() {
            log.collect(stdout)?;
        }
        if let Some(stderr) = child.stderr.take() {
            log.collect(stderr)?;
        }
        let id = child.id();
        rooms.running.insert(id, child);
        rooms.tell_lifeline();
        Ok(Process { id, log, household: self.clone() })
    }

    /// Kills what runs, waits for it, and removes the scratch directory. A second call does nothing.
    pub fn close(&self) {
        let mut rooms = self.rooms();
        for (_, mut child) in std::mem::take(&mut rooms.running) {
            let _ = child.kill();
            let _ = child.wait();
        }
        rooms.tell_lifeline();
        let _ = fs::remove_dir_all(&*self.scratch);
        if let Some(Lifeline { mut shell, stdin }) = rooms.lifeline.take() {
            drop(stdin);
            let _ = shell.wait();
        }
    }

    /// How many children run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.rooms().running.len()
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    fn tell_lifeline(&mut self) {
        let pids: Vec<String> = self.running.keys().map(u32::to_string).collect();
        if let Some(lifeline) = &mut self.lifeline {
            // A lifeline that somebody killed leaves close() alone to clean up.
            let _ = writeln!(lifeline.stdin, "{}", pids.join(" "));
        }
    }
}

/// A child of a [`Household`].
#[derive(Debug)]
pub struct Process {
    id: u32,
    log: Log,
    household: Household,
}

impl Process {
    /// Process id.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// What it has said so far.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// How it ended, if it ended within `patience`.
    ///
    /// # Errors
    /// Those of `waitpid`.
    pub fn wait(&self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let mut rooms = self.household.rooms();
            let Some(child) = rooms.running.get_mut(&self.id) else {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the process was stopped"));
            };
            if let Some(status) = child.try_wait()? {
                rooms.running.remove(&self.id);
                rooms.tell_lifeline();
                return Ok(Some(status));
            }
            drop(rooms);
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// Those of `kill` and `waitpid`.
    pub fn kill(&self) -> io::Result<()> {
        let mut rooms = self.household.rooms();
        if let Some(mut child) = rooms.running.remove(&self.id) {
            child.kill()?;
            child.wait()?;
        }
        rooms.tell_lifeline();
        Ok(())
    }
}

/// Lines that a child has written. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    /// Every line so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line after the first `after` ones that `matches`, as soon as there is one, within `patience`.
    #[must_use]
    pub fn wait_for(&self, after: usize, patience: Duration, matches: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + patience;
        loop {
            let found = self.lines().into_iter().skip(after).find(|line| matches(line));
            if found.is_some() || Instant::now() > deadline {
                return found;
            }
            thread::sleep(POLL);
        }
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let lines = self.lines();
        lines[lines.len().saturating_sub(TAIL)..].to_vec()
    }

    fn collect(&self, from: impl io::Read + Send + 'static) -> io::Result<()> {
        let lines = Arc::clone(&self.lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        })?;
        Ok(())
    }
}

fn scratch_directory(name: &str) -> io::Result<PathBuf> {
    // Children of another user must be able to reach it: pam_tmpdir's directories, for one, are their owner's alone.
    let preferred = std::env::temp_dir();
    let open_to_all = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    let parent = if preferred.ancestors().all(open_to_all) { preferred } else { PathBuf::from("/tmp") };
    let path = parent.join(format!("{name}-{}", std::process::id()));
    // Fails if the name is taken, so nobody can have prepared it for us.
    DirBuilder::new().mode(0o711).create(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn alive(id: u32) -> bool {
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn the_lifeline_kills_and_sweeps_when_its_owner_is_gone() {
        let household = Household::new("bypassctl-lifeline").unwrap();
        fs::write(household.scratch().join("key"), "secret").unwrap();
        let mut stranded = Command::new("sleep").arg("600").spawn().unwrap();
        let mut rooms = household.rooms();
        let mut lifeline = rooms.lifeline.take().unwrap();
        writeln!(lifeline.stdin, "{}", stranded.id()).unwrap();
        drop(lifeline.stdin);
        assert!(lifeline.shell.wait().unwrap().success());
        stranded.wait().unwrap();
        assert!(!household.scratch.exists());
    }

    #[test]
    fn a_closed_household_has_no_child_and_takes_none() {
        let household = Household::new("bypassctl-close").unwrap();
        let mut sleeper = Command::new("sleep");
        sleeper.arg("600").process_group(0);
        let child = sleeper.spawn().unwrap();
        let id = child.id();
        household.rooms().running.insert(id, child);
        let process = Process { id, log: Log::default(), household: household.clone() };
        assert!(alive(id));
        assert_eq!(process.wait(Duration::ZERO).unwrap(), None);
        household.close();
        assert!(!alive(id) && !household.scratch().exists());
        assert!(process.wait(PATIENCE).is_err());
    }
}
