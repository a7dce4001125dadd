//! An app without rules: what it dials goes through the preloaded library, what arrives comes by the pod's ports. Each test has
//! a network namespace of its own, in which all of 10.99.0.0/16 is this machine's.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::crowds::seclude;
use crate::harness::{App, Certificates, Sidecar, assert_no_byte, assert_reset, connect, eventually, executable};

const NEAR: &str = "10.99.0.1";
const FAR: &str = "10.99.0.2";
/// The system's: other users may not run what is in root's home.
const PYTHON: &str = "/usr/bin/python3";
/// Somewhere that no sidecar is.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);

/// Dials as it is told, asks who is there, says something, and prints what it heard.
const DIALLER: &str = r#"
import select, socket, sys
host, port, family, way = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
dialling = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET)
if way == "waiting":
    dialling.settimeout(None)
    dialling.connect((host, port))
else:
    dialling.setblocking(False)
    error = dialling.connect_ex((host, port))
    if error == 115:
        select.select([], [dialling], [])
        error = dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, "not connected")
    dialling.setblocking(True)
print(dialling.getpeername()[:2])
dialling.sendall(b"hello")
print(dialling.recv(5, socket.MSG_WAITALL).decode())
"#;

/// The library, built as it is released.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("preload");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--package", "bypassctl-preload", "--profile", "shim"])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
            .arg(&target)
            .status();
        assert!(built.unwrap().success());
        target.join("shim/libbypassctl_preload.so")
    })
}

/// A program that has the library, as a user that is not the sidecar's.
fn preloaded(program: &str, remoting: u16, agent: u16) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]);
    // For setpriv itself nothing is to be preloaded.
    command.args(["env", &format!("LD_PRELOAD={}", readable(library()).display())]);
    command.args([format!("BYPASSCTL_SHIM_PORTS={remoting}"), format!("BYPASSCTL_SHIM_AGENT_PORT={agent}")]);
    command.arg(program);
    command
}

/// A copy that any user may read: the build may lie in root's home.
fn readable(library: &Path) -> PathBuf {
    static COPY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let copy = COPY.get_or_init(|| {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(library, dir.path().join("libbypassctl_preload.so")).unwrap();
        dir
    });
    copy.path().join("libbypassctl_preload.so")
}

fn dial(remoting: u16, agent: u16, to: SocketAddr, family: &str, way: &str) -> Output {
    let host = match (to, family) {
        (SocketAddr::V4(v4), "6") => format!("::ffff:{}", v4.ip()),
        _ => to.ip().to_string(),
    };
    preloaded(PYTHON, remoting, agent)
        .args(["-c", DIALLER, &host, &to.port().to_string(), family, way])
        .output()
        .unwrap()
}

fn heard(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn assert_refused(output: &Output) {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("111"), "{output:?}");
}

/// A sidecar on the pod's ports, the app's being the remoting port.
fn on_ports(dir: &Path, pod_ips: &str, remoting: u16, more: &[&str]) -> Sidecar {
    let remoting = remoting.to_string();
    let mut args = vec!["--path=ports", "--pod-ip", pod_ips, "--remoting-port", &remoting];
    args.extend(["--tls-dir", dir.to_str().unwrap()]);
    args.extend(more);
    Sidecar::start(&args)
}

fn add_address(address: &str) {
    let added = Command::new("ip").args(["address", "add", address, "dev", "lo"]).status().unwrap();
    assert!(added.success(), "{address}");
}

/// Two pods of both families with an app behind the far one's sidecar, and the app's port.
fn pods() -> (Certificates, App, u16, [Sidecar; 2]) {
    seclude();
    add_address("fd99::2/128");
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let port = app.address.port();
    let sidecars = [on_ports(&dir, &format!("{FAR},fd99::2"), port, &[]), on_ports(&dir, NEAR, port, &[])];
    (certificates, app, port, sidecars)
}

