//! What we ask of TCP sockets: original destination, options, dialling, abort.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::core::route::OriginalDst;

/// Less than Akka's own 5 s (`akka.remote.artery.advanced.tcp.connection-timeout`): our answer comes before its own.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a peer may leave our bytes or keepalives unanswered. By then the default failure detector and split brain
/// resolver have downed a silent node (about 45 s); sooner would cut connections to a peer that only pauses, because the
/// kernel counts a receive window that stays shut as silence too.
const USER_TIMEOUT: Duration = Duration::from_secs(45);

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
    /// A peer, across the network.
    Peer,
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

/// Sets the options of a connection that lives for days.
pub(super) fn tune(stream: &TcpStream, far_end: FarEnd) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if far_end == FarEnd::Peer {
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    }
    Ok(())
}

/// Makes the coming close a reset, so that the other side sees an abort and not an end of its stream.
pub(super) fn reset_on_close(stream: &TcpStream) {
    // A socket that is gone already needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
