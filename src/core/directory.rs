//! Which pods have which addresses, as an API server says, and whether a peer's identity goes with its address.
//!
//! Invariant: its size is bounded whatever an API server says, and an address of which nothing is known goes with nobody.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Serialize;

use crate::core::identity::{PeerIdentity, TrustDomain};
use crate::core::policy::{Denied, DeniedReason};

/// Pods of all namespaces together, some 2 MB; the largest cluster that Kubernetes promises has 150,000, in many namespaces.
const MOST_PODS: usize = 10_000;
/// A pod has one a family.
const MOST_ADDRESSES: usize = 4;
/// The longest name of a pod and of a service account, in bytes.
const LONGEST_NAME: usize = 253;

/// What `--peer-namespace` says.
///
/// # Errors
/// If no namespace can have this name (RFC 1123).
pub fn parse_namespace(name: &str) -> Result<String, String> {
    let of_it = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let is_label = (1..=63).contains(&name.len()) && name.bytes().all(of_it) && !name.starts_with('-');
    if is_label && !name.ends_with('-') { Ok(name.to_owned()) } else { Err(format!("{name:?} is no namespace")) }
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// Its name.
    pub name: String,
    /// Whom it runs as.
    pub service_account: String,
    /// Its own addresses; none if it has ended, has none yet, or has its node's.
    pub addresses: Vec<IpAddr>,
}

/// The pods of some namespaces.
#[derive(Debug, Default)]
pub struct Directory {
    fault: Option<String>,
    namespaces: BTreeMap<String, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    pods: HashMap<String, Holder>,
    is_known: bool,
    fault: Option<String>,
    is_cut: bool,
}

#[derive(Debug)]
struct Holder {
    service_account: String,
    addresses: Vec<IpAddr>,
}

/// How much is known of a namespace; what `/status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Its name.
    pub namespace: String,
    /// Whether its pods were listed once.
    pub known: bool,
    /// Pods with an address.
    pub pods: usize,
    /// Whether there are more pods than are kept.
    pub incomplete: bool,
    /// Why it may be out of date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Directory {
    /// Of these namespaces, before anybody has answered.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Self {
        let empty = namespaces.iter().map(|name| (name.clone(), Namespace::default()));
        Self { fault: None, namespaces: empty.collect() }
    }

    /// Nobody can be asked, for this reason. What is known stays.
    pub fn fail(&mut self, fault: String) {
        self.fault = Some(fault);
    }

    /// The pods of this namespace cannot be asked for, or can again.
    pub fn set_fault(&mut self, namespace: &str, fault: Option<String>) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.fault = fault;
        }
    }

    /// All pods of a namespace, in place of what was known of it.
    pub fn replace(&mut self, namespace: &str, pods: impl IntoIterator<Item = PodRecord>) {
        if let Some(known) = self.namespaces.get_mut(namespace) {
            *known = Namespace { is_known: true, ..Namespace::default() };
            pods.into_iter().for_each(|pod| self.put(namespace, pod));
        }
    }

    /// A pod that is new or has changed.
    pub fn put(&mut self, namespace: &str, pod: PodRecord) {
        let count: usize = self.namespaces.values().map(|namespace| namespace.pods.len()).sum();
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        let PodRecord { name, service_account, addresses } = pod;
        known.pods.remove(&name);
        if addresses.is_empty() {
            return;
        }
        if count >= MOST_PODS || name.len() > LONGEST_NAME || service_account.len() > LONGEST_NAME {
            known.is_cut = true;
            return;
        }
        let addresses = addresses.into_iter().take(MOST_ADDRESSES).map(|address| address.to_canonical()).collect();
        known.pods.insert(name, Holder { service_account, addresses });
    }

    /// A pod that is gone.
    pub fn remove(&mut self, namespace: &str, pod: &str) {
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.pods.remove(pod);
        }
    }

    /// Namespace by namespace; empty as long as nobody knows which.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let known = self.namespaces.iter().map(|(name, namespace)| Known {
            namespace: name.clone(),
            known: namespace.is_known,
            pods: namespace.pods.len(),
            incomplete: namespace.is_cut,
            fault: namespace.fault.clone().or_else(|| self.fault.clone()),
        });
        known.collect()
    }

    /// Why peers are refused that belong here: pods that were never listed.
    #[must_use]
    pub fn lacks(&self) -> Option<String> {
        if self.namespaces.is_empty() {
            let fault = self.fault.as_deref().unwrap_or("the API server has not answered yet");
            return Some(format!("no pods are known: {fault}"));
        }
        let (name, namespace) = self.namespaces.iter().find(|(_, namespace)| !namespace.is_known)?;
        let fault = namespace.fault.as_deref().unwrap_or("the API server has not answered yet");
        Some(format!("the pods of namespace {name} are not known: {fault}"))
    }

    /// What somebody should know although peers are let in.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let told = self.namespaces.iter().filter(|(_, namespace)| namespace.is_known).flat_map(|(name, namespace)| {
            let stale = namespace.fault.as_ref().map(|fault| {
                format!("the pods of namespace {name} are those of a while ago, so newer ones are refused: {fault}")
            });
            let cut = namespace.is_cut.then(|| {
                format!("namespace {name}: of more than {MOST_PODS} pods in all the rest is not kept, and is refused")
            });
            [stale, cut].into_iter().flatten()
        });
        told.collect()
    }

    fn holders(&self, namespace: &str, address: IpAddr) -> Result<Vec<(&str, &str)>, String> {
        let Some(known) = self.namespaces.get(namespace) else {
            return Err(self.lacks().filter(|_| self.namespaces.is_empty()).unwrap_or_else(|| {
                format!("pods of namespace {namespace} are not asked for; name it with --peer-namespace")
            }));
        };
        let holders = known.pods.iter().filter(|(_, holder)| holder.addresses.contains(&address));
        let holders: Vec<_> = holders.map(|(name, holder)| (name.as_str(), holder.service_account.as_str())).collect();
        match (holders.is_empty(), known.is_known) {
            (false, _) => Ok(holders),
            (true, false) => Err(self.lacks().unwrap_or_default()),
            (true, true) => {
                let doubt = known.fault.as_ref().map(|fault| format!(" (as of a while ago: {fault})"));
                Err(format!("no pod of namespace {namespace} has it{}", doubt.unwrap_or_default()))
            }
        }
    }
}

