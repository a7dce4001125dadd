//! Who lives in a pod under a mesh, on which ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::mesh::Mesh;
use super::pod::Pod;
use super::probe::{Identity, Listener};

pub(crate) const APP: Identity = Identity::uid(1000);
pub(crate) const AGENT: Identity = Identity::uid(12552);
/// The mesh proxy of Istio, and of most that copied it.
pub(crate) const MESH: Identity = Identity::uid(1337);
/// Loopback's address in each family.
pub(crate) const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Root, with no mark: a dialler that no rule knows.
pub(crate) const ROOT: Identity = Identity::uid(0);

pub(crate) const REMOTING: u16 = 2552;
pub(crate) const MANAGEMENT: u16 = 8558;
/// A port of the app that is none of ours: the mesh must still have it.
pub(crate) const CONTROL: u16 = 8080;
pub(crate) const APP_PORTS: [u16; 3] = [REMOTING, MANAGEMENT, CONTROL];

const MESH_OUTBOUND: u16 = 15001;
const MESH_INBOUND: u16 = 15006;
pub(crate) const AGENT_ADMIN: u16 = 15550;
pub(crate) const AGENT_OUTBOUND: u16 = 15552;
const AGENT_INBOUND: u16 = 15553;

impl Mesh {
    /// Its proxy.
    pub(crate) const fn proxy(&self) -> Identity {
        Identity { uid: self.uid, mark: self.mark, source: None }
    }
}

/// Listeners of the app, on the pod's addresses only, as Artery listens.
pub(crate) fn app(pod: &Pod) -> Vec<Listener> {
    on_own_addresses(pod, "app", APP, &APP_PORTS)
}

/// The same app in the peer, which has no rules.
pub(crate) fn peer(peer: &Pod, more: &[u16]) -> Vec<Listener> {
    on_own_addresses(peer, "peer", APP, &[&APP_PORTS, more].concat())
}

/// The agent's listeners: the outbound one on loopback alone.
pub(crate) fn agent(pod: &Pod) -> Vec<Listener> {
    let outbound =
        LOOPBACKS.map(|address| Listener::tcp(pod, "agent-outbound", AGENT, SocketAddr::new(address, AGENT_OUTBOUND)));
    let inbound = on_own_addresses(pod, "agent-inbound", AGENT, &[AGENT_INBOUND]);
    let admin = on_own_addresses(pod, "agent-admin", AGENT, &[AGENT_ADMIN]);
    outbound.into_iter().chain(inbound).chain(admin).collect()
}

/// The mesh proxy's listeners, on every address. They are never marked, as a marked reply would go astray.
pub(crate) fn mesh_proxy(pod: &Pod, mesh: Option<Mesh>) -> Vec<Listener> {
    let who = Identity::uid(mesh.map_or(MESH.uid, |mesh| mesh.uid));
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let ports = [("mesh-outbound", MESH_OUTBOUND), ("mesh-inbound", MESH_INBOUND)];
    ports
        .into_iter()
        .flat_map(|(name, port)| any.map(|address| Listener::tcp(pod, name, who, SocketAddr::new(address, port))))
        .collect()
}

fn on_own_addresses(pod: &Pod, name: &str, who: Identity, ports: &[u16]) -> Vec<Listener> {
    let at = ports.iter().flat_map(|port| pod.families().iter().map(|family| pod.at(*family, *port)));
    at.map(|at| Listener::tcp(pod, name, who, at)).collect()
}
