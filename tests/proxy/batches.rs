//! What moves in batches arrives as if it did not: whole, at once, however it was cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustls::{ClientConnection, SupportedProtocolVersion};

use crate::client::session;
use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, local};

/// What the sidecar reads at once.
const BATCH: usize = 512 * 1024;

/// A peer that speaks TLS by hand, so that a test can cut what it sends as it likes.
struct Peer {
    tls: ClientConnection,
    tcp: TcpStream,
}

impl Peer {
    fn dial(sidecar: &Sidecar, certificates: &Certificates, version: &'static SupportedProtocolVersion) -> Self {
        let leaf = certificates.leaf("cart");
        let (mut tls, mut tcp) = (session(Some(&leaf), version, Vec::new()), connect(sidecar.inbound).unwrap());
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).unwrap();
        }
        tls.set_buffer_limit(None);
        Self { tls, tcp }
    }

    /// The records of these bytes, not sent yet.
    fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).unwrap();
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        rustls::Stream::new(&mut self.tls, &mut self.tcp).read_exact(&mut all).unwrap();
        all
    }
}

fn counting(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}

/// Promise: bytes, and the end, that come in one packet with the last message of the handshake are delivered, although
/// nothing ever makes the socket readable again.
#[test]
fn what_comes_with_the_handshake_is_delivered() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    for (bytes, end) in [(5, false), (5, true), (40_000, false), (40_000, true)] {
        let leaf = certificates.leaf("cart");
        let (mut tls, mut tcp) =
            (session(Some(&leaf), &rustls::version::TLS13, Vec::new()), connect(sidecar.inbound).unwrap());
        tls.write_tls(&mut tcp).unwrap();
        while tls.is_handshaking() {
            tls.read_tls(&mut tcp).unwrap();
            tls.process_new_packets().unwrap();
        }
        let mut peer = Peer { tls, tcp };
        let said = counting(bytes);
        let mut packet = peer.sealed(&said);
        if end {
            peer.tls.send_close_notify();
            packet.extend(peer.sealed(b""));
        }
        peer.tcp.write_all(&packet).unwrap();
        assert!(peer.read_exactly(bytes) == said, "{bytes} bytes, end: {end}");
        if end {
            let mut stream = rustls::Stream::new(&mut peer.tls, &mut peer.tcp);
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the app's own end");
        }
    }
}

/// Promise: a read that fills its batch to the last byte, or just not, strands nothing.
#[test]
fn no_size_strands_the_last_bytes() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    for size in [1, 16 * 1024 - 1, 16 * 1024 + 1, BATCH - 1, BATCH, BATCH + 1, 4 * BATCH, 4 * BATCH + 1, 9 * BATCH] {
        let said = counting(size);
        let mut writer = stream.try_clone().unwrap();
        let sent = said.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut heard = vec![0; size];
        stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        assert!(heard == said, "{size} bytes came back otherwise");
        writing.join().unwrap();
    }
}

/// Promise: a record that comes byte by byte is a record.
#[test]
fn a_record_in_many_pieces_is_delivered_once_it_is_whole() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut peer = Peer::dial(&sidecar, &certificates, version);
        peer.tcp.set_nodelay(true).unwrap();
        let said = counting(300);
        for byte in peer.sealed(&said) {
            peer.tcp.write_all(&[byte]).unwrap();
        }
        assert!(peer.read_exactly(300) == said, "{version:?}");
    }
}

/// Promise: keys change in mid-stream and nobody notices, and the peer's wish for new keys of ours is met.
#[test]
fn new_keys_in_mid_stream_change_nothing() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let mut peer = Peer::dial(&sidecar, &certificates, &rustls::version::TLS13);
    for size in [100, 100_000, 1] {
        let said = counting(size);
        let records = peer.sealed(&said);
        peer.tcp.write_all(&records).unwrap();
        peer.tls.refresh_traffic_keys().unwrap();
        let update = peer.sealed(b"");
        peer.tcp.write_all(&update).unwrap();
        assert!(peer.read_exactly(size) == said, "{size} bytes");
    }
}

/// Promise: readers that do not read stop the writers, and get everything in the end; meanwhile a connection holds one batch
/// in each direction at most.
#[test]
fn slow_readers_stop_the_writers_and_get_everything_in_the_end() {
    const CONNECTIONS: usize = 24;
    /// Two sidecars, two directions, and as much again for what each of them does besides.
    const MOST: u64 = (CONNECTIONS * 2 * 2 * BATCH / 1024) as u64 * 2;
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let before = near.resident_kib() + far.resident_kib();
    // Nobody reads the echo, so that every buffer on the way fills, in both directions.
    let chunk = counting(BATCH);
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(near.outbound).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut sent = 0;
        loop {
            match stream.write(&chunk[sent % BATCH..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        streams.push((stream, sent));
    }
    let full = near.resident_kib() + far.resident_kib();
    assert!(full < before + MOST, "{CONNECTIONS} slow readers took {} KiB", full - before);
    for (mut stream, sent) in streams {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard.len() == sent && heard.chunks(BATCH).all(|part| chunk.starts_with(part)), "{sent} bytes");
    }
    eventually("every connection ended", || {
        let active = near.get("/metrics").1;
        active.contains("bypassctl_connections_active{direction=\"outbound\"} 0").then_some(())
    });
}

/// Promise: what many connections took is given back to the system once they are gone.
#[test]
fn memory_is_given_back_after_many_connections() {
    const CONNECTIONS: usize = 300;
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let resident = || near.resident_kib() + far.resident_kib();
    let open = |connections: usize| {
        let mut streams: Vec<TcpStream> = (0..connections).map(|_| connect(near.outbound).unwrap()).collect();
        for stream in &mut streams {
            assert_echo(stream, "used");
        }
        streams
    };
    drop(open(1));
    let before = resident();
    let streams = open(CONNECTIONS);
    let full = resident();
    assert!(full > before + 1024, "they took something: {before} to {full} KiB");
    drop(streams);
    eventually("most of it is given back", || (resident() < before + (full - before) / 2).then_some(()));
}

/// Promise: a record that was changed on its way ends the connection with an alert that says so, and the log names it; nothing
/// of it reaches the app.
#[test]
fn a_changed_record_is_refused_with_an_alert_and_named() {
    let certificates = Certificates::new();
    let app = App::echo();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let mut peer = Peer::dial(&sidecar, &certificates, &rustls::version::TLS13);
    let mut record = peer.sealed(&counting(300));
    record[100] ^= 1;
    // What follows it unread must not turn the alert into a reset.
    record.extend(peer.sealed(&counting(BATCH)));
    peer.tcp.write_all(&record).unwrap();
    let error = rustls::Stream::new(&mut peer.tls, &mut peer.tcp).read(&mut [0]).expect_err("an alert");
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    sidecar.log_line(&["\"reason\":\"tls_broken\"", "\"bytes_in\":0"]);
}
