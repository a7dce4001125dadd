//! What is understood of nf_tables expressions, and that the rest is said to be unknown.

use std::collections::HashMap;

use netlink_packet_netfilter::nftables::{Expressions, Lookup, MetaKey, Payload, Register};

use super::native::steps;
use super::sets::Elements;
use crate::core::explain::filters::{Condition, Field, Statement, Step};
use crate::core::ruleset::Family;
use crate::netfilter::expression::*;

const PORT: [u8; 2] = 2552_u16.to_be_bytes();

fn of(family: Option<Family>, list: &[Expressions], elements: &[&[u8]]) -> Vec<Step> {
    let elements: Elements = Some(elements.iter().map(|key| (key.to_vec(), false)).collect());
    steps(list, family, &HashMap::from([("set".to_owned(), elements)]))
}

fn dport() -> Expressions {
    payload(TRANSPORT_HEADER, DESTINATION_PORT, 2)
}

fn unknown(name: &str) -> Step {
    Step::If(Condition::Unknown(name.to_owned()))
}

fn is(field: Field, value: u32) -> Step {
    Step::If(Condition::Number(crate::core::explain::filters::Test {
        field,
        mask: field.full_mask(),
        ranges: vec![(value.into(), value.into())],
        negated: false,
    }))
}

/// `socket`, `numgen`, `jhash`, `rt`, `exthdr`: nothing that was in a register before is compared in their stead.
#[test]
fn what_an_unknown_expression_loads_is_unknown() {
    for name in ["socket", "numgen", "hash", "rt", "exthdr", "nobody knows it"] {
        let list = [dport(), equals(&PORT), other(name, &[(1, 8)]), equals(&[0, 0]), verdict(NF_DROP)];
        let steps = of(None, &list, &[]);
        assert_eq!(steps.first(), Some(&is(Field::DestinationPort, 2552)), "{name}");
        assert_eq!(steps.get(steps.len() - 2), Some(&unknown(name)), "{name}: {steps:?}");
        let again = [other(name, &[(1, 8)]), dport(), equals(&PORT)];
        assert_eq!(of(None, &again, &[]).last(), Some(&is(Field::DestinationPort, 2552)), "{name}");
    }
}

#[test]
fn a_set_of_concatenations_is_unknown_and_one_of_single_values_is_not() {
    let (daddr, at) = (payload(NETWORK_HEADER, IPV4_DESTINATION, 4), [10, 77, 0, 12]);
    let mut second = dport();
    if let Expressions::Payload(attributes) = &mut second {
        attributes[0] = Payload::DestinationRegister(Register::Reg32_01);
    }
    let both: &[u8] = &[10, 77, 0, 12, PORT[0], PORT[1], 0, 0];
    let list = [daddr.clone(), second, lookup("set", 1)];
    assert_eq!(of(Some(Family::V4), &list, &[both]), [unknown("set")]);
    let single = [daddr, lookup("set", 1)];
    let destination = is(Field::Destination(Family::V4), u32::from_be_bytes(at));
    assert_eq!(of(Some(Family::V4), &single, &[&at]), [destination]);
    // The port's register is not the second half of what was there before.
    let list = [dport(), equals(&[PORT[0], PORT[1], 0, 0])];
    assert_eq!(of(None, &list, &[]), [unknown("a concatenation")]);
}

#[test]
fn what_a_map_gives_is_unknown_and_so_is_whether_it_has_the_key() {
    let mut map = lookup("set", 1);
    if let Expressions::Lookup(attributes) = &mut map {
        attributes.push(Lookup::DestinationRegister(VALUE));
    }
    assert_eq!(
        of(None, &[dport(), map, set_meta(MetaKey::Mark)], &[&PORT]),
        [unknown("map"), Step::Do(Statement::Unknown("mark set map".to_owned())),]
    );
}

/// Where IPv6 has its source, IPv4 has time to live, protocol and checksum.
#[test]
fn a_header_is_read_as_the_family_that_the_rule_has_asked_for() {
    let hops = || [payload(NETWORK_HEADER, 8, 1), equals(&[64])];
    assert_eq!(of(Some(Family::V4), &hops(), &[]), [unknown("1 bytes of the packet")]);
    assert_eq!(of(None, &hops(), &[]), [unknown("1 bytes of the packet")]);
    let [load, compare] = hops();
    let asked = [meta(MetaKey::Nfproto), equals(&[10]), load, compare];
    assert!(matches!(of(None, &asked, &[]).last(), Some(Step::If(Condition::Number(_)))));
}

#[test]
fn what_may_do_something_is_a_statement_even_alone() {
    for name in ["queue", "synproxy", "dup"] {
        assert_eq!(of(None, &[other(name, &[])], &[]), [Step::Do(Statement::Unknown(name.to_owned()))]);
    }
    let write = Expressions::Payload(vec![
        Payload::SourceRegister(VALUE),
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(IPV4_DESTINATION),
        Payload::Len(4),
    ]);
    let steps = of(Some(Family::V4), &[load(&[10, 0, 0, 1]), write], &[]);
    assert_eq!(steps, [Step::Do(Statement::Unknown("payload".to_owned()))]);
}
