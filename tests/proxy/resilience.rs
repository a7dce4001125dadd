//! Peers that come and go, peers that want too much, and faults that somebody orders.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{
    App, Certificates, Sidecar, assert_echo, assert_no_byte, assert_reset, connect, eventually, free_port, http,
    http_with, local, reset,
};

/// Two sidecars without TLS, for what is tested here is the same with it, and an app that echoes behind them.
fn plain(app: &App, more: &[&str]) -> Sidecar {
    let (app, nobody) = (app.address.to_string(), local(1).to_string());
    let args = ["--mode=disabled", "--outbound-target", &app, "--inbound-target", &nobody];
    Sidecar::start(&[&args, more].concat())
}

/// An agent that is restarted is away for a second; the app's connection waits for it, and is not reset.
#[test]
fn a_peer_that_is_back_soon_is_reached_and_the_app_sees_no_reset() {
    let peer = local(free_port());
    let target = peer.to_string();
    let near = Sidecar::start(&["--mode=disabled", "--outbound-target", &target, "--inbound-target", "127.0.0.1:1"]);
    let mut app = connect(near.outbound).unwrap();
    app.write_all(b"early").unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let listener = TcpListener::bind(peer).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let mut early = [0; 5];
    taken.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    let (_, metrics) = near.get("/metrics");
    let retries = metrics.lines().find_map(|line| line.strip_prefix("bypassctl_connect_retries_total "));
    assert!(retries.is_some_and(|count| count.parse::<u64>().unwrap() >= 2), "{metrics}");
}

/// After failures in a row a peer is left alone: the next connection is refused at once and costs no handshake. After the
/// pause one attempt finds out, and all is as before.
#[test]
fn a_peer_that_cannot_be_had_is_left_alone_until_one_attempt_finds_it_back() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    // It takes connections and hangs up: every handshake fails, after three tries.
    let broken = App::serving(drop);
    let near = Sidecar::between(&dir, broken.address, local(1), &["--breaker-failures=3", "--breaker-pause=5"]);
    for _ in 0..3 {
        assert_no_byte(&mut connect(near.outbound).unwrap());
    }
    near.log_line(&["could not be had several times in a row"]);
    let tried = broken.accepted();
    assert_eq!(tried, 9);
    assert_no_byte(&mut connect(near.outbound).unwrap());
    near.log_line(&["\"reason\":\"circuit_open\""]);
    assert_eq!(broken.accepted(), tried, "nobody was dialled");
    let circuit = near.status()["circuits"][0].clone();
    assert_eq!((circuit["state"].as_str(), circuit["failures"].as_u64()), (Some("open"), Some(3)), "{circuit}");
    assert!(near.get("/metrics").1.contains("bypassctl_circuits_open 1"));
    eventually("one attempt after the pause", || {
        // Many are refused until then, and a reset may come before the dial has returned.
        if let Ok(mut refused) = connect(near.outbound) {
            assert_no_byte(&mut refused);
        }
        (broken.accepted() == tried + 3).then_some(())
    });
}

#[test]
fn a_success_closes_the_circuit() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &[]);
    let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near =
        Sidecar::between(&dir, relay.local_addr().unwrap(), local(1), &["--breaker-failures=1", "--breaker-pause=1"]);
    let mut first = connect(near.outbound).unwrap();
    for _ in 0..3 {
        drop(relay.accept().unwrap());
    }
    assert_no_byte(&mut first);
    eventually("the circuit opens", || near.status()["circuits"][0]["peer"].is_string().then_some(()));
    // Its pause is over, and nobody has dialled the peer since: nobody is left alone any more.
    eventually("its pause is over", || (near.status()["circuits"][0]["state"] == "untried").then_some(()));
    assert!(near.get("/metrics").1.contains("bypassctl_circuits_open 0"));
    let to = far.inbound;
    std::thread::spawn(move || {
        let (mut from, mut to) = (relay.accept().unwrap().0, TcpStream::connect(to).unwrap());
        let (mut back, mut forth) = (to.try_clone().unwrap(), from.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
        std::io::copy(&mut from, &mut to).unwrap();
    });
    assert_echo(&mut connect(near.outbound).unwrap(), "back again");
    assert_eq!(near.status()["circuits"], serde_json::json!([]));
    near.log_line(&["the peer can be had again"]);
}

