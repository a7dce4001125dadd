//! Credentials from Istio's certificate authority.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use bypassctl::tls::issue::{DevelopmentCa, LeafRequest};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use tonic::Status;

use crate::harness::{App, Sidecar, assert_echo, connect, eventually, executable, local};
use crate::issuers::{Behaviour, IstioResponse, Istiod, Sign};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// A service account's token, as far as its holder can read it.
fn token(subject: &str, salt: &str) -> String {
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"aud":["istio-ca"],"sub":"{subject}"}}"#);
    format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims), part(salt))
}

fn own_token(salt: &str) -> String {
    token("system:serviceaccount:shop:cart", salt)
}

fn issuer(ca: &DevelopmentCa) -> rcgen::Issuer<'static, rcgen::KeyPair> {
    let key = rcgen::KeyPair::from_pem(&ca.key_pem()).unwrap();
    rcgen::Issuer::from_ca_cert_pem(ca.certificate_pem(), key).unwrap()
}

/// Signs for so long, as istiod does: chain, then root. What the request says beside its key has to be our identity.
fn signing(ca: &DevelopmentCa, lifetime: Duration) -> Sign {
    signing_as(None, ca, lifetime)
}

/// The same, but for somebody else if one is named.
fn signing_as(other: Option<&'static str>, ca: &DevelopmentCa, lifetime: Duration) -> Sign {
    let (issuer, root) = (issuer(ca), ca.certificate_pem().to_owned());
    Arc::new(move |csr| {
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        let names = csr.params.subject_alt_names.clone();
        if !matches!(names.as_slice(), [rcgen::SanType::URI(name)] if name.as_str() == ID) {
            return Some(Err(Status::permission_denied("request impersonation authentication failure")));
        }
        if let Some(other) = other {
            csr.params.subject_alt_names = vec![rcgen::SanType::URI(other.try_into().unwrap())];
        }
        let now = OffsetDateTime::now_utc();
        csr.params.not_before = now - Duration::MINUTE;
        csr.params.not_after = now + lifetime;
        Some(Ok(IstioResponse { cert_chain: vec![csr.signed_by(&issuer).unwrap().pem(), root.clone()] }))
    })
}

fn serving(ca: &DevelopmentCa) -> Arc<rustls::ServerConfig> {
    let mut request = LeafRequest::for_service_account("cluster.local", "istio-system", "istiod");
    request.ip_addresses = vec!["127.0.0.1".parse().unwrap()];
    let leaf = ca.issue(&request).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

struct Setting {
    ca: DevelopmentCa,
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Self { ca: DevelopmentCa::new("mesh CA").unwrap(), dir: tempfile::tempdir().unwrap() };
        std::fs::write(setting.root(), setting.ca.certificate_pem()).unwrap();
        std::fs::write(setting.token(), own_token("first") + "\n").unwrap();
        setting
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root-cert.pem")
    }

    fn token(&self) -> PathBuf {
        self.dir.path().join("istio-token")
    }

    fn istiod(&self, sign: Sign) -> Istiod {
        Istiod::start(Behaviour { token: own_token("first"), sign, tls: serving(&self.ca) })
    }

    fn sidecar(&self, istiod: &Istiod, more: &[&str]) -> Sidecar {
        let (address, token, root) = (istiod.address.to_string(), self.token(), self.root());
        let mut args = vec!["--istio-ca", &address, "--istio-token", token.to_str().unwrap()];
        args.extend(["--istio-root", root.to_str().unwrap()]);
        args.extend(more);
        Sidecar::start(&args)
    }
}

fn fault(sidecar: &Sidecar) -> String {
    sidecar.status()["credentials"]["reloads"]["fault"].as_str().unwrap_or_default().to_owned()
}

fn leaf(sidecar: &Sidecar) -> Option<(String, String)> {
    let leaf = &sidecar.status()["credentials"]["chain"][0];
    Some((leaf["serial"].as_str()?.to_owned(), leaf["issuer"].as_str()?.to_owned()))
}

