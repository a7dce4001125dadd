//! What `fuzz/` asks of the parsers of this module.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::OffsetDateTime;

use crate::core::identity::Allow;
use crate::core::sidecar::{TlsFiles, TlsVersion};
use crate::tls::files::Material;
use crate::tls::issue::{DevelopmentCa, LeafRequest};
use crate::tls::verify::{PeerVerifier, Trust};
use crate::tls::{CertificateFacts, Credentials, denial, distrust};

/// The files of a secret: certificate, key and roots.
pub fn secret(certificate: &[u8], key: &[u8], ca: &[u8]) {
    let set = Material {
        certificate: certificate.to_vec(),
        key: key.to_vec().into(),
        ca: ca.to_vec(),
        ..Material::default()
    };
    match Credentials::check(&set, &files(), &[], TlsVersion::default(), now()) {
        Ok(credentials) => assert!(!credentials.allowed.is_empty() && !credentials.roots.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A peer's certificate, in DER: whoever our CA has not signed is not let in, and is named.
pub fn peer_certificate(der: &[u8]) {
    static VERIFIER: LazyLock<PeerVerifier> = LazyLock::new(verifier);
    let leaf = CertificateDer::from(der);
    let _ = CertificateFacts::of(&leaf);
    let now = UnixTime::now();
    let name = ServerName::try_from("peer").expect("a name");
    let refused = [
        VERIFIER.verify_client_cert(&leaf, &[], now).map(|_| ()),
        VERIFIER.verify_server_cert(&leaf, &[], &name, &[], now).map(|_| ()),
    ];
    for error in refused.map(|verdict| verdict.expect_err("nobody has signed it")) {
        let _ = denial(&error).map(ToString::to_string);
        let _ = distrust(&error).map(ToString::to_string);
    }
}

fn verifier() -> PeerVerifier {
    let ca = DevelopmentCa::new("fuzzing").expect("a CA");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).expect("PEM")).expect("a root");
    PeerVerifier::new(Trust::in_own(roots), Arc::new(aws_lc_rs::default_provider()), vec![Allow::AnyOfCa])
        .expect("a verifier")
}

/// What a peer sends to begin with, and goes on with: nobody without a certificate of ours gets through.
pub fn handshake(bytes: &[u8]) {
    static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(server);
    let mut session = ServerConnection::new(Arc::clone(&SERVER)).expect("a session");
    let mut rest = bytes;
    while !rest.is_empty() && session.wants_read() {
        if session.read_tls(&mut rest).is_err() || session.process_new_packets().is_err() {
            break;
        }
        let _ = session.write_tls(&mut std::io::sink());
    }
    assert!(session.is_handshaking());
}

fn server() -> Arc<ServerConfig> {
    let ca = DevelopmentCa::new("fuzzing").expect("a CA");
    let leaf = ca.issue(&LeafRequest::for_service_account("cluster.local", "shop", "cart")).expect("a leaf");
    let set = Material {
        certificate: leaf.certificate_pem.into_bytes(),
        key: leaf.key_pem.as_bytes().to_vec().into(),
        ca: ca.certificate_pem().as_bytes().to_vec(),
        ..Material::default()
    };
    Credentials::check(&set, &files(), &[], TlsVersion::default(), OffsetDateTime::now_utc())
        .expect("credentials")
        .server
}

/// What a peer that may connect sends behind its handshake: instructions, see [`record::fuzzing`]. Nothing of it may be
/// handed out that it has not sealed, and after an error there is nothing any more.
pub fn records(bytes: &[u8]) {
    crate::tls::record::fuzzing::records(bytes);
}

fn files() -> TlsFiles {
    TlsFiles::three("tls.crt".into(), "tls.key".into(), "ca.crt".into())
}

/// A moment at which the certificates of the corpus are valid.
fn now() -> OffsetDateTime {
    time::macros::datetime!(2030-01-01 0:00 UTC)
}
