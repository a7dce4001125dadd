//! nf_tables expressions of anybody as steps. Unlike [`crate::netfilter::decode`], which reads our own table back and
//! refuses what we never write, this takes everything, and names what it does not understand.

use std::collections::HashMap;

use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use crate::core::explain::filters::{Condition, Field, MarkOf, SetMark, Statement, Step, Test};
use crate::core::ruleset::{Family, Side};
use crate::netfilter::decode::{name, set_name};
use crate::netfilter::expression::*;
use crate::netfilter::gather::routes;
use crate::netfilter::gather::sets::{Elements, number, ranges};

/// RFC 791 and RFC 8200.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;

/// What a register holds.
#[derive(Clone)]
pub(super) enum Loaded {
    Field { field: Field, big_endian: bool, shift: u32, mask: u128, xor: u128 },
    Interface(Side),
    InterfaceIndex(Side),
    Constant(Vec<u8>),
    Unknown(String),
}

pub(super) struct Decoder<'a> {
    pub(super) family: Option<Family>,
    sets: &'a HashMap<String, Elements>,
    registers: HashMap<u32, Loaded>,
    pub(super) steps: Vec<Step>,
}

/// The steps that these expressions are.
pub(super) fn steps(list: &[Expressions], family: Option<Family>, sets: &HashMap<String, Elements>) -> Vec<Step> {
    let mut decoder = Decoder { family, sets, registers: HashMap::new(), steps: Vec::new() };
    for expression in list {
        if decoder.step(expression).is_none() {
            decoder.steps.push(Step::If(Condition::Unknown(name(expression))));
        }
    }
    decoder.steps
}

/// 16-byte registers are four of the 4-byte ones (`nft_parse_register`).
fn slot(register: u32) -> u32 {
    if (1..=4).contains(&register) { 4 + 4 * register } else { register }
}

