//! The webhook as the API server meets it: a process, HTTPS, files that change. With an API server: tests/kube.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bypassctl::tls::issue::{DevelopmentCa, LeafRequest};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
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

struct Hook {
    process: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Hook {
    fn start(dir: &Path) -> Self {
        let (listen, admin) = (free_port(), free_port());
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

    fn connect(&self, ca: &DevelopmentCa) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
        let mut stream = StreamOwned::new(tls, TcpStream::connect(self.listen)?);
        stream.flush()?;
        Ok(stream)
    }

    /// The answer's head and body.
    fn post(&self, ca: &DevelopmentCa, body: &str) -> (String, String) {
        let mut stream = self.connect(ca).unwrap();
        let head = format!("POST /mutate?timeout=5s HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n");
        write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
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
    ] {
        let (head, text) = hook.post(&ca, body);
        assert!(head.starts_with("HTTP/1.1 400") && text.contains(reason), "{head}\n{text}");
    }
    assert!(hook.admin("/metrics").contains("bypassctl_webhook_reviews_total{verdict=\"invalid\"} 4"));
}

#[test]
fn silent_callers_do_not_keep_the_api_server_out_and_are_closed() {
    let dir = TempDir::new().unwrap();
    let ca = write_pair(dir.path());
    let hook = Hook::start(dir.path());
    let mut silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(hook.listen).unwrap()).collect();
    let (head, _) = hook.post(&ca, &review().to_string());
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let first = &mut silent[0];
    first.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    match first.read(&mut [0; 64]) {
        Ok(read) => assert_eq!(read, 0, "it is closed"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
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