/// Whether a peer with this identity may have this address: whether a pod that has it runs as the service account that the
/// identity names. `own` is our own trust domain: of another's pods this API server knows nothing.
///
/// # Errors
/// The evidence, if it may not.
pub fn authorize_pod(
    peer: &PeerIdentity,
    address: IpAddr,
    own: Option<&TrustDomain>,
    directory: &Directory,
) -> Result<(), Denied> {
    let denied = |reason| Denied { reason, seen: Box::new(peer.clone()), allowed: Vec::new() };
    let [id] = peer.spiffe_ids.as_slice() else { return Err(denied(DeniedReason::NoServiceAccount)) };
    let (namespace, service_account) = id.service_account().ok_or_else(|| denied(DeniedReason::NoServiceAccount))?;
    if own.is_none_or(|own| own != id.trust_domain()) {
        return Err(denied(DeniedReason::OtherCluster));
    }
    let address = address.to_canonical();
    let other_pod = |known| denied(DeniedReason::OtherPod { address, known });
    let holders = directory.holders(namespace, address).map_err(other_pod)?;
    if holders.iter().any(|(_, runs_as)| *runs_as == service_account) {
        return Ok(());
    }
    let (pod, runs_as) = holders[0];
    Err(other_pod(format!("it is pod {namespace}/{pod}'s, whose service account is {runs_as}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, service_account: &str, addresses: &[&str]) -> PodRecord {
        PodRecord {
            name: name.to_owned(),
            service_account: service_account.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn peer(id: &str) -> PeerIdentity {
        PeerIdentity { spiffe_ids: vec![id.parse().unwrap()], ..PeerIdentity::default() }
    }

    fn shop() -> Directory {
        let mut directory = Directory::of(&["shop".to_owned()]);
        directory
            .replace("shop", [pod("cart-0", "cart", &["10.0.0.7", "fd00::7"]), pod("pay-0", "pay", &["10.0.0.8"])]);
        directory
    }

    fn judge(directory: &Directory, id: &str, address: &str) -> Result<(), String> {
        let own = "d".parse().unwrap();
        let judged = authorize_pod(&peer(id), address.parse().unwrap(), Some(&own), directory);
        judged.map_err(|denied| denied.to_string())
    }

    #[test]
    fn an_identity_goes_with_the_addresses_of_its_service_accounts_pods() {
        let directory = shop();
        for address in ["10.0.0.7", "::ffff:10.0.0.7", "fd00::7"] {
            assert_eq!(judge(&directory, "spiffe://d/ns/shop/sa/cart", address), Ok(()));
        }
        for (id, address, part) in [
            ("spiffe://d/ns/shop/sa/cart", "10.0.0.8", "it is pod shop/pay-0's, whose service account is pay"),
            ("spiffe://d/ns/shop/sa/cart", "10.0.0.9", "10.0.0.9: no pod of namespace shop has it"),
            ("spiffe://d/ns/bank/sa/cart", "10.0.0.7", "name it with --peer-namespace"),
            ("spiffe://e/ns/shop/sa/cart", "10.0.0.7", "another trust domain"),
            ("spiffe://d/cart", "10.0.0.7", "no service account"),
            ("spiffe://d/ns/shop/sa/cart/x", "10.0.0.7", "no service account"),
        ] {
            let error = judge(&directory, id, address).unwrap_err();
            assert!(error.contains(part) && error.contains(id), "{error}");
        }
        let named = PeerIdentity { dns_names: vec!["cart.shop".to_owned()], ..PeerIdentity::default() };
        assert!(authorize_pod(&named, "10.0.0.7".parse().unwrap(), None, &directory).is_err());
    }

    #[test]
    fn what_is_not_known_yet_goes_with_nobody_and_says_why() {
        let id = "spiffe://d/ns/shop/sa/cart";
        let mut directory = Directory::default();
        directory.fail("no token".to_owned());
        assert!(judge(&directory, id, "10.0.0.7").unwrap_err().contains("no pods are known: no token"));
        directory = Directory::of(&["shop".to_owned()]);
        assert!(judge(&directory, id, "10.0.0.7").unwrap_err().contains("has not answered yet"));
        directory.set_fault("shop", Some("forbidden".to_owned()));
        assert!(directory.lacks().unwrap().contains("namespace shop are not known: forbidden"));
        // Once known it stays, and is doubted.
        directory = shop();
        directory.set_fault("shop", Some("gone".to_owned()));
        assert_eq!((directory.lacks(), judge(&directory, id, "10.0.0.7")), (None, Ok(())));
        assert!(directory.doubts()[0].contains("those of a while ago"));
        assert!(judge(&directory, id, "10.0.0.9").unwrap_err().contains("(as of a while ago: gone)"));
    }

    #[test]
    fn a_pod_that_ends_or_moves_leaves_its_address() {
        let mut directory = shop();
        directory.put("shop", pod("cart-0", "cart", &["10.0.0.9"]));
        let id = "spiffe://d/ns/shop/sa/cart";
        assert!(judge(&directory, id, "10.0.0.9").is_ok() && judge(&directory, id, "10.0.0.7").is_err());
        directory.put("shop", pod("cart-0", "cart", &[]));
        assert!(judge(&directory, id, "10.0.0.9").is_err());
        directory.remove("shop", "pay-0");
        assert_eq!(directory.known()[0].pods, 0);
    }

    #[test]
    fn it_keeps_no_more_than_it_may() {
        let mut directory = Directory::of(&["shop".to_owned()]);
        let many = (0..=MOST_PODS).map(|number| pod(&format!("cart-{number}"), "cart", &["10.0.0.7"]));
        directory.replace("shop", many);
        assert_eq!((directory.known()[0].pods, directory.known()[0].incomplete), (MOST_PODS, true));
        assert!(directory.doubts()[0].contains("is not kept"));
        directory.replace("shop", [pod(&"x".repeat(300), "cart", &["10.0.0.7"])]);
        assert_eq!(directory.known()[0].pods, 0);
    }
}