/// Promise: whether a program waits or not, and by whatever family, it reaches the app behind its peer's sidecar, over TLS,
/// and believes that it talks to its peer.
#[test]
fn what_an_app_dials_goes_through_both_sidecars() {
    let (_certificates, _app, port, [far, near]) = pods();
    for (peer, family, name) in [(FAR, "4", FAR), (FAR, "6", "::ffff:10.99.0.2"), ("fd99::2", "6", "fd99::2")] {
        for way in ["waiting", "later"] {
            let to = SocketAddr::new(peer.parse().unwrap(), port);
            let told = heard(&dial(port, near.outbound.port(), to, family, way));
            assert_eq!(told, format!("('{name}', {port})\nhello\n"), "{family} {way}");
        }
    }
    for line in
        [near.log_line(&["\"outbound\"", "connection ended"]), far.log_line(&["\"inbound\"", "connection ended"])]
    {
        assert!(line.contains("TLS 1.3") && line.contains("\"bytes_out\":5"), "{line}");
    }
    let (status, ready) = near.get("/ready");
    assert_eq!((status, &ready[..]), (200, "ready\n"));
    assert_eq!(near.status()["path"], "ports");
}

/// Calls a function of the C library with what it is given, and prints what it heard.
const CALLER: &str = r#"
import ctypes, os, socket, struct, sys
name, host, port, family, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
library = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    answer = getattr(library, name)(*arguments)
    return (answer, ctypes.get_errno() if answer else 0)
if family == "6":
    dialling = socket.socket(socket.AF_INET6)
    address = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + socket.inet_pton(socket.AF_INET6, host)
    address += bytes(4)
else:
    dialling = socket.socket()
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
"#;

/// What that prints, with more behind it.
fn call(remoting: u16, agent: u16, [name, host, family, length]: [&str; 4], more: &str) -> String {
    let script = CALLER.to_owned() + more;
    let mut command = preloaded(PYTHON, remoting, agent);
    heard(&command.args(["-c", &script, name, host, &remoting.to_string(), family, length]).output().unwrap())
}

/// Promise: by whatever name and with whatever length of an address the kernel would dial, the sidecar is dialled.
#[test]
fn every_way_to_say_connect_is_taken() {
    const MORE: &str = "print(call(name, dialling.fileno(), address, length), dialling.getpeername()[:2])\n\
        dialling.sendall(b'hello')\n\
        print(dialling.recv(5, socket.MSG_WAITALL).decode())";
    let (_certificates, _app, port, [_far, near]) = pods();
    let agent = near.outbound.port();
    for (name, host, family, length) in [
        ("connect", "fd99::2", "6", "24"),
        ("connect", "::ffff:10.99.0.2", "6", "24"),
        ("connect", "fd99::2", "6", "28"),
        ("connect", FAR, "4", "16"),
        ("__connect", FAR, "4", "16"),
    ] {
        let told = call(port, agent, [name, host, family, length], MORE);
        assert_eq!(told, format!("(0, 0) ('{host}', {port})\nhello\n"), "{name} {family} {length}");
    }
}

/// Promise: whoever asks again, as those do who asked not to wait, hears that it is connected, and its stream has one header.
#[test]
fn a_second_connect_says_nothing_to_the_sidecar() {
    const MORE: &str = "dialling.setblocking(False)\n\
        print([call(name, dialling.fileno(), address, length) for _ in range(3)])\n\
        dialling.sendall(b'hello')\n\
        dialling.setblocking(True)\n\
        print(dialling.recv(5, socket.MSG_WAITALL).decode())";
    let (_certificates, _app, port, [_far, near]) = pods();
    let told = call(port, near.outbound.port(), ["connect", FAR, "4", "16"], MORE);
    assert_eq!(told, "[(0, 0), (-1, 106), (-1, 106)]\nhello\n");
}

