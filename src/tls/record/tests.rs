use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{SupportedCipherSuite, crypto::tls13::OkmBlock};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::*;
use crate::core::identity::Allow;
use crate::tls::Session;
use crate::tls::issue::{DevelopmentCa, LeafRequest};
use crate::tls::verify::{PeerVerifier, Trust};

mod hostile;

const SUITES: [SupportedCipherSuite; 3] =
    [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];
const AES_128: SupportedCipherSuite = suite::TLS13_AES_128_GCM_SHA256;
const ROLES: [Role; 2] = [Role::Client, Role::Server];

fn configs(suite: SupportedCipherSuite) -> (ClientConfig, ServerConfig) {
    let ca = DevelopmentCa::new("test").unwrap();
    let leaf = ca.issue(&LeafRequest::for_service_account("cluster.local", "shop", "cart")).unwrap();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(der(ca.certificate_pem())).unwrap();
    let provider = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() });
    let verifier = PeerVerifier::new(Trust::in_own(roots), Arc::clone(&provider), vec![Allow::AnyOfCa]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let certified = CertifiedKey::from_der(vec![der(&leaf.certificate_pem)], key, &provider).unwrap();
    let (verifier, resolver) = (Arc::new(verifier), Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<_>)
        .with_client_cert_resolver(Arc::clone(&resolver) as Arc<_>);
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier as Arc<_>)
        .with_cert_resolver(resolver as Arc<_>);
    server.send_tls13_tickets = 0;
    (client, server)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("peer").unwrap()
}

/// Lets two sessions shake hands.
fn shake(client: &mut Session, server: &mut Session) {
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let mut out = Buffer::default();
    loop {
        let client_done = client.handshake(&mut to_client, &mut out).unwrap();
        to_server.extend_from_slice(out.filled());
        out.clear();
        let server_done = server.handshake(&mut to_server, &mut out).unwrap();
        to_client.extend_from_slice(out.filled());
        out.clear();
        if client_done && server_done {
            return;
        }
    }
}

/// A session that has shaken hands, in this role, and the records of its peer. rustls still serves the session.
fn session_and_peer(suite: SupportedCipherSuite, role: Role) -> (Session, Records) {
    let (client, server) = configs(suite);
    let mut client = Session::client(&Arc::new(client), name()).unwrap();
    let mut server = Session::server(&Arc::new(server)).unwrap();
    shake(&mut client, &mut server);
    match role {
        Role::Client => (client, server.establish().unwrap().into_records()),
        Role::Server => (server, client.establish().unwrap().into_records()),
    }
}

/// Records in this role, and their peer's.
fn records_and_peer(suite: SupportedCipherSuite, role: Role) -> (Records, Records) {
    let (session, peer) = session_and_peer(suite, role);
    (session.establish().unwrap().into_records(), peer)
}

/// Records, with rustls's own buffered connection at the other end.
fn records_and_rustls(suite: SupportedCipherSuite, role: Role, tickets: usize) -> (Records, Connection, Vec<u8>) {
    let (client, mut server) = configs(suite);
    server.send_tls13_tickets = tickets;
    let (mut session, mut theirs) = match role {
        Role::Client => (
            Session::client(&Arc::new(client), name()).unwrap(),
            Connection::Server(ServerConnection::new(Arc::new(server)).unwrap()),
        ),
        Role::Server => (
            Session::server(&Arc::new(server)).unwrap(),
            Connection::Client(ClientConnection::new(Arc::new(client), name()).unwrap()),
        ),
    };
    let (mut incoming, mut out) = (Vec::new(), Buffer::default());
    loop {
        while theirs.wants_write() {
            theirs.write_tls(&mut incoming).unwrap();
        }
        let done = session.handshake(&mut incoming, &mut out).unwrap();
        give(&mut theirs, &mut out);
        if done && !theirs.is_handshaking() {
            while theirs.wants_write() {
                theirs.write_tls(&mut incoming).unwrap();
            }
            return (session.establish().unwrap().into_records(), theirs, incoming);
        }
    }
}

/// Gives rustls all that is in the buffer; its plaintext has to be read.
fn give(theirs: &mut Connection, out: &mut Buffer) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut bytes = out.filled();
    while !bytes.is_empty() {
        theirs.read_tls(&mut bytes).unwrap();
        theirs.process_new_packets().unwrap();
        let mut piece = [0; 1 << 15];
        while let Ok(n @ 1..) = theirs.reader().read(&mut piece) {
            plain.extend_from_slice(&piece[..n]);
        }
    }
    out.clear();
    plain
}

