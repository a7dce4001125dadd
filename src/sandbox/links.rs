//! Links, addresses and routes between namespaces, over rtnetlink.
//!
//! Invariant: every link made here has both of its ends in namespaces of the sandbox, never in the machine's own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::netns::Netns;

/// Name of the interface inside a pod, as container runtimes call it.
const POD_LINK: &str = "eth0";
/// Name of the bridge that is the switch.
const BRIDGE: &str = "switch";
/// `lo` is the first link of every namespace (net/core/dev.c, `LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;

/// What could not be wired up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt}")]
pub struct LinkError {
    attempt: String,
    source: LinkErrorSource,
}

#[derive(Debug, thiserror::Error)]
enum LinkErrorSource {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
}

fn failed<E: Into<LinkErrorSource>>(attempt: impl Into<String>) -> impl FnOnce(E) -> LinkError {
    move |source| LinkError { attempt: attempt.into(), source: source.into() }
}

/// An address of an interface with its network's prefix length in bits.
pub(super) type Subnet = (IpAddr, u8);

/// Makes the namespace a switch: a bridge with these addresses, which pods use as their gateway.
pub(super) fn make_switch(switch: &Netns, addresses: [Subnet; 2]) -> Result<(), LinkError> {
    in_namespace(switch, async move |handle| {
        up(&handle, LOOPBACK_INDEX).await.map_err(failed("bring up lo"))?;
        let bridge = LinkBridge::new(BRIDGE).build();
        handle.link().add(bridge).execute().await.map_err(failed("make a bridge (module bridge)"))?;
        assign(&handle, index_of(BRIDGE)?, &addresses).await
    })
}

/// Links a pod to the switch: a veth pair, whose end in the switch is called `port` and whose end in the pod is eth0,
/// with these addresses and a default route a family by `gateways`. Returns the port's interface index.
pub(super) fn plug_in(
    switch: &Netns,
    port: &str,
    pod: &Netns,
    addresses: [Subnet; 2],
    gateways: [IpAddr; 2],
) -> Result<u32, LinkError> {
    // Not up yet: the kernel makes this end first, and one that has no other end cannot be up (drivers/net/veth.c).
    let pod_end = LinkMessageBuilder::<LinkUnspec>::new().name(POD_LINK).setns_by_fd(pod.file().as_raw_fd()).build();
    let name = port.to_owned();
    let port_index = in_namespace(switch, async move |handle| {
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name.clone())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(pod_end)))
            .controller(index_of(BRIDGE)?)
            .up()
            .build();
        handle.link().add(pair).execute().await.map_err(failed("make a veth pair (module veth)"))?;
        index_of(&name)
    })?;
    in_namespace(pod, async move |handle| {
        up(&handle, LOOPBACK_INDEX).await.map_err(failed("bring up lo"))?;
        let index = index_of(POD_LINK)?;
        up(&handle, index).await.map_err(failed("bring up eth0"))?;
        assign(&handle, index, &addresses).await?;
        for gateway in gateways {
            route_by(&handle, gateway).await.map_err(failed(format!("add a default route by {gateway}")))?;
        }
        Ok(())
    })?;
    Ok(port_index)
}

async fn up(handle: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await
}

async fn assign(handle: &Handle, index: u32, addresses: &[Subnet]) -> Result<(), LinkError> {
    for (address, prefix_len) in addresses {
        let mut request = handle.address().add(index, *address, *prefix_len);
        if address.is_ipv6() {
            // Duplicate address detection would keep the address unusable for a second (RFC 4862, 5.4).
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(failed(format!("assign {address}")))?;
    }
    Ok(())
}

async fn route_by(handle: &Handle, gateway: IpAddr) -> Result<(), rtnetlink::Error> {
    let route = match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
    };
    handle.route().add(route).execute().await
}

fn index_of(name: &str) -> Result<u32, LinkError> {
    if_nametoindex(name).map_err(io::Error::from).map_err(failed(format!("find the link {name}")))
}

/// Runs `work` with a netlink connection of the namespace.
fn in_namespace<T: Send + 'static>(
    netns: &Netns,
    work: impl AsyncFnOnce(Handle) -> Result<T, LinkError> + Send + 'static,
) -> Result<T, LinkError> {
    netns
        .run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(failed("start a netlink event loop"))?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(failed("open a netlink socket"))?;
                tokio::spawn(connection);
                work(handle).await
            })
        })
        .map_err(failed("enter a network namespace"))?
}
