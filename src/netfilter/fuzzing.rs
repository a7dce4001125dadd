//! What `fuzz/` asks of the parsers of this module. Each takes whatever a kernel might send, or a tool print.

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic;
use std::sync::Once;

use netlink_packet_core::{DefaultNla, NetlinkPayload};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::nftables::{Expressions, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use crate::core::explain::answer::{Direction, Protocol, Question};
use crate::core::explain::filters::{Filters, Table};
use crate::core::explain::{Route, Surroundings, explain, save};
use crate::core::render::iptables::{Holding, script};
use crate::core::ruleset::{Family, TableFamily};
use crate::core::xtables::CHAIN_PREFIX;
use crate::netfilter::expression::NFTA_COUNTER_PACKETS;
use crate::netfilter::socket::SetElement;
use crate::netfilter::table::{RuleView, decode_chain};
use crate::netfilter::{conntrack, decode, encode, events, foreign, gather, iptables, mesh, set, socket};

/// An answer about rules, sets or connections, or the tale of a change.
pub fn netfilter_answer(bytes: &[u8]) {
    static QUIET: Once = Once::new();
    QUIET.call_once(pass_over_caught_panics);
    let _ = events::author(bytes);
    let Ok(messages) = socket::messages::<NetfilterMessage>(bytes) else { return };
    let mut told: Vec<(NetfilterProtoFamily, NfTablesMessage)> = Vec::new();
    for message in messages {
        let NetlinkPayload::InnerMessage(inner) = message.payload else { continue };
        match inner.inner {
            NetfilterMessageInner::NfTables(message) => told.push((inner.header.family, message)),
            NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => {
                let _ = conntrack::is_redirected(&attributes, &[15551]);
            }
            _ => {}
        }
    }
    let elements = socket::set_elements(bytes);
    own_rules(&told, &elements);
    let tables = gather::assemble(&told, &told, &told, |_, _, _| Ok(gather::listed(&elements)));
    follow(tables.unwrap_or_default());
}

/// The fuzzer ends with a panic's first word; those of the netlink crate are caught by [`socket::decode`].
fn pass_over_caught_panics() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|location| location.file().contains("/netlink-packet-")) {
            hook(info);
        }
    }));
}

/// What is read as our own is what would be written of it.
fn own_rules(told: &[(NetfilterProtoFamily, NfTablesMessage)], elements: &[SetElement]) {
    let ports = set::ports(elements.iter().filter_map(set::boundary).collect());
    for (_, message) in told {
        if let NfTablesMessage::NewChain(chain) = message {
            let _ = decode_chain(chain);
        }
        let Some(view) = RuleView::of(message) else { continue };
        let _ = mesh::owner_rule(&view.expressions);
        let _ = foreign::names_interface(&view.expressions);
        let _ = view.expressions.iter().any(foreign::acts_before_nat);
        let names = view.expressions.iter().filter_map(|expression| match expression {
            Expressions::Lookup(attributes) => decode::set_name(attributes),
            _ => None,
        });
        let mut sets: HashMap<_, _> = names.filter_map(|name| Some((name.to_owned(), ports.clone()?))).collect();
        let Ok((rule, _)) = decode::rule(&view.expressions, &sets) else { continue };
        sets.extend(encode::port_set(&rule).map(|ports| (encode::ANONYMOUS_SET.to_owned(), ports.clone())));
        let mut written = encode::expressions(&rule, 1, TableFamily::Inet);
        for expression in &mut written {
            if let Expressions::Other { expression_type, attributes } = expression
                && expression_type == "counter"
            {
                // The kernel begins to count.
                attributes.push(DefaultNla::new(NFTA_COUNTER_PACKETS, vec![0; 8]));
            }
        }
        let again = decode::rule(&written, &sets);
        assert_eq!(again.map(|(rule, _)| rule), Ok(rule));
    }
}

/// The answer to a question for a route.
pub fn route_answer(bytes: &[u8]) {
    let _ = gather::route(bytes);
}

/// What `iptables-save` prints.
pub fn iptables_save(text: &str) {
    let holding = Holding::parse(text, CHAIN_PREFIX);
    let _ = iptables::outline(&holding);
    let _ = iptables::heads(text);
    // What stands is led to itself, and taken away, by naming nothing that is not ours.
    let _ = script(&holding, &holding);
    let removal = script(&holding, &Holding::default());
    assert!(removal.lines().filter_map(|line| line.strip_prefix(':')).all(|line| line.starts_with(CHAIN_PREFIX)));
    for family in Family::BOTH {
        follow(save::tables(text, family));
    }
}

/// A pod on whose every port somebody listens; mark 7 leads to it.
struct Pod;

const OWN: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 11)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 11)),
];

impl Surroundings for Pod {
    fn route(&self, to: IpAddr, mark: u32, _uid: Option<u32>) -> Option<Route> {
        let local = to.is_loopback() || OWN.contains(&to) || mark == 7;
        let source = self.address_of("", Family::of(to));
        Some(Route { local, interface: if local { "lo" } else { "eth0" }.to_owned(), source })
    }

    fn address_of(&self, _interface: &str, family: Family) -> Option<IpAddr> {
        OWN.into_iter().find(|own| Family::of(*own) == family)
    }

    fn listens(&self, _address: IpAddr, _port: u16) -> Option<bool> {
        Some(true)
    }
}

/// Packets of both directions and families find an end.
fn follow(tables: Vec<Table>) {
    let filters = Filters { tables, unread: Vec::new() };
    let peers: [IpAddr; 2] = [[10, 77, 0, 12].into(), [0xfd77, 0, 0, 0, 0, 0, 0, 12].into()];
    for (own, peer) in OWN.into_iter().zip(peers) {
        for (direction, from, to) in [(Direction::Out, None, peer), (Direction::In, Some(peer), own)] {
            let uid = from.is_none().then_some(1000);
            let question = Question {
                direction,
                protocol: Protocol::Tcp,
                to,
                port: 2552,
                from,
                uid,
                gid: uid,
                mark: 0,
                source_ports: (32768, 60999),
            };
            let answer = explain(&filters, &question, &Pod);
            let _ = crate::core::render::explain::text(&answer);
        }
    }
}
