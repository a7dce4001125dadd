//! Istio's certificate authority: `istio.v1.auth.IstioCertificateService`, over TLS, with the service account's token.
//!
//! Invariant: the key is made here and goes nowhere; each key is used for one certificate.

use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Uri;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use zeroize::{Zeroize as _, Zeroizing};

use crate::core::identity::SpiffeId;
use crate::core::source::IstioCa;
use crate::sources::SourceError;
use crate::sources::grpc::{Connection, excerpt, in_time};
use crate::sources::renewal::Renewal;
use crate::tls::{Material, read_regular, trusting};

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// What istio-agent asks for by default; the authority may give less.
const LIFETIME_SECONDS: i64 = 24 * 3600;

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateRequest {
    /// PKCS#10, PEM.
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateResponse {
    /// PEM, leaf first; the last is the authority's root.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

pub(super) async fn obtain(ca: &IstioCa) -> Result<(Material, Renewal), SourceError> {
    let (root, token) = (read("--istio-root", &ca.root)?, read_token(&ca.token)?);
    let id = spiffe_id(ca, &token)?;
    let request = crate::tls::request(&id).map_err(|error| SourceError::Malformed(error.to_string()))?;
    let chain = in_time(ask(ca, &root, &token, request.csr_pem.clone())).await?;
    let renewal = Renewal::of(&chain, &request, &id, root)?;
    let key = Zeroizing::new(request.key_pem.as_bytes().to_vec());
    Ok((Material { certificate: chain, key, ..Material::default() }, renewal))
}

async fn ask(ca: &IstioCa, root: &[u8], token: &str, csr: String) -> Result<Vec<u8>, SourceError> {
    let connection = connect(ca, root).await?;
    let mut request = Request::new(CertificateRequest { csr, validity_duration: LIFETIME_SECONDS });
    let mut bearer = Zeroizing::new(String::with_capacity(token.len() + 7));
    bearer.push_str("Bearer ");
    bearer.push_str(token);
    let mut bearer = MetadataValue::<Ascii>::try_from(bearer.as_str())
        .map_err(|_| SourceError::Refused("--istio-token: it holds characters that no token has".to_owned()))?;
    bearer.set_sensitive(true);
    request.metadata_mut().insert("authorization", bearer);
    let answer: CertificateResponse =
        connection.once(CREATE, request).await.map_err(|status| refused(&status, token))?;
    // The root at its end vouches for nothing: whom to trust is what --istio-root says.
    let mut pem = Vec::new();
    for certificate in answer.cert_chain {
        pem.extend_from_slice(certificate.trim().as_bytes());
        pem.push(b'\n');
    }
    Ok(pem)
}

async fn connect(IstioCa { address, root: path, .. }: &IstioCa, root: &[u8]) -> Result<Connection, SourceError> {
    let config = trusting(root, path).map_err(|error| SourceError::Refused(format!("--istio-root: {error}")))?;
    let no_name = |error| SourceError::Unreachable(format!("{} is no host's name: {error}", address.host));
    let name = ServerName::try_from(address.host.clone()).map_err(no_name)?;
    let no_connection = |error: io::Error| SourceError::Unreachable(format!("no connection: {error}"));
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(no_connection)?;
    let no_tls = |error: io::Error| {
        let text = error.to_string();
        // What follows is the time, another each time.
        let text = text.split(": verification time").next().unwrap_or_default();
        SourceError::Unreachable(format!("no TLS with it: {text}; is --istio-root the root of this authority?"))
    };
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(no_tls)?;
    let origin = format!("https://{address}").parse::<Uri>();
    let origin = origin.map_err(|error| SourceError::Unreachable(error.to_string()))?;
    Connection::over(stream, origin).await
}

fn refused(status: &Status, token: &str) -> SourceError {
    // Whoever refuses a token may quote it.
    let said = excerpt(&Status::new(status.code(), status.message().replace(token, "[the token]")));
    SourceError::Refused(match status.code() {
        Code::Unauthenticated => format!(
            "it does not accept the token of --istio-token ({said}): has it expired, and is its audience the authority's \
             (istio-ca)?"
        ),
        Code::PermissionDenied => format!("it issues no certificate to this service account ({said})"),
        Code::Unimplemented => format!("it issues no certificates ({said}): is this istiod's port for gRPC, 15012?"),
        Code::Unavailable | Code::Cancelled => format!("it is not there ({said})"),
        _ => said,
    })
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, SourceError> {
    read_regular(path).map_err(|error| SourceError::Refused(format!("{option} {}: {error}", path.display())))
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, SourceError> {
    let option = "--istio-token";
    let bytes = Zeroizing::new(read(option, path)?);
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(SourceError::Refused(format!("{option} {}: it holds no token", path.display())));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Whom the token is of. Nothing here depends on its truth: the authority looks at the token itself.
fn spiffe_id(ca: &IstioCa, token: &str) -> Result<SpiffeId, SourceError> {
    let wrong = |detail: &str| SourceError::Refused(format!("--istio-token {}: {detail}", ca.token.display()));
    let claims = token.split('.').nth(1).ok_or_else(|| wrong("it is no JSON web token"))?;
    let mut claims =
        URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).map_err(|_| wrong("it is no JSON web token"))?;
    let read: Result<serde_json::Value, _> = serde_json::from_slice(&claims);
    claims.zeroize();
    let read = read.map_err(|_| wrong("it is no JSON web token"))?;
    let id = read["sub"].as_str().and_then(|subject| SpiffeId::of_service_account(&ca.trust_domain, subject));
    id.ok_or_else(|| wrong("it is not a service account's"))
}
