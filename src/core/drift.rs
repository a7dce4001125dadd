//! Whether the rules still do what the sidecar counts on, and what has become of them.
//!
//! Pure: what `explain` says of a few telling packets is compared with what has to come of them. Invariant: it is the
//! effect that counts, so that rules which stand and are not asked any more are as lost as rules that are gone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::core::config::{AgentPorts, ClusterPorts};
use crate::core::explain::answer::{Answer, Direction, EndKind, Protocol, Question};
use crate::core::explain::filters::Filters;
use crate::core::explain::{Surroundings, explain};
use crate::core::ports::PortSet;
use crate::core::render;
use crate::core::ruleset::{Chain, Family, Ruleset};

/// Whom the app runs as, for the questions: anybody but the agent and a mesh.
const APP_UID: u32 = 1000;
/// Where Linux takes source ports from, unless it is told otherwise (`net.ipv4.ip_local_port_range`).
const SOURCE_PORTS: (u16, u16) = (32768, 60999);
/// Of a list of ports so many ranges are asked about; the rules name them all in one match.
const MOST_RANGES: usize = 4;
/// Faults of one kind that are told one by one.
const MOST_TOLD: usize = 3;

/// What the sidecar counts on.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The cluster's ports.
    pub cluster: ClusterPorts,
    /// The sidecar's ports.
    pub agent: AgentPorts,
    /// The sidecar's user id.
    pub agent_uid: u32,
}

/// What is known of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RulesState {
    /// Whether they could be seen at all.
    pub seen: bool,
    /// What is wrong with them; empty if they are whole.
    pub faults: Vec<String>,
    /// What somebody should know although they are whole.
    pub notes: Vec<String>,
    /// Who changed nf_tables last, as far as the kernel told.
    pub last_change_by: Option<String>,
    /// How often the sidecar has put them back.
    pub repairs: u64,
}

/// Where a packet has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Straight,
    Agent(u16),
}

struct Telling {
    what: &'static str,
    question: Question,
    expected: Expected,
}

impl Expectation {
    /// What is wrong, and what cannot be told, by the rules of everybody; `own` are this namespace's addresses.
    #[must_use]
    pub fn judge(
        &self,
        filters: &Filters,
        surroundings: &dyn Surroundings,
        own: &[IpAddr],
    ) -> (Vec<String>, Vec<String>) {
        let (mut faults, mut notes) = (Vec::new(), Vec::new());
        for telling in
            Family::BOTH.into_iter().filter_map(|family| outward(own, family)).flat_map(|at| self.telling(at, own))
        {
            let mut answer = explain(filters, &telling.question, surroundings);
            // That legacy iptables cannot be read is the same for every answer, and the caller's to weigh.
            answer.unsure.retain(|reason| !filters.unread.contains(reason));
            answer.sure = answer.unsure.is_empty();
            if telling.is_met(&answer) {
                notes.append(&mut answer.unsure);
            } else if answer.end.kind != EndKind::NoRoute {
                faults.push(telling.fault(&answer));
            }
        }
        notes.sort_unstable();
        notes.dedup();
        (shortened(faults), notes)
    }

    fn telling(&self, own: IpAddr, all_own: &[IpAddr]) -> Vec<Telling> {
        let peer = neighbour(own, all_own);
        let app = if self.agent_uid == APP_UID { APP_UID + 1 } else { APP_UID };
        let out = |uid, port| Question {
            direction: Direction::Out,
            protocol: Protocol::Tcp,
            to: peer,
            port,
            from: None,
            uid: Some(uid),
            gid: Some(uid),
            mark: 0,
            source_ports: SOURCE_PORTS,
        };
        let arriving = |port| Question {
            direction: Direction::In,
            to: own,
            from: Some(peer),
            uid: None,
            gid: None,
            ..out(app, port)
        };
        let mut telling = Vec::new();
        let mut ask = |what, question, expected| telling.push(Telling { what, question, expected });
        for port in firsts(&self.cluster.remoting) {
            ask("remoting that the app dials", out(app, port), Expected::Agent(self.agent.outbound));
            ask("remoting that arrives", arriving(port), Expected::Agent(self.agent.inbound));
            ask("what the agent dials", out(self.agent_uid, port), Expected::Straight);
        }
        for port in firsts(&self.cluster.management) {
            ask("management that the app dials", out(app, port), Expected::Straight);
            ask("management that arrives", arriving(port), Expected::Straight);
        }
        ask("a probe of the agent", arriving(self.agent.admin), Expected::Straight);
        telling
    }
}

impl Telling {
    fn is_met(&self, answer: &Answer) -> bool {
        let end = &answer.end;
        match self.expected {
            Expected::Straight => end.kind == EndKind::Straight,
            Expected::Agent(port) => end.kind == EndKind::Redirected && end.port == port,
        }
    }

    fn fault(&self, answer: &Answer) -> String {
        let to = SocketAddr::new(self.question.to, self.question.port);
        let expected = match self.expected {
            Expected::Straight => "straight".to_owned(),
            Expected::Agent(port) => format!("to the agent's port {port}"),
        };
        format!("{} ({to}) does not go {expected}; instead: {}", self.what, render::explain::verdict(answer))
    }
}

