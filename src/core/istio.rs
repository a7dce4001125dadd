//! Who talked with whom, in the terms of Istio's standard metrics.
//!
//! A certificate names a service account and not a workload. A peer with our own principal is taken for our own workload,
//! which it is in an ordinary cluster, whose nodes are replicas; any other is called by its service account. Without a
//! name Kiali draws no edge.

use crate::core::identity::SpiffeId;

/// Istio's word for what is not known.
pub const UNKNOWN: &str = "unknown";
/// Istio's revision of a workload without a version label.
const REVISION: &str = "latest";

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// SPIFFE ID, or the names of the certificate.
    pub principal: String,
    /// The workload, which is the canonical service too.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// The revision of the canonical service.
    pub revision: &'static str,
    /// The Kubernetes cluster, by Istio's name.
    pub cluster: String,
}

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`
struct ServiceAccount {
    trust_domain: String,
    namespace: String,
    name: String,
}

impl Party {
    /// Nobody that is known.
    #[must_use]
    pub fn unknown() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self { principal: unknown(), workload: unknown(), namespace: unknown(), revision: UNKNOWN, cluster: unknown() }
    }

    /// This pod; what the options leave open is what the certificate says.
    #[must_use]
    pub fn own(principal: Option<&str>, workload: Option<&str>, namespace: Option<&str>, cluster: &str) -> Self {
        let account = principal.and_then(service_account);
        let either = |option: Option<&str>, told: Option<&String>| {
            option.map(str::to_owned).or(told.cloned()).unwrap_or_else(|| UNKNOWN.to_owned())
        };
        Self {
            principal: principal.unwrap_or(UNKNOWN).to_owned(),
            workload: either(workload, account.as_ref().map(|account| &account.name)),
            namespace: either(namespace, account.as_ref().map(|account| &account.namespace)),
            revision: REVISION,
            cluster: cluster.to_owned(),
        }
    }

    /// A peer of ours.
    #[must_use]
    pub fn peer(principal: &str, own: &Self) -> Self {
        if principal == own.principal {
            return own.clone();
        }
        let unknown = Self { principal: principal.to_owned(), ..Self::unknown() };
        let Some(account) = service_account(principal) else { return unknown };
        let ours = service_account(&own.principal);
        let is_near = ours.is_some_and(|ours| ours.trust_domain == account.trust_domain);
        Self {
            workload: account.name,
            namespace: account.namespace,
            revision: REVISION,
            // Kiali drops what has a namespace and no cluster.
            cluster: if is_near { own.cluster.clone() } else { unknown.cluster },
            principal: unknown.principal,
        }
    }
}

fn service_account(principal: &str) -> Option<ServiceAccount> {
    let id: SpiffeId = principal.parse().ok()?;
    let segments: Vec<&str> = id.path().split('/').collect();
    let ["", "ns", namespace, "sa", name] = segments.as_slice() else { return None };
    let trust_domain = id.trust_domain().to_string();
    Some(ServiceAccount { trust_domain, namespace: (*namespace).to_owned(), name: (*name).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    fn own() -> Party {
        Party::own(Some(OWN), Some("cart-v2"), None, "Kubernetes")
    }

    #[test]
    fn options_beat_the_certificate_and_what_neither_tells_is_unknown() {
        assert_eq!((own().workload.as_str(), own().namespace.as_str()), ("cart-v2", "shop"));
        let told = Party::own(Some(OWN), None, Some("market"), "east");
        assert_eq!((told.workload, told.namespace, told.cluster), ("cart".into(), "market".into(), "east".into()));
        let plain = Party::own(None, None, None, "Kubernetes");
        assert_eq!((plain.principal.as_str(), plain.workload.as_str()), (UNKNOWN, UNKNOWN));
    }

    #[test]
    fn a_peer_is_our_workload_by_our_principal_and_else_its_service_account() {
        assert_eq!(Party::peer(OWN, &own()), own());
        let other = Party::peer("spiffe://cluster.local/ns/market/sa/orders", &own());
        assert_eq!((other.workload.as_str(), other.namespace.as_str()), ("orders", "market"));
        assert_eq!((other.cluster.as_str(), other.revision), ("Kubernetes", "latest"));
        assert_eq!(Party::peer("spiffe://elsewhere/ns/market/sa/orders", &own()).cluster, UNKNOWN);
        for name in ["dns:orders.shop.svc", "spiffe://cluster.local/workload/orders", "dns:a dns:b"] {
            let peer = Party::peer(name, &own());
            assert_eq!((peer.principal.as_str(), peer.workload.as_str()), (name, UNKNOWN));
        }
    }
}
