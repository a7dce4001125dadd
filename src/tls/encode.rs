//! DER as the PEM that credentials are made of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// Characters of a line (RFC 7468, section 2).
const LINE: usize = 64;

/// Certificates that stand one behind the other in DER, as PEM.
///
/// # Errors
/// What is wrong with the first that is malformed, or if there is none.
pub fn certificates_pem(mut der: &[u8]) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|error| format!("a malformed certificate: {error}"))?;
        all.extend_from_slice(&pem("CERTIFICATE", &der[..der.len() - rest.len()]));
        der = rest;
    }
    if all.is_empty() { Err("no certificate".to_owned()) } else { Ok(all) }
}

/// A section of PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = base64::encoded_len(der.len(), true).unwrap_or(0);
    let mut body = Zeroizing::new(vec![0; length]);
    let length = STANDARD.encode_slice(der, &mut body).unwrap_or(0);
    // Room for all of it: a buffer that grows leaves copies of a key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(length + length / LINE + 2 * label.len() + 40));
    text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in body[..length].chunks(LINE) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;
    use crate::tls::issue::DevelopmentCa;

    #[test]
    fn what_stands_one_behind_the_other_is_taken_apart() {
        let both = ["a", "b"].map(|name| DevelopmentCa::new(name).unwrap().certificate_pem().to_owned());
        let ders = both.clone().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
        let text = certificates_pem(&[&*ders[0], &*ders[1]].concat()).unwrap();
        let again: Vec<_> = CertificateDer::pem_slice_iter(&text).map(Result::unwrap).collect();
        assert_eq!(again, ders);
        assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE));
        let cut = &ders[0][..ders[0].len() - 1];
        assert!(certificates_pem(cut).unwrap_err().contains("malformed"));
        assert!(certificates_pem(&[&*ders[0], b"x"].concat()).unwrap_err().contains("malformed"));
        assert_eq!(certificates_pem(b"").unwrap_err(), "no certificate");
    }
}