fn take(theirs: &mut Connection, message: &[u8], records: &mut Vec<u8>) {
    let mut rest = message;
    while !rest.is_empty() {
        let n = theirs.writer().write(rest).unwrap();
        rest = &rest[n..];
        while theirs.wants_write() {
            theirs.write_tls(records).unwrap();
        }
    }
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

fn open(records: &mut Records, sealed: &[u8]) -> (Result<usize, Error>, Vec<u8>, Vec<u8>) {
    let (mut plain, mut out) = (Buffer::default(), Buffer::default());
    let result = records.open(sealed, &mut plain, &mut out);
    (result, plain.filled().to_vec(), out.filled().to_vec())
}

#[test]
fn rustls_and_we_understand_each_other() {
    for suite in SUITES {
        for role in ROLES {
            let (mut ours, mut theirs, left) = records_and_rustls(suite, role, 4);
            assert_eq!(open(&mut ours, &left), (Ok(left.len()), vec![], vec![]), "tickets say nothing");
            for size in [0, 1, 15, 16, 17, 255, 16383, 16384, 16385, 32767, 32768, 32769, 300_000] {
                let message = bytes(size);
                let mut out = Buffer::default();
                ours.seal(&message, &mut out).unwrap();
                assert_eq!(out.filled().len(), size + size.div_ceil(MOST_PLAIN) * (HEADER + 1 + TAG));
                assert!(give(&mut theirs, &mut out) == message, "{size} bytes to rustls");
                let mut sealed = Vec::new();
                take(&mut theirs, &message, &mut sealed);
                assert_eq!(open(&mut ours, &sealed), (Ok(sealed.len()), message, vec![]), "{size} bytes from rustls");
            }
        }
    }
}

#[test]
fn keys_are_updated_both_ways_in_the_midst_of_a_batch() {
    for suite in SUITES {
        for role in ROLES {
            let (mut ours, mut theirs, _) = records_and_rustls(suite, role, 0);
            for generation in 0..3 {
                let mut sealed = Vec::new();
                take(&mut theirs, b"before ", &mut sealed);
                theirs.refresh_traffic_keys().unwrap();
                take(&mut theirs, b"after", &mut sealed);
                assert_eq!(open(&mut ours, &sealed), (Ok(sealed.len()), b"before after".to_vec(), vec![]));
                assert!(ours.owes_update, "rustls asks for new keys of ours; they come before the next of our bytes");
                let mut out = Buffer::default();
                ours.seal(b"answer", &mut out).unwrap();
                assert_eq!(ours.out.used(), 1, "generation {generation}");
                assert_eq!(give(&mut theirs, &mut out), b"answer");
            }
        }
    }
}

#[test]
fn keys_are_replaced_before_they_have_served_too_long() {
    for role in ROLES {
        let (mut ours, mut theirs, _) = records_and_rustls(AES_128, role, 0);
        assert_eq!(ours.limit, 1 << 23, "half of what the suite allows");
        ours.limit = 3;
        let message = bytes(20 * MOST_PLAIN);
        let mut out = Buffer::default();
        ours.seal(&message, &mut out).unwrap();
        assert_eq!(ours.out.used(), 2, "20 records, with new keys after each third");
        assert!(give(&mut theirs, &mut out) == message);
    }
}

#[test]
fn sequence_numbers_do_not_wrap() {
    let (mut ours, mut peer) = records_and_peer(AES_128, Role::Client);
    ours.limit = u64::MAX;
    ours.out.set_used(u64::MAX - 1);
    ours.seal(b"last", &mut Buffer::default()).unwrap();
    assert!(ours.put(APPLICATION_DATA, b"too many", &mut Buffer::default()).is_err());
    ours.incoming.set_used(u64::MAX);
    let mut out = Buffer::default();
    peer.seal(b"unheard", &mut out).unwrap();
    assert_eq!(open(&mut ours, out.filled()).0, Err(Error::DecryptError));
}

#[test]
fn many_requests_for_new_keys_are_answered_once() {
    let (mut ours, mut peer) = records_and_peer(AES_128, Role::Server);
    let mut out = Buffer::default();
    for _ in 0..MOST_UPDATES {
        peer.put(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1], &mut out).unwrap();
        peer.out.update().unwrap();
    }
    assert_eq!(open(&mut ours, out.filled()), (Ok(out.filled().len()), vec![], vec![]));
    out.clear();
    ours.seal(b"one", &mut out).unwrap();
    ours.seal(b"two", &mut out).unwrap();
    assert_eq!(out.filled().len(), (3 + 3 + 5) + 3 * (HEADER + 1 + TAG), "two records of data, one key update");
    assert_eq!(open(&mut peer, out.filled()).1, b"onetwo");
}

