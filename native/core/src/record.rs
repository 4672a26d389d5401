//! TLS 1.3 records after the handshake, sealed and opened in place. The state of one direction is plain: the cipher,
//! its traffic secret and a sequence number (RFC 8446, sections 5.2, 7.2 and 7.3).
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;

/// Bytes before the content of a record.
pub const HEADER: usize = 5;
/// Bytes after it: the inner content type and the tag.
pub const TRAILER: usize = 1 + TAG;
/// Most content a record may carry.
pub const MAX_CONTENT: usize = 16384;
/// Most that may follow a record header.
pub const MAX_CIPHERTEXT: usize = MAX_CONTENT + 256;
/// A sealed KeyUpdate message.
pub const KEY_UPDATE_RECORD: usize = HEADER + 5 + TRAILER;
/// A sealed alert.
pub const ALERT_RECORD: usize = HEADER + 2 + TRAILER;

pub const APPLICATION_DATA: u8 = 23;
pub const HANDSHAKE: u8 = 22;
pub const ALERT: u8 = 21;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
}

/// One direction's keys.
pub struct Keys {
    cipher: Cipher,
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Not authentic, or its inner form is wrong.
    Bad,
    TooLong,
}

impl Keys {
    /// `secret` is the traffic secret, as long as the cipher's hash.
    pub fn new(cipher: Cipher, secret: &[u8]) -> Option<Self> {
        Self::resume(cipher, secret, 0)
    }

    /// Goes on where another holder of the same state stopped.
    pub fn resume(cipher: Cipher, secret: &[u8], sequence: u64) -> Option<Self> {
        if secret.len() != cipher.hash_length() {
            return None;
        }
        let mut key = [0; 32];
        let key = &mut key[..cipher.algorithm().key_len()];
        expand_label(cipher, secret, b"key", key)?;
        let mut iv = [0; 12];
        expand_label(cipher, secret, b"iv", &mut iv)?;
        let key = LessSafeKey::new(UnboundKey::new(cipher.algorithm(), key).ok()?);
        Some(Self { cipher, secret: secret.to_vec(), key, iv, sequence })
    }

    /// Records sealed or opened under the present key.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn state(&self) -> (Cipher, &[u8], u64) {
        (self.cipher, &self.secret, self.sequence)
    }

    /// The next generation (KeyUpdate).
    pub fn update(&mut self) -> Option<()> {
        let mut secret = vec![0; self.secret.len()];
        expand_label(self.cipher, &self.secret, b"traffic upd", &mut secret)?;
        *self = Self::new(self.cipher, &secret)?;
        Some(())
    }

    /// Seals `content` bytes that begin at `HEADER` of `slot`; gives back the length of the record.
    pub fn seal(&mut self, content_type: u8, slot: &mut [u8], content: usize) -> Option<usize> {
        let sealed = content + TRAILER;
        let length = u16::try_from(sealed).ok()?.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, length[0], length[1]];
        let record = slot.get_mut(..HEADER + sealed)?;
        record[..HEADER].copy_from_slice(&header);
        record[HEADER + content] = content_type;
        let nonce = self.next_nonce();
        let (body, tag_at) = record[HEADER..].split_at_mut(content + 1);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), body).ok()?;
        tag_at.copy_from_slice(tag.as_ref());
        Some(HEADER + sealed)
    }

    /// Opens the record `header` + `body` in place: its inner type, and how many bytes of `body` are content.
    pub fn open(&mut self, header: [u8; HEADER], body: &mut [u8]) -> Result<(u8, usize), RecordError> {
        if header[0] != APPLICATION_DATA {
            return Err(RecordError::Bad);
        }
        let nonce = self.next_nonce();
        let plain = self.key.open_in_place(nonce, Aad::from(header), body).map_err(|_| RecordError::Bad)?;
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Bad)?;
        if end > MAX_CONTENT {
            return Err(RecordError::TooLong);
        }
        Ok((plain[end], end))
    }

    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (at, byte) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *at ^= byte;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// A secret outlives its connection nowhere (the cipher clears its own key).
impl Drop for Keys {
    fn drop(&mut self) {
        for byte in &mut self.secret {
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(out, "Keys({:?}, [redacted], {})", self.cipher, self.sequence)
    }
}

impl Cipher {
    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
        }
    }

    fn hash(self) -> hkdf::Algorithm {
        match self {
            Cipher::Aes128Gcm => hkdf::HKDF_SHA256,
            Cipher::Aes256Gcm => hkdf::HKDF_SHA384,
        }
    }

    fn hash_length(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 32,
            Cipher::Aes256Gcm => 48,
        }
    }
}

/// The body of a KeyUpdate message that asks for nothing in return.
pub const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// What came in handshake records after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum PostHandshake {
    /// Nothing to do: a session ticket, or a message that is not complete yet.
    Nothing,
    /// The peer has changed its sending key; `answer` when it wants ours changed too.
    KeyUpdate { answer: bool },
}

/// Reassembles post-handshake messages. Tickets are dropped.
#[derive(Debug, Default)]
pub struct PostHandshakeReader {
    partial: Vec<u8>,
}

impl PostHandshakeReader {
    /// A record's content. An error means that the peer breaks the protocol.
    pub fn read(&mut self, content: &[u8]) -> Result<PostHandshake, RecordError> {
        if content.is_empty() || self.partial.len() + content.len() > MAX_POST_HANDSHAKE {
            return Err(RecordError::Bad);
        }
        self.partial.extend_from_slice(content);
        let mut rest = &self.partial[..];
        let mut found = PostHandshake::Nothing;
        while let [kind, a, b, c, body @ ..] = rest {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > MAX_POST_HANDSHAKE {
                return Err(RecordError::Bad);
            }
            let Some(message) = body.get(..length) else { break };
            rest = &body[length..];
            match (kind, message) {
                (&NEW_SESSION_TICKET, _) => {}
                // The key changes right after the message, so nothing may follow it in its record.
                (&KEY_UPDATE_MESSAGE, [wanted @ (0 | 1)]) if rest.is_empty() => {
                    found = PostHandshake::KeyUpdate { answer: *wanted == 1 };
                }
                _ => return Err(RecordError::Bad),
            }
        }
        self.partial = rest.to_vec();
        Ok(found)
    }

    /// A message may not be interrupted by other content.
    pub fn is_between_messages(&self) -> bool {
        self.partial.is_empty()
    }
}

/// HKDF-Expand-Label with an empty context.
fn expand_label(cipher: Cipher, secret: &[u8], label: &[u8], out: &mut [u8]) -> Option<()> {
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_length = [PREFIX.len() as u8 + label.len() as u8];
    let info = [&length[..], &label_length, PREFIX, label, &[0]];
    let prk = hkdf::Prk::new_less_safe(cipher.hash(), secret);
    prk.expand(&info, OkmLength(out.len())).ok()?.fill(out).ok()
}

struct OkmLength(usize);

impl hkdf::KeyType for OkmLength {
    fn len(&self) -> usize {
        self.0
    }
}

const PREFIX: &[u8] = b"tls13 ";
const TAG: usize = 16;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE_MESSAGE: u8 = 24;
const MAX_POST_HANDSHAKE: usize = 32 << 10;
