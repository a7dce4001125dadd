//! Rules in the kernel: apply, read back, prove.
//!
//! Invariant: a table of ours is replaced as a whole in one transaction or not at all, and nothing of anyone else's is
//! ever edited. Everything acts on the network namespace of the calling thread.

mod decode;
mod encode;
mod expression;
mod foreign;
pub mod lock;
pub mod namespace;
pub mod proof;
mod set;
mod socket;
mod table;

use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::core::plan::{RedirectPlan, Substitutes};
use crate::core::ruleset::{Action, Match, Ruleset};

pub use self::foreign::{interceptors_by_interface, mesh_uids};
pub use self::table::{Table, apply, delete, read};

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
    /// A table of ours holds what we never write.
    #[error(
        "table inet {table}, chain {chain}: rule {number} uses {expression:?}, which bypassctl never writes; somebody \
         changed the table, or another version wrote it: run `bypassctl init` again to replace it"
    )]
    Foreign {
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

/// What was applied, and with which substitutes.
#[derive(Debug)]
pub struct Applied {
    /// The table's content.
    pub ruleset: Ruleset,
    /// What this kernel lacks.
    pub substitutes: Substitutes,
}

/// Applies the plan's table, with substitutes for what this kernel lacks.
///
/// # Errors
/// Those of [`apply`].
pub fn apply_plan(plan: &RedirectPlan) -> Result<Applied, NetfilterError> {
    let mut substitutes = Substitutes::default();
    loop {
        let ruleset = plan.ruleset(&substitutes);
        let error = match apply(&ruleset) {
            Ok(()) => return Ok(Applied { ruleset, substitutes }),
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