/// Promise: with the pod's token remoting has the identity that the mesh gives it; renewed in time, with the token as it is
/// then, while open connections live on.
#[test]
fn remoting_has_the_meshs_identity_and_renews_it() {
    let setting = Setting::new();
    let istiod = setting.istiod(signing(&setting.ca, Duration::seconds(14)));
    let app = App::echo();
    let target = app.address.to_string();
    let far = setting.sidecar(&istiod, &["--outbound-target", "127.0.0.1:1", "--inbound-target", &target]);
    let far_inbound = far.inbound.to_string();
    let near = setting.sidecar(&istiod, &["--outbound-target", &far_inbound, "--inbound-target", "127.0.0.1:1"]);
    let first = eventually("far has credentials", || leaf(&far));
    eventually("near has credentials", || leaf(&near));
    assert_eq!(far.status()["credentials"]["allowed"], serde_json::json!([ID]));
    let mut open = connect(near.outbound).unwrap();
    assert_echo(&mut open, "the mesh's identity");

    std::fs::write(setting.token(), own_token("second")).unwrap();
    istiod.change(|behaviour| behaviour.token = own_token("second"));
    eventually("it is renewed", || leaf(&far).filter(|leaf| *leaf != first));
    assert_echo(&mut open, "lives on");
    assert_eq!(fault(&far), "");
    for sidecar in [&far, &near] {
        let log = sidecar.log();
        assert!(!log.contains(&own_token("first")) && !log.contains(&own_token("second")) && !log.contains("PRIVATE"));
    }
}

/// Promise: roots that are replaced are noticed before the certificate's time, and it is asked for again.
#[test]
fn new_roots_of_the_mesh_bring_a_new_certificate() {
    let setting = Setting::new();
    let istiod = setting.istiod(signing(&setting.ca, Duration::HOUR));
    let sidecar = setting.sidecar(&istiod, &["--outbound-target", "127.0.0.1:1"]);
    eventually("it has credentials", || leaf(&sidecar).filter(|(_, issuer)| issuer == "CN=mesh CA"));
    let next = DevelopmentCa::new("next CA").unwrap();
    istiod.change(|behaviour| {
        behaviour.sign = signing(&next, Duration::HOUR);
        behaviour.tls = serving(&next);
    });
    std::fs::write(setting.root(), setting.ca.certificate_pem().to_owned() + next.certificate_pem()).unwrap();
    eventually("the next authority's", || leaf(&sidecar).filter(|(_, issuer)| issuer == "CN=next CA"));
    assert_eq!(fault(&sidecar), "");
}

