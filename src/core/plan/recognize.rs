//! From a table back to the plan that made it.
//!
//! Invariant: what is recognized is, rule for rule, what its plan makes; a table that somebody has changed is not.

use crate::core::config::{AgentPorts, ClusterPorts, DEFAULT_AGENT_UID, RedirectMode, SideDoors};
use crate::core::plan::{CANARY, OUTPUT_CHAIN, PREROUTING_CHAIN, RedirectPlan, Substitutes};
use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, Match, Rule, Ruleset, TableFamily};

impl RedirectPlan {
    /// The plan of a table, and what stood in for what the kernel lacked; `None` if no plan makes such a table. The
    /// agent's ports and uid are the default ones where the rules do not depend on them.
    #[must_use]
    pub fn recognize(table: &Ruleset) -> Option<(Self, Substitutes)> {
        let found = Found { table };
        let plan = found.plan()?;
        let substitutes = found.substitutes();
        let made = plan.ruleset(&substitutes);
        let same = match table.family {
            TableFamily::Inet => made == *table,
            TableFamily::Ip | TableFamily::Ip6 => made.split().contains(table),
        };
        same.then_some((plan, substitutes))
    }
}

struct Found<'a> {
    table: &'a Ruleset,
}

impl Found<'_> {
    fn plan(&self) -> Option<RedirectPlan> {
        let inbound = self.find(PREROUTING_CHAIN, |rule| redirect(&rule.action));
        let ports = |chain, comment| self.find(chain, |rule| (rule.comment == comment).then(|| ports(rule)).flatten());
        let (mode, remainder) = match inbound {
            Some(_) => (RedirectMode::Capture, "remoting older than these rules lives on"),
            None => (RedirectMode::Bypass, "remoting: straight"),
        };
        let agent = match inbound {
            Some(inbound) => AgentPorts {
                outbound: self.find(OUTPUT_CHAIN, |rule| redirect(&rule.action))?,
                inbound,
                admin: ports(PREROUTING_CHAIN, "the kubelet's probes of the agent: straight")?
                    .ranges()
                    .first()?
                    .first(),
            },
            None => AgentPorts::default(),
        };
        let doors = self.table.chains.iter().any(|chain| chain.name == "side_doors_out");
        Some(RedirectPlan {
            mode,
            cluster: ClusterPorts {
                remoting: ports(PREROUTING_CHAIN, remainder)?,
                management: ports(PREROUTING_CHAIN, "management: straight")?,
            },
            agent,
            agent_uid: self.find(OUTPUT_CHAIN, uid).unwrap_or(DEFAULT_AGENT_UID),
            mesh_uids: self
                .rules("side_doors_out")
                .filter(|rule| rule.action != Action::Accept)
                .filter_map(uid)
                .collect(),
            mesh_mark: self.find("guard_on", |rule| match rule.action {
                Action::SetMark(mark) => Some(mark),
                _ => None,
            })?,
            side_doors: if doors { SideDoors::Closed } else { SideDoors::Open },
        })
    }

    fn substitutes(&self) -> Substitutes {
        let mut own = Vec::new();
        let mut fib = false;
        for rule in self.rules(OUTPUT_CHAIN) {
            for condition in &rule.matches {
                match condition {
                    Match::DestinationIsLocal => fib = true,
                    Match::Destination { network, prefix_len: 32 | 128 } if !CANARY.contains(network) => {
                        own.push(*network);
                    }
                    _ => {}
                }
            }
        }
        let capture = self.find(PREROUTING_CHAIN, |rule| redirect(&rule.action)).is_some();
        Substitutes {
            local_addresses: (capture && !fib).then_some(own),
            drop_for_reject: self.rules("side_doors_in").any(|rule| rule.action == Action::Drop),
        }
    }

    fn rules(&self, chain: &str) -> impl Iterator<Item = &Rule> {
        self.table.chains.iter().filter(move |of| of.name == chain).flat_map(|chain| &chain.rules)
    }

    fn find<T>(&self, chain: &str, of: impl FnMut(&Rule) -> Option<T>) -> Option<T> {
        self.rules(chain).find_map(of)
    }
}

const fn redirect(action: &Action) -> Option<u16> {
    match action {
        Action::Redirect(port) => Some(*port),
        _ => None,
    }
}

fn ports(rule: &Rule) -> Option<PortSet> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::DestinationPort(ports) => Some(ports.clone()),
        _ => None,
    })
}

fn uid(rule: &Rule) -> Option<u32> {
    rule.matches.iter().find_map(|condition| match condition {
        Match::SocketUid(uid) => Some(*uid),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ports::Preset;

    fn plans() -> Vec<RedirectPlan> {
        let mut plans = Vec::new();
        for mode in [RedirectMode::Capture, RedirectMode::Bypass] {
            for (side_doors, mesh_uids, mesh_mark) in
                [(SideDoors::Closed, vec![1337], 1337), (SideDoors::Closed, vec![], 4242), (SideDoors::Open, vec![], 7)]
            {
                for preset in [None, Some(Preset::Akka), Some(Preset::Pekko)] {
                    plans.push(RedirectPlan {
                        mode,
                        cluster: ClusterPorts::new(preset, &[], &[]).unwrap(),
                        agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
                        agent_uid: 12552,
                        mesh_uids: mesh_uids.clone(),
                        mesh_mark,
                        side_doors,
                    });
                }
            }
        }
        plans
    }

    fn substitutes() -> [Substitutes; 3] {
        let own = vec!["10.77.0.11".parse().unwrap(), "::1".parse().unwrap(), "fd77::11".parse().unwrap()];
        [
            Substitutes::default(),
            Substitutes { local_addresses: Some(own), drop_for_reject: false },
            Substitutes { local_addresses: None, drop_for_reject: true },
        ]
    }

    #[test]
    fn what_a_plan_makes_is_recognized_and_makes_the_same_again() {
        for plan in plans() {
            for substitutes in substitutes() {
                let whole = plan.ruleset(&substitutes);
                for table in [vec![whole.clone()], whole.split().to_vec()].concat() {
                    let (found, lacking) = RedirectPlan::recognize(&table).expect("a table of ours");
                    let again = found.ruleset(&lacking);
                    assert!(again == table || again.split().contains(&table), "{plan:?} {substitutes:?}");
                    assert_eq!(found.cluster, plan.cluster);
                    if plan.mode == RedirectMode::Capture {
                        assert_eq!((found.agent_uid, &found.agent), (plan.agent_uid, &plan.agent));
                    }
                }
            }
        }
    }

    #[test]
    fn a_table_with_one_rule_more_or_less_or_another_priority_is_nobodys() {
        for plan in plans() {
            let whole = plan.ruleset(&Substitutes::default());
            for (c, chain) in whole.chains.iter().enumerate() {
                for r in 0..chain.rules.len() {
                    let mut less = whole.clone();
                    less.chains[c].rules.remove(r);
                    let recognized = RedirectPlan::recognize(&less);
                    // Without its rules against a mesh's uid the table is another plan's, and a whole one.
                    let of_a_uid = uid(&chain.rules[r]).is_some() && chain.name == "side_doors_out";
                    assert!(recognized.is_none() || of_a_uid, "{}: {:?}", chain.name, chain.rules[r]);
                }
                let mut more = whole.clone();
                more.chains[c].rules.insert(0, Rule::new([Match::Tcp], Action::Accept, "let it pass"));
                assert_eq!(RedirectPlan::recognize(&more), None);
                let mut moved = whole.clone();
                moved.chains[c].priority += 1;
                assert_eq!(RedirectPlan::recognize(&moved), None);
            }
        }
    }
}
