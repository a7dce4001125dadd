//! Rules of ours in whichever backend: chosen, applied, remembered, put back, removed.
//!
//! Invariant: one backend at a time holds rules of ours; a run that fails leaves what stood before it, in whichever.

use nix::errno::Errno;

use crate::core::backend::{Backend, BackendChoice, Variant};
use crate::core::plan::{RedirectPlan, TABLE};
use crate::core::ruleset::{Ruleset, TableFamily};
use crate::core::xtables::CHAIN_PREFIX;
use crate::netfilter::iptables::{self, Held, IptablesError};
use crate::netfilter::table::is_foreign;
use crate::netfilter::{Applied, NetfilterError, apply, apply_plan, delete, read};

/// Rules that stand.
#[derive(Clone, Debug)]
pub enum Standing {
    /// In tables of ours.
    Nft(Applied),
    /// In chains of ours.
    Iptables(Held),
}

impl Standing {
    /// By what they stand.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        match self {
            Self::Nft(_) => Backend::Nft,
            Self::Iptables(held) => Backend::Iptables(held.variant),
        }
    }
}

/// Why no backend took the rules; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// nf_tables did not.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// The iptables tools did not.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// None is there.
    #[error("this kernel and image have no backend for the rules:{}", list(.0))]
    None(Vec<Rejected>),
}

/// A backend that was passed over, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub backend: Backend,
    /// Why.
    pub reason: String,
}

fn list(rejected: &[Rejected]) -> String {
    rejected.iter().map(|one| format!("\n  {}: {}", one.backend, one.reason)).collect()
}

impl BackendError {
    /// Whether another backend could do what this one cannot, for want of something in kernel or image.
    fn is_lack(&self) -> bool {
        match self {
            Self::Netfilter(error) => matches!(
                error,
                NetfilterError::Unsupported(_)
                    | NetfilterError::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }
            ),
            Self::Iptables(error) => {
                matches!(error, IptablesError::Missing(_) | IptablesError::Unsupported { .. })
            }
            Self::None(_) => false,
        }
    }
}

/// Applies the plan by the first backend of the choice that this kernel and image have; also those passed over for it.
///
/// # Errors
/// See [`BackendError`].
pub fn apply_by(choice: BackendChoice, plan: &RedirectPlan) -> Result<(Standing, Vec<Rejected>), BackendError> {
    let candidates = choice.candidates();
    let forced = candidates.len() == 1;
    let mut rejected = Vec::new();
    for backend in candidates {
        if let (Backend::Iptables(variant), false) = (backend, forced)
            && let Some(reason) = iptables::lacking(variant)
        {
            rejected.push(Rejected { backend, reason });
            continue;
        }
        let applied = match backend {
            Backend::Nft => apply_plan(plan).map(Standing::Nft).map_err(BackendError::from),
            Backend::Iptables(variant) => iptables::apply(variant, CHAIN_PREFIX, |family| plan.xtables(family))
                .map(Standing::Iptables)
                .map_err(BackendError::from),
        };
        match applied {
            Ok(standing) => return Ok((standing, rejected)),
            Err(error) if !forced && error.is_lack() => rejected.push(Rejected { backend, reason: error.to_string() }),
            Err(error) => return Err(error),
        }
    }
    Err(BackendError::None(rejected))
}

/// What of ours stands, in every backend.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    tables: Vec<Ruleset>,
    iptables: Vec<Held>,
}

impl Snapshot {
    /// Looks, without making any table.
    ///
    /// # Errors
    /// Tools that fail where there are chains of ours.
    pub fn take() -> Result<Self, IptablesError> {
        // A table of ours that cannot be read was no working one, and where there is no nf_tables there is none.
        let ours =
            TableFamily::ALL.into_iter().filter(|family| is_foreign(*family, TABLE).is_ok_and(|foreign| !foreign));
        let tables = ours.filter_map(|family| read(family, TABLE).ok().flatten());
        let tables = tables.map(|table| table.ruleset).collect();
        let mut iptables = Vec::new();
        for variant in Variant::BOTH {
            iptables.extend(iptables::held(variant, CHAIN_PREFIX)?.filter(|held| !held.is_empty()));
        }
        Ok(Self { tables, iptables })
    }

