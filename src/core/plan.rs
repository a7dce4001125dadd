//! From settings to rules: which traffic goes where, and the table that makes it so.
//!
//! Invariant: [`RedirectPlan::ruleset`] is a pure function of the plan and of what the kernel has; every rule's comment
//! is its reason, and stands in the kernel too (`nft list table inet bypassctl`).

mod recognize;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::core::config::{AgentPorts, ClusterPorts, ConfigError, RedirectMode, SideDoors};
use crate::core::ports::PortSet;
use crate::core::ruleset::{Action, Chain, ChainKind, Family, Hook, Match, Rule, Ruleset, TableFamily};

/// Name of our table; nothing outside it is ever edited.
pub const TABLE: &str = "bypassctl";

/// Chain that decides where outgoing connections go.
pub const OUTPUT_CHAIN: &str = "output";
/// Chain that decides where arriving connections go.
pub const PREROUTING_CHAIN: &str = "prerouting";

/// Before every mesh's nat chain, whichever was registered last; the kernel refuses -200 and less for nat
/// (`nft_chain_validate_hook`: a nat chain must come after conntrack, `NF_IP_PRI_CONNTRACK`).
pub const NAT_PRIORITY: i32 = -199;
/// Just before and just after mangle (-150), where TPROXY rules assign the socket.
const GUARD_BEFORE_MANGLE: i32 = -151;
const GUARD_AFTER_MANGLE: i32 = -149;
/// `NF_IP_PRI_FILTER`.
const FILTER_PRIORITY: i32 = 0;

/// The bits of a mark that ambient's rules look at (istio cni/pkg/iptables, `0x539/0xfff`); others may use the rest.
const AMBIENT_MARK_MASK: u32 = 0xfff;

/// Where the sidecar dials itself to learn whether the rules stand (RFC 5737 and RFC 3849 documentation addresses).
/// A packet filter can be read with NET_ADMIN alone, which the sidecar does not have; a connection it can always make.
pub const CANARY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Which traffic goes where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectPlan {
    /// What happens to remoting.
    pub mode: RedirectMode,
    /// The cluster's ports.
    pub cluster: ClusterPorts,
    /// The sidecar's ports.
    pub agent: AgentPorts,
    /// The sidecar's user id.
    pub agent_uid: u32,
    /// User ids of mesh proxies in the pod.
    pub mesh_uids: Vec<u32>,
    /// The packet mark that the mesh's own rules skip.
    pub mesh_mark: u32,
    /// Whether plaintext past the sidecar is refused.
    pub side_doors: SideDoors,
}

/// What this kernel lacks, with what stands in for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Substitutes {
    /// The namespace's own addresses, where nft expression `fib` (module nft_fib_inet) is missing.
    pub local_addresses: Option<Vec<IpAddr>>,
    /// Drop instead of reject, where nft expression `reject` (module nft_reject_inet) is missing.
    pub drop_for_reject: bool,
}

impl RedirectPlan {
    /// Checks that the parts go together.
    ///
    /// # Errors
    /// Ports with two uses; an agent that is root, or the mesh.
    pub fn checked(self) -> Result<Self, ConfigError> {
        self.agent.checked(&self.cluster)?;
        if self.agent_uid == 0 {
            return Err(ConfigError::RootAgent);
        }
        if self.mesh_mark == 0 {
            return Err(ConfigError::NoMark);
        }
        if self.mesh_uids.contains(&self.agent_uid) {
            return Err(ConfigError::MeshIsAgent(self.agent_uid));
        }
        Ok(self)
    }

