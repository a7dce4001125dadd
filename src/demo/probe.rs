//! One connection, and who took it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::artery::Dialler;
use super::lab::{MEMBERS, Member, application_of};
use super::promise::{REFUSED, Taker};
use super::{APP_UID, MANAGEMENT_PORT, REMOTING_PORT, http};
use crate::core::ruleset::Family;
use crate::sandbox::pod::Pod;

/// Longer than any handshake takes; what is not there by then does not come.
const PATIENCE: Duration = Duration::from_secs(3);
const GLANCE: Duration = Duration::from_millis(5);
const FRAMES: u64 = 5;

/// Dials a member's port and says who took the connection.
pub(super) fn dial(from: &Pod, to: &Member, port: u16, family: Family) -> Taker {
    let address = SocketAddr::new(to.pod.address(family), port);
    let outcome = if port == REMOTING_PORT { artery(from, to, address) } else { request(from, to, address) };
    outcome.unwrap_or_else(|error| Taker::Nobody(describe(&error)))
}

/// A token that no other connection has.
pub(super) fn token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn request(from: &Pod, to: &Member, address: SocketAddr) -> io::Result<Taker> {
    let path = if address.port() == MANAGEMENT_PORT { MEMBERS } else { "/" };
    let response = http::get(from.connect(APP_UID, address, PATIENCE)?, path)?;
    Ok(match http::served_by(&response) {
        Some(name) if name == application_of(&to.pod) => Taker::App,
        Some(name) => Taker::Mesh(name.to_owned()),
        None => Taker::Nobody("an answer of somebody else".to_owned()),
    })
}

fn artery(from: &Pod, to: &Member, address: SocketAddr) -> io::Result<Taker> {
    let token = token();
    let stream = from.connect(APP_UID, address, PATIENCE)?;
    let mut dialler = Dialler::greet(stream, token)?;
    for _ in 0..FRAMES {
        dialler.send()?;
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let received = to.inbox.wait_for(token, GLANCE, |received| received.frames == FRAMES);
        if let Some(received) = received.filter(|received| received.frames == FRAMES && received.out_of_order == 0) {
            return Ok(if received.peer.ip() == to.pod.address(Family::of(address.ip())) {
                Taker::Agents
            } else {
                Taker::App
            });
        }
        match dialler.answer(GLANCE)? {
            None => {}
            Some(answer) if answer.is_empty() => return Ok(Taker::Nobody("connection closed".to_owned())),
            Some(answer) => {
                let name = http::served_by(&answer).unwrap_or("an answer, which Artery never has");
                return Ok(Taker::Mesh(name.to_owned()));
            }
        }
    }
    Ok(Taker::Nobody("no frame arrived".to_owned()))
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => REFUSED.to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".to_owned(),
        _ => error.to_string(),
    }
}
