//! What `fuzz/` asks of the record layer.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::crypto::tls13::OkmBlock;

use super::{APPLICATION_DATA, HEADER, Keys, Records, Role, TAG, VERSION};
use crate::tls::buffer::Buffer;

/// Instructions to a peer: the first byte chooses role and suite, each further one what is sent: bytes that are sealed as
/// they are, with type and padding (a length in two bytes before them), bytes that are not, or new keys.
pub(in crate::tls) fn records(instructions: &[u8]) {
    let Some((&first, mut rest)) = instructions.split_first() else { return };
    let role = if first & 1 == 0 { Role::Client } else { Role::Server };
    let suite = match first >> 1 & 3 {
        0 => suite::TLS13_AES_256_GCM_SHA384,
        1 => suite::TLS13_CHACHA20_POLY1305_SHA256,
        _ => suite::TLS13_AES_128_GCM_SHA256,
    };
    let SupportedCipherSuite::Tls13(suite) = suite else { return };
    let keys = |byte: u8| {
        let size = if first >> 1 & 3 == 0 { 48 } else { 32 };
        Keys::new(suite, OkmBlock::new(&[byte; 48][..size]), 0).expect("a suite of TLS 1.3")
    };
    let (mut peer, mut records) = (keys(1), Records::with(role, keys(2), keys(1)));
    let (mut sent, mut sealed_data) = (Vec::new(), Vec::new());
    while let Some((&[kind, high, low], more)) = rest.split_first_chunk() {
        let size = usize::from(u16::from_be_bytes([high, low])).min(more.len());
        let (bytes, more) = more.split_at(size);
        rest = more;
        match kind % 4 {
            0 => sent.extend_from_slice(bytes),
            1 => peer.update().expect("new keys"),
            _ => {
                let Some((&last, content)) = bytes.split_last() else { continue };
                let Ok(size) = u16::try_from(bytes.len() + TAG) else { continue };
                let [high, low] = size.to_be_bytes();
                let header = [APPLICATION_DATA, VERSION[0], VERSION[1], high, low];
                let mut body = vec![0; bytes.len() + TAG];
                peer.seal(header, content, last, &mut body).expect("a record");
                sent.extend_from_slice(&header);
                sent.extend_from_slice(&body);
                if let Some(end) = bytes.iter().rposition(|&byte| byte != 0)
                    && bytes[end] == APPLICATION_DATA
                {
                    sealed_data.extend_from_slice(&bytes[..end]);
                }
            }
        }
    }
    let (mut plain, mut answer) = (Buffer::default(), Buffer::default());
    let opened = records.open(&sent, &mut plain, &mut answer);
    assert!(sealed_data.starts_with(plain.filled()), "nothing but what the peer has sealed, in its order");
    match opened {
        Ok(consumed) => assert!(consumed <= sent.len() && answer.is_empty()),
        Err(_) => {
            assert!(answer.filled().len() <= HEADER + 3 + TAG, "an alert at most");
            assert!(records.seal(b"more", &mut Buffer::default()).is_err());
            assert!(records.open(&[], &mut plain, &mut answer).is_err());
        }
    }
}
