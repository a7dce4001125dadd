//! Promise: what strangers and dead peers do takes nothing from those who belong together.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use bypassctl::tls::issue::{DevelopmentCa, IssuedLeaf, LeafRequest};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::StreamOwned;
use time::OffsetDateTime;

use crate::client::session;
use crate::crowds::{knock, seclude};
use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, free_port, local, write_set};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// What comes of a few bytes said to the sidecar with this certificate, and expected back.
fn attack(sidecar: SocketAddr, leaf: Option<&IssuedLeaf>) -> io::Result<()> {
    let mut stream = StreamOwned::new(session(leaf, &rustls::version::TLS13, Vec::new()), connect(sidecar)?);
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

/// Peers that are gone leave dials unfinished; the app's next one is made all the same. A redirected dial comes from the pod's
/// own address, not from loopback.
#[test]
fn dials_that_hang_do_not_keep_the_app_from_dialling() {
    const DIALS: usize = 100;
    seclude();
    let certificates = Certificates::new();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let limits = ["--max-handshakes=8", "--breaker-failures=0", "--handshake-timeout=300"];
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), silent.local_addr().unwrap(), local(1), &limits);
    let _dials: Vec<_> = (0..DIALS).map(|_| knock(OWN, sidecar.outbound).unwrap()).collect();
    // Each is reached although none of those before has come to an end.
    let _reached: Vec<_> = (0..DIALS).map(|_| silent.accept().unwrap()).collect();
    assert!(!sidecar.log().contains("too_many_unfinished"), "{}", sidecar.log());
}

/// Strangers from everywhere hold every place and say nothing; who has something to say gets one.
#[test]
fn silence_from_many_addresses_gives_way() {
    seclude();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let limits = ["--bind-address", &OWN.to_string(), "--max-handshakes=64", "--handshake-timeout=300"];
    let far = Sidecar::between(&dir, local(1), app.address, &limits);
    let target = SocketAddr::from((OWN, far.inbound.port()));
    let silent: Vec<_> = (0..200).map(|i| knock(Ipv4Addr::new(10, 99, 1, i / 4), target).unwrap()).collect();
    let near = Sidecar::between(&dir, target, local(1), &[]);
    assert_echo(&mut connect(near.outbound).unwrap(), "through the crowd");
    drop(silent);
}

