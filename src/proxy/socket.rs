//! What we ask of TCP sockets: original destination, options, dialling, abort.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use crate::core::route::OriginalDst;

/// Less than Akka's own 5 s (`akka.remote.artery.advanced.tcp.connection-timeout`): our answer comes before its own.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Before the first keepalive, and between them, where the peer's timeout leaves the room.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// Where the connection was going before it was redirected to us. The address family of the listener tells which
/// conntrack to ask.
pub(super) fn original_dst(stream: &TcpStream) -> io::Result<OriginalDst> {
    let socket = SockRef::from(stream);
    let asked = if stream.local_addr()?.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match asked {
        Ok(address) => Ok(address.as_socket().map_or(OriginalDst::NotRedirected, OriginalDst::Known)),
        // ENOENT: not in conntrack; ENOPROTOOPT and EOPNOTSUPP: no conntrack in this kernel.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(nix::libc::ENOENT | nix::libc::ENOPROTOOPT | nix::libc::EOPNOTSUPP)
            ) =>
        {
            Ok(OriginalDst::NotRedirected)
        }
        Err(error) => Err(error),
    }
}

/// Who is at the other end of a dialled connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FarEnd {
    /// The app, in this pod; it may pause as long as it likes.
    App,
    /// A peer, across the network, that may leave our bytes or keepalives unanswered for so long. The kernel counts a
    /// receive window that stays shut as silence too, so too little cuts connections to a peer that only pauses; by the
    /// default of 45 s failure detector and split brain resolver have downed a silent node.
    Peer(Duration),
}

/// Connects within this time.
pub(super) async fn dial(target: SocketAddr, far_end: FarEnd, timeout: Duration) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let stream = match tokio::time::timeout(timeout, socket.connect(target)).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} ms", timeout.as_millis()),
            ));
        }
    };
    tune(&stream, far_end)?;
    Ok(stream)
}

/// Whether dialling failed for want of something of our own: descriptors, local ports, memory (connect(2), socket(2)).
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EADDRNOTAVAIL))
}

/// Bytes that the kernel has and the other side has not acknowledged yet; 0 if it does not say.
#[allow(unsafe_code)]
pub(super) fn unsent(stream: &TcpStream) -> u64 {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: SIOCOUTQ (tcp(7)), the same request as TIOCOUTQ, writes one int to where it is told.
    let result = unsafe { nix::libc::ioctl(stream.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// What the other side has done to a connection that nobody reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HungUp {
    /// It sends no more.
    Closed,
    /// It takes no more either.
    Reset,
}

/// Whether the other side has hung up, without taking what it sent before.
pub(super) fn hung_up(stream: &TcpStream) -> Option<HungUp> {
    let seen = stream.ready(Interest::READABLE | Interest::WRITABLE).now_or_never()?.ok()?;
    match (seen.is_write_closed(), seen.is_read_closed()) {
        (true, _) => Some(HungUp::Reset),
        (false, true) => Some(HungUp::Closed),
        (false, false) => None,
    }
}

/// Sets the options of a connection that lives for days.
pub(super) fn tune(stream: &TcpStream, far_end: FarEnd) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    match far_end {
        // Between two processes of a pod nothing is congested; a node's BBR would set a timer for each batch, which costs
        // a tenth of the processor time. Where this is not allowed, what the node has does as well.
        FarEnd::App => drop(socket.set_tcp_congestion(b"reno")),
        FarEnd::Peer(timeout) => keep_alive(&socket, timeout)?,
    }
    Ok(())
}

fn keep_alive(socket: &SockRef<'_>, timeout: Duration) -> io::Result<()> {
    // The user timeout ends what keepalives find dead (tcp(7), TCP_USER_TIMEOUT), so one has to be sent before it.
    let (first, next) = (KEEPALIVE.0.min(timeout / 2), KEEPALIVE.1.min(timeout / 2));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(first).with_interval(next))?;
    socket.set_tcp_user_timeout(Some(timeout))
}

/// Makes the coming close a reset, so that the other side sees an abort and not an end of its stream.
pub(super) fn reset_on_close(stream: &TcpStream) {
    // A socket that is gone already needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