impl Decoder<'_> {
    fn step(&mut self, expression: &Expressions) -> Option<()> {
        match expression {
            Expressions::Meta(attributes) => self.meta(attributes),
            Expressions::Payload(attributes) => self.payload(attributes),
            Expressions::Bitwise(attributes) => self.bitwise(attributes),
            Expressions::Cmp(attributes) => self.compare(attributes),
            Expressions::Immediate(attributes) => self.immediate(attributes),
            Expressions::Lookup(attributes) => self.lookup(attributes),
            Expressions::Other { expression_type, attributes } => self.other(expression_type, attributes),
            _ => None,
        }
    }

    pub(super) fn put(&mut self, register: u32, loaded: Loaded) {
        self.registers.insert(slot(register), loaded);
    }

    pub(super) fn at(&self, register: u32) -> Loaded {
        self.registers.get(&slot(register)).cloned().unwrap_or_else(|| Loaded::Unknown("an empty register".to_owned()))
    }

    pub(super) fn does(&mut self, statement: Statement) -> Option<()> {
        self.steps.push(Step::Do(statement));
        Some(())
    }

    fn meta(&mut self, attributes: &[Meta]) -> Option<()> {
        let key = attributes.iter().find_map(|a| if let Meta::Key(key) = a { Some(*key) } else { None })?;
        for attribute in attributes {
            match attribute {
                Meta::SourceRegister(register) if key == MetaKey::Mark => {
                    return self.set_mark(MarkOf::Packet, (*register).into());
                }
                // Priority, tracing and the like lead nowhere else.
                Meta::SourceRegister(_) => return Some(()),
                Meta::DestinationRegister(register) => {
                    let loaded = match key {
                        MetaKey::Nfproto => host(Field::Family),
                        MetaKey::L4Proto => host(Field::Protocol),
                        MetaKey::Mark => host(Field::Mark),
                        MetaKey::SocketUserId => host(Field::Uid),
                        MetaKey::SocketGroupId => host(Field::Gid),
                        MetaKey::Iifname => Loaded::Interface(Side::In),
                        MetaKey::Oifname => Loaded::Interface(Side::Out),
                        MetaKey::Iif => Loaded::InterfaceIndex(Side::In),
                        MetaKey::Oif => Loaded::InterfaceIndex(Side::Out),
                        other => Loaded::Unknown(format!("meta {other:?}").to_lowercase()),
                    };
                    self.put((*register).into(), loaded);
                }
                _ => {}
            }
        }
        Some(())
    }

    pub(super) fn set_mark(&mut self, target: MarkOf, register: u32) -> Option<()> {
        let statement = match self.at(register) {
            Loaded::Constant(value) => {
                let value = u32::try_from(number(&value, false)?).ok()?;
                Statement::Mark(SetMark { target, keep: 0, from: None, xor: value })
            }
            Loaded::Field { field: field @ (Field::Mark | Field::ConnectionMark), mask, xor, .. } => {
                let of = if field == Field::Mark { MarkOf::Packet } else { MarkOf::Connection };
                let (mask, xor) = (low(mask), low(xor));
                let (keep, from) = if of == target { (mask, None) } else { (0, Some((of, mask))) };
                Statement::Mark(SetMark { target, keep, from, xor })
            }
            Loaded::Unknown(name) => Statement::Unknown(format!("mark set {name}")),
            _ => Statement::Unknown("mark set".to_owned()),
        };
        self.does(statement)
    }

    fn payload(&mut self, attributes: &[Payload]) -> Option<()> {
        let (mut base, mut offset, mut length, mut register) = (0, 0, 0, None);
        for attribute in attributes {
            match attribute {
                Payload::Base(value) => base = *value,
                Payload::Offset(value) => offset = *value,
                Payload::Len(value) => length = *value,
                Payload::DestinationRegister(value) => register = Some(u32::from(*value)),
                _ => {}
            }
        }
        let big = |field, bits: u32| Loaded::Field {
            field,
            big_endian: true,
            shift: bits - 8 * length,
            mask: (u128::MAX << (bits - 8 * length)) & field.full_mask(),
            xor: 0,
        };
        // An address is its header's, and which header it is the rule has asked before.
        let loaded = match (base, offset, length) {
            (TRANSPORT_HEADER, 0, 2) => big(Field::SourcePort, 16),
            (TRANSPORT_HEADER, DESTINATION_PORT, 2) => big(Field::DestinationPort, 16),
            (TRANSPORT_HEADER, TCP_FLAGS, 1) => big(Field::TcpFlags, 8),
            (NETWORK_HEADER, IPV4_SOURCE, 1..=4) if self.family != Some(Family::V6) => {
                big(Field::Source(Family::V4), 32)
            }
            (NETWORK_HEADER, IPV4_DESTINATION, 1..=4) if self.family != Some(Family::V6) => {
                big(Field::Destination(Family::V4), 32)
            }
            (NETWORK_HEADER, IPV6_SOURCE, 1..=16) => big(Field::Source(Family::V6), 128),
            (NETWORK_HEADER, IPV6_DESTINATION, 1..=16) => big(Field::Destination(Family::V6), 128),
            _ => Loaded::Unknown(format!("{length} bytes of the packet")),
        };
        self.put(register?, loaded);
        Some(())
    }

    fn bitwise(&mut self, attributes: &[Bitwise]) -> Option<()> {
        let (mut from, mut to, mut and, mut or, mut plain) = (None, None, None, None, true);
        for attribute in attributes {
            match attribute {
                Bitwise::SourceRegister(register) => from = Some(u32::from(*register)),
                Bitwise::DestinationRegister(register) => to = Some(u32::from(*register)),
                Bitwise::Mask(DataAttribute::Value(bytes)) => and = Some(bytes.clone()),
                Bitwise::Xor(DataAttribute::Value(bytes)) => or = Some(bytes.clone()),
                Bitwise::Op(operation) => plain = *operation == 0,
                _ => {}
            }
        }
        let loaded = match (self.at(from?), and, or) {
            (Loaded::Field { field, big_endian, shift, mask, xor }, Some(and), Some(or)) if plain => {
                let (and, or) = (number(&and, big_endian)? << shift, number(&or, big_endian)? << shift);
                Loaded::Field { field, big_endian, shift, mask: mask & and, xor: (xor & and) ^ or }
            }
            (Loaded::Unknown(name), ..) => Loaded::Unknown(name),
            _ => Loaded::Unknown("bitwise".to_owned()),
        };
        self.put(to?, loaded);
        Some(())
    }

    fn compare(&mut self, attributes: &[Cmp]) -> Option<()> {
        let (mut operator, mut value, mut register) = (Operator::Equal, None, None);
        for attribute in attributes {
            match attribute {
                Cmp::Op(op) => operator = *op,
                Cmp::Data(DataAttribute::Value(data)) => value = Some(data.as_slice()),
                Cmp::SourceRegister(of) => register = Some(u32::from(*of)),
                _ => {}
            }
        }
        let (value, loaded) = (value?, self.at(register?));
        let negated = operator == Operator::NotEqual;
        let condition = match loaded {
            Loaded::Interface(side) if matches!(operator, Operator::Equal | Operator::NotEqual) => {
                let text = std::str::from_utf8(value).ok()?;
                // Compared are as many bytes as are given; the final NUL makes it the whole name.
                let name = text.trim_end_matches('\0').to_owned();
                Condition::Interface { side, prefix: name.len() == text.len(), name, negated }
            }
            Loaded::InterfaceIndex(side) if matches!(operator, Operator::Equal | Operator::NotEqual) => {
                let name = routes::name(low(number(value, false)?))?;
                Condition::Interface { side, prefix: false, name, negated }
            }
            Loaded::Interface(_) | Loaded::InterfaceIndex(_) => return None,
            Loaded::Field { field, big_endian, shift, mask, xor } => {
                let value = number(value, big_endian)? << shift;
                let ranges = match operator {
                    Operator::Equal | Operator::NotEqual => vec![(value ^ xor, value ^ xor)],
                    _ if xor != 0 => return None,
                    Operator::LessThan => value.checked_sub(1).map(|last| (0, last)).into_iter().collect(),
                    Operator::LessThanEqual => vec![(0, value)],
                    Operator::GreaterThan => value.checked_add(1).map(|first| (first, u128::MAX)).into_iter().collect(),
                    Operator::GreatherThanEqual => vec![(value, u128::MAX)],
                    _ => return None,
                };
                Condition::Number(Test { field, mask, ranges, negated })
            }
            Loaded::Unknown(name) => Condition::Unknown(name),
            Loaded::Constant(_) => return None,
        };
        self.steps.push(Step::If(condition));
        Some(())
    }

    fn lookup(&mut self, attributes: &[Lookup]) -> Option<()> {
        let (mut from, mut to, mut negated) = (None, None, false);
        for attribute in attributes {
            match attribute {
                Lookup::SourceRegister(register) => from = Some(u32::from(*register)),
                Lookup::DestinationRegister(register) => to = Some(*register),
                Lookup::Flags(flags) => negated = flags & 1 != 0,
                _ => {}
            }
        }
        match to {
            Some(Register::Verdict) => return self.does(Statement::Unknown("verdict map".to_owned())),
            Some(register) => {
                self.put(register.into(), Loaded::Unknown("map".to_owned()));
                return Some(());
            }
            None => {}
        }
        let elements = self.sets.get(set_name(attributes)?)?.as_ref();
        let ranges = match (self.at(from?), elements) {
            (Loaded::Field { field, big_endian, shift: 0, mask, xor: 0 }, Some(elements)) => {
                ranges(elements, big_endian).map(|ranges| Test { field, mask, ranges, negated })
            }
            _ => None,
        };
        let unknown = || Condition::Unknown("set".to_owned());
        self.steps.push(Step::If(ranges.map_or_else(unknown, Condition::Number)));
        Some(())
    }

    fn immediate(&mut self, attributes: &[Immediate]) -> Option<()> {
        let mut register = None;
        let mut data = None;
        for attribute in attributes {
            match attribute {
                Immediate::DestinationRegister(of) => register = Some(u32::from(*of)),
                Immediate::Data(of) => data = Some(of),
                _ => {}
            }
        }
        match data? {
            DataAttribute::Value(value) => {
                self.put(register?, Loaded::Constant(value.clone()));
                Some(())
            }
            DataAttribute::Verdict(verdict) => {
                let statement = verdict_of(verdict)?;
                self.does(statement)
            }
            _ => None,
        }
    }
}

pub(super) const fn host(field: Field) -> Loaded {
    Loaded::Field { field, big_endian: false, shift: 0, mask: field.full_mask(), xor: 0 }
}

fn verdict_of(verdict: &[VerdictAttribute]) -> Option<Statement> {
    let (mut code, mut chain) = (None, None);
    for attribute in verdict {
        match attribute {
            VerdictAttribute::Code(of) => code = Some(*of),
            VerdictAttribute::Chain(name) => chain = Some(name.clone()),
            _ => {}
        }
    }
    Some(match code? {
        Verdict::Jump => Statement::Jump(chain?),
        Verdict::Goto => Statement::Goto(chain?),
        Verdict::Return => Statement::Return,
        Verdict::Other(NF_ACCEPT) => Statement::Accept,
        Verdict::Other(NF_DROP) => Statement::Drop,
        Verdict::Other(_) => Statement::Unknown("queue".to_owned()),
        _ => return None,
    })
}

fn low(value: u128) -> u32 {
    u32::try_from(value & u128::from(u32::MAX)).unwrap_or_default()
}
