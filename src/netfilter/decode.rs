//! nf_tables expressions as a [`Rule`]: the inverse of [`super::encode`], and of what `nft -f` makes of our text.
//!
//! Invariant: an expression that is not understood is an error, never passed over.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Verdict,
    VerdictAttribute,
};

use crate::core::ports::{PortRange, PortSet};
use crate::core::ruleset::{Action, Family, Match, Rule, Side};
use crate::netfilter::encode::{NFPROTO_IPV4, NFPROTO_IPV6, TCP, UDP};
use crate::netfilter::expression::*;

/// What the value register holds.
enum Loaded {
    Nothing,
    Meta(MetaKey),
    DestinationPort,
    TcpFlags,
    Destination(Family, u32),
    AddressType,
    Masked(Box<Self>, Vec<u8>),
    Value(Vec<u8>),
}

/// The rule that these expressions are, without its comment, and how many packets its counter has seen.
///
/// # Errors
/// The name of the first expression that no rule of ours has.
pub(super) fn rule(list: &[Expressions], sets: &HashMap<String, PortSet>) -> Result<(Rule, u64), String> {
    let mut decoder =
        Decoder { loaded: Loaded::Nothing, first_port: None, sets, matches: Vec::new(), action: None, packets: 0 };
    for expression in list {
        decoder.step(expression).ok_or_else(|| name(expression))?;
    }
    let action = decoder.action.ok_or("a rule without a verdict")?;
    let mut matches = decoder.matches;
    if let Action::NullBinding(family) = action {
        matches.retain(|condition| *condition != Match::Family(family));
    }
    // nft and we write the family before an address; in a rule it is implied.
    for family in Family::BOTH {
        let implied = |condition: &Match| matches!(condition, Match::Destination { network, .. } if Family::of(*network) == family);
        if matches.iter().any(implied) {
            matches.retain(|condition| *condition != Match::Family(family));
        }
    }
    Ok((Rule { matches, action, comment: String::new() }, decoder.packets))
}

