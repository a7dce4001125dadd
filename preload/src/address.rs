//! Socket addresses as the kernel has them (ip(7), ipv6(7)), and the PROXY protocol's header.

/// `AF_INET`.
const INET: u16 = 2;
/// `AF_INET6`.
const INET6: u16 = 10;
/// `struct sockaddr_in` in bytes.
const LENGTH_V4: usize = 16;
/// `struct sockaddr_in6` in bytes.
pub(crate) const LONGEST: usize = 28;
/// The same before it had a scope (RFC 2133), which the kernel still takes (`SIN6_LEN_RFC2133`).
const LENGTH_V6: usize = 24;
/// The longest that the kernel looks at (`struct sockaddr_storage`).
pub(crate) const STORAGE: usize = 128;
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// A TCP address of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// IPv4 as a mapped address.
    pub(crate) ip: [u8; 16],
    pub(crate) port: u16,
    /// Of a link-local IPv6 address.
    pub(crate) scope: u32,
}

/// The family of a socket; one of IPv6 may carry IPv4 with mapped addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Address {
    /// What a `struct sockaddr` says; `None` if it is of another family, or cut short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Family, Self)> {
        let family = u16::from_ne_bytes(*bytes.first_chunk()?);
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match family {
            INET if bytes.len() >= LENGTH_V4 => Some((Family::V4, Self::v4(*bytes.get(4..)?.first_chunk()?, port))),
            INET6 if bytes.len() >= LENGTH_V6 => {
                let ip = *bytes.get(8..)?.first_chunk()?;
                let scope = bytes.get(LENGTH_V6..).and_then(|rest| rest.first_chunk());
                let scope = scope.map_or(0, |scope| u32::from_ne_bytes(*scope));
                Some((Family::V6, Self { ip, port, scope }))
            }
            _ => None,
        }
    }

    /// An IPv4 address.
    const fn v4([a, b, c, d]: [u8; 4], port: u16) -> Self {
        Self { ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], port, scope: 0 }
    }

    /// The IPv4 address that it is, or maps.
    pub(crate) fn as_v4(&self) -> Option<[u8; 4]> {
        let [.., a, b, c, d] = self.ip;
        self.ip.starts_with(&MAPPED).then_some([a, b, c, d])
    }

    /// Loopback of its kind.
    pub(crate) fn loopback(&self, port: u16) -> Self {
        match self.as_v4() {
            Some(_) => Self::v4([127, 0, 0, 1], port),
            None => Self { ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], port, scope: 0 },
        }
    }

    /// Whether it leads back into this network namespace: loopback, or no address at all, which means the same.
    pub(crate) fn is_here(&self) -> bool {
        match self.as_v4() {
            Some([first, ..]) => first == 127 || self.ip.ends_with(&[0; 4]),
            None => self.ip.starts_with(&[0; 15]) && self.ip[15] <= 1,
        }
    }

    /// As a `struct sockaddr` for a socket of this family, and how many of the bytes it takes.
    pub(crate) fn to_bytes(self, family: Family) -> ([u8; LONGEST], usize) {
        let mut bytes = [0; LONGEST];
        let [high, low] = self.port.to_be_bytes();
        let mut put = |at: usize, part: &[u8]| bytes.iter_mut().skip(at).zip(part).for_each(|(to, from)| *to = *from);
        put(2, &[high, low]);
        match family {
            Family::V4 => {
                put(0, &INET.to_ne_bytes());
                put(4, &self.as_v4().unwrap_or_default());
                (bytes, LENGTH_V4)
            }
            Family::V6 => {
                put(0, &INET6.to_ne_bytes());
                put(8, &self.ip);
                put(24, &self.scope.to_ne_bytes());
                (bytes, LONGEST)
            }
        }
    }
}

/// The longest header: what comes first, two IPv6 addresses, two ports.
const HEADER: usize = 16 + 36;

