//! The webhook as the API server meets it: a process, HTTPS, files that change. With an API server: tests/kube.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bypassctl::tls::issue::{DevelopmentCa, LeafRequest};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use time::OffsetDateTime;

const NAME: &str = "bypassctl-webhook.mesh.svc";

fn bypassctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    command.env_clear();
    command
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Puts a fresh pair into the directory; its authority.
fn write_pair(dir: &Path) -> DevelopmentCa {
    let ca = DevelopmentCa::new("test").unwrap();
    let now = OffsetDateTime::now_utc();
    let leaf = ca
        .issue(&LeafRequest {
            common_name: NAME.to_owned(),
            spiffe_id: None,
            dns_names: vec![NAME.to_owned()],
            ip_addresses: Vec::new(),
            not_before: now - time::Duration::HOUR,
            not_after: now + time::Duration::DAY,
        })
        .unwrap();
    fs::write(dir.join("tls.crt"), leaf.certificate_pem).unwrap();
    fs::write(dir.join("tls.key"), leaf.key_pem).unwrap();
    ca
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Another caller, by its address, for each number.
fn caller(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

fn dial(to: SocketAddr, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from.into(), 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn connect(ca: &DevelopmentCa, to: SocketAddr, from: Ipv4Addr) -> std::io::Result<Tls> {
    tls(ca, dial(to, from)?)
}

/// With the handshake behind it.
fn tls(ca: &DevelopmentCa, stream: TcpStream) -> std::io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
    let mut stream = StreamOwned::new(tls, stream);
    stream.flush()?;
    Ok(stream)
}

struct Hook {
    process: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Hook {
    fn start(dir: &Path) -> Self {
        Self::listening(dir, free_port())
    }

    fn listening(dir: &Path, listen: SocketAddr) -> Self {
        Self::with(dir, listen, &[])
    }

    fn with(dir: &Path, listen: SocketAddr, options: &[&str]) -> Self {
        let admin = free_port();
        let mut process = bypassctl()
            .args([
                "webhook",
                "--listen",
                &listen.to_string(),
                "--admin-port",
                &admin.port().to_string(),
                "--image",
                "agent:1",
            ])
            .arg("--tls-dir")
            .arg(dir)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("serving")));
        assert!(said.is_some(), "the webhook ended before it served");
        // A pipe that nobody reads would stop it when it is full.
        std::thread::spawn(move || log.count());
        Self { process, listen, admin }
    }

    fn connect(&self, ca: &DevelopmentCa) -> std::io::Result<Tls> {
        tls(ca, TcpStream::connect(self.listen)?)
    }

    fn connect_from(&self, ca: &DevelopmentCa, from: Ipv4Addr) -> std::io::Result<Tls> {
        connect(ca, self.listen, from)
    }

    /// A connection from that address, which says nothing yet.
    fn silent(&self, from: Ipv4Addr) -> TcpStream {
        dial(self.listen, from).unwrap()
    }

    /// The answer's head and body.
    fn post(&self, ca: &DevelopmentCa, body: &str) -> (String, String) {
        let mut stream = self.connect(ca).unwrap();
        write!(stream, "{}Connection: close\r\n\r\n{body}", head(body.len())).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request's head, to which headers may be added.
fn head(length: usize) -> String {
    format!(
        "POST /mutate?timeout=5s HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    )
}

/// Reads up to the end of an answer on a connection that stays open; its head.
fn answer(stream: &mut Tls) -> String {
    let mut read = Vec::new();
    let mut one = [0];
    while !read.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut one).unwrap();
        read.push(one[0]);
    }
    let head = String::from_utf8(read).unwrap();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).unwrap();
    head
}

/// Whether the other end closes it, sooner or later.
fn is_closed(stream: &mut impl std::io::Read) -> bool {
    // What it said before it closed is no matter here.
    loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            }
        }
    }
}

