//! Whom the nat rules of others exempt: a mesh's own proxy, by its user id.
//!
//! Elsewhere a user id says nothing of a mesh: an accounting rule or a firewall's names the app's own.

use std::collections::BTreeSet;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainMessage, Cmp, DataAttribute, Expressions, Immediate, Meta, MetaKey, NfTablesMessage, Operator, RuleMessage,
    Verdict, VerdictAttribute,
};

use crate::core::ruleset::{ChainKind, Hook};
use crate::core::xtables::CHAIN_PREFIX;
use crate::netfilter::NetfilterError;
use crate::netfilter::expression::{NF_ACCEPT, attribute};
use crate::netfilter::table::{RuleView, decode_chain, dump, open};

/// `NFTA_TARGET_NAME`, which is also `NFTA_MATCH_NAME` (linux/netfilter/nf_tables_compat.h).
const NAME: u16 = 1;

/// What a rule does with whom it matches, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// They are left alone: return, accept.
    Exempt,
    /// They go on in another chain.
    To(String),
    /// Their destination is changed.
    Rewrite,
    /// Anything else.
    Other,
}

/// A rule's user ids, and what becomes of their owners' packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnerRule {
    /// Each with whether it is everybody but this one.
    uids: Vec<(u32, bool)>,
    effect: Effect,
}

/// The user ids that are exempt in the chains that these lead to.
fn exempt<C: Clone + PartialEq>(
    mut chains: Vec<C>,
    rules: &[(C, OwnerRule)],
    named: impl Fn(&C, &str) -> C,
) -> BTreeSet<u32> {
    let mut uids = BTreeSet::new();
    let mut next = 0;
    while let Some(chain) = chains.get(next).cloned() {
        next += 1;
        for (_, rule) in rules.iter().filter(|(of, _)| *of == chain) {
            let inverted = match &rule.effect {
                Effect::Exempt => false,
                Effect::Rewrite => true,
                Effect::To(name) => {
                    let to = named(&chain, name);
                    if !rules.iter().any(|(of, _)| *of == to) {
                        continue;
                    }
                    if !chains.contains(&to) {
                        chains.push(to);
                    }
                    true
                }
                Effect::Other => continue,
            };
            uids.extend(rule.uids.iter().filter(|(_, of)| *of == inverted).map(|(uid, _)| *uid));
        }
    }
    uids.remove(&0);
    uids
}

/// Those of nf_tables, native (`meta skuid`) or by iptables-nft (`-m owner`).
///
/// # Errors
/// See [`NetfilterError`].
pub(super) fn uids(own_table: &str) -> Result<BTreeSet<u32>, NetfilterError> {
    let socket = open()?;
    let everything = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
    let mut chains = Vec::new();
    for (family, message) in dump(&socket, NetfilterProtoFamily::Unspec, everything)? {
        let NfTablesMessage::NewChain(message) = message else { continue };
        let Some((table, chain)) = decode_chain(&message) else { continue };
        if table != own_table && (chain.kind, chain.hook) == (ChainKind::Nat, Hook::Output) {
            chains.push((family, table, chain.name));
        }
    }
    if chains.is_empty() {
        return Ok(BTreeSet::new());
    }
    let everything = NfTablesMessage::GetRule(RuleMessage { attributes: vec![] });
    let mut rules = Vec::new();
    for (family, message) in dump(&socket, NetfilterProtoFamily::Unspec, everything)? {
        let Some(view) = RuleView::of(&message).filter(|view| !view.chain.starts_with(CHAIN_PREFIX)) else { continue };
        rules.push(((family, view.table.to_owned(), view.chain.to_owned()), owner_rule(&view.expressions)));
    }
    Ok(exempt(chains, &rules, |(family, table, _), chain| (*family, table.clone(), chain.to_owned())))
}

pub(super) fn owner_rule(expressions: &[Expressions]) -> OwnerRule {
    let mut uids = Vec::new();
    let mut uid_loaded = false;
    let mut effect = Effect::Other;
    for expression in expressions {
        match expression {
            Expressions::Meta(attributes) => uid_loaded = attributes.contains(&Meta::Key(MetaKey::SocketUserId)),
            Expressions::Cmp(attributes) if uid_loaded => uids.extend(compared_uid(attributes)),
            Expressions::Immediate(attributes) => effect = verdict(attributes).unwrap_or(effect),
            Expressions::Other { expression_type, attributes } => match expression_type.as_str() {
                "match" => uids.extend(xt_owner_uid(attributes)),
                "redir" | "nat" => effect = Effect::Rewrite,
                "target" if attribute(attributes, NAME).is_some_and(|name| rewrites(&name)) => effect = Effect::Rewrite,
                _ => {}
            },
            _ => {}
        }
    }
    OwnerRule { uids, effect }
}

fn rewrites(target: &[u8]) -> bool {
    [&b"REDIRECT\0"[..], b"DNAT\0"].iter().any(|name| target.starts_with(name))
}

