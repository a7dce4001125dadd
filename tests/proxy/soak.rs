//! What takes too long for every change: `scripts/soak` runs it, with the release build, one test at a time.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bypassctl::tls::issue::IssuedLeaf;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::StreamOwned;
use rustls::version::TLS13;
use socket2::{Domain, Socket, Type};

use crate::client::session;
use crate::crowds::{churn, seclude};
use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, executable, local};

/// No limit that these tests could meet; and the app of these tests closes nothing by itself.
const UNLIMITED: [&str; 5] = [
    "--max-connections=65536",
    "--max-connections-per-peer=65536",
    "--handshake-timeout=60",
    "--breaker-failures=0",
    "--half-close-timeout=1",
];

/// An app that greets with one byte, and keeps whom it has greeted.
fn host() -> (TcpListener, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.try_clone().unwrap();
    let guests = Arc::<Mutex<Vec<TcpStream>>>::default();
    let house = Arc::clone(&guests);
    std::thread::spawn(move || {
        for guest in taken.incoming() {
            let mut guest = guest.unwrap();
            let _ = guest.write_all(b"!");
            house.lock().unwrap().push(guest);
        }
    });
    (listener, guests)
}

/// So many files for this process and for whatever it starts, or as many as there may be: beyond the hard limit it takes
/// CAP_SYS_RESOURCE, which root in a container seldom has.
fn allow_files(count: u64) -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    match setrlimit(Resource::RLIMIT_NOFILE, hard.max(count), hard.max(count)) {
        Ok(()) => hard.max(count),
        Err(_) => hard,
    }
}

/// Promise: 10,000 connections are held at a bounded cost each, all of them work, and they are given back.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn ten_thousand_connections_are_held_at_a_bounded_cost_each() {
    seclude();
    // Each takes two files of each sidecar, and of this process.
    let held_at_once = ((allow_files(22_500) - 2_500) / 2).min(10_000);
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let (app, guests) = host();
    let far = Sidecar::between(&dir, local(1), app.local_addr().unwrap(), &UNLIMITED);
    let near = Sidecar::between(&dir, far.inbound, local(1), &UNLIMITED);
    let before = [near.memory(), far.memory()];
    let started = Instant::now();
    let mut held: Vec<TcpStream> = (0..held_at_once)
        .map(|_| {
            let mut stream = connect(near.outbound).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    let took = started.elapsed();
    for (name, sidecar, before) in [("outbound", &near, before[0]), ("inbound", &far, before[1])] {
        let each = sidecar.memory().saturating_sub(before) * 1024 / held_at_once;
        println!("{held_at_once} connections in {took:?}: {name} sidecar {each} bytes each");
        assert!(each < 16 * 1024, "{each} bytes a connection");
    }
    let full = near.memory() + far.memory();
    for stream in &mut held {
        stream.write_all(b"?").unwrap();
    }
    let mut guests = guests.lock().unwrap();
    assert_eq!(guests.len() as u64, held_at_once);
    for guest in &mut *guests {
        let mut byte = [0];
        guest.read_exact(&mut byte).unwrap();
        guest.write_all(&byte).unwrap();
    }
    for stream in &mut held {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"?");
    }
    guests.clear();
    drop(held);
    eventually("all are gone", || near.status()["connections"].as_array().unwrap().is_empty().then_some(()));
    eventually("most of it is given back", || (near.memory() + far.memory() < full / 2).then_some(()));
    println!("afterwards {} and {} KiB, before {before:?}, held {full}", near.memory(), far.memory());
}

/// Promise: after kill -9 the sidecar is back at once, and 1,000 connections that dial it together all get in.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn a_thousand_dial_at_once_after_a_restart() {
    const PEERS: usize = 1000;
    seclude();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = host().0.local_addr().unwrap();
    let mut command = Command::new(executable());
    let mut far = Sidecar::between_by(command.stderr(Stdio::piped()), &dir, local(1), app, &UNLIMITED);
    let near = Sidecar::between(&dir, far.inbound, local(1), &UNLIMITED);
    connect(near.outbound).unwrap().read_exact(&mut [0]).unwrap();
    let started = Instant::now();
    far.restart(&mut command);
    let back = started.elapsed();
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| connect(near.outbound).unwrap()).collect();
    let got_in = streams.iter_mut().filter_map(|stream| stream.read_exact(&mut [0]).ok()).count();
    assert_eq!(got_in, PEERS, "all get in");
    println!("back after {back:?}; {PEERS} at once all in {:?} after that", started.elapsed() - back);
    println!("peak {} and {} KiB", near.memory(), far.memory());
    assert!(back.as_secs() < 1, "back only after {back:?}");
}

/// Promise: 1,000 peers, each of which makes three connections, as Artery does, all get in at once after a restart.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn a_thousand_peers_begin_at_once() {
    const PEERS: u16 = 1000;
    seclude();
    let certificates = Certificates::new();
    let own = Ipv4Addr::new(10, 99, 0, 1);
    let app = App::echo();
    let far =
        Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &["--bind-address", &own.to_string()]);
    let target = SocketAddr::from((own, far.inbound.port()));
    let leaf = certificates.leaf("cart");
    let started = Instant::now();
    // A thread each: who waits for its turn says nothing meanwhile, and no peer does that.
    let got_in = std::thread::scope(|scope| {
        let dials: Vec<_> = (0..3 * PEERS)
            .map(|i| {
                let [high, low] = (i % PEERS).to_be_bytes();
                let thread = std::thread::Builder::new().stack_size(512 * 1024);
                let leaf = &leaf;
                thread.spawn_scoped(scope, move || enter(Ipv4Addr::new(10, 99, 100 + high, low), target, leaf)).unwrap()
            })
            .collect();
        // Those that are in stay until all are.
        let entered: Vec<_> = dials.into_iter().map(|dial| dial.join().unwrap()).collect();
        entered.iter().filter(|entered| entered.is_ok()).count()
    });
    println!("{PEERS} peers with three connections each: {got_in} got in within {:?}", started.elapsed());
    assert_eq!(got_in, 3 * usize::from(PEERS), "all get in");
}

/// A connection from there, over TLS, after an echo.
fn enter(from: Ipv4Addr, to: SocketAddr, leaf: &IssuedLeaf) -> io::Result<impl Sized + use<>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let mut stream = StreamOwned::new(session(Some(leaf), &TLS13, Vec::new()), TcpStream::from(socket));
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])?;
    Ok(stream)
}

/// Promise: no growth over 20,000 connections.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn twenty_thousand_connections_leave_nothing_behind() {
    seclude();
    for grown in churn(4_000, 20_000) {
        assert!(grown < 2 * 1024, "grew by {grown} KiB");
    }
}

/// Promise: a connection carries on for as long as it is used, whatever else comes and goes.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn an_old_connection_outlives_ten_thousand_new_ones() {
    seclude();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    let mut old = connect(near.outbound).unwrap();
    for _ in 0..100 {
        for _ in 0..100 {
            assert_echo(&mut connect(near.outbound).unwrap(), "new");
        }
        assert_echo(&mut old, "old");
    }
}
