//! The way of a packet: hooks, routing, connection tracking, nat.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::core::explain::answer::{Answer, Direction, End, EndKind, NotAsked, Protocol, Question, Seen};
use crate::core::explain::chain::{Fate, table_name};
use crate::core::explain::filters::{Condition, Filters, Kind, Nat, Tproxy};
use crate::core::explain::hooks::{BaseChain, CONNTRACK_PRIORITY, Call, Ties, calls};
use crate::core::explain::packet::{Packet, Tracking, Truth};
use crate::core::explain::{Route, Surroundings, owner};
use crate::core::ruleset::{Family, Hook};

/// The loopback interface's name, in every namespace.
const LOOPBACK: &str = "lo";

/// A packet on its way, and what it met.
pub(super) struct Walk<'a> {
    filters: &'a Filters,
    surroundings: &'a dyn Surroundings,
    ties: Ties,
    pub(super) packet: Packet,
    /// The connection's destination is bound; only one chain may ever do that.
    destination_bound: bool,
    source_bound: bool,
    /// The socket that TPROXY gave the packet to.
    socket: Option<(IpAddr, u16)>,
    pub(super) hook: &'static str,
    pub(super) trail: Vec<Seen>,
    /// The place in the trail of what decided the end.
    decided: Option<usize>,
    unsure: Vec<String>,
    /// How many rules it was asked about so far.
    pub(super) met: usize,
    not_asked: Vec<NotAsked>,
}

/// Follows the packet.
pub(super) fn walk(filters: &Filters, asked: &Question, surroundings: &dyn Surroundings, ties: Ties) -> Answer {
    let mut walk = Walk {
        filters,
        surroundings,
        ties,
        packet: Packet {
            udp: asked.protocol == Protocol::Udp,
            source: asked.from,
            destination: asked.to,
            source_ports: asked.source_ports,
            port: asked.port,
            owner: asked.uid.map(|uid| (uid, asked.gid.unwrap_or(uid))),
            mark: asked.mark,
            tracking: Tracking::Before,
            input: None,
            output: None,
        },
        destination_bound: false,
        source_bound: false,
        socket: None,
        hook: "",
        trail: Vec::new(),
        decided: None,
        unsure: filters.unread.clone(),
        met: 0,
        not_asked: Vec::new(),
    };
    let end = match asked.direction {
        Direction::Out => walk.outgoing(asked),
        Direction::In => walk.arriving(asked),
    };
    Answer {
        packet: Question { from: walk.packet.source, ..asked.clone() },
        end,
        decided_by: walk.decided.and_then(|at| walk.trail.get(at).cloned()),
        sure: walk.unsure.is_empty(),
        unsure: walk.unsure,
        trail: walk.trail,
        not_asked: walk.not_asked,
    }
}

