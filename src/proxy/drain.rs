//! The orderly end.
//!
//! A leaving node hands over its shards, and needs its connections for that: so the sidecar serves on until the app's
//! remoting listener is gone, then stops accepting, ends who has not shown who it is, lets connections end, and closes those
//! that do not. All of it within `--drain-timeout`; a second signal ends at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::core::route::{TrafficPath, is_this_host};
use crate::pod::listeners;
use crate::proxy::Sidecar;
use crate::proxy::socket::is_shortage;

const PERIOD: Duration = Duration::from_millis(100);
/// For farewells of connections that are ended, and for log lines.
const GRACE: Duration = Duration::from_secs(2);

/// The signals that ask for an end, and the one that asks other programs to read their files anew.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP changes nothing: certificates are looked at every second, and other settings need a restart");
                }
            }
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
        // On the pod's addresses it is ourselves who listen.
        None => {
            config.remoting.contains(listener.port())
                && (config.path == TrafficPath::Rules || listener.ip().is_loopback())
        }
    };
    match listeners::listening() {
        Ok(listeners) => listeners.into_iter().any(is_app),
        // Without the kernel's table nothing is known to listen, and the drain goes on; for want of descriptors it is only not
        // known yet.
        Err(error) => is_shortage(&error),
    }
}