    /// The table that makes the plan so.
    #[must_use]
    pub fn ruleset(&self, substitutes: &Substitutes) -> Ruleset {
        let mut chains = vec![
            Chain {
                name: OUTPUT_CHAIN.to_owned(),
                kind: ChainKind::Nat,
                hook: Hook::Output,
                priority: NAT_PRIORITY,
                rules: self.output_rules(substitutes),
            },
            Chain {
                name: PREROUTING_CHAIN.to_owned(),
                kind: ChainKind::Nat,
                hook: Hook::Prerouting,
                priority: NAT_PRIORITY,
                rules: self.prerouting_rules(),
            },
        ];
        chains.extend(self.guard_chains());
        if self.mode == RedirectMode::Capture && self.side_doors == SideDoors::Closed {
            chains.extend(self.side_door_chains(substitutes));
        }
        Ruleset { family: TableFamily::Inet, table: TABLE.to_owned(), chains }
    }

    fn output_rules(&self, substitutes: &Substitutes) -> Vec<Rule> {
        let ClusterPorts { remoting, management } = &self.cluster;
        let mut rules = Vec::new();
        if self.mode == RedirectMode::Capture {
            let own_port = PortSet::single(self.agent.outbound);
            for address in CANARY {
                let full = if address.is_ipv4() { 32 } else { 128 };
                let canary =
                    [Match::SocketUid(self.agent_uid), Match::Destination { network: address, prefix_len: full }];
                let action = Action::Redirect(self.agent.outbound);
                rules.push(Rule::tcp(&own_port, &canary, action, "the agent's canary comes back to it"));
            }
            for family in Family::BOTH {
                let agent = [Match::SocketUid(self.agent_uid)];
                rules.push(Rule::new(agent, Action::NullBinding(family), "what the agent dials goes straight"));
            }
            for local in local_destinations(substitutes) {
                for family in Family::BOTH.into_iter().filter(|family| local_in_family(&local, *family)) {
                    let action = Action::NullBinding(family);
                    rules.push(Rule::tcp(
                        remoting,
                        std::slice::from_ref(&local),
                        action,
                        "to this pod itself: straight",
                    ));
                }
            }
            let action = Action::Redirect(self.agent.outbound);
            rules.push(Rule::tcp(remoting, &[Match::Syn], action, "new remoting: to the agent"));
        }
        rules.extend(straight(remoting, self.remoting_remainder()));
        rules.extend(straight(management, "management: straight"));
        rules
    }

    fn prerouting_rules(&self) -> Vec<Rule> {
        let ClusterPorts { remoting, management } = &self.cluster;
        let mut rules = Vec::new();
        if self.mode == RedirectMode::Capture {
            let action = Action::Redirect(self.agent.inbound);
            rules.push(Rule::tcp(remoting, &[Match::Syn], action, "new remoting: to the agent"));
        }
        rules.extend(straight(remoting, self.remoting_remainder()));
        rules.extend(straight(management, "management: straight"));
        if self.mode == RedirectMode::Capture {
            let admin = PortSet::single(self.agent.admin);
            rules.extend(straight(&admin, "the kubelet's probes of the agent: straight"));
        }
        rules
    }

