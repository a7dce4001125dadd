//! Credentials from a SPIFFE Workload API.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bypassctl::tls::issue::{DevelopmentCa, LeafRequest};
use time::{Duration, OffsetDateTime};
use tonic::Status;

use crate::harness::{App, Sidecar, assert_echo, assert_no_byte, connect, eventually, executable, local};
use crate::issuers::{SvidResponse, WorkloadApi, der};

const ID: &str = "spiffe://east/ns/shop/sa/cart";

fn svid(ca: &DevelopmentCa, domain: &str) -> SvidResponse {
    let leaf = ca.issue(&LeafRequest::for_service_account(domain, "shop", "cart")).unwrap();
    SvidResponse::of(&format!("spiffe://{domain}/ns/shop/sa/cart"), &leaf, ca)
}

struct Setting {
    ca: DevelopmentCa,
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        Self { ca: DevelopmentCa::new("east CA").unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn api(&self) -> WorkloadApi {
        WorkloadApi::start(&self.socket(), Ok(svid(&self.ca, "east")))
    }
}

fn sidecar(socket: &Path, peer: std::net::SocketAddr, app: std::net::SocketAddr, more: &[&str]) -> Sidecar {
    let endpoint = format!("unix://{}", socket.display());
    let (peer, app) = (peer.to_string(), app.to_string());
    let mut args = vec!["--spiffe-socket", &endpoint, "--outbound-target", &peer, "--inbound-target", &app];
    args.extend(more);
    Sidecar::start(&args)
}

fn serial(sidecar: &Sidecar) -> Option<String> {
    sidecar.status()["credentials"]["chain"][0]["serial"].as_str().map(str::to_owned)
}

fn fault(sidecar: &Sidecar) -> String {
    sidecar.status()["credentials"]["reloads"]["fault"].as_str().unwrap_or_default().to_owned()
}

fn is_ready(sidecar: &Sidecar) -> Option<()> {
    (sidecar.get("/ready").0 == 200).then_some(())
}

/// Promise: before the Workload API is there the sidecar waits, says why, and lets nobody in or out; then it serves.
#[test]
fn a_sidecar_that_is_there_first_waits_and_makes_no_connection() {
    let setting = Setting::new();
    let app = App::echo();
    let far = sidecar(&setting.socket(), local(1), app.address, &[]);
    let near = sidecar(&setting.socket(), far.inbound, local(1), &[]);
    far.log_line(&["no credentials yet", "there is no such socket"]);
    let (status, body) = far.get("/ready");
    assert!(status == 503 && body.contains("no credentials yet") && body.contains("no such socket"), "{status} {body}");
    assert_eq!(far.status()["credentials"]["chain"], serde_json::json!([]));
    assert!(connect(near.outbound).map_or(true, |mut stream| {
        assert_no_byte(&mut stream);
        app.accepted() == 0
    }));
    let _api = setting.api();
    for sidecar in [&far, &near] {
        eventually("it is ready", || is_ready(sidecar));
        assert_eq!(fault(sidecar), "");
    }
    // The circuit breaker may still be open after what was refused.
    eventually("an echo", || {
        let mut stream = connect(near.outbound).ok()?;
        std::io::Write::write_all(&mut stream, b"x").ok()?;
        std::io::Read::read(&mut stream, &mut [0]).ok().filter(|n| *n == 1)
    });
    assert_eq!(far.status()["credentials"]["allowed"], serde_json::json!([ID]));
    assert_eq!(far.status()["credentials"]["reloads"]["succeeded"], 0);
    assert!(!far.log().contains("PRIVATE KEY"));
}

/// Promise: a new SVID on the stream is used at once for new connections, old ones live on; without the Workload API the last
/// good one serves, and when it is back the stream goes on.
#[test]
fn rotation_by_the_stream_outlives_an_agent_that_is_restarted() {
    let setting = Setting::new();
    let api = setting.api();
    let app = App::echo();
    let far = sidecar(&setting.socket(), local(1), app.address, &[]);
    let near = sidecar(&setting.socket(), far.inbound, local(1), &[]);
    for sidecar in [&far, &near] {
        eventually("it is ready", || is_ready(sidecar));
    }
    let mut old = connect(near.outbound).unwrap();
    assert_echo(&mut old, "before");
    let first = serial(&far);
    api.say(Ok(svid(&setting.ca, "east")));
    eventually("the next SVID is used", || (serial(&far) != first).then_some(()));
    assert_echo(&mut connect(near.outbound).unwrap(), "new");
    assert_echo(&mut old, "after");

    drop(api);
    eventually("the loss is told", || (!fault(&far).is_empty()).then_some(()));
    let (status, body) = far.get("/ready");
    assert!(status == 200 && body.contains("the last good ones serve"), "{status} {body}");
    far.log_line(&["no new credentials; the last good ones stay in use"]);
    assert_echo(&mut connect(near.outbound).unwrap(), "without an agent");
    let second = serial(&far);
    let _api = setting.api();
    eventually("the stream goes on", || (serial(&far) != second && fault(&far).is_empty()).then_some(()));
    assert_echo(&mut old, "still");
}

/// Promise: bundles of other trust domains vouch for these domains' members alone; a broken one takes no other with it.
#[test]
fn federated_bundles_let_in_the_members_of_their_own_domain() {
    let setting = Setting::new();
    let west = DevelopmentCa::new("west CA").unwrap();
    let expired = DevelopmentCa::lasting(
        "old CA",
        OffsetDateTime::now_utc() - Duration::HOUR,
        bypassctl::tls::issue::KeyAlgorithm::EcP256,
    );
    let bundles = |ca: &DevelopmentCa, domain: &str| {
        [
            (format!("spiffe://{domain}"), der(ca.certificate_pem())),
            ("spiffe://broken".to_owned(), b"\x30\x03abc".to_vec()),
            ("spiffe://NO DOMAIN".to_owned(), der(ca.certificate_pem())),
            ("spiffe://ended".to_owned(), der(expired.as_ref().unwrap().certificate_pem())),
        ]
    };
    let east_svid = SvidResponse { federated_bundles: bundles(&west, "west").into(), ..svid(&setting.ca, "east") };
    let west_svid = SvidResponse { federated_bundles: bundles(&setting.ca, "east").into(), ..svid(&west, "west") };
    let west_socket = setting.dir.path().join("west.sock");
    let (east_api, _west_api) =
        (WorkloadApi::start(&setting.socket(), Ok(east_svid.clone())), WorkloadApi::start(&west_socket, Ok(west_svid)));
    let allow = ["--allow", "spiffe://east/*", "--allow", "spiffe://west/*"];
    let app = App::echo();
    let far = sidecar(&setting.socket(), local(1), app.address, &allow);
    let near = sidecar(&west_socket, far.inbound, local(1), &allow);
    for sidecar in [&far, &near] {
        eventually("it is ready", || is_ready(sidecar));
        sidecar.log_line(&["nobody vouches for this trust domain", "\"broken\""]);
        sidecar.log_line(&["the bundle is left out", "NO DOMAIN"]);
    }
    assert_echo(&mut connect(near.outbound).unwrap(), "across domains");
    let roots = far.status()["credentials"]["roots"].as_array().unwrap().len();
    assert_eq!(roots, 2, "our own and west's");

    east_api.say(Ok(SvidResponse { federated_bundles: Default::default(), ..east_svid }));
    far.log_line(&["credentials reloaded"]);
    assert_no_byte(&mut connect(near.outbound).unwrap());
    far.log_line(&["UnknownIssuer"]);
}

/// Promise: an answer that cannot be used changes nothing but the status, which says what is wrong with it.
#[test]
fn a_bad_answer_is_told_and_the_last_good_one_serves() {
    let setting = Setting::new();
    let api = setting.api();
    let sidecar = sidecar(&setting.socket(), local(1), local(1), &[]);
    eventually("it is ready", || is_ready(&sidecar));
    let first = serial(&sidecar);
    let good = || svid(&setting.ca, "east");
    let changed = |change: &dyn Fn(&mut crate::issuers::Svid)| {
        let mut answer = good();
        change(&mut answer.svids[0]);
        Ok(answer)
    };
    let now = OffsetDateTime::now_utc();
    let request = LeafRequest::for_service_account("east", "shop", "cart");
    let expired = setting.ca.issue(&LeafRequest { not_after: now - Duration::MINUTE, ..request }).unwrap();
    let foreign = DevelopmentCa::new("foreign").unwrap();
    let cases = [
        (Ok(SvidResponse::default()), "issues no X.509-SVID"),
        (changed(&|svid| svid.x509_svid_key = svid_key(&good())), "does not belong to certificate"),
        (changed(&|svid| svid.x509_svid_key = b"key".to_vec()), "private key SPIFFE Workload API"),
        (changed(&|svid| svid.x509_svid.truncate(100)), "X.509-SVID: a malformed certificate"),
        (changed(&|svid| svid.bundle.clear()), "bundle of our trust domain: no certificate"),
        (changed(&|svid| svid.bundle = der(foreign.certificate_pem())), "does not lead to any root"),
        (changed(&|svid| svid.spiffe_id = "spiffe://east/other".to_owned()), "said to be \"spiffe://east/other\""),
        (Ok(SvidResponse::of(ID, &expired, &setting.ca)), "expired at"),
        (Ok(SvidResponse { crl: vec![b"list".to_vec()], ..good() }), "revocation list"),
        // This one ends the stream.
        (Err(Status::permission_denied("no identity issued\nforged")), "no identity issued\\nforged); register"),
    ];
    for (answer, part) in cases {
        api.say(answer);
        eventually(part, || fault(&sidecar).contains(part).then_some(()));
        assert_eq!(serial(&sidecar), first, "{part}");
        assert_eq!(sidecar.get("/ready").0, 200, "{part}");
    }
    api.say(Ok(good()));
    eventually("a good one is taken", || (serial(&sidecar) != first && fault(&sidecar).is_empty()).then_some(()));
    assert!(sidecar.get("/metrics").1.contains("bypassctl_certificate_reloads_failed_total 10"));
}

fn svid_key(answer: &SvidResponse) -> Vec<u8> {
    answer.svids[0].x509_svid_key.clone()
}

/// Promise: what listens there and is no Workload API is named as such.
#[test]
fn somebody_else_behind_the_socket_is_told_apart() {
    let setting = Setting::new();
    let listener = UnixListener::bind(setting.socket()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let sidecar = sidecar(&setting.socket(), local(1), local(1), &[]);
    eventually("the fault", || (!fault(&sidecar).is_empty()).then_some(()));
    assert_eq!(sidecar.get("/ready").0, 503);
}

/// Promise: SPIFFE's own variable names the socket where nothing else says where credentials are; beside files it is no source,
/// and an option for both is refused.
#[test]
fn files_and_a_workload_api_are_not_mixed() {
    let setting = Setting::new();
    let _api = setting.api();
    let endpoint = format!("unix://{}", setting.socket().display());
    let mut command = Command::new(executable());
    command.stderr(Stdio::piped()).env("SPIFFE_ENDPOINT_SOCKET", &endpoint);
    let sidecar = Sidecar::start_by(&mut command, &["--outbound-target", "127.0.0.1:1"]);
    eventually("it has credentials", || serial(&sidecar));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&sidecar.get("/config").1).unwrap()["tls"]["spiffe_socket"],
        endpoint.as_str()
    );
    let refused = |args: &[&str], variable: &str| {
        let mut command = Command::new(executable());
        let output = command.arg("proxy").args(args).env("SPIFFE_ENDPOINT_SOCKET", variable).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let both = refused(&["--spiffe-socket", &endpoint, "--tls-dir", "/tls"], "");
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(refused(&["--spiffe-socket", "tcp://127.0.0.1:1"], "").contains("write unix:///"));
    assert!(refused(&[], "run/agent.sock").contains("SPIFFE_ENDPOINT_SOCKET: \"run/agent.sock\" is no Unix socket"));
    assert!(refused(&["--tls-dir", "/nowhere"], &endpoint).contains("/nowhere/tls.crt does not exist"));
}

/// Promise: `certs verify` and `check pod` tell the truth of credentials that no file holds.
#[test]
fn what_is_asked_for_can_be_verified_and_checked() {
    let setting = Setting::new();
    let endpoint = format!("--spiffe-socket=unix://{}", setting.socket().display());
    let run = |args: &[&str]| {
        let output = Command::new(executable()).env_clear().args(args).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("PRIVATE KEY"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = run(&["certs", "verify", &endpoint]);
    assert!(code == Some(1) && said.contains("no such socket"), "{said}");
    let sidecar = sidecar(&setting.socket(), local(1), local(1), &[]);
    let (outbound, inbound, admin) =
        (sidecar.outbound.port().to_string(), sidecar.inbound.port().to_string(), sidecar.admin.port().to_string());
    let check = || {
        let ports = ["--outbound-port", &outbound, "--inbound-port", &inbound, "--admin-port", &admin];
        let (_, said) = run(&[&["check", "pod", "-o", "json"], &ports[..]].concat());
        let report: serde_json::Value = serde_json::from_str(said.lines().collect::<String>().as_str()).unwrap();
        let of = |check: &&serde_json::Value| check["code"] == "certificate-valid";
        let check = report["checks"].as_array().unwrap().iter().find(of).unwrap().clone();
        (check["status"].as_str().unwrap().to_owned(), check["message"].as_str().unwrap().to_owned())
    };
    eventually("it says what it lacks", || (!fault(&sidecar).is_empty()).then_some(()));
    let (status, message) = check();
    assert!(
        status == "fail" && message.contains("no credentials yet") && message.contains("no such socket"),
        "{message}"
    );

    let _api = setting.api();
    eventually("it is ready", || is_ready(&sidecar));
    let (status, message) = check();
    let from = format!("from SPIFFE Workload API unix://{}", setting.socket().display());
    assert!(status == "pass" && message.contains(ID) && message.contains(&from), "{message}");
    let (code, said) = run(&["certs", "verify", &endpoint]);
    assert!(code == Some(0) && said.starts_with("SPIFFE Workload API") && said.contains(ID), "{said}");
    assert!(said.contains("the chain leads to one of 1 roots"), "{said}");
}
