//! Listening TCP sockets of this network namespace, from /proc/net/tcp and tcp6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` (linux/tcp_states.h).
const LISTEN: &str = "0A";

/// Every listening socket's address.
///
/// # Errors
/// If /proc/net/tcp cannot be read; a pod without IPv6 has no tcp6, and that is none.
pub fn listening() -> io::Result<Vec<SocketAddr>> {
    let [v4, v6] = tables()?;
    Ok(parse(&v4).chain(parse(&v6)).collect())
}

/// The tables of both families.
pub(super) fn tables() -> io::Result<[String; 2]> {
    let v4 = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let v6 = match std::fs::read_to_string("/proc/thread-self/net/tcp6") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    Ok([v4, v6])
}

/// The listening sockets of one table (Documentation/networking/proc_net_tcp.rst).
pub(super) fn parse(table: &str) -> impl Iterator<Item = SocketAddr> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (columns.next()?, columns.next()?, columns.next()?);
        (state == LISTEN).then(|| address(local)).flatten()
    })
}

/// An address in hexadecimal: 32-bit words in the host's byte order, a colon, the port.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let octets: Vec<u8> = (0..words.len() / 8)
        .map(|i| u32::from_str_radix(words.get(8 * i..8 * i + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()?
        .concat();
    let ip = match octets.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets_are_read_and_others_passed_over() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
             0: 0B004D0A:09F8 00000000:0000 0A 00000000:00000000\n   \
             1: 0B004D0A:09F8 0C004D0A:C000 01 00000000:00000000\n";
        assert_eq!(parse(table).collect::<Vec<_>>(), ["10.77.0.11:2552".parse().unwrap()]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn mapped_addresses_are_read_as_ipv4() {
        let mapped = address("0000000000000000FFFF00000B004D0A:216E").unwrap();
        assert_eq!(mapped, "10.77.0.11:8558".parse().unwrap());
        assert_eq!(address("00000000000000000000000001000000:0050").unwrap(), "[::1]:80".parse().unwrap());
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening().unwrap().contains(&listener.local_addr().unwrap()));
    }
}