struct Decoder<'a> {
    loaded: Loaded,
    first_port: Option<u16>,
    sets: &'a HashMap<String, PortSet>,
    matches: Vec<Match>,
    action: Option<Action>,
    packets: u64,
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

    fn meta(&mut self, attributes: &[Meta]) -> Option<()> {
        let key = attributes.iter().find_map(|a| if let Meta::Key(key) = a { Some(*key) } else { None })?;
        if !attributes.iter().any(|a| matches!(a, Meta::SourceRegister(_))) {
            self.loaded = Loaded::Meta(key);
            return Some(());
        }
        match (key, &self.loaded) {
            (MetaKey::Mark, Loaded::Value(value)) => {
                self.action = Some(Action::SetMark(u32::from_ne_bytes(value.as_slice().try_into().ok()?)));
                Some(())
            }
            _ => None,
        }
    }

    fn payload(&mut self, attributes: &[Payload]) -> Option<()> {
        let (mut base, mut offset, mut length) = (0, 0, 0);
        for attribute in attributes {
            match attribute {
                Payload::Base(value) => base = *value,
                Payload::Offset(value) => offset = *value,
                Payload::Len(value) => length = *value,
                _ => {}
            }
        }
        self.loaded = match (base, offset, length) {
            (TRANSPORT_HEADER, DESTINATION_PORT, 2) => Loaded::DestinationPort,
            (TRANSPORT_HEADER, TCP_FLAGS, 1) => Loaded::TcpFlags,
            (NETWORK_HEADER, IPV4_DESTINATION, 1..=4) => Loaded::Destination(Family::V4, length),
            (NETWORK_HEADER, IPV6_DESTINATION, 1..=16) => Loaded::Destination(Family::V6, length),
            _ => return None,
        };
        Some(())
    }

    fn bitwise(&mut self, attributes: &[Bitwise]) -> Option<()> {
        let mask = attributes.iter().find_map(|a| match a {
            Bitwise::Mask(DataAttribute::Value(mask)) => Some(mask.clone()),
            _ => None,
        })?;
        let inner = std::mem::replace(&mut self.loaded, Loaded::Nothing);
        self.loaded = Loaded::Masked(Box::new(inner), mask);
        Some(())
    }

    fn compare(&mut self, attributes: &[Cmp]) -> Option<()> {
        let (mut operator, mut value) = (Operator::Equal, None);
        for attribute in attributes {
            match attribute {
                Cmp::Op(op) => operator = *op,
                Cmp::Data(DataAttribute::Value(data)) => value = Some(data.as_slice()),
                _ => {}
            }
        }
        let value = value?;
        let equal = match operator {
            Operator::Equal => true,
            Operator::NotEqual => false,
            Operator::GreatherThanEqual | Operator::LessThanEqual => return self.port_bound(operator, value),
            _ => return None,
        };
        self.matches.push(condition(&self.loaded, equal, value)?);
        Some(())
    }

    /// A range of ports is two comparisons, the lower bound first.
    fn port_bound(&mut self, operator: Operator, value: &[u8]) -> Option<()> {
        let Loaded::DestinationPort = self.loaded else { return None };
        let bound = u16::from_be_bytes(value.try_into().ok()?);
        match (operator, self.first_port.take()) {
            (Operator::GreatherThanEqual, None) => self.first_port = Some(bound),
            (Operator::LessThanEqual, Some(first)) => {
                self.matches.push(Match::DestinationPort(port_range(first, bound)?));
            }
            _ => return None,
        }
        Some(())
    }

    fn lookup(&mut self, attributes: &[Lookup]) -> Option<()> {
        let Loaded::DestinationPort = self.loaded else { return None };
        self.matches.push(Match::DestinationPort(self.sets.get(set_name(attributes)?)?.clone()));
        Some(())
    }

    fn immediate(&mut self, attributes: &[Immediate]) -> Option<()> {
        let data = attributes.iter().find_map(|a| if let Immediate::Data(data) = a { Some(data) } else { None })?;
        match data {
            DataAttribute::Value(value) => self.loaded = Loaded::Value(value.clone()),
            DataAttribute::Verdict(verdict) => {
                let code = verdict.iter().find_map(|a| match a {
                    VerdictAttribute::Code(Verdict::Other(code)) => Some(*code),
                    _ => None,
                })?;
                self.action = Some(match code {
                    NF_DROP => Action::Drop,
                    NF_ACCEPT => Action::Accept,
                    _ => return None,
                });
            }
            _ => return None,
        }
        Some(())
    }

    fn other(&mut self, name: &str, attributes: &[DefaultNla]) -> Option<()> {
        match name {
            "counter" => {
                let packets = attribute(attributes, NFTA_COUNTER_PACKETS)?;
                self.packets = u64::from_be_bytes(packets.try_into().ok()?);
            }
            "fib" => {
                let asked = (attribute_u32(attributes, NFTA_FIB_RESULT)?, attribute_u32(attributes, NFTA_FIB_FLAGS)?);
                if asked != (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR) {
                    return None;
                }
                self.loaded = Loaded::AddressType;
            }
            "nat" => {
                let whole = match &self.loaded {
                    Loaded::Destination(Family::V4, 4) => Family::V4,
                    Loaded::Destination(Family::V6, 16) => Family::V6,
                    _ => return None,
                };
                let kind = attribute_u32(attributes, NFTA_NAT_TYPE)?;
                self.action = (kind == NFT_NAT_DNAT).then_some(Action::NullBinding(whole));
                self.action.as_ref()?;
            }
            "redir" => {
                let Loaded::Value(port) = &self.loaded else { return None };
                self.action = Some(Action::Redirect(u16::from_be_bytes(port.as_slice().try_into().ok()?)));
            }
            "reject" => {
                self.action = Some(match attribute_u32(attributes, NFTA_REJECT_TYPE)? {
                    NFT_REJECT_TCP_RST => Action::RejectWithReset,
                    NFT_REJECT_ICMPX_UNREACH | NFT_REJECT_ICMP_UNREACH => Action::RejectPortUnreachable,
                    _ => return None,
                });
            }
            "ct" => match (attribute_u32(attributes, NFTA_CT_KEY)?, &self.action, &self.loaded) {
                (NFT_CT_MARK, Some(Action::SetMark(0)), Loaded::Value(zero)) if zero.iter().all(|byte| *byte == 0) => {
                    self.action = Some(Action::ClearMarks);
                }
                _ => return None,
            },
            "notrack" => self.action = Some(Action::NoTrack),
            _ => return None,
        }
        Some(())
    }
}

