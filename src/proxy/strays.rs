//! The app's connections that pass the sidecar by, where no rules keep them from it: a process that has not loaded the
//! library dials its peers itself, in plaintext.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::time::sleep;

use crate::core::ports::PortSet;
use crate::pod::dialled::{self, End};
use crate::proxy::Sidecar;

const PERIOD: Duration = Duration::from_secs(2);
/// More to name helps nobody.
const MOST_NAMED: usize = 4;

/// Whom somebody else than the sidecar has dialled, and by which user.
type Stray = (SocketAddr, u32);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<BTreeSet<Stray>>);

impl Strays {
    /// What to tell about them; `None` if there are none.
    pub(super) fn fault(&self) -> Option<String> {
        let strays = lock(&self.0);
        if strays.is_empty() {
            return None;
        }
        let named: Vec<String> =
            strays.iter().take(MOST_NAMED).map(|(peer, uid)| format!("{peer} (user {uid})")).collect();
        let more = if strays.len() > MOST_NAMED { ", and others" } else { "" };
        Some(format!(
            "peers are dialled past the sidecar, in plaintext: {}{more}; that process has not loaded the library: it is \
             linked statically, makes its system calls itself, or lost LD_PRELOAD",
            named.join(", ")
        ))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

fn strays(ends: Vec<End>, remoting: &PortSet, own: u32) -> BTreeSet<Stray> {
    let is_stray = |end: &End| end.uid != own && remoting.contains(end.remote.port()) && !end.remote.ip().is_loopback();
    ends.into_iter().filter(is_stray).map(|end| (end.remote, end.uid)).collect()
}

/// Looks again and again, and logs who is new.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let own = Uid::effective().as_raw();
    let mut told = false;
    loop {
        match dialled::open_ends() {
            Ok(ends) => {
                let now = strays(ends, &sidecar.config.remoting, own);
                let before = std::mem::replace(&mut *lock(&sidecar.strays.0), now.clone());
                for (peer, uid) in now.difference(&before) {
                    tracing::warn!(%peer, uid, "dialled past the sidecar, in plaintext: that process has not loaded the library");
                }
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "who dials peers past the sidecar cannot be seen");
            }
            Err(_) => {}
        }
        sleep(PERIOD).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dials_remoting_elsewhere_and_is_not_the_sidecar_is_a_stray() {
        let end = |remote: &str, uid| End { remote: remote.parse().unwrap(), uid };
        let ends = vec![
            end("10.0.0.7:2552", 12552),
            end("10.0.0.7:8558", 1000),
            end("127.0.0.1:2552", 1000),
            end("10.0.0.8:2552", 1000),
            end("10.0.0.8:2552", 1000),
        ];
        let found = strays(ends, &PortSet::single(2552), 12552);
        assert_eq!(found, BTreeSet::from([("10.0.0.8:2552".parse().unwrap(), 1000)]));
        let strays = Strays(Mutex::new(found));
        let fault = strays.fault().unwrap();
        assert!(fault.contains("10.0.0.8:2552 (user 1000)"), "{fault}");
        assert_eq!(Strays::default().fault(), None);
    }
}