/// Promise: a connection with somebody else stays theirs, whatever it is told to become.
#[test]
fn who_is_connected_already_hears_no_header() {
    const MORE: &str = "elsewhere = socket.socket(); elsewhere.bind(('127.0.0.1', 0)); elsewhere.listen()\n\
        dialling.setblocking(False)\n\
        dialling.connect_ex(elsewhere.getsockname())\n\
        call(name, dialling.fileno(), address, length)\n\
        dialling.sendall(b'hello')\n\
        print(elsewhere.accept()[0].recv(99))";
    seclude();
    let sidecar = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let told = call(2552, sidecar.local_addr().unwrap().port(), ["connect", FAR, "4", "16"], MORE);
    assert_eq!(told, "b'hello'\n");
}

/// Promise: what the kernel refuses it refuses here too, and the app goes on.
#[test]
fn arguments_that_make_no_sense_are_the_kernels_to_refuse() {
    const MORE: &str = r#"
refused = socket.socket()
library.mmap.restype = ctypes.c_void_p
pages = library.mmap(None, ctypes.c_size_t(8192), 3, 0x22, -1, ctypes.c_size_t(0))
library.munmap(ctypes.c_void_p(pages + 4096), ctypes.c_size_t(4096))
ctypes.memmove(pages + 4088, address, 8)
for where in [None, ctypes.c_void_p(1), ctypes.c_void_p(pages + 4088)]:
    print(call(name, refused.fileno(), where, 16))
for size in [0, 15, 129, 0xffffffff]:
    print(call(name, refused.fileno(), address, ctypes.c_uint(size)))
print(call(name, dialling.fileno(), address, 16))
def peer(where, room):
    return call("getpeername", dialling.fileno(), where, room and ctypes.byref(room))
print(peer(ctypes.create_string_buffer(16), None), peer(ctypes.c_void_p(1), ctypes.c_uint(16)))
print(call("getpeername", dialling.fileno(), ctypes.create_string_buffer(16), ctypes.c_void_p(1)))
print(peer(ctypes.create_string_buffer(16), ctypes.c_int(-1)))
room, some = ctypes.c_uint(4), ctypes.create_string_buffer(b"x" * 16, 16)
print(peer(some, room), room.value, some.raw[4:] == b"x" * 12, some.raw[:4] == address[:4])
"#;
    seclude();
    let sidecar = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let told = call(2552, sidecar.local_addr().unwrap().port(), ["connect", FAR, "4", "16"], MORE);
    let (efault, einval) = ("(-1, 14)", "(-1, 22)");
    let wanted = [
        efault,
        efault,
        efault,
        einval,
        einval,
        einval,
        einval,
        "(0, 0)",
        &format!("{efault} {efault}"),
        efault,
        einval,
        "(0, 0) 16 True True",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), wanted);
}

/// Promise: without its sidecar an app connects with nobody.
#[test]
fn without_a_sidecar_nobody_is_dialled() {
    seclude();
    let peer = TcpListener::bind((ELSEWHERE, 0)).unwrap();
    let to = peer.local_addr().unwrap();
    for way in ["waiting", "later"] {
        assert_refused(&dial(to.port(), 15552, to, "4", way));
    }
    peer.set_nonblocking(true).unwrap();
    assert!(peer.accept().is_err(), "it was dialled all the same");
}

/// Promise: what is no remoting is not touched.
#[test]
fn other_ports_and_loopback_are_dialled_as_ever() {
    seclude();
    let app = App::echo();
    let loopback = heard(&dial(app.address.port(), 1, app.address, "4", "later"));
    assert!(loopback.contains("127.0.0.1") && loopback.ends_with("hello\n"), "{loopback}");
    let listener = TcpListener::bind((ELSEWHERE, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said).unwrap();
        said
    });
    heard(&dial(to.port() - 1, 1, to, "4", "waiting"));
    assert_eq!(&served.join().unwrap(), b"hello");
}