fn review() -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "shop",
        "object": {"metadata": {"name": "cart"}, "spec": {"containers": [{"name": "cart", "image": "cart:1"}]}},
    }})
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_review_is_answered_with_a_patch_and_counted() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let (head, body) = hook.post(&ca, &review().to_string());
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["response"]["uid"], "u");
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    assert!(hook.admin("/ready").starts_with("HTTP/1.1 200"));
    assert!(hook.admin("/metrics").contains("bypassctl_webhook_reviews_total{verdict=\"injected\"} 1"));
}

#[test]
fn what_is_no_review_gets_a_400_that_says_so() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    for (body, reason) in [
        ("", "no JSON"),
        ("{\"apiVersion\": ", "no JSON"),
        (&"[".repeat(100_000), "no JSON"),
        ("{}", "no AdmissionReview"),
        (&format!("[{}0]", "0,".repeat(1 << 20)), "more than 32768 values"),
    ] {
        let (head, text) = hook.post(&ca, body);
        assert!(head.starts_with("HTTP/1.1 400") && text.contains(reason), "{head}\n{text}");
    }
    assert!(hook.admin("/metrics").contains("bypassctl_webhook_reviews_total{verdict=\"invalid\"} 5"));
}

/// Four addresses are enough to take every place, of those that say nothing, that have shaken hands and that stop in a body.
#[test]
fn whoever_fills_the_door_does_not_keep_the_api_server_out() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let body = review().to_string();
    let mut used = hook.connect_from(&ca, caller(9)).unwrap();
    write!(used, "{}\r\n{body}", head(body.len())).unwrap();
    assert!(answer(&mut used).starts_with("HTTP/1.1 200"));
    let mut filling = Vec::new();
    let gave_way = "connections_turned_away_total{port=\"webhook\",reason=\"gave_way\"} ";
    until("somebody gives way", || {
        filling.clear();
        filling.extend((1..=4).flat_map(|number| [caller(number); 128]).map(|from| hook.silent(from)));
        let (head, _) = hook.post(&ca, &body);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let metrics = hook.admin("/metrics");
        metrics.contains(gave_way) && !metrics.contains(&format!("{gave_way}0"))
    });
    write!(used, "{}\r\n{body}", head(body.len())).unwrap();
    assert!(answer(&mut used).starts_with("HTTP/1.1 200"), "who has one connection keeps it");
    let mut greedy = hook.silent(caller(1));
    greedy.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(is_closed(&mut greedy), "it has its share");
}

#[test]
fn whoever_stops_anywhere_is_closed() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let body = review().to_string();
    let mut stopped = Vec::new();
    // In the handshake, before a request, in its head, in its body, in a large body, and in the body of a second one.
    let silent = hook.silent(caller(1));
    for (from, said) in [
        (2, String::new()),
        (3, "POST /mutate HTTP/1.1\r\nHost: x\r\nX-Slow:".to_owned()),
        (4, head(body.len()) + "\r\n{"),
        (5, head(1 << 20) + "\r\n{"),
        (6, format!("{}\r\n{body}{}\r\n{{", head(body.len()), head(body.len()))),
    ] {
        let mut stream = hook.connect_from(&ca, caller(from)).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream.flush().unwrap();
        stopped.push(stream);
    }
    let forever = Some(Duration::from_secs(60));
    silent.set_read_timeout(forever).unwrap();
    assert!(is_closed(&mut &silent), "silent");
    for (number, mut stream) in stopped.into_iter().enumerate() {
        stream.sock.set_read_timeout(forever).unwrap();
        assert!(is_closed(&mut stream), "{number}");
    }
    let metrics = hook.admin("/metrics");
    assert!(metrics.contains("bypassctl_webhook_reviews_total{verdict=\"dropped\"} 3"), "{metrics}");
    until("no place is kept", || hook.admin("/metrics").contains("connections{port=\"webhook\"} 0"));
}