/// Readers that do not read cost a bounded amount each: no buffer grows to take the batch of a connection whose peer is
/// slow. In front of each sidecar lies more than a batch, behind it there is little room, so that both are backlogged with
/// all that they read at once: what near seals, and what far opens.
#[test]
fn readers_that_do_not_read_cost_little_each() {
    const READERS: u64 = 150;
    seclude();
    let room = |kind: &str, sizes: &str| std::fs::write(format!("/proc/sys/net/ipv4/tcp_{kind}"), sizes).unwrap();
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = local(free_port());
    // A listener's connections have the room that it was made with.
    room("rmem", "4096 2000000 6291456");
    let far = Sidecar::between(&dir, local(1), app, &[]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    room("rmem", "4096 16384 32768");
    room("wmem", "4096 16384 32768");
    let deaf = TcpListener::bind(app).unwrap();
    let mut writers = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..READERS {
        let writer = connect(near.outbound).unwrap();
        kept.push(deaf.accept().unwrap());
        writer.set_nonblocking(true).unwrap();
        writers.push(writer);
    }
    let before = [near.memory(), far.memory()];
    let block = vec![0; 1 << 20];
    let mut all_are_backlogged = |when: &str| {
        // A GiB is sealed and opened until all are, unoptimised, perhaps beside other work.
        let is_quiet = (0..300).any(|_| {
            let written: usize = writers.iter_mut().map(|writer| writer.write(&block).unwrap_or(0)).sum();
            std::thread::sleep(Duration::from_millis(200));
            written == 0
        });
        assert!(is_quiet, "not within a minute: {when}");
    };
    far.signal(Signal::SIGSTOP);
    all_are_backlogged("backlogged before far");
    far.signal(Signal::SIGCONT);
    all_are_backlogged("backlogged behind far");
    // 8 MiB for each of four threads at most, 40 KiB for each connection and way.
    let threads = std::thread::available_parallelism().unwrap().get().min(4) as u64;
    let most = threads * 8 * 1024 + READERS * 80;
    for (name, after, before) in [("near", near.memory(), before[0]), ("far", far.memory(), before[1])] {
        println!("{name}: {} KiB for {READERS} readers", after - before);
        assert!(after - before < most, "{name}: {} KiB for {READERS} readers that do not read", after - before);
    }
}

/// The kubelet's probes are answered while strangers hold as many connections as there may be.
#[test]
fn probes_are_answered_in_a_crowd() {
    seclude();
    let certificates = Certificates::new();
    let bind = OWN.to_string();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(1), &["--bind-address", &bind]);
    let admin = SocketAddr::from((OWN, sidecar.admin.port()));
    let _silent: Vec<_> = (0..400).map(|i| knock(Ipv4Addr::new(10, 99, 1, (i / 8) as u8), admin).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..5 {
        let mut probe = connect(admin).unwrap();
        // Silent connections end by themselves after 5 s; a probe does not wait for that.
        probe.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        probe.write_all(b"GET /ready HTTP/1.1\r\nHost: 10.99.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).expect("an answer before those that say nothing have ended");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A certificate that nobody vouches for may hold hundreds of names; none of them fills memory, status or log.
#[test]
fn a_strangers_names_are_cut_short() {
    let certificates = Certificates::new();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(1), &[]);
    let names = (0..240).map(|i| format!("{}.{i:03}.example", ["x"; 30].join(".x"))).collect();
    let foreign = DevelopmentCa::new("foreign").unwrap();
    let huge = LeafRequest { dns_names: names, ..LeafRequest::for_service_account("evil", "evil", "evil") };
    let huge = foreign.issue(&huge).unwrap();
    for _ in 0..10 {
        let _ = attack(sidecar.inbound, Some(&huge));
    }
    let line = sidecar.log_line(&["\"reason\":\"untrusted\""]);
    assert!(line.len() < 4096 && line.contains("bytes)"), "{} bytes: {line:.600}", line.len());
    let refusals = eventually("all refusals are told", || {
        let refusals = sidecar.status()["refusals"].clone();
        (refusals.as_array()?.len() == 10).then_some(refusals)
    });
    assert!(refusals.to_string().len() < 10 * 4096, "{} bytes", refusals.to_string().len());
}

/// A page in somebody's browser can reach a port that was forwarded to loopback.
#[test]
fn web_pages_change_nothing() {
    let certificates = Certificates::new();
    let sidecar = Sidecar::between(&certificates.tls_dir("cart"), local(1), local(1), &["--fault-injection"]);
    let ask = |request: &str| {
        let mut stream = connect(sidecar.admin).unwrap();
        write!(stream, "{request}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for forbidden in [
        "POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example",
        "POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: null",
        "DELETE /faults HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site",
        "PUT /log HTTP/1.1\r\nHost: evil.example:15550",
        "GET /status HTTP/1.1\r\nHost: evil.example",
        "GET /status HTTP/1.1\r\nHost: 127.0.0.1.evil.example",
    ] {
        assert_eq!(ask(forbidden), "403", "{forbidden}");
    }
    for allowed in [
        "GET /status HTTP/1.1\r\nHost: localhost:15550\r\nSec-Fetch-Site: none",
        "GET /healthz HTTP/1.1\r\nHost: [::1]:15550\r\nOrigin: http://evil.example",
        "GET /healthz HTTP/1.0",
        "DELETE /faults HTTP/1.1\r\nHost: 127.0.0.1",
    ] {
        assert_eq!(ask(allowed), "200", "{allowed}");
    }
}

/// A root whose time is over vouches for nobody, in a sidecar that has been running since before.
#[test]
fn a_root_that_ends_is_let_go() {
    let certificates = Certificates::new();
    let app = App::echo();
    let dir = certificates.path().join("both");
    // Certificates know whole seconds.
    let end = (OffsetDateTime::now_utc() + Duration::from_secs(7)).replace_nanosecond(0).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "short");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = end;
    let short = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "peer");
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://cluster.local/ns/shop/sa/cart".try_into().unwrap())];
    params.not_after = end + Duration::from_secs(3600);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &short).unwrap();
    let peer = IssuedLeaf { certificate_pem: leaf.pem(), key_pem: key.serialize_pem().into() };
    let roots = format!("{}{}", certificates.ca.certificate_pem(), short.pem());
    write_set(&dir, &certificates.leaf("cart"), &roots);
    let sidecar = Sidecar::between(&dir, local(1), app.address, &[]);
    let accepted = attack(sidecar.inbound, Some(&peer)).is_ok();
    assert!(accepted || OffsetDateTime::now_utc() > end, "{}", sidecar.log());
    eventually("the root is let go", || attack(sidecar.inbound, Some(&peer)).is_err().then_some(()));
    assert!(OffsetDateTime::now_utc() > end);
    sidecar.log_line(&["credentials reloaded"]);
    attack(sidecar.inbound, Some(&certificates.leaf("cart"))).expect("the other root still vouches");
}
