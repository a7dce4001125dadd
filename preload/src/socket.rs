//! What connect() and getpeername() do.

use core::ptr;

use crate::address::{Address, Family, LONGEST, STORAGE, header};
use crate::{originals, settings, system};

const EINTR: i32 = 4;
const EBADF: i32 = 9;
const EISCONN: i32 = 106;
const ECONNREFUSED: i32 = 111;
const EALREADY: i32 = 114;
const EINPROGRESS: i32 = 115;

const SO_TYPE: i32 = 3;
const SO_PROTOCOL: i32 = 38;
const SOCK_STREAM: i32 = 1;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_MPTCP: i32 = 262;

/// How long the sidecar's listener may take, which is microseconds: the kernel completes the connection, not the sidecar. Only
/// where so many wait that none more may, it takes longer.
const SECONDS: i64 = 1;

/// connect(2), or a connection with the sidecar.
///
/// # Safety
/// As connect(2).
pub(crate) unsafe fn connect(socket: i32, address: *const u8, length: u32) -> Result<(), i32> {
    // SAFETY: the caller's promise.
    let (bytes, seen) = unsafe { look_at(address, length as usize) };
    let taken = bytes
        .get(..seen)
        .and_then(Address::parse)
        .filter(|(_, target)| settings::is_remoting(target.port) && !target.is_here() && is_tcp(socket));
    match taken {
        None => {
            // SAFETY: the caller's promise.
            unsafe { system::connect(socket, address, length) }.map(drop)
        }
        Some(_) if !settings::are_good() => Err(ECONNREFUSED),
        Some((family, target)) => hand_over(socket, family, target),
    }
}

/// As much of an address as is looked at, and how many bytes that is: none of one that the kernel refuses, who says why.
///
/// # Safety
/// Nobody else takes the memory away meanwhile.
unsafe fn look_at(address: *const u8, length: usize) -> ([u8; LONGEST], usize) {
    let mut bytes = [0; LONGEST];
    if length > STORAGE || !system::is_readable(address, length) {
        return (bytes, 0);
    }
    let seen = length.min(LONGEST);
    // SAFETY: it can be read, and there is room.
    unsafe { ptr::copy_nonoverlapping(address, bytes.as_mut_ptr(), seen) };
    (bytes, seen)
}

fn is_tcp(socket: i32) -> bool {
    system::option(socket, SO_TYPE) == Ok(SOCK_STREAM)
        && matches!(system::option(socket, SO_PROTOCOL), Ok(IPPROTO_TCP | IPPROTO_MPTCP))
}

/// Connects with the sidecar, and tells it where to; of a socket that has a peer already the kernel says so. Done when this is done, whether the socket is to block or not: the kernel
/// completes connections over loopback at once, and the header has to come before the app's bytes.
fn hand_over(socket: i32, family: Family, target: Address) -> Result<(), i32> {
    let agent = target.loopback(settings::agent_port());
    if has_peer(socket) {
        // It may answer 0 once, to whoever asked not to wait: a header would then be among the app's bytes.
        return dial_once(socket, agent, family);
    }
    dial(socket, agent, family)?;
    let told = system::own_name::<LONGEST>(socket).and_then(|(name, length)| {
        let (_, local) = Address::parse(name.get(..length).unwrap_or_default()).ok_or(EBADF)?;
        originals::remember(&local, &target);
        let (header, length) = header(local, target);
        let sent = system::send(socket, header.get(..length).unwrap_or_default())?;
        if sent == length { Ok(()) } else { Err(ECONNREFUSED) }
    });
    told.map_err(|_| give_up(socket))
}

fn has_peer(socket: i32) -> bool {
    let (mut peer, mut length) = ([0_u8; LONGEST], LONGEST as u32);
    // SAFETY: room of that size.
    unsafe { system::peer_name(socket, peer.as_mut_ptr(), &raw mut length) }.is_ok()
}

fn dial(socket: i32, agent: Address, family: Family) -> Result<(), i32> {
    match dial_once(socket, agent, family) {
        // Asked again, the kernel tells how it went, and that once: the app's next connect() hears EISCONN.
        Err(EINPROGRESS | EINTR) if system::await_writable(socket, SECONDS) => match dial_once(socket, agent, family) {
            Err(EINPROGRESS | EALREADY | EINTR) => Err(give_up(socket)),
            Err(EISCONN) => Ok(()),
            told => told,
        },
        Err(EINPROGRESS | EINTR) => Err(give_up(socket)),
        told => told,
    }
}

fn dial_once(socket: i32, agent: Address, family: Family) -> Result<(), i32> {
    let (bytes, length) = agent.to_bytes(family);
    // SAFETY: an address of that length.
    unsafe { system::connect(socket, bytes.as_ptr(), length as u32) }.map(drop)
}

/// Lets go of what has begun, so that nothing of the app's goes that way.
fn give_up(socket: i32) -> i32 {
    // AF_UNSPEC: "the connection is dissolved" (connect(2)).
    let nowhere = [0; LONGEST];
    // SAFETY: an address of that length. That a socket is not connected any more is no error.
    let _ = unsafe { system::connect(socket, nowhere.as_ptr(), LONGEST as u32) };
    ECONNREFUSED
}

/// Where the connection was going, if it goes to the sidecar by our doing; as a `struct sockaddr`.
pub(crate) fn original_peer(socket: i32, peer: &[u8]) -> Option<([u8; LONGEST], usize)> {
    let (family, peer) = Address::parse(peer)?;
    if peer != peer.loopback(settings::agent_port()) {
        return None;
    }
    let (name, length) = system::own_name::<LONGEST>(socket).ok()?;
    let (_, local) = Address::parse(name.get(..length)?)?;
    Some(originals::original(&local)?.to_bytes(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn only_tcp_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_tcp(listener.as_raw_fd()));
        assert!(!is_tcp(UdpSocket::bind("127.0.0.1:0").unwrap().as_raw_fd()));
        assert!(!is_tcp(-1));
    }

    #[test]
    fn what_is_given_up_is_no_connection_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(give_up(dialled.as_raw_fd()), ECONNREFUSED);
        assert!(dialled.peer_addr().is_err() && dialled.read(&mut [0]).is_err());
        let (mut accepted, _) = listener.accept().unwrap();
        assert!(accepted.read(&mut [0]).is_ok_and(|read| read == 0) || accepted.take_error().is_ok());
    }
}
