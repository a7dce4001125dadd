//! Streams in one direction. Artery's are: it takes a byte that comes back for a broken peer.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::harness::{Certificates, Sidecar, connect, eventually, local};

const BYTES: usize = 20 << 20;

/// Stands between two sidecars and counts what goes each way.
#[derive(Default)]
struct Wire {
    forth: AtomicU64,
    back: AtomicU64,
}

impl Wire {
    fn to(target: SocketAddr) -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(Self::default());
        let counts = Arc::clone(&wire);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(target).unwrap());
                let pairs = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
                for (i, (from, to)) in pairs.into_iter().enumerate() {
                    let counts = Arc::clone(&counts);
                    std::thread::spawn(move || carry(from, to, if i == 0 { &counts.forth } else { &counts.back }));
                }
            }
        });
        (address, wire)
    }

    fn bytes(&self) -> [u64; 2] {
        [&self.forth, &self.back].map(|count| count.load(Ordering::SeqCst))
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = [0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        count.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Promise: of a stream in one direction not one byte comes back, neither to the app nor in a record on the wire, however
/// much is sent; whichever end sends.
#[test]
fn not_one_byte_comes_back_on_a_one_directional_stream() {
    for dialler_sends in [true, false] {
        let certificates = Certificates::new();
        let dir = certificates.tls_dir("cart");
        let (told, taken) = std::sync::mpsc::channel();
        let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = app.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = app.accept().unwrap();
            if !dialler_sends {
                stream.write_all(b"!").unwrap();
                stream.write_all(&vec![7; BYTES]).unwrap();
            }
            // Until the dialler has looked at what it got.
            told.send(io::copy(&mut stream, &mut io::sink()).unwrap()).unwrap();
        });
        let far = Sidecar::between(&dir, local(1), address, &[]);
        let (relay, wire) = Wire::to(far.inbound);
        let near = Sidecar::between(&dir, relay, local(1), &[]);
        let mut stream = connect(near.outbound).unwrap();
        // The first byte says that the handshake is over.
        if dialler_sends {
            stream.write_all(b"!").unwrap();
            let seen = || (far.status()["connections"][0]["bytes_in"].as_u64() == Some(1)).then_some(());
            eventually("the first byte", seen);
        } else {
            stream.read_exact(&mut [0]).unwrap();
        }
        let silent = usize::from(dialler_sends);
        let before = wire.bytes()[silent];
        if dialler_sends {
            stream.write_all(&vec![7; BYTES]).unwrap();
            eventually("all has come", || (wire.bytes()[0] > BYTES as u64).then_some(()));
            stream.set_nonblocking(true).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "a byte for the app");
            stream.set_nonblocking(false).unwrap();
        } else {
            stream.read_exact(&mut vec![0; BYTES]).unwrap();
        }
        assert_eq!(wire.bytes()[silent], before, "bytes on the wire against the stream; {dialler_sends}");
        stream.shutdown(Shutdown::Write).unwrap();
        let bytes = taken.recv().unwrap();
        assert_eq!(bytes, if dialler_sends { BYTES as u64 + 1 } else { 0 });
    }
}
