//! `bypassctl status --local` tells people and probes what the sidecar says of itself.

use std::net::TcpStream;
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, free_port, local};

fn status(admin_port: u16, more: &[&str]) -> (i32, String, String) {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_bypassctl"))
        .args(["status", "--admin-port", &admin_port.to_string()])
        .args(more)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Promise: who is connected, who was refused and why is said in words; JSON is `/status` as it is.
#[test]
fn the_status_says_who_is_connected_and_who_was_refused() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "hello");
    let stranger = Sidecar::between(&certificates.tls_dir("stranger"), far.inbound, local(1), &["--allow", "ca"]);
    let _ = connect(stranger.outbound).map(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()));
    far.log_line(&["connection refused"]);
    let (code, text, _) = status(far.admin.port(), &["--local"]);
    for part in [
        "✓ ready",
        "strict",
        "none expected",
        "CN=test CA, until",
        "connections: 1\n  inbound  127.0.0.1  spiffe://cluster.local/ns/shop/sa/cart, TLS 1.3",
        "denied, seen: spiffe://cluster.local/ns/shop/sa/stranger",
        "hint: if the peer belongs to the cluster, name it with --allow",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(code == 0 && !text.contains('\u{1b}'), "{code}: colours in a pipe: {text}");
    let (code, json, _) = status(far.admin.port(), &["--local", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["connections"][0]["bytes_in"]), (0, &serde_json::json!(5)));
}

/// Promise: as a probe it is quiet while all is well, and else says why, with exit code 1.
#[test]
fn as_a_probe_it_says_nothing_or_why_not() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &["--drain-timeout", "60"]);
    let probe = ["--local", "--ready"];
    assert_eq!(status(sidecar.admin.port(), &probe), (0, String::new(), String::new()));
    sidecar.signal(Signal::SIGTERM);
    eventually("not ready", || (sidecar.get("/ready").0 == 503).then_some(()));
    let (code, text, _) = status(sidecar.admin.port(), &probe);
    assert_eq!((code, text.as_str()), (1, "✗ not ready\n    reason: the sidecar is stopping\n"));
    let (code, json, _) = status(sidecar.admin.port(), &["--local", "--ready", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["ready"]), (1, &serde_json::json!(false)));
    assert_eq!(status(sidecar.admin.port(), &["--local"]).0, 0, "it was asked, and it answered");
    let alive = ["--local", "--alive"];
    assert_eq!(status(sidecar.admin.port(), &alive), (0, String::new(), String::new()), "alive, and not ready");
}

/// Promise: no sidecar is exit code 1, a stranger on its port 5, no --local 2; each says what to do.
#[test]
fn whoever_is_not_there_is_named() {
    let port = free_port();
    for more in [&["--local"][..], &["--local", "--ready"], &["--local", "--alive"]] {
        let (code, out, error) = status(port, more);
        assert!(
            code == 1 && out.is_empty() && error.contains(&format!("no sidecar answers at 127.0.0.1:{port}")),
            "{error}"
        );
    }
    let other = App::serving(|mut stream: TcpStream| {
        use std::io::{Read as _, Write as _};
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    });
    let (code, _, error) = status(other.address.port(), &["--local"]);
    assert!(code == 5 && error.contains("is no bypassctl proxy"), "{code} {error}");
    let (code, _, error) = status(port, &["--kubeconfig", "/nobody/wrote/this"]);
    assert!(code == 2 && error.contains("/nobody/wrote/this"), "{code} {error}");
}

/// Promise: --wait holds until the sidecar is ready, and gives up at its end as a single look would have.
#[test]
fn it_can_be_waited_for() {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    let port = free_port();
    let (code, out, error) = status(port, &["--local", "--ready", "--wait", "1"]);
    assert!(code == 1 && out.is_empty() && error.contains("no sidecar answers"), "{code} {error}");
    let (code, _, error) = status(port, &["--local", "--wait", "1"]);
    assert!(code == 2 && error.contains("--ready"), "{code} {error}");

    let waiting = std::thread::spawn(move || status(port, &["--local", "--ready", "--wait", "30"]));
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for ready in [false, false, true] {
        let mut stream = listener.accept().unwrap().0;
        let _ = stream.read(&mut [0; 1024]);
        let body = format!("{{\"readiness\": {{\"ready\": {ready}, \"reasons\": [], \"notes\": []}}}}");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
    assert_eq!(waiting.join().unwrap(), (0, String::new(), String::new()));
}
