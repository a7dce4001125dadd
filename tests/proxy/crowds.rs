//! Many connections at once, or one after the other. Each test has a network namespace of its own, for its addresses and
//! for its ports.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, local};

/// Where the sidecar under siege listens; every address of 10.99.0.0/16 is this machine's.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Puts this thread, and whatever it starts, into a network namespace of its own; how many files a process may have.
pub(crate) fn seclude() -> u64 {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run scripts/test");
    for command in ["link set lo up", "address add 10.99.0.1/16 dev lo"] {
        let status = Command::new("ip").args(command.split(' ')).status().expect("ip is needed: run scripts/test");
        assert!(status.success(), "ip {command}: {status}");
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    most
}

/// A connection that is being made, from this address; nobody waits for it.
pub(crate) fn knock(from: Ipv4Addr, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Promise: one address that dials without end takes nothing away from others: they get in, and traffic goes on.
#[test]
fn a_flood_from_one_address_leaves_room_for_others() {
    seclude();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &["--bind-address", &OWN.to_string()]);
    let target = SocketAddr::from((OWN, far.inbound.port()));
    let near = Sidecar::between(&dir, target, local(1), &["--breaker-failures=0"]);
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let flooder = Ipv4Addr::new(10, 99, 0, 2);
    let (mut held, mut knocks, mut entered) = (Vec::new(), 0, 0);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for _ in 0..100 {
            held.extend(knock(flooder, target));
            knocks += 1;
        }
        if held.len() > 1000 {
            held.drain(..500);
        }
        assert_echo(&mut old, "meanwhile");
        if entered < 20 {
            assert_echo(&mut connect(near.outbound).unwrap(), "new");
            entered += 1;
        }
    }
    println!("{knocks} connections from one address in 3 s; {entered} of {entered} others got in meanwhile");
    assert!(entered >= 3, "{entered} got in");
    assert!(far.get("/metrics").1.contains("reason=\"too_many_unfinished\""), "the flood was none");
}

/// Promise: tens of thousands of half-open connections from everywhere cost a bounded amount of memory, do not disturb
/// what is established, and are gone when the time for a handshake is over.
#[test]
fn tens_of_thousands_of_half_open_connections_disturb_nobody() {
    // Other tests of this process need files too.
    let knocks = u16::try_from((seclude() - 3_000).min(30_000)).unwrap();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let more = ["--bind-address", &OWN.to_string(), "--handshake-timeout", "1"];
    let far = Sidecar::between(&dir, local(1), app.address, &more);
    let target = SocketAddr::from((OWN, far.inbound.port()));
    let near = Sidecar::between(&dir, target, local(1), &["--breaker-failures=0", "--handshake-timeout", "15"]);
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let before = far.memory();
    let mut held = Vec::new();
    for i in 0..knocks {
        let [high, low] = (i % 1000).to_be_bytes();
        held.push(knock(Ipv4Addr::new(10, 99, 100 + high, low), target).unwrap());
        if i % 1000 == 0 {
            assert_echo(&mut old, "meanwhile");
        }
    }
    let watched = Instant::now();
    let mut most = 0;
    while watched.elapsed() < Duration::from_secs(2) {
        assert_echo(&mut old, "meanwhile");
        most = most.max(far.memory());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{} half-open connections: {before} KiB before, at most {most} KiB", held.len());
    assert!(most < before + 16 * 1024, "{before} KiB before, {most} KiB meanwhile");
    drop(held);
    let after = Instant::now();
    eventually("new connections again", || {
        let mut stream = connect(near.outbound).unwrap();
        stream.write_all(b"after").ok()?;
        stream.read_exact(&mut [0; 5]).ok()
    });
    println!("the next one got in {:?} after they had gone", after.elapsed());
}

/// Promise: a reader that does not read stops the writer, two sidecars further, instead of filling their memory.
#[test]
fn a_reader_that_does_not_read_fills_no_memory() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let far = Sidecar::between(&dir, local(1), listener.local_addr().unwrap(), &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut writer = connect(near.outbound).unwrap();
    let (mut reader, _) = listener.accept().unwrap();
    writer.write_all(b"warm").unwrap();
    reader.read_exact(&mut [0; 4]).unwrap();
    let before = [near.memory(), far.memory()];
    writer.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let chunk = vec![7; 256 * 1024];
    let mut written = 0;
    let stopped = loop {
        match writer.write(&chunk) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
        assert!(written < 256 << 20, "256 MiB were taken, and nobody reads");
    };
    assert_eq!(stopped.kind(), io::ErrorKind::WouldBlock, "{stopped}");
    for (sidecar, before) in [&near, &far].into_iter().zip(before) {
        let grown = sidecar.memory().saturating_sub(before);
        println!("{} KiB under way, {grown} KiB more memory", written / 1024);
        assert!(grown < 4 * 1024, "grew by {grown} KiB for one connection");
    }
    writer.set_write_timeout(None).unwrap();
    writer.shutdown(std::net::Shutdown::Write).unwrap();
    let arrived = io::copy(&mut reader, &mut io::sink()).unwrap();
    assert_eq!(arrived, written as u64);
}

/// Promise: connections that come and go leave nothing behind.
#[test]
fn connections_that_have_gone_leave_no_memory_taken() {
    seclude();
    let growth = churn(150, 450);
    for grown in growth {
        assert!(grown < 2 * 1024, "grew by {grown} KiB");
    }
}

/// How many KiB the two sidecars have grown by from the end of the first so many connections to the end of the others.
pub(crate) fn churn(warm_up: usize, more: usize) -> [u64; 2] {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let run = |connections: usize| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..connections / 8 {
                        let mut stream: TcpStream = connect(near.outbound).unwrap();
                        assert_echo(&mut stream, "here today, gone tomorrow");
                    }
                });
            }
        });
        eventually("all are gone", || {
            let open = |sidecar: &Sidecar| sidecar.status()["connections"].as_array().unwrap().len();
            (open(&near) == 0 && open(&far) == 0).then_some(())
        });
    };
    run(warm_up);
    let before = [near.memory(), far.memory()];
    run(more);
    let after = [near.memory(), far.memory()];
    println!("{more} connections: KiB before {before:?}, after {after:?}");
    [0, 1].map(|i| after[i].saturating_sub(before[i]))
}
