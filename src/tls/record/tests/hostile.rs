//! Records that no honest peer sends: each ends the connection, with the right alert, and rustls would not have thought
//! otherwise.

use super::*;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The connection goes on.
    Fine,
    Closed,
    /// The peer's alert.
    Refused(AlertDescription),
    Broken,
}

/// Seals an inner plaintext with its type and padding as given, behind such a header.
fn seal(peer: &mut Records, header: [u8; 3], inner: &[u8]) -> Vec<u8> {
    let size = u16::try_from(inner.len() + TAG).unwrap().to_be_bytes();
    let header = [header[0], header[1], header[2], size[0], size[1]];
    let mut record = vec![0; HEADER + inner.len() + TAG];
    let (last, content) = inner.split_last().unwrap();
    peer.out.seal(header, content, *last, &mut record[HEADER..]).unwrap();
    record[..HEADER].copy_from_slice(&header);
    record
}

fn inner(peer: &mut Records, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
    let mut inner = content.to_vec();
    inner.push(kind);
    inner.resize(inner.len() + padding, 0);
    seal(peer, [APPLICATION_DATA, 3, 3], &inner)
}

fn record(peer: &mut Records, kind: u8, content: &[u8]) -> Vec<u8> {
    inner(peer, kind, content, 0)
}

fn ticket(size: usize) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 60, 1, 2, 3, 4, 1, 0];
    body.extend_from_slice(&u16::try_from(size).unwrap().to_be_bytes());
    body.resize(body.len() + size, 7);
    body.extend_from_slice(&[0, 0]);
    let mut message = vec![NEW_SESSION_TICKET, 0];
    message.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&body);
    message
}

const UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

type Send = fn(&mut Records) -> Vec<u8>;

