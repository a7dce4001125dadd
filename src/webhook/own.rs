//! A certificate of our own, shared by all replicas through a Secret, and told to the API server.
//!
//! Invariant: no replica serves with a certificate before the configuration of the API server has the root that it leads to,
//! and the root before it stays there until it ends. The authority's key is forgotten as soon as it has signed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::cluster::client::causes;
use crate::core::sidecar::TlsFiles;
use crate::tls::issue::{DevelopmentCa, IssueError, LeafRequest};
use crate::tls::{CredentialError, Serving, living_roots};
use crate::webhook::pair::Current;

/// Somebody may have reset the configuration (an upgrade of the chart), and until it is set again pods are not admitted.
const PERIOD: Duration = Duration::from_secs(10);
/// API servers hear of a changed configuration by a watch.
const HEARD: Duration = Duration::from_secs(10);
/// Replicas that start together write the same Secret.
const ATTEMPTS: usize = 5;
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";

/// Why there is no certificate of our own.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The API server refused, or did not answer.
    #[error("cannot {what}: {reason}; the webhook's service account needs {rights}")]
    Api {
        /// What was tried, on which object.
        what: String,
        /// The API server's reason.
        reason: String,
        /// What would allow it.
        rights: &'static str,
    },
    /// Nothing there calls us.
    #[error(
        "{configuration} has no webhook that calls service {service}; is the name in --webhook-configuration right?"
    )]
    NotCalled {
        /// The configuration.
        configuration: String,
        /// `namespace/name`.
        service: String,
    },
    /// Others write the Secret all the time.
    #[error("secret {0} changes while it is written; do others than the webhook write it?")]
    Contended(String),
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] IssueError),
    /// What was made cannot be used.
    #[error(transparent)]
    Unusable(#[from] CredentialError),
}

/// Where the certificate is kept, whom it is for and who is told.
#[derive(Clone)]
pub struct Own {
    /// The API server.
    pub client: kube::Client,
    /// Of Secret and Service.
    pub namespace: String,
    /// The Secret.
    pub secret: String,
    /// The Service that the API server calls.
    pub service: String,
    /// The `MutatingWebhookConfiguration`.
    pub configuration: String,
}

/// A certificate with the roots that the API server is to know.
pub(super) struct Generation {
    pub(super) serving: Serving,
    roots: Vec<u8>,
}

impl Own {
    /// Reads the certificate of all replicas, makes one if there is none or it ends soon, and tells the API server.
    pub(super) async fn ensure(&self) -> Result<Generation, OwnError> {
        let generation = self.shared().await?;
        self.publish(&generation.roots).await?;
        Ok(generation)
    }

