//! The keys of one direction (RFC 8446, sections 5.2, 5.3, 7.2 and 7.3).
//!
//! Invariant: no sequence number is used twice with a key. The secret, the key and the initialisation vector are zeroed
//! when they are dropped, and so is the expanded key, by aws-lc.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::tls13::OkmBlock;
use rustls::{CipherSuite, ConnectionTrafficSecrets, Error, Tls13CipherSuite};
use zeroize::Zeroizing;

/// Content type, version, length.
pub(super) const HEADER: usize = 5;
/// All suites' tags have this length.
pub(super) const TAG: usize = 16;
/// More than this no sender encrypts with one key, whatever its suite allows.
const MOST_RECORDS: u64 = 1 << 48;

/// The keys of one direction.
pub(super) struct Keys {
    suite: &'static Tls13CipherSuite,
    algorithm: &'static Algorithm,
    secret: OkmBlock,
    key: Zeroizing<[u8; 32]>,
    iv: Zeroizing<[u8; 12]>,
    /// Of the next record.
    sequence: u64,
    /// The key, expanded; see [`Keys::rest`].
    cipher: Option<LessSafeKey>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Keys {
    /// Keys of a traffic secret.
    ///
    /// # Errors
    /// If the suite is none of TLS 1.3's three.
    pub(super) fn new(suite: &'static Tls13CipherSuite, secret: OkmBlock, sequence: u64) -> Result<Self, Error> {
        let algorithm = match suite.common.suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128_GCM,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256_GCM,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
            other => return Err(Error::General(format!("no record layer for {other:?}"))),
        };
        let (key, iv) = (Zeroizing::default(), Zeroizing::default());
        let mut keys = Self { suite, algorithm, secret, key, iv, sequence, cipher: None };
        keys.derive()?;
        Ok(keys)
    }

    /// Whether rustls encrypts with the same.
    pub(super) fn are(&self, theirs: &ConnectionTrafficSecrets) -> bool {
        let (algorithm, key, iv) = match theirs {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return false,
        };
        algorithm == self.algorithm && key.as_ref() == self.key_bytes() && iv.as_ref() == *self.iv
    }

    /// Goes on with the next generation of keys.
    pub(super) fn update(&mut self) -> Result<(), Error> {
        let mut next = Zeroizing::new([0; OkmBlock::MAX_LEN]);
        let next = &mut next[..self.secret.as_ref().len()];
        self.expand(b"traffic upd", next)?;
        self.secret = OkmBlock::new(next);
        self.sequence = 0;
        self.derive()
    }

    /// How many records may be encrypted with one key: half of what the suite allows, so that there is room for those
    /// that are under way.
    pub(super) fn limit(&self) -> u64 {
        self.suite.common.confidentiality_limit.min(MOST_RECORDS) / 2
    }

    /// How many were.
    pub(super) const fn used(&self) -> u64 {
        self.sequence
    }

    /// Decrypts a record's body, without its tag, to a buffer of the same length.
    pub(super) fn open(&mut self, header: [u8; HEADER], body: &[u8], tag: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let nonce = self.nonce().ok_or(Error::DecryptError)?;
        let opened = self.cipher()?.open_separate_gather(nonce, Aad::from(header), body, tag, out);
        opened.map_err(|_| Error::DecryptError)
    }

    /// Encrypts content and its type; `out` has room for both and for the tag.
    pub(super) fn seal(&mut self, header: [u8; HEADER], content: &[u8], kind: u8, out: &mut [u8]) -> Result<(), Error> {
        let nonce = self.nonce().ok_or(Error::EncryptError)?;
        let (body, rest) = out.split_at_mut(content.len());
        let sealed = self.cipher()?.seal_out_of_place_scatter(nonce, Aad::from(header), content, body, &[kind], rest);
        sealed.map_err(|_| Error::EncryptError)
    }

    /// Lets go of the expanded key, which is four times as large as all else here. It costs 140 ns to have it again.
    pub(super) fn rest(&mut self) {
        self.cipher = None;
    }

    fn cipher(&mut self) -> Result<&LessSafeKey, Error> {
        if self.cipher.is_none() {
            let key = UnboundKey::new(self.algorithm, self.key_bytes());
            let key = key.map_err(|_| Error::General("the cipher refuses the key".to_owned()))?;
            self.cipher = Some(LessSafeKey::new(key));
        }
        self.cipher.as_ref().ok_or(Error::EncryptError)
    }

    /// The next record's; `None` once there are no more.
    fn nonce(&mut self) -> Option<Nonce> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1)?;
        let mut nonce = *self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= number;
        }
        Some(Nonce::assume_unique_for_key(nonce))
    }

    fn derive(&mut self) -> Result<(), Error> {
        let (mut key, mut iv) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 12]));
        self.expand(b"key", &mut key[..self.algorithm.key_len()])?;
        self.expand(b"iv", &mut *iv)?;
        (self.key, self.iv, self.cipher) = (key, iv, None);
        Ok(())
    }

    fn key_bytes(&self) -> &[u8] {
        &self.key[..self.algorithm.key_len()]
    }

    /// HKDF-Expand-Label of the secret, without context (RFC 8446, section 7.1).
    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), Error> {
        const PREFIX: &[u8] = b"tls13 ";
        let too_long = |_| Error::General("a label or a key is too long".to_owned());
        let length = u16::try_from(out.len()).map_err(too_long)?.to_be_bytes();
        let label_length = [u8::try_from(PREFIX.len() + label.len()).map_err(too_long)?];
        let expander = self.suite.hkdf_provider.expander_for_okm(&self.secret);
        let expanded = expander.expand_slice(&[&length, &label_length, PREFIX, label, &[0]], out);
        expanded.map_err(|_| Error::General("a key is too long".to_owned()))
    }

    #[cfg(test)]
    pub(super) fn set_used(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}
