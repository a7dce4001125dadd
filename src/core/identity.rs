//! Who a peer is, and which peers are allowed, as certificates and `--allow` say it.
//!
//! Invariant: a [`SpiffeId`] and an [`Allow`] are valid once they exist; comparing them is comparing text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3).
const MAX_SPIFFE_ID: usize = 2048;
/// Longest trust domain in bytes (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;
/// Longest DNS name in bytes (RFC 1035, section 2.3.4, without the root's dot).
const MAX_DNS_NAME: usize = 253;
const SCHEME: &str = "spiffe://";

/// Why a text names no identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Neither of the three forms.
    #[error("{0:?} is no identity: write spiffe://TRUST_DOMAIN/PATH (a trailing * matches the rest), dns:NAME, or ca")]
    UnknownForm(String),
    /// The part between `spiffe://` and the next slash.
    #[error("{text:?}: {domain:?} is no trust domain: 1 to 255 of a-z, 0-9, dot, dash and underscore")]
    TrustDomain {
        /// What was written.
        text: String,
        /// The part at fault.
        domain: String,
    },
    /// The part after the trust domain.
    #[error("{text:?} is no SPIFFE ID: {fault}")]
    Path {
        /// What was written.
        text: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A star that would match what nobody means.
    #[error("{0:?}: * may stand at the end only, after the slash that ends the trust domain")]
    Star(String),
    /// Not a host name.
    #[error("{0:?} is no DNS name: labels of letters, digits, dash and underscore, without wildcards")]
    DnsName(String),
}

/// The part of a SPIFFE ID that names whose authority issued it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match split_spiffe(&format!("{SCHEME}{text}"))? {
            (domain, "") => Ok(domain),
            _ => Err(IdentityError::TrustDomain { text: text.to_owned(), domain: text.to_owned() }),
        }
    }
}

/// `spiffe://TRUST_DOMAIN/PATH` (SPIFFE-ID, section 2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or starting with a slash.
    path: String,
}

impl SpiffeId {
    /// Whose authority issued it.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What follows the trust domain: empty, or starting with a slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl SpiffeId {
    /// Of what Kubernetes calls `system:serviceaccount:NAMESPACE:NAME`, as meshes name it; `None` if it is something else.
    #[must_use]
    pub fn of_service_account(trust_domain: &TrustDomain, user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{name}").parse().ok()
    }

    /// Namespace and name of the service account, if it is one's: the other way round.
    #[must_use]
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.path.strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !name.contains('/')).then_some((namespace, name))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (trust_domain, path) = split_spiffe(text)?;
        if path == "/" || path.ends_with('/') {
            return Err(IdentityError::Path { text: text.to_owned(), fault: "it ends with a slash" });
        }
        Ok(Self { trust_domain, path: path.to_owned() })
    }
}

/// The trust domain, and the path with its leading slash; the path may end with a slash.
fn split_spiffe(text: &str) -> Result<(TrustDomain, &str), IdentityError> {
    let fail = |fault| Err(IdentityError::Path { text: text.to_owned(), fault });
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return Err(IdentityError::UnknownForm(text.to_owned()));
    };
    if text.len() > MAX_SPIFFE_ID {
        return fail("it is longer than 2048 bytes");
    }
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if domain.is_empty() || domain.len() > MAX_TRUST_DOMAIN || !domain.chars().all(allowed) {
        return Err(IdentityError::TrustDomain { text: text.to_owned(), domain: domain.to_owned() });
    }
    if !path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/')) {
        return fail("its path may hold letters, digits, dot, dash, underscore and slash");
    }
    let segments = path.strip_prefix('/').unwrap_or("").trim_end_matches('/');
    if path.contains("//") || segments.split('/').any(|segment| matches!(segment, "." | "..")) {
        return fail("its path has an empty or a relative segment");
    }
    Ok((TrustDomain(domain.to_owned()), path))
}

