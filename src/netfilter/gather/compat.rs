//! iptables' own matches and targets inside nf_tables, as iptables-nft leaves them (linux/netfilter/nf_tables_compat.h);
//! their data are the structures of linux/netfilter/xt_*.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DefaultNla;

use crate::core::explain::filters::{Condition, Field, MarkOf, Nat, SetMark, Statement, Step, Tproxy, UNTRACKED};
use crate::core::ruleset::Family;
use crate::netfilter::expression::{attribute, attribute_u32};

/// Attributes of both.
const NAME: u16 = 1;
const REVISION: u16 = 2;
const INFO: u16 = 3;
/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED` (linux/netfilter/nf_nat.h).
const MAP_IPS: u32 = 1;
const PROTO_SPECIFIED: u32 = 2;
/// Targets that leave a packet's way alone.
const HARMLESS: [&str; 10] =
    ["LOG", "NFLOG", "ULOG", "TCPMSS", "CHECKSUM", "CLASSIFY", "TRACE", "AUDIT", "DSCP", "TOS"];

/// A match's or a target's data.
struct Info(Vec<u8>);

impl Info {
    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?))
    }

    fn port(&self, at: usize) -> Option<u16> {
        self.u16(at).map(u16::from_be)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?))
    }

    fn address(&self, at: usize, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(self.0.get(at..at + 4)?).ok()?)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(self.0.get(at..at + 16)?).ok()?)),
        })
    }
}

/// The steps that it is.
pub(super) fn steps(is_target: bool, attributes: &[DefaultNla], family: Family) -> Vec<Step> {
    let name = attribute(attributes, NAME).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
    let revision = attribute_u32(attributes, REVISION).unwrap_or_default();
    let info = Info(attribute(attributes, INFO).unwrap_or_default());
    if is_target {
        // Without XT_CT_NOTRACK, CT sets a zone, a helper or a timeout, in all of which a first packet is new.
        if HARMLESS.contains(&name.as_str()) || name == "CT" && info.u16(0).is_some_and(|flags| flags & 1 == 0) {
            return Vec::new();
        }
        let statement = target(&name, revision, &info, family);
        return vec![Step::Do(statement.unwrap_or_else(|| Statement::Unknown(format!("xt target {name}"))))];
    }
    let conditions = conditions(&name, revision, &info);
    let conditions = conditions.unwrap_or_else(|| vec![Condition::Unknown(format!("xt match {name}"))]);
    conditions.into_iter().map(Step::If).collect()
}

fn conditions(name: &str, revision: u32, info: &Info) -> Option<Vec<Condition>> {
    Some(match (name, revision) {
        ("comment", _) => Vec::new(),
        ("tcp", 0) => tcp(info)?,
        ("udp", 0) => {
            let invert = info.u8(8)?;
            ports(info, invert, u16_ne)?
        }
        ("multiport", 1) => vec![multiport(info)?],
        ("mark" | "connmark", 1) => {
            let field = if name == "mark" { Field::Mark } else { Field::ConnectionMark };
            vec![Condition::masked(field, info.u32(0)?, info.u32(4)?, info.u8(8)? != 0)]
        }
        ("owner", 1) => owner(info)?,
        ("conntrack", 2 | 3) => conntrack(info)?,
        ("state", 0) => vec![state(info.u32(0)?)?],
        ("addrtype", 1) => address_type(info)?,
        _ => return None,
    })
}

fn u16_ne(info: &Info, at: usize) -> Option<u128> {
    info.u16(at).map(u128::from)
}

/// `spts`, `dpts` of xt_tcp and xt_udp, and their bits of inversion.
fn ports(info: &Info, invert: u8, read: fn(&Info, usize) -> Option<u128>) -> Option<Vec<Condition>> {
    let mut conditions = Vec::new();
    for (field, at, bit) in [(Field::SourcePort, 0, 1), (Field::DestinationPort, 4, 2)] {
        let range = (read(info, at)?, read(info, at + 2)?);
        let negated = invert & bit != 0;
        if range != (0, u16::MAX.into()) || negated {
            conditions.push(Condition::in_ranges(field, vec![range], negated));
        }
    }
    Some(conditions)
}

/// `struct xt_tcp`: ports, option, flg_mask, flg_cmp, invflags.
fn tcp(info: &Info) -> Option<Vec<Condition>> {
    let (option, mask, flags, invert) = (info.u8(8)?, info.u8(9)?, info.u8(10)?, info.u8(11)?);
    let mut conditions = ports(info, invert, u16_ne)?;
    if option != 0 {
        conditions.push(Condition::Unknown("tcp option".to_owned()));
    }
    if mask != 0 || invert & 4 != 0 {
        conditions.push(Condition::masked(Field::TcpFlags, flags, mask, invert & 4 != 0));
    }
    Some(conditions)
}

/// `struct xt_multiport_v1`: flags, count, ports[15], pflags[15], invert.
fn multiport(info: &Info) -> Option<Condition> {
    let field = match info.u8(0)? {
        0 => Field::SourcePort,
        1 => Field::DestinationPort,
        _ => return None,
    };
    let mut ranges = Vec::new();
    let count = usize::from(info.u8(1)?);
    let mut at = 0;
    while at < count {
        let first = u16_ne(info, 2 + 2 * at)?;
        let is_range = info.u8(32 + at)? != 0;
        at += usize::from(is_range);
        ranges.push((first, u16_ne(info, 2 + 2 * at)?));
        at += 1;
    }
    Some(Condition::in_ranges(field, ranges, info.u8(47)? != 0))
}

/// `struct xt_owner_match_info`: uid_min, uid_max, gid_min, gid_max, match, invert.
fn owner(info: &Info) -> Option<Vec<Condition>> {
    let (asked, invert) = (info.u8(16)?, info.u8(17)?);
    let mut conditions = Vec::new();
    for (field, at, bit) in [(Field::Uid, 0, 1), (Field::Gid, 8, 2)] {
        if asked & bit != 0 {
            let range = (info.u32(at)?.into(), info.u32(at + 4)?.into());
            conditions.push(Condition::in_ranges(field, vec![range], invert & bit != 0));
        }
    }
    if asked & !3 != 0 {
        conditions.push(Condition::Unknown("owner of another kind".to_owned()));
    }
    Some(conditions)
}

/// `struct xt_conntrack_mtinfo3`, of which the state alone is understood.
fn conntrack(info: &Info) -> Option<Vec<Condition>> {
    let (asked, invert, states) = (info.u16(146)?, info.u16(148)?, info.u16(150)?);
    if asked != 1 {
        return None;
    }
    // XT_CONNTRACK_STATE_UNTRACKED; nf_tables numbers it otherwise.
    let untracked = states & 0x100 != 0;
    let states = u32::from(states & 0xff) | if untracked { UNTRACKED } else { 0 };
    let Condition::Number(mut test) = state(states)? else { return None };
    test.negated ^= invert & 1 != 0;
    Some(vec![Condition::Number(test)])
}

fn state(bits: u32) -> Option<Condition> {
    Some(Condition::any_bit(Field::ConnectionState, bits, false))
}

/// `struct xt_addrtype_info_v1`: source, dest (bits of `RTN_*`), flags.
fn address_type(info: &Info) -> Option<Vec<Condition>> {
    let (flags, mut conditions) = (info.u32(4)?, Vec::new());
    for (field, at, bit) in [(Field::SourceType, 0, 1), (Field::DestinationType, 2, 2)] {
        let types = info.u16(at)?;
        if types != 0 {
            let ranges = (0..16_u128).filter(|kind| types & 1 << kind != 0).map(|kind| (kind, kind)).collect();
            conditions.push(Condition::in_ranges(field, ranges, flags & bit != 0));
        }
    }
    if flags & !3 != 0 {
        conditions.push(Condition::Unknown("addrtype of an interface".to_owned()));
    }
    Some(conditions)
}

fn target(name: &str, revision: u32, info: &Info, family: Family) -> Option<Statement> {
    Some(match (name, revision) {
        ("ACCEPT", _) => Statement::Accept,
        ("DROP", _) => Statement::Drop,
        ("REJECT", _) => Statement::Reject,
        ("SNAT" | "MASQUERADE", _) => Statement::Nat(Nat::Source),
        ("NOTRACK", _) => Statement::NoTrack,
        // XT_CT_NOTRACK
        ("CT", _) if info.u16(0)? == 1 => Statement::NoTrack,
        ("REDIRECT", _) => Statement::Nat(Nat::Redirect(range(info, revision, family)?.1)),
        ("DNAT", _) => {
            let (address, port) = range(info, revision, family)?;
            Statement::Nat(Nat::Destination { address, port })
        }
        ("MARK", 2) => Statement::Mark(SetMark::constant(MarkOf::Packet, info.u32(0)?, info.u32(4)?)),
        ("CONNMARK", 1 | 2) => {
            // A shift is of revision 2 alone.
            let (mode, shifted) = if revision == 2 { (info.u8(14)?, info.u8(13)? != 0) } else { (info.u8(12)?, false) };
            let (mark, of_connection, of_packet) = (info.u32(0)?, info.u32(4)?, info.u32(8)?);
            let copy = |target, own, from, other| SetMark::copy(target, own, from, other);
            Statement::Mark(match mode {
                _ if shifted => return None,
                0 => SetMark::constant(MarkOf::Connection, mark, of_connection),
                1 => copy(MarkOf::Connection, of_connection, MarkOf::Packet, of_packet),
                2 => copy(MarkOf::Packet, of_packet, MarkOf::Connection, of_connection),
                _ => return None,
            })
        }
        ("TPROXY", 0 | 1) => {
            let port_at = if revision == 0 { 12 } else { 24 };
            let address_family = if revision == 0 { Family::V4 } else { family };
            Statement::Tproxy(Tproxy {
                address: info.address(8, address_family),
                port: Some(info.port(port_at)?).filter(|port| *port != 0),
                mark: (info.u32(4)?, info.u32(0)?),
                ends: true,
            })
        }
        _ => return None,
    })
}

/// Address and port of `struct nf_nat_ipv4_multi_range_compat` (rangesize, flags, min_ip, max_ip, min, max) for IPv4's
/// revision 0, and of `struct nf_nat_range` (flags, min_addr, max_addr, min_proto, max_proto) else. A port that lies in the range
/// already stays (net/netfilter/nf_nat_core.c, `get_unique_tuple`), so all ports are none; which of fewer it would be is unknown.
fn range(info: &Info, revision: u32, family: Family) -> Option<(Option<IpAddr>, Option<u16>)> {
    let (flags_at, address_at, port_at) = if revision == 0 && family == Family::V4 { (4, 8, 16) } else { (0, 4, 36) };
    let flags = info.u32(flags_at)?;
    let address = if flags & MAP_IPS != 0 { Some(info.address(address_at, family)?) } else { None };
    let port = match (info.port(port_at)?, info.port(port_at + 2)?) {
        _ if flags & PROTO_SPECIFIED == 0 => None,
        // A port that lies in the range already is kept (net/netfilter/nf_nat_core.c, get_unique_tuple).
        (0 | 1, u16::MAX) => None,
        (first, last) if first == last => Some(first),
        _ => return None,
    };
    Some((address, port))
}