/// What is sent, what comes of it, and the alert that we answer with.
const CASES: &[(&str, Send, Verdict, Option<AlertDescription>)] = {
    use AlertDescription as A;
    use Verdict::{Broken, Closed, Fine, Refused};
    &[
        ("padding", |p| inner(p, APPLICATION_DATA, b"data", 1000), Fine, None),
        ("as much padding as there may be", |p| inner(p, APPLICATION_DATA, b"", MOST_PLAIN), Fine, None),
        ("a whole record", |p| record(p, APPLICATION_DATA, &bytes(MOST_PLAIN)), Fine, None),
        ("a byte too many", |p| record(p, APPLICATION_DATA, &bytes(MOST_PLAIN + 1)), Broken, Some(A::RecordOverflow)),
        ("padding too long", |p| inner(p, APPLICATION_DATA, b"x", MOST_PLAIN), Broken, Some(A::RecordOverflow)),
        ("a header that says too much", |_| vec![23, 3, 3, 0x41, 1], Broken, Some(A::RecordOverflow)),
        ("no type", |p| seal(p, [23, 3, 3], &[0; 64]), Broken, Some(A::UnexpectedMessage)),
        ("too short for a tag", |_| [&[23, 3, 3, 0, 15][..], &[0; 15]].concat(), Broken, Some(A::BadRecordMac)),
        ("nothing but a tag", |_| [&[23, 3, 3, 0, 16][..], &[0; 16]].concat(), Broken, Some(A::BadRecordMac)),
        ("an empty body", |_| vec![23, 3, 3, 0, 0], Broken, Some(A::BadRecordMac)),
        ("change_cipher_spec", |_| vec![20, 3, 3, 0, 1, 1], Broken, Some(A::UnexpectedMessage)),
        ("change_cipher_spec under protection", |p| record(p, 20, &[1]), Broken, Some(A::UnexpectedMessage)),
        ("heartbeat", |p| record(p, 24, &[1]), Broken, Some(A::UnexpectedMessage)),
        ("an unknown type", |p| record(p, 99, b"data"), Broken, Some(A::UnexpectedMessage)),
        ("an alert in plaintext", |_| vec![21, 3, 3, 0, 2, 2, 40], Broken, Some(A::UnexpectedMessage)),
        ("a close_notify in plaintext", |_| vec![21, 3, 3, 0, 2, 1, 0], Broken, Some(A::UnexpectedMessage)),
        ("data in plaintext", |_| [&[23, 3, 3, 0, 40][..], &[1; 40]].concat(), Broken, Some(A::BadRecordMac)),
        ("HTTP", |_| b"GET / HTTP/1.1\r\n\r\n".to_vec(), Broken, Some(A::UnexpectedMessage)),
        ("another outer type", |p| seal(p, [22, 3, 3], b"data\x17"), Broken, Some(A::UnexpectedMessage)),
        ("close_notify", |p| record(p, ALERT, &[1, 0]), Closed, None),
        ("a fatal close_notify", |p| record(p, ALERT, &[2, 0]), Closed, None),
        ("a fatal alert", |p| record(p, ALERT, &[2, 46]), Refused(A::CertificateUnknown), None),
        ("a warning", |p| record(p, ALERT, &[1, 42]), Refused(A::BadCertificate), Some(A::DecodeError)),
        ("an alert nobody knows", |p| record(p, ALERT, &[2, 200]), Refused(A::Unknown(200)), None),
        ("another level", |p| record(p, ALERT, &[7, 42]), Refused(A::BadCertificate), Some(A::IllegalParameter)),
        ("user_canceled", |p| record(p, ALERT, &[1, 90]), Fine, None),
        ("a fatal user_canceled", |p| record(p, ALERT, &[2, 90]), Refused(A::UserCanceled), None),
        ("half an alert", |p| record(p, ALERT, &[2]), Broken, Some(A::DecodeError)),
        ("two alerts in one", |p| record(p, ALERT, &[2, 40, 2, 40]), Broken, Some(A::DecodeError)),
        ("an empty alert", |p| record(p, ALERT, &[]), Broken, Some(A::UnexpectedMessage)),
        ("a key update", |p| record(p, HANDSHAKE, &UPDATE), Fine, None),
        ("a request for keys", |p| record(p, HANDSHAKE, &[24, 0, 0, 1, 1]), Fine, None),
        (
            "a key update in pieces",
            |p| [record(p, HANDSHAKE, &[24, 0]), record(p, HANDSHAKE, &[0, 1, 0])].concat(),
            Fine,
            None,
        ),
        ("an odd key update", |p| record(p, HANDSHAKE, &[24, 0, 0, 1, 2]), Broken, Some(A::IllegalParameter)),
        ("an empty key update", |p| record(p, HANDSHAKE, &[24, 0, 0, 0]), Broken, Some(A::DecodeError)),
        ("a long key update", |p| record(p, HANDSHAKE, &[24, 0, 0, 2, 0, 0]), Broken, Some(A::DecodeError)),
        (
            "a key update with something behind it",
            |p| record(p, HANDSHAKE, &[&UPDATE[..], &UPDATE].concat()),
            Broken,
            Some(A::UnexpectedMessage),
        ),
        (
            "data under the keys of before an update",
            |p| [record(p, HANDSHAKE, &UPDATE), record(p, APPLICATION_DATA, b"data")].concat(),
            Broken,
            Some(A::BadRecordMac),
        ),
        (
            "data in the midst of a message",
            |p| [record(p, HANDSHAKE, &[24, 0]), record(p, APPLICATION_DATA, b"data")].concat(),
            Broken,
            Some(A::UnexpectedMessage),
        ),
        (
            "an alert in the midst of a message",
            |p| [record(p, HANDSHAKE, &[24, 0]), record(p, ALERT, &[1, 0])].concat(),
            Broken,
            Some(A::UnexpectedMessage),
        ),
        ("a ClientHello", |p| record(p, HANDSHAKE, &[1, 0, 0, 2, 3, 3]), Broken, Some(A::UnexpectedMessage)),
        ("a CertificateRequest", |p| record(p, HANDSHAKE, &[13, 0, 0, 0]), Broken, Some(A::UnexpectedMessage)),
        ("a Finished", |p| record(p, HANDSHAKE, &[20, 0, 0, 0]), Broken, Some(A::UnexpectedMessage)),
        ("a HelloRequest", |p| record(p, HANDSHAKE, &[0, 0, 0, 0]), Broken, Some(A::UnexpectedMessage)),
        ("a message too large", |p| record(p, HANDSHAKE, &[24, 1, 0, 0]), Broken, Some(A::DecodeError)),
        (
            "many empty records",
            |p| (0..=MOST_EMPTY).flat_map(|_| record(p, APPLICATION_DATA, b"")).collect(),
            Broken,
            Some(A::UnexpectedMessage),
        ),
        (
            "empty records now and then",
            |p| (0..200).flat_map(|i| record(p, APPLICATION_DATA, &bytes(usize::from(i % 30 == 0)))).collect(),
            Fine,
            None,
        ),
        (
            "many warnings",
            |p| (0..=MOST_WARNINGS).flat_map(|_| record(p, ALERT, &[1, 90])).collect(),
            Broken,
            Some(A::UnexpectedMessage),
        ),
        (
            "many key updates",
            |p| {
                let update = |_| {
                    let update = record(p, HANDSHAKE, &UPDATE);
                    p.out.update().unwrap();
                    update
                };
                (0..=MOST_UPDATES).flat_map(update).collect()
            },
            Broken,
            Some(A::UnexpectedMessage),
        ),
    ]
};

/// rustls waits for TLS 1.2's 2048 bytes more before it refuses.
const RUSTLS_DIFFERS: &[&str] = &["a header that says too much"];

fn verdict(result: Result<bool, Error>) -> Verdict {
    match result {
        Ok(false) => Verdict::Fine,
        Ok(true) => Verdict::Closed,
        Err(Error::AlertReceived(alert)) => Verdict::Refused(alert),
        Err(_) => Verdict::Broken,
    }
}

