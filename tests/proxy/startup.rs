//! Bad input stops the start, with the documented exit code and a message that says what to do.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use bypassctl::tls::issue::LeafRequest;
use time::{Duration, OffsetDateTime};

use crate::harness::{Certificates, Sidecar, executable, free_port, write_set};

/// Exit code and standard error of a sidecar that cannot start.
fn refused(args: &[&str]) -> (i32, String) {
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    command.arg("proxy").args(["--bind-address", "127.0.0.1"]);
    for (option, port) in ["--outbound-port", "--inbound-port", "--admin-port"].into_iter().zip(&ports) {
        if !args.contains(&option) {
            command.args([option, port]);
        }
    }
    let output = command.args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn assert_refused(args: &[&str], code: i32, part: &str) {
    let (got, text) = refused(args);
    assert!(
        got == code && text.contains(part),
        "{args:?}: exit code {got} instead of {code}, or no {part:?} in {text}"
    );
}

/// Promise: a taken port is exit code 5, and the message names port and option.
#[test]
fn a_taken_port_is_named_with_its_option() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    for option in ["--outbound-port", "--inbound-port", "--admin-port"] {
        let taken = free_port();
        let _holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
        let port = taken.to_string();
        let (code, text) = refused(&["--tls-dir", dir.to_str().unwrap(), option, &port]);
        assert_eq!(code, 5, "{text}");
        assert!(text.contains(&format!("{option}: cannot listen on 127.0.0.1:{port}")), "{text}");
        assert!(text.contains("another program listens there: stop it, or give another port"), "{text}");
    }
}

/// Promise: credentials that could not serve stop the start with exit code 2, each fault with its own words.
#[test]
fn every_bad_credential_stops_the_start() {
    let certificates = Certificates::new();
    let good = certificates.leaf("cart");
    let ca = certificates.ca.certificate_pem();
    let now = OffsetDateTime::now_utc();
    let request = || LeafRequest::for_service_account("cluster.local", "shop", "cart");
    let expired = certificates.ca.issue(&LeafRequest { not_after: now - Duration::MINUTE, ..request() }).unwrap();
    let early = certificates.ca.issue(&LeafRequest { not_before: now + Duration::HOUR, ..request() }).unwrap();
    let foreign = Certificates::new().leaf("cart");
    type Spoil = Box<dyn Fn(&Path)>;
    let write = |name: &'static str, text: &str| -> Spoil {
        let text = text.to_owned();
        Box::new(move |dir| std::fs::write(dir.join(name), &text).unwrap())
    };
    let both = |leaf: &bypassctl::tls::issue::IssuedLeaf| -> Spoil {
        let (leaf, ca) = (leaf.clone(), ca.to_owned());
        Box::new(move |dir| write_set(dir, &leaf, &ca))
    };
    let remove = |name: &'static str| -> Spoil { Box::new(move |dir| std::fs::remove_file(dir.join(name)).unwrap()) };
    let unreadable: Spoil = Box::new(|dir| {
        // A directory, because root reads whatever its mode says.
        std::fs::remove_file(dir.join("tls.key")).unwrap();
        std::fs::create_dir(dir.join("tls.key")).unwrap();
        std::fs::set_permissions(dir.join("tls.key"), std::fs::Permissions::from_mode(0o000)).unwrap();
    });
    let cases: Vec<(Spoil, &str)> = vec![
        (remove("tls.crt"), "tls.crt does not exist"),
        (remove("tls.key"), "tls.key does not exist"),
        (remove("ca.crt"), "ca.crt does not exist"),
        (unreadable, "tls.key cannot be read"),
        (write("tls.crt", ""), "tls.crt: it is empty"),
        (write("tls.crt", "certificate"), "tls.crt: no PEM block"),
        (write("tls.key", &foreign.key_pem), "does not belong to certificate"),
        (write("ca.crt", "roots"), "ca.crt: no PEM block"),
        (both(&expired), "tls.crt expired at"),
        (both(&early), "tls.crt is not valid before"),
        (both(&foreign), "does not lead to any root"),
    ];
    for (i, (spoil, part)) in cases.into_iter().enumerate() {
        let dir = certificates.path().join(format!("case-{i}"));
        write_set(&dir, &good, ca);
        spoil(&dir);
        assert_refused(&["--tls-dir", dir.to_str().unwrap()], 2, part);
    }
}

/// Promise: settings that make no sense stop the start with exit code 2.
#[test]
fn every_bad_setting_stops_the_start() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let with = |more: &[&'static str]| {
        let mut args = vec!["--tls-dir", dir.to_str().unwrap()];
        args.extend(more);
        refused(&args)
    };
    for (more, part) in [
        (&["--allow", "cart"][..], "--allow: \"cart\" is no identity"),
        (&["--allow", "spiffe://cluster*"], "may stand at the end only"),
        (&["--permissive-until", "soon"], "--permissive-until \"soon\" is no date"),
        (&["--inbound-port", "2552"], "port 2552 is named both as"),
        (&["--admin-port", "0"], "0 is not in"),
        (&["--remoting-port", "70000"], "70000"),
        (&["--outbound-target", "nowhere"], "nowhere"),
        (&["--mode", "lax"], "lax"),
        (&["--unknown"], "--unknown"),
    ] {
        let (code, text) = with(more);
        assert!(code == 2 && text.contains(part), "{more:?}: exit code {code}, {text}");
    }
    assert_refused(&[], 2, "no certificate: give --tls-dir or --tls-cert");
}

/// Promise: a file that is none, such as a pipe that nobody writes, is refused at once and not waited for.
#[test]
fn a_pipe_for_a_key_is_refused_at_once() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let key = dir.join("tls.key");
    std::fs::remove_file(&key).unwrap();
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_refused(&["--tls-dir", dir.to_str().unwrap()], 2, "it is no regular file");
}

/// Promise: neither a core dump nor a process of the same user can have the key. What the kernel lets nobody dump belongs to root
/// in /proc (proc(5)).
#[test]
fn its_memory_is_nobodys_to_read() {
    const AGENT: u32 = 12552;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("bypassctl");
    std::fs::copy(executable(), &program).unwrap();
    let args = ["--mode=disabled", "--outbound-target=127.0.0.1:1", "--inbound-target=127.0.0.1:1"];
    let sidecar = Sidecar::start_by(Command::new(program).uid(AGENT).gid(AGENT), &args);
    let owner = |file: &str| std::fs::metadata(format!("/proc/{}/{file}", sidecar.pid())).unwrap().uid();
    assert_eq!((owner("mem"), owner("environ")), (0, 0));
    let mut ordinary = Command::new("sleep").arg("60").uid(AGENT).gid(AGENT).spawn().unwrap();
    let theirs = std::fs::metadata(format!("/proc/{}/mem", ordinary.id())).unwrap().uid();
    ordinary.kill().unwrap();
    ordinary.wait().unwrap();
    assert_eq!(theirs, AGENT);
}
