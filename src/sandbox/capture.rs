//! What crosses the wire: every TCP segment at one port of the switch, by a packet socket.
//!
//! Invariant: a packet is looked at once, and only its counts and findings are kept.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::AddAssign;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::netns::Netns;

/// Longest frame: 64 KiB of segmentation offload and its headers.
const FRAME: usize = 66 * 1024;
/// How often the capture looks whether it should end, in microseconds.
const TICK: i64 = 20_000;
/// Room for bursts, in bytes.
const BUFFER: usize = 8 << 20;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;

/// What was seen of connections to one service port, both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Segments with or without payload.
    pub packets: u64,
    /// Segments with payload.
    pub data_packets: u64,
    /// Payload bytes of TCP.
    pub bytes: u64,
    /// Segments whose payload begins with a TLS record's header (RFC 8446, 5.1).
    pub tls_packets: u64,
    /// Segments in which a plaintext marker stood.
    pub plaintext_packets: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.data_packets += other.data_packets;
        self.bytes += other.bytes;
        self.tls_packets += other.tls_packets;
        self.plaintext_packets += other.plaintext_packets;
    }
}

/// Tallies by the client's address and the service port.
type Tallies = BTreeMap<(IpAddr, u16), Tally>;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    tallies: Arc<Mutex<Tallies>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts to capture what passes the switch's port of index `port_index`: TCP from or to one of `service_ports`,
    /// looking for `markers` in every payload.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW; `EAFNOSUPPORT` where the kernel has no packet sockets.
    pub fn start(switch: &Netns, port_index: u32, service_ports: Vec<u16>, markers: Vec<Vec<u8>>) -> io::Result<Self> {
        let socket = switch.run(open)??;
        let tallies = Arc::new(Mutex::new(Tallies::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("capture".to_owned()).spawn({
            let (tallies, stop) = (Arc::clone(&tallies), Arc::clone(&stop));
            move || {
                let mut frame = vec![0; FRAME];
                while !stop.load(Ordering::Relaxed) {
                    // No frame within the tick, or one lost to a signal.
                    let Some(length) = receive(&socket, &mut frame, port_index) else { continue };
                    let Some(segment) = Segment::parse(&frame[..length]) else { continue };
                    let Some(connection) = segment.connection(&service_ports) else { continue };
                    let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                    segment.count(tallies.entry(connection).or_default(), &markers);
                }
            }
        })?;
        Ok(Self { tallies, stop, thread: Some(thread) })
    }

    /// What was seen so far of connections that a client with one of these addresses made to a service port.
    #[must_use]
    pub fn tally(&self, clients: &[IpAddr], service_port: u16) -> Tally {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Tally::default();
        for client in clients {
            sum += tallies.get(&(*client, service_port)).copied().unwrap_or_default();
        }
        sum
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let all = SockProtocol::EthAll;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, TICK))?;
    Ok(socket)
}

/// The length of the next frame, if it passed the port. The socket sees every frame once a link that it passes.
fn receive(socket: &OwnedFd, frame: &mut [u8], port_index: u32) -> Option<usize> {
    let received: Result<(usize, Option<LinkAddr>), Errno> = recvfrom(socket.as_raw_fd(), frame);
    let (length, link) = received.ok()?;
    (link?.ifindex() == port_index as usize).then_some(length)
}

