//! The orderly end.
//!
//! A leaving node hands over its shards, and needs its connections for that: so the sidecar serves on until the app's
//! remoting listener is gone, then stops accepting, lets connections end, and closes those that do not. All of it within
//! `--drain-timeout`; a second signal ends at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::core::route::is_this_host;
use crate::proxy::Sidecar;

const PERIOD: Duration = Duration::from_millis(100);
/// For farewells of connections that are ended, and for log lines.
const GRACE: Duration = Duration::from_secs(2);
/// `TCP_LISTEN` (linux/include/net/tcp_states.h), as /proc/net/tcp prints it.
const LISTEN: &str = "0A";

/// The signals that ask for an end.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits for the request to stop, and stops.
pub(super) async fn until_the_end(sidecar: &Sidecar, mut signals: Signals) {
    let signalled = tokio::select! {
        name = signals.next() => Some(name),
        () = sidecar.lifecycle.drain.cancelled() => None,
    };
    tracing::info!(by = signalled.unwrap_or("/drain"), "stopping: serving until the app's remoting listener is gone");
    let again = async {
        // After /drain the kubelet's SIGTERM is the first signal, not the second.
        if signalled.is_none() {
            signals.next().await;
        }
        signals.next().await
    };
    tokio::select! {
        () = drain(sidecar) => tracing::info!("stopped"),
        name = again => tracing::warn!(by = name, "second signal: ending at once"),
    }
}

async fn drain(sidecar: &Sidecar) {
    let lifecycle = &sidecar.lifecycle;
    lifecycle.drain.cancel();
    let deadline = Instant::now() + sidecar.config.limits.drain_timeout;
    while Instant::now() < deadline && app_listens(sidecar) {
        sleep(PERIOD.min(deadline - Instant::now())).await;
    }
    lifecycle.stop_accepting.cancel();
    lifecycle.connections.close();
    if timeout_at(deadline, lifecycle.connections.wait()).await.is_err() {
        tracing::info!(connections = lifecycle.connections.len(), "closing the connections that are still open");
        lifecycle.end.cancel();
        if timeout(GRACE, lifecycle.connections.wait()).await.is_err() {
            tracing::warn!(connections = lifecycle.connections.len(), "connections did not end in time");
        }
    }
}

/// Whether the app's remoting listener is there. The kernel's table says it exactly; a connection of ours would be one
/// that the app has to make sense of.
fn app_listens(sidecar: &Sidecar) -> bool {
    let config = &sidecar.config;
    let is_app = |listener: SocketAddr| match config.inbound_target {
        Some(target) => {
            let covers = listener.ip() == target.ip() || listener.ip().is_unspecified() || is_this_host(target.ip());
            listener.port() == target.port() && covers
        }
        None => config.remoting.contains(listener.port()),
    };
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        // Without the table nothing is known to listen, and the drain goes on.
        std::fs::read_to_string(table).is_ok_and(|text| listeners(&text).any(is_app))
    })
}

/// Local addresses of the listening sockets in a table of /proc/net/tcp's form (linux Documentation/networking/
/// proc_net_tcp.rst).
fn listeners(table: &str) -> impl Iterator<Item = SocketAddr> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next()?;
        let state = fields.nth(1)?;
        (state == LISTEN).then(|| socket_address(local)).flatten()
    })
}

/// `0100007F:09F8`: words of the address in the machine's byte order, port in hexadecimal.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |i: usize| u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address: IpAddr = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let mut bytes = [0; 16];
        for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&word(i)?);
        }
        let address = Ipv6Addr::from(bytes);
        address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table_tells_who_listens() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0B00004D:09F8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n\
            1: 0100007F:09F9 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n";
        assert_eq!(listeners(table).collect::<Vec<_>>(), ["77.0.0.11:2552".parse().unwrap()]);
        let table6 = "h\n0: 000077FD000000000000000011000000:09F8 00000000000000000000000000000000:0000 0A 0 0\n\
            1: 0000000000000000FFFF00000100007F:09F8 00000000000000000000000000000000:0000 0A 0 0\n";
        let expected: Vec<SocketAddr> = vec!["[fd77::11]:2552".parse().unwrap(), "127.0.0.1:2552".parse().unwrap()];
        assert_eq!(listeners(table6).collect::<Vec<_>>(), expected);
    }
}