#[test]
fn one_peer_has_no_more_connections_than_it_may() {
    let app = App::echo();
    let near = plain(&app, &["--max-connections-per-peer=2"]);
    let mut held: Vec<TcpStream> = (0..2).map(|_| connect(near.outbound).unwrap()).collect();
    held.iter_mut().for_each(|stream| assert_echo(stream, "held"));
    assert_no_byte(&mut connect(near.outbound).unwrap());
    near.log_line(&["\"reason\":\"too_many_of_peer\"", "--max-connections-per-peer"]);
    held.pop();
    eventually("a place is given back", || {
        let mut stream = connect(near.outbound).unwrap();
        let mut byte = [0];
        (stream.write_all(b"x").is_ok() && matches!(stream.read(&mut byte), Ok(1))).then_some(())
    });
}

#[test]
fn whoever_waits_for_a_place_is_not_left_in_silence() {
    let app = App::echo();
    let near = plain(&app, &["--max-connections=2"]);
    let mut held: Vec<TcpStream> = (0..2).map(|_| connect(near.outbound).unwrap()).collect();
    held.iter_mut().for_each(|stream| assert_echo(stream, "held"));
    let mut waiting = connect(near.outbound).unwrap();
    near.log_line(&["as many connections as may be", "--max-connections"]);
    let waits = r#"bypassctl_accept_waits_total{direction="outbound",option="--max-connections"}"#;
    assert!(near.get("/metrics").1.contains(waits));
    held.pop();
    assert_echo(&mut waiting, "let in");
}

fn order(near: &Sidecar, fault: &str) {
    let (status, body) = http_with(near.admin, "POST", "/faults", fault).unwrap();
    assert_eq!(status, 201, "{fault}: {body}");
}

