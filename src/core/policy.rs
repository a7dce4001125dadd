//! Whether a peer may connect.
//!
//! Invariant: [`authorize`] is a pure function of identity and rules, and its answer carries its evidence. The
//! certificate chain was verified before: nothing here trusts anything, it only compares.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::core::identity::{Allow, PeerIdentity};

/// Whether a certificate has to go with the address of whoever shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PeerAddress {
    /// It says who the peer is, wherever it is
    #[default]
    Any,
    /// It has to name the pod's address among its IP SANs, dialled and dialling
    Certificate,
    /// The API server has to know a pod with that address, of the service account that the certificate names
    Pod,
}

/// The peer may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The rule that says so.
    pub rule: Allow,
}

/// The peer may not connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why not.
    pub reason: DeniedReason,
    /// Who the peer is.
    pub seen: Box<PeerIdentity>,
    /// Who may connect.
    pub allowed: Vec<Allow>,
}

/// Why a peer may not connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeniedReason {
    /// It has an identity, and no rule names it.
    NotAllowed,
    /// Its certificate has no SPIFFE ID and no DNS name.
    NoIdentity,
    /// Its certificate has several URIs, one of them a SPIFFE ID at least, which X.509-SVID (section 2) forbids.
    SeveralSpiffeIds,
    /// Its certificate does not name the address that it has.
    OtherAddress(IpAddr),
    /// Its certificate names no service account, so no pod goes with it.
    NoServiceAccount,
    /// Its certificate names a service account of a trust domain whose pods nobody knows here.
    OtherCluster,
    /// No pod of the service account that its certificate names is known to have its address.
    OtherPod {
        /// The peer's.
        address: IpAddr,
        /// What is known of it.
        known: String,
    },
}

impl Denied {
    /// Whether whoever tells of pods may only be late.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self.reason, DeniedReason::OtherPod { .. })
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = &self.seen;
        let reason = match &self.reason {
            DeniedReason::OtherAddress(address) => {
                let named: Vec<String> = seen.ip_addresses.iter().map(ToString::to_string).collect();
                let named = if named.is_empty() { "none".to_owned() } else { named.join(" ") };
                return write!(f, "the peer has the address {address}, and its certificate names {named}: seen {seen}");
            }
            DeniedReason::NoServiceAccount => {
                let form = "spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT";
                return write!(f, "the peer's certificate names no service account ({form}), so no pod: seen {seen}");
            }
            DeniedReason::OtherCluster => {
                return write!(f, "the peer is of another trust domain, whose pods are not known here: seen {seen}");
            }
            DeniedReason::OtherPod { address, known } => {
                return write!(f, "the peer's address {address}: {known}; seen {seen}");
            }
            DeniedReason::NotAllowed => "the peer's identity is not allowed",
            DeniedReason::NoIdentity => "the peer's certificate has neither SPIFFE ID nor DNS name",
            DeniedReason::SeveralSpiffeIds => "the peer's certificate has several SPIFFE IDs or other URIs beside one",
        };
        write!(f, "{reason}: seen {seen}; allowed {}", allowed_text(&self.allowed))
    }
}

impl std::error::Error for Denied {}

