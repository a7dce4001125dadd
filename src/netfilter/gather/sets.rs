//! What is in the sets that rules look up.

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{DataAttribute, SetElementAttribute, SetElementFlags};

use crate::netfilter::NetfilterError;
use crate::netfilter::socket::{NetfilterSocket, SetElement};
use crate::netfilter::table::set_elements;

/// A set's elements as they come: key, and whether it is the first one past an interval; `None` where that does not
/// say all.
pub(in crate::netfilter) type Elements = Option<Vec<(Vec<u8>, bool)>>;

/// Reads a set.
pub(super) fn elements(
    socket: &NetfilterSocket,
    protocol: NetfilterProtoFamily,
    table: &str,
    set: &str,
) -> Result<Elements, NetfilterError> {
    Ok(listed(&set_elements(socket, protocol, table, set)?))
}

/// What of these elements is understood.
pub(in crate::netfilter) fn listed(elements: &[SetElement]) -> Elements {
    let mut found = Some(Vec::new());
    for listed in elements {
        match (element(listed), &mut found) {
            (Some(element), Some(found)) => found.push(element),
            _ => found = None,
        }
    }
    found
}

fn element(attributes: &SetElement) -> Option<(Vec<u8>, bool)> {
    let (mut key, mut is_end) = (None, false);
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(value)) => key = Some(value.clone()),
            SetElementAttribute::Flags(flags) if flags.contains(SetElementFlags::IntervalEnd) => is_end = true,
            // Everything (`*`), and intervals of concatenations.
            SetElementAttribute::Flags(flags) if !flags.is_empty() => return None,
            SetElementAttribute::KeyEnd(_) => return None,
            _ => {}
        }
    }
    Some((key?, is_end))
}

/// A register's value.
pub(super) fn number(bytes: &[u8], big_endian: bool) -> Option<u128> {
    let fold = |value: u128, byte: &u8| value << 8 | u128::from(*byte);
    match bytes.len() {
        1..=16 if big_endian || cfg!(target_endian = "big") => Some(bytes.iter().fold(0, fold)),
        1..=16 => Some(bytes.iter().rev().fold(0, fold)),
        _ => None,
    }
}

/// The values of a set, as ranges.
pub(super) fn ranges(elements: &[(Vec<u8>, bool)], big_endian: bool) -> Option<Vec<(u128, u128)>> {
    let values = elements.iter().map(|(key, is_end)| Some((number(key, big_endian)?, *is_end)));
    let mut boundaries = values.collect::<Option<Vec<_>>>()?;
    // nft adds an end at 0 before the first interval.
    let intervals = boundaries.iter().any(|(_, is_end)| *is_end);
    boundaries.retain(|boundary| *boundary != (0, true));
    boundaries.sort_unstable();
    let mut ranges = Vec::new();
    let mut rest = boundaries.into_iter().peekable();
    while let Some((first, is_end)) = rest.next() {
        let last = match rest.next_if(|(_, is_end)| *is_end) {
            _ if is_end => return None,
            Some((end, _)) => end - 1,
            None if intervals => u128::MAX,
            None => first,
        };
        ranges.push((first, last));
    }
    Some(ranges)
}
