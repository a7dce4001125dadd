//! The SPIFFE Workload API: X.509-SVIDs and bundles as a stream that never ends, over a Unix socket.
//!
//! The messages are those of `workload.proto` in the SPIFFE standards, without the profiles that nothing here uses.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use hyper::http::Uri;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use zeroize::{Zeroize as _, Zeroizing};

use crate::core::identity::TrustDomain;
use crate::core::source::UnixEndpoint;
use crate::sources::grpc::{Connection, excerpt, in_time};
use crate::sources::pause::Pause;
use crate::sources::{Outlet, SourceError};
use crate::tls::{CertificateFacts, Material, certificates_pem, pem};

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Without it every Workload API refuses, so that nobody can be made to ask on another's behalf (SPIFFE Workload Endpoint,
/// section 6).
const SECURITY_HEADER: &str = "workload.spiffe.io";

#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidRequest {}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    /// Roots of other trust domains, DER one behind the other.
    #[prost(btree_map = "string, bytes", tag = "3")]
    federated_bundles: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// The chain, leaf first, DER one behind the other.
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    /// PKCS#8, DER.
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    /// Roots of its trust domain, DER one behind the other.
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

/// Asks for ever.
pub(super) async fn run(endpoint: &UnixEndpoint, outlet: &Outlet) {
    let mut pause = Pause::new();
    loop {
        let Err(error) = follow(endpoint, outlet, &mut pause).await;
        outlet.fail(&error);
        pause.wait().await;
    }
}

/// Hands over what the stream brings, until it breaks.
async fn follow(endpoint: &UnixEndpoint, outlet: &Outlet, pause: &mut Pause) -> Result<Infallible, SourceError> {
    let mut request = Request::new(X509SvidRequest {});
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    let beginning = async {
        let stream = UnixStream::connect(endpoint.path()).await.map_err(|error| unreachable(&error))?;
        // Over a Unix socket nobody is named (gRPC over HTTP/2, "authority").
        let connection = Connection::over(stream, Uri::from_static("http://localhost")).await?;
        let mut answers = connection.stream(FETCH, request).await.map_err(|status| refused(&status))?;
        let first = answers.message().await.map_err(|status| refused(&status))?;
        Ok((connection, answers, first))
    };
    let (_connection, mut answers, mut next) = in_time(beginning).await?;
    while let Some(answer) = next {
        match material(answer) {
            Ok(material) => {
                outlet.give(material);
                *pause = Pause::new();
            }
            // The next message may be better, and asking anew would only bring this one again.
            Err(error) => outlet.fail(&error),
        }
        next = answers.message().await.map_err(|status| refused(&status))?;
    }
    Err(SourceError::Ended)
}

fn unreachable(error: &io::Error) -> SourceError {
    SourceError::Unreachable(match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket: is it mounted, and does its agent run?".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens on the socket: its agent does not run".to_owned(),
        io::ErrorKind::PermissionDenied => "this user id may not open the socket".to_owned(),
        _ => format!("no connection: {error}"),
    })
}

fn refused(status: &Status) -> SourceError {
    let said = excerpt(status);
    match status.code() {
        Code::PermissionDenied => SourceError::Refused(format!(
            "it knows no identity for this process ({said}); register the pod's service account, and the agent's user id"
        )),
        Code::Unimplemented => SourceError::Refused(format!("it serves no X.509-SVIDs ({said})")),
        Code::OutOfRange => SourceError::Malformed(said),
        Code::Unavailable | Code::Cancelled | Code::Unknown => {
            tracing::debug!(%said, "the Workload API is away");
            SourceError::Ended
        }
        _ => SourceError::Refused(said),
    }
}

fn material(mut answer: X509SvidResponse) -> Result<Material, SourceError> {
    let malformed = |what: &str, detail: &dyn std::fmt::Display| SourceError::Malformed(format!("{what}: {detail}"));
    // The first is the one to use where nothing says otherwise (SPIFFE Workload API, section 5.3).
    let Some(svid) = answer.svids.first_mut() else {
        return Err(SourceError::Refused("it issues no X.509-SVID to this process".to_owned()));
    };
    let certificate = certificates_pem(&svid.x509_svid).map_err(|detail| malformed("X.509-SVID", &detail))?;
    let own = check_id(&svid.spiffe_id, &certificate)?;
    let key = Zeroizing::new(std::mem::take(&mut svid.x509_svid_key));
    let ca = certificates_pem(&svid.bundle).map_err(|detail| malformed("bundle of our trust domain", &detail))?;
    let mut federated = Vec::new();
    for (id, bundle) in &answer.federated_bundles {
        let domain = id.strip_prefix("spiffe://").unwrap_or(id).parse::<TrustDomain>();
        match domain {
            Ok(domain) if domain == own => {}
            // Empty, it lets nobody in, and our own authority does not speak for that domain either.
            Ok(domain) => {
                let roots = certificates_pem(bundle).unwrap_or_else(|error| {
                    tracing::warn!(trust_domain = %domain, error, "nobody vouches for this trust domain: its bundle is broken");
                    Vec::new()
                });
                federated.push((domain, roots));
            }
            Err(error) => tracing::warn!(trust_domain = %id.escape_debug(), %error, "the bundle is left out"),
        }
    }
    let revoked = answer.crl.iter().flat_map(|list| pem("X509 CRL", list).to_vec()).collect();
    Ok(Material { certificate, key: pem("PRIVATE KEY", &key), ca, federated, revoked, ..Material::default() })
}

/// What the answer says of the certificate has to stand in it.
fn check_id(id: &str, certificate: &[u8]) -> Result<TrustDomain, SourceError> {
    let leaf = CertificateDer::from_pem_slice(certificate).map_err(|error| error.to_string());
    let leaf = leaf.and_then(|leaf| CertificateFacts::of(&leaf)).map_err(SourceError::Malformed)?;
    match leaf.identity.spiffe_ids.as_slice() {
        [only] if only.to_string() == id => Ok(only.trust_domain().clone()),
        _ => Err(SourceError::Malformed(format!(
            "X.509-SVID: it is said to be {:?}, and its certificate is {}'s",
            id.chars().take(100).collect::<String>(),
            leaf.identity
        ))),
    }
}