/// Rules as one text, for logs.
#[must_use]
pub fn allowed_text(allowed: &[Allow]) -> String {
    allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Whether a peer of this identity may connect under these rules.
///
/// # Errors
/// The evidence, if it may not.
pub fn authorize(peer: &PeerIdentity, allowed: &[Allow]) -> Result<Permit, Denied> {
    let ids = peer.spiffe_ids.len();
    // Whoever says that it is two is nobody, whatever other names it has.
    let is_ambiguous = peer.is_ambiguous();
    if let Some(rule) = allowed.iter().find(|rule| matches(peer, rule)).filter(|_| !is_ambiguous) {
        return Ok(Permit { rule: rule.clone() });
    }
    let reason = match (ids, peer.dns_names.is_empty()) {
        _ if is_ambiguous => DeniedReason::SeveralSpiffeIds,
        (0, true) => DeniedReason::NoIdentity,
        _ => DeniedReason::NotAllowed,
    };
    Err(Denied { reason, seen: Box::new(peer.clone()), allowed: allowed.to_vec() })
}

/// Whether a peer with this identity may have this address, as far as its certificate tells.
///
/// # Errors
/// The evidence, if it may not.
pub fn authorize_address(peer: &PeerIdentity, address: IpAddr, rule: PeerAddress) -> Result<(), Denied> {
    let address = address.to_canonical();
    if rule != PeerAddress::Certificate || peer.ip_addresses.iter().any(|named| named.to_canonical() == address) {
        return Ok(());
    }
    Err(Denied { reason: DeniedReason::OtherAddress(address), seen: Box::new(peer.clone()), allowed: Vec::new() })
}

fn matches(peer: &PeerIdentity, rule: &Allow) -> bool {
    match (rule, peer.spiffe_ids.as_slice()) {
        (Allow::Spiffe(allowed), [id]) => id == allowed,
        (Allow::SpiffePrefix(prefix), [id]) => id.to_string().starts_with(prefix),
        (Allow::Spiffe(_) | Allow::SpiffePrefix(_), _) => false,
        (Allow::Dns(name), _) => peer.dns_names.iter().any(|dns| dns.eq_ignore_ascii_case(name)),
        (Allow::AnyOfCa, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(spiffe: &[&str], dns: &[&str]) -> PeerIdentity {
        PeerIdentity {
            spiffe_ids: spiffe.iter().map(|id| id.parse().unwrap()).collect(),
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            subject: "CN=x".to_owned(),
            ..PeerIdentity::default()
        }
    }

    fn rules(texts: &[&str]) -> Vec<Allow> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_exact_rule_permits_that_identity_and_no_other() {
        let allowed = rules(&["spiffe://d/ns/a/sa/x"]);
        assert_eq!(authorize(&peer(&["spiffe://d/ns/a/sa/x"], &[]), &allowed).unwrap().rule, allowed[0]);
        for other in ["spiffe://d/ns/a/sa/xy", "spiffe://d/ns/a/sa", "spiffe://e/ns/a/sa/x"] {
            let denied = authorize(&peer(&[other], &["spiffe"]), &allowed).unwrap_err();
            assert_eq!(denied.reason, DeniedReason::NotAllowed, "{other}");
            assert!(denied.to_string().contains(other) && denied.to_string().contains("spiffe://d/ns/a/sa/x"));
        }
    }

    #[test]
    fn whoever_says_that_it_is_two_is_nobody() {
        let allowed = rules(&["spiffe://d/x", "dns:cart", "ca"]);
        let two = peer(&["spiffe://d/x", "spiffe://d/y"], &["cart"]);
        let beside_another = PeerIdentity { other_uris: 1, ..peer(&["spiffe://d/x"], &["cart"]) };
        for ambiguous in [two, beside_another] {
            assert_eq!(authorize(&ambiguous, &allowed).unwrap_err().reason, DeniedReason::SeveralSpiffeIds);
        }
        assert!(authorize(&PeerIdentity { other_uris: 1, ..peer(&[], &["cart"]) }, &allowed).is_ok());
    }

    #[test]
    fn a_prefix_ends_where_its_star_stands() {
        let allowed = rules(&["spiffe://d/ns/a/*"]);
        assert!(authorize(&peer(&["spiffe://d/ns/a/sa/x"], &[]), &allowed).is_ok());
        assert!(authorize(&peer(&["spiffe://d/ns/ab/sa/x"], &[]), &allowed).is_err());
        assert!(authorize(&peer(&["spiffe://d.evil/ns/a/sa/x"], &[]), &allowed).is_err());
    }

    #[test]
    fn a_dns_rule_is_no_pattern_and_ignores_case() {
        let allowed = rules(&["dns:cart.shop"]);
        assert!(authorize(&peer(&[], &["CART.shop"]), &allowed).is_ok());
        assert!(authorize(&peer(&[], &["*.shop"]), &allowed).is_err());
        assert!(authorize(&peer(&[], &["a.cart.shop"]), &allowed).is_err());
    }

    #[test]
    fn a_certificate_goes_with_the_addresses_that_it_names() {
        let mut pod = peer(&["spiffe://d/x"], &[]);
        let judge =
            |pod: &PeerIdentity, text: &str| authorize_address(pod, text.parse().unwrap(), PeerAddress::Certificate);
        assert!(judge(&pod, "10.0.0.7").unwrap_err().to_string().contains("10.0.0.7, and its certificate names none"));
        assert!(authorize_address(&pod, "10.0.0.7".parse().unwrap(), PeerAddress::Any).is_ok());
        pod.ip_addresses = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        for own in ["10.0.0.7", "::ffff:10.0.0.7", "fd00::7"] {
            assert!(judge(&pod, own).is_ok(), "{own}");
        }
        let denied = judge(&pod, "10.0.0.8").unwrap_err();
        assert!(denied.to_string().contains("names 10.0.0.7 fd00::7: seen spiffe://d/x"), "{denied}");
    }

    #[test]
    fn two_spiffe_ids_are_nobody() {
        let allowed = rules(&["spiffe://d/x", "spiffe://d/*"]);
        let denied = authorize(&peer(&["spiffe://d/x", "spiffe://d/y"], &[]), &allowed).unwrap_err();
        assert_eq!(denied.reason, DeniedReason::SeveralSpiffeIds);
    }

    #[test]
    fn a_certificate_without_names_needs_the_rule_ca() {
        let nobody = peer(&[], &[]);
        assert_eq!(authorize(&nobody, &rules(&["dns:a"])).unwrap_err().reason, DeniedReason::NoIdentity);
        assert!(authorize(&nobody, &rules(&["ca"])).is_ok());
        assert!(authorize(&nobody, &[]).is_err(), "no rule allows nobody");
    }
}
