//! `bypassctl demo`, the real binary, as root, as an ordinary user, and ended before its time.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

const NOBODY: u32 = 65534;
const PATIENCE: Duration = Duration::from_secs(10);

/// Every promise, as the tables name it, where they break no line.
const PROMISES: [&str; 14] = [
    "8080 the app's HTTP ┆ IPv4, IPv6 ┆ mesh of a, outbound ┆ mesh of a, outbound ",
    "8080 the app's HTTP ┆ IPv4, IPv6 ┆ mesh of b, inbound  ┆ mesh of b, inbound ",
    "8558 management     ┆ IPv4, IPv6 ┆ mesh of a, outbound ┆ the app, straight ",
    "8558 management     ┆ IPv4, IPv6 ┆ mesh of b, inbound  ┆ the app, straight ",
    "2552 remoting       ┆ IPv4, IPv6 ┆ mesh of a, outbound ┆ the app, via agents ",
    "a plaintext intruder is",
    "a wrong identity of the",
    "the right identity of a",
    "a certificate is rotated",
    "an agent killed fails",
    "no plaintext on the wire",
    "everything is cleaned up",
    "0 processes, 0 namespaces left; keys removed",
    "everything as promised",
];

fn need_root() {
    assert!(Uid::effective().is_root(), "makes network namespaces, so it needs root: run scripts/test");
}

/// A place for the demo's files that tells its processes from anybody else's.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
        // No tool is needed but the shell.
        command.env_clear().env("TMPDIR", self.path()).env("PATH", "/nonexistent").arg("demo").args(arguments);
        command
    }

    /// Command lines of processes that work on files in here: agents and lifelines.
    fn processes(&self) -> Vec<String> {
        let here = self.path().to_str().unwrap().to_owned();
        let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            fs::read_to_string(entry.ok()?.path().join("cmdline")).ok().map(|line| line.replace('\0', " "))
        });
        lines.filter(|line| line.contains(&here)).collect()
    }

    /// Fails unless everything is gone within the patience.
    fn assert_nothing_left(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let files: Vec<_> = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            let processes = self.processes();
            if files.is_empty() && processes.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: files {files:?}, processes {processes:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_kept(output: &Output) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    for promise in PROMISES {
        assert!(stdout.contains(promise), "{promise:?} is not in\n{stdout}");
    }
    assert!(!stdout.contains('✘'), "{stdout}");
}

/// A demo that goes on while the test looks.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// What it printed up to a line with this in it.
    fn until(&mut self, part: &str) -> String {
        let mut printed = String::new();
        let mut line = Vec::new();
        while self.stdout.read_until(b'\n', &mut line).unwrap() > 0 {
            printed.push_str(&text(&line));
            if printed.contains(part) {
                return printed;
            }
            line.clear();
        }
        panic!("{part:?} was never printed:\n{printed}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(mut self) -> Output {
        let mut rest = Vec::new();
        self.stdout.read_to_end(&mut rest).unwrap();
        let mut output = self.child.wait_with_output().unwrap();
        output.stdout = rest;
        output
    }
}

#[test]
fn as_root_every_promise_is_kept_and_nothing_is_left() {
    need_root();
    let place = Place::new();
    let start = Instant::now();
    let output = place.demo(&[]).output().unwrap();
    let took = start.elapsed();
    assert_kept(&output);
    place.assert_nothing_left(Duration::ZERO);
    assert!(took < Duration::from_secs(10), "took {took:?}");
    let stdout = text(&output.stdout);
    assert!(!stdout.contains('\x1b'), "no colour in a pipe:\n{stdout}");
    let widest = stdout.lines().filter(|line| line.starts_with(['│', '┌', '└'])).map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|width| width <= 100), "{widest:?} columns:\n{stdout}");
}

#[test]
fn kept_up_it_can_be_entered_until_enter_is_pressed() {
    need_root();
    let place = Place::new();
    let mut demo = Running::start(place.demo(&["--keep"]));
    let printed = demo.until("/status");
    let door = printed.split("nsenter --net=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let door = fs::File::open(door).unwrap();
    let entered = thread::spawn(move || {
        nix::sched::setns(door, CloneFlags::CLONE_NEWNET).unwrap();
        let mut admin = std::net::TcpStream::connect("127.0.0.1:15550").unwrap();
        admin.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        admin.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = entered.join().unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    demo.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let output = demo.end();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("everything as promised"));
    place.assert_nothing_left(Duration::ZERO);
}

#[test]
fn kept_up_an_interrupt_takes_it_down_and_is_no_failure() {
    need_root();
    let place = Place::new();
    let mut demo = Running::start(place.demo(&["--keep"]));
    demo.until("/status");
    // The last words before it waits.
    thread::sleep(Duration::from_millis(200));
    demo.signal(Signal::SIGINT);
    let output = demo.end();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    place.assert_nothing_left(Duration::ZERO);
}

#[test]
fn terminated_midway_it_says_so_and_leaves_nothing() {
    need_root();
    let place = Place::new();
    let mut demo = Running::start(place.demo(&[]));
    demo.until("proxy ");
    demo.signal(Signal::SIGTERM);
    let output = demo.end();
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("terminated"), "{}", text(&output.stderr));
    place.assert_nothing_left(Duration::ZERO);
}

#[test]
fn even_killed_it_leaves_nothing() {
    need_root();
    let place = Place::new();
    let mut demo = Running::start(place.demo(&[]));
    demo.until("proxy ");
    demo.signal(Signal::SIGKILL);
    demo.end();
    place.assert_nothing_left(PATIENCE);
}

/// The binary, where an ordinary user can run it: a build directory may lie in root's home.
fn for_everybody(place: &Place) -> PathBuf {
    let binary = place.path().join("bypassctl");
    // By cp: a process that another test starts in the meantime would inherit our own descriptor, and a file that is open
    // for writing cannot be run (ETXTBSY).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_bypassctl")).arg(&binary).status().unwrap();
    assert!(copied.success());
    binary
}

#[test]
fn an_ordinary_user_without_a_range_of_ids_is_told_what_to_do() {
    need_root();
    let place = Place::new();
    let mut command = Command::new(for_everybody(&place));
    command.env_clear().env("PATH", "/usr/bin:/bin").arg("demo").uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("sudo") && stderr.contains("/etc/subuid"), "{stderr}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn an_ordinary_user_with_a_range_of_ids_needs_no_root() {
    need_root();
    assert!(Path::new("/usr/bin/newuidmap").exists(), "needs newuidmap (package uidmap): run scripts/test");
    let (place, binaries, etc) = (Place::new(), Place::new(), Place::new());
    let binary = for_everybody(&binaries);
    chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (etc_copy, scratch) = (etc.path().join("etc"), place.path().to_owned());
    let output = thread::spawn(move || {
        // A mount namespace of this thread: its /etc alone says that nobody has a range.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        assert!(Command::new("cp").arg("-a").arg("/etc").arg(&etc_copy).status().unwrap().success());
        for file in ["subuid", "subgid"] {
            fs::write(etc_copy.join(file), format!("{NOBODY}:200000:65536\n")).unwrap();
        }
        mount(Some(&etc_copy), "/etc", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let mut command = Command::new(binary);
        command.env_clear().env("TMPDIR", scratch).env("PATH", "/usr/bin:/bin").arg("demo").uid(NOBODY).gid(NOBODY);
        command.output().unwrap()
    });
    let output = output.join().unwrap();
    assert_kept(&output);
    assert!(text(&output.stdout).contains("rootless"));
    place.assert_nothing_left(Duration::ZERO);
}