#[test]
fn a_connection_serves_one_review_after_the_other() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let mut stream = hook.connect(&ca).unwrap();
    let body = review().to_string();
    for _ in 0..3 {
        write!(stream, "{}\r\n{body}", head(body.len())).unwrap();
        let head = answer(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200") && !head.contains("connection: close"), "{head}");
    }
    // Longer than anything may take but the wait for the next review.
    sleep(Duration::from_secs(6));
    write!(stream, "{}\r\n{body}", head(body.len())).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_body_without_a_length_or_beyond_what_an_api_server_takes_is_not_read() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let chunked = "POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for (said, status) in [(chunked, "411"), (head((3 << 20) + 1) + "\r\n", "413")] {
        let mut stream = hook.connect(&ca).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        let head = answer(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    // The largest that it takes, for real: a pod that is nearly all one annotation.
    let mut largest = review();
    largest["request"]["object"]["metadata"]["annotations"] = json!({"x": "y".repeat((3 << 20) - 400)});
    let largest = largest.to_string();
    assert!((3 << 20) - 400 < largest.len() && largest.len() <= 3 << 20);
    let (head, _) = hook.post(&ca, &largest);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

/// The chart's limit for the webhook, in KiB.
fn chart_limit() -> u64 {
    let values = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/chart/bypassctl/values.yaml");
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(values).unwrap()).unwrap();
    let limit = values["webhook"]["resources"]["limits"]["memory"].as_str().unwrap();
    limit.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * 1024
}

/// Most that the process has had in memory so far, in KiB.
fn peak(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Bodies as large as may be, of what takes most memory when it is read, planned for or answered.
fn worst_bodies() -> Vec<String> {
    let of_pod = |spec: String| {
        let kind = r#"{"group":"","version":"v1","kind":"Pod"}"#;
        format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","kind":{kind},"operation":"CREATE","object":{{"metadata":{{"name":"a"}},"spec":{spec}}}}}}}"#
        )
    };
    let largest = 3 << 20;
    let args = |item: &str, most: usize| {
        let args = vec![item; (most / (item.len() + 1)).min(32_000)].join(",");
        of_pod(format!(r#"{{"containers":[{{"name":"a","args":[{args}]}}]}}"#))
    };
    let container = r#"{"name":"","ports":[{"containerPort":2552}],"env":[]}"#;
    let apps = |many: usize| of_pod(format!(r#"{{"containers":[{}]}}"#, vec![container; many].join(",")));
    let text = "x".repeat(80);
    vec![
        format!("[{}0]", "0,".repeat(largest / 2 - 1)),
        format!("[{}0]", r#"{"":0},"#.repeat(largest / 8)),
        args("\"\"", largest - 400),
        args("[0]", largest - 400),
        args(r#"{"":0}"#, largest - 400),
        args(&format!("\"{text}\""), largest - 400),
        of_pod(format!(r#"{{"containers":[{{"name":"a","args":["{}"]}}]}}"#, "y".repeat(largest - 400))),
        apps(5000),
        apps(1100),
        "z".repeat(largest),
    ]
}

/// One body of 6 MB was enough once. Every place is taken, by those who stop before the end of the largest small body, and
/// meanwhile several callers send the worst that there is, and do not read the answers, or do.
#[test]
fn no_flood_takes_more_memory_than_the_chart_gives() {
    let dir = TempDir::new().unwrap();
    let ca = Arc::new(write_pair(dir.path()));
    let listen = free_port();
    let hook = Hook::with(dir.path(), listen, &["--path", "ports", "--sidecar", "classic"]);
    let bodies = Arc::new(worst_bodies());
    let half = 64 * 1024;
    let mut stopped: Vec<Tls> = Vec::new();
    for number in (101..=105).flat_map(|caller| [caller; 100]) {
        let mut stream = hook.connect_from(&ca, caller(number)).unwrap();
        write!(stream, "{}\r\n{}", head(half), "{".repeat(half - 1)).unwrap();
        stream.flush().unwrap();
        stopped.push(stream);
    }
    let senders: Vec<_> = (0..8)
        .map(|number| {
            let (ca, bodies) = (Arc::clone(&ca), Arc::clone(&bodies));
            std::thread::spawn(move || {
                for body in bodies.iter() {
                    // Whoever finds no place is closed, and whoever sends too slowly.
                    let Ok(mut stream) = connect(&ca, listen, caller(1 + number % 4)) else { continue };
                    let _ = write!(stream, "{}\r\n{body}", head(body.len()));
                    if number % 2 == 0 {
                        let _ = stream.flush();
                        continue;
                    }
                    let _ = stream.sock.set_read_timeout(Some(Duration::from_secs(60)));
                    is_closed(&mut stream);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    drop(stopped);
    let (head, _) = hook.post(&ca, &review().to_string());
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (peak, limit) = (peak(&hook.process), chart_limit());
    // A quarter is for what is counted against the pod beside its own pages: sockets' buffers.
    assert!(peak < limit / 4 * 3, "{peak} KiB of the chart's {limit}");
}

/// Runs the work as on a kernel that was started with `ipv6.disable=1`, in which nobody gets a socket of that family.
fn without_ipv6<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let family = u64::try_from(nix::libc::AF_INET6).unwrap();
    let is_v6 = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family).unwrap();
    let rules = [(nix::libc::SYS_socket, vec![SeccompRule::new(vec![is_v6]).unwrap()])].into();
    let absent = SeccompAction::Errno(u32::try_from(nix::libc::EAFNOSUPPORT).unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, absent, arch).unwrap().try_into().unwrap();
    // A filter is a thread's, and of all that it starts.
    let confined = move || {
        apply_filter(&filter).unwrap();
        work()
    };
    std::thread::spawn(confined).join().unwrap()
}

#[test]
fn a_node_without_ipv6_is_served_on_ipv4() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let (place, port) = (dir.path().to_owned(), free_port().port());
    let mut hook = without_ipv6(move || {
        TcpListener::bind("[::1]:0").expect_err("there is IPv6");
        Hook::listening(&place, SocketAddr::new(IpAddr::from([0; 16]), port))
    });
    hook.listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let (head, _) = hook.post(&ca, &review().to_string());
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(hook.admin("/ready").starts_with("HTTP/1.1 200"));
}

#[test]
fn the_address_of_all_is_of_both_families() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let port = free_port().port();
    let mut hook = Hook::listening(dir.path(), SocketAddr::new(IpAddr::from([0; 16]), port));
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), "::1".parse().unwrap()] {
        hook.listen = SocketAddr::new(address, port);
        let (head, _) = hook.post(&ca, &review().to_string());
        assert!(head.starts_with("HTTP/1.1 200"), "{address}: {head}");
    }
}

#[test]
fn a_new_pair_is_followed_and_a_broken_one_is_not() {
    let dir = TempDir::new().unwrap();
    write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let ca = write_pair(dir.path());
    until("the new pair is served", || hook.connect(&ca).is_ok_and(|mut stream| stream.write(b"x").is_ok()));
    fs::write(dir.path().join("tls.key"), "garbage").unwrap();
    until("the fault is told", || hook.admin("/ready").contains("the next one cannot be had: private key"));
    let (head, _) = hook.post(&ca, &review().to_string());
    assert!(head.starts_with("HTTP/1.1 200"), "the last good pair serves: {head}");
}

#[test]
fn bad_arguments_are_named() {
    let dir = TempDir::new().unwrap();
    write_pair(dir.path());
    let pair = dir.path().to_str().unwrap();
    let other = TempDir::new().unwrap();
    let none = other.path().to_str().unwrap();
    for (args, code, says) in [
        (&[][..], 2, "--tls-dir"),
        (&["--self-signed"], 2, "--secret"),
        (&["--self-signed", "--tls-dir", pair], 2, "cannot be used with"),
        (&["--self-signed", "--secret", "x", "--service", "s", "--webhook-configuration", "w"], 2, "NAMESPACE/NAME"),
        (&["--tls-dir", none], 2, "tls.crt does not exist"),
        (&["--tls-dir", pair, "--allow", "sheep"], 2, "allow"),
        (&["--tls-dir", pair, "--listen", "192.0.2.1:9443"], 5, "cannot listen on 192.0.2.1:9443"),
    ] {
        let output = bypassctl().arg("webhook").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && text.contains(says), "{args:?}: {:?} {text}", output.status);
    }
}
