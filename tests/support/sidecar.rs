//! `bypassctl proxy` in a pod.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::init::bypassctl;
use super::pod::Pod;
use super::roles::AGENT_ADMIN;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const NET_ADMIN: &str =
    "--regid=12552 --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin";
pub(crate) const NOTHING: &str = "--regid=12552 --inh-caps=-all --ambient-caps=-all --bounding-set=-all";
/// The sidecar, without TLS, for rules are the same with it; killed when dropped.
pub(crate) struct Sidecar<'a> {
    pod: &'a Pod,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Sidecar<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its group may be root's: who else may not list legacy tables (/proc/net/ip_tables_names).
pub(crate) fn as_agent(privileges: &str, args: &[&str]) -> Command {
    let proxy = bypassctl(&[&["--log-format", "json", "proxy", "--mode", "disabled"], args].concat());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=12552", "--clear-groups"]).args(privileges.split_whitespace());
    command.arg(proxy.get_program()).args(proxy.get_args());
    command
}

impl<'a> Sidecar<'a> {
    pub(crate) fn start(pod: &'a Pod, privileges: &str, args: &[&str]) -> Self {
        Self::start_after(pod, || {}, privileges, args)
    }

    /// The same on a thread that has been prepared.
    pub(crate) fn start_after(
        pod: &'a Pod,
        prepare: impl FnOnce() + Send + 'static,
        privileges: &str,
        args: &[&str],
    ) -> Self {
        let mut command = as_agent(privileges, args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = pod
            .run(move || {
                prepare();
                command.spawn()
            })
            .expect("setpriv, which scripts/test installs");
        let log = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (child.stderr.take().expect("a pipe"), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { pod, child, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status and body of a page of the admin port.
    pub(crate) fn get(&self, path: &'static str) -> Option<(u16, String)> {
        let answer = self.pod.run(move || {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, AGENT_ADMIN)))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        let answer = answer.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn await_ready(&self, wanted: u16, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let last = self.get("/ready");
            if let Some((status, body)) = &last
                && *status == wanted
                && body.contains(text)
            {
                return body.clone();
            }
            assert!(Instant::now() < end, "no {wanted} with {text:?}, but {last:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let (_, metrics) = self.get("/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}
