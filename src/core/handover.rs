//! Where a connection was going, as the preloaded library tells it in front of the app's bytes: a header of the PROXY
//! protocol, version 2 (haproxy, doc/proxy-protocol.txt, section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with, in bytes.
pub const PREFIX: usize = 16;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Two addresses and two ports, and room for what others put behind them.
const LONGEST: usize = 512;

/// Why these bytes are no header that tells a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// The app's own bytes, most likely.
    #[error("it does not begin with a header of the PROXY protocol, version 2")]
    NoHeader,
    /// A health check, or a version that there is not.
    #[error("version and command {0:#04x} are not those of a connection that is handed over")]
    Command(u8),
    /// Not TCP.
    #[error("family and protocol {0:#04x} are not TCP over IPv4 or IPv6")]
    Family(u8),
    /// Somebody has carried it on.
    #[error(
        "its header was written for a connection from {told}, and this one comes from {from}: through a proxy, not from the app"
    )]
    ThroughOthers {
        /// As the header has it.
        told: SocketAddr,
        /// As the kernel has it.
        from: SocketAddr,
    },
    /// Too short for its addresses, or too long for a header.
    #[error("{0} bytes behind the header's beginning are not what it takes")]
    Length(usize),
}

/// A header's beginning, which says what comes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    is_v4: bool,
    /// Bytes that come behind it.
    pub rest: usize,
}

impl Prefix {
    /// Parses it.
    ///
    /// # Errors
    /// See [`HandoverError`].
    pub fn parse(bytes: &[u8; PREFIX]) -> Result<Self, HandoverError> {
        let [signature @ .., command, family, high, low] = bytes;
        if signature != SIGNATURE {
            return Err(HandoverError::NoHeader);
        }
        if *command != PROXY {
            return Err(HandoverError::Command(*command));
        }
        let (is_v4, least) = match *family {
            TCP_OVER_IPV4 => (true, 12),
            TCP_OVER_IPV6 => (false, 36),
            other => return Err(HandoverError::Family(other)),
        };
        let rest = usize::from(u16::from_be_bytes([*high, *low]));
        if (least..=LONGEST).contains(&rest) { Ok(Self { is_v4, rest }) } else { Err(HandoverError::Length(rest)) }
    }

    /// Where the connection comes from and where it was going; mapped addresses as IPv4.
    ///
    /// # Errors
    /// [`HandoverError::Length`] if these are not the bytes that come behind it.
    pub fn addresses(self, rest: &[u8]) -> Result<[SocketAddr; 2], HandoverError> {
        let short = HandoverError::Length(rest.len());
        let size = if self.is_v4 { 4 } else { 16 };
        let at = |from: usize, length: usize| rest.get(from..from + length).ok_or(short);
        let address = |i: usize| {
            let (ip, port) = (at(i * size, size)?, at(2 * size + 2 * i, 2)?);
            let ip = match <[u8; 4]>::try_from(ip) {
                Ok(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
                Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).map_err(|_| short)?)).to_canonical(),
            };
            Ok(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().map_err(|_| short)?)))
        };
        Ok([address(0)?, address(1)?])
    }

    /// Where the connection was going, which comes from `from`. What a proxy has carried on does not come from where its
    /// header says: somebody outside who gets through to the sidecar so must not dial peers with our certificate.
    ///
    /// # Errors
    /// See [`HandoverError`].
    pub fn destination(self, rest: &[u8], from: SocketAddr) -> Result<SocketAddr, HandoverError> {
        let [source, destination] = self.addresses(rest)?;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if source == from { Ok(destination) } else { Err(HandoverError::ThroughOthers { told: source, from }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Result<SocketAddr, HandoverError> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        let bytes = [&SIGNATURE[..], &[command, family], &length].concat();
        let prefix = Prefix::parse(&bytes.try_into().unwrap())?;
        prefix.addresses(rest).map(|[_, destination]| destination)
    }

    #[test]
    fn a_header_tells_the_destination() {
        let v4 = [127, 0, 0, 1, 10, 0, 0, 7, 0x9c, 0x40, 0x09, 0xf8];
        assert_eq!(header(0x21, 0x11, &v4), Ok("10.0.0.7:2552".parse().unwrap()));
        // Type-length-value items behind the addresses are none of ours.
        assert_eq!(header(0x21, 0x11, &[&v4[..], &[3, 0, 1, 0]].concat()), Ok("10.0.0.7:2552".parse().unwrap()));
        for (to, told) in [("fd00::7", "[fd00::7]:25520"), ("::ffff:10.0.0.7", "10.0.0.7:25520")] {
            let ip: Ipv6Addr = to.parse().unwrap();
            let v6 =
                [&Ipv6Addr::LOCALHOST.octets()[..], &ip.octets(), &[0x9c, 0x40], &25520_u16.to_be_bytes()].concat();
            assert_eq!(header(0x21, 0x21, &v6), Ok(told.parse().unwrap()));
        }
    }

    #[test]
    fn what_tells_none_is_refused() {
        assert_eq!(Prefix::parse(b"AKKA\x01\0\0\0\0\0\0\0\0\0\0\0"), Err(HandoverError::NoHeader));
        assert_eq!(header(0x20, 0x11, &[0; 12]), Err(HandoverError::Command(0x20)), "LOCAL: a health check");
        assert_eq!(header(0x11, 0x11, &[0; 12]), Err(HandoverError::Command(0x11)));
        assert_eq!(header(0x21, 0x12, &[0; 12]), Err(HandoverError::Family(0x12)), "UDP");
        assert_eq!(header(0x21, 0x31, &[0; 216]), Err(HandoverError::Family(0x31)), "a Unix socket");
        assert_eq!(header(0x21, 0x21, &[0; 12]), Err(HandoverError::Length(12)));
        assert_eq!(header(0x21, 0x11, &[0; 513]), Err(HandoverError::Length(513)));
        let prefix = Prefix { is_v4: false, rest: 36 };
        assert_eq!(prefix.addresses(&[0; 35]), Err(HandoverError::Length(35)));
    }

    #[test]
    fn a_header_that_somebody_has_carried_on_is_refused() {
        let prefix = Prefix { is_v4: true, rest: 12 };
        let rest = [127, 0, 0, 1, 10, 0, 0, 7, 0x9c, 0x40, 0x09, 0xf8];
        for from in ["127.0.0.1:40000", "[::ffff:127.0.0.1]:40000"] {
            assert_eq!(prefix.destination(&rest, from.parse().unwrap()), Ok("10.0.0.7:2552".parse().unwrap()));
        }
        let from = "127.0.0.1:40001".parse().unwrap();
        let error = prefix.destination(&rest, from).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:40000") && error.contains("127.0.0.1:40001"), "{error}");
    }
}
