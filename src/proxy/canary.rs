//! Whether the rules stand: the sidecar dials an address that leads nowhere, and the rules bring the call back to it.
//!
//! Reading nf_tables takes NET_ADMIN, which the sidecar does not have; dialling takes nothing. See [`CANARY`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::core::plan::CANARY;
use crate::core::ruleset::Family;
use crate::core::sidecar::SidecarConfig;
use crate::proxy::Sidecar;

const PERIOD: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(100);
/// Tries before rules count as gone: a pod that was stopped for a moment misses one.
const TRIES: usize = 3;
/// A call that comes back does so within a millisecond; one that does not must not hold up the next.
const PATIENCE: Duration = Duration::from_millis(500);

type Token = [u8; 16];

/// What is known about the rules of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "detail")]
pub(super) enum Rules {
    /// Not asked yet.
    Unknown,
    /// The call came back.
    Present,
    /// It did not.
    Missing(String),
    /// The namespace has no route for a call of this family, so it has no remoting of this family either.
    NoRoute,
}

/// The canary of both families.
#[derive(Debug)]
pub(super) struct Canary {
    port: u16,
    families: Vec<Family>,
    waiting: Mutex<HashMap<Token, oneshot::Sender<()>>>,
    state: Mutex<HashMap<Family, Rules>>,
}

impl Canary {
    /// No family is asked for where no rules are expected.
    pub(super) fn new(config: &SidecarConfig, has_ipv6: bool) -> Self {
        let families = match (config.expects_rules(), has_ipv6) {
            (false, _) => Vec::new(),
            (true, false) => vec![Family::V4],
            (true, true) => vec![Family::V4, Family::V6],
        };
        let state = Mutex::new(families.iter().map(|family| (*family, Rules::Unknown)).collect());
        Self { port: config.outbound_port, families, waiting: Mutex::default(), state }
    }

    /// Takes a call that came back.
    pub(super) async fn receive(&self, mut call: TcpStream) {
        let mut token = Token::default();
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, call.read_exact(&mut token)).await
            && let Some(waiting) = lock(&self.waiting).remove(&token)
        {
            // Whoever has stopped waiting has its answer already.
            let _ = waiting.send(());
        }
    }

    /// Why the rules do not count as present; `None` if they do, or if none are expected.
    pub(super) fn fault(&self) -> Option<String> {
        let state = lock(&self.state);
        let of = |family: &Family| state.get(family).cloned().unwrap_or(Rules::Unknown);
        let missing = self.families.iter().find_map(|family| match of(family) {
            Rules::Missing(detail) => Some(format!(
                "no {} rules redirect remoting to the sidecar ({detail}); run `bypassctl init` in this pod",
                family.name()
            )),
            _ => None,
        });
        let none_present = !self.families.is_empty() && !self.families.iter().any(|f| of(f) == Rules::Present);
        missing.or_else(|| none_present.then(|| "whether the rules stand is not known yet".to_owned()))
    }

    /// What is known about each family.
    pub(super) fn states(&self) -> Vec<(&'static str, Rules)> {
        let state = lock(&self.state);
        self.families.iter().filter_map(|f| state.get(f).map(|rules| (f.name(), rules.clone()))).collect()
    }

    async fn ask(&self, family: Family) -> Rules {
        let mut answer = Rules::Unknown;
        for _ in 0..TRIES {
            answer = self.ask_once(family).await;
            if matches!(answer, Rules::Present | Rules::NoRoute) {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        answer
    }

    async fn ask_once(&self, family: Family) -> Rules {
        let mut token = Token::default();
        if rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut token).is_err() {
            return Rules::Unknown;
        }
        let (answered, answer) = oneshot::channel();
        lock(&self.waiting).insert(token, answered);
        let called = tokio::time::timeout(PATIENCE, self.call(family, &token)).await;
        let rules = match called {
            Ok(Ok(_call)) => match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(())) => Rules::Present,
                _ => Rules::Missing("somebody else took the canary's call".to_owned()),
            },
            Ok(Err(error)) if is_no_route(&error) => Rules::NoRoute,
            Ok(Err(error)) => Rules::Missing(error.to_string()),
            Err(_) => Rules::Missing("the canary's call did not come back".to_owned()),
        };
        lock(&self.waiting).remove(&token);
        rules
    }

    async fn call(&self, family: Family, token: &Token) -> io::Result<TcpStream> {
        let address = CANARY.into_iter().find(|address| Family::of(*address) == family);
        let address = SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), self.port);
        let mut call = match TcpStream::connect(address).await {
            Err(error) if is_no_route(&error) && family == Family::V4 => {
                connect_by_loopback(address).await.map_err(|_| error)?
            }
            other => other?,
        };
        call.write_all(token).await?;
        Ok(call)
    }
}

/// A pod without a default route still has loopback, and the rules do not ask for the interface. For a socket bound to a
/// device Linux assumes that everything is on link (`ip_route_output_key_hash_rcu`); for IPv6 it does not.
async fn connect_by_loopback(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.connect(address).await
}

fn is_no_route(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
        || error.raw_os_error() == Some(nix::libc::EADDRNOTAVAIL)
}

/// Asks every five seconds, and logs what changes.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let canary = &sidecar.canary;
    loop {
        for family in &canary.families {
            let rules = canary.ask(*family).await;
            sidecar.metrics.rules(family.name(), rules == Rules::Present);
            let before = lock(&canary.state).insert(*family, rules.clone());
            if before.as_ref() == Some(&rules) {
                continue;
            }
            match rules {
                Rules::Present => tracing::info!(family = family.name(), "the rules redirect remoting to the sidecar"),
                Rules::Missing(detail) => {
                    tracing::warn!(family = family.name(), %detail, "no rules redirect remoting to the sidecar");
                }
                Rules::NoRoute => tracing::info!(family = family.name(), "no route, so no rules to look for"),
                Rules::Unknown => tracing::warn!(family = family.name(), "cannot look for the rules"),
            }
        }
        tokio::time::sleep(if canary.fault().is_some() { RETRY * 5 } else { PERIOD }).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
