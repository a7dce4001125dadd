//! In which order the kernel calls base chains.

use crate::core::explain::filters::{Base, Chain, Filters, Kind, Table};
use crate::core::ruleset::{Family, Hook};

/// Connection tracking's own place on prerouting and output (`NF_IP_PRI_CONNTRACK`).
pub(super) const CONNTRACK_PRIORITY: i32 = -200;
/// Where all nat chains of a hook are called, whatever their own priority: it orders them among each other alone
/// (net/netfilter/nf_nat_core.c, `nf_nat_register_fn`; nf_nat_proto.c, `nf_nat_ipv4_ops`).
const DESTINATION_NAT_PRIORITY: i32 = -100;
const SOURCE_NAT_PRIORITY: i32 = 100;

/// Which of several tables' chains of one priority comes first. The kernel takes the one registered last
/// (net/netfilter/core.c, `nf_hook_entries_grow`); a dump has tables in the order in which they were made, and in a table
/// its chains, but nothing compares chains of different tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ties {
    NewestTableFirst,
    OldestTableFirst,
}

/// A base chain with its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseChain<'a> {
    pub(super) table: &'a Table,
    pub(super) chain: &'a Chain,
    pub(super) base: Base,
    made: (usize, usize),
}

/// Priority, then place among those of one priority.
type Order = (i32, (usize, usize));

/// What a hook calls.
#[derive(Clone, Debug)]
pub(super) enum Call<'a> {
    Chain(BaseChain<'a>),
    /// Nat's own hook, which asks these.
    Nat(Vec<BaseChain<'a>>),
}

/// What the kernel calls at a hook for packets of a family, in order, each with its priority.
pub(super) fn calls(filters: &Filters, hook: Hook, family: Family, ties: Ties) -> Vec<(i32, Call<'_>)> {
    let at = |tables: usize, chain: usize| match ties {
        Ties::NewestTableFirst => (usize::MAX - tables, usize::MAX - chain),
        Ties::OldestTableFirst => (tables, usize::MAX - chain),
    };
    let chains = || {
        let tables = filters.tables.iter().enumerate();
        let tables = tables.filter(move |(_, table)| table.family.is_none_or(|of| of == family));
        tables.flat_map(move |(t, table)| {
            let chains = table.chains.iter().enumerate();
            chains.filter_map(move |(c, chain)| Some(BaseChain { table, chain, base: chain.base?, made: at(t, c) }))
        })
    };
    let mut calls: Vec<(Order, Call<'_>)> = chains()
        .filter(|chain| chain.base.hook == hook && chain.base.kind != Kind::Nat)
        .map(|chain| ((chain.base.priority, chain.made), Call::Chain(chain)))
        .collect();
    let mut nat: Vec<_> = chains().filter(|chain| chain.base.hook == hook && chain.base.kind == Kind::Nat).collect();
    nat.sort_by_key(|chain| (chain.base.priority, chain.made));
    // The first nat chain of a family registers the hooks of all.
    if let Some(first) = chains().filter(|chain| chain.base.kind == Kind::Nat).map(|chain| chain.made).max() {
        let destination = matches!(hook, Hook::Prerouting | Hook::Output);
        let priority = if destination { DESTINATION_NAT_PRIORITY } else { SOURCE_NAT_PRIORITY };
        calls.push(((priority, first), Call::Nat(nat)));
    }
    calls.sort_by_key(|(order, _)| *order);
    calls.into_iter().map(|((priority, _), call)| (priority, call)).collect()
}
