//! What is set up: the switch, the pods, the mesh in two of them, and their applications.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use super::agent::{Agent, Mount};
use super::artery::{self, Inbox};
use super::server::Server;
use super::{APP_UID, DemoError, HTTP_PORT, MANAGEMENT_PORT, REMOTING_PORT, holders, http, mesh};
use crate::core::ruleset::Family;
use crate::netfilter;
use crate::sandbox::capture::Capture;
use crate::sandbox::children::Household;
use crate::sandbox::pod::{Pod, Switch};
use crate::sandbox::tables::Snapshot;
use crate::tls::issue::{DevelopmentCa, IssuedLeaf, LeafRequest};

/// A request that stands on the wire as it is.
pub(super) const MEMBERS: &str = "/cluster/members/";
const TRUST_DOMAIN: &str = "demo.local";
const NAMESPACE: &str = "shop";
/// Service account of the cluster's members.
pub(super) const MEMBER: &str = "cluster";
/// Service account of a workload of the same CA that is no member.
pub(super) const STRANGER: &str = "stranger";

/// The SPIFFE ID of a service account of the demo.
pub(super) fn identity(service_account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{service_account}")
}

pub(super) fn leaf(ca: &DevelopmentCa, service_account: &str) -> Result<IssuedLeaf, DemoError> {
    Ok(ca.issue(&LeafRequest::for_service_account(TRUST_DOMAIN, NAMESPACE, service_account))?)
}

/// The whole set-up; it goes when it is dropped, but for the children, which are the household's.
#[derive(Debug)]
pub struct Lab {
    pub(super) household: Household,
    pub(super) ca: DevelopmentCa,
    /// Dials.
    pub(super) a: Member,
    /// Is dialled.
    pub(super) b: Member,
    /// A pod without mesh and without agent.
    pub(super) outsider: Pod,
    pub(super) capture: Capture,
    switch: Switch,
}

/// A pod of the cluster: mesh, application, agent.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) pod: Pod,
    pub(super) inbox: Inbox,
    pub(super) mount: Mount,
    /// `None` until it is started.
    pub(super) agent: Option<Agent>,
    /// Rules before the bypass.
    pub(super) before: Snapshot,
    /// They listen until they are dropped.
    _servers: Vec<Server>,
}

/// How to get into a pod from a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDoor {
    /// The pod's name.
    pub name: &'static str,
    /// Its namespace, as a path.
    pub namespace: String,
    /// Its address, IPv4 and IPv6.
    pub addresses: [String; 2],
    /// Process id of its agent.
    pub agent: Option<u32>,
}

impl Lab {
    /// Sets up everything but `bypassctl` itself.
    ///
    /// # Errors
    /// Mostly those of an environment that does not allow it.
    pub fn raise(household: &Household) -> Result<Self, DemoError> {
        let ca = DevelopmentCa::new("bypassctl demo CA")?;
        let switch = Switch::new()?;
        let a = Member::raise(household, &ca, switch.pod(0, "a")?)?;
        let b = Member::raise(household, &ca, switch.pod(1, "b")?)?;
        let outsider = switch.pod(2, "outside")?;
        let markers = vec![artery::MARKER.to_vec(), artery::HELLO.to_vec(), format!("GET {MEMBERS}").into_bytes()];
        let ports = vec![REMOTING_PORT, MANAGEMENT_PORT];
        let capture = Capture::start(switch.netns(), b.pod.port_index(), ports, markers)
            .map_err(DemoError::io("capture what crosses the wire"))?;
        Ok(Self { household: household.clone(), ca, a, b, outsider, capture, switch })
    }

    /// The ways into the pods.
    #[must_use]
    pub fn doors(&self) -> Vec<PodDoor> {
        let agents = [&self.a, &self.b].map(|member| member.agent.as_ref().map(Agent::id));
        self.pods()
            .into_iter()
            .zip(agents.into_iter().chain([None]))
            .map(|(pod, agent)| PodDoor {
                name: pod.name(),
                namespace: format!("/proc/{}/fd/{}", std::process::id(), pod.netns().file().as_raw_fd()),
                addresses: Family::BOTH.map(|family| pod.address(family).to_string()),
                agent,
            })
            .collect()
    }

    /// The kernel's names of all namespaces.
    pub(super) fn namespaces(&self) -> Result<BTreeSet<String>, DemoError> {
        let pods = self.pods().into_iter().map(Pod::netns);
        pods.chain([self.switch.netns()])
            .map(holders::name_of)
            .collect::<Result<_, _>>()
            .map_err(DemoError::io("name the namespaces"))
    }

    fn pods(&self) -> [&Pod; 3] {
        [&self.a.pod, &self.b.pod, &self.outsider]
    }
}

impl Member {
    fn raise(household: &Household, ca: &DevelopmentCa, pod: Pod) -> Result<Self, DemoError> {
        let name = pod.name();
        let rules = |source| DemoError::Rules { pod: name, source };
        let enter = || DemoError::io("enter a pod's namespace");
        pod.netns().run(|| netfilter::apply(&[mesh::ruleset()])).map_err(enter())?.map_err(rules)?;
        let before = rules_of(&pod)?;
        let inbox = Inbox::default();
        let mut servers: Vec<Server> = mesh::proxy(&pod).map_err(DemoError::io("start the mesh's proxy"))?.into();
        for family in Family::BOTH {
            servers.extend(applications(&pod, family, &inbox).map_err(DemoError::io("start the applications"))?);
        }
        let mount = Mount::new(household.scratch().join(name), ca.certificate_pem(), &leaf(ca, MEMBER)?)
            .map_err(DemoError::io("write the certificates"))?;
        Ok(Self { pod, inbox, mount, agent: None, before, _servers: servers })
    }
}

/// Everything that nf_tables has in the pod.
pub(super) fn rules_of(pod: &Pod) -> Result<Snapshot, DemoError> {
    let attempt = || DemoError::io("read the rules back");
    pod.netns().run(Snapshot::take).map_err(attempt())?.map_err(attempt())
}

/// What the application of a pod is called.
pub(super) fn application_of(pod: &Pod) -> String {
    format!("app of {}", pod.name())
}

/// Like Akka, the application listens on the pod's own addresses, not on loopback.
fn applications(pod: &Pod, family: Family, inbox: &Inbox) -> std::io::Result<[Server; 3]> {
    let listen = |port| pod.listen(APP_UID, SocketAddr::new(pod.address(family), port));
    let node = format!("pekko://demo@{}", SocketAddr::new(pod.address(family), REMOTING_PORT));
    let management = move |path: &str, _| match path {
        "/ready" | "/alive" => Some("OK".to_owned()),
        MEMBERS => Some(format!(r#"{{"selfNode":"{node}","members":[{{"node":"{node}","status":"Up"}}]}}"#)),
        _ => None,
    };
    let hello = |_: &str, peer: SocketAddr| Some(format!("hello, {}\n", peer.ip()));
    Ok([
        inbox.listen(listen(REMOTING_PORT)?)?,
        http::serve(listen(MANAGEMENT_PORT)?, application_of(pod), management)?,
        http::serve(listen(HTTP_PORT)?, application_of(pod), hello)?,
    ])
}
