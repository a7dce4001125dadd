//! What a certificate says, as far as we need it.

use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

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
    /// Who its holder is.
    #[serde(skip)]
    pub identity: PeerIdentity,
}

impl CertificateFacts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with the encoding.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        let subject = parsed.subject().to_string();
        let mut identity = PeerIdentity { subject: subject.clone(), ..PeerIdentity::default() };
        let mut subject_alt_names = Vec::new();
        if let Some(names) = parsed.subject_alternative_name().map_err(|error| error.to_string())? {
            for name in &names.value.general_names {
                read_name(name, &mut identity, &mut subject_alt_names);
            }
        }
        Ok(Self {
            subject,
            issuer: parsed.issuer().to_string(),
            serial: parsed.raw_serial_as_string(),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            subject_alt_names,
            is_ca: parsed.is_ca(),
            identity,
        })
    }
}

fn read_name(name: &GeneralName<'_>, identity: &mut PeerIdentity, texts: &mut Vec<String>) {
    match name {
        GeneralName::URI(uri) => {
            // A URI that is no SPIFFE ID names nobody we could compare with.
            identity.spiffe_ids.extend(uri.parse());
            texts.push((*uri).to_owned());
        }
        GeneralName::DNSName(dns) => {
            identity.dns_names.push(dns.to_ascii_lowercase());
            texts.push(format!("dns:{dns}"));
        }
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(std::net::IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
            texts.extend(address.map(|address| format!("ip:{address}")));
        }
        _ => {}
    }
}

/// A point in time as RFC 3339 writes it, in whole seconds.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*at))
}
