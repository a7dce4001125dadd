//! Where a new connection's first packet goes, by the rules of everybody.
//!
//! Pure: the rules ([`filters`]) and what the kernel knows beside them ([`Surroundings`]) are given. Invariant: the
//! evaluation follows the kernel's, hook by hook, and says so where it cannot.

pub mod answer;
mod chain;
pub mod filters;
mod hooks;
pub mod owner;
pub mod packet;
pub mod save;
mod text;
mod walk;

use std::net::IpAddr;

use crate::core::explain::answer::{Answer, Question};
use crate::core::explain::filters::Filters;
use crate::core::explain::hooks::Ties;
use crate::core::ruleset::Family;

/// A route, as the kernel chooses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// To this host itself.
    pub local: bool,
    /// The interface.
    pub interface: String,
    /// The source address that goes with it.
    pub source: Option<IpAddr>,
}

/// What else decides where packets go: routes, addresses, sockets.
pub trait Surroundings {
    /// The route of a packet with this mark from a socket of this user; `None` if there is none.
    fn route(&self, to: IpAddr, mark: u32, uid: Option<u32>) -> Option<Route>;
    /// The address that a redirect gives to what arrived by this interface; `None` if it has none.
    fn address_of(&self, interface: &str, family: Family) -> Option<IpAddr>;
    /// Whether a TCP socket listens there; `None` if that cannot be told.
    fn listens(&self, address: IpAddr, port: u16) -> Option<bool>;
}

/// Follows the packet through the rules.
#[must_use]
pub fn explain(filters: &Filters, question: &Question, surroundings: &dyn Surroundings) -> Answer {
    let mut answer = walk::walk(filters, question, surroundings, Ties::NewestTableFirst);
    let other = walk::walk(filters, question, surroundings, Ties::OldestTableFirst);
    if answer.sure && other.end != answer.end {
        answer.sure = false;
        answer.unsure.push(
            "chains of several tables have the same priority, of which the one registered last runs first; which one \
             that is cannot be read back, and it matters here: assumed is the table made last"
                .to_owned(),
        );
    }
    answer
}

#[cfg(test)]
mod tests;
