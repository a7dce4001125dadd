//! Segments that no kernel sends by itself, from a raw socket: what an attacker in a neighbouring pod can do with
//! CAP_NET_RAW, which containers have by default.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::pod::Pod;

/// An ACK out of nowhere that connection tracking believes (`nf_conntrack_tcp_loose`) and the listener does not even
/// answer: its MD5 option (RFC 2385) has no key there, so it is dropped without the reset that would end the entry
/// (net/ipv4/tcp_ipv4.c, `tcp_inbound_hash`).
pub(crate) fn silent_ack(pod: &Pod, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    pod.run(move || {
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
        socket.send_to(&ack_with_md5(from, to), &SocketAddr::new(to.ip(), 0).into())?;
        Ok(())
    })
}

/// RFC 9293 section 3.1, with one option.
fn ack_with_md5(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const ACK: u8 = 0x10;
    const MD5: [u8; 2] = [19, 18];
    let mut option = MD5.to_vec();
    option.resize(20, 0);
    let words = u8::try_from((20 + option.len()) / 4).expect("a short header");
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(1000_u32.to_be_bytes());
    segment.extend(2000_u32.to_be_bytes());
    segment.extend([words << 4, ACK]);
    segment.extend(u16::MAX.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(option);
    let sum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The internet checksum over the pseudo header and the segment (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    const TCP: u8 = 6;
    let mut bytes = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(u32::try_from(segment.len()).expect("a short segment").to_be_bytes());
    bytes.extend([0, 0, 0, TCP]);
    bytes.extend(segment);
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).expect("folded to 16 bits")
}