    const fn remoting_remainder(&self) -> &'static str {
        match self.mode {
            RedirectMode::Capture => "remoting older than these rules lives on",
            RedirectMode::Bypass => "remoting: straight",
        }
    }

    /// Istio's TPROXY rules assign the socket in mangle, before any nat chain is asked, but skip packets with their own
    /// mark. The mark is lent to our packets for the length of mangle, and taken back before routing looks at it.
    fn guard_chains(&self) -> [Chain; 2] {
        let mut guarded = vec![self.cluster.remoting.clone(), self.cluster.management.clone()];
        if self.mode == RedirectMode::Capture {
            guarded.push(PortSet::single(self.agent.admin));
        }
        let rules = |matches: &[Match], action: &Action, comment: &str| {
            guarded.iter().map(|ports| Rule::tcp(ports, matches, action.clone(), comment)).collect::<Vec<_>>()
        };
        let arrived = Match::FromLoopback(false);
        let marked = Match::Mark { value: self.mesh_mark, mask: u32::MAX };
        let set = Action::SetMark(self.mesh_mark);
        [
            Chain {
                name: "guard_on".to_owned(),
                kind: ChainKind::Filter,
                hook: Hook::Prerouting,
                priority: GUARD_BEFORE_MANGLE,
                rules: rules(std::slice::from_ref(&arrived), &set, "TPROXY in mangle skips this mark"),
            },
            Chain {
                name: "guard_off".to_owned(),
                kind: ChainKind::Filter,
                hook: Hook::Prerouting,
                priority: GUARD_AFTER_MANGLE,
                rules: rules(&[arrived, marked], &Action::ClearMarks, "routing must not see the mark"),
            },
        ]
    }

    /// A mesh proxy that took a connection by another way (HBONE, its own mTLS) dials the app over loopback, and the app
    /// would see plaintext that the agent never judged; so it would if a connection slipped past the nat rules. Aeron's UDP
    /// is touched by no mesh and by no agent.
    fn side_door_chains(&self, substitutes: &Substitutes) -> [Chain; 2] {
        let remoting = &self.cluster.remoting;
        let (reset, unreachable) = if substitutes.drop_for_reject {
            (Action::Drop, Action::Drop)
        } else {
            (Action::RejectWithReset, Action::RejectPortUnreachable)
        };
        let to_loopback = Match::ToLoopback(true);
        let agent = [to_loopback.clone(), Match::SocketUid(self.agent_uid)];
        let mut output = vec![Rule::tcp(remoting, &agent, Action::Accept, "the agent hands over what it has judged")];
        for uid in &self.mesh_uids {
            let mesh = [to_loopback.clone(), Match::SocketUid(*uid)];
            output.push(Rule::tcp(remoting, &mesh, reset.clone(), "plaintext from a mesh proxy: refused"));
        }
        // ztunnel runs as root and is told by its mark alone (istio architecture/ambient/ztunnel-cni-lifecycle.md).
        let mask = if self.mesh_mark <= AMBIENT_MARK_MASK { AMBIENT_MARK_MASK } else { u32::MAX };
        let marked = [to_loopback, Match::Mark { value: self.mesh_mark, mask }];
        output.push(Rule::tcp(remoting, &marked, reset.clone(), "plaintext from a mesh proxy: refused"));
        output.push(udp(remoting, unreachable.clone(), "Aeron UDP would pass the agent by: refused"));
        // Nat rules are asked once a connection, and connection tracking believes in one that a neighbour's forged ACK
        // began (nf_conntrack_tcp_loose). What was redirected has the agent's port by now; a SYN that has not, slipped by.
        let arriving = [Match::FromLoopback(false), Match::Syn];
        let input = vec![
            Rule::tcp(remoting, &arriving, reset, "new remoting that passed the agent by: refused"),
            udp(remoting, unreachable, "Aeron UDP would pass the agent by: refused"),
        ];
        let chain = |name: &str, hook, rules| Chain {
            name: name.to_owned(),
            kind: ChainKind::Filter,
            hook,
            priority: FILTER_PRIORITY,
            rules,
        };
        [chain("side_doors_out", Hook::Output, output), chain("side_doors_in", Hook::Input, input)]
    }
}

fn straight(ports: &PortSet, comment: &str) -> [Rule; 2] {
    Family::BOTH.map(|family| Rule::tcp(ports, &[], Action::NullBinding(family), comment))
}

fn udp(ports: &PortSet, action: Action, comment: &str) -> Rule {
    Rule::new([Match::Udp, Match::DestinationPort(ports.clone())], action, comment)
}

fn local_destinations(substitutes: &Substitutes) -> Vec<Match> {
    let Some(addresses) = &substitutes.local_addresses else { return vec![Match::DestinationIsLocal] };
    let loopback = Match::Destination { network: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix_len: 8 };
    let own = addresses.iter().filter(|address| !address.is_loopback() || address.is_ipv6());
    let own = own
        .map(|address| Match::Destination { network: *address, prefix_len: if address.is_ipv4() { 32 } else { 128 } });
    std::iter::once(loopback).chain(own).collect()
}