#[test]
fn an_end_is_said_once_and_heard_once() {
    for role in ROLES {
        let (mut ours, mut theirs, _) = records_and_rustls(AES_128, role, 0);
        let mut out = Buffer::default();
        ours.seal(b"last", &mut out).unwrap();
        ours.close(&mut out).unwrap();
        let size = out.filled().len();
        ours.close(&mut out).unwrap();
        assert_eq!(out.filled().len(), size);
        assert!(ours.seal(b"more", &mut out).is_err());
        assert_eq!(give(&mut theirs, &mut out), b"last");
        assert_eq!(theirs.reader().read(&mut [0]).unwrap(), 0, "rustls has seen the end");
        let mut sealed = Vec::new();
        take(&mut theirs, b"late answer", &mut sealed);
        theirs.send_close_notify();
        theirs.write_tls(&mut sealed).unwrap();
        let end = sealed.len();
        sealed.extend_from_slice(b"whatever comes behind it");
        assert_eq!(open(&mut ours, &sealed), (Ok(end), b"late answer".to_vec(), vec![]));
        assert!(ours.peer_closed());
    }
}

#[test]
fn records_come_in_any_pieces() {
    let (mut ours, mut peer) = records_and_peer(AES_128, Role::Client);
    let mut out = Buffer::default();
    peer.seal(&bytes(40_000), &mut out).unwrap();
    let (mut plain, mut held) = (Buffer::default(), Vec::new());
    for piece in out.filled().chunks(997) {
        held.extend_from_slice(piece);
        let opened = ours.open(&held, &mut plain, &mut Buffer::default()).unwrap();
        held.drain(..opened);
    }
    assert!(plain.filled() == bytes(40_000) && held.is_empty());
}

/// What comes with the last flight of the handshake, cut wherever it may be cut.
#[test]
fn nothing_is_lost_behind_the_handshake() {
    let (client, server) = configs(AES_128);
    let (client, server) = (Arc::new(client), Arc::new(server));
    let mut cut = 1;
    loop {
        let mut ours = Session::server(&server).unwrap();
        let mut theirs = Connection::Client(ClientConnection::new(Arc::clone(&client), name()).unwrap());
        let (mut incoming, mut out) = (Vec::new(), Buffer::default());
        theirs.write_tls(&mut incoming).unwrap();
        assert!(!ours.handshake(&mut incoming, &mut out).unwrap());
        give(&mut theirs, &mut out);
        let mut flight = Vec::new();
        while theirs.wants_write() {
            theirs.write_tls(&mut flight).unwrap();
        }
        take(&mut theirs, b"with ", &mut flight);
        theirs.refresh_traffic_keys().unwrap();
        take(&mut theirs, b"the handshake", &mut flight);
        if cut >= flight.len() {
            break;
        }
        incoming.extend_from_slice(&flight[..cut]);
        let mut done = ours.handshake(&mut incoming, &mut out).unwrap();
        if !done {
            incoming.extend_from_slice(&flight[cut..]);
            done = ours.handshake(&mut incoming, &mut out).unwrap();
        } else {
            incoming.extend_from_slice(&flight[cut..]);
        }
        assert!(done);
        let mut ours = ours.establish().unwrap().into_records();
        assert_eq!(open(&mut ours, &incoming), (Ok(incoming.len()), b"with the handshake".to_vec(), vec![]), "{cut}");
        cut += 41;
    }
}

/// RFC 8448, section 3: the client's application data and its close_notify.
#[test]
fn records_are_those_of_the_rfc() {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let secret = hex("9e40646ce79a7f9dc05af8889bce6552 875afa0b06df0087f792ebb7c17504a5");
    let data = hex(
        "1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a
         6292a2977014bd1e3deae63aeebb21694915e4",
    );
    let end = hex("1703030013 c9872760655666b74d7ff1153efd6db6d0b0e3");
    let SupportedCipherSuite::Tls13(suite) = AES_128 else { unreachable!() };
    let (mut client, mut server) = records_and_peer(AES_128, Role::Client);
    client.out = Keys::new(suite, OkmBlock::new(&secret), 0).unwrap();
    server.incoming = Keys::new(suite, OkmBlock::new(&secret), 0).unwrap();
    let mut out = Buffer::default();
    let content: Vec<u8> = (0..50).collect();
    client.seal(&content, &mut out).unwrap();
    assert_eq!(out.filled(), data);
    client.close(&mut out).unwrap();
    assert_eq!(out.filled()[data.len()..], end);
    assert_eq!(open(&mut server, out.filled()).1, content);
    assert!(server.peer_closed());
}
