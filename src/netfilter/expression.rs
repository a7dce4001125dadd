//! nf_tables expressions that the netlink crate has no type for, and registers and offsets of those that it has.
//!
//! Numbers are from linux/netfilter/nf_tables.h; attribute values are big-endian there unless noted.

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, Nla as _};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

/// Bases of payload loads (`enum nft_payload_bases`).
pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;

/// Offsets and lengths in bytes: RFC 791, RFC 8200, RFC 9293 (UDP's ports stand where TCP's do).
pub(super) const IPV4_DESTINATION: u32 = 16;
pub(super) const IPV6_DESTINATION: u32 = 24;
pub(super) const DESTINATION_PORT: u32 = 2;
pub(super) const TCP_FLAGS: u32 = 13;
pub(super) const TCP_FIN_SYN_RST_ACK: u8 = 0x17;
pub(super) const TCP_SYN: u8 = 0x02;

pub(super) const NFTA_NAT_TYPE: u16 = 1;
pub(super) const NFTA_NAT_FAMILY: u16 = 2;
pub(super) const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
pub(super) const NFT_NAT_DNAT: u32 = 1;

pub(super) const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;

pub(super) const NFTA_FIB_DREG: u16 = 1;
pub(super) const NFTA_FIB_RESULT: u16 = 2;
pub(super) const NFTA_FIB_FLAGS: u16 = 3;
pub(super) const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
pub(super) const NFTA_FIB_F_DADDR: u32 = 2;
/// `RTN_LOCAL` (linux/rtnetlink.h), in the host's byte order.
pub(super) const RTN_LOCAL: u32 = 2;

pub(super) const NFTA_REJECT_TYPE: u16 = 1;
pub(super) const NFTA_REJECT_ICMP_CODE: u16 = 2;
pub(super) const NFT_REJECT_ICMP_UNREACH: u32 = 0;
pub(super) const NFT_REJECT_TCP_RST: u32 = 1;
pub(super) const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
pub(super) const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = 1;
/// `ICMP_PORT_UNREACH` (RFC 792), `ICMPV6_PORT_UNREACH` (RFC 4443).
pub(super) const ICMP_PORT_UNREACH: u8 = 3;
pub(super) const ICMPV6_PORT_UNREACH: u8 = 4;

pub(super) const NFTA_CT_KEY: u16 = 2;
pub(super) const NFTA_CT_SREG: u16 = 4;
pub(super) const NFT_CT_MARK: u32 = 3;

pub(super) const NFTA_COUNTER_PACKETS: u16 = 2;

/// `NF_DROP` and `NF_ACCEPT` (linux/netfilter.h).
pub(super) const NF_DROP: u32 = 0;
pub(super) const NF_ACCEPT: u32 = 1;

/// The register that single values pass through.
pub(super) const VALUE: Register = Register::Reg1;

pub(super) fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(VALUE)])
}

pub(super) fn set_meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::SourceRegister(VALUE)])
}

pub(super) fn payload(base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(VALUE),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

pub(super) fn compare(operator: Operator, value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(VALUE),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

pub(super) fn equals(value: &[u8]) -> Expressions {
    compare(Operator::Equal, value)
}

pub(super) fn and(mask: &[u8]) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(VALUE),
        Bitwise::DestinationRegister(VALUE),
        Bitwise::Length(u32::try_from(mask.len()).expect("a register holds 16 bytes")),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
}

pub(super) fn lookup(set: &str, id: u32) -> Expressions {
    Expressions::Lookup(vec![Lookup::SourceRegister(VALUE), Lookup::Set(set.to_owned()), Lookup::SetId(id)])
}

pub(super) fn load(value: &[u8]) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(VALUE),
        Immediate::Data(DataAttribute::Value(value.to_vec())),
    ])
}

pub(super) fn verdict(code: u32) -> Expressions {
    let code = VerdictAttribute::Code(Verdict::Other(code));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![code])),
    ])
}

/// Any expression that is made of 32-bit attributes.
pub(super) fn other(name: &str, attributes: &[(u16, u32)]) -> Expressions {
    let attributes = attributes.iter().map(|(kind, value)| DefaultNla::new(*kind, value.to_be_bytes().to_vec()));
    Expressions::Other { expression_type: name.to_owned(), attributes: attributes.collect() }
}

pub(super) fn reject(kind: u32, code: u8) -> Expressions {
    let attributes = vec![
        DefaultNla::new(NFTA_REJECT_TYPE, kind.to_be_bytes().to_vec()),
        DefaultNla::new(NFTA_REJECT_ICMP_CODE, vec![code]),
    ];
    Expressions::Other { expression_type: "reject".to_owned(), attributes }
}

/// The value of an attribute, without regard to the flag bits of its kind.
pub(super) fn attribute(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    let attribute = attributes.iter().find(|attribute| attribute.kind() & !NLA_F_NESTED == kind)?;
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    Some(value)
}

/// A 32-bit attribute.
pub(super) fn attribute_u32(attributes: &[DefaultNla], kind: u16) -> Option<u32> {
    attribute(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
}
