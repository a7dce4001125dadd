//! Certificates, apps and sidecars for the tests of this directory.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bypassctl::tls::issue::{DevelopmentCa, IssuedLeaf, LeafRequest};

/// For whatever must happen; a busy machine needs it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Polls until something is there.
pub(crate) fn eventually<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port below the ephemeral range, so that no outgoing connection takes it, free in both families.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
        let port = start + offset % 2_000;
        let v6 = TcpListener::bind(("::1", port)).map(|_| ()).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => Ok(()),
        });
        if v6.is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// An authority and a directory for what it issues.
pub(crate) struct Certificates {
    pub(crate) ca: DevelopmentCa,
    dir: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        Self { ca: DevelopmentCa::new("test CA").unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn leaf(&self, service_account: &str) -> IssuedLeaf {
        self.ca.issue(&LeafRequest::for_service_account("cluster.local", "shop", service_account)).unwrap()
    }

    /// A directory as cert-manager writes it.
    pub(crate) fn tls_dir(&self, service_account: &str) -> PathBuf {
        let dir = self.path().join(service_account);
        write_set(&dir, &self.leaf(service_account), self.ca.certificate_pem());
        dir
    }
}

pub(crate) fn write_set(dir: &Path, leaf: &IssuedLeaf, ca: &str) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("tls.crt"), &leaf.certificate_pem).unwrap();
    std::fs::write(dir.join("tls.key"), &leaf.key_pem).unwrap();
    std::fs::write(dir.join("ca.crt"), ca).unwrap();
}

/// The executable: the one of this build, or `BYPASSCTL_BIN`.
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("BYPASSCTL_BIN").map_or_else(|| env!("CARGO_BIN_EXE_bypassctl").into(), PathBuf::from)
}

/// A running sidecar; killed when dropped.
pub(crate) struct Sidecar {
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Sidecar {
    /// Starts a sidecar with ports of its own, and waits until it serves.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_by(Command::new(executable()).stderr(Stdio::piped()), args)
    }

    /// The same by a command that sets up something for it.
    pub(crate) fn start_by(command: &mut Command, args: &[&str]) -> Self {
        let (outbound, inbound, admin) = (free_port(), free_port(), free_port());
        command
            .args(["--log-format", "json", "proxy", "--bind-address", "127.0.0.1"])
            .args(["--outbound-port", &outbound.to_string(), "--inbound-port", &inbound.to_string()])
            .args(["--admin-port", &admin.to_string()])
            .args(args)
            .stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = child.stderr.take().map(collect).unwrap_or_default();
        let mut sidecar = Self { child, log, outbound: local(outbound), inbound: local(inbound), admin: local(admin) };
        sidecar.wait_until_it_serves();
        sidecar
    }

    fn wait_until_it_serves(&mut self) {
        eventually("the sidecar serves", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the sidecar ended with {status}: {}", self.log());
            }
            http(self.admin, "GET", "/healthz").ok().filter(|(status, _)| *status == 200)
        });
    }

    /// Kills it, and has its command start it anew, on the same ports.
    pub(crate) fn restart(&mut self, command: &mut Command) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = command.spawn().unwrap();
        self.log = self.child.stderr.take().map(collect).unwrap_or_default();
        self.wait_until_it_serves();
    }

    /// A sidecar with certificates of `dir` that dials `peer` and hands over to `app`.
    pub(crate) fn between(dir: &Path, peer: SocketAddr, app: SocketAddr, more: &[&str]) -> Self {
        Self::between_by(Command::new(executable()).stderr(Stdio::piped()), dir, peer, app, more)
    }

    /// The same by a command that sets up something for it.
    pub(crate) fn between_by(
        command: &mut Command,
        dir: &Path,
        peer: SocketAddr,
        app: SocketAddr,
        more: &[&str],
    ) -> Self {
        let (peer, app) = (peer.to_string(), app.to_string());
        let mut args = vec!["--tls-dir", dir.to_str().unwrap(), "--outbound-target", &peer, "--inbound-target", &app];
        args.extend(more);
        Self::start_by(command, &args)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has taken so far, in user and kernel mode.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name, in parentheses, may hold anything; the 14th and 15th fields are ticks of 10 ms (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(10 * ticks)
    }

    /// Memory of its own that it has in use, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        anonymous.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The first log line that holds all of these parts.
    pub(crate) fn log_line(&self, parts: &[&str]) -> String {
        let find = || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        };
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = find() {
                return line;
            }
            assert!(Instant::now() < end, "no log line with {parts:?} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        http(self.admin, "GET", path).unwrap()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Memory that it has now, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stderr: impl io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&log);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut buffer) {
            sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    log
}

/// One HTTP/1.1 request; status and body.
pub(crate) fn http(to: SocketAddr, method: &str, path: &str) -> io::Result<(u16, String)> {
    http_with(to, method, path, "")
}

/// Head and body of the answer to a GET.
pub(crate) fn head_and_body(of: SocketAddr, path: &str) -> io::Result<(String, String)> {
    let mut stream = connect(of)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok((head.to_ascii_lowercase(), body.to_owned()))
}

/// A request with a body.
pub(crate) fn http_with(to: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = connect(to)?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}", body.len());
    write!(stream, "{head}\r\nConnection: close\r\n\r\n{body}")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

/// A connection that fails a read after the deadline instead of hanging.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// An app that serves every connection with a function, and counts them.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    accepted: Arc<Mutex<usize>>,
}

impl App {
    pub(crate) fn serving(serve: fn(TcpStream)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(Mutex::new(0));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                *count.lock().unwrap() += 1;
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        Self { address, accepted }
    }

    pub(crate) fn echo() -> Self {
        Self::serving(|mut stream| {
            let mut writer = stream.try_clone().unwrap();
            let _ = io::copy(&mut stream, &mut writer);
            let _ = writer.shutdown(Shutdown::Write);
        })
    }

    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

/// Says something, and expects it back.
pub(crate) fn assert_echo(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap_or_else(|error| panic!("no echo of {text:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&back), text);
}

/// Expects that the connection ends without a byte.
pub(crate) fn assert_no_byte(stream: &mut TcpStream) {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("the connection should have ended without a byte, but {other:?} {byte:?}"),
    }
}

/// Expects a reset, and not the end of a stream.
pub(crate) fn assert_reset(stream: &mut TcpStream) {
    let error = io::copy(stream, &mut io::sink()).expect_err("the stream ended as if nothing was wrong");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
