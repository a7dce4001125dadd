//! nf_tables expressions of anybody as steps. Unlike [`crate::netfilter::decode`], which reads our own table back and
//! refuses what we never write, this takes everything, and names what it does not understand.

use std::collections::HashMap;
use std::ops::Range;

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
/// `IFNAMSIZ` (linux/if.h).
const INTERFACE_NAME: usize = 16;
/// Expressions that load or compare and do nothing else; any other that is not understood may do something.
const CONDITIONS: [&str; 17] = [
    "limit",
    "quota",
    "connlimit",
    "socket",
    "numgen",
    "hash",
    "rt",
    "exthdr",
    "osf",
    "xfrm",
    "tunnel",
    "inner",
    "dynset",
    "range",
    "byteorder",
    "fib",
    "match",
];

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
    /// Of the table.
    pub(super) family: Option<Family>,
    /// Of the packets that get this far in the rule.
    asked: Option<Family>,
    sets: &'a HashMap<String, Elements>,
    /// By its first word: how many bytes it holds, and which.
    registers: HashMap<u32, (usize, Loaded)>,
    /// What may have written into any of the others.
    forgotten: String,
    pub(super) steps: Vec<Step>,
}

/// The steps that these expressions are.
pub(super) fn steps(list: &[Expressions], family: Option<Family>, sets: &HashMap<String, Elements>) -> Vec<Step> {
    let (registers, steps) = (HashMap::new(), Vec::new());
    let mut decoder =
        Decoder { family, asked: family, sets, registers, forgotten: "an empty register".to_owned(), steps };
    for expression in list {
        if decoder.step(expression).is_none() {
            decoder.unknown(expression);
        }
    }
    decoder.steps
}

/// 16-byte registers are four of the 4-byte ones (`nft_parse_register`).
fn slot(register: u32) -> u32 {
    if (1..=4).contains(&register) { 4 + 4 * register } else { register }
}

/// The 4-byte registers that so many bytes from this one on take up.
fn words(slot: u32, bytes: usize) -> Range<u32> {
    slot..slot.saturating_add(u32::try_from(bytes.div_ceil(4).max(1)).unwrap_or(u32::MAX))
}

