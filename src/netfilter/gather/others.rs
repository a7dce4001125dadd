//! nf_tables expressions that the netlink crate has no type for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DefaultNla;

use crate::core::explain::filters::{Condition, Field, MarkOf, Nat, Statement, Step, Test, Tproxy};
use crate::netfilter::expression::*;
use crate::netfilter::gather::compat;
use crate::netfilter::gather::native::{Decoder, Loaded, host};
use crate::netfilter::gather::sets::number;

/// Where values of other expressions stand (linux/netfilter/nf_tables.h).
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
const NFTA_REDIR_REG_PROTO_MAX: u16 = 2;
const NFTA_TPROXY_REG_ADDR: u16 = 2;
const NFTA_TPROXY_REG_PORT: u16 = 3;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_DIRECTION: u16 = 3;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_ZONE: u32 = 17;
const NFTA_FIB_F_SADDR: u32 = 1;
const NFTA_RANGE_SREG: u16 = 1;
const NFTA_RANGE_OP: u16 = 2;
const NFTA_RANGE_FROM: u16 = 3;
const NFTA_RANGE_TO: u16 = 4;
const NFTA_BYTEORDER_SREG: u16 = 1;
const NFTA_BYTEORDER_DREG: u16 = 2;

/// Of a range of ports two registers hold the ends, and which one is taken cannot be known.
fn one_port(first: u32, last: Option<u32>) -> bool {
    last.is_none_or(|last| last == first)
}

impl Decoder<'_> {
    pub(super) fn other(&mut self, name: &str, attributes: &[DefaultNla]) -> Option<()> {
        let register = |kind| attribute_u32(attributes, kind);
        match name {
            "counter" | "log" => Some(()),
            "match" | "target" => {
                self.steps.extend(compat::steps(name == "target", attributes, self.family?));
                Some(())
            }
            "notrack" => self.does(Statement::NoTrack),
            "reject" => self.does(Statement::Reject),
            "masq" => self.does(Statement::Nat(Nat::Source)),
            "redir" => {
                let port = register(NFTA_REDIR_REG_PROTO_MIN);
                let port =
                    port.map(|first| self.port(first).filter(|_| one_port(first, register(NFTA_REDIR_REG_PROTO_MAX))));
                let statement = match port {
                    Some(None) => Statement::Unknown("redirect".to_owned()),
                    port => Statement::Nat(Nat::Redirect(port.flatten())),
                };
                self.does(statement)
            }
            "nat" if register(NFTA_NAT_TYPE)? != NFT_NAT_DNAT => self.does(Statement::Nat(Nat::Source)),
            "nat" => {
                let address = register(NFTA_NAT_REG_ADDR_MIN).map(|register| self.address(register));
                let port = register(NFTA_NAT_REG_PROTO_MIN);
                let port =
                    port.map(|first| self.port(first).filter(|_| one_port(first, register(NFTA_NAT_REG_PROTO_MAX))));
                let statement = match (address, port) {
                    (Some(None), _) | (_, Some(None)) => Statement::Unknown("dnat".to_owned()),
                    (address, port) => {
                        Statement::Nat(Nat::Destination { address: address.flatten().flatten(), port: port.flatten() })
                    }
                };
                self.does(statement)
            }
            "tproxy" => {
                let address = register(NFTA_TPROXY_REG_ADDR).and_then(|register| self.address(register)).flatten();
                let port = register(NFTA_TPROXY_REG_PORT).and_then(|register| self.port(register));
                self.does(Statement::Tproxy(Tproxy { address, port, mark: (0, 0), ends: false }))
            }
            "ct" => match (register(NFTA_CT_KEY)?, register(NFTA_CT_DREG), register(NFTA_CT_SREG)) {
                (NFT_CT_MARK, None, Some(from)) => self.set_mark(MarkOf::Connection, from),
                // In any zone a first packet is new.
                (NFT_CT_ZONE, None, Some(_)) => Some(()),
                (key, Some(to), _) => {
                    let loaded = match key {
                        NFT_CT_MARK => host(Field::ConnectionMark),
                        NFT_CT_STATE => host(Field::ConnectionState),
                        key => {
                            let side = if register(NFTA_CT_DIRECTION).is_some() { "direction's " } else { "" };
                            Loaded::Unknown(format!("ct {side}key {key}"))
                        }
                    };
                    self.put(to, loaded);
                    Some(())
                }
                _ => None,
            },
            "fib" => {
                let loaded = match (register(NFTA_FIB_RESULT)?, register(NFTA_FIB_FLAGS)?) {
                    (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR) => host(Field::DestinationType),
                    (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR) => host(Field::SourceType),
                    _ => Loaded::Unknown("fib".to_owned()),
                };
                self.put(register(NFTA_FIB_DREG)?, loaded);
                Some(())
            }
            "range" => {
                let Loaded::Field { field, big_endian, shift: 0, mask, xor: 0 } = self.at(register(NFTA_RANGE_SREG)?)
                else {
                    return None;
                };
                // A nested attribute of 4 bytes' header.
                let bound = |kind| number(attribute(attributes, kind)?.get(4..)?, big_endian);
                let ranges = vec![(bound(NFTA_RANGE_FROM)?, bound(NFTA_RANGE_TO)?)];
                let negated = register(NFTA_RANGE_OP)? == 1;
                self.steps.push(Step::If(Condition::Number(Test { field, mask, ranges, negated })));
                Some(())
            }
            "byteorder" => {
                let mut loaded = self.at(register(NFTA_BYTEORDER_SREG)?);
                if let Loaded::Field { big_endian, .. } = &mut loaded {
                    *big_endian = !*big_endian;
                }
                self.put(register(NFTA_BYTEORDER_DREG)?, loaded);
                Some(())
            }
            _ => None,
        }
    }

    /// A port in a register, if it is a constant.
    pub(super) fn port(&self, register: u32) -> Option<u16> {
        let Loaded::Constant(value) = self.at(register) else { return None };
        Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?))
    }

    /// An address in a register: a constant, or (`Some(None)`) the packet's own.
    pub(super) fn address(&self, register: u32) -> Option<Option<IpAddr>> {
        match self.at(register) {
            Loaded::Constant(value) => match value.len() {
                4 => Some(Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)))),
                16 => Some(Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)))),
                _ => None,
            },
            Loaded::Field { field: field @ Field::Destination(_), mask, .. } if mask == field.full_mask() => Some(None),
            _ => None,
        }
    }
}