fn condition(loaded: &Loaded, equal: bool, value: &[u8]) -> Option<Match> {
    let u32_value = || Some(u32::from_ne_bytes(value.try_into().ok()?));
    Some(match (loaded, equal) {
        (Loaded::Meta(MetaKey::Nfproto), true) => Match::Family(match value {
            [NFPROTO_IPV4] => Family::V4,
            [NFPROTO_IPV6] => Family::V6,
            _ => return None,
        }),
        (Loaded::Meta(MetaKey::L4Proto), true) => match value {
            [TCP] => Match::Tcp,
            [UDP] => Match::Udp,
            _ => return None,
        },
        (Loaded::Meta(MetaKey::SocketUserId), true) => Match::SocketUid(u32_value()?),
        (Loaded::Meta(MetaKey::Mark), true) => Match::Mark { value: u32_value()?, mask: u32::MAX },
        (Loaded::Meta(MetaKey::Iifname), equal) => interface(Side::In, value, equal)?,
        (Loaded::Meta(MetaKey::Oifname), equal) => interface(Side::Out, value, equal)?,
        (Loaded::DestinationPort, true) => {
            let port = u16::from_be_bytes(value.try_into().ok()?);
            Match::DestinationPort(port_range(port, port)?)
        }
        (Loaded::AddressType, true) if u32_value()? == RTN_LOCAL => Match::DestinationIsLocal,
        (Loaded::Destination(family, length), true) => {
            Match::Destination { network: network(*family, value)?, prefix_len: u8::try_from(length * 8).ok()? }
        }
        (Loaded::Masked(inner, mask), true) => match **inner {
            Loaded::TcpFlags if mask == &[TCP_FIN_SYN_RST_ACK] && value == [TCP_SYN] => Match::Syn,
            Loaded::Meta(MetaKey::Mark) => {
                Match::Mark { value: u32_value()?, mask: u32::from_ne_bytes(mask.as_slice().try_into().ok()?) }
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn interface(side: Side, value: &[u8], equal: bool) -> Option<Match> {
    let name = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    match (side, name) {
        (Side::In, "lo") => Some(Match::FromLoopback(equal)),
        (Side::Out, "lo") => Some(Match::ToLoopback(equal)),
        (_, name) => equal.then(|| Match::Interface(side, name.to_owned())),
    }
}

fn network(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    let mut whole = [0; 16];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&whole[..4]).ok()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(whole)),
    })
}

fn port_range(first: u16, last: u16) -> Option<PortSet> {
    PortSet::new([PortRange::new(first, last)?])
}

/// The set that a lookup asks.
pub(super) fn set_name(attributes: &[Lookup]) -> Option<&str> {
    attributes.iter().find_map(|attribute| if let Lookup::Set(name) = attribute { Some(name.as_str()) } else { None })
}

pub(super) fn name(expression: &Expressions) -> String {
    match expression {
        Expressions::Other { expression_type, .. } => expression_type.clone(),
        Expressions::Bitwise(_) => "bitwise".to_owned(),
        Expressions::Cmp(_) => "cmp".to_owned(),
        Expressions::Immediate(_) => "immediate".to_owned(),
        Expressions::Lookup(_) => "lookup".to_owned(),
        Expressions::Meta(_) => "meta".to_owned(),
        Expressions::Payload(_) => "payload".to_owned(),
        _ => "an expression without a name".to_owned(),
    }
}
