//! What the machine lacks: file descriptors, room for logs, a clock that can be relied on.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::crowds::{knock, seclude};
use crate::harness::{
    App, Certificates, DEADLINE, Sidecar, assert_echo, assert_no_byte, connect, eventually, executable, local,
};

const DESCRIPTORS: usize = 80;

/// A sidecar with few descriptors.
fn limited(dir: &Path, app: &App, more: &[&str]) -> Sidecar {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")).arg(executable()).stderr(Stdio::piped());
    Sidecar::between_by(&mut limited, dir, local(1), app.address, more)
}

/// Promise: a sidecar that has no descriptors left waits for some and does not spin, serves whom it has, and serves
/// whoever waited once there are some again.
#[test]
fn without_descriptors_it_waits_and_then_goes_on() {
    let certificates = Certificates::new();
    let (dir, app) = (certificates.tls_dir("cart"), App::echo());
    let far = limited(&dir, &app, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &["--breaker-failures=0"]);
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let held: Vec<TcpStream> = (0..6 * DESCRIPTORS).map(|_| connect(far.inbound).unwrap()).collect();
    let folder = format!("/proc/{}/fd", far.pid());
    let taken = || std::fs::read_dir(&folder).unwrap().count();
    eventually("all descriptors are taken", || (taken() >= DESCRIPTORS).then_some(()));
    let before = far.processor_time();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(2) {
        assert_echo(&mut old, "meanwhile");
        std::thread::sleep(Duration::from_millis(100));
    }
    let spent = far.processor_time() - before;
    println!("processor time in 2 s without descriptors: {spent:?}");
    assert!(spent < Duration::from_millis(300), "it spins: {spent:?} in 2 s");
    assert!(taken() >= DESCRIPTORS, "the test has not shown what it is for");
    drop(held);
    eventually("new connections again", || {
        let mut stream = connect(near.outbound).unwrap();
        stream.write_all(b"after").unwrap();
        stream.read_exact(&mut [0; 5]).ok()
    });
    assert_echo(&mut old, "after");
    let complaints = far.log().matches("cannot accept").count();
    assert!(complaints <= 3, "{complaints} lines about one shortage");
}

/// Promise: strangers that hold all descriptors with half hellos, and more of them than any peer needs, keep no peer out.
#[test]
fn strangers_give_way_where_descriptors_are_scarce() {
    seclude();
    let certificates = Certificates::new();
    let (dir, app) = (certificates.tls_dir("cart"), App::echo());
    let own = Ipv4Addr::new(10, 99, 0, 1);
    let far = limited(&dir, &app, &["--bind-address", &own.to_string(), "--handshake-timeout=300"]);
    let target = SocketAddr::from((own, far.inbound.port()));
    let near = Sidecar::between(&dir, target, local(1), &["--breaker-failures=0"]);
    let _strangers: Vec<_> = (0..DESCRIPTORS + 40)
        .map(|i| {
            let stranger = knock(Ipv4Addr::new(10, 99, 1, u8::try_from(i / 20).unwrap()), target).unwrap();
            stranger.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
            stranger
        })
        .collect();
    for _ in 0..3 {
        assert_echo(&mut connect(near.outbound).unwrap(), "through");
    }
    assert!(far.log().contains("cannot accept"), "there were enough of them");
}

