//! Verification of a peer's certificate: the chain by webpki, then the identity by [`authorize`], both inside the
//! handshake, so that a peer that may not connect gets an alert and never a byte of the app's.
//!
//! Invariant: host names are not compared. Cluster peers are dialled by pod address; who they are is what the policy
//! says, for clients and servers alike. Roots of another trust domain vouch for that domain's SPIFFE IDs and for nobody
//! else (SPIFFE Federation, section 5).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertRevocationListError, CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, IpAddr, Ipv4Addr, ServerName, UnixTime};

use crate::core::identity::{Allow, PeerIdentity, TrustDomain};
use crate::core::policy::{Denied, authorize};
use crate::tls::certificate::CertificateFacts;
use crate::tls::path::{self, Authority};
use crate::tls::vouched::{self, Vouched};

/// A peer's chain that leads to no root of ours, with who it claims to be.
#[derive(Debug, thiserror::Error)]
#[error("{}; the certificate claims to be {claimed}, issued by {issuer}", in_words(source))]
pub struct Untrusted {
    /// Who it claims to be; nothing vouches for it.
    pub claimed: String,
    /// Who it says issued it.
    pub issuer: String,
    /// webpki's reason.
    #[source]
    pub source: Error,
}

impl Untrusted {
    /// Whether something in the chain is revoked.
    #[must_use]
    pub const fn is_revoked(&self) -> bool {
        is_revocation(&self.source)
    }
}

/// rustls writes a reason of ours as a programmer would.
fn in_words(error: &Error) -> String {
    other(error).map_or_else(|| error.to_string(), |inner| format!("invalid peer certificate: {inner}"))
}

pub(super) const fn is_revocation(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Revoked))
}

