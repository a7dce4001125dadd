//! Kubernetes' CertificateSigningRequests: an object for each certificate, which an approver approves and a signer signs.
//!
//! Invariant: the key is made here and goes nowhere, and an object of ours is deleted once it is decided or given up.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::cluster::client::{Target, connect};
use crate::core::identity::SpiffeId;
use crate::core::source::CsrSigner;
use crate::sources::grpc::in_time;
use crate::sources::renewal::Renewal;
use crate::sources::{Outlet, SourceError};
use crate::tls::{Material, read_regular};

/// What is asked for; the signer may give less.
const LIFETIME_SECONDS: i32 = 24 * 3600;
/// How often to look whether it is decided: `get` of one object, so that nobody needs the right to see all of them.
const PERIOD: Duration = Duration::from_secs(2);
/// How long an approver may take before somebody is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to give up, and ask anew.
const LONGEST: Duration = Duration::from_secs(600);
const EXCERPT: usize = 300;

pub(super) async fn obtain(signer: &CsrSigner, outlet: &Outlet) -> Result<(Material, Renewal), SourceError> {
    let roots = read_regular(&signer.ca);
    let roots = roots.map_err(|error| SourceError::Refused(format!("--tls-ca {}: {error}", signer.ca.display())))?;
    let cluster = connect(&Target::default()).await.map_err(|error| SourceError::Unreachable(error.to_string()))?;
    let id = own_id(signer, &cluster.client).await?;
    let request = crate::tls::request(&id).map_err(|error| SourceError::Malformed(error.to_string()))?;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client);
    let object = object(&signer.name, request.csr_pem.clone());
    let created = call("create", requests.create(&PostParams::default(), &object)).await?;
    let name = created.metadata.name.unwrap_or_default();
    let decided = decision(&requests, &name, outlet).await;
    // Else Kubernetes does it, after an hour or a day.
    if let Err(error) = call("delete", requests.delete(&name, &DeleteParams::default())).await {
        tracing::warn!(request = name, %error, "a CertificateSigningRequest is left behind");
    }
    let certificate = decided?;
    let renewal = Renewal::of(&certificate, &request, &id, roots)?;
    let key = Zeroizing::new(request.key_pem.as_bytes().to_vec());
    Ok((Material { certificate, key, ..Material::default() }, renewal))
}

/// Whose credentials we use towards the API server.
async fn own_id(signer: &CsrSigner, client: &Client) -> Result<SpiffeId, SourceError> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review =
        call("ask who we are by", reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default();
    SpiffeId::of_service_account(&signer.trust_domain, &user).ok_or_else(|| {
        SourceError::Refused(format!("the API server knows us as {user:?}, which is no service account"))
    })
}

fn object(signer: &str, csr: String) -> CertificateSigningRequest {
    let usages = ["digital signature", "client auth", "server auth"].map(str::to_owned);
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("bypassctl-".to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "bypassctl".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr.into_bytes()),
            signer_name: signer.to_owned(),
            expiration_seconds: Some(LIFETIME_SECONDS),
            usages: Some(usages.into()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

async fn decision(
    requests: &Api<CertificateSigningRequest>,
    name: &str,
    outlet: &Outlet,
) -> Result<Vec<u8>, SourceError> {
    let started = Instant::now();
    loop {
        let status = call("get", requests.get(name)).await?.status.unwrap_or_default();
        if let Some(decided) = decided(name, &status) {
            return decided;
        }
        let undecided = SourceError::Refused(format!("{name} {}", undecided(name, &status)));
        if started.elapsed() >= LONGEST {
            return Err(undecided);
        }
        if started.elapsed() >= PATIENCE {
            outlet.fail(&undecided);
        }
        sleep(PERIOD).await;
    }
}

fn decided(name: &str, status: &CertificateSigningRequestStatus) -> Option<Result<Vec<u8>, SourceError>> {
    for (kind, happened) in [("Denied", "was denied"), ("Failed", "was not signed")] {
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        if let Some(condition) = condition {
            let why = [&condition.reason, &condition.message].into_iter().flatten().map(String::as_str);
            let why: String = why.collect::<Vec<_>>().join(": ").escape_debug().take(EXCERPT).collect();
            return Some(Err(SourceError::Refused(format!("{name} {happened} ({why})"))));
        }
    }
    status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty()).map(|pem| Ok(pem.0.clone()))
}

fn undecided(name: &str, status: &CertificateSigningRequestStatus) -> String {
    match status.conditions.iter().flatten().any(|condition| condition.type_ == "Approved") {
        true => "is approved and not signed yet: does the signer run?".to_owned(),
        false => format!("waits for its approval: see the approver, or kubectl certificate approve {name}"),
    }
}

/// A call of the API; the verb is for messages.
async fn call<T>(verb: &str, work: impl Future<Output = Result<T, kube::Error>>) -> Result<T, SourceError> {
    in_time(async { work.await.map_err(|error| failed(verb, &error)) }).await
}

fn failed(verb: &str, error: &kube::Error) -> SourceError {
    let said = match error {
        kube::Error::Api(status) => status.message.clone(),
        _ => error.to_string(),
    };
    let said: String = said.escape_debug().take(EXCERPT).collect();
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            SourceError::Refused(format!("this pod's service account may not {verb} it: {said}"))
        }
        kube::Error::Api(_) => SourceError::Refused(format!("the API server does not {verb} it: {said}")),
        _ => SourceError::Unreachable(format!("no answer of the API server: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    use super::*;

    fn status(kinds: &[&str], certificate: &[u8]) -> CertificateSigningRequestStatus {
        let conditions = kinds.iter().map(|kind| CertificateSigningRequestCondition {
            type_: (*kind).to_owned(),
            reason: Some("Because".to_owned()),
            message: Some("of\nthis".to_owned()),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        });
        let certificate = (!certificate.is_empty()).then(|| ByteString(certificate.to_vec()));
        CertificateSigningRequestStatus { conditions: Some(conditions.collect()), certificate }
    }

    #[test]
    fn a_request_is_decided_once_it_is_signed_denied_or_failed() {
        assert!(decided("x", &status(&[], b"")).is_none());
        assert!(decided("x", &status(&["Approved"], b"")).is_none());
        assert!(undecided("x", &status(&["Approved"], b"")).contains("does the signer run?"));
        assert!(undecided("x", &status(&[], b"")).contains("kubectl certificate approve x"));
        assert_eq!(decided("x", &status(&["Approved"], b"pem")).unwrap().unwrap(), b"pem");
        // A signer that fails after it has signed takes its certificate back.
        for (kind, part) in [("Denied", "x was denied (Because: of\\nthis)"), ("Failed", "x was not signed (Because")] {
            let error = decided("x", &status(&["Approved", kind], b"pem")).unwrap().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
