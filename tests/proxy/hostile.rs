//! Handshakes in pieces, too large, or for a second time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use bypassctl::tls::issue::IssuedLeaf;
use rustls::{ClientConnection, StreamOwned};

use crate::client::session;
use crate::harness::{App, Certificates, DEADLINE, Sidecar, connect, local};

/// How a client cuts its hello.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Bytes of protocol names in it.
    padding: usize,
    /// Bytes of it in a TLS record.
    record: usize,
    /// Bytes handed to TCP at a time.
    segment: usize,
}

/// TLS records with these bytes of a handshake message (RFC 8446, section 5.1).
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[0x16, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    message.chunks(size).flat_map(record).collect()
}

/// The handshake message in these records.
fn message(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [0x16, 3, _, high, low, rest @ ..] = records {
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend(part);
        records = rest;
    }
    message
}

fn dial(sidecar: &Sidecar, leaf: &IssuedLeaf, cut: Cut) -> StreamOwned<ClientConnection, TcpStream> {
    let protocols = vec![vec![b'x'; 255]; cut.padding / 256];
    let mut session = session(Some(leaf), &rustls::version::TLS13, protocols);
    let mut hello = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut hello).unwrap();
    }
    let mut stream = connect(sidecar.inbound).unwrap();
    stream.set_nodelay(true).unwrap();
    for segment in records(&message(&hello), cut.record).chunks(cut.segment) {
        stream.write_all(segment).unwrap();
    }
    StreamOwned::new(session, stream)
}

/// Promise: however a hello is cut into records and segments, and with up to 64 KiB of it, it is one hello.
#[test]
fn a_hello_in_pieces_is_a_hello() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let leaf = certificates.leaf("cart");
    for cut in [
        Cut { padding: 0, record: 16384, segment: 1 },
        Cut { padding: 0, record: 1, segment: 6 },
        Cut { padding: 0, record: 1, segment: 1 },
        Cut { padding: 20 * 1024, record: 16384, segment: 1000 },
        Cut { padding: 60 * 1024, record: 777, segment: 65536 },
    ] {
        let mut stream = dial(&sidecar, &leaf, cut);
        stream.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{cut:?}: {error}: {}", sidecar.log()));
        assert_eq!(&back, b"hello", "{cut:?}");
    }
}

/// Promise: a hello that says that it is larger than 64 KiB is refused before it has come, with an alert, and memory is not
/// kept for it.
#[test]
fn a_hello_of_16_mib_is_refused_at_once() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let mut hello = vec![1, 0xff, 0xff, 0xff, 3, 3];
    hello.resize(100_000, 0);
    let mut stream = connect(sidecar.inbound).unwrap();
    // It may hang up while we are still talking.
    let _ = stream.write_all(&records(&hello, 16384));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 50], "a decode_error");
    sidecar.log_line(&["\"reason\":\"handshake_failed\""]);
    assert_eq!(app.accepted(), 0);
}

/// Promise: a peer that wants to negotiate anew, as TLS 1.2 has it, is told that there is no such thing here.
#[test]
fn a_renegotiation_is_refused() {
    let certificates = Certificates::new();
    // What is to be said to the peer goes out with the next bytes of the app's.
    let app = App::serving(|mut stream| {
        while stream.write_all(b"tick\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let dir = certificates.tls_dir("cart");
    let sidecar = Sidecar::between(&dir, local(1), app.address, &[]);
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let limit = DEADLINE.as_secs().to_string();
    let mut client = Command::new("timeout")
        .args([
            &limit,
            "openssl",
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-tls1_2",
            "-connect",
            &sidecar.inbound.to_string(),
        ])
        .args(["-cert", &file("tls.crt"), "-key", &file("tls.key"), "-CAfile", &file("ca.crt")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is needed: scripts/test installs it");
    let mut says = client.stdin.take().unwrap();
    let mut hears = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    hears.read_line(&mut line).unwrap();
    assert_eq!(line, "tick\n");
    says.write_all(b"R\n").unwrap();
    let drain = std::thread::spawn(move || io::copy(&mut hears, &mut io::sink()));
    let mut complaint = String::new();
    client.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    let _ = (client.wait(), drain.join());
    assert!(complaint.contains("no renegotiation"), "{complaint}");
    assert_eq!(app.accepted(), 1);
}
