//! What a certificate says, as far as we need it.

use std::fmt::Write as _;
use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::core::identity::PeerIdentity;

/// What a certificate says; nothing of it is verified.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateFacts {
    /// Subject.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Valid from.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: OffsetDateTime,
    /// Valid until.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: OffsetDateTime,
    /// URI, DNS and IP SANs as text.
    pub subject_alt_names: Vec<String>,
    /// Whether it may sign certificates.
    pub is_ca: bool,
    /// What kind of key it is of: `EC P-256`, `RSA 2048`.
    pub key: String,
    /// Extended key usages: `server`, `client`, or `other` if it is for neither; empty if it is for anything.
    pub usages: Vec<&'static str>,
    /// Whether its key may sign handshakes: it has no key usage, or one with `digitalSignature` (RFC 5280, section 4.2.1.3).
    pub signs: bool,
    /// What its key usage says of signing certificates and revocation lists; `None` without one.
    #[serde(skip)]
    pub authority: Option<Authority>,
    /// Of X.509: 1 or 3, mostly.
    #[serde(skip)]
    pub version: u32,
    /// The serial number as it stands in the certificate.
    #[serde(skip)]
    pub raw_serial: Vec<u8>,
    /// The public key as it stands in the certificate.
    #[serde(skip)]
    pub public_key: Vec<u8>,
    /// Who its holder is.
    #[serde(skip)]
    pub identity: PeerIdentity,
}

/// Key usages of an authority (RFC 5280, section 4.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority {
    /// `keyCertSign`.
    pub certifies: bool,
    /// `cRLSign`.
    pub revokes: bool,
}

impl CertificateFacts {
    /// Whether its key may sign certificates, as far as its key usage goes.
    #[must_use]
    pub fn may_certify(&self) -> bool {
        self.authority.is_none_or(|authority| authority.certifies)
    }

    /// Why no sidecar takes it as a leaf, for reasons that the chain's verification does not know.
    #[must_use]
    pub fn unfit_as_leaf(&self) -> Option<&'static str> {
        if !self.signs {
            return Some("its key usage has no digitalSignature, so its key may sign no handshake");
        }
        let is_authoritys = self.authority.is_some_and(|Authority { certifies, revokes }| certifies || revokes);
        (is_authoritys && !self.identity.spiffe_ids.is_empty()).then_some(
            "its key usage is an authority's (keyCertSign or cRLSign), which no leaf with a SPIFFE ID may have",
        )
    }

    /// Whose certificate this is, and nothing else, which is less than half the work.
    ///
    /// # Errors
    /// What is wrong with the encoding.
    pub fn holder(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        holder_of(&parsed, |_| {})
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with the encoding.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        let mut subject_alt_names = Vec::new();
        let identity = holder_of(&parsed, |name| subject_alt_names.extend(name_text(name)))?;
        let key_usage = parsed.key_usage().map_err(|error| error.to_string())?.map(|usage| usage.value);
        let usage = parsed.extended_key_usage().map_err(|error| error.to_string())?.map(|usage| usage.value);
        let usages = usage.map_or_else(Vec::new, |usage| {
            let other = !usage.server_auth && !usage.client_auth;
            [("server", usage.server_auth), ("client", usage.client_auth), ("other", other)]
                .into_iter()
                .filter_map(|(name, may)| may.then_some(name))
                .collect()
        });
        Ok(Self {
            subject: identity.subject.clone(),
            issuer: parsed.issuer().to_string(),
            serial: serial_text(parsed.raw_serial()),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            subject_alt_names,
            is_ca: parsed.is_ca(),
            key: key_text(parsed.public_key()),
            usages,
            signs: key_usage.is_none_or(|usage| usage.digital_signature()),
            authority: key_usage.map(|usage| Authority { certifies: usage.key_cert_sign(), revokes: usage.crl_sign() }),
            version: parsed.version().0 + 1,
            raw_serial: parsed.raw_serial().to_vec(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            identity,
        })
    }
}

fn key_text(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        // It counts whole bytes.
        Ok(PublicKey::EC(point)) if point.key_size() == 528 => "EC P-521".to_owned(),
        Ok(PublicKey::EC(point)) => format!("EC P-{}", point.key_size()),
        // RFC 8410, section 3.
        _ if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => "Ed25519".to_owned(),
        _ => format!("algorithm {}", key.algorithm.algorithm.to_id_string()),
    }
}

fn holder_of(
    certificate: &X509Certificate<'_>,
    mut each_name: impl FnMut(&GeneralName<'_>),
) -> Result<PeerIdentity, String> {
    let mut identity = PeerIdentity { subject: certificate.subject().to_string(), ..PeerIdentity::default() };
    if let Some(names) = certificate.subject_alternative_name().map_err(|error| error.to_string())? {
        for name in &names.value.general_names {
            match name {
                // A URI that is no SPIFFE ID names nobody we could compare with.
                GeneralName::URI(uri) => match uri.parse() {
                    Ok(id) => identity.spiffe_ids.push(id),
                    Err(_) => identity.other_uris += 1,
                },
                GeneralName::DNSName(dns) => identity.dns_names.push(dns.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => identity.ip_addresses.extend(address_of(bytes)),
                _ => {}
            }
            each_name(name);
        }
    }
    Ok(identity)
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        GeneralName::DNSName(dns) => Some(format!("dns:{dns}")),
        GeneralName::IPAddress(bytes) => address_of(bytes).map(|address| format!("ip:{address}")),
        _ => None,
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let short = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    short.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// `43:d2:aa`.
fn serial_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 * bytes.len());
    for (i, byte) in bytes.iter().enumerate() {
        let colon = if i == 0 { "" } else { ":" };
        // A String takes all that is written.
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

/// A point in time as RFC 3339 writes it, in whole seconds.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*at))
}

pub(super) fn maybe_rfc3339<S: Serializer>(at: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}
