//! What takes too long for every change: `scripts/soak` runs it, with the release build, one test at a time.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

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
fn host() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut guests = Vec::new();
        for guest in taken.incoming() {
            let mut guest = guest.unwrap();
            let _ = guest.write_all(b"!");
            guests.push(guest);
        }
    });
    listener
}

/// Promise: 10,000 connections are held at a bounded cost each, and given back.
#[test]
#[ignore = "takes minutes: scripts/soak"]
fn ten_thousand_connections_are_held_at_a_bounded_cost_each() {
    // Each takes two files of each sidecar, and of this process.
    let held_at_once = ((seclude() - 2_500) / 2).min(10_000);
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = host();
    let far = Sidecar::between(&dir, local(1), app.local_addr().unwrap(), &UNLIMITED);
    let near = Sidecar::between(&dir, far.inbound, local(1), &UNLIMITED);
    let before = [near.memory(), far.memory()];
    let started = Instant::now();
    let held: Vec<TcpStream> = (0..held_at_once)
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
    let app = host();
    let app = app.local_addr().unwrap();
    let mut command = Command::new(executable());
    let mut far = Sidecar::between_by(command.stderr(Stdio::piped()), &dir, local(1), app, &UNLIMITED);
    let near = Sidecar::between(&dir, far.inbound, local(1), &UNLIMITED);
    connect(near.outbound).unwrap().read_exact(&mut [0]).unwrap();
    let started = Instant::now();
    far.restart(&mut command);
    let back = started.elapsed();
    let mut streams: Vec<TcpStream> = (0..PEERS).map(|_| connect(near.outbound).unwrap()).collect();
    for stream in &mut streams {
        stream.read_exact(&mut [0]).unwrap();
    }
    println!("back after {back:?}; {PEERS} at once all in {:?} after that", started.elapsed() - back);
    println!("peak {} and {} KiB", near.memory(), far.memory());
    assert!(back.as_secs() < 1, "back only after {back:?}");
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
