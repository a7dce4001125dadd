//! What a connection's first bytes look like.
//!
//! Artery: akka-remote `ArteryTcpTransport`, magic and stream id; classic remoting: a u32 big-endian length and a
//! protobuf message; TLS: RFC 8446, section 5.1.

use std::fmt;

/// Bytes that name every protocol known here.
pub const ENOUGH: usize = 8;

/// What the first bytes of a connection look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// No byte at all.
    Nothing,
    /// A TLS handshake record.
    Tls,
    /// Artery over TCP, in plaintext.
    Artery {
        /// Which magic it began with.
        magic: ArteryMagic,
        /// The stream id, if that byte came.
        stream: Option<u8>,
    },
    /// Classic remoting, in plaintext.
    Classic,
    /// HTTP of version 1 or 2, in plaintext.
    Http,
    /// None of these.
    Unknown,
}

/// The first four bytes of an Artery connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArteryMagic {
    /// `AKKA`: Akka 2.6 and later, Pekko 1.
    Akka,
    /// `PEKK`: Pekko 2.
    Pekko,
}

impl FirstBytes {
    /// Names the protocol of these first bytes; more bytes can make the answer more precise.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Nothing,
            [0x16, 0x03, ..] => Self::Tls,
            [b'A', b'K', b'K', b'A', rest @ ..] => {
                Self::Artery { magic: ArteryMagic::Akka, stream: rest.first().copied() }
            }
            [b'P', b'E', b'K', b'K', rest @ ..] => {
                Self::Artery { magic: ArteryMagic::Pekko, stream: rest.first().copied() }
            }
            _ if is_http(bytes) => Self::Http,
            _ if is_classic(bytes) => Self::Classic,
            _ => Self::Unknown,
        }
    }

    /// Whether it takes more bytes to tell TLS from plaintext.
    #[must_use]
    pub const fn is_undecided(bytes: &[u8]) -> bool {
        matches!(bytes, [] | [0x16])
    }
}

fn is_http(bytes: &[u8]) -> bool {
    const STARTS: [&[u8]; 10] =
        [b"GET ", b"PUT ", b"POST ", b"HEAD ", b"PATCH ", b"TRACE ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"PRI * "];
    STARTS.iter().any(|start| bytes.starts_with(&start[..start.len().min(ENOUGH)]))
}

/// A frame of at most 128 KiB (`maximum-frame-size` is 128000 by default) that begins with protobuf field 1 or 2 of
/// `AkkaProtocolMessage` (WireFormats.proto), both length-delimited.
fn is_classic(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0 | 1, _, _, 0x0a | 0x12, ..])
}

impl fmt::Display for FirstBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Tls => f.write_str("TLS"),
            Self::Artery { magic, stream } => {
                let magic = match magic {
                    ArteryMagic::Akka => "Akka 2.6 or Pekko 1",
                    ArteryMagic::Pekko => "Pekko 2",
                };
                match stream {
                    Some(1) => write!(f, "artery ({magic}) control stream"),
                    Some(2) => write!(f, "artery ({magic}) ordinary stream"),
                    Some(3) => write!(f, "artery ({magic}) large message stream"),
                    _ => write!(f, "artery ({magic})"),
                }
            }
            Self::Classic => f.write_str("classic remoting"),
            Self::Http => f.write_str("HTTP"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_named_by_its_first_bytes() {
        for (bytes, name) in [
            (&b""[..], "nothing"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
            (b"\x16\x03", "TLS"),
            (b"\x16", "unknown"),
            (b"\x17\x03\x03", "unknown"),
            (b"AKKA\x01", "artery (Akka 2.6 or Pekko 1) control stream"),
            (b"AKKA\x02", "artery (Akka 2.6 or Pekko 1) ordinary stream"),
            (b"PEKK\x03\x10", "artery (Pekko 2) large message stream"),
            (b"AKKA", "artery (Akka 2.6 or Pekko 1)"),
            (b"AKK", "unknown"),
            (b"GET / HT", "HTTP"),
            (b"OPTIONS ", "HTTP"),
            (b"PRI * HT", "HTTP"),
            (b"\x00\x00\x00\x2a\x12\x28\x08\x01", "classic remoting"),
            (b"\x00\x00\x00\x2a", "unknown"),
            (b"\xff\xff\xff\xff\x0a", "unknown"),
        ] {
            assert_eq!(FirstBytes::of(bytes).to_string(), name, "{bytes:x?}");
        }
    }

    #[test]
    fn one_byte_of_a_handshake_record_decides_nothing() {
        assert!(FirstBytes::is_undecided(b"") && FirstBytes::is_undecided(b"\x16"));
        assert!(!FirstBytes::is_undecided(b"A") && !FirstBytes::is_undecided(b"\x16\x03"));
    }
}