/// A TCP segment on Ethernet.
#[derive(Debug, PartialEq, Eq)]
struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(14)?;
        match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
            ETHERTYPE_IPV4 => Self::parse_ipv4(packet),
            ETHERTYPE_IPV6 => Self::parse_ipv6(packet),
            _ => None,
        }
    }

    fn parse_ipv4(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        let header_length = usize::from(header[0] & 0x0f) * 4;
        let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
        let tcp = packet.get(header_length..total_length)?;
        (header[9] == PROTOCOL_TCP).then(|| Self::parse_tcp(address(12), address(16), tcp))?
    }

    fn parse_ipv6(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<40>()?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let address = |bytes: &[u8]| Some(IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)));
        let tcp = rest.get(..length)?;
        (header[6] == PROTOCOL_TCP).then(|| Self::parse_tcp(address(&header[8..])?, address(&header[24..])?, tcp))?
    }

    fn parse_tcp(from: IpAddr, to: IpAddr, tcp: &'a [u8]) -> Option<Self> {
        let header = tcp.first_chunk::<20>()?;
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let payload = tcp.get(usize::from(header[12] >> 4) * 4..)?;
        Some(Self { from: SocketAddr::new(from, port(0)), to: SocketAddr::new(to, port(2)), payload })
    }

    /// The client's address and the service port.
    fn connection(&self, service_ports: &[u16]) -> Option<(IpAddr, u16)> {
        let ends = [(self.from.ip(), self.to.port()), (self.to.ip(), self.from.port())];
        ends.into_iter().find(|(_, port)| service_ports.contains(port))
    }

    fn count(&self, tally: &mut Tally, markers: &[Vec<u8>]) {
        tally.packets += 1;
        tally.data_packets += u64::from(!self.payload.is_empty());
        tally.bytes += self.payload.len() as u64;
        // Handshake, alert, change_cipher_spec or application data, of a version 3.x.
        tally.tls_packets += u64::from(matches!(self.payload, [0x14..=0x17, 0x03, ..]));
        tally.plaintext_packets += u64::from(markers.iter().any(|marker| contains(self.payload, marker)));
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x09, 0xf8]);
        tcp[12] = 5 << 4;
        [tcp, payload.to_vec()].concat()
    }

    fn ipv4_frame(payload: &[u8]) -> Vec<u8> {
        let tcp = tcp(payload);
        let mut header = vec![0; 34];
        header[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        header[14] = 0x45;
        header[16..18].copy_from_slice(&u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        header[23] = PROTOCOL_TCP;
        header[26..34].copy_from_slice(&[10, 77, 0, 11, 10, 77, 0, 12]);
        [header, tcp, vec![0; 4]].concat()
    }

    fn ipv6_frame(payload: &[u8]) -> Vec<u8> {
        let tcp = tcp(payload);
        let mut header = vec![0; 54];
        header[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        header[18..20].copy_from_slice(&u16::try_from(tcp.len()).unwrap().to_be_bytes());
        header[20] = PROTOCOL_TCP;
        header[22] = 0xfd;
        [header, tcp].concat()
    }

    #[test]
    fn an_ipv4_segment_ends_where_its_length_says_not_where_the_padding_does() {
        let frame = ipv4_frame(b"AKKA");
        let segment = Segment::parse(&frame).unwrap();
        assert_eq!(segment.to, "10.77.0.12:2552".parse().unwrap());
        assert_eq!(segment.payload, b"AKKA");
    }

    #[test]
    fn plaintext_and_tls_are_told_apart_in_both_families() {
        let markers = [b"secret".to_vec()];
        let mut tally = Tally::default();
        for frame in [ipv4_frame(b"my secret"), ipv6_frame(&[0x17, 0x03, 0x03, 0, 1, 9]), ipv6_frame(b"")] {
            Segment::parse(&frame).unwrap().count(&mut tally, &markers);
        }
        assert_eq!(tally, Tally { packets: 3, data_packets: 2, bytes: 15, tls_packets: 1, plaintext_packets: 1 });
    }

    #[test]
    fn a_connection_is_its_clients_in_both_directions() {
        let frame = ipv4_frame(b"");
        let there = Segment::parse(&frame).unwrap();
        let back = Segment { from: there.to, to: there.from, payload: b"" };
        let connection = Some((there.from.ip(), 2552));
        assert_eq!([there.connection(&[2552]), back.connection(&[2552])], [connection, connection]);
        assert_eq!(there.connection(&[8558]), None);
    }

    #[test]
    fn cut_short_frames_are_passed_over() {
        let frame = ipv4_frame(b"AKKA");
        for length in 0..frame.len() - 4 {
            assert_eq!(Segment::parse(&frame[..length]), None, "{length}");
        }
    }
}
