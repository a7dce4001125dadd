//! What the rules of others say that matters to ours.

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Meta, MetaKey, NfTablesMessage, RuleMessage,
};

use crate::core::plan::{NAT_PRIORITY, TABLE};
use crate::core::ruleset::{ChainKind, Family, Hook};
use crate::netfilter::NetfilterError;
use crate::netfilter::expression::attribute;
use crate::netfilter::table::{RuleView, decode_chain, dump, open};

/// Nat chains of others that the kernel asks before ours, or may: same hook, same or lower priority.
///
/// # Errors
/// See [`NetfilterError`].
pub(super) fn nat_chains_before_ours() -> Result<Vec<String>, NetfilterError> {
    nat_chains_up_to(NAT_PRIORITY)
}

/// Nat chains of others of at most this priority.
///
/// # Errors
/// See [`NetfilterError`].
pub(super) fn nat_chains_up_to(priority: i32) -> Result<Vec<String>, NetfilterError> {
    let socket = open()?;
    let everything = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
    let chains = dump(&socket, NetfilterProtoFamily::Unspec, everything)?;
    let mut before = Vec::new();
    for (_, message) in chains {
        let NfTablesMessage::NewChain(message) = message else { continue };
        let Some((table, chain)) = decode_chain(&message) else { continue };
        let asked = matches!(chain.hook, Hook::Output | Hook::Prerouting) && chain.kind == ChainKind::Nat;
        if table != TABLE && asked && chain.priority <= priority {
            before.push(format!("{table} {} (priority {})", chain.name, chain.priority));
        }
    }
    Ok(before)
}

/// Rules of others that name an interface and act before nat is asked (TPROXY, notrack), as `table chain`: the proof's
/// own link has another name, so it does not meet them.
///
/// # Errors
/// See [`NetfilterError`].
pub fn interceptors_by_interface() -> Result<Vec<String>, NetfilterError> {
    let socket = open()?;
    let everything = NfTablesMessage::GetRule(RuleMessage { attributes: vec![] });
    let mut found = Vec::new();
    for (_, message) in dump(&socket, NetfilterProtoFamily::Unspec, everything)? {
        let Some(view) = RuleView::of(&message) else { continue };
        if view.table != TABLE && names_interface(&view.expressions) && view.expressions.iter().any(acts_before_nat) {
            found.push(format!("{} {}", view.table, view.chain));
        }
    }
    found.dedup();
    Ok(found)
}

pub(super) fn names_interface(expressions: &[Expressions]) -> bool {
    let is_name = |key: &MetaKey| matches!(key, MetaKey::Iifname | MetaKey::Oifname | MetaKey::Iif | MetaKey::Oif);
    expressions.windows(2).any(|pair| match pair {
        [Expressions::Meta(load), Expressions::Cmp(test)] => {
            let loads_name = load.iter().any(|attribute| matches!(attribute, Meta::Key(key) if is_name(key)));
            let is_loopback = |value: &[u8]| value.starts_with(b"lo\0");
            loads_name
                && test
                    .iter()
                    .any(|attribute| matches!(attribute, Cmp::Data(DataAttribute::Value(value)) if !is_loopback(value)))
        }
        _ => false,
    })
}

pub(super) fn acts_before_nat(expression: &Expressions) -> bool {
    // `NFTA_TARGET_NAME` (linux/netfilter/nf_tables_compat.h) of an iptables-nft target.
    const NAME: u16 = 1;
    let Expressions::Other { expression_type, attributes } = expression else { return false };
    match expression_type.as_str() {
        "tproxy" | "notrack" => true,
        "target" => attribute(attributes, NAME).is_some_and(|name| {
            [&b"TPROXY\0"[..], b"CT\0", b"NOTRACK\0"].iter().any(|target| name.starts_with(target))
        }),
        _ => false,
    }
}

/// A chain of iptables' tables, as nf_tables has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedChain {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) chain: String,
}

/// Every chain of families ip and ip6: built-in or not.
///
/// # Errors
/// See [`NetfilterError`].
pub(super) fn iptables_chains() -> Result<Vec<NamedChain>, NetfilterError> {
    let socket = open()?;
    let everything = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
    let mut chains = Vec::new();
    for (family, message) in dump(&socket, NetfilterProtoFamily::Unspec, everything)? {
        let NfTablesMessage::NewChain(message) = message else { continue };
        let family = match family {
            NetfilterProtoFamily::IPv4 => Family::V4,
            NetfilterProtoFamily::IPv6 => Family::V6,
            _ => continue,
        };
        let (mut table, mut chain) = (String::new(), String::new());
        for attribute in message.attributes {
            match attribute {
                ChainAttribute::Table(name) => table = name,
                ChainAttribute::Name(name) => chain = name,
                _ => {}
            }
        }
        chains.push(NamedChain { family, table, chain });
    }
    Ok(chains)
}
