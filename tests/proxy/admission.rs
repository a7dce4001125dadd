//! Promise: who has not shown yet who it is takes nothing from those who can, and is told when there is no room for it.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::StreamOwned;
use socket2::Socket;

use crate::client::session;
use crate::crowds::{knock, seclude};
use crate::harness::{App, Certificates, Sidecar, assert_echo, connect, eventually, http_with, local};

/// Peers have this address too: what they share with a stranger is a gateway.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// A record of 512 bytes, and in it a ClientHello that ends after its version (RFC 8446, sections 5.1 and 4.1.2).
const HALF: [u8; 11] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];

/// Two sidecars, of which the far one is where strangers are.
struct Setting {
    certificates: Certificates,
    _app: App,
    far: Sidecar,
    near: Sidecar,
}

impl Setting {
    fn new(far: &[&str], near: &[&str]) -> Self {
        seclude();
        let certificates = Certificates::new();
        let dir = certificates.tls_dir("cart");
        let app = App::echo();
        let own = OWN.to_string();
        let far = Sidecar::between(&dir, local(1), app.address, &[&["--bind-address", &own], far].concat());
        let near = Sidecar::between(&dir, SocketAddr::from((OWN, far.inbound.port())), local(1), near);
        Self { certificates, _app: app, far, near }
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::from((OWN, self.far.inbound.port()))
    }

    /// A stranger with half a hello.
    fn stranger(&self, from: Ipv4Addr) -> Socket {
        self.says(from, &HALF)
    }

    fn says(&self, from: Ipv4Addr, bytes: &[u8]) -> Socket {
        let stranger = knock(from, self.target()).unwrap();
        // Those that are refused have been reset by now, or will be.
        let _ = stranger.send(bytes);
        stranger
    }

    fn enter(&self) {
        assert_echo(&mut connect(self.near.outbound).unwrap(), "through");
    }

    /// Dials that begin together, and all get in.
    fn enter_together(&self, dials: usize) {
        let mut streams: Vec<TcpStream> = (0..dials).map(|_| connect(self.near.outbound).unwrap()).collect();
        for (i, stream) in streams.iter_mut().enumerate() {
            let entered = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut [0; 4]));
            entered.unwrap_or_else(|error| panic!("{i} of {dials}: {error}\n{}", self.near.log()));
        }
    }
}

