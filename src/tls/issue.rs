//! A development certificate authority: made on the spot, kept in memory, for tests, the demo and first steps.
//!
//! Invariant: the authority's key never leaves this module, so nothing that it issued outlives the process's trust.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize, SanType,
};
use time::{Duration, OffsetDateTime};

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A name that no certificate can carry.
    #[error("{name:?} cannot stand in a certificate; names are ASCII")]
    Name {
        /// The name.
        name: String,
        /// rcgen's reason.
        #[source]
        source: rcgen::Error,
    },
    /// Making a key or a signature failed.
    #[error("cannot make a certificate for {common_name:?}")]
    Generate {
        /// Whose certificate.
        common_name: String,
        /// rcgen's reason.
        #[source]
        source: rcgen::Error,
    },
}

/// What kind of key a certificate gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// NIST P-256: small and fast.
    EcP256,
    /// RSA of 2048 bits, the only kind that Akka's `RotatingKeysSSLEngineProvider` reads.
    Rsa2048,
}

/// A self-signed authority with a key of its own.
#[derive(Debug)]
pub struct DevelopmentCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate_pem: String,
}

/// What a leaf certificate is to say.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// Subject common name.
    pub common_name: String,
    /// URI SAN, `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    pub spiffe_id: Option<String>,
    /// DNS SANs.
    pub dns_names: Vec<String>,
    /// IP SANs.
    pub ip_addresses: Vec<IpAddr>,
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct IssuedLeaf {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PKCS#8 PEM.
    pub key_pem: String,
}

impl LeafRequest {
    /// A certificate for the workloads of one service account, valid from an hour ago until a day ahead.
    #[must_use]
    pub fn for_service_account(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            common_name: service_account.to_owned(),
            spiffe_id: Some(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            not_before: now - Duration::HOUR,
            not_after: now + Duration::DAY,
        }
    }
}

impl DevelopmentCa {
    /// Makes an authority, valid from a day ago until a year ahead.
    ///
    /// # Errors
    /// If the name cannot stand in a certificate.
    pub fn new(common_name: &str) -> Result<Self, IssueError> {
        let failed = |source| IssueError::Generate { common_name: common_name.to_owned(), source };
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - Duration::DAY;
        params.not_after = now + Duration::days(365);
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(failed)?;
        let certificate_pem = issuer.pem();
        Ok(Self { issuer, certificate_pem })
    }

    /// The authority's own certificate: what peers take as their root.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate with an EC P-256 key, for use as client and as server.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate.
    pub fn issue(&self, request: &LeafRequest) -> Result<IssuedLeaf, IssueError> {
        self.issue_with_key(request, KeyAlgorithm::EcP256)
    }

    /// Issues a certificate with a key of this kind, for use as client and as server.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate.
    pub fn issue_with_key(&self, request: &LeafRequest, algorithm: KeyAlgorithm) -> Result<IssuedLeaf, IssueError> {
        let failed = |source| IssueError::Generate { common_name: request.common_name.clone(), source };
        let key = match algorithm {
            KeyAlgorithm::EcP256 => KeyPair::generate(),
            KeyAlgorithm::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, request.common_name.as_str());
        params.subject_alt_names = subject_alt_names(request)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = request.not_before;
        params.not_after = request.not_after;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(IssuedLeaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn subject_alt_names(request: &LeafRequest) -> Result<Vec<SanType>, IssueError> {
    let ascii =
        |name: &String| name.as_str().try_into().map_err(|source| IssueError::Name { name: name.clone(), source });
    let mut names = Vec::new();
    if let Some(id) = &request.spiffe_id {
        names.push(SanType::URI(ascii(id)?));
    }
    for name in &request.dns_names {
        names.push(SanType::DnsName(ascii(name)?));
    }
    names.extend(request.ip_addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_says_what_was_asked_for() {
        let ca = DevelopmentCa::new("test CA").unwrap();
        let mut request = LeafRequest::for_service_account("cluster.local", "shop", "cart");
        request.dns_names = vec!["cart.shop".to_owned()];
        for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::Rsa2048] {
            let leaf = ca.issue_with_key(&request, algorithm).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.certificate_pem.as_bytes()).unwrap();
            let text = format!("{:?}", pem.parse_x509().unwrap().subject_alternative_name().unwrap());
            assert!(text.contains("spiffe://cluster.local/ns/shop/sa/cart") && text.contains("cart.shop"), "{text}");
            assert!(leaf.key_pem.contains("PRIVATE KEY"));
        }
    }

    #[test]
    fn a_name_that_is_not_ascii_is_refused() {
        let ca = DevelopmentCa::new("test CA").unwrap();
        let mut request = LeafRequest::for_service_account("cluster.local", "shop", "cart");
        request.dns_names = vec!["kärt".to_owned()];
        assert!(matches!(ca.issue(&request), Err(IssueError::Name { .. })));
    }
}
