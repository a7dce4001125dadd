//! The traffic under the names of Istio's standard TCP metrics, so that Kiali draws its edges.
//!
//! Labels: <https://istio.io/latest/docs/reference/config/metrics/>; all that Kiali groups by must be there.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::core::istio::{Party, UNKNOWN};
use crate::core::route::Direction;
use crate::proxy::Sidecar;
use crate::proxy::traffic::{Account, Sums, Who};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Edge {
    reporter: &'static str,
    source_principal: String,
    source_workload: String,
    source_workload_namespace: String,
    source_canonical_service: String,
    source_canonical_revision: &'static str,
    source_app: String,
    source_version: &'static str,
    source_cluster: String,
    destination_principal: String,
    destination_workload: String,
    destination_workload_namespace: String,
    destination_canonical_service: String,
    destination_canonical_revision: &'static str,
    destination_app: String,
    destination_version: &'static str,
    destination_cluster: String,
    destination_service: &'static str,
    destination_service_name: &'static str,
    destination_service_namespace: String,
    connection_security_policy: &'static str,
    request_protocol: &'static str,
    response_flags: &'static str,
}

impl Edge {
    fn new((direction, who): &Account, own: &Party) -> Self {
        let peer = match who {
            Who::Peer(identity) => Party::peer(identity, own),
            Who::Other | Who::Nobody => Party::unknown(),
        };
        let (reporter, source, destination) = match direction {
            Direction::Outbound => ("source", own.clone(), peer),
            Direction::Inbound => ("destination", peer, own.clone()),
        };
        Self {
            reporter,
            source_principal: source.principal,
            source_canonical_service: source.workload.clone(),
            source_app: source.workload.clone(),
            source_workload: source.workload,
            source_workload_namespace: source.namespace,
            source_canonical_revision: source.revision,
            source_version: source.revision,
            source_cluster: source.cluster,
            destination_principal: destination.principal,
            destination_canonical_service: destination.workload.clone(),
            destination_app: destination.workload.clone(),
            destination_workload: destination.workload,
            destination_workload_namespace: destination.namespace.clone(),
            destination_canonical_revision: destination.revision,
            destination_version: destination.revision,
            destination_cluster: destination.cluster,
            // Nodes dial pods, and no service.
            destination_service: UNKNOWN,
            destination_service_name: UNKNOWN,
            destination_service_namespace: destination.namespace,
            connection_security_policy: if *who == Who::Nobody { "none" } else { "mutual_tls" },
            request_protocol: "tcp",
            response_flags: "-",
        }
    }
}

/// The sums as Istio's metrics, made anew for each scrape. Received is what the dialling side sent and sent what it got, at
/// both reporters.
pub(super) fn metrics(traffic: &BTreeMap<Account, Sums>, own: &Party) -> Registry {
    let mut registry = Registry::with_prefix("istio_tcp");
    let mut family = |name, help| {
        let family = Family::<Edge, Counter>::default();
        registry.register(name, help, family.clone());
        family
    };
    let opened = family("connections_opened", "Connections opened");
    let closed = family("connections_closed", "Connections closed");
    let received = family("received_bytes", "Bytes from the side that dialled");
    let sent = family("sent_bytes", "Bytes to the side that dialled");
    for (account, sums) in traffic {
        let edge = Edge::new(account, own);
        let (from_dialler, to_dialler) = match account.0 {
            Direction::Outbound => (sums.bytes_out, sums.bytes_in),
            Direction::Inbound => (sums.bytes_in, sums.bytes_out),
        };
        opened.get_or_create(&edge).inc_by(sums.opened);
        closed.get_or_create(&edge).inc_by(sums.closed);
        received.get_or_create(&edge).inc_by(from_dialler);
        sent.get_or_create(&edge).inc_by(to_dialler);
    }
    registry
}

impl Sidecar {
    /// This pod, as Istio's metrics name it.
    pub(super) fn party(&self) -> Party {
        let observe = &self.config.observe;
        let principal = self.credentials().map(|credentials| credentials.leaf.identity.to_string());
        let (workload, namespace) = (observe.workload.as_deref(), observe.workload_namespace.as_deref());
        Party::own(principal.as_deref(), workload, namespace, &observe.cluster_name)
    }
}
