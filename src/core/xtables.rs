//! The plan as chains of iptables: the same rules as [`RedirectPlan::ruleset`] where the language allows, and what stands
//! in for the priorities that it lacks.
//!
//! nf_tables lets our nat chain come before every other; iptables has one nat table at one priority, and beside another
//! backend at that priority the one registered last is asked first. What goes straight is therefore not tracked at all
//! (table raw), so that no nat of anybody applies to it; for the agent's share our jumps stand at the head of the built-in
//! chains.

use crate::core::config::RedirectMode;
use crate::core::plan::{RedirectPlan, Substitutes};
use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, ChainKind, Family, Hook, Match, Rule};

/// What the names of our chains begin with; nothing else is ever edited, but for the jumps to them.
pub const CHAIN_PREFIX: &str = "BYPASSCTL_";

/// iptables' tables, in the order in which a packet meets them at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum XtTable {
    /// Before connection tracking.
    Raw,
    /// Before routing.
    Mangle,
    /// A connection's first packet.
    Nat,
    /// Let through or not.
    Filter,
}

impl XtTable {
    /// Every one that rules of ours stand in.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// As iptables writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// A chain of ours, called first thing in a built-in chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtChain {
    /// Its table.
    pub table: XtTable,
    /// The built-in chain that jumps to it.
    pub hook: Hook,
    /// What its name begins with; the built-in chain's name follows.
    pub prefix: &'static str,
    /// Rules, first to last.
    pub rules: Vec<XtRule>,
}

/// A rule, or one for the packets that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtRule {
    /// The rule.
    pub rule: Rule,
    /// Its ports are those that a packet comes from.
    pub answers: bool,
}

impl XtRule {
    /// The rule as it stands.
    #[must_use]
    pub const fn asking(rule: Rule) -> Self {
        Self { rule, answers: false }
    }

    const fn answering(rule: Rule) -> Self {
        Self { rule, answers: true }
    }
}

impl XtChain {
    /// Its whole name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.prefix, built_in(self.hook))
    }
}

/// The built-in chain of a hook.
#[must_use]
pub const fn built_in(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Output => "OUTPUT",
        Hook::Postrouting => "POSTROUTING",
    }
}

impl RedirectPlan {
    /// The chains that make the plan so for packets of the family.
    #[must_use]
    pub fn xtables(&self, family: Family) -> Vec<XtChain> {
        let chain = |table, hook, rules| XtChain { table, hook, prefix: CHAIN_PREFIX, rules };
        let mut chains = vec![
            chain(XtTable::Raw, Hook::Prerouting, self.untracked_arriving()),
            chain(XtTable::Raw, Hook::Output, self.untracked_leaving()),
            chain(XtTable::Mangle, Hook::Prerouting, self.past_tproxy()),
        ];
        for from in self.ruleset(&Substitutes::default()).chains {
            let table = match (from.kind, from.hook) {
                (ChainKind::Nat, _) => XtTable::Nat,
                (ChainKind::Filter, Hook::Input | Hook::Output) => XtTable::Filter,
                // The guard around mangle: a chain of iptables cannot stand after mangle and before routing.
                (ChainKind::Filter, _) => continue,
            };
            let rules = from.rules.into_iter().filter(|rule| rule.concerns(family)).map(XtRule::asking);
            chains.push(chain(table, from.hook, rules.collect()));
        }
        chains
    }

    /// What no nat is to touch, whoever is asked first.
    fn straight_ports(&self) -> Vec<(&PortSet, &'static str)> {
        let mut straight = vec![(&self.cluster.management, "management: straight")];
        if self.mode == RedirectMode::Bypass {
            straight.push((&self.cluster.remoting, "remoting: straight"));
        }
        straight
    }

    fn untracked_leaving(&self) -> Vec<XtRule> {
        let mut rules = Vec::new();
        for (ports, comment) in self.straight_ports() {
            rules.push(XtRule::asking(Rule::tcp(ports, &[], Action::NoTrack, comment)));
            rules.push(XtRule::answering(Rule::tcp(ports, &[], Action::NoTrack, comment)));
        }
        rules.extend(self.admin(Match::ToLoopback(false)).map(XtRule::answering));
        rules
    }

    fn untracked_arriving(&self) -> Vec<XtRule> {
        let mut rules = Vec::new();
        for (ports, comment) in self.straight_ports() {
            rules.push(XtRule::asking(Rule::tcp(ports, &[], Action::NoTrack, comment)));
            rules.push(XtRule::answering(Rule::tcp(ports, &[], Action::NoTrack, comment)));
        }
        rules.extend(self.admin(Match::FromLoopback(false)).map(XtRule::asking));
        rules
    }

    fn admin(&self, beyond_loopback: Match) -> Option<Rule> {
        let admin = PortSet::single(self.agent.admin);
        let comment = "the kubelet's probes of the agent: straight";
        (self.mode == RedirectMode::Capture).then(|| Rule::tcp(&admin, &[beyond_loopback], Action::NoTrack, comment))
    }

    /// TPROXY rules of the same table come after ours; accepted, a packet is past them.
    fn past_tproxy(&self) -> Vec<XtRule> {
        let admin = PortSet::single(self.agent.admin);
        let mut guarded = vec![&self.cluster.remoting, &self.cluster.management];
        if self.mode == RedirectMode::Capture {
            guarded.push(&admin);
        }
        let arrived = [Match::FromLoopback(false)];
        let rule = |ports| Rule::tcp(ports, &arrived, Action::Accept, "past the mesh's TPROXY rules");
        let asked = guarded.into_iter().map(|ports| XtRule::asking(rule(ports)));
        // Nothing tells TPROXY rules that an untracked answer belongs to a connection.
        let answered = self.straight_ports().into_iter().map(|(ports, _)| XtRule::answering(rule(ports)));
        asked.chain(answered).collect()
    }
}
