//! Watches over the rules: told of every change by the kernel, it looks whether they still do what they have to, and puts
//! them back if it is to.
//!
//! Invariant: it touches nothing but rules of ours, and those only to put back what stood when all was well.

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
use crate::netfilter::table::{handles, is_foreign};
use crate::netfilter::{NetfilterError, iptables, mesh_uids_of_everybody, own_addresses, read};

/// Between looks although nothing was heard: routes and addresses change without a word from nf_tables.
const PERIOD: Duration = Duration::from_secs(30);
/// The same while something is wrong, and where legacy iptables has tables, whose changes nobody tells.
const IMPATIENCE: Duration = Duration::from_secs(5);
/// A look waits for an `init` that runs meanwhile, and then looks all the same: anybody in the pod can take its name.
const LOCK_FOR_A_LOOK: Duration = Duration::from_secs(1);
/// Longer than an `init` takes. Whoever has the name then is none, and keeps nobody from repairing.
const LOCK_FOR_A_REPAIR: Duration = Duration::from_secs(12);
/// Between repairs that somebody undoes: the pause doubles from one to the next, and is forgotten after [`PEACE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const PEACE: Duration = Duration::from_secs(60);

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
        let events = match Events::subscribe() {
            Ok(events) => Some(events),
            // Then there are legacy rules or none, and they are looked at every few seconds.
            Err(NetfilterError::Unsupported(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let (stop, stopped) = UnixStream::pair()?;
        let first =
            RulesState { faults: vec!["the rules have not been looked at yet".to_owned()], ..Default::default() };
        let (sender, state) = watch::channel(first);
        let watch = Watch { expectation, repair, state: sender, remembered: None, last_repair: None };
        let thread =
            thread::Builder::new().name("rules".to_owned()).spawn(move || watch.run(events.as_ref(), &stopped))?;
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
    /// The tables' numbers: whoever made them anew meant them to be as they are, and is no meddler.
    handles: Vec<u64>,
    snapshot: Snapshot,
}

struct Watch {
    expectation: Expectation,
    repair: bool,
    state: watch::Sender<RulesState>,
    remembered: Option<Remembered>,
    /// When, and how long nobody repairs after it.
    last_repair: Option<(Instant, Duration)>,
}

/// One look at everything.
#[derive(Default)]
struct Sight {
    seen: bool,
    faults: Vec<String>,
    notes: Vec<String>,
    tables: Vec<Ruleset>,
    handles: Vec<u64>,
    /// What stood before the look and after it; `None` if that changed meanwhile, or cannot be told.
    snapshot: Option<Snapshot>,
}

impl Watch {
    fn run(mut self, events: Option<&Events>, stopped: &UnixStream) {
        let mut by = None;
        loop {
            self.look_after(by.take());
            let woken = match events {
                Some(events) => events.wait(stopped.as_fd(), self.patience()),
                None => Events::wait_without(stopped.as_fd(), IMPATIENCE),
            };
            match woken {
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

    fn patience(&self) -> Duration {
        if self.state.borrow().faults.is_empty() && !iptables::any_legacy_tables() {
            return PERIOD;
        }
        let until_repair = self.last_repair.map(|(at, pause)| pause.saturating_sub(at.elapsed()));
        until_repair.filter(|left| self.repair && !left.is_zero()).map_or(IMPATIENCE, |left| left.min(IMPATIENCE))
    }

    /// Looks, repairs if that is asked for and called for, and tells.
    fn look_after(&mut self, by: Option<String>) {
        let lock = NamespaceLock::acquire(LOCK_FOR_A_LOOK);
        let mut sight = self.look();
        let told = self.tell(&sight, by.as_deref(), 0);
        if !sight.faults.is_empty() && self.repair && self.may_repair() {
            sight = self.repair(lock.ok());
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
            self.remember(sight);
        }
    }

    fn repair(&mut self, lock: Option<NamespaceLock>) -> Sight {
        let lock = lock.map_or_else(|| NamespaceLock::acquire(LOCK_FOR_A_REPAIR), Ok);
        if let Err(error) = &lock {
            warn!(%error, "whoever has init's lock has it for longer than any init: putting the rules back all the same");
        }
        let done = self.put_back();
        let sight = self.look();
        let repairs = u64::from(done.is_ok());
        match done {
            Ok(()) => warn!(whole = sight.faults.is_empty(), "put the rules back"),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "the rules cannot be put back"),
        }
        self.tell(&sight, None, repairs);
        sight
    }

    fn look(&self) -> Sight {
        self.try_look().unwrap_or_else(|error| Sight {
            faults: vec![format!("the rules cannot be read: {error}")],
            ..Sight::default()
        })
    }

    fn try_look(&self) -> Result<Sight, NetfilterError> {
        let before = Snapshot::take();
        let filters = gather::read()?;
        let socket = |source| NetfilterError::Socket { attempted: "asking for routes", source };
        let routes = Routes::open().map_err(socket)?;
        let own = own_addresses().map_err(|errno| socket(errno.into()))?;
        let (effects, mut notes) = self.expectation.judge(&filters, &routes, &own);
        let mut faults = Vec::new();
        let mut tables = Vec::new();
        for family in TableFamily::ALL {
            if is_foreign(family, TABLE).unwrap_or(false) {
                faults.push(format!("a table {} {TABLE} is there that somebody else made", family.name()));
                continue;
            }
            match read(family, TABLE) {
                Ok(table) => tables.extend(table.map(|table| table.ruleset)),
                Err(NetfilterError::Unsupported(_)) => {}
                Err(error @ NetfilterError::Foreign { .. }) => faults.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let handles = match handles(TABLE) {
            Err(NetfilterError::Unsupported(_)) => Vec::new(),
            handles => handles?,
        };
        let snapshot = before.ok().filter(|before| Snapshot::take().is_ok_and(|after| after == *before));
        if let (true, Some(reason), false) =
            (self.sees_no_rules(&tables, &filters), filters.unread.first(), self.repair)
        {
            let note =
                format!("nf_tables has no rules of ours; if they are in legacy iptables, the canary tells ({reason})");
            return Ok(Sight { notes: vec![note], ..Sight::default() });
        }
        faults.extend(self.changed(&tables, &handles, snapshot.as_ref(), faults.is_empty() && !effects.is_empty()));
        notes.extend(open_side_doors(&tables)?);
        faults.extend(effects);
        Ok(Sight { seen: true, faults, notes, tables, handles, snapshot })
    }

    /// What of ours is not what it was. A table that was made anew, and is one that `init` makes, is meant to be.
    fn changed(&self, tables: &[Ruleset], handles: &[u64], now: Option<&Snapshot>, lost: bool) -> Vec<String> {
        let unknown = tables.iter().any(|table| RedirectPlan::recognize(table).is_none());
        let mut faults = Vec::new();
        if let Some(before) = &self.remembered {
            let edited = before.handles == handles && before.tables != tables;
            if unknown || edited || lost {
                faults.extend(changes(&before.tables, tables));
            }
            // An init that went over to nf_tables has taken its chains out of iptables.
            let moved = before.tables.is_empty() && !tables.is_empty();
            faults.extend(now.filter(|_| !moved).and_then(|now| before.snapshot.difference_in_iptables(now)));
        }
        if faults.is_empty() && unknown {
            faults.push(format!("a table {TABLE} is there that no `bypassctl init` makes: somebody has changed it"));
        }
        faults
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
            seen: sight.seen,
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
            if now.faults.is_empty() && now.seen {
                info!(by, "the rules are whole");
            }
        }
        for note in now.notes.iter().filter(|note| !before.notes.contains(note)) {
            info!("rules: {note}");
        }
        self.state.send_replace(now);
        news
    }

    /// Only what stood unchanged from before the look until after it was what the look has judged.
    fn remember(&mut self, sight: Sight) {
        if let Some(snapshot) = sight.snapshot.filter(|_| sight.seen) {
            self.remembered = Some(Remembered { tables: sight.tables, handles: sight.handles, snapshot });
        }
    }

    /// Not sooner after a repair that somebody has undone than its pause says.
    fn may_repair(&mut self) -> bool {
        let pause = match self.last_repair {
            Some((at, pause)) if at.elapsed() < pause => return false,
            Some((at, pause)) if at.elapsed() < PEACE => (pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        if pause > FIRST_PAUSE * 2 {
            warn!(
                "somebody undoes each repair of the rules: the next one will be in {} s at the soonest",
                pause.as_secs()
            );
        }
        self.last_repair = Some((Instant::now(), pause));
        true
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
        let before = Snapshot::take()?;
        let (standing, _) = backend::apply_by(BackendChoice::Auto, &plan)?;
        before.remove_others(&standing)
    }
}

/// What a mesh in the pod could do although the rules are whole.
fn open_side_doors(tables: &[Ruleset]) -> Result<Vec<String>, NetfilterError> {
    let mut notes = Vec::new();
    for (plan, _) in tables.iter().filter_map(RedirectPlan::recognize) {
        if plan.mode != RedirectMode::Capture {
            continue;
        }
        if plan.side_doors == SideDoors::Open {
            notes.push(
                "the side doors are open: a mesh's proxy may hand the app plaintext (init --side-doors)".to_owned(),
            );
            continue;
        }
        let uids = mesh_uids_of_everybody()?;
        for uid in uids.into_iter().filter(|uid| *uid != plan.agent_uid && !plan.mesh_uids.contains(uid)) {
            notes.push(format!(
                "a mesh came after our rules, and its proxy (uid {uid}) may hand the app plaintext: run `bypassctl init` \
                 again, or give it --mesh-uid {uid}"
            ));
        }
    }
    notes.sort_unstable();
    notes.dedup();
    Ok(notes)
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
