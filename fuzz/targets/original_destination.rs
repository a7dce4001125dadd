//! Where a connection was going, as the kernel or the preloaded library says it: never back to ourselves, never to a port that is no remoting.
//!
//! Three addresses (original, listener, fixed target) of 20 bytes each, then ranges of ports of 4 bytes each.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bypassctl::core::handover::Prefix;
use bypassctl::core::ports::{PortRange, PortSet};
use bypassctl::core::route::{OriginalDst, target};
use libfuzzer_sys::fuzz_target;

/// Kind, port, octets; kinds beyond the known ones are no address.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let octets: [u8; 16] = bytes[4..20].try_into().ok()?;
    let ip = match bytes[0] {
        0 => Ipv4Addr::from([octets[0], octets[1], octets[2], octets[3]]).into(),
        1 => Ipv6Addr::from(octets).into(),
        2 => Ipv4Addr::new(10, 77, 0, 11).into(),
        3 => Ipv4Addr::LOCALHOST.into(),
        4 => Ipv6Addr::LOCALHOST.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((prefix, rest)) = bytes.split_first_chunk()
        && let Ok(prefix) = Prefix::parse(prefix)
        && let Ok([from, told]) = prefix.addresses(rest)
    {
        assert!(rest.len() >= 12 && told.ip().to_canonical() == told.ip(), "{told}");
        assert_eq!(prefix.destination(rest, from), Ok(told));
    }
    let Some((addresses, ranges)) = bytes.split_at_checked(60) else { return };
    let ranges = ranges.chunks_exact(4).filter_map(|range| {
        PortRange::new(u16::from_be_bytes([range[0], range[1]]), u16::from_be_bytes([range[2], range[3]]))
    });
    let (Some(remoting), Some(listener)) = (PortSet::new(ranges), address(&addresses[20..])) else { return };
    let original = address(addresses).map_or(OriginalDst::NotRedirected, OriginalDst::Known);
    let fixed = address(&addresses[40..]);
    let Ok(to) = target(original, listener, fixed, &remoting) else { return };
    assert_ne!(to, listener, "a loop");
    match fixed {
        Some(fixed) => assert_eq!(to, fixed),
        None => assert!(OriginalDst::Known(to) == original && remoting.contains(to.port())),
    }
});
