//! Keys: how new ones are made, and the digest under which any key is known.

use crate::id::KeyDigest;
use ring::hmac;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const PREFIX: &str = "tg_live_";
/// Crockford's alphabet: no letters that read like digits. 5 bits each.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Random bytes of a key: 160 bits.
pub const RANDOM_BYTES: usize = 20;
/// The longest key that is looked at: those of other gateways are shorter.
pub const KEY_BYTES_MAX: usize = 256;
/// The shortest key that may be imported: anything shorter can be guessed.
pub const IMPORT_BYTES_MIN: usize = 20;
/// Characters of a key that are kept so that people can tell keys apart.
const SHOWN_CHARS: usize = 12;

/// A key in full. It is shown once, at creation, and never written anywhere.
pub struct PlainKey(String);

impl PlainKey {
    /// A new key: a prefix, 160 random bits and a checksum by which scanners can recognise it.
    pub fn from_random(random: [u8; RANDOM_BYTES]) -> Self {
        let mut text = String::from(PREFIX);
        let mut bits = 0_u32;
        let mut pending = 0_u32;
        for byte in random {
            pending = (pending << 8) | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                push_digit(&mut text, pending >> bits);
            }
            pending &= (1 << bits) - 1;
        }
        let check = crc32c::crc32c(text.as_bytes());
        (0..6).rev().for_each(|place| push_digit(&mut text, check >> (place * 5)));
        PlainKey(text)
    }

    /// A key from elsewhere.
    ///
    /// # Errors
    /// When it could not be presented in a header, or is too short to be safe.
    pub fn import(text: &str) -> Result<Self, &'static str> {
        if !(IMPORT_BYTES_MIN..=KEY_BYTES_MAX).contains(&text.len()) {
            return Err("a key must have 20 to 256 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a key must be of printable ASCII characters without blanks");
        }
        Ok(PlainKey(text.to_owned()))
    }

    /// The whole key: to be shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its first characters and its last four: enough to tell keys apart, too little to use.
    pub fn shown(&self) -> String {
        format!("{}…{}", &self.0[..SHOWN_CHARS], &self.0[self.0.len() - 4..])
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey(..)")
    }
}

fn push_digit(text: &mut String, value: u32) {
    let digit = usize::try_from(value & 31).expect("five bits");
    text.push(char::from(ALPHABET[digit]));
}

/// The file of a store that has the secret of its key digests.
pub const SECRET_FILE: &str = "key-digest.secret";

/// Makes digests of keys, with a secret of the store: who reads the store alone cannot try keys.
#[derive(Clone)]
pub struct Digester(hmac::Key);

impl Digester {
    /// From the secret in a file, which is made from `random` if it is not there.
    ///
    /// # Errors
    /// As the operating system says, or when the file is not a secret.
    pub fn open(path: &Path, random: [u8; 32]) -> io::Result<Self> {
        if !path.exists() {
            write_whole(path, &random)?;
        }
        let mut secret = Vec::new();
        File::open(path)?.read_to_end(&mut secret)?;
        if secret.len() != random.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the secret of the key digests is damaged",
            ));
        }
        Ok(Digester(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// A short digest of what these are in a row; the first says what it is of.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        *context.sign().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// The digest of a presented key.
    pub fn digest(&self, key: &[u8]) -> KeyDigest {
        let tag = hmac::sign(&self.0, key);
        KeyDigest(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// Writes a file that only we may read, so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_all_its_random_bits_and_a_checksum() {
        let key = PlainKey::from_random([0xff; RANDOM_BYTES]);
        assert_eq!(key.expose().len(), PREFIX.len() + 32 + 6);
        assert!(key.expose().starts_with("tg_live_zzzzzzzz"));
        assert_eq!(key.shown().chars().count(), SHOWN_CHARS + 1 + 4);
        let mut other = [0xff; RANDOM_BYTES];
        other[RANDOM_BYTES - 1] = 0xfe;
        assert_ne!(PlainKey::from_random(other).expose(), key.expose());
    }

    #[test]
    fn keys_that_cannot_be_presented_are_not_imported() {
        assert!(PlainKey::import("sk-0123456789abcdefghij").is_ok());
        for wrong in ["sk-short", "sk-0123456789 abcdefghij", "sk-0123456789abcdefghij\n"] {
            assert!(PlainKey::import(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_secret_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let first = Digester::open(&path, [1; 32]).unwrap().digest(b"key");
        assert_eq!(Digester::open(&path, [2; 32]).unwrap().digest(b"key"), first);
    }
}
