//! A temporary link on which a namespace can dial itself as if from outside.
//!
//! Two ends of one veth pair, both here. What is sent on the near end arrives on the far end like a packet from the
//! network, and passes the whole of prerouting. Three things make that work with NET_ADMIN alone:
//! - the connection is not tracked on the near end, else conntrack would know it when it arrives, and nat rules would
//!   not be asked again;
//! - neither address is local in the main tables, so that no packet takes the short cut over `lo`; each end has a
//!   routing table of its own in which its address is local (sockets are transparent);
//! - neither end does ARP and both have one hardware address, so that no neighbour is asked for.
//!
//! Addresses are for documentation (RFC 5737, RFC 3849): no network routes them. The link is the first thing made and
//! the last one removed, so that its existence tells of leftovers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::route::{RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::core::plan::CANARY;
use crate::core::ruleset::Family;

/// The end that the probe dials from.
pub(super) const NEAR: &str = "bypassctl-near";
/// The end that the probe arrives on.
const FAR: &str = "bypassctl-far";
/// Routing tables, and priorities of the rules that lead to them.
const NEAR_TABLE: u32 = 15550;
const FAR_TABLE: u32 = 15551;
/// Locally administered (IEEE 802, second bit of the first octet).
const HARDWARE_ADDRESS: [u8; 6] = [0x02, 0x62, 0x79, 0x70, 0x61, 0x73];

/// Where an arriving probe comes from.
pub(super) const fn source(family: Family) -> IpAddr {
    documentation(family, 2)
}

/// Where an arriving probe goes to.
pub(super) const fn destination(family: Family) -> IpAddr {
    documentation(family, 3)
}

/// Where an outgoing probe goes to.
pub(super) const fn canary(family: Family) -> IpAddr {
    match family {
        Family::V4 => CANARY[0],
        Family::V6 => CANARY[1],
    }
}

const fn documentation(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host as u16)),
    }
}

/// Whether a run that was killed left its link.
pub(super) fn exists() -> bool {
    if_nametoindex(NEAR).is_ok()
}

/// Makes the link, its addresses, routes and rules; returns the families that it cannot carry, with the reason.
pub(super) async fn make(
    handle: &Handle,
    families: &[Family],
) -> Result<Vec<(Family, rtnetlink::Error)>, rtnetlink::Error> {
    handle.link().add(LinkVeth::new(NEAR, FAR).build()).execute().await?;
    for name in [NEAR, FAR] {
        let link = LinkUnspec::new_with_name(name).address(HARDWARE_ADDRESS.to_vec()).arp(false).up();
        handle.link().set(link.build()).execute().await?;
    }
    let index = |name| if_nametoindex(name).map_err(|_| rtnetlink::Error::RequestFailed);
    let (near, far) = (index(NEAR)?, index(FAR)?);
    let mut without = Vec::new();
    for family in families {
        // A pod may have IPv6 on lo and none on new links (net.ipv6.conf.default.disable_ipv6).
        if let Err(error) = address(handle, *family, near, far).await {
            without.push((*family, error));
        }
    }
    Ok(without)
}

async fn address(handle: &Handle, family: Family, near: u32, far: u32) -> Result<(), rtnetlink::Error> {
    let (canary, source, destination) = (canary(family), source(family), destination(family));
    add_address(handle, far, documentation(family, 4)).await?;
    add_address(handle, near, documentation(family, 5)).await?;
    for (address, device) in [(canary, far), (source, far), (destination, near)] {
        add_route(handle, address, device, None).await?;
    }
    for (name, table, address, device) in [(NEAR, NEAR_TABLE, source, near), (FAR, FAR_TABLE, destination, far)] {
        let mut add = handle.rule().add();
        *add.message_mut() = rule(family, name, table);
        match family {
            Family::V4 => add.v4().execute().await?,
            Family::V6 => add.v6().execute().await?,
        }
        add_route(handle, address, device, Some(table)).await?;
    }
    Ok(())
}

/// Removes everything that [`make`] made.
pub(super) async fn remove(handle: &Handle) -> Result<(), rtnetlink::Error> {
    for family in Family::BOTH {
        for (name, table) in [(NEAR, NEAR_TABLE), (FAR, FAR_TABLE)] {
            // A rule that was never made, or a family that the kernel does not have: both leave nothing behind.
            handle.rule().del(rule(family, name, table)).execute().await.ok();
        }
    }
    match if_nametoindex(NEAR) {
        Ok(index) => handle.link().del(index).execute().await,
        Err(_) => Ok(()),
    }
}

async fn add_address(handle: &Handle, index: u32, address: IpAddr) -> Result<(), rtnetlink::Error> {
    let mut add = handle.address().add(index, address, if address.is_ipv4() { 32 } else { 128 });
    if address.is_ipv6() {
        // Duplicate address detection would hold the address back for a second.
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    add.execute().await
}

async fn add_route(
    handle: &Handle,
    destination: IpAddr,
    device: u32,
    local_in: Option<u32>,
) -> Result<(), rtnetlink::Error> {
    let message = match destination {
        IpAddr::V4(address) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).output_interface(device);
            match local_in {
                Some(table) => route.kind(RouteType::Local).scope(RouteScope::Host).table_id(table).build(),
                None => route.scope(RouteScope::Link).build(),
            }
        }
        IpAddr::V6(address) => {
            let route =
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).output_interface(device);
            match local_in {
                Some(table) => route.kind(RouteType::Local).table_id(table).build(),
                None => route.build(),
            }
        }
    };
    handle.route().add(message).execute().await
}

fn rule(family: Family, interface: &str, table: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    rule.header.action = RuleAction::ToTable;
    rule.attributes.push(RuleAttribute::Iifname(interface.to_owned()));
    rule.attributes.push(RuleAttribute::Table(table));
    rule.attributes.push(RuleAttribute::Priority(table));
    rule
}