/// A certificate that is good for other things (RFC 8446, section 4.4.2.2; X.509-SVID, section 4.3).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(&'static str);

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Trust {
    /// For our own trust domain, and for certificates without a SPIFFE ID.
    pub(super) own: RootCertStore,
    /// For the SPIFFE IDs of other trust domains.
    pub(super) others: Vec<(TrustDomain, RootCertStore)>,
    /// Whatever has vouched for anybody, or does: who was let in by it is revoked by its lists, also when it is gone.
    pub(super) ever: RootCertStore,
    /// What the authorities have revoked.
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Trust {
    /// These roots, and nobody else.
    pub(super) const fn in_own(own: RootCertStore) -> Self {
        Self { own, others: Vec::new(), ever: RootCertStore { roots: Vec::new() }, revoked: Vec::new() }
    }
}

/// Roots, with what has been revoked under them. An authority without a list has revoked nothing.
#[derive(Debug)]
struct Anchors {
    /// Without any list, then with each list alone: webpki asks the first list of an issuer's name only, and an authority
    /// may have several, or have had another key under the same name.
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    as_server: Arc<WebPkiServerVerifier>,
    as_client: Arc<dyn ClientCertVerifier>,
}

impl Anchors {
    /// `None` without roots.
    fn new(
        roots: RootCertStore,
        revoked: &[CertificateRevocationListDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Self>, VerifierBuilderError> {
        if roots.is_empty() {
            return Ok(None);
        }
        let roots = Arc::new(roots);
        let lists = std::iter::once(None).chain(revoked.iter().map(Some));
        let layers = lists.map(|list| {
            let server = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
            let client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
            Ok::<_, VerifierBuilderError>(Layer {
                as_server: server.with_crls(list.cloned()).allow_unknown_revocation_status().build()?,
                as_client: client.with_crls(list.cloned()).allow_unknown_revocation_status().build()?,
            })
        });
        Ok(Some(Self { layers: layers.collect::<Result<_, VerifierBuilderError>>()? }))
    }

    /// Whether the chain leads to a root, and nothing in it is revoked.
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let authorities: Vec<Authority<'_>> = rest.iter().filter_map(Authority::of).collect();
        if self.layers.len() == 1 {
            let rest: Vec<_> = authorities.iter().map(Authority::der).collect();
            return self.along(leaf, &rest, now);
        }
        // Each layer finds a way of its own, and each list might be got round by another: they have to agree on one.
        let mut refused = NOBODY;
        for path in path::all(leaf, &authorities) {
            match self.along(leaf, &path, now) {
                Ok(()) => return Ok(()),
                Err(error) if !is_revocation(&refused) => refused = error,
                Err(_) => {}
            }
        }
        Err(refused)
    }

    fn along(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        for layer in &self.layers {
            match layer.verify(leaf, rest, now) {
                // A list that another key under the same name has signed is not about this chain.
                Err(Error::InvalidCertRevocationList(CertRevocationListError::BadSignature)) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

impl Layer {
    /// Cluster peers are clients and servers at once, and keystores made for one role are common, so a leaf for either
    /// extended key usage will do.
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        // Nobody's name: names are compared last, once the chain is good.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4])));
        match self.as_server.verify_server_cert(leaf, rest, &nobody, &[], now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) => self.as_client.verify_client_cert(leaf, rest, now).map(|_| ()),
            other => other.map(|_| ()),
        }
    }
}

/// Whether this authority's key has signed a certificate; of another authority's only the name is compared.
#[must_use]
pub fn has_signed(authority: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let mut roots = RootCertStore::empty();
    let (Ok(()), Ok(facts)) = (roots.add(authority.clone().into_owned()), CertificateFacts::of(certificate)) else {
        return false;
    };
    let provider = Arc::new(crate::tls::credentials::provider());
    let Ok(Some(anchors)) = Anchors::new(roots, &[], &provider) else { return false };
    // It may have ended since.
    let at = u64::try_from(facts.not_after.unix_timestamp()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    let names_agree = CertificateFacts::of(authority).is_ok_and(|authority| authority.subject == facts.issuer);
    names_agree
        && !matches!(
            anchors.along(certificate, &[], at),
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature))
        )
}

/// Nobody vouches for it.
const NOBODY: Error = Error::InvalidCertificate(CertificateError::UnknownIssuer);

/// Verifies clients and servers alike.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    /// `None` for a domain whose roots have all ended, or are no roots: nobody vouches for it then.
    own: Option<Anchors>,
    others: Vec<(TrustDomain, Option<Anchors>)>,
    ever: Option<Anchors>,
    /// Whose certificates to show, as servers tell it to clients.
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
    allowed: Vec<Allow>,
    /// Those of `allowed` that are about SPIFFE IDs: `ca` and DNS names mean our own authorities.
    allowed_abroad: Vec<Allow>,
    pub(super) vouched: Vouched,
}

impl PeerVerifier {
    pub(super) fn new(
        trust: Trust,
        provider: Arc<CryptoProvider>,
        allowed: Vec<Allow>,
    ) -> Result<Self, VerifierBuilderError> {
        let anchors = |roots| Anchors::new(roots, &trust.revoked, &provider);
        let others = trust.others.into_iter().map(|(domain, roots)| Ok((domain, anchors(roots)?)));
        let others = others.collect::<Result<_, VerifierBuilderError>>()?;
        // Without lists nobody asks what they say.
        let ever = if trust.revoked.is_empty() { None } else { anchors(trust.ever)? };
        let hints = trust.own.subjects();
        let own = anchors(trust.own)?;
        let of_ids = |rule: &&Allow| matches!(rule, Allow::Spiffe(_) | Allow::SpiffePrefix(_));
        let allowed_abroad = allowed.iter().filter(of_ids).cloned().collect();
        Ok(Self { own, others, ever, hints, provider, allowed, allowed_abroad, vouched: Vouched::default() })
    }

    /// Who vouches for a peer of this identity, and which rules it may be let in by.
    fn for_whom(&self, identity: &PeerIdentity) -> (Option<&Anchors>, &[Allow]) {
        let domain = match identity.spiffe_ids.as_slice() {
            [id] => self.others.iter().find(|(domain, _)| domain == id.trust_domain()),
            _ => None,
        };
        domain.map_or((self.own.as_ref(), &self.allowed), |(_, anchors)| (anchors.as_ref(), &self.allowed_abroad))
    }

    /// Whether a chain, its leaf first, may serve a peer or ourselves, whatever the rules say of its identity.
    pub(super) fn verify_chain(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let identity = CertificateFacts::holder(leaf).unwrap_or_default();
        let anchors = self.for_whom(&identity).0.ok_or(NOBODY)?;
        anchors.verify(leaf, rest, now)
    }

    /// Whether something in a chain, its leaf first, has been revoked by who vouches for it, or did.
    pub(super) fn is_revoked(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        let judged = self.ever.as_ref().map_or(Ok(()), |ever| ever.verify(leaf, rest, now));
        judged.is_err_and(|error| is_revocation(&error))
    }

    /// Whether a peer with this chain, its leaf first, may connect now.
    pub(super) fn admit(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify(leaf, rest, now)
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let key = vouched::key(leaf, intermediates);
        if let Some(facts) = self.vouched.recall(&key, now) {
            let (_, allowed) = self.for_whom(&facts.identity);
            return authorize(&facts.identity, allowed).map(|_| ()).map_err(evidence);
        }
        let facts = CertificateFacts::of(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (anchors, allowed) = self.for_whom(&facts.identity);
        let verified = anchors.ok_or(NOBODY).and_then(|anchors| anchors.verify(leaf, intermediates, now));
        let fit = facts.unfit_as_leaf().map_or(Ok(()), |why| Err(evidence(Unfit(why))));
        if let Err(source) = verified.and(fit) {
            let claimed = facts.identity.to_string();
            return Err(evidence(Untrusted { claimed, issuer: facts.issuer, source }));
        }
        authorize(&facts.identity, allowed).map_err(evidence)?;
        // Only now: who may not connect cannot crowd out those who may.
        self.vouched.remember(key, Arc::new(facts), intermediates);
        Ok(())
    }
}

/// The evidence travels in the error: the verifier serves every connection, so it cannot keep it. The peer sees the
/// alert `certificate_unknown`.
fn evidence(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// A refusal for reasons that the verifier does not know, as it would say it.
#[must_use]
pub fn denied(denied: Denied) -> Error {
    evidence(denied)
}

/// The evidence of a refusal, if that is why the handshake failed.
#[must_use]
pub fn denial(error: &Error) -> Option<&Denied> {
    other(error)?.downcast_ref()
}

/// The evidence of a chain that leads to no root, if that is why the handshake failed.
#[must_use]
pub fn distrust(error: &Error) -> Option<&Untrusted> {
    other(error)?.downcast_ref()
}

fn other(error: &Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => Some(&**inner),
        _ => None,
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
