//! Everybody's rules as the kernel has them, for `explain`.
//!
//! Invariant: reading changes nothing. Legacy iptables is asked only where it has tables already, for its tools make those
//! that they miss.

mod compat;
mod legacy;
mod native;
mod others;
mod routes;
mod sets;

use std::collections::HashMap;

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook as HookAttribute, HookNumber, InetHookNumber, NfTablesMessage,
    RuleMessage, TableAttribute, TableFlags, TableMessage,
};

use crate::core::explain::filters::{Base, Chain, Filters, Keeper, Kind, Rule, Table};
use crate::core::ruleset::{Family, Hook};
use crate::netfilter::NetfilterError;
use crate::netfilter::decode::set_name;
use crate::netfilter::gather::sets::{Elements, elements};
use crate::netfilter::table::{RuleView, dump, open};

pub use self::routes::Routes;
#[cfg(feature = "fuzzing")]
pub(super) use self::{routes::decode as route, sets::listed};

/// Every table of nf_tables and of legacy iptables in this network namespace.
///
/// # Errors
/// See [`NetfilterError`]; what only legacy iptables could tell and does not is named in the result.
pub fn read() -> Result<Filters, NetfilterError> {
    let mut filters = Filters::default();
    // Legacy tables are taken for the oldest; nothing tells when they were made.
    for family in Family::BOTH {
        match legacy::tables(family) {
            Ok(tables) => filters.tables.extend(tables),
            Err(reason) => filters.unread.push(reason),
        }
    }
    match nf_tables() {
        Ok(tables) => filters.tables.extend(tables),
        // A kernel without nf_tables has none of its rules.
        Err(NetfilterError::Unsupported(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(filters)
}

fn nf_tables() -> Result<Vec<Table>, NetfilterError> {
    let socket = open()?;
    let everything = NetfilterProtoFamily::Unspec;
    let tables = dump(&socket, everything, NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }))?;
    let chains = dump(&socket, everything, NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }))?;
    let rules = dump(&socket, everything, NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() }))?;
    assemble(&tables, &chains, &rules, |protocol, table, set| elements(&socket, protocol, table, set))
}

/// A message, and the family that it is about.
type Told = (NetfilterProtoFamily, NfTablesMessage);

/// The tables that these messages tell of; `ask` knows what is in a set of a table.
pub(super) fn assemble(
    tables: &[Told],
    chains: &[Told],
    rules: &[Told],
    mut ask: impl FnMut(NetfilterProtoFamily, &str, &str) -> Result<Elements, NetfilterError>,
) -> Result<Vec<Table>, NetfilterError> {
    let mut found = Vec::new();
    for (protocol, message) in tables {
        let NfTablesMessage::NewTable(message) = message else { continue };
        let Some((name, dormant)) = table(message) else { continue };
        let Some(family) = family(*protocol) else { continue };
        let mut table = Table { keeper: Keeper::NfTables, family, name: name.to_owned(), chains: Vec::new() };
        for (of, message) in chains {
            let NfTablesMessage::NewChain(message) = message else { continue };
            if of == protocol {
                table.chains.extend(chain(message, name, dormant));
            }
        }
        let views = rules.iter().filter(|(of, _)| of == protocol).filter_map(|(_, message)| RuleView::of(message));
        let views: Vec<RuleView<'_>> = views.filter(|view| view.table == name).collect();
        let sets = sets_of(&views, |set| ask(*protocol, name, set))?;
        for view in views {
            let steps = native::steps(&view.expressions, family, &sets);
            let rule = Rule { steps, comment: view.comment, text: None };
            if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == view.chain) {
                chain.rules.push(rule);
            }
        }
        found.push(table);
    }
    Ok(found)
}

/// `None` for families that a routed packet does not meet.
const fn family(protocol: NetfilterProtoFamily) -> Option<Option<Family>> {
    match protocol {
        NetfilterProtoFamily::Inet => Some(None),
        NetfilterProtoFamily::IPv4 => Some(Some(Family::V4)),
        NetfilterProtoFamily::IPv6 => Some(Some(Family::V6)),
        _ => None,
    }
}

/// Its name, and whether its chains are asleep.
fn table(message: &TableMessage) -> Option<(&str, bool)> {
    let mut name = None;
    let mut dormant = false;
    for attribute in &message.attributes {
        match attribute {
            TableAttribute::Name(text) => name = Some(text.as_str()),
            TableAttribute::Flags(flags) => dormant = flags.contains(TableFlags::Dormant),
            _ => {}
        }
    }
    Some((name?, dormant))
}

fn chain(message: &ChainMessage, of_table: &str, dormant: bool) -> Option<Chain> {
    let (mut table, mut name, mut kind, mut hook, mut drops) = ("", "", "", None, false);
    let mut priority = 0;
    for attribute in &message.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = text,
            ChainAttribute::Name(text) => name = text,
            ChainAttribute::Type(text) => kind = text,
            ChainAttribute::Policy(policy) => drops = *policy == 0,
            ChainAttribute::Hook(attributes) => {
                for attribute in attributes {
                    match attribute {
                        HookAttribute::Number(number) => hook = hook_of(*number),
                        HookAttribute::Priority(value) => priority = value.cast_signed(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let kind = match kind {
        "nat" => Kind::Nat,
        "route" => Kind::Route,
        _ => Kind::Filter,
    };
    let base = hook.filter(|_| !dormant).map(|hook| Base { kind, hook, priority, drops });
    (table == of_table).then(|| Chain { name: name.to_owned(), base, rules: Vec::new() })
}

const fn hook_of(number: HookNumber) -> Option<Hook> {
    match number {
        HookNumber::Inet(InetHookNumber::PreRouting) => Some(Hook::Prerouting),
        HookNumber::Inet(InetHookNumber::LocalIn) => Some(Hook::Input),
        HookNumber::Inet(InetHookNumber::LocalOut) => Some(Hook::Output),
        HookNumber::Inet(InetHookNumber::PostRouting) => Some(Hook::Postrouting),
        _ => None,
    }
}

fn sets_of(
    rules: &[RuleView<'_>],
    mut ask: impl FnMut(&str) -> Result<Elements, NetfilterError>,
) -> Result<HashMap<String, Elements>, NetfilterError> {
    let mut sets = HashMap::new();
    for expression in rules.iter().flat_map(|rule| &rule.expressions) {
        let Expressions::Lookup(attributes) = expression else { continue };
        let Some(name) = set_name(attributes).filter(|name| !sets.contains_key(*name)) else { continue };
        sets.insert(name.to_owned(), ask(name)?);
    }
    Ok(sets)
}

#[cfg(test)]
mod tests;