/// What a certificate says about its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// URI SANs that are SPIFFE IDs; an X.509-SVID has exactly one.
    pub spiffe_ids: Vec<SpiffeId>,
    /// How many URI SANs are none; beside a SPIFFE ID there may be none (X.509-SVID, section 2).
    pub other_uris: usize,
    /// DNS SANs, in lower case.
    pub dns_names: Vec<String>,
    /// IP SANs.
    pub ip_addresses: Vec<IpAddr>,
    /// The subject, for the log; it authorizes nothing.
    pub subject: String,
}

impl PeerIdentity {
    /// Whether it says that it is two; then it is nobody (X.509-SVID, section 2).
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.spiffe_ids.len() > 1 || (self.spiffe_ids.len() == 1 && self.other_uris > 0)
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.spiffe_ids.iter().map(ToString::to_string);
        let mut names: Vec<_> = names.chain(self.dns_names.iter().map(|name| format!("dns:{name}"))).collect();
        if names.is_empty() {
            names.push(format!("subject {:?}", self.subject));
        }
        f.write_str(&names.join(" "))
    }
}

/// A rule of `--allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Exactly this SPIFFE ID.
    Spiffe(SpiffeId),
    /// Every SPIFFE ID that starts with this text, which holds the whole trust domain and its slash.
    SpiffePrefix(String),
    /// This DNS SAN, in lower case.
    Dns(String),
    /// Every certificate of our certificate authorities.
    AnyOfCa,
}

impl Allow {
    /// The rules for whoever has the identity of this certificate: its SPIFFE ID, or else its DNS names.
    #[must_use]
    pub fn same_as(own: &PeerIdentity) -> Vec<Self> {
        match own.spiffe_ids.as_slice() {
            [id] => vec![Self::Spiffe(id.clone())],
            _ => own.dns_names.iter().filter(|name| !name.contains('*')).cloned().map(Self::Dns).collect(),
        }
    }
}

impl Allow {
    /// What whoever wrote this rule may not have meant, given who we are and whose other trust domains' roots are known.
    #[must_use]
    pub fn doubt(&self, own: &PeerIdentity, federated: &[&TrustDomain]) -> Option<String> {
        let (domain, path) = match self {
            Self::Spiffe(id) => (id.trust_domain().0.as_str(), id.path()),
            Self::SpiffePrefix(prefix) => prefix[SCHEME.len()..].split_once('/')?,
            Self::Dns(_) | Self::AnyOfCa => return None,
        };
        let is_known = |known: &TrustDomain| known.0 == domain;
        let is_own = own.spiffe_ids.iter().any(|id| is_known(id.trust_domain()));
        if !own.spiffe_ids.is_empty() && !is_own && !federated.iter().any(|known| is_known(known)) {
            return Some(format!(
                "--allow {self} is about trust domain {domain}, and there is no --tls-federated for it: our own authority may speak \
                 for it, and its own may not"
            ));
        }
        let ends_inside_a_name = path.ends_with(|c: char| c.is_ascii_alphanumeric());
        if matches!(self, Self::SpiffePrefix(_)) && ends_inside_a_name {
            let prefix = self.to_string();
            let prefix = prefix.trim_end_matches('*');
            return Some(format!("--allow {self} also admits {prefix}-other/…: write {prefix}/* if that is not meant"));
        }
        None
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => id.fmt(f),
            Self::SpiffePrefix(prefix) => write!(f, "{prefix}*"),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::AnyOfCa => f.write_str("ca"),
        }
    }
}

impl FromStr for Allow {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text == "ca" {
            return Ok(Self::AnyOfCa);
        }
        if let Some(name) = text.strip_prefix("dns:") {
            return dns_name(name).map(Self::Dns);
        }
        let Some(prefix) = text.strip_suffix('*') else {
            if text.starts_with(SCHEME) && text.contains('*') {
                return Err(IdentityError::Star(text.to_owned()));
            }
            return text.parse().map(Self::Spiffe);
        };
        if prefix.starts_with(SCHEME) && (prefix.contains('*') || !prefix[SCHEME.len()..].contains('/')) {
            return Err(IdentityError::Star(text.to_owned()));
        }
        if !prefix.starts_with(SCHEME) {
            return Err(IdentityError::UnknownForm(text.to_owned()));
        }
        split_spiffe(prefix)?;
        Ok(Self::SpiffePrefix(prefix.to_owned()))
    }
}

