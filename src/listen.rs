//! Listening sockets, bound before anything else runs, so that a taken port is the first and only failure.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the kernel may complete before we take them; a whole cluster dials at once after a restart.
const BACKLOG: i32 = 1024;

/// Why an address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct Unbound {
    /// Which.
    pub address: SocketAddr,
    /// The system's reason.
    pub source: io::Error,
}

/// Binds one address; one of IPv6 takes no IPv4. Needs to run in a tokio runtime.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, Unbound> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // IPv4 has a listener of its own: a mapped address would need another way to its original destination.
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|source| Unbound { address, source })
}

/// Binds both families; a kernel without IPv6 has no IPv6 traffic to miss.
pub(crate) fn bind_both(v4: IpAddr, v6: IpAddr, port: u16) -> Result<Vec<TcpListener>, Unbound> {
    let mut listeners = vec![bind(SocketAddr::new(v4, port))?];
    match bind(SocketAddr::new(v6, port)) {
        Ok(listener) => listeners.push(listener),
        Err(unbound) if is_family_absent(&unbound.source) => {}
        Err(unbound) => return Err(unbound),
    }
    Ok(listeners)
}

fn is_family_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}