/// The sum of a counter's lines that have this in them.
fn count(sidecar: &Sidecar, metric: &str, part: &str) -> u64 {
    let metrics = sidecar.get("/metrics").1;
    let lines = metrics.lines().filter(|line| line.starts_with(metric) && line.contains(part));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Whether the other side has neither closed nor reset.
fn is_open(stranger: &Socket) -> bool {
    matches!(stranger.recv(&mut [MaybeUninit::uninit()]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Strangers that begin anew as soon as they lose a connection, until somebody has done this.
fn besieged<T>(setting: &Setting, strangers: u8, at_once: usize, mut work: impl FnMut(&mut dyn FnMut(u32)) -> T) -> T {
    let mut held: Vec<Socket> = Vec::new();
    let mut siege = |rounds: u32| {
        for _ in 0..rounds {
            held.retain(is_open);
            while held.len() < at_once {
                held.extend((2..2 + strangers).map(|i| setting.stranger(Ipv4Addr::new(10, 99, 0, i))));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    siege(20);
    work(&mut siege)
}

#[test]
fn half_hellos_from_nine_addresses_keep_no_peer_out() {
    let setting = Setting::new(&[], &["--breaker-failures=0"]);
    let mut longest = Duration::ZERO;
    // Other tests of this process need files too.
    besieged(&setting, 9, 1000, |siege| {
        for _ in 0..20 {
            let began = Instant::now();
            let mut peer = connect(setting.near.outbound).unwrap();
            peer.write_all(b"through").unwrap();
            siege(5);
            peer.read_exact(&mut [0; 7]).expect("a peer gets in meanwhile");
            longest = longest.max(began.elapsed());
        }
    });
    println!("20 of 20 peers got in meanwhile, the slowest within {longest:?}");
    assert_ne!(count(&setting.far, "bypassctl_connections_total", "too_many_unfinished"), 0, "the siege was none");
    assert_eq!(count(&setting.far, "bypassctl_accept_waits", "max-handshakes"), 0, "somebody was kept waiting");
}

/// What strangers have not finished is no open connection.
#[test]
fn strangers_take_no_room_from_connections() {
    let setting = Setting::new(&["--max-connections=64", "--handshake-timeout=300"], &["--breaker-failures=0"]);
    let _strangers: Vec<Socket> = (0..64).map(|i| setting.stranger(Ipv4Addr::new(10, 99, 1, 2 + i / 32))).collect();
    for _ in 0..3 {
        setting.enter();
    }
    assert_eq!(count(&setting.far, "bypassctl_accept_waits", "max-connections"), 0, "somebody was kept waiting");
}

/// Where strangers have half of all places and nobody waits, a peer has its time.
#[test]
fn a_slow_peer_is_not_hurried_for_what_others_do() {
    let setting = Setting::new(&["--handshake-timeout=60"], &[]);
    let _strangers: Vec<Socket> = (0..128).map(|i| setting.stranger(Ipv4Addr::new(10, 99, 1, 2 + i / 32))).collect();
    let slow = knock(Ipv4Addr::new(10, 99, 2, 1), setting.target()).unwrap();
    std::thread::sleep(Duration::from_millis(900));
    slow.set_nonblocking(false).unwrap();
    let leaf = setting.certificates.leaf("cart");
    let mut stream = StreamOwned::new(session(Some(&leaf), &rustls::version::TLS13, Vec::new()), TcpStream::from(slow));
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).expect("a slow peer gets in");
}

/// A stranger that takes the whole share of a peer's address costs the peer a moment, not its place; and that it is
/// refused meanwhile does not look like a peer without TLS.
#[test]
fn a_stranger_behind_the_same_gateway_neither_keeps_peers_out_nor_makes_them_speak_plaintext() {
    let permissive = ["--mode=permissive"];
    let setting = Setting::new(&[&permissive[..], &["--handshake-timeout=300"]].concat(), &permissive);
    let _strangers: Vec<Socket> = (0..40).map(|_| setting.stranger(OWN)).collect();
    setting.enter_together(20);
    assert_ne!(count(&setting.far, "bypassctl_connections_total", "too_many_unfinished"), 0, "nobody was refused");
    assert_ne!(count(&setting.near, "bypassctl_connect_retries", ""), 0, "nobody tried again");
    assert_eq!(count(&setting.near, "bypassctl_permissive_fallbacks", ""), 0);
    assert_eq!(count(&setting.far, "bypassctl_plaintext_accepted", ""), 0);
}

#[test]
fn few_places_are_enough_for_a_node() {
    for most in ["--max-handshakes=3", "--max-handshakes=8"] {
        Setting::new(&[most], &["--breaker-failures=1"]).enter_together(3);
    }
}

/// The share of an address is no limit of how many connections it may begin at once, and no reason to give a peer up.
#[test]
fn a_hundred_dials_at_once_from_one_address_all_get_in() {
    Setting::new(&["--max-handshakes=64"], &["--breaker-failures=1"]).enter_together(100);
}

/// Who closes after a byte that decides nothing has gone.
#[test]
fn a_byte_and_an_end_keep_no_place() {
    let setting = Setting::new(&["--handshake-timeout=300", "--mode=strict"], &[]);
    for i in 0..20 {
        drop(setting.says(Ipv4Addr::new(10, 99, 1, i), &HALF[..1]));
    }
    let ended = || count(&setting.far, "bypassctl_connections_total", "direction=\"inbound\"") == 20;
    eventually("all twenty have gone", || ended().then_some(()));
}

/// What somebody ordered to be held holds its place no better than what holds itself.
#[test]
fn who_is_held_by_a_fault_gives_way_too() {
    let far = ["--fault-injection", "--max-handshakes=64", "--handshake-timeout=300"];
    let setting = Setting::new(&far, &[]);
    let order = r#"{"kind":"black_hole","seconds":60}"#;
    let (status, answer) = http_with(local(setting.far.admin.port()), "POST", "/faults", order).unwrap();
    assert_eq!(status, 201, "{answer}");
    let held: Vec<Socket> = (0..64).map(|i| setting.stranger(Ipv4Addr::new(10, 99, 1, 2 + i / 8))).collect();
    let _newcomers: Vec<Socket> = (0..24).map(|i| setting.stranger(Ipv4Addr::new(10, 99, 2, i))).collect();
    eventually("as many have gone as have come", || {
        (held.iter().filter(|stranger| is_open(stranger)).count() == 64 - 24).then_some(())
    });
}
