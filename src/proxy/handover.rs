//! Takes a connection that the preloaded library has brought, and what it tells.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::core::handover::{PREFIX, Prefix};

/// The header is there before the app knows that it is connected.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads the header, and no byte of the app's; where the connection was going.
pub(super) async fn receive(app: &mut TcpStream) -> io::Result<SocketAddr> {
    let from = app.peer_addr()?;
    let read = async {
        let mut prefix = [0; PREFIX];
        app.read_exact(&mut prefix).await?;
        let prefix = Prefix::parse(&prefix).map_err(invalid)?;
        let mut rest = vec![0; prefix.rest];
        app.read_exact(&mut rest).await?;
        prefix.destination(&rest, from).map_err(invalid)
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(told) => told,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said of where it was going")),
    }
}

fn invalid(error: crate::core::handover::HandoverError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