fn compared_uid(attributes: &[Cmp]) -> Option<(u32, bool)> {
    let inverted = attributes.iter().find_map(|attribute| match attribute {
        Cmp::Op(Operator::Equal) => Some(false),
        Cmp::Op(Operator::NotEqual) => Some(true),
        _ => None,
    })?;
    let value = attributes.iter().find_map(|attribute| match attribute {
        Cmp::Data(DataAttribute::Value(value)) => <[u8; 4]>::try_from(value.as_slice()).ok(),
        _ => None,
    })?;
    Some((u32::from_ne_bytes(value), inverted))
}

fn verdict(attributes: &[Immediate]) -> Option<Effect> {
    let verdict = attributes.iter().find_map(|attribute| match attribute {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    })?;
    let chain = verdict.iter().find_map(|attribute| match attribute {
        VerdictAttribute::Chain(name) => Some(name.clone()),
        _ => None,
    });
    let code = verdict.iter().find_map(|attribute| match attribute {
        VerdictAttribute::Code(code) => Some(*code),
        _ => None,
    })?;
    Some(match code {
        Verdict::Return | Verdict::Other(NF_ACCEPT) => Effect::Exempt,
        Verdict::Jump | Verdict::Goto => Effect::To(chain?),
        _ => Effect::Other,
    })
}

/// The uid of iptables' owner match (linux/netfilter/xt_owner.h, `struct xt_owner_match_info`: uid_min, uid_max,
/// gid_min, gid_max, match, invert).
fn xt_owner_uid(attributes: &[DefaultNla]) -> Option<(u32, bool)> {
    const INFO: u16 = 3;
    const XT_OWNER_UID: u8 = 1;
    let name = attribute(attributes, NAME)?;
    let info = attribute(attributes, INFO)?;
    let by_uid = name.starts_with(b"owner\0") && info.get(16)? & XT_OWNER_UID != 0;
    let field = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let (first, last) = (field(0)?, field(4)?);
    (by_uid && first == last).then_some((first, info.get(17)? & XT_OWNER_UID != 0))
}

/// Those of one family's tables as `iptables-save` prints them.
pub(super) fn saved_uids(saved: &str) -> BTreeSet<u32> {
    let nat = saved.split("\n*").find_map(|table| table.trim_start_matches('*').strip_prefix("nat\n"));
    let lines = nat.unwrap_or_default().lines().take_while(|line| *line != "COMMIT");
    let rules: Vec<_> = lines.filter_map(saved_rule).filter(|(chain, _)| !chain.starts_with(CHAIN_PREFIX)).collect();
    exempt(vec!["OUTPUT".to_owned()], &rules, |_, chain| chain.to_owned())
}

/// `[1:60] -A CHAIN -m owner ! --uid-owner 1337 -m comment --comment "why" -j RETURN`
fn saved_rule(line: &str) -> Option<(String, OwnerRule)> {
    let (_, rule) = line.split_once("-A ")?;
    let unquoted: Vec<&str> = rule.split('"').step_by(2).collect();
    let unquoted = unquoted.concat();
    let words: Vec<&str> = unquoted.split_whitespace().collect();
    let after = |option: &str| words.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1]);
    let at = words.iter().position(|word| *word == "--uid-owner");
    let uid = at.and_then(|at| Some((words.get(at + 1)?.parse().ok()?, at > 0 && words[at - 1] == "!")));
    let effect = match after("-j").or_else(|| after("-g")) {
        Some("RETURN" | "ACCEPT") => Effect::Exempt,
        Some("REDIRECT" | "DNAT") => Effect::Rewrite,
        // Or an extension, which is no chain's name.
        Some(chain) => Effect::To(chain.to_owned()),
        None => Effect::Other,
    };
    Some(((*words.first()?).to_owned(), OwnerRule { uids: uid.into_iter().collect(), effect }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_exempt_from_nat_is_a_mesh_proxy() {
        let saved = "*filter\n:OUTPUT ACCEPT [0:0]\n[0:0] -A OUTPUT -m owner --uid-owner 1 -j ACCEPT\nCOMMIT\n# by\n\
                     *nat\n:OUTPUT ACCEPT [0:0]\n:MESH - [0:0]\n:IDLE - [0:0]\n\
                     [0:0] -A POSTROUTING -m owner --uid-owner 2 -j RETURN\n\
                     [0:0] -A OUTPUT -p tcp -j MESH\n\
                     [0:0] -A IDLE -m owner --uid-owner 3 -j RETURN\n\
                     [0:0] -A MESH -m owner --uid-owner 4 -m comment --comment \"not -j RETURN\"\n\
                     [0:0] -A MESH -o lo -m owner ! --uid-owner 5 -j RETURN\n\
                     [0:0] -A MESH -m owner --uid-owner 0 -j RETURN\n\
                     [0:0] -A MESH -m owner ! --uid-owner 6 -j LOG\n\
                     [0:0] -A MESH -m owner --uid-owner 1337 -m comment --comment \"the \\\"proxy\\\"\" -j RETURN\n\
                     [0:0] -A MESH -p tcp -m owner ! --uid-owner 1500 -j REDIRECT --to-ports 15001\nCOMMIT\n";
        assert_eq!(saved_uids(saved).into_iter().collect::<Vec<_>>(), [1337, 1500]);
        assert_eq!(saved_uids("*filter\n[0:0] -A OUTPUT -m owner --uid-owner 1 -j ACCEPT\nCOMMIT\n").len(), 0);
    }
}