/// Promise: whatever is wrong with authority, token or answer is said in its own words, and nothing of it is used; mending it is
/// enough.
#[test]
fn every_trouble_with_the_authority_has_its_own_words() {
    let settings: Vec<Setting> = (0..16).map(|_| Setting::new()).collect();
    let hour = Duration::HOUR;
    let other = DevelopmentCa::new("other CA").unwrap();
    let answer = |chain: &[&str]| -> Sign {
        let chain: Vec<String> = chain.iter().map(|pem| (*pem).to_owned()).collect();
        Arc::new(move |_| Some(Ok(IstioResponse { cert_chain: chain.clone() })))
    };
    let good = |i: usize| signing(&settings[i].ca, hour);
    let request = LeafRequest::for_service_account("cluster.local", "shop", "cart");
    let theirs = settings[1].ca.issue(&request).unwrap();
    let status = |status: Status| -> Sign { Arc::new(move |_| Some(Err(status.clone()))) };
    let cases: Vec<(Sign, &str)> = vec![
        (good(0), "does not accept the token of --istio-token (Unauthenticated: request authenticate failure)"),
        (answer(&[&theirs.certificate_pem]), "is not for the key that we asked for"),
        (answer(&[]), "it is empty"),
        (answer(&["certificate"]), "no PEM block with a certificate"),
        (signing(&settings[4].ca, -Duration::SECOND), "that it has issued expired at"),
        (signing(&other, hour), "does not lead to any root"),
        (Arc::new(|_| None), "no answer within 10 s"),
        (
            status(Status::permission_denied("no")),
            "issues no certificate to this service account (PermissionDenied: no)",
        ),
        (status(Status::unavailable("later")), "it is not there (Unavailable: later)"),
        (good(9), "istio-token: No such file or directory"),
        (good(10), "istio-token: it is no JSON web token"),
        (good(11), "istio-token: it is not a service account's"),
        (good(12), "no TLS with it: invalid peer certificate: UnknownIssuer; is --istio-root"),
        (good(13), "root-cert.pem: no PEM block"),
        (
            signing_as(Some("spiffe://cluster.local/ns/shop/sa/admin"), &settings[14].ca, hour),
            "has issued one of spiffe://cluster.local/ns/shop/sa/admin",
        ),
        (status(Status::unauthenticated(format!("bad token {}", own_token("first")))), "bad token [the token])"),
    ];
    std::fs::write(settings[0].token(), own_token("expired")).unwrap();
    std::fs::remove_file(settings[9].token()).unwrap();
    std::fs::write(settings[10].token(), "token").unwrap();
    std::fs::write(settings[11].token(), token("alice", "")).unwrap();
    std::fs::write(settings[12].root(), other.certificate_pem()).unwrap();
    std::fs::write(settings[13].root(), "root").unwrap();
    let running: Vec<_> = settings
        .iter()
        .zip(cases)
        .map(|(setting, (sign, part))| {
            let istiod = setting.istiod(sign);
            let sidecar = setting.sidecar(&istiod, &["--outbound-target", "127.0.0.1:1"]);
            (setting, istiod, sidecar, part)
        })
        .collect();
    for (_, _, sidecar, part) in &running {
        let told = std::panic::catch_unwind(|| eventually(part, || fault(sidecar).contains(part).then_some(())));
        assert!(told.is_ok(), "no {part:?} in {:?}", fault(sidecar));
        let (status, body) = sidecar.get("/ready");
        assert!(status == 503 && body.contains("no credentials yet") && leaf(sidecar).is_none(), "{part}: {body}");
    }
    // The expired token's pod.
    let (setting, _, sidecar, _) = &running[0];
    std::fs::write(setting.token(), own_token("first")).unwrap();
    eventually("the renewed token is used", || (sidecar.get("/ready").0 == 200).then_some(()));
    assert_eq!(fault(sidecar), "");
}

/// Promise: one source, and names that are some.
#[test]
fn an_authority_and_another_source_are_not_mixed() {
    let refused = |args: &[&str]| {
        let output = Command::new(executable()).arg("proxy").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let address = local(15012).to_string();
    for other in [["--tls-dir", "/tls"], ["--tls-ca", "/ca.crt"], ["--spiffe-socket", "unix:///agent.sock"]] {
        let text = refused(&["--istio-ca", &address, other[0], other[1]]);
        assert!(text.contains("cannot be used with"), "{text}");
    }
    let signer = ["--csr-signer", "example.com/remoting"];
    for other in [["--tls-dir", "/tls"], ["--istio-ca", &address], ["--spiffe-socket", "unix:///agent.sock"]] {
        let text = refused(&[&signer[..], &["--tls-ca", "/ca.crt"], &other[..]].concat());
        assert!(text.contains("cannot be used with"), "{text}");
    }
    assert!(refused(&signer).contains("--tls-ca"));
    assert!(refused(&["--csr-signer", "remoting", "--tls-ca", "/ca.crt"]).contains("write DOMAIN/NAME"));
    assert!(refused(&["--istio-ca", "istiod"]).contains("write HOST:PORT"));
    assert!(refused(&["--istio-ca", &address, "--trust-domain", "NO DOMAIN"]).contains("is no trust domain"));
}