impl Decoder<'_> {
    fn step(&mut self, expression: &Expressions) -> Option<()> {
        match expression {
            Expressions::Payload(attributes)
                if attributes.iter().any(|of| matches!(of, Payload::SourceRegister(_))) =>
            {
                None
            }
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

    /// An expression that is not understood: it may load any register, end the rule, or do something.
    fn unknown(&mut self, expression: &Expressions) {
        let name = name(expression);
        let acts = match expression {
            Expressions::Other { expression_type, .. } => !CONDITIONS.contains(&expression_type.as_str()),
            Expressions::Payload(attributes) => attributes.iter().any(|of| matches!(of, Payload::SourceRegister(_))),
            Expressions::Immediate(_) => true,
            _ => false,
        };
        self.forget(&name);
        if acts {
            self.steps.push(Step::Do(Statement::Unknown(name)));
        } else {
            self.asks(Condition::Unknown(name));
        }
    }

    pub(super) fn put(&mut self, register: u32, bytes: usize, loaded: Loaded) {
        let taken = words(slot(register), bytes);
        self.registers.retain(|at, (bytes, _)| {
            let other = words(*at, *bytes);
            other.end <= taken.start || taken.end <= other.start
        });
        self.registers.insert(taken.start, (bytes, loaded));
    }

    /// Something of that name has been loaded, into nobody knows which registers.
    pub(super) fn forget(&mut self, name: &str) {
        self.registers.clear();
        name.clone_into(&mut self.forgotten);
    }

    pub(super) fn at(&self, register: u32) -> Loaded {
        self.registers
            .get(&slot(register))
            .map_or_else(|| Loaded::Unknown(self.forgotten.clone()), |(_, loaded)| loaded.clone())
    }

    /// What so many bytes from this register on are. More than it holds are a concatenation, fewer a part.
    pub(super) fn exactly(&self, register: u32, bytes: usize) -> Loaded {
        match (self.at(register), self.registers.get(&slot(register))) {
            (loaded @ Loaded::Unknown(_), _) => loaded,
            (loaded, Some((held, _))) if *held == bytes => loaded,
            _ => Loaded::Unknown("a concatenation".to_owned()),
        }
    }

    pub(super) fn asks(&mut self, condition: Condition) {
        let step = Step::If(condition);
        // Loading what is unknown and comparing it is one doubt.
        if !matches!(step, Step::If(Condition::Unknown(_))) || self.steps.last() != Some(&step) {
            self.steps.push(step);
        }
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
                    let (bytes, loaded) = match key {
                        MetaKey::Nfproto => (1, host(Field::Family)),
                        MetaKey::L4Proto => (1, host(Field::Protocol)),
                        MetaKey::Mark => (4, host(Field::Mark)),
                        MetaKey::SocketUserId => (4, host(Field::Uid)),
                        MetaKey::SocketGroupId => (4, host(Field::Gid)),
                        MetaKey::Iifname => (INTERFACE_NAME, Loaded::Interface(Side::In)),
                        MetaKey::Oifname => (INTERFACE_NAME, Loaded::Interface(Side::Out)),
                        MetaKey::Iif => (4, Loaded::InterfaceIndex(Side::In)),
                        MetaKey::Oif => (4, Loaded::InterfaceIndex(Side::Out)),
                        other => {
                            self.forget(&format!("meta {other:?}").to_lowercase());
                            continue;
                        }
                    };
                    self.put((*register).into(), bytes, loaded);
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
            Loaded::Field {
                field: field @ (Field::Mark | Field::ConnectionMark),
                big_endian: false,
                mask,
                xor,
                ..
            } => {
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
        // An address is its header's, and which header it is the rule has asked before: where one has its addresses,
        // the other has something else.
        let loaded = match (base, offset, length) {
            (TRANSPORT_HEADER, 0, 2) => big(Field::SourcePort, 16),
            (TRANSPORT_HEADER, DESTINATION_PORT, 2) => big(Field::DestinationPort, 16),
            (TRANSPORT_HEADER, TCP_FLAGS, 1) => big(Field::TcpFlags, 8),
            (NETWORK_HEADER, IPV4_SOURCE, 1..=4) if self.asked == Some(Family::V4) => {
                big(Field::Source(Family::V4), 32)
            }
            (NETWORK_HEADER, IPV4_DESTINATION, 1..=4) if self.asked == Some(Family::V4) => {
                big(Field::Destination(Family::V4), 32)
            }
            (NETWORK_HEADER, IPV6_SOURCE, 1..=16) if self.asked == Some(Family::V6) => {
                big(Field::Source(Family::V6), 128)
            }
            (NETWORK_HEADER, IPV6_DESTINATION, 1..=16) if self.asked == Some(Family::V6) => {
                big(Field::Destination(Family::V6), 128)
            }
            _ => Loaded::Unknown(format!("{length} bytes of the packet")),
        };
        self.put(register?, usize::try_from(length).ok()?, loaded);
        Some(())
    }

    fn bitwise(&mut self, attributes: &[Bitwise]) -> Option<()> {
        let (mut from, mut to, mut and, mut or, mut bytes, mut plain) = (None, None, None, None, None, true);
        for attribute in attributes {
            match attribute {
                Bitwise::SourceRegister(register) => from = Some(u32::from(*register)),
                Bitwise::DestinationRegister(register) => to = Some(u32::from(*register)),
                Bitwise::Mask(DataAttribute::Value(bytes)) => and = Some(bytes.clone()),
                Bitwise::Xor(DataAttribute::Value(bytes)) => or = Some(bytes.clone()),
                Bitwise::Length(length) => bytes = usize::try_from(*length).ok(),
                Bitwise::Op(operation) => plain = *operation == 0,
                _ => {}
            }
        }
        let bytes = bytes?;
        let loaded = match (self.exactly(from?, bytes), and, or) {
            (Loaded::Field { field, big_endian, shift, mask, xor }, Some(and), Some(or))
                if plain && and.len() == bytes && or.len() == bytes =>
            {
                let (and, or) = (number(&and, big_endian)? << shift, number(&or, big_endian)? << shift);
                Loaded::Field { field, big_endian, shift, mask: mask & and, xor: (xor & and) ^ or }
            }
            (Loaded::Unknown(name), ..) => Loaded::Unknown(name),
            _ => Loaded::Unknown("bitwise".to_owned()),
        };
        self.put(to?, bytes, loaded);
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
        let (value, register) = (value?, register?);
        let loaded = match self.at(register) {
            // As many bytes of a name are compared as are given.
            loaded @ Loaded::Interface(_) if value.len() <= INTERFACE_NAME => loaded,
            _ => self.exactly(register, value.len()),
        };
        let negated = operator == Operator::NotEqual;
        let condition = match loaded {
            Loaded::Interface(side) if matches!(operator, Operator::Equal | Operator::NotEqual) => {
                let text = std::str::from_utf8(value).ok()?;
                // The final NUL makes it the whole name.
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
                if let (Field::Family, Operator::Equal, Some(family)) = (field, operator, family_of(value)) {
                    self.asked = Some(family);
                }
                Condition::Number(Test { field, mask, ranges, negated })
            }
            Loaded::Unknown(name) => Condition::Unknown(name),
            Loaded::Constant(_) => return None,
        };
        self.asks(condition);
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
            Some(_) => {
                // A key that it lacks ends the rule.
                self.forget("map");
                self.asks(Condition::Unknown("map".to_owned()));
                return Some(());
            }
            None => {}
        }
        let elements = self.sets.get(set_name(attributes)?)?.as_ref();
        let ranges = match (self.at(from?), elements) {
            (Loaded::Field { field, big_endian, shift: 0, mask, xor: 0 }, Some(elements)) => {
                // A longer key is a concatenation.
                let bytes = self.registers.get(&slot(from?)).map(|(bytes, _)| *bytes);
                let fits = elements.iter().all(|(key, _)| Some(key.len()) == bytes);
                let ranges = if fits { ranges(elements, big_endian) } else { None };
                ranges.map(|ranges| Test { field, mask, ranges, negated })
            }
            _ => None,
        };
        let unknown = || Condition::Unknown("set".to_owned());
        self.asks(ranges.map_or_else(unknown, Condition::Number));
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
                self.put(register?, value.len(), Loaded::Constant(value.clone()));
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

/// `NFPROTO_*`.
const fn family_of(value: u128) -> Option<Family> {
    match value {
        2 => Some(Family::V4),
        10 => Some(Family::V6),
        _ => None,
    }
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
