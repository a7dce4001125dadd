//! One chain, rule by rule, as nf_tables' and x_tables' interpreters go through it.

use crate::core::explain::answer::Seen;
use crate::core::explain::filters::{Nat, Rule, Statement, Step};
use crate::core::explain::hooks::BaseChain;
use crate::core::explain::packet::Truth;
use crate::core::explain::walk::Walk;

/// `NFT_JUMP_STACK_SIZE` (net/netfilter/nf_tables.h): the kernel refuses deeper ones.
const DEPTH: usize = 16;

/// Far more rules than a packet meets. What the kernel accepts can branch at every level, and text need not come from it.
const MOST_RULES: usize = 100_000;

/// What a base chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// On to the next chain.
    Accepted,
    /// Gone, silently.
    Dropped,
    /// Gone, with an answer.
    Refused,
    /// On, with a binding.
    Bound(Nat),
}

/// Where a rule leads.
enum Next {
    Rule,
    Jump(String),
    Goto(String),
    Return,
    Fate(Fate),
}

impl Walk<'_> {
    /// Runs a base chain.
    pub(super) fn run(&mut self, base: BaseChain<'_>) -> Fate {
        if let Some(fate) = self.run_rules(base, &base.chain.name, 0) {
            return fate;
        }
        if base.base.drops {
            self.see(base, &base.chain.name, 0, &Rule::default(), "dropped by the chain's policy");
            return Fate::Dropped;
        }
        Fate::Accepted
    }

    fn run_rules(&mut self, base: BaseChain<'_>, name: &str, depth: usize) -> Option<Fate> {
        let Some(chain) = base.table.chains.iter().find(|chain| chain.name == name).filter(|_| depth <= DEPTH) else {
            self.doubt(format!("{}: chain {name} cannot be followed", table_name(base)));
            return None;
        };
        for (index, rule) in chain.rules.iter().enumerate() {
            self.met += 1;
            if self.met == MOST_RULES {
                self.doubt(format!("{}: more than {MOST_RULES} rules are not followed", table_name(base)));
            }
            if self.met >= MOST_RULES {
                return None;
            }
            match self.run_rule(base, name, index + 1, rule) {
                Next::Rule => {}
                Next::Return => return None,
                Next::Fate(fate) => return Some(fate),
                Next::Jump(to) => {
                    if let Some(fate) = self.run_rules(base, &to, depth + 1) {
                        return Some(fate);
                    }
                }
                Next::Goto(to) => return self.run_rules(base, &to, depth + 1),
            }
        }
        None
    }

    fn run_rule(&mut self, base: BaseChain<'_>, chain: &str, number: usize, rule: &Rule) -> Next {
        if !rule.acts() {
            return Next::Rule;
        }
        let mut did = Vec::new();
        let mut next = Next::Rule;
        for (at, step) in rule.steps.iter().enumerate() {
            match step {
                Step::If(condition) => match self.meets(condition) {
                    Truth::Yes => {}
                    Truth::No => break,
                    Truth::Unknown => {
                        // A later condition that does not hold spares the question, unless something is done before it.
                        let later = rule.steps[at + 1..]
                            .iter()
                            .take_while(|step| matches!(step, Step::If(_)))
                            .any(|step| matches!(step, Step::If(condition) if self.meets(condition) == Truth::No));
                        if !later {
                            self.doubt(format!(
                                "{}, chain {chain}, rule {number}: whether {condition} holds is unknown: {rule}; \
                                 assumed is that it does not",
                                table_name(base)
                            ));
                        }
                        break;
                    }
                },
                Step::Do(statement) => {
                    let (effect, leads) = self.act(base, chain, number, statement);
                    did.extend(effect);
                    match leads {
                        Next::Rule => {}
                        // `NFT_BREAK`, of a statement that cannot do its work.
                        Next::Return if *statement != Statement::Return => break,
                        decided => {
                            next = decided;
                            break;
                        }
                    }
                }
            }
        }
        if !did.is_empty() {
            self.see(base, chain, number, rule, &did.join(", "));
        }
        next
    }

    fn act(
        &mut self,
        base: BaseChain<'_>,
        chain: &str,
        number: usize,
        statement: &Statement,
    ) -> (Option<String>, Next) {
        let said = |text: &str| Some(text.to_owned());
        match statement {
            Statement::Accept => (said("accepted by this chain"), Next::Fate(Fate::Accepted)),
            Statement::Drop => (said("dropped"), Next::Fate(Fate::Dropped)),
            Statement::Reject => (said("refused"), Next::Fate(Fate::Refused)),
            Statement::Return => (said("back from this chain"), Next::Return),
            Statement::Jump(to) => (Some(format!("on with {to}")), Next::Jump(to.clone())),
            Statement::Goto(to) => (Some(format!("on with {to}, for good")), Next::Goto(to.clone())),
            Statement::Nat(nat) => (Some(effect_of(nat)), Next::Fate(Fate::Bound(nat.clone()))),
            Statement::Mark(set) => {
                self.packet.set_mark(set);
                (Some(set.to_string()), Next::Rule)
            }
            Statement::NoTrack => match self.untrack() {
                true => (said("not tracked, so no NAT applies"), Next::Rule),
                false => (said("tracked already, so this does nothing"), Next::Rule),
            },
            Statement::Tproxy(tproxy) => match (self.assign(tproxy), tproxy.ends) {
                (Some(port), true) => (Some(format!("given to the socket on port {port}")), Next::Fate(Fate::Accepted)),
                (Some(port), false) => (Some(format!("given to the socket on port {port}")), Next::Rule),
                (None, true) => (said("dropped, as no such socket is there"), Next::Fate(Fate::Dropped)),
                (None, false) => (None, Next::Return),
            },
            Statement::Unknown(name) => {
                let table = table_name(base);
                self.doubt(format!("{table}, chain {chain}, rule {number}: what {name} does is unknown"));
                (Some(format!("{name}: unknown")), Next::Rule)
            }
        }
    }

    fn see(&mut self, base: BaseChain<'_>, chain: &str, number: usize, rule: &Rule, effect: &str) {
        self.trail.push(Seen {
            hook: self.hook,
            backend: backend(base),
            table: table_name(base),
            chain: chain.to_owned(),
            number,
            owner: crate::core::explain::owner::of(base.table, chain, Some(rule)),
            rule: rule.to_string(),
            comment: rule.comment.clone(),
            effect: effect.to_owned(),
        });
    }
}

fn effect_of(nat: &Nat) -> String {
    match nat {
        Nat::Redirect(Some(port)) => format!("redirected to this host's port {port}"),
        Nat::Redirect(None) => "redirected to this host".to_owned(),
        Nat::Destination { address: None, port: None } => {
            "bound to the address that it has, so no other nat chain is asked".to_owned()
        }
        nat @ Nat::Destination { .. } => nat.to_string(),
        Nat::Source => "gets another source address".to_owned(),
    }
}

fn backend(base: BaseChain<'_>) -> &'static str {
    use crate::core::explain::filters::Keeper;
    match base.table.keeper {
        Keeper::NfTables => "nf_tables",
        Keeper::Legacy => "iptables-legacy",
    }
}

/// Family and name, as nft says them.
pub(super) fn table_name(base: BaseChain<'_>) -> String {
    use crate::core::ruleset::Family;
    let family = match base.table.family {
        None => "inet",
        Some(Family::V4) => "ip",
        Some(Family::V6) => "ip6",
    };
    format!("{family} {}", base.table.name)
}
