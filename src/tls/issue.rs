//! A development certificate authority: for tests, the demo, first steps, and clusters that have none.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

pub use crate::core::sidecar::KeyAlgorithm;
use crate::tls::certificate::CertificateFacts;

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
    /// A certificate that is no authority's, or not with this key.
    #[error("not a certificate authority: {0}")]
    NoAuthority(String),
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

pub(super) fn generate(algorithm: KeyAlgorithm) -> Result<KeyPair, rcgen::Error> {
    match algorithm {
        KeyAlgorithm::EcP256 => KeyPair::generate(),
        KeyAlgorithm::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
    }
}

/// A self-signed authority with a key of its own.
pub struct DevelopmentCa {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl std::fmt::Debug for DevelopmentCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevelopmentCa").finish_non_exhaustive()
    }
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
#[derive(Clone)]
pub struct IssuedLeaf {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The key, PKCS#8 PEM.
    pub key_pem: Zeroizing<String>,
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
        Self::lasting(common_name, OffsetDateTime::now_utc() + Duration::days(365), KeyAlgorithm::EcP256)
    }

    /// Makes an authority with a key of this kind, valid from a day ago.
    ///
    /// # Errors
    /// If the name cannot stand in a certificate.
    pub fn lasting(common_name: &str, not_after: OffsetDateTime, algorithm: KeyAlgorithm) -> Result<Self, IssueError> {
        let failed = |source| IssueError::Generate { common_name: common_name.to_owned(), source };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::DAY;
        params.not_after = not_after;
        let key = generate(algorithm).map_err(failed)?;
        let certificate_pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// An authority that was made earlier.
    ///
    /// # Errors
    /// If the certificate is no authority's, or belongs to another key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let no_authority = |detail: String| IssueError::NoAuthority(detail);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes());
        let der = der.map_err(|error| no_authority(format!("its certificate is no PEM: {error}")))?;
        let facts = CertificateFacts::of(&der).map_err(no_authority)?;
        if !facts.is_ca {
            return Err(no_authority(format!("the certificate of {} may not sign others", facts.subject)));
        }
        let now = OffsetDateTime::now_utc();
        if !(facts.not_before..=facts.not_after).contains(&now) {
            return Err(no_authority(format!("the certificate of {} is not valid now", facts.subject)));
        }
        let key = KeyPair::from_pem(key).map_err(|error| no_authority(format!("its key cannot be read: {error}")))?;
        if facts.public_key != key.public_key_raw() {
            return Err(no_authority(format!("the key does not belong to the certificate of {}", facts.subject)));
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key);
        let issuer = issuer.map_err(|error| no_authority(format!("its certificate cannot be used: {error}")))?;
        Ok(Self { issuer, certificate_pem: certificate.to_owned() })
    }

    /// The authority's key, PKCS#8 PEM: whoever has it is the authority.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// A list of what is revoked, PEM, to be replaced after `days`.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn revoke(&self, certificates: &[CertificateFacts], days: u32) -> Result<String, IssueError> {
        let now = OffsetDateTime::now_utc();
        let revoked = certificates.iter().map(|certificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&certificate.raw_serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(days.into()),
            crl_number: SerialNumber::from(u64::try_from(now.unix_timestamp()).unwrap_or(0)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let failed = |source| IssueError::Generate { common_name: "revocation list".to_owned(), source };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(failed)
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
        let key = generate(algorithm).map_err(failed)?;
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
        Ok(IssuedLeaf { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
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
