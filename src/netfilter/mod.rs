//! Rules in the kernel: apply, read back, prove.
//!
//! Invariant: a table of ours is replaced as a whole in one transaction or not at all, and nothing of anyone else's is
//! ever edited. Everything acts on the network namespace of the calling thread.

pub mod backend;
mod conntrack;
mod decode;
mod encode;
mod events;
mod expression;
mod foreign;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gather;
pub mod guard;
pub mod iptables;
pub mod lock;
mod mesh;
pub mod namespace;
pub mod proof;
mod set;
mod socket;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::core::plan::{NAT_PRIORITY, RedirectPlan, Substitutes, TABLE};
use crate::core::ruleset::{Action, Match, Ruleset, TableFamily};
use crate::core::xtables::CHAIN_PREFIX;

pub use self::conntrack::redirected_connections;
pub use self::foreign::interceptors_by_interface;
pub use self::table::{Table, apply, delete, is_foreign, read};

/// Why rules could not be applied or read; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// The kernel has no nf_tables, or not for family inet.
    #[error(
        "this kernel has no nf_tables for family inet ({0}); it needs Linux 5.2 or later with the modules nf_tables and \
         nft_chain_nat, which the node must have loaded"
    )]
    Unsupported(#[source] Errno),
    /// No NET_ADMIN.
    #[error(
        "the kernel refuses access to nf_tables ({0}): the container needs the capability NET_ADMIN \
         (securityContext.capabilities.add: [NET_ADMIN]), and Pod Security level privileged in its namespace"
    )]
    NotPermitted(#[source] Errno),
    /// One step of a transaction was refused.
    #[error("the kernel refused {step}: {errno}; nothing was changed")]
    Refused {
        /// What was to be done, in nft's language.
        step: String,
        /// The rule, if it was one.
        rule: Option<Box<crate::core::ruleset::Rule>>,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The netlink socket failed.
    #[error("{attempted} over netlink failed")]
    Socket {
        /// What was being done.
        attempted: &'static str,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// Somebody else has a table of our name.
    #[error(
        "there is a table {0} {table} that bypassctl did not make (none of its chains is a nat chain at priority \
         {NAT_PRIORITY}), and it is left as it is; nothing was changed. Have whoever made it call it something else, \
         remove it (`nft delete table {0} {table}`), or use --backend iptables-nft", family.name()
    )]
    Taken {
        /// Its family.
        family: TableFamily,
        /// Our table.
        table: String,
    },
    /// A table of ours holds what we never write.
    #[error(
        "table {} {table}, chain {chain}: rule {number} uses {expression:?}, which bypassctl never writes; somebody \
         changed the table, or another version wrote it: run `bypassctl init` again to replace it", family.name()
    )]
    Foreign {
        /// Its family.
        family: TableFamily,
        /// Our table.
        table: String,
        /// The chain.
        chain: String,
        /// Position in the chain, from 1.
        number: usize,
        /// The nf_tables expression.
        expression: String,
    },
}

/// Which tables of nf_tables hold the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One table for both families.
    Inet,
    /// One for each, where family inet has no nat: Linux before 5.2.
    Split,
}

/// What was applied, and with which substitutes.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The tables' content.
    pub rulesets: Vec<Ruleset>,
    /// What this kernel lacks.
    pub substitutes: Substitutes,
}

/// Applies the plan's table, or tables, with substitutes for what this kernel lacks.
///
/// # Errors
/// Those of [`apply`].
pub fn apply_plan(plan: &RedirectPlan) -> Result<Applied, NetfilterError> {
    match apply_plan_in(plan, Families::Inet) {
        // If the whole of nf_tables is missing, so it is for the split tables, and the first answer says it best.
        Err(error @ NetfilterError::Unsupported(_)) => apply_plan_in(plan, Families::Split).map_err(|_| error),
        applied => applied,
    }
}

/// The same, in tables of these families.
///
/// # Errors
/// Those of [`apply`].
pub fn apply_plan_in(plan: &RedirectPlan, families: Families) -> Result<Applied, NetfilterError> {
    let mut substitutes = Substitutes::default();
    loop {
        let ruleset = plan.ruleset(&substitutes);
        let rulesets = match families {
            Families::Inet => vec![ruleset],
            Families::Split => ruleset.split().to_vec(),
        };
        let error = match apply(&rulesets) {
            Ok(()) => return Ok(Applied { rulesets, substitutes }),
            Err(error) => error,
        };
        // An expression whose module is not there is refused with one of these (net/netfilter/nf_tables_api.c,
        // nft_expr_type_get).
        let NetfilterError::Refused { rule: Some(rule), errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. } = &error else {
            return Err(error);
        };
        if rule.matches.contains(&Match::DestinationIsLocal) && substitutes.local_addresses.is_none() {
            substitutes.local_addresses = Some(own_addresses().map_err(|source| NetfilterError::Socket {
                attempted: "listing this namespace's addresses",
                source: source.into(),
            })?);
        } else if matches!(rule.action, Action::RejectWithReset | Action::RejectPortUnreachable)
            && !substitutes.drop_for_reject
        {
            substitutes.drop_for_reject = true;
        } else {
            return Err(error);
        }
    }
}

/// Where rules of ours are, or may be, beside table inet.
#[must_use]
pub fn rules_elsewhere() -> Option<String> {
    let holds = |family| matches!(read(family, TABLE), Ok(Some(_))) && !is_foreign(family, TABLE).unwrap_or_default();
    let split = [TableFamily::Ip, TableFamily::Ip6].into_iter().find(|family| holds(*family));
    if let Some(family) = split {
        return Some(format!("the rules are in tables of one family, {} among them", family.name()));
    }
    let chains = foreign::iptables_chains().unwrap_or_default();
    if chains.iter().any(|chain| chain.chain.starts_with(CHAIN_PREFIX)) {
        return Some("the rules are in iptables on nf_tables".to_owned());
    }
    iptables::any_legacy_tables()
        .then(|| "there are tables of legacy iptables, and the rules may be in those".to_owned())
}

/// User ids that nat rules of others, in whichever backend, exempt as a mesh proxy's.
///
/// # Errors
/// See [`NetfilterError`].
pub fn mesh_uids_of_everybody() -> Result<BTreeSet<u32>, NetfilterError> {
    let mut found = match mesh::uids(TABLE) {
        Ok(uids) => uids,
        // Without nf_tables there are no rules of a mesh in it.
        Err(NetfilterError::Unsupported(_)) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    found.extend(iptables::legacy_mesh_uids());
    Ok(found)
}

/// Every address of this namespace, loopback's too.
///
/// # Errors
/// Those of getifaddrs(3).
pub fn own_addresses() -> Result<Vec<IpAddr>, Errno> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let mut addresses: Vec<IpAddr> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