fn local_in_family(local: &Match, family: Family) -> bool {
    match local {
        Match::Destination { network, .. } => Family::of(*network) == family,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ports::Preset;

    fn plan(mode: RedirectMode) -> RedirectPlan {
        RedirectPlan {
            mode,
            cluster: ClusterPorts::new(Some(Preset::Akka), &[], &[]).unwrap(),
            agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
            agent_uid: 12552,
            mesh_uids: vec![1337],
            mesh_mark: 1337,
            side_doors: SideDoors::Closed,
        }
    }

    #[test]
    fn an_agent_that_is_root_or_the_mesh_is_refused() {
        let root = RedirectPlan { agent_uid: 0, ..plan(RedirectMode::Capture) };
        assert_eq!(root.checked(), Err(ConfigError::RootAgent));
        let unmarked = RedirectPlan { mesh_mark: 0, ..plan(RedirectMode::Capture) };
        assert_eq!(unmarked.checked(), Err(ConfigError::NoMark));
        let mesh = RedirectPlan { agent_uid: 1337, ..plan(RedirectMode::Capture) };
        assert_eq!(mesh.checked(), Err(ConfigError::MeshIsAgent(1337)));
    }

    #[test]
    fn the_agents_ports_may_not_be_the_clusters_nor_each_other() {
        let mut own = plan(RedirectMode::Capture);
        own.agent.inbound = 2552;
        let shared = ConfigError::SharedPort { port: 2552, first: "--inbound-port", second: "--remoting-port" };
        assert_eq!(own.checked(), Err(shared));
        let mut twice = plan(RedirectMode::Capture);
        twice.agent.admin = 15552;
        let shared = ConfigError::SharedPort { port: 15552, first: "--outbound-port", second: "--admin-port" };
        assert_eq!(twice.checked(), Err(shared));
    }

    #[test]
    fn bypass_redirects_nothing_and_exempts_no_uid() {
        let ruleset = plan(RedirectMode::Bypass).ruleset(&Substitutes::default());
        let rules = || ruleset.chains.iter().flat_map(|chain| &chain.rules);
        assert!(!rules().any(|rule| matches!(rule.action, Action::Redirect(_))));
        assert!(!rules().any(|rule| rule.matches.iter().any(|m| matches!(m, Match::SocketUid(_)))));
    }

    #[test]
    fn without_fib_the_namespaces_own_addresses_stand_in() {
        let own = vec!["10.77.0.11".parse().unwrap(), "fd77::11".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let substitutes = Substitutes { local_addresses: Some(own), drop_for_reject: true };
        let ruleset = plan(RedirectMode::Capture).ruleset(&substitutes);
        let rules = || ruleset.chains.iter().flat_map(|chain| &chain.rules);
        assert!(!rules().any(|rule| rule.matches.contains(&Match::DestinationIsLocal)));
        let local = rules().filter(|rule| rule.comment.contains("this pod itself")).count();
        assert_eq!(local, 3, "127.0.0.0/8, the IPv4 and the IPv6 address");
        assert!(rules().any(|rule| rule.action == Action::Drop));
    }

    #[test]
    fn a_mark_of_any_size_closes_its_side_door() {
        for mesh_mark in [1, 1337, 0xfff, 0x1000, 4242, u32::MAX] {
            let ruleset = RedirectPlan { mesh_mark, ..plan(RedirectMode::Capture) }.ruleset(&Substitutes::default());
            let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
            let mut doors = rules.filter(|rule| rule.action == Action::RejectWithReset);
            assert!(doors.any(|rule| {
                let holds = |m: &Match| matches!(m, Match::Mark { value, mask } if mesh_mark & mask == *value);
                rule.matches.iter().any(holds)
            }));
        }
    }

    #[test]
    fn comments_fit_the_kernel() {
        let ruleset = plan(RedirectMode::Capture).ruleset(&Substitutes::default());
        for rule in ruleset.chains.iter().flat_map(|chain| &chain.rules) {
            assert!(rule.comment.len() <= 127, "{}", rule.comment);
        }
    }
}