fn dns_name(text: &str) -> Result<String, IdentityError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > MAX_DNS_NAME || !text.split('.').all(label) {
        return Err(IdentityError::DnsName(text.to_owned()));
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_parses_prints_as_it_was_written() {
        for text in [
            "spiffe://cluster.local/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/*",
            "spiffe://cluster.local/*",
            "spiffe://cluster.local/ns/shop/sa/cart-*",
            "spiffe://cluster.local",
            "dns:cart.shop.svc",
            "ca",
        ] {
            assert_eq!(text.parse::<Allow>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_that_does_not_parse_says_why() {
        for (text, part) in [
            ("", "is no identity"),
            ("cart", "is no identity"),
            ("*", "\"*\" is no identity"),
            ("shop*", "\"shop*\" is no identity"),
            ("CA", "is no identity"),
            ("SPIFFE://a/b", "is no identity"),
            ("spiffe://", "no trust domain"),
            ("spiffe:///ns/a", "no trust domain"),
            ("spiffe://Cluster.Local/ns/a", "no trust domain"),
            ("spiffe://user@cluster.local/a", "no trust domain"),
            ("spiffe://cluster.local:443/a", "no trust domain"),
            ("spiffe://cluster.local/", "ends with a slash"),
            ("spiffe://cluster.local/a/", "ends with a slash"),
            ("spiffe://cluster.local/a//b", "empty or a relative"),
            ("spiffe://cluster.local/a/../b", "empty or a relative"),
            ("spiffe://cluster.local/a?b", "may hold"),
            ("spiffe://cluster.local/ä", "may hold"),
            ("spiffe://*", "may stand at the end only"),
            ("spiffe://cluster*", "may stand at the end only"),
            ("spiffe://cluster.local/*/sa/a", "may stand at the end only"),
            ("spiffe://cluster.local/a*b*", "may stand at the end only"),
            ("dns:", "no DNS name"),
            ("dns:*.shop", "no DNS name"),
            ("dns:a..b", "no DNS name"),
            ("dns:-a", "no DNS name"),
        ] {
            let error = text.parse::<Allow>().expect_err(text).to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn rules_that_admit_more_than_they_seem_to_are_doubted() {
        let own =
            PeerIdentity { spiffe_ids: vec!["spiffe://east/ns/shop/sa/cart".parse().unwrap()], ..Default::default() };
        let west = "west".parse().unwrap();
        for (rule, part) in [
            ("spiffe://east/ns/shop*", "also admits spiffe://east/ns/shop-other/"),
            ("spiffe://east/ns/shop/sa/cart*", "write spiffe://east/ns/shop/sa/cart/*"),
            ("spiffe://north/*", "no --tls-federated for it"),
            ("spiffe://north/ns/a", "about trust domain north"),
        ] {
            let doubt = rule.parse::<Allow>().unwrap().doubt(&own, &[&west]).expect(rule);
            assert!(doubt.contains(part), "{doubt}");
        }
        for rule in [
            "spiffe://east/ns/shop/*",
            "spiffe://east/ns/shop/sa/cart-*",
            "spiffe://east/*",
            "spiffe://west/*",
            "spiffe://west/ns/a",
            "dns:a",
            "ca",
        ] {
            assert_eq!(rule.parse::<Allow>().unwrap().doubt(&own, &[&west]), None, "{rule}");
        }
        assert_eq!("spiffe://a/*".parse::<Allow>().unwrap().doubt(&PeerIdentity::default(), &[]), None);
    }

    #[test]
    fn our_own_identity_is_the_spiffe_id_and_only_without_one_the_dns_names() {
        let mut own = PeerIdentity { dns_names: vec!["a".to_owned(), "b".to_owned()], ..PeerIdentity::default() };
        assert_eq!(Allow::same_as(&own), [Allow::Dns("a".to_owned()), Allow::Dns("b".to_owned())]);
        own.spiffe_ids = vec!["spiffe://d/x".parse().unwrap()];
        assert_eq!(Allow::same_as(&own), ["spiffe://d/x".parse().unwrap()]);
        assert_eq!(Allow::same_as(&PeerIdentity::default()), []);
    }
}