#[test]
fn what_may_not_come_ends_the_connection_with_the_right_alert() {
    for suite in SUITES {
        for role in ROLES {
            for (what, send, expected, alert) in CASES {
                let (mut ours, mut peer) = records_and_peer(suite, role);
                let sent = send(&mut peer);
                let (result, _, answer) = open(&mut ours, &sent);
                let got = verdict(result.map(|_| ours.peer_closed()));
                assert_eq!(got, *expected, "{what}, {role:?}, {suite:?}");
                let heard = verdict(open(&mut peer, &answer).0.map(|_| false));
                let said = alert.map_or(Verdict::Fine, Verdict::Refused);
                assert_eq!(heard, said, "the answer to {what}");
                if matches!(got, Verdict::Broken | Verdict::Refused(_)) {
                    assert!(ours.seal(b"more", &mut Buffer::default()).is_err(), "after {what}");
                    assert!(ours.open(&[], &mut Buffer::default(), &mut Buffer::default()).is_err(), "after {what}");
                }
            }
        }
    }
}

#[test]
fn rustls_judges_like_us() {
    for role in ROLES {
        for (what, send, expected, _) in CASES {
            let (mut session, mut peer) = session_and_peer(AES_128, role);
            let mut sent = send(&mut peer);
            let (mut plain, mut answer) = (Buffer::default(), Buffer::default());
            let theirs = verdict(session.open(&mut sent, &mut plain, &mut answer).map(|opened| opened.closed));
            let differs = RUSTLS_DIFFERS.contains(what);
            assert_eq!(theirs == *expected, !differs, "{what}, {role:?}: {theirs:?}, and we {expected:?}");
        }
    }
}

#[test]
fn tickets_are_for_clients_alone_and_are_put_aside() {
    let (mut client, mut server) = records_and_peer(AES_128, Role::Client);
    let messages = [ticket(20), ticket(60_000), ticket(1), UPDATE.to_vec()].concat();
    for size in [1, 3, 4, 5, 1000, MOST_PLAIN] {
        let sent: Vec<u8> = messages.chunks(size).flat_map(|piece| record(&mut server, HANDSHAKE, piece)).collect();
        assert_eq!(open(&mut client, &sent), (Ok(sent.len()), vec![], vec![]), "pieces of {size}");
        assert_eq!(client.message.capacity(), 0, "nothing is kept");
        server.out.update().unwrap();
        let sent = record(&mut server, APPLICATION_DATA, b"data");
        assert_eq!(open(&mut client, &sent).1, b"data");
    }
    let mut malformed = ticket(20);
    malformed[3] -= 1;
    malformed.pop();
    let sent = record(&mut server, HANDSHAKE, &malformed);
    assert!(matches!(open(&mut client, &sent).0, Err(Error::InvalidMessage(_))));
    let (mut server, mut client) = records_and_peer(AES_128, Role::Server);
    let sent = record(&mut client, HANDSHAKE, &ticket(20));
    assert!(matches!(open(&mut server, &sent).0, Err(Error::InappropriateHandshakeMessage { .. })));
}

#[test]
fn no_bit_can_be_changed() {
    let (_, mut peer) = records_and_peer(AES_128, Role::Client);
    let size = record(&mut peer, APPLICATION_DATA, b"data").len();
    for bit in 0..size * 8 {
        let (mut ours, mut peer) = records_and_peer(SUITES[bit % 3], ROLES[bit % 2]);
        let mut sent = record(&mut peer, APPLICATION_DATA, b"data");
        sent[bit / 8] ^= 1 << (bit % 8);
        // A length that has grown makes it wait for more.
        sent.resize(HEADER + (1 << 16), 0);
        let (result, plain, _) = open(&mut ours, &sent);
        assert!(result.is_err() && plain.is_empty(), "bit {bit}");
    }
}

#[test]
fn records_are_neither_repeated_nor_left_out_nor_exchanged() {
    for order in [&[0, 0][..], &[1], &[0, 2], &[1, 0], &[0, 1, 0]] {
        let (mut ours, mut peer) = records_and_peer(AES_128, Role::Server);
        let sealed: Vec<Vec<u8>> = (0..3).map(|_| record(&mut peer, APPLICATION_DATA, b"same")).collect();
        let sent: Vec<u8> = order.iter().flat_map(|&i: &usize| sealed[i].clone()).collect();
        let (result, plain, _) = open(&mut ours, &sent);
        assert_eq!(result, Err(Error::DecryptError), "{order:?}");
        assert!(plain.len() < 4 * order.len());
    }
}

#[test]
fn what_came_before_is_handed_out() {
    let (mut ours, mut peer) = records_and_peer(AES_128, Role::Client);
    let sent = [record(&mut peer, APPLICATION_DATA, b"good"), vec![20, 3, 3, 0, 1, 1]].concat();
    let (result, plain, _) = open(&mut ours, &sent);
    assert!(result.is_err() && plain == b"good");
}