    /// Keeps certificate and configuration as they have to be until it is stopped.
    pub(super) async fn keep(self, mut serial: String, current: Arc<Current>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            match self.ensure().await {
                Ok(generation) if generation.serving.leaf.serial == serial => current.report(None),
                Ok(generation) => {
                    tokio::time::sleep(HEARD).await;
                    current.replace(&generation.serving);
                    serial = generation.serving.leaf.serial;
                }
                Err(fault) => current.report(Some(fault.to_string())),
            }
        }
    }

    async fn shared(&self) -> Result<Generation, OwnError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        for _ in 0..ATTEMPTS {
            let found = secrets.get_opt(&self.secret).await.map_err(|error| self.failed("read", &error))?;
            let now = OffsetDateTime::now_utc();
            let data = found.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
            match self.usable(&data, now) {
                Ok(generation) => return Ok(generation),
                Err(why) => tracing::info!(why, "making a certificate"),
            }
            let data = self.make(&data, now)?;
            let written = match found {
                Some(secret) => {
                    let secret = Secret { data: Some(data), ..secret };
                    secrets.replace(&self.secret, &PostParams::default(), &secret).await
                }
                None => {
                    let metadata = ObjectMeta { name: Some(self.secret.clone()), ..ObjectMeta::default() };
                    let secret = Secret { metadata, data: Some(data), ..Secret::default() };
                    secrets.create(&PostParams::default(), &secret).await
                }
            };
            match written {
                // Read again, as the other replicas do: one way in for all.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.failed("write", &error)),
            }
        }
        Err(OwnError::Contended(format!("{}/{}", self.namespace, self.secret)))
    }

    fn failed(&self, verb: &str, error: &kube::Error) -> OwnError {
        let what = format!("{verb} secret {}/{}", self.namespace, self.secret);
        OwnError::Api { what, reason: causes(error), rights: "get and update on this secret, or create on secrets" }
    }

    fn places(&self) -> TlsFiles {
        let place = |key: &str| PathBuf::from(format!("{key} of secret {}/{}", self.namespace, self.secret));
        TlsFiles::three(place(CERTIFICATE), place(KEY), place(ROOTS))
    }

    fn names(&self) -> [String; 2] {
        let name = format!("{}.{}.svc", self.service, self.namespace);
        [name.clone(), format!("{name}.cluster.local")]
    }

    /// What is in the Secret, if it will do for some time.
    fn usable(&self, data: &BTreeMap<String, ByteString>, now: OffsetDateTime) -> Result<Generation, String> {
        let get = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        if get(CERTIFICATE).is_empty() && get(KEY).is_empty() {
            return Err("there is none yet".to_owned());
        }
        let serving = Serving::check(get(CERTIFICATE), get(KEY), &self.places(), now).map_err(|e| e.to_string())?;
        let leaf = &serving.leaf;
        let is_for_us = |name: &String| leaf.identity.dns_names.contains(name);
        if !self.names().iter().all(is_for_us) {
            return Err(format!("the one there is for others: {:?}", leaf.subject_alt_names));
        }
        if (leaf.not_after - now) * 3 < leaf.not_after - leaf.not_before {
            return Err(format!("less than a third of its time is left: it ends {}", leaf.not_after));
        }
        let roots = living_roots(get(ROOTS), now);
        if !roots.iter().any(|(_, root)| root.subject == leaf.issuer) {
            return Err("its root is not beside it".to_owned());
        }
        Ok(Generation { roots: pem(roots.into_iter().map(|(der, _)| der)), serving })
    }

    /// A new authority, a certificate of it, and beside its root those that are in use.
    fn make(
        &self,
        before: &BTreeMap<String, ByteString>,
        now: OffsetDateTime,
    ) -> Result<BTreeMap<String, ByteString>, OwnError> {
        // Roots are told apart by their names.
        let ca = DevelopmentCa::new(&format!("bypassctl webhook {}", now.unix_timestamp_nanos()))?;
        let names = self.names();
        let leaf = ca.issue(&LeafRequest {
            common_name: self.service.clone(),
            spiffe_id: None,
            dns_names: names.to_vec(),
            ip_addresses: Vec::new(),
            not_before: now - time::Duration::HOUR,
            not_after: now + time::Duration::days(364),
        })?;
        let old = before.get(ROOTS).map(|bytes| living_roots(&bytes.0, now)).unwrap_or_default();
        // Only the last one can still be served by another replica.
        let old = old.into_iter().max_by_key(|(_, root)| root.not_before);
        let roots = ca.certificate_pem().to_owned() + &String::from_utf8_lossy(&pem(old.map(|(der, _)| der)));
        let data = [(CERTIFICATE, leaf.certificate_pem), (KEY, leaf.key_pem.to_string()), (ROOTS, roots)];
        let mut all = before.clone();
        all.extend(data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))));
        Ok(all)
    }

    /// Writes the roots into every webhook of the configuration that calls us, where they are not there.
    async fn publish(&self, roots: &[u8]) -> Result<(), OwnError> {
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let configuration = format!("MutatingWebhookConfiguration {}", self.configuration);
        let failed = |verb: &str, error: &kube::Error| OwnError::Api {
            what: format!("{verb} {configuration}"),
            reason: causes(error),
            rights: "get and patch on this MutatingWebhookConfiguration",
        };
        let found = configurations.get(&self.configuration).await.map_err(|error| failed("read", &error))?;
        let (mut stale, mut is_called) = (Vec::new(), false);
        for webhook in found.webhooks.unwrap_or_default() {
            let to = webhook.client_config.service.as_ref();
            if !to.is_some_and(|to| to.name == self.service && to.namespace == self.namespace) {
                continue;
            }
            is_called = true;
            if webhook.client_config.ca_bundle.as_ref().is_none_or(|bundle| bundle.0 != roots) {
                let bundle = ByteString(roots.to_vec());
                stale.push(json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}));
            }
        }
        if !is_called {
            let service = format!("{}/{}", self.namespace, self.service);
            return Err(OwnError::NotCalled { configuration, service });
        }
        if stale.is_empty() {
            return Ok(());
        }
        // Webhooks of a configuration are merged by their names, so nobody else's field is written.
        let patch = Patch::Strategic(json!({"webhooks": stale}));
        let patched = configurations.patch(&self.configuration, &PatchParams::default(), &patch).await;
        patched.map_err(|error| failed("patch", &error))?;
        tracing::info!(configuration = self.configuration, "the API server has been told of our root");
        Ok(())
    }
}

fn pem(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Vec<u8> {
    let mut text = String::new();
    for der in certificates {
        let base64 = serde_json::to_value(ByteString(der.to_vec())).unwrap_or_default();
        let base64 = base64.as_str().unwrap_or_default();
        text += "-----BEGIN CERTIFICATE-----\n";
        for line in base64.as_bytes().chunks(64) {
            text += &String::from_utf8_lossy(line);
            text.push('\n');
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text.into_bytes()
}
