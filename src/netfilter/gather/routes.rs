//! The kernel's own answers to where an address is.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::core::explain::Route;
use crate::core::ruleset::Family;

/// A socket to ask for routes, `ip route get`'s way.
pub struct Routes(Socket);

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Routes")
    }
}

impl Routes {
    /// Opens the socket, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The route of a packet with this mark from a socket of this user.
    #[must_use]
    pub fn route(&self, to: IpAddr, mark: u32, uid: Option<u32>) -> Option<Route> {
        self.ask(to, mark, uid).ok().flatten()
    }

    fn ask(&self, to: IpAddr, mark: u32, uid: Option<u32>) -> io::Result<Option<Route>> {
        let (address_family, length, destination) = match to {
            IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
        };
        let mut question = RouteMessage::default();
        question.header = RouteHeader { address_family, destination_prefix_length: length, ..RouteHeader::default() };
        question.attributes = vec![RouteAttribute::Destination(destination)];
        question.attributes.extend((mark != 0).then_some(RouteAttribute::Mark(mark)));
        question.attributes.extend(uid.map(RouteAttribute::Uid));
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetRoute(question)));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.0.send(&buffer, 0)?;
        let mut answer = Vec::with_capacity(8192);
        self.0.recv(&mut answer, 0)?;
        decode(&answer)
    }
}

/// The route in the kernel's answer; `None` if there is none.
pub(in crate::netfilter) fn decode(answer: &[u8]) -> io::Result<Option<Route>> {
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map_err(io::Error::other)?;
    Ok(match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => route_of(&route),
        _ => None,
    })
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let local = match message.header.kind {
        RouteType::Local => true,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => return None,
        _ => false,
    };
    let mut interface = None;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = name(*index),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(IpAddr::V4(*address)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    // Whatever the table of a local address names, its packets pass lo.
    let interface = if local { "lo".to_owned() } else { interface? };
    Some(Route { local, interface, source })
}

/// An interface's name.
pub(super) fn name(index: u32) -> Option<String> {
    let interfaces = nix::net::if_::if_nameindex().ok()?;
    interfaces.iter().find(|interface| interface.index() == index)?.name().to_str().ok().map(str::to_owned)
}

impl Routes {
    /// The first address of an interface, of those that reach further than its link.
    #[must_use]
    pub fn address_of(&self, interface: &str, family: Family) -> Option<IpAddr> {
        let addresses = nix::ifaddrs::getifaddrs().ok()?.filter(|found| found.interface_name == interface);
        let mut addresses = addresses.filter_map(|found| {
            let address = found.address?;
            match family {
                Family::V4 => address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())),
                Family::V6 => address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())),
            }
        });
        addresses.find(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()))
    }
}
