//! A peer that is gone without a word: no FIN, no RST, no answer.

use std::time::{Duration, Instant};

use bypassctl::core::ruleset::Family;

use crate::support::init::must_init;
use crate::support::pod::Pod;
use crate::support::probe::Call;
use crate::support::roles::{APP, REMOTING, peer};
use crate::support::sidecar::{NOTHING, Sidecar};

/// What is configured, and what a busy machine may take beyond it; the kernel's own default is two hours.
const TIMEOUT: Duration = Duration::from_secs(4);
const MARGIN: Duration = Duration::from_secs(6);

/// A node that lost its power says nothing. Its connections are given up within the time that is configured, idle ones by
/// keepalives; and until then, however long they idle, nobody cuts them.
#[test]
fn a_peer_that_fell_silent_is_given_up_in_the_time_that_is_configured() {
    let (pod, other) = Pod::pair();
    must_init(&pod, &[]);
    let _peer = peer(&other, &[]);
    let sidecar = Sidecar::start(&pod, NOTHING, &[&format!("--peer-timeout={}", TIMEOUT.as_secs())]);
    sidecar.await_ready(200, "ready");
    let mut idle = Call::open(&pod, APP, other.at(Family::V4, REMOTING)).expect("a connection through the sidecar");
    idle.still_echoes().unwrap();
    std::thread::sleep(Duration::from_secs(5));
    idle.still_echoes().expect("an idle connection lives as long as its peer does");

    other.feed("nft -f -", "table inet dead { chain input { type filter hook input priority 0; policy drop; }; }\n");
    let fell_silent = Instant::now();
    while !sidecar.log().contains("\"reason\":\"peer_timed_out\"") {
        assert!(fell_silent.elapsed() < TIMEOUT + MARGIN, "not given up in time: {}", sidecar.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(fell_silent.elapsed() >= Duration::from_secs(2), "it was given up before anybody could have answered");
    idle.still_echoes().expect_err("the app was not told");
}
