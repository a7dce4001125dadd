//! The admin port tells how things stand, and keeps secrets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::harness::{App, Certificates, DEADLINE, Sidecar, assert_echo, connect, free_port, head_and_body, local};

/// Promise: every page is there and says what it is for; none shows the key.
#[test]
fn every_page_answers_and_none_shows_a_secret() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "hello");

    assert_eq!(far.get("/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(far.get("/ready"), (200, "ready\n".to_owned()));
    let metrics = far.get("/metrics").1;
    for name in [
        "bypassctl_connections_active{direction=\"inbound\"} 1",
        "bypassctl_bytes_total{direction=\"inbound\",way=\"in\"} 5",
        "bypassctl_handshake_duration_seconds_count{direction=\"inbound\"} 1",
        "bypassctl_certificate_not_after_timestamp_seconds",
        "bypassctl_certificate_reloads_failed_total 0",
        "bypassctl_build_info{version=",
        "bypassctl_ready 1",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    let status = far.status();
    let group = &status["connections"][0];
    assert_eq!(group["identity"], "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!((group["connections"].as_u64(), group["bytes_in"].as_u64()), (Some(1), Some(5)));
    assert_eq!(status["mode"], "strict");
    assert_eq!(status["readiness"]["ready"], true);
    assert_eq!(status["credentials"]["roots"][0]["subject"], "CN=test CA");
    let config: serde_json::Value = serde_json::from_str(&far.get("/config").1).unwrap();
    assert_eq!(config["remoting_ports"], "2552");
    assert_eq!(config["limits"]["handshake_timeout_seconds"], 10);
    let page = far.get("/").1;
    assert!(page.contains("<h2>Connections</h2><table>") && page.contains("sa/cart"), "{page}");

    let key = std::fs::read_to_string(dir.join("tls.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    for path in ["/", "/status", "/config", "/metrics"] {
        assert!(!far.get(path).1.contains(secret), "{path} shows the key");
    }
    assert_eq!(far.get("/nothing").0, 404);
    drop(stream);
    far.log_line(&["connection ended"]);
    assert!(
        far.get("/metrics").1.contains("bypassctl_connections_total{direction=\"inbound\",reason=\"closed\"} 1"),
        "the end was not counted"
    );
}

/// Promise: a browser that gets the page runs its own script, asks its own sidecar, and does nothing else; nobody can guess
/// what makes a script the page's own.
#[test]
fn the_page_comes_with_a_policy_that_lets_its_own_script_run_and_nothing_else() {
    let certificates = Certificates::new();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), App::echo().address, &[]);
    let nonces: Vec<String> = (0..2)
        .map(|_| {
            let (head, page) = head_and_body(sidecar.admin, "/").unwrap();
            for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "cache-control: no-store"]
            {
                assert!(head.contains(header), "{header} is not in\n{head}");
            }
            let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'nonce-") && !policy.contains("unsafe"),
                "{policy}"
            );
            for part in ["frame-ancestors 'none'", "connect-src 'self'", "require-trusted-types-for 'script'"] {
                assert!(policy.contains(part), "{part} is not in {policy}");
            }
            let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
            assert!(nonce.len() == 32 && page.matches(&format!("nonce=\"{nonce}\"")).count() == 2, "{nonce}");
            assert!(!page.contains("src=\"http") && !page.contains("href=\"http"), "a resource from outside");
            nonce
        })
        .collect();
    assert_ne!(nonces[0], nonces[1]);
}

/// The preface of HTTP/2, SETTINGS with INITIAL_WINDOW_SIZE 0, and so many requests for `/` (RFC 9113, sections 3.4 and 6).
fn http2(requests: u32) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let window = [0, 4, 0, 0, 0, 0];
    // GET, /, http and :authority of the static table (RFC 7541, appendix A).
    let request = [&[0x82, 0x84, 0x86, 0x41, 9][..], b"localhost"].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &window));
    for i in 0..requests {
        bytes.extend(frame(1, 0x5, 2 * i + 1, &request));
    }
    bytes
}

/// Promise: the admin port speaks HTTP/1.1 alone.
#[test]
fn a_caller_of_http_2_gets_no_settings() {
    let sidecar = Sidecar::start(&["--mode=disabled", "--outbound-target=127.0.0.1:1", "--inbound-target=127.0.0.1:1"]);
    let mut stream = connect(sidecar.admin).unwrap();
    stream.write_all(&http2(0)).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
}

/// Promise: whoever asks without end and takes no answer makes the sidecar keep little.
#[test]
fn callers_that_take_no_answer_fill_no_memory() {
    const CALLERS: usize = 16;
    let sidecar = Sidecar::start(&["--mode=disabled", "--outbound-target=127.0.0.1:1", "--inbound-target=127.0.0.1:1"]);
    let page = sidecar.get("/").1.len() as u64 / 1024;
    let before = sidecar.memory();
    let http1 = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200).into_bytes();
    let mut most = 0;
    for requests in [http2(200), http1] {
        let held: Vec<TcpStream> = (0..CALLERS)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                socket.connect(&sidecar.admin.into()).unwrap();
                let mut stream = TcpStream::from(socket);
                // It may have been hung up on already.
                let _ = stream.write_all(&requests);
                stream
            })
            .collect();
        // Whoever comes after them is answered after them.
        for _ in 0..20 {
            assert_eq!(sidecar.get("/healthz").0, 200);
            most = most.max(sidecar.memory());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        drop(held);
    }
    println!("a page of {page} KiB, {CALLERS} callers: {before} KiB before, at most {most} KiB");
    assert!(most < before + 8 * 1024, "{before} KiB before, {most} KiB meanwhile");
}

/// Promise: what changes something is for the pod itself, and a mesh's proxy that brings strangers from 127.0.0.6 is not that.
#[test]
fn whom_a_mesh_brings_over_loopback_changes_nothing() {
    let certificates = Certificates::new();
    let more = ["--fault-injection"];
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(free_port()), &more);
    let from_mesh = |method: &str, path: &str, body: &str| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 6), 0)).into()).unwrap();
        socket.connect(&sidecar.admin.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}");
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let fault = r#"{"kind":"abort","seconds":9}"#;
    for (method, path, body) in
        [("POST", "/drain", ""), ("PUT", "/log", "off"), ("POST", "/faults", fault), ("DELETE", "/faults", "")]
    {
        let answer = from_mesh(method, path, body);
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("you call from 127.0.0.6"), "{path}: {answer}");
    }
    assert!(from_mesh("GET", "/ready", "").starts_with("HTTP/1.1 200 "));
    assert_eq!(sidecar.get("/log").1, "info\n");
}
