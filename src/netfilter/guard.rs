//! Watches over the rules: told of every change by the kernel, it looks whether they still do what they have to, and puts
//! them back if it is to.
//!
//! Invariant: it touches nothing but rules of ours, and those only to put back what stood when all was well.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::core::backend::BackendChoice;
use crate::core::config::{DEFAULT_MESH_MARK, DEFAULT_MESH_UID, RedirectMode, SideDoors};
use crate::core::drift::{Expectation, RulesState, changes};
use crate::core::explain::filters::Filters;
use crate::core::explain::{Route, Surroundings};
use crate::core::plan::{RedirectPlan, TABLE};
use crate::core::ruleset::{Family, Ruleset, TableFamily};
use crate::core::xtables::CHAIN_PREFIX;
use crate::netfilter::backend::{self, BackendError, Snapshot};
use crate::netfilter::events::{Events, Woken};
use crate::netfilter::gather::{self, Routes};
use crate::netfilter::lock::NamespaceLock;
use crate::netfilter::{NetfilterError, iptables, mesh_uids_of_everybody, own_addresses, read};

/// Between looks although nothing was heard: routes and addresses change without a word from nf_tables.
const PERIOD: Duration = Duration::from_secs(30);
/// The same while something is wrong, and where legacy iptables has tables, whose changes nobody tells.
const IMPATIENCE: Duration = Duration::from_secs(5);
/// An `init` that runs meanwhile is waited for. Whoever else holds its name, for the name is free to take, is not.
const LOCK_LIMIT: Duration = Duration::from_secs(12);
/// Repairs in [`FIGHT`]; more would be a fight with somebody who does not give in.
const MOST_REPAIRS: usize = 5;
const FIGHT: Duration = Duration::from_secs(60);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Guard {
    state: watch::Receiver<RulesState>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Why nobody watches.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The kernel does not tell.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// No thread, no socket pair.
    #[error("a thread that watches over the rules cannot be started")]
    Thread(#[from] io::Error),
}

impl GuardError {
    /// Whether it is for want of NET_ADMIN.
    #[must_use]
    pub const fn is_for_want_of_privilege(&self) -> bool {
        matches!(self, Self::Netfilter(NetfilterError::NotPermitted(_)))
    }
}

impl Guard {
    /// Begins to watch over the rules of the calling thread's network namespace; with `repair`, to put them back.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn start(expectation: Expectation, repair: bool) -> Result<Self, GuardError> {
        let events = Events::subscribe()?;
        let (stop, stopped) = UnixStream::pair()?;
        let first =
            RulesState { faults: vec!["the rules have not been looked at yet".to_owned()], ..Default::default() };
        let (sender, state) = watch::channel(first);
        let watch = Watch { expectation, repair, state: sender, remembered: None, repairs: VecDeque::new() };
        let thread = thread::Builder::new().name("rules".to_owned()).spawn(move || watch.run(&events, &stopped))?;
        Ok(Self { state, stop: Some(stop), thread: Some(thread) })
    }

    /// What is known of the rules, as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RulesState> {
        self.state.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The rules as they stood when all was well.
struct Remembered {
    tables: Vec<Ruleset>,
    snapshot: Snapshot,
}

struct Watch {
    expectation: Expectation,
    repair: bool,
    state: watch::Sender<RulesState>,
    remembered: Option<Remembered>,
    repairs: VecDeque<Instant>,
}

/// One look at everything.
struct Sight {
    faults: Vec<String>,
    notes: Vec<String>,
    tables: Vec<Ruleset>,
}

impl Watch {
    fn run(mut self, events: &Events, stopped: &UnixStream) {
        let mut by = None;
        loop {
            self.look_after(by.take());
            let calm = self.state.borrow().faults.is_empty() && !iptables::any_legacy_tables();
            match events.wait(stopped.as_fd(), if calm { PERIOD } else { IMPATIENCE }) {
                Ok(Woken::Stopped) => return,
                Ok(Woken::Quiet) => {}
                Ok(Woken::Changed(author)) => by = author,
                Err(error) => {
                    warn!(%error, "changes of the rules cannot be heard of; looking every {} s", IMPATIENCE.as_secs());
                    thread::sleep(IMPATIENCE);
                }
            }
        }
    }

    /// Looks, repairs if that is asked for and called for, and tells.
    fn look_after(&mut self, by: Option<String>) {
        let lock = NamespaceLock::acquire(LOCK_LIMIT);
        let mut sight = self.look();
        let told = self.tell(&sight, by.as_deref(), 0);
        if self.repair && !sight.faults.is_empty() && lock.is_ok() && self.may_repair() {
            match self.put_back() {
                Ok(()) => {
                    sight = self.look();
                    warn!(whole = sight.faults.is_empty(), "put the rules back");
                    self.tell(&sight, None, 1);
                }
                Err(error) => warn!(error = &error as &dyn std::error::Error, "the rules cannot be put back"),
            }
        } else if told && !sight.faults.is_empty() && !self.repair {
            warn!(
                "`bypassctl init` with NET_ADMIN in this pod puts the rules back, and so does a new pod; the sidecar does it \
                 itself with --repair"
            );
        }
        if sight.faults.is_empty() {
            if let Some(before) = &self.remembered {
                for change in changes(&before.tables, &sight.tables) {
                    info!(by, "rules, whole but not what they were: {change}");
                }
            }
            self.remember(sight.tables);
        }
    }

    fn look(&self) -> Sight {
        self.try_look().unwrap_or_else(|error| Sight {
            faults: vec![format!("the rules cannot be read: {error}")],
            notes: Vec::new(),
            tables: Vec::new(),
        })
    }

    fn try_look(&self) -> Result<Sight, NetfilterError> {
        let filters = gather::read()?;
        let socket = |source| NetfilterError::Socket { attempted: "asking for routes", source };
        let routes = Routes::open().map_err(socket)?;
        let own = own_addresses().map_err(|errno| socket(errno.into()))?;
        let (effects, notes) = self.expectation.judge(&filters, &routes, &own);
        let mut faults = Vec::new();
        let mut tables = Vec::new();
        for family in TableFamily::ALL {
            match read(family, TABLE) {
                Ok(table) => tables.extend(table.map(|table| table.ruleset)),
                Err(NetfilterError::Unsupported(_)) => {}
                Err(error @ NetfilterError::Foreign { .. }) => faults.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if let (true, Some(reason), false) =
            (self.sees_no_rules(&tables, &filters), filters.unread.first(), self.repair)
        {
            let note =
                format!("nf_tables has no rules of ours; if they are in legacy iptables, the canary tells ({reason})");
            return Ok(Sight { faults: Vec::new(), notes: vec![note], tables });
        }
        let changed = tables.iter().any(|table| RedirectPlan::recognize(table).is_none());
        if faults.is_empty() && (changed || !effects.is_empty()) {
            faults.extend(self.remembered.as_ref().map(|before| changes(&before.tables, &tables)).unwrap_or_default());
            if faults.is_empty() && changed {
                faults
                    .push(format!("a table {TABLE} is there that no `bypassctl init` makes: somebody has changed it"));
            }
        }
        faults.extend(effects);
        Ok(Sight { faults, notes, tables })
    }

    /// Whether nothing of ours is to be seen, nor ever was.
    fn sees_no_rules(&self, tables: &[Ruleset], filters: &Filters) -> bool {
        let chains = || filters.tables.iter().flat_map(|table| &table.chains);
        tables.is_empty()
            && !chains().any(|chain| chain.name.starts_with(CHAIN_PREFIX))
            && self.remembered.as_ref().is_none_or(|before| before.snapshot.is_empty())
    }

    /// Publishes and logs what is new; whether anything was.
    fn tell(&self, sight: &Sight, by: Option<&str>, repairs: u64) -> bool {
        let before = self.state.borrow().clone();
        let now = RulesState {
            faults: sight.faults.clone(),
            notes: sight.notes.clone(),
            last_change_by: by.map(str::to_owned).or(before.last_change_by),
            repairs: before.repairs + repairs,
        };
        let news = now.faults != before.faults;
        if news {
            for fault in &now.faults {
                warn!(by, "rules: {fault}");
            }
            if now.faults.is_empty() {
                info!(by, "the rules are whole");
            }
        }
        for note in now.notes.iter().filter(|note| !before.notes.contains(note)) {
            info!("rules: {note}");
        }
        self.state.send_replace(now);
        news
    }

    fn remember(&mut self, tables: Vec<Ruleset>) {
        if self.remembered.as_ref().is_some_and(|before| before.tables == tables && !tables.is_empty()) {
            return;
        }
        match Snapshot::take() {
            Ok(snapshot) => self.remembered = Some(Remembered { tables, snapshot }),
            Err(error) => warn!(%error, "what stands cannot be remembered, so a repair would make it from the options"),
        }
    }

    fn may_repair(&mut self) -> bool {
        let now = Instant::now();
        self.repairs.retain(|at| now.duration_since(*at) < FIGHT);
        if self.repairs.len() < MOST_REPAIRS {
            self.repairs.push_back(now);
            return true;
        }
        warn!(
            "the rules were put back {MOST_REPAIRS} times within {} s, and somebody undoes it each time: waiting",
            FIGHT.as_secs()
        );
        false
    }

    /// What stood when all was well; where the sidecar has never seen that, what its options ask for.
    fn put_back(&self) -> Result<(), BackendError> {
        if let Some(remembered) = self.remembered.as_ref().filter(|remembered| !remembered.snapshot.is_empty()) {
            return remembered.snapshot.restore();
        }
        let Expectation { cluster, agent, agent_uid } = self.expectation.clone();
        let mut mesh_uids = mesh_uids_of_everybody()?;
        mesh_uids.insert(DEFAULT_MESH_UID);
        mesh_uids.remove(&agent_uid);
        let plan = RedirectPlan {
            mode: RedirectMode::Capture,
            cluster,
            agent,
            agent_uid,
            mesh_uids: mesh_uids.into_iter().collect(),
            mesh_mark: DEFAULT_MESH_MARK,
            side_doors: SideDoors::Closed,
        };
        backend::apply_by(BackendChoice::Auto, &plan).map(drop)
    }
}

/// The kernel's answers alone: whether anybody listens is no matter of rules.
impl Surroundings for Routes {
    fn route(&self, to: IpAddr, mark: u32, uid: Option<u32>) -> Option<Route> {
        Self::route(self, to, mark, uid)
    }

    fn address_of(&self, interface: &str, family: Family) -> Option<IpAddr> {
        Self::address_of(self, interface, family)
    }

    fn listens(&self, _address: IpAddr, _port: u16) -> Option<bool> {
        None
    }
}
