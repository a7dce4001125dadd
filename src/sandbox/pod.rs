//! Pods on one switch, each a network namespace with an address a family.
//!
//! A socket belongs to the namespace and the user that it was made by, whichever thread uses it later: so sockets are
//! made on a short-lived thread inside the pod, and used from anywhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::unistd::{Uid, setfsuid};

use super::links::{self, LinkError};
use super::netns::Netns;
use crate::core::ruleset::Family;

/// 10.77.0.0/24, of RFC 1918.
const NETWORK_V4: [u8; 3] = [10, 77, 0];
/// fd77::/64, of RFC 4193.
const NETWORK_V6: u16 = 0xfd77;
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;
const SWITCH_HOST: u8 = 1;
const FIRST_POD_HOST: u8 = 11;

/// Why there is no network of pods.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No namespace to be had.
    #[error("cannot make a network namespace")]
    Namespace(#[source] io::Error),
    /// No link, address or route to be had.
    #[error("cannot wire up {of}")]
    Link {
        /// The switch, or the pod's name.
        of: String,
        /// Which step failed.
        #[source]
        source: LinkError,
    },
}

/// A namespace that pods are plugged into.
#[derive(Debug)]
pub struct Switch {
    netns: Netns,
}

impl Switch {
    /// A switch without pods.
    ///
    /// # Errors
    /// No privilege, or no bridge in this kernel.
    pub fn new() -> Result<Self, SandboxError> {
        let netns = Netns::new().map_err(SandboxError::Namespace)?;
        links::make_switch(&netns, subnets(SWITCH_HOST))
            .map_err(|source| SandboxError::Link { of: "the switch".to_owned(), source })?;
        Ok(Self { netns })
    }

    /// Where what crosses the wire can be seen.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A new pod on this switch, the `number`th from 0; its addresses end in 11 plus `number`, as decimal digits in both
    /// families.
    ///
    /// # Errors
    /// No privilege, or no veth in this kernel.
    pub fn pod(&self, number: u8, name: &'static str) -> Result<Pod, SandboxError> {
        let netns = Netns::new().map_err(SandboxError::Namespace)?;
        let subnets = subnets(FIRST_POD_HOST + number);
        let gateways = self::subnets(SWITCH_HOST).map(|(address, _)| address);
        let port_index = links::plug_in(&self.netns, &format!("to-{name}"), &netns, subnets, gateways)
            .map_err(|source| SandboxError::Link { of: format!("pod {name}"), source })?;
        Ok(Pod { name, netns, addresses: subnets.map(|(address, _)| address), port_index })
    }
}

/// A pod: its processes share one network namespace.
#[derive(Debug)]
pub struct Pod {
    name: &'static str,
    netns: Netns,
    addresses: [IpAddr; 2],
    port_index: u32,
}

impl Pod {
    /// The name, of a few letters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The network namespace.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The pod's address of a family.
    #[must_use]
    pub const fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.addresses[0],
            Family::V6 => self.addresses[1],
        }
    }

    /// The interface index of the pod's port on the switch, in the switch's namespace.
    #[must_use]
    pub const fn port_index(&self) -> u32 {
        self.port_index
    }

    /// A connection made inside the pod by the user `uid`.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(&self, uid: u32, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.netns.run(move || {
            as_user(uid);
            let stream = TcpStream::connect_timeout(&to, timeout)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })?
    }

    /// A listener inside the pod of the user `uid`.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn listen(&self, uid: u32, on: SocketAddr) -> io::Result<TcpListener> {
        self.netns.run(move || {
            as_user(uid);
            TcpListener::bind(on)
        })?
    }
}

/// Sockets that this thread makes from now on belong to the user `uid`: nftables' `skuid` is the filesystem uid of
/// the socket's maker (net/netfilter/nft_meta.c, `nft_meta_get_eval_skugid`).
fn as_user(uid: u32) {
    setfsuid(Uid::from_raw(uid));
}

/// The host's address in both networks; its decimal digits read the same in both.
fn subnets(host: u8) -> [(IpAddr, u8); 2] {
    let [a, b, c] = NETWORK_V4;
    let same_digits = u16::from(host / 10 % 10 * 16 + host % 10);
    [
        (IpAddr::V4(Ipv4Addr::new(a, b, c, host)), PREFIX_V4),
        (IpAddr::V6(Ipv6Addr::new(NETWORK_V6, 0, 0, 0, 0, 0, 0, same_digits)), PREFIX_V6),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_same_digits_in_both_families() {
        let [(v4, _), (v6, _)] = subnets(FIRST_POD_HOST + 1);
        assert_eq!((v4.to_string(), v6.to_string()), ("10.77.0.12".to_owned(), "fd77::12".to_owned()));
    }
}
