//! What TLS of Akka's and Pekko's own asks of certificates, where files are its source (`RotatingKeysSSLEngineProvider`):
//! what keeps a node with it and a node with a sidecar apart. `docs/identity.md` says what was tried.

use std::collections::BTreeSet;

/// A certificate, as far as it matters to such a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    key: String,
    names: BTreeSet<String>,
    usages: Vec<String>,
}

impl Shown {
    /// `key` as in `EC P-256` or `RSA 2048`; `usages` are `server` and `client`, or none for any.
    #[must_use]
    pub fn new<'a>(
        key: &str,
        common_name: Option<&'a str>,
        dns_names: impl IntoIterator<Item = &'a str>,
        usages: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let names = dns_names.into_iter().chain(common_name).filter(|name| !name.is_empty()).map(str::to_owned);
        Self { key: key.to_owned(), names: names.collect(), usages: usages.into_iter().map(str::to_owned).collect() }
    }

    /// What keeps any such node from taking it, or from having it; empty if nothing does.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let key = (!self.key.starts_with("RSA")).then(|| {
            format!(
                "its key is {}, and Akka's and Pekko's RotatingKeysSSLEngineProvider reads RSA keys alone",
                self.key
            )
        });
        let name = self.names.is_empty().then(|| {
            "it has no DNS name and no common name, and RotatingKeysSSLEngineProvider demands one that all nodes share"
                .to_owned()
        });
        let usage = match self.usages.as_slice() {
            [] => None,
            usages => {
                let missing = ["server", "client"].into_iter().find(|usage| !usages.iter().any(|one| one == usage));
                missing.map(|usage| format!("its extended key usage does not let it be a {usage}, and a node is both"))
            }
        };
        [key, name, usage].into_iter().flatten().collect()
    }

    /// Why these two share no name, if they do not.
    #[must_use]
    pub fn no_shared_name(&self, other: &Self) -> Option<String> {
        if self.names.is_empty() || other.names.is_empty() || !self.names.is_disjoint(&other.names) {
            return None;
        }
        let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        Some(format!(
            "the two share no DNS name or common name ({} and {}), which RotatingKeysSSLEngineProvider demands",
            list(&self.names),
            list(&other.names)
        ))
    }
}

/// The common name of a subject such as `O=shop, CN=cart`.
#[must_use]
pub fn common_name(subject: &str) -> Option<&str> {
    subject.split(", ").find_map(|part| part.trim().strip_prefix("CN="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rsa_certificate_with_a_name_for_both_sides_is_taken() {
        for usages in [&[][..], &["client", "server"]] {
            let shown = Shown::new("RSA 2048", Some("cart"), ["cart.shop"], usages.iter().copied());
            assert_eq!(shown.obstacles(), [] as [&str; 0]);
        }
        let bad = Shown::new("EC P-256", None, [], ["server"]).obstacles();
        assert_eq!(bad.len(), 3, "{bad:?}");
        assert!(bad[0].contains("EC P-256") && bad[1].contains("common name") && bad[2].contains("be a client"));
    }

    #[test]
    fn two_nodes_share_a_name_whether_it_is_a_common_name_or_a_dns_name() {
        let of = |common, dns: &[&'static str]| Shown::new("RSA 2048", common, dns.iter().copied(), []);
        let cart = of(common_name("O=x, CN=cart.shop"), &[]);
        assert_eq!(cart.no_shared_name(&of(None, &["other", "cart.shop"])), None);
        assert!(cart.no_shared_name(&of(Some("pay"), &["pay.shop"])).unwrap().contains("(cart.shop and pay pay.shop)"));
        assert_eq!(cart.no_shared_name(&of(None, &[])), None, "an obstacle of its own");
    }
}