/// A header of the PROXY protocol, version 2, for a connection from `source` to `target`, and how many of the bytes it takes
/// (haproxy, doc/proxy-protocol.txt, section 2.2).
pub(crate) fn header(source: Address, target: Address) -> ([u8; HEADER], usize) {
    const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
    /// Version 2, command PROXY.
    const PROXY: u8 = 0x21;
    const TCP_OVER_IPV4: u8 = 0x11;
    const TCP_OVER_IPV6: u8 = 0x21;
    let mut bytes = [0; HEADER];
    let mut end = 0;
    let mut put = |part: &[u8]| {
        bytes.iter_mut().skip(end).zip(part).for_each(|(to, from)| *to = *from);
        end += part.len();
    };
    put(&SIGNATURE);
    match (source.as_v4(), target.as_v4()) {
        (Some(source), Some(target)) => {
            put(&[PROXY, TCP_OVER_IPV4, 0, 12]);
            put(&source);
            put(&target);
        }
        _ => {
            put(&[PROXY, TCP_OVER_IPV6, 0, 36]);
            put(&source.ip);
            put(&target.ip);
        }
    }
    put(&source.port.to_be_bytes());
    put(&target.port.to_be_bytes());
    (bytes, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, SocketAddr};

    fn address(text: &str) -> Address {
        let address: SocketAddr = text.parse().unwrap();
        match address {
            SocketAddr::V4(v4) => Address::v4(v4.ip().octets(), v4.port()),
            SocketAddr::V6(v6) => Address { ip: v6.ip().octets(), port: v6.port(), scope: v6.scope_id() },
        }
    }

    #[test]
    fn addresses_come_out_as_they_went_in() {
        for (text, family, length) in [
            ("10.0.0.7:2552", Family::V4, 16),
            ("[::ffff:10.0.0.7]:2552", Family::V6, 28),
            ("[fd00::7]:25520", Family::V6, 28),
            ("[fe80::7%3]:25520", Family::V6, 28),
        ] {
            let (bytes, size) = address(text).to_bytes(family);
            assert_eq!((size, Address::parse(&bytes[..size])), (length, Some((family, address(text)))), "{text}");
            let shortest = if family == Family::V6 { 24 } else { 16 };
            assert_eq!(Address::parse(&bytes[..shortest - 1]), None, "{text}");
            let without_scope = Address { scope: 0, ..address(text) };
            assert_eq!(Address::parse(&bytes[..shortest]), Some((family, without_scope)), "{text}");
        }
        assert_eq!(Address::parse(&[]), None);
        assert_eq!(
            Address::parse(&[1, 0, b'/', b't', b'm', b'p', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "a Unix socket"
        );
    }

    #[test]
    fn loopback_and_no_address_lead_back() {
        for here in ["127.0.0.1:1", "127.9.9.9:1", "0.0.0.0:1", "[::1]:1", "[::]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(address(here).is_here(), "{here}");
        }
        for elsewhere in ["10.0.0.7:1", "128.0.0.1:1", "[fd00::1]:1", "[::2]:1", "[::ffff:10.0.0.7]:1"] {
            assert!(!address(elsewhere).is_here(), "{elsewhere}");
        }
        assert_eq!(address("[::ffff:10.0.0.7]:2552").loopback(9), address("127.0.0.1:9"));
        assert_eq!(address("[fd00::7]:2552").loopback(9), address("[::1]:9"));
    }

    #[test]
    fn the_header_is_that_of_the_specification() {
        let (bytes, length) = header(address("127.0.0.1:40000"), address("10.0.0.7:2552"));
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        wanted.extend([127, 0, 0, 1, 10, 0, 0, 7, 0x9c, 0x40, 0x09, 0xf8]);
        assert_eq!(bytes[..length], wanted);
        let (bytes, length) = header(address("[::1]:40000"), address("[fd00::7]:2552"));
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
        wanted.extend(Ipv6Addr::LOCALHOST.octets());
        wanted.extend("fd00::7".parse::<Ipv6Addr>().unwrap().octets());
        wanted.extend([0x9c, 0x40, 0x09, 0xf8]);
        assert_eq!(bytes[..length], wanted);
    }
}