/// Promise: a typing error lets nothing out.
#[test]
fn with_settings_that_make_no_sense_everything_is_refused() {
    seclude();
    let listener = TcpListener::bind((ELSEWHERE, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for (variable, complaint) in [
        ("BYPASSCTL_SHIM_PORTS=2552;2553", "BYPASSCTL_SHIM_PORTS is no list of ports"),
        ("BYPASSCTL_SHIM_AGENT_PORT=agent", "BYPASSCTL_SHIM_AGENT_PORT is no port"),
    ] {
        let mut command = preloaded("env", 2552, 15552);
        let refused =
            command.args([variable, PYTHON, "-c", DIALLER, "10.99.0.9", &port, "4", "waiting"]).output().unwrap();
        assert_refused(&refused);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(told.matches(complaint).count(), 1, "{told}");
    }
}

/// Promise: the sidecar stands between the app's call and its answer in no way: the kernel completes both.
#[test]
fn a_sidecar_that_stands_still_holds_up_no_call() {
    let (_certificates, _app, port, [_far, near]) = pods();
    near.signal(Signal::SIGSTOP);
    let script = "import socket, sys, time\n\
        dialling = socket.socket()\n\
        dialling.setblocking(False)\n\
        assert dialling.connect_ex((sys.argv[1], int(sys.argv[2]))) == 0\n\
        dialling.setblocking(True)\n\
        dialling.sendall(b'hello')\n\
        print('connected', flush=True)\n\
        print(dialling.recv(5, socket.MSG_WAITALL).decode())";
    let mut command = preloaded(PYTHON, port, near.outbound.port());
    command.args(["-c", script, FAR, &port.to_string()]).stdout(std::process::Stdio::piped());
    let mut dialler = command.spawn().unwrap();
    let mut said = [0; 10];
    dialler.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"connected\n");
    near.signal(Signal::SIGCONT);
    assert_eq!(heard(&dialler.wait_with_output().unwrap()), "hello\n");
}

/// Promise: what does not say where it is going goes nowhere, and what names a port that is no remoting port neither.
#[test]
fn only_remoting_that_is_handed_over_is_taken() {
    seclude();
    let certificates = Certificates::new();
    let near = on_ports(&certificates.tls_dir("cart"), NEAR, 2552, &[]);
    let header = |port: u16| {
        let to_8080 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x0a\x63\0\x02";
        [&to_8080[..], &port.to_be_bytes(), &8080_u16.to_be_bytes()].concat()
    };
    for (say, refusal) in [
        (
            &(|_| b"AKKA\x01 and what more an app says".to_vec()) as &dyn Fn(u16) -> Vec<u8>,
            "does not begin with a header",
        ),
        (&|_| b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec(), "version and command 0x20"),
        (&|port| header(port ^ 1), "through a proxy, not from the app"),
        (&|port| header(port), "\"reason\":\"not_remoting\""),
    ] {
        let mut stream = connect(near.outbound).unwrap();
        stream.write_all(&say(stream.local_addr().unwrap().port())).unwrap();
        assert_no_byte(&mut stream);
        near.log_line(&["connection refused", refusal]);
    }
    near.log_line(&["connection refused", "\"reason\":\"no_destination\""]);
    let started = Instant::now();
    let mut silent = connect(near.outbound).unwrap();
    assert_reset(&mut silent);
    near.log_line(&["nothing was said of where it was going"]);
    assert!(started.elapsed() > Duration::from_secs(1));
}

/// Promise: a program that has not loaded the library, and dials its peers itself, is seen.
#[test]
fn who_dials_past_the_sidecar_is_told_of() {
    seclude();
    let certificates = Certificates::new();
    let near = on_ports(&certificates.tls_dir("cart"), NEAR, 2552, &[]);
    let peer = TcpListener::bind((ELSEWHERE, 2552)).unwrap();
    let mut static_program = Command::new("setpriv");
    static_program.args(["--reuid=1000", "--regid=1000", "--clear-groups", PYTHON, "-c"]);
    static_program.arg("import socket\nsocket.create_connection(('10.99.0.9', 2552)).recv(1)");
    let mut dialler = static_program.spawn().unwrap();
    let (dialled, _) = peer.accept().unwrap();
    near.log_line(&["past the sidecar", "10.99.0.9:2552", "\"uid\":1000"]);
    let (status, text) = near.get("/ready");
    assert!(status == 503 && text.contains("10.99.0.9:2552 (user 1000)"), "{status} {text}");
    assert!(near.get("/metrics").1.contains("bypassctl_strays 1"));
    drop(dialled);
    assert!(dialler.wait().unwrap().success());
    eventually("it is forgotten", || (near.get("/ready").0 == 200).then_some(()));
}

/// Promise: what is installed is the library, and nothing else is taken for it.
#[test]
fn no_other_file_is_installed_in_place_of_the_library() {
    let dir = tempfile::tempdir().unwrap();
    let install = |library: &Path| {
        Command::new(executable()).arg("shim").arg("--install").arg(dir.path()).arg("--library").arg(library).output()
    };
    let stub = dir.path().join("stub");
    let ours = std::fs::read(library()).unwrap();
    let mut foreign = ours.clone();
    foreign[18] ^= 1;
    let mut renamed = ours.clone();
    renamed[ours.windows(12).position(|bytes| bytes == b"getpeername\0").unwrap()] = b'x';
    for (bytes, expected) in [
        (ours[..64].to_vec(), "exports connect"),
        (std::fs::read("/usr/bin/true").unwrap(), "exports connect"),
        (foreign, "a shared library for"),
        (renamed, "exports getpeername"),
        (b"#!/bin/sh".to_vec(), "ET_DYN"),
    ] {
        std::fs::write(&stub, bytes).unwrap();
        let refused = install(&stub).unwrap();
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && complaint.contains(expected), "{expected}: {complaint}");
        assert!(!dir.path().join("libbypassctl_preload.so").exists());
    }
    assert!(install(library()).unwrap().status.success());
    assert_eq!(std::fs::read(dir.path().join("libbypassctl_preload.so")).unwrap(), ours);
}