#[test]
fn nobody_orders_faults_without_the_flag() {
    let app = App::echo();
    let near = plain(&app, &[]);
    let (status, body) = http_with(near.admin, "POST", "/faults", r#"{"kind":"abort","seconds":9}"#).unwrap();
    assert_eq!(status, 403);
    assert!(body.contains("--fault-injection"), "{body}");
    assert_echo(&mut connect(near.outbound).unwrap(), "unharmed");
}

/// Faults meet connections that are open as well as new ones, are loudly visible, and leave no byte lost or doubled.
#[test]
fn a_delay_a_throttle_and_a_black_hole_lose_no_byte() {
    let app = App::echo();
    let near = plain(&app, &["--fault-injection"]);
    let mut open = connect(near.outbound).unwrap();
    assert_echo(&mut open, "before");
    for (fault, longer) in [
        (r#"{"kind":"delay","milliseconds":300,"seconds":60}"#, Duration::from_millis(300)),
        (r#"{"kind":"throttle","bytes_per_second":100,"seconds":60}"#, Duration::from_millis(300)),
    ] {
        order(&near, fault);
        let begun = Instant::now();
        assert_echo(&mut open, "thirty bytes and a few more ...");
        assert!(begun.elapsed() >= longer, "{fault}: {:?}", begun.elapsed());
        let (_, ready) = near.get("/ready");
        assert!(ready.contains("note: fault injection, for "), "{ready}");
        assert!(near.get("/metrics").1.contains("bypassctl_faults_active 1"));
        assert_eq!(http(near.admin, "DELETE", "/faults").unwrap().0, 200);
    }
    order(&near, r#"{"kind":"black_hole","seconds":60}"#);
    open.write_all(b"held back").unwrap();
    open.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let mut byte = [0];
    assert!(open.read(&mut byte).is_err(), "a byte passed the black hole");
    let mut fresh = connect(near.outbound).unwrap();
    fresh.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(fresh.read(&mut byte).is_err());
    assert_eq!(http(near.admin, "DELETE", "/faults").unwrap().0, 200);
    open.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
    let mut back = [0; 9];
    open.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"held back");
    near.log_line(&["fault injection begins: it holds back all bytes of 100 % of the connections with everybody"]);
    near.log_line(&["fault injection ends: it was told to"]);
}

#[test]
fn an_abort_resets_open_and_new_connections_and_ends_by_itself() {
    let app = App::echo();
    let near = plain(&app, &["--fault-injection"]);
    let mut open = connect(near.outbound).unwrap();
    assert_echo(&mut open, "before");
    order(&near, r#"{"kind":"abort","seconds":1,"direction":"outbound","peer":"127.0.0.1"}"#);
    assert_reset(&mut open);
    assert_no_byte(&mut connect(near.outbound).unwrap());
    near.log_line(&["\"reason\":\"fault_injected\""]);
    near.log_line(&["fault injection ends, its time is over"]);
    assert_echo(&mut connect(near.outbound).unwrap(), "after");
}

/// Who dials and hangs up while a fault holds the connection has no place among the connections any more.
#[test]
fn a_fault_does_not_hold_who_has_hung_up() {
    let app = App::echo();
    let near = plain(&app, &["--fault-injection", "--max-connections-per-peer=2"]);
    order(&near, r#"{"kind":"black_hole","seconds":60}"#);
    let mut said = connect(near.outbound).unwrap();
    said.write_all(b"into the void").unwrap();
    drop(said);
    near.log_line(&["\"reason\":\"closed\""]);
    reset(connect(near.outbound).unwrap());
    near.log_line(&["\"reason\":\"app_reset\""]);
    assert_eq!(http(near.admin, "DELETE", "/faults").unwrap().0, 200);

    order(&near, r#"{"kind":"delay","milliseconds":60000,"seconds":60}"#);
    let late: Vec<_> = (0..2).map(|_| connect(near.outbound).unwrap()).collect();
    let [mut closed, refused] = <[_; 2]>::try_from(late).unwrap();
    reset(refused);
    eventually("its reset is noticed", || near.get("/metrics").1.contains(r#"reason="app_reset"} 2"#).then_some(()));
    closed.write_all(b"only late").unwrap();
    closed.shutdown(std::net::Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(http(near.admin, "DELETE", "/faults").unwrap().0, 200);
    let mut back = String::new();
    closed.read_to_string(&mut back).unwrap();
    assert_eq!(back, "only late");
}

#[test]
fn a_percentage_is_one_of_a_few_connections_too() {
    let app = App::echo();
    let near = plain(&app, &["--fault-injection"]);
    order(&near, r#"{"kind":"abort","seconds":60,"percent":50}"#);
    let served = (0..20).filter(|_| {
        let mut stream = connect(near.outbound).unwrap();
        let _ = stream.write_all(b"x");
        matches!(stream.read(&mut [0]), Ok(1))
    });
    let served = served.count();
    assert!((8..=12).contains(&served), "{served} of 20");
}

/// A fault that ends, and one that is ordered, change nothing for what another one holds.
#[test]
fn a_short_fault_ends_no_long_one_and_none_starts_another_anew() {
    let app = App::echo();
    let near = plain(&app, &["--fault-injection"]);
    let mut open = connect(near.outbound).unwrap();
    assert_echo(&mut open, "before");
    order(&near, r#"{"kind":"delay","milliseconds":3000,"seconds":60,"direction":"outbound"}"#);
    order(&near, r#"{"kind":"throttle","bytes_per_second":1000000000,"seconds":1}"#);
    let begun = Instant::now();
    assert_echo(&mut open, "held");
    // There and back again.
    assert!(begun.elapsed() >= Duration::from_secs(6), "{:?}", begun.elapsed());
    open.write_all(b"x").unwrap();
    open.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // A delay that began anew with each order would never be over.
    let mut byte = [0];
    let back = (0..60).any(|_| {
        if let Ok(1) = open.read(&mut byte) {
            return true;
        }
        order(&near, r#"{"kind":"delay","milliseconds":1,"seconds":1,"peer":"10.0.0.7"}"#);
        false
    });
    assert!(back, "every order begins the delay anew");
}

/// The time for a handshake begins when no fault holds the connection any more.
#[test]
fn a_delay_of_new_connections_is_not_taken_for_a_peers_silence() {
    let certificates = Certificates::new();
    let dir = certificates.tls_dir("cart");
    let app = App::echo();
    let far = Sidecar::between(&dir, local(1), app.address, &["--fault-injection", "--handshake-timeout=1"]);
    let near = Sidecar::between(&dir, far.inbound, local(1), &[]);
    order(&far, r#"{"kind":"delay","milliseconds":2000,"seconds":60}"#);
    assert_echo(&mut connect(near.outbound).unwrap(), "late");
    assert!(!far.log().contains("peer_silent"), "{}", far.log());
}

#[test]
fn an_order_that_makes_no_sense_says_why() {
    let app = App::echo();
    let near = plain(&app, &["--fault-injection"]);
    for (fault, complaint) in [
        ("", "EOF"),
        (r#"{"kind":"abort"}"#, "missing field `seconds`"),
        (r#"{"kind":"abort","seconds":4000}"#, "1 to 3600"),
        (r#"{"kind":"delay","seconds":4}"#, "milliseconds"),
    ] {
        let (status, body) = http_with(near.admin, "POST", "/faults", fault).unwrap();
        assert_eq!(status, 400, "{fault}");
        assert!(body.contains(complaint) && body.contains("an example"), "{body}");
    }
    for _ in 0..16 {
        order(&near, r#"{"kind":"delay","milliseconds":1,"seconds":60}"#);
    }
    let (status, body) = http_with(near.admin, "POST", "/faults", r#"{"kind":"abort","seconds":9}"#).unwrap();
    assert_eq!(status, 400);
    assert!(body.contains("16 faults are in force"), "{body}");
}