impl Walk<'_> {
    fn outgoing(&mut self, asked: &Question) -> End {
        let Some(route) = self.route() else { return self.end(EndKind::NoRoute, None) };
        // Connecting looks for the route anew with the source that the first look chose, and IPv4 then wants an address of
        // this host: a mark that leads to `local default` gives the destination's own (net/ipv4/route.c,
        // `ip_route_output_key_hash_rcu`).
        let foreign = route.source.is_some_and(|source| source.is_ipv4() && !self.is_local(source));
        if self.packet.source.is_none() && foreign {
            return self.end(EndKind::NoRoute, None);
        }
        self.packet.source = self.packet.source.or(route.source);
        self.packet.output = Some(route.interface);
        if let Some(end) = self.pass(Hook::Output) {
            return end;
        }
        // Routed anew where a mark or a binding asks for it; else this is the same route.
        let Some(route) = self.route() else { return self.end(EndKind::NoRoute, None) };
        self.packet.output = Some(route.interface.clone());
        if let Some(end) = self.pass(Hook::Postrouting) {
            return end;
        }
        if !route.local {
            let changed = (self.packet.destination, self.packet.port) != (asked.to, asked.port);
            let kind = if changed { EndKind::Rewritten } else { EndKind::Straight };
            return self.end(kind, Some(route.interface));
        }
        // Over lo, where the packet loses its socket and keeps its mark, connection and route
        // (drivers/net/loopback.c, `loopback_xmit`).
        self.packet.input = Some(LOOPBACK.to_owned());
        self.packet.output = None;
        self.packet.owner = None;
        self.pass(Hook::Prerouting).or_else(|| self.pass(Hook::Input)).unwrap_or_else(|| self.delivered(asked))
    }

    fn arriving(&mut self, asked: &Question) -> End {
        let back = asked.from.and_then(|from| self.surroundings.route(from, 0, None));
        self.packet.input = back.map(|route| route.interface);
        if let Some(end) = self.pass(Hook::Prerouting) {
            return end;
        }
        match self.route() {
            Some(Route { local: true, .. }) => self.pass(Hook::Input).unwrap_or_else(|| self.delivered(asked)),
            Some(route) => self.end(EndKind::Forwarded, Some(route.interface)),
            None => self.end(EndKind::NoRoute, None),
        }
    }

    fn route(&self) -> Option<Route> {
        self.surroundings.route(self.packet.destination, self.packet.mark, self.packet.owner.map(|(uid, _)| uid))
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.surroundings.route(address, 0, None).is_some_and(|route| route.local)
    }

    fn delivered(&mut self, asked: &Question) -> End {
        let (address, port) = self.socket.unwrap_or((self.packet.destination, self.packet.port));
        let straight = (address, port) == (asked.to, asked.port);
        let listening = if self.packet.udp { None } else { self.surroundings.listens(address, port) };
        let kind = if straight { EndKind::Straight } else { EndKind::Redirected };
        End { kind, address, port, interface: Some(LOOPBACK.to_owned()), listening }
    }

    fn end(&self, kind: EndKind, interface: Option<String>) -> End {
        End { kind, address: self.packet.destination, port: self.packet.port, interface, listening: None }
    }

    /// Passes a hook; an end if the packet does not come out of it.
    fn pass(&mut self, hook: Hook) -> Option<End> {
        self.hook = name(hook);
        let filters = self.filters;
        let mut asked_conntrack = matches!(hook, Hook::Input | Hook::Postrouting);
        // What `oifname` shows stays until the hook is passed; a route that a mark asks for is taken by the caller.
        let mark = self.packet.mark;
        let mut rerouted = false;
        for (priority, call) in calls(filters, hook, self.packet.family(), self.ties) {
            if !asked_conntrack && priority >= CONNTRACK_PRIORITY {
                self.track();
                asked_conntrack = true;
            }
            let before = (self.packet.mark, self.packet.destination);
            let fate = match call {
                Call::Chain(chain) => {
                    let fate = self.run(chain);
                    rerouted |= chain.base.kind == Kind::Route && self.packet.mark != before.0;
                    fate
                }
                Call::Nat(chains) => {
                    let fate = self.ask_nat(hook, &chains);
                    rerouted |= self.packet.destination != before.1;
                    fate
                }
            };
            let kind = match fate {
                Fate::Accepted | Fate::Bound(_) => continue,
                Fate::Dropped => EndKind::Dropped,
                Fate::Refused => EndKind::Refused,
            };
            self.decided = self.trail.len().checked_sub(1);
            return Some(self.end(kind, None));
        }
        if !asked_conntrack {
            self.track();
        }
        if hook == Hook::Output && self.packet.mark != mark && !rerouted {
            self.doubt_route(mark);
        }
        None
    }

    /// A chain of type filter does not have a changed mark routed anew.
    fn doubt_route(&mut self, old: u32) {
        let uid = self.packet.owner.map(|(uid, _)| uid);
        let (before, after) = (self.surroundings.route(self.packet.destination, old, uid), self.route());
        if before != after {
            self.doubt(
                "a chain of type filter changed a mark that routing would look at, but does not again".to_owned(),
            );
        }
    }

    fn track(&mut self) {
        if self.packet.tracking == Tracking::Before {
            self.packet.tracking = Tracking::New(0);
        }
    }

    /// Whether that was in time.
    pub(super) fn untrack(&mut self) -> bool {
        let in_time = self.packet.tracking == Tracking::Before;
        if in_time {
            self.packet.tracking = Tracking::Untracked;
        }
        in_time
    }

    /// Nat chains are asked in turn until one binds; then, and for untracked packets, no other is
    /// (net/netfilter/nf_nat_core.c, `nf_nat_inet_fn`).
    fn ask_nat(&mut self, hook: Hook, chains: &[BaseChain<'_>]) -> Fate {
        let destination = matches!(hook, Hook::Prerouting | Hook::Output);
        let tracked = matches!(self.packet.tracking, Tracking::New(_));
        let bound = if destination { &mut self.destination_bound } else { &mut self.source_bound };
        let already = std::mem::replace(bound, true);
        let mut fate = Fate::Accepted;
        for chain in chains {
            let reason = if !tracked {
                "the connection is not tracked"
            } else if already {
                "the connection has its binding since output"
            } else if fate != Fate::Accepted {
                "a chain before it has made a binding"
            } else {
                fate = self.run(*chain);
                if matches!(fate, Fate::Dropped | Fate::Refused) {
                    return fate;
                }
                continue;
            };
            if !destination || chain.chain.rules.is_empty() {
                continue;
            }
            self.not_asked.push(NotAsked {
                hook: self.hook,
                table: table_name(*chain),
                chain: chain.chain.name.clone(),
                owner: owner::of(chain.table, &chain.chain.name, chain.chain.rules.first()),
                reason,
            });
        }
        if let Fate::Bound(nat) = &fate
            && *nat != Nat::Source
        {
            self.decide();
            self.bind(hook, nat);
        }
        fate
    }

    /// TPROXY came first, if it did: the socket stays assigned whatever the binding is.
    fn decide(&mut self) {
        if self.socket.is_none() {
            self.decided = self.trail.len().checked_sub(1);
        }
    }

    fn bind(&mut self, hook: Hook, nat: &Nat) {
        let (address, port) = match nat {
            Nat::Redirect(port) if hook == Hook::Output => (Some(loopback(self.packet.family())), *port),
            Nat::Redirect(port) => {
                let input = self.packet.input.as_deref().unwrap_or_default();
                (self.surroundings.address_of(input, self.packet.family()), *port)
            }
            Nat::Destination { address, port } => (*address, *port),
            Nat::Source => return,
        };
        self.packet.destination = address.unwrap_or(self.packet.destination);
        self.packet.port = port.unwrap_or(self.packet.port);
    }

    /// Gives the packet to a socket, if there is one; its port.
    pub(super) fn assign(&mut self, tproxy: &Tproxy) -> Option<u16> {
        let family = self.packet.family();
        let named = tproxy.address.filter(|address| !address.is_unspecified());
        let input = self.packet.input.clone().unwrap_or_default();
        let address = named.or_else(|| self.surroundings.address_of(&input, family)).unwrap_or(self.packet.destination);
        let port = tproxy.port.unwrap_or(self.packet.port);
        if !self.packet.udp && self.surroundings.listens(address, port) == Some(false) {
            return None;
        }
        let (value, mask) = tproxy.mark;
        self.packet.mark = (self.packet.mark & !mask) ^ value;
        self.socket = Some((address, port));
        self.decided = Some(self.trail.len());
        Some(port)
    }

    pub(super) fn meets(&self, condition: &Condition) -> Truth {
        self.packet.meets(condition, |address| self.is_local(address))
    }

    pub(super) fn doubt(&mut self, what: String) {
        if self.unsure.last() != Some(&what) {
            self.unsure.push(what);
        }
    }
}

const fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

const fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}
