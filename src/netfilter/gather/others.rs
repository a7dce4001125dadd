//! nf_tables expressions that the netlink crate has no type for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DefaultNla;

use crate::core::explain::filters::{Condition, Field, MarkOf, Nat, Statement, Test, Tproxy};
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
const NFTA_FIB_F_SADDR: u32 = 1;
const NFTA_RANGE_SREG: u16 = 1;
const NFTA_RANGE_OP: u16 = 2;
const NFTA_RANGE_FROM: u16 = 3;
const NFTA_RANGE_TO: u16 = 4;
const NFTA_BYTEORDER_SREG: u16 = 1;
const NFTA_BYTEORDER_DREG: u16 = 2;
const NFTA_BYTEORDER_LEN: u16 = 4;
const NFTA_BYTEORDER_SIZE: u16 = 5;
const NFTA_NAT_REG_ADDR_MAX: u16 = 4;
const NFTA_OBJREF_IMM_TYPE: u16 = 1;
const COUNTER_OBJECT: u32 = 1;
const QUOTA_OBJECT: u32 = 2;
const CT_HELPER_OBJECT: u32 = 3;
const LIMIT_OBJECT: u32 = 4;
const CONNLIMIT_OBJECT: u32 = 5;
const CT_TIMEOUT_OBJECT: u32 = 7;
const SECMARK_OBJECT: u32 = 8;
const CT_EXPECT_OBJECT: u32 = 9;

/// Of a range of addresses or ports two registers hold the ends, and which one is taken cannot be known.
fn one(first: Option<u32>, last: Option<u32>) -> bool {
    last.is_none() || last == first
}

/// The value in a nested attribute, which is padded behind it.
fn bound(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    let nested = attribute(attributes, kind)?;
    let length = u16::from_ne_bytes(nested.get(..2)?.try_into().ok()?);
    nested.get(4..usize::from(length)).map(<[u8]>::to_vec)
}

impl Decoder<'_> {
    pub(super) fn other(&mut self, name: &str, attributes: &[DefaultNla]) -> Option<()> {
        let register = |kind| attribute_u32(attributes, kind);
        match name {
            "counter" | "log" | "last" => Some(()),
            "objref" => match register(NFTA_OBJREF_IMM_TYPE) {
                Some(COUNTER_OBJECT | CT_HELPER_OBJECT | CT_TIMEOUT_OBJECT | SECMARK_OBJECT | CT_EXPECT_OBJECT) => {
                    Some(())
                }
                Some(QUOTA_OBJECT | LIMIT_OBJECT | CONNLIMIT_OBJECT) => {
                    self.asks(Condition::Unknown("a limit or quota".to_owned()));
                    Some(())
                }
                _ => None,
            },
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
                    port.map(|first| self.port(first).filter(|_| one(Some(first), register(NFTA_REDIR_REG_PROTO_MAX))));
                let statement = match port {
                    Some(None) => Statement::Unknown("redirect".to_owned()),
                    port => Statement::Nat(Nat::Redirect(port.flatten())),
                };
                self.does(statement)
            }
            "nat" if register(NFTA_NAT_TYPE)? != NFT_NAT_DNAT => self.does(Statement::Nat(Nat::Source)),
            "nat" => {
                let one_address = one(register(NFTA_NAT_REG_ADDR_MIN), register(NFTA_NAT_REG_ADDR_MAX));
                let address = register(NFTA_NAT_REG_ADDR_MIN);
                let address = address.map(|register| self.address(register).filter(|_| one_address));
                let port = register(NFTA_NAT_REG_PROTO_MIN);
                let port =
                    port.map(|first| self.port(first).filter(|_| one(Some(first), register(NFTA_NAT_REG_PROTO_MAX))));
                let statement = match (address, port) {
                    (Some(None), _) | (_, Some(None)) => Statement::Unknown("dnat".to_owned()),
                    (address, port) => {
                        Statement::Nat(Nat::Destination { address: address.flatten().flatten(), port: port.flatten() })
                    }
                };
                self.does(statement)
            }
            "tproxy" => {
                let address = register(NFTA_TPROXY_REG_ADDR).map(|register| self.address(register).flatten());
                let port = register(NFTA_TPROXY_REG_PORT).map(|register| self.port(register));
                self.does(match (address, port) {
                    (Some(None), _) | (_, Some(None)) => Statement::Unknown("tproxy".to_owned()),
                    (address, port) => Statement::Tproxy(Tproxy {
                        address: address.flatten(),
                        port: port.flatten(),
                        mark: (0, 0),
                        ends: false,
                    }),
                })
            }
            "ct" => match (register(NFTA_CT_KEY)?, register(NFTA_CT_DREG), register(NFTA_CT_SREG)) {
                (NFT_CT_MARK, None, Some(from)) => self.set_mark(MarkOf::Connection, from),
                // In any zone a first packet is new; labels and the like lead nowhere else.
                (_, None, Some(_)) => Some(()),
                (key, Some(to), _) => {
                    match key {
                        NFT_CT_MARK => self.put(to, 4, host(Field::ConnectionMark)),
                        NFT_CT_STATE => self.put(to, 4, host(Field::ConnectionState)),
                        key => {
                            let side = if register(NFTA_CT_DIRECTION).is_some() { "direction's " } else { "" };
                            self.forget(&format!("ct {side}key {key}"));
                        }
                    }
                    Some(())
                }
                _ => None,
            },
            "fib" => {
                let field = match (register(NFTA_FIB_RESULT)?, register(NFTA_FIB_FLAGS)?) {
                    (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR) => Field::DestinationType,
                    (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_SADDR) => Field::SourceType,
                    _ => return None,
                };
                self.put(register(NFTA_FIB_DREG)?, 4, host(field));
                Some(())
            }
            "range" => {
                let (from, to) = (bound(attributes, NFTA_RANGE_FROM)?, bound(attributes, NFTA_RANGE_TO)?);
                let held = self.exactly(register(NFTA_RANGE_SREG)?, from.len());
                let Loaded::Field { field, big_endian, shift: 0, mask, xor: 0 } = held else { return None };
                let ranges = vec![(number(&from, big_endian)?, number(&to, big_endian)?)];
                let negated = register(NFTA_RANGE_OP)? == 1;
                self.asks(Condition::Number(Test { field, mask, ranges, negated }));
                Some(())
            }
            "byteorder" => {
                let bytes = usize::try_from(register(NFTA_BYTEORDER_LEN)?).ok()?;
                let mut loaded = self.exactly(register(NFTA_BYTEORDER_SREG)?, bytes);
                match &mut loaded {
                    Loaded::Field { big_endian, .. } if register(NFTA_BYTEORDER_SIZE) == u32::try_from(bytes).ok() => {
                        *big_endian = !*big_endian;
                    }
                    Loaded::Unknown(_) => {}
                    _ => return None,
                }
                self.put(register(NFTA_BYTEORDER_DREG)?, bytes, loaded);
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
