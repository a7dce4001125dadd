//! What crosses two sidecars arrives, unread and unharmed.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use crate::harness::{
    App, Certificates, DEADLINE, Sidecar, assert_echo, assert_reset, connect, eventually, local, reset,
};

const LARGE: usize = 8 * 1024 * 1024;

/// The app's side is `near.outbound`; behind `far` listens `app`.
struct Pair {
    near: Sidecar,
    far: Sidecar,
    _certificates: Certificates,
}

fn pair(app: SocketAddr) -> Pair {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between(&dir, local(1), app, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    Pair { near, far, _certificates: certificates }
}

/// Hands the accepted connections of an app over to the test.
fn app_in_hand() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (give, take) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            if give.send(stream).is_err() {
                return;
            }
        }
    });
    (address, take)
}

/// Relays to `to`, and keeps what both sides say.
fn wiretap(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut to) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far.try_clone().unwrap(), near)]
            {
                let ears = Arc::clone(&ears);
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        ears.lock().unwrap().extend_from_slice(&buffer[..n]);
                        to.write_all(&buffer[..n]).unwrap();
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (address, heard)
}

/// Promise: what one app says reaches the other, and whoever listens in between hears TLS only.
#[test]
fn the_apps_talk_and_nobody_in_between_understands() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let (wire, heard) = wiretap(far.inbound);
    let near = Sidecar::between(&dir, wire, local(1), &[]);

    let mut stream = connect(near.outbound).unwrap();
    assert_echo(&mut stream, "AKKA\u{1}the secret of the shop");
    drop(stream);

    let end = near.log_line(&["connection ended", "\"direction\":\"outbound\""]);
    for part in ["\"reason\":\"closed\"", "sa/cart", "\"bytes_in\":27", "\"bytes_out\":27", "TLS 1.3", "AES_128_GCM"] {
        assert!(end.contains(part), "{part} is not in {end}");
    }
    far.log_line(&["connection ended", "\"direction\":\"inbound\"", "\"reason\":\"closed\"", "sa/cart"]);
    let heard = heard.lock().unwrap();
    assert_eq!(heard[..2], [0x16, 0x03], "the wire began with something else than a TLS handshake");
    assert!(!heard.windows(6).any(|window| window == b"secret"), "the secret crossed the wire in plaintext");
}

/// Promise: a side that has said all it had to say still hears the whole answer.
#[test]
fn a_stream_that_ends_first_still_gets_its_whole_answer() {
    let app = App::serving(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let pair = pair(app.address);
    let sent: Vec<u8> = (0..LARGE).map(|i| (i % 251) as u8).collect();
    let mut stream = connect(pair.near.outbound).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back == sent, "{} bytes came back of {LARGE}", back.len());
    pair.near.log_line(&["connection ended", "\"reason\":\"closed\""]);
    pair.far.log_line(&["connection ended", "\"reason\":\"closed\""]);
}

/// Promise: half-close works from the other end too.
#[test]
fn an_app_that_stops_talking_goes_on_listening() {
    let (address, apps) = app_in_hand();
    let pair = pair(address);
    let mut near = connect(pair.near.outbound).unwrap();
    let mut far = apps.recv_timeout(DEADLINE).unwrap();
    far.write_all(b"that is all").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    near.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"that is all");
    let writer = std::thread::spawn(move || near.write_all(&vec![7; LARGE]));
    let received = std::io::copy(&mut far, &mut std::io::sink()).unwrap();
    assert_eq!(received, LARGE as u64);
    writer.join().unwrap().unwrap();
}

/// Promise: a reset on one side is a reset on the other, and never the orderly end of a stream.
#[test]
fn a_reset_arrives_as_a_reset_whoever_sent_it() {
    let (address, apps) = app_in_hand();
    let pair = pair(address);
    let talking = || {
        let mut near = connect(pair.near.outbound).unwrap();
        let mut far = apps.recv_timeout(DEADLINE).unwrap();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        (near, far)
    };
    let (near, mut far) = talking();
    reset(near);
    assert_reset(&mut far);
    let (mut near, far) = talking();
    reset(far);
    assert_reset(&mut near);
    pair.near.log_line(&["\"reason\":\"app_reset\""]);
    pair.far.log_line(&["\"reason\":\"app_reset\""]);
}

/// Promise: a stream that was cut is never taken for one that ended. Killed, the far sidecar closes its sockets without
/// a TLS farewell, as anybody on the path could.
#[test]
fn a_cut_stream_is_an_abort_and_not_an_end() {
    let (address, apps) = app_in_hand();
    let pair = pair(address);
    let mut near = connect(pair.near.outbound).unwrap();
    let mut far = apps.recv_timeout(DEADLINE).unwrap();
    far.write_all(b"x").unwrap();
    near.read_exact(&mut [0]).unwrap();
    drop(pair.far);
    assert_reset(&mut near);
}

/// Promise: a half-closed connection on which nothing moves is closed after the timeout.
/// A half-closed connection whose reader takes its time is not one that nothing moves on: what the kernel still delivers
/// counts.
#[test]
fn a_slow_reader_gets_all_of_a_stream_that_has_ended() {
    const BYTES: usize = 3_000_000;
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::serving(|mut stream| {
        socket2::SockRef::from(&stream).set_recv_buffer_size(16 * 1024).unwrap();
        let (mut read, mut block) = (0, [0; 32 * 1024]);
        while let Ok(n @ 1..) = stream.read(&mut block) {
            read += n;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = stream.write_all(read.to_string().as_bytes());
    });
    let far = Sidecar::between(&dir, local(1), app.address, &["--half-close-timeout=1"]);
    // The near one sees nothing of what the far one still has.
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut stream = connect(near.outbound).unwrap();
    stream.set_read_timeout(Some(4 * DEADLINE)).unwrap();
    stream.write_all(&vec![7; BYTES]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, BYTES.to_string());
}

#[test]
fn a_half_closed_connection_does_not_linger_for_ever() {
    let (address, apps) = app_in_hand();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between(&dir, local(1), address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &["--half-close-timeout", "1"]);
    let stream = connect(near.outbound).unwrap();
    let _silent = apps.recv_timeout(DEADLINE).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    near.log_line(&["\"reason\":\"half_close_timeout\""]);
}

/// Promise: `--max-connections` is a limit, and who waits is served when there is room.
#[test]
fn a_connection_over_the_limit_waits_for_room() {
    let app = App::echo();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between(&dir, local(1), app.address, &["--max-connections", "1"]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut first = connect(near.outbound).unwrap();
    assert_echo(&mut first, "first");
    let mut second = connect(near.outbound).unwrap();
    second.write_all(b"second").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(app.accepted(), 1, "the second connection was served beside the first");
    drop(first);
    let mut back = [0; 6];
    second.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"second");
    eventually("both were served", || (app.accepted() == 2).then_some(()));
}