    /// How what stands in iptables differs from what stood.
    #[must_use]
    pub fn difference_in_iptables(&self, now: &Self) -> Option<String> {
        self.iptables.iter().find_map(|held| {
            let found = now.iptables.iter().find(|other| other.variant == held.variant);
            held.difference(found).map(|what| format!("{}: {what}", Backend::Iptables(held.variant)))
        })
    }

    /// Whether nothing of ours stood.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.iptables.is_empty()
    }

    /// Removes what stood in other backends than these rules do.
    ///
    /// # Errors
    /// See [`BackendError`].
    pub fn remove_others(&self, standing: &Standing) -> Result<(), BackendError> {
        for table in &self.tables {
            let kept = matches!(standing, Standing::Nft(applied)
                if applied.rulesets.iter().any(|ruleset| ruleset.family == table.family));
            if !kept {
                delete(table.family, TABLE)?;
            }
        }
        for held in self.iptables.iter().filter(|held| standing.backend() != Backend::Iptables(held.variant)) {
            iptables::remove(held.variant, CHAIN_PREFIX)?;
        }
        Ok(())
    }

    /// Puts back what stood, in place of these rules.
    ///
    /// # Errors
    /// See [`BackendError`].
    pub fn put_back(&self, standing: &Standing) -> Result<(), BackendError> {
        if let Standing::Nft(applied) = standing {
            for ruleset in &applied.rulesets {
                delete(ruleset.family, TABLE)?;
            }
        }
        if let Standing::Iptables(held) = standing
            && !self.iptables.iter().any(|before| before.variant == held.variant)
        {
            iptables::remove(held.variant, CHAIN_PREFIX)?;
        }
        self.restore()
    }

    /// Makes what stood stand again, whatever has become of it.
    ///
    /// # Errors
    /// See [`BackendError`].
    pub fn restore(&self) -> Result<(), BackendError> {
        if !self.tables.is_empty() {
            apply(&self.tables)?;
        }
        for held in &self.iptables {
            iptables::restore(held)?;
        }
        Ok(())
    }
}

/// What a removal came to.
#[derive(Debug, Default)]
pub struct Removal {
    /// What is gone.
    pub removed: Vec<String>,
    /// What is named like ours and somebody else's, and was left.
    pub foreign: Vec<String>,
    /// What could not be removed, or not the whole of it.
    pub failed: Vec<(String, BackendError)>,
}

/// Removes everything of ours from every backend; what one refuses is no reason to leave what the others hold.
#[must_use]
pub fn remove_all() -> Removal {
    let mut removal = Removal::default();
    for family in TableFamily::ALL {
        let name = format!("table {} {TABLE}", family.name());
        if matches!(is_foreign(family, TABLE), Ok(true)) {
            removal.foreign.push(name);
            continue;
        }
        match delete(family, TABLE) {
            Ok(true) => removal.removed.push(name),
            Ok(false) | Err(NetfilterError::Unsupported(_)) => {}
            Err(error) => removal.failed.push((name, error.into())),
        }
    }
    for variant in Variant::BOTH {
        let name = format!("chains {CHAIN_PREFIX}* of {}", Backend::Iptables(variant));
        let held = iptables::held(variant, CHAIN_PREFIX).map(|held| held.is_some_and(|held| !held.is_empty()));
        match held.and_then(|any| if any { iptables::remove(variant, CHAIN_PREFIX).map(|()| true) } else { Ok(false) })
        {
            Ok(true) => removal.removed.push(name),
            Ok(false) => {}
            Err(error) => removal.failed.push((name, error.into())),
        }
    }
    removal
}