/// Promise: that no descriptor is left to look for the app's listener is not taken for its end: a stopping sidecar goes on taking
/// connections as soon as it can. That there may be too few of them is said at the start.
#[test]
fn without_descriptors_the_app_is_not_taken_for_gone() {
    let certificates = Certificates::new();
    let (dir, app) = (certificates.tls_dir("cart"), App::echo());
    let far = limited(&dir, &app, &["--handshake-timeout=300", "--drain-timeout=300"]);
    far.log_line(&["fewer files may be open than --max-connections needs", "\"limit\":80"]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &["--breaker-failures=0"]);
    assert!(!near.log().contains("fewer files may be open"), "{}", near.log());
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let held: Vec<TcpStream> = (0..6 * DESCRIPTORS).map(|_| connect(far.inbound).unwrap()).collect();
    let folder = format!("/proc/{}/fd", far.pid());
    eventually("all descriptors are taken", || {
        (std::fs::read_dir(&folder).unwrap().count() >= DESCRIPTORS).then_some(())
    });
    far.signal(nix::sys::signal::Signal::SIGTERM);
    far.log_line(&["stopping"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_echo(&mut old, "meanwhile");
    drop(held);
    eventually("new connections", || {
        let mut stream = connect(near.outbound).unwrap();
        stream.write_all(b"after").ok()?;
        stream.read_exact(&mut [0; 5]).ok()
    });
    assert_echo(&mut old, "after");
}

/// Promise: log lines that cannot be written are lost and counted, and nothing else is.
#[test]
fn a_full_disk_for_logs_stops_nothing() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let start = |peer, app| {
        let mut command = Command::new(executable());
        command.stderr(File::options().write(true).open("/dev/full").unwrap());
        Sidecar::between_by(&mut command, &dir, peer, app, &["--log-level", "debug"])
    };
    let far = start(local(1), app.address);
    let near = start(far.inbound, local(1));
    for _ in 0..3 {
        let mut plaintext = connect(far.inbound).unwrap();
        plaintext.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_no_byte(&mut plaintext);
        assert_echo(&mut connect(near.outbound).unwrap(), "still here");
    }
    let refused = far.get("/metrics").1;
    let refused = refused.lines().find(|line| line.contains("plaintext_refused")).map(str::to_owned);
    assert!(refused.is_some_and(|line| line.ends_with(" 3")), "a refusal was lost with its log line");
    eventually("lost lines are counted", || {
        let metrics = far.get("/metrics").1;
        let lost = metrics.lines().find_map(|line| line.strip_prefix("bypassctl_log_lines_lost_total "))?;
        (lost.parse::<u64>().unwrap() >= 3).then_some(())
    });
}

/// Promise: whoever reads the log may stall (a container runtime that restarts, a node's disk that hangs): lines are lost
/// and counted, and nothing else is.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    const LINES: usize = 6000;
    let (reader, writer) = nix::unistd::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut command = Command::new(executable());
    command.stderr(writer);
    let app = App::echo();
    let target = app.address.to_string();
    let args = ["--mode=disabled", "--outbound-target", &target, "--inbound-target", &target, "--drain-timeout=1"];
    let options = [&args[..], &["--max-connections-per-peer=100000"]].concat();
    let mut sidecar = Sidecar::start_by(&mut command, &options);
    let mut held = connect(sidecar.outbound).unwrap();
    for _ in 0..LINES {
        drop(connect(sidecar.outbound).unwrap());
    }
    assert_echo(&mut held, "still here");
    assert_echo(&mut connect(sidecar.outbound).unwrap(), "and new ones");
    eventually("lost lines are counted", || {
        let metrics = sidecar.get("/metrics").1;
        let lost = metrics.lines().find_map(|line| line.strip_prefix("bypassctl_log_lines_lost_total "))?.to_owned();
        (lost.parse::<u64>().unwrap() > 0).then_some(())
    });
    sidecar.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("it ends", || sidecar.has_ended());
    drop(reader);
}

fn set_clock(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, offset).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Promise: a clock that jumps changes what certificates are worth, for as long as it is wrong, and nothing else: no
/// timeout fires, no open connection ends.
#[test]
fn a_clock_that_jumps_ends_no_connection() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let clock = certificates.path().join("clock");
    set_clock(&clock, "+0");
    let app = App::echo();
    let mut jumpy = Command::new(executable());
    jumpy
        .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .stderr(Stdio::piped());
    let far = Sidecar::between_by(&mut jumpy, &dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &["--breaker-failures=0"]);
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let mut undecided = connect(far.inbound).unwrap();
    for (offset, fault) in [("+2d", "certificate expired"), ("-30d", "certificate not valid yet")] {
        set_clock(&clock, offset);
        assert_echo(&mut old, "meanwhile");
        assert_no_byte(&mut connect(near.outbound).unwrap());
        eventually(&format!("{fault}; if it never comes, libfaketime is missing: scripts/test installs it"), || {
            far.log().contains(fault).then_some(())
        });
        undecided.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let waiting = undecided.read(&mut [0]).expect_err("a handshake that has time yet was ended");
        assert_eq!(waiting.kind(), io::ErrorKind::WouldBlock, "a timeout of 10 s fired by the wall clock");
    }
    set_clock(&clock, "+0");
    assert_echo(&mut old, "after");
    let end = Instant::now() + DEADLINE;
    assert_echo(&mut connect(near.outbound).unwrap(), "new");
    assert!(Instant::now() < end);
}
