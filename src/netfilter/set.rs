//! Anonymous sets of ports: one rule for a list of any length.

use std::collections::HashMap;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    DataAttribute, Expressions, ListAttribute, NfTablesMessage, SetAttribute, SetElementAttribute, SetElementFlags,
    SetElementList, SetElementMessage, SetFlags, SetMessage,
};

use crate::core::ports::{PortRange, PortSet};
use crate::netfilter::NetfilterError;
use crate::netfilter::decode::set_name;
use crate::netfilter::encode::ANONYMOUS_SET;
use crate::netfilter::socket::{NetfilterSocket, SetElement, Step};
use crate::netfilter::table::{set_elements, step};

/// `inet_service` among nft's data types (nftables include/datatype.h, `TYPE_INET_SERVICE`); it only tells nft how to
/// print.
const INET_SERVICE: u32 = 13;
/// A netlink attribute's length has 16 bits, and an element takes up to 28 bytes.
const ELEMENTS_A_MESSAGE: usize = 1024;

/// The steps that make an anonymous set of the ports, under this id of the transaction.
pub(super) fn new_set(family: NetfilterProtoFamily, table: &str, id: u32, ports: &PortSet) -> Vec<Step> {
    let attributes = vec![
        SetAttribute::Table(table.to_owned()),
        SetAttribute::Name(ANONYMOUS_SET.to_owned()),
        SetAttribute::Flags(SetFlags::Anonymous | SetFlags::Constant | SetFlags::Interval),
        SetAttribute::KeyType(INET_SERVICE),
        SetAttribute::KeyLen(2),
        SetAttribute::Id(id),
    ];
    let mut steps = vec![step(family, NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE)];
    let elements: Vec<_> = ports.ranges().iter().flat_map(|range| interval(*range)).collect();
    steps.extend(elements.chunks(ELEMENTS_A_MESSAGE).map(|elements| {
        let attributes = vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(ANONYMOUS_SET.to_owned()),
            SetElementList::SetId(id),
            SetElementList::Elements(elements.to_vec()),
        ];
        step(family, NfTablesMessage::NewSetElement(SetElementMessage { attributes }), NLM_F_CREATE)
    }));
    steps
}

/// An interval is its first value and, flagged, the first one that is past it; one that reaches the end has no second.
fn interval(range: PortRange) -> Vec<ListAttribute<SetElementAttribute>> {
    let key = |port: u16| SetElementAttribute::Key(DataAttribute::Value(port.to_be_bytes().to_vec()));
    let mut elements = vec![ListAttribute::Element(vec![key(range.first())])];
    if let Some(end) = range.last().checked_add(1) {
        let flags = SetElementAttribute::Flags(SetElementFlags::IntervalEnd);
        elements.push(ListAttribute::Element(vec![key(end), flags]));
    }
    elements
}

/// The sets of ports that these rules look up, by name. What is no set of ports is left out, and the rule that asks it
/// then cannot be decoded.
pub(super) fn read(
    socket: &NetfilterSocket,
    family: NetfilterProtoFamily,
    table: &str,
    rules: &[Vec<Expressions>],
) -> Result<HashMap<String, PortSet>, NetfilterError> {
    let mut sets = HashMap::new();
    for expression in rules.iter().flatten() {
        let Expressions::Lookup(attributes) = expression else { continue };
        let Some(name) = set_name(attributes).filter(|name| !sets.contains_key(*name)) else { continue };
        let boundaries = set_elements(socket, family, table, name)?.iter().filter_map(boundary).collect();
        sets.extend(ports(boundaries).map(|ports| (name.to_owned(), ports)));
    }
    Ok(sets)
}

/// A port, and whether it is the first one past an interval.
pub(super) fn boundary(attributes: &SetElement) -> Option<(u16, bool)> {
    let mut port = None;
    let mut is_end = false;
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(value)) => {
                port = Some(u16::from_be_bytes(value.as_slice().try_into().ok()?));
            }
            SetElementAttribute::Flags(flags) => is_end = flags.contains(SetElementFlags::IntervalEnd),
            _ => {}
        }
    }
    Some((port?, is_end))
}

pub(super) fn ports(mut boundaries: Vec<(u16, bool)>) -> Option<PortSet> {
    // nft adds an end at 0 before the first interval.
    boundaries.retain(|boundary| *boundary != (0, true));
    boundaries.sort_unstable();
    // nft makes a list without ranges a set without intervals, in which every port stands alone.
    let intervals = boundaries.iter().any(|(_, is_end)| *is_end);
    let mut ranges = Vec::new();
    let mut rest = boundaries.into_iter().peekable();
    while let Some((first, is_end)) = rest.next() {
        if is_end {
            return None;
        }
        let last = match rest.next_if(|(_, is_end)| *is_end) {
            Some((end, _)) => end - 1,
            None if intervals => u16::MAX,
            None => first,
        };
        ranges.push(PortRange::new(first, last)?);
    }
    PortSet::new(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_and_lists_are_told_apart() {
        let set = |boundaries: &[(u16, bool)]| ports(boundaries.to_vec()).map(|ports| ports.to_string());
        assert_eq!(set(&[(0, true), (10, false), (21, true), (30, false), (31, true)]).unwrap(), "10-20,30");
        assert_eq!(set(&[(10, false), (11, true), (60000, false)]).unwrap(), "10,60000-65535");
        assert_eq!(set(&[(2552, false), (25520, false)]).unwrap(), "2552,25520");
        assert_eq!(set(&[(10, true), (20, false)]), None);
    }
}
