//! `bypassctl certs`, on files and on whoever listens.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn certs(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    command.env_clear().current_dir(dir).arg("certs").args(args).output().unwrap()
}

fn done(dir: &Path, args: &[&str]) -> String {
    let output = certs(dir, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this code, and says this.
fn fails(dir: &Path, args: &[&str], code: i32, part: &str) {
    let output = certs(dir, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(part), "{args:?} does not say {part:?}: {said}");
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

const CART: &str = "--spiffe-id=spiffe://cluster.local/ns/shop/sa/cart";

fn with_cart() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    done(dir.path(), &["ca", "--dir=ca"]);
    done(dir.path(), &["issue", "--ca-dir=ca", "--dir=cart", CART, "--dns=cart.shop"]);
    dir
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn what_an_authority_issues_verifies_and_its_keys_are_for_their_owner_alone() {
    for kind in ["ec-p256", "rsa-2048"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        done(dir, &["ca", "--dir=ca", "--common-name=shop's", &format!("--key-type={kind}")]);
        let args = ["issue", "--ca-dir=ca", "--dir=new/cart", CART, "--ip=10.0.0.7", &format!("--key-type={kind}")];
        assert!(done(dir, &args).contains("ip:10.0.0.7"));
        for (file, expected) in [("ca/ca.key", 0o600), ("new/cart/tls.key", 0o600), ("new/cart", 0o700)] {
            assert_eq!(mode(&dir.join(file)), expected, "{file}");
        }
        let left: Vec<_> =
            fs::read_dir(dir.join("new/cart")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        let text = done(dir, &["verify", "--tls-dir=new/cart", "--peer=new/cart/tls.crt"]);
        assert!(text.contains("The key fits") && text.contains(": let in") && !text.contains("warning"), "{text}");
        let key = dir.join("new/cart/tls.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = done(dir, &["verify", "--tls-dir=new/cart"]);
        assert!(exposed.contains("warning: private key new/cart/tls.key may be read by every user"), "{exposed}");
        let says_why = text.contains("its key is EC P-256") && text.contains("reads RSA keys alone");
        assert_eq!(says_why, kind == "ec-p256", "{text}");
    }
}

#[test]
fn nothing_is_written_over_unless_it_is_meant() {
    let scratch = with_cart();
    let dir = scratch.path();
    let before = fs::read(dir.join("cart/tls.key")).unwrap();
    fails(dir, &["issue", "--ca-dir=ca", "--dir=cart", CART], 2, "tls.crt is there already; --force");
    fails(dir, &["ca", "--dir=ca"], 2, "ca.crt is there already; --force");
    assert_eq!(fs::read(dir.join("cart/tls.key")).unwrap(), before);
    done(dir, &["issue", "--ca-dir=ca", "--dir=cart", CART, "--force"]);
    assert_ne!(fs::read(dir.join("cart/tls.key")).unwrap(), before);
    // A key that was readable by all does not stay so.
    fs::set_permissions(dir.join("cart/tls.key"), fs::Permissions::from_mode(0o644)).unwrap();
    done(dir, &["issue", "--ca-dir=ca", "--dir=cart", CART, "--force"]);
    assert_eq!(mode(&dir.join("cart/tls.key")), 0o600);
}

#[test]
fn an_authority_has_to_be_one() {
    let scratch = with_cart();
    let dir = scratch.path();
    fails(dir, &["issue", "--ca-dir=nosuch", "--dir=x", CART], 2, "bypassctl certs ca --dir");
    done(dir, &["ca", "--dir=other"]);
    fs::copy(dir.join("other/ca.key"), dir.join("ca/ca.key")).unwrap();
    fails(dir, &["issue", "--ca-dir=ca", "--dir=x", CART], 2, "the key does not belong");
    fs::copy(dir.join("cart/tls.crt"), dir.join("ca/ca.crt")).unwrap();
    fs::copy(dir.join("cart/tls.key"), dir.join("ca/ca.key")).unwrap();
    fails(dir, &["issue", "--ca-dir=ca", "--dir=x", CART], 2, "may not sign others");
    fails(dir, &["issue", "--ca-dir=other", "--dir=x", "--spiffe-id=spiffe://*"], 2, "no trust domain");
    fails(dir, &["issue", "--ca-dir=other", "--dir=x", "--dns=kärt"], 2, "is no DNS name");
    assert!(!dir.join("x").exists(), "nothing half-done stays");
}

#[test]
fn a_revoked_certificate_is_refused_by_verify() {
    let scratch = with_cart();
    let dir = scratch.path();
    done(dir, &["issue", "--ca-dir=ca", "--dir=stolen", CART]);
    done(dir, &["revoke", "--ca-dir=ca", "--tls-crl=crl.pem", "stolen/tls.crt"]);
    let verify = ["verify", "--tls-dir=cart", "--tls-crl=crl.pem", "--peer=cart/tls.crt,stolen/tls.crt"];
    fails(dir, &verify, 1, "stolen/tls.crt (spiffe://cluster.local/ns/shop/sa/cart): refused");
    let output = certs(dir, &[&verify[..], &["-o", "json"]].concat());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(answer["peers"][0]["admitted"], true);
    assert!(answer["peers"][1]["reason"].as_str().unwrap().contains("Revoked"), "{answer}");
    assert_eq!(answer["revocations"][0]["revoked"], 1);
    done(dir, &["ca", "--dir=other", "--common-name=other"]);
    let foreign = ["revoke", "--ca-dir=other", "--tls-crl=other.pem", "stolen/tls.crt"];
    fails(dir, &foreign, 2, "stolen/tls.crt was issued by CN=bypassctl development CA");
    assert!(!dir.join("other.pem").exists(), "nothing half-done stays");
    // Its name is the same, and its key is not.
    done(dir, &["ca", "--dir=namesake"]);
    let namesake = ["revoke", "--ca-dir=namesake", "--tls-crl=other.pem", "stolen/tls.crt"];
    fails(dir, &namesake, 2, "not with the key of this CN=bypassctl development CA");
    fails(dir, &["revoke", "--ca-dir=ca", "--tls-crl=ca/ca.key", "stolen/tls.crt"], 2, "is no revocation list");
    let bad = certs(dir, &["verify", "--tls-dir=stolen", "--tls-ca=other/ca.crt", "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert!(answer["fault"].as_str().unwrap().contains("does not lead to any root"), "{answer}");
    fails(dir, &["verify", "--tls-dir=stolen", "--tls-crl=crl.pem"], 1, "Revoked");
    fails(dir, &["verify", "--tls-dir=cart", "--tls-crl=cart/tls.crt"], 1, "no PEM block with a revocation list");
    fails(dir, &["verify"], 2, "--tls-dir");
    fails(dir, &["verify", "--tls-dir=cart", "--allow=cart"], 2, "is no identity");
    fails(dir, &["verify", "--tls-dir=cart", "--allow=dns:other", "--peer=cart/tls.crt"], 1, "not allowed");
}

#[test]
fn verify_says_what_keeps_a_node_with_native_tls_and_a_sidecar_apart() {
    let scratch = with_cart();
    let dir = scratch.path();
    let rsa = |to: &str, names: &[&str]| {
        let to = format!("--dir={to}");
        done(dir, &[&["issue", "--ca-dir=ca", &to, "--key-type=rsa-2048"], names].concat());
    };
    rsa("native", &["--dns=cart.shop"]);
    rsa("named", &["--dns=pay.shop"]);
    let verdict = |own: &str, peer: &str| {
        let (own, peer) = (format!("--tls-dir={own}"), format!("--peer={peer}/tls.crt"));
        let text = done(dir, &["verify", &own, &peer, "--allow=ca"]);
        text.lines().find(|line| line.contains("RotatingKeysSSLEngineProvider: the two")).unwrap().to_owned()
    };
    assert!(verdict("native", "native").ends_with("the two may talk"));
    let apart = verdict("cart", "native");
    assert!(apart.contains("the two cannot talk: ours: its key is EC P-256"), "{apart}");
    assert!(verdict("native", "named").contains("share no DNS name or common name (cart.shop and pay.shop)"));
    fails(dir, &["verify", "--spiffe-socket=unix:///no/such.sock"], 1, "there is no such socket");
    fails(dir, &["verify", "--spiffe-socket=unix:///no/such.sock", "--tls-dir=cart"], 2, "cannot be used with");
}

#[test]
fn inspect_says_what_is_there_and_goes_on_where_nothing_is() {
    let scratch = with_cart();
    let dir = scratch.path();
    fs::write(dir.join("cart/notes.txt"), "no certificate").unwrap();
    let text = done(dir, &["inspect", "cart"]);
    assert!(text.contains("cart/tls.crt") && text.contains("cart/ca.crt") && !text.contains("notes"), "{text}");
    assert!(text.contains("sign certificates") && text.contains("29 days left"), "{text}");
    fails(dir, &["inspect", "nosuch", "cart"], 1, "spiffe://cluster.local/ns/shop/sa/cart");
    fails(dir, &["inspect", "nosuch"], 1, "nosuch cannot be read");
    fails(dir, &["inspect", "cart/tls.key"], 1, "no PEM block with a certificate");
    fs::write(dir.join("der.crt"), [0x30, 0x82]).unwrap();
    fails(dir, &["inspect", "der.crt"], 1, "is DER, not PEM");
    let half = fs::read_to_string(dir.join("cart/tls.crt")).unwrap();
    fs::write(dir.join("half.crt"), &half[..half.len() / 2]).unwrap();
    fails(dir, &["inspect", "half.crt"], 1, "half.crt");
    fails(dir, &["inspect", "127.0.0.1:1"], 1, "127.0.0.1:1 cannot be connected");
    fails(dir, &["inspect", "nowhere:0x1"], 1, "neither a file nor HOST:PORT");
    fails(dir, &["inspect"], 2, "WHAT");
}

/// Somebody who listens, and answers the first bytes with these.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
            if answer.is_empty() {
                std::thread::sleep(std::time::Duration::from_secs(5));
            }
        }
    });
    address
}

#[test]
fn who_speaks_something_else_or_nothing_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let http = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    fails(dir.path(), &["inspect", &http], 1, "does not speak TLS 1.2 or 1.3");
    fails(dir.path(), &["inspect", "--handshake-timeout=1", &answering(b"")], 1, "showed no certificate: timed out");
}
