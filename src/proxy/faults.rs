//! Faults that somebody ordered through the admin port, brought upon connections.
//!
//! Invariant: without `--fault-injection` no connection ever asks; with it, what is in force is in the log, in `/ready`,
//! in `/status` and in a metric, and ends by itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::core::faults::{Effect, Fault, FaultError, MOST, Marked, Order, due};
use crate::core::outcome::Reason;
use crate::core::route::Direction;
use crate::proxy::Sidecar;
use crate::proxy::socket::{HungUp, hung_up};

/// How often what is in force is logged.
const REMINDER: Duration = Duration::from_secs(30);
/// How often to look.
const PERIOD: Duration = Duration::from_millis(250);

/// The faults in force.
#[derive(Debug)]
pub(super) struct Faults {
    enabled: bool,
    active: watch::Sender<Arc<[Fault]>>,
}

/// What a connection asks before it lets bytes pass.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    active: watch::Receiver<Arc<[Fault]>>,
    marked: Marked,
}

impl Faults {
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, active: watch::Sender::new(Arc::from([])) }
    }

    /// Whether anybody may order any.
    pub(super) const fn enabled(&self) -> bool {
        self.enabled
    }

    /// Those in force.
    pub(super) fn active(&self) -> Vec<Fault> {
        let now = Instant::now();
        self.active.borrow().iter().filter(|fault| now < fault.until).cloned().collect()
    }

    /// Puts one more in force.
    pub(super) fn order(&self, order: Order) -> Result<Fault, FaultError> {
        let fault = order.at(Instant::now())?;
        let mut faults = self.active();
        if faults.len() >= MOST {
            return Err(FaultError::Full);
        }
        tracing::warn!(seconds = seconds_left(&fault), "fault injection begins: it {fault}");
        faults.push(fault.clone());
        self.active.send_replace(faults.into());
        Ok(fault)
    }

    /// Ends all of them; how many there were.
    pub(super) fn clear(&self) -> usize {
        let ended = self.active().len();
        self.active.send_replace(Arc::from([]));
        tracing::warn!(ended, "fault injection ends: it was told to");
        ended
    }

    /// The gate of a connection; `None` where no fault can ever be.
    pub(super) fn gate(&self, marked: Marked) -> Option<Gate> {
        self.enabled.then(|| Gate { active: self.active.subscribe(), marked })
    }
}

/// Whole seconds that a fault has left.
pub(super) fn seconds_left(fault: &Fault) -> u64 {
    fault.until.saturating_duration_since(Instant::now()).as_secs_f64().ceil() as u64
}

impl Gate {
    fn effects(&mut self) -> Vec<Effect> {
        let now = Instant::now();
        let faults = self.active.borrow_and_update();
        faults.iter().filter(|fault| fault.meets(&self.marked, now)).map(|fault| fault.effect).collect()
    }

    /// Waits as long as a new connection has to, and no longer than whoever dialled it does.
    pub(super) async fn enter(mut self, dialler: &TcpStream) -> Result<(), Reason> {
        let mut held = self.clone();
        let mut passed = pin!(held.pass(0));
        loop {
            let effects = self.effects();
            if effects.contains(&Effect::Abort) {
                return Err(Reason::FaultInjected);
            }
            if tokio::time::timeout(PERIOD, &mut passed).await.is_ok() {
                return Ok(());
            }
            match (hung_up(dialler), self.marked.direction) {
                (Some(HungUp::Reset), Direction::Inbound) => return Err(Reason::PeerReset),
                (Some(HungUp::Reset), Direction::Outbound) => return Err(Reason::AppReset),
                // What came before the end is only late if it is delayed, and lost in a black hole.
                (Some(HungUp::Closed), _) if effects.contains(&Effect::BlackHole) => return Err(Reason::Closed),
                _ => {}
            }
        }
    }

    /// Waits as long as these bytes have to.
    pub(super) async fn pass(&mut self, bytes: usize) {
        // What is ordered meanwhile changes how long they wait, and not since when.
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            let due = {
                let faults = self.active.borrow_and_update();
                due(faults.iter().filter(|fault| fault.meets(&self.marked, now)), bytes, begun)
            };
            let left = due.saturating_duration_since(now);
            if left.is_zero() {
                return;
            }
            if let Ok(Err(_)) = tokio::time::timeout(left, self.active.changed()).await {
                return;
            }
        }
    }

    /// Comes back when the connection is to be reset.
    pub(super) async fn aborted(&mut self) {
        loop {
            if self.effects().contains(&Effect::Abort) {
                return;
            }
            if self.active.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Logs what ends by itself, and what still lasts.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let faults = &sidecar.faults;
    let mut reminded = Instant::now();
    loop {
        sleep(PERIOD).await;
        let now = Instant::now();
        let (over, lasting): (Vec<_>, Vec<_>) =
            faults.active.borrow().iter().cloned().partition(|fault| fault.until <= now);
        for fault in &over {
            tracing::warn!("fault injection ends, its time is over: it {fault}");
        }
        if reminded.elapsed() >= REMINDER {
            reminded = now;
            for fault in &lasting {
                tracing::warn!(seconds = seconds_left(fault), "fault injection goes on: it {fault}");
            }
        }
        if !over.is_empty() {
            // Only what is over goes; what was ordered meanwhile stays.
            faults.active.send_modify(|active| *active = active.iter().filter(|f| f.until > now).cloned().collect());
        }
    }
}