fn firsts(ports: &PortSet) -> impl Iterator<Item = u16> + '_ {
    ports.ranges().iter().take(MOST_RANGES).map(|range| range.first())
}

/// The address by which others reach this namespace.
fn outward(own: &[IpAddr], family: Family) -> Option<IpAddr> {
    let reaches = |address: &&IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    own.iter().filter(|address| Family::of(**address) == family).find(reaches).copied()
}

/// Somebody else, whom the same routes lead to.
fn neighbour(own: IpAddr, all_own: &[IpAddr]) -> IpAddr {
    let nearby = |bits: u8| -> IpAddr {
        match own {
            IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) ^ u32::from(bits)).into(),
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) ^ u128::from(bits)).into(),
        }
    };
    (1..=u8::MAX).map(nearby).find(|address| !all_own.contains(address)).unwrap_or_else(|| nearby(1))
}

/// What has changed from one state of our tables to another, in nft's language.
#[must_use]
pub fn changes(before: &[Ruleset], now: &[Ruleset]) -> Vec<String> {
    let mut changes = Vec::new();
    for old in before {
        let name = format!("table {} {}", old.family.name(), old.table);
        match now.iter().find(|new| new.family == old.family) {
            None => changes.push(format!("{name} is gone")),
            Some(new) => changes.extend(changes_of_table(&name, old, new)),
        }
    }
    shortened(changes)
}

fn shortened(mut list: Vec<String>) -> Vec<String> {
    let more = list.len().saturating_sub(MOST_TOLD);
    list.truncate(MOST_TOLD);
    list.extend((more > 0).then(|| format!("and {more} more of this kind")));
    list
}

fn changes_of_table(name: &str, old: &Ruleset, new: &Ruleset) -> Vec<String> {
    let mut changes = Vec::new();
    for chain in &old.chains {
        let Some(now) = new.chains.iter().find(|other| other.name == chain.name) else {
            changes.push(format!("{name} has lost its chain {}", chain.name));
            continue;
        };
        let place = |chain: &Chain| (chain.kind, chain.hook, chain.priority);
        if place(chain) != place(now) {
            changes.push(format!("chain {} of {name} is asked at another time", chain.name));
        }
        let text = |rule| render::nft::render_rule(rule, old.family).replace(" comment \"\"", "");
        for lost in chain.rules.iter().filter(|rule| !now.rules.contains(rule)) {
            changes.push(format!("chain {} of {name} has lost `{}`", chain.name, text(lost)));
        }
        for added in now.rules.iter().filter(|rule| !chain.rules.contains(rule)) {
            changes.push(format!("chain {} of {name} has gained `{}`", chain.name, text(added)));
        }
    }
    for added in new.chains.iter().filter(|chain| !old.chains.iter().any(|other| other.name == chain.name)) {
        changes.push(format!("{name} has gained a chain {}", added.name));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{RedirectMode, SideDoors};
    use crate::core::plan::{RedirectPlan, Substitutes};
    use crate::core::ruleset::{Action, Rule};

    fn table() -> Ruleset {
        RedirectPlan {
            mode: RedirectMode::Capture,
            cluster: ClusterPorts::new(None, &[], &[]).unwrap(),
            agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
            agent_uid: 12552,
            mesh_uids: vec![1337],
            mesh_mark: 1337,
            side_doors: SideDoors::Closed,
        }
        .ruleset(&Substitutes::default())
    }

    #[test]
    fn a_change_is_named_by_chain_and_rule() {
        let whole = table();
        assert_eq!(changes(std::slice::from_ref(&whole), &[]), ["table inet bypassctl is gone"]);
        assert!(changes(std::slice::from_ref(&whole), std::slice::from_ref(&whole)).is_empty());

        let mut less = whole.clone();
        less.chains[1].rules.remove(0);
        let [lost] = changes(std::slice::from_ref(&whole), &[less]).try_into().unwrap();
        assert!(
            lost.starts_with("chain prerouting of table inet bypassctl has lost `meta l4proto tcp tcp dport 2552"),
            "{lost}"
        );

        let mut more = whole.clone();
        more.chains[0].rules.insert(0, Rule::new([], Action::Accept, ""));
        more.chains.pop();
        let changed = changes(&[whole], &[more]);
        assert!(
            changed[0].starts_with("chain output of table inet bypassctl has gained `counter accept`"),
            "{changed:?}"
        );
        assert_eq!(changed[1], "table inet bypassctl has lost its chain side_doors_in");
    }

    #[test]
    fn a_neighbour_is_somebody_else_of_the_same_family() {
        for own in ["10.77.0.11", "10.77.0.10", "fd77::11"] {
            let own: IpAddr = own.parse().unwrap();
            let all_own = [own, neighbour(own, &[own])];
            let other = neighbour(own, &all_own);
            assert!(!all_own.contains(&other) && Family::of(other) == Family::of(own), "{own} {other}");
        }
    }
}