/// Promise: what others have put into the directory leads the install to no file elsewhere.
#[test]
fn a_link_in_the_directory_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "kept").unwrap();
    let script = "ln -s victim \"$1/libbypassctl_preload.so.$$\"\nexec \"$2\" shim --install \"$1\" --library \"$3\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(dir.path()).arg(executable()).arg(library());
    let installed = command.output().unwrap();
    assert!(installed.status.success(), "{installed:?}");
    assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
    let library = dir.path().join("libbypassctl_preload.so");
    assert!(library.symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "something is left");
}

/// Promise: an app that listens on the pod's address itself, in plaintext, is found before anything else runs.
#[test]
fn an_app_on_the_pods_address_keeps_the_sidecar_from_starting_with_the_reason() {
    seclude();
    let certificates = Certificates::new();
    let _app = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2552)).unwrap();
    let started = Command::new(executable())
        .args(["proxy", "--path=ports", "--pod-ip", NEAR, "--tls-dir"])
        .arg(certificates.tls_dir("cart"))
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&started.stderr).into_owned();
    assert_eq!(started.status.code(), Some(5), "{complaint}");
    assert!(complaint.contains("10.99.0.1:2552") && complaint.contains("bind 127.0.0.1"), "{complaint}");
}

/// Promise: the sidecar, which listens on the remoting port itself, ends once the app is gone.
#[test]
fn the_sidecars_own_listener_is_not_taken_for_the_apps() {
    seclude();
    let certificates = Certificates::new();
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 2552)).unwrap();
    let mut near = on_ports(&certificates.tls_dir("cart"), NEAR, 2552, &["--drain-timeout=60"]);
    near.signal(Signal::SIGTERM);
    near.log_line(&["stopping"]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(near.has_ended().is_none(), "the app is still there");
    drop(app);
    let status = eventually("it has ended", || near.has_ended());
    assert!(status.success(), "{status}");
}
