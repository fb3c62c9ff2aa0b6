//! Bytes of entries: little-endian, one tag byte for each kind of change.
//!
//! Reading checks every length, tag and string, and takes nothing it was not given. The layout is
//! part of the journal's format version: a new kind of change takes a new tag, an old one is never
//! altered.

use super::entry::{Balance, Change, Entry, KeyCreated, Release, Seq};
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use std::fmt;
use std::sync::Arc;

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// They end too early.
    Short,
    /// Something follows the last field.
    Trailing,
    /// A kind of change, or of release, that this version does not know.
    UnknownTag(u8),
    /// Text that is not UTF-8.
    NotText,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Short => f.write_str("it ends too early"),
            CodecError::Trailing => f.write_str("something follows its last field"),
            CodecError::UnknownTag(tag) => write!(f, "tag {tag} is not known to this version"),
            CodecError::NotText => f.write_str("a text is not UTF-8"),
        }
    }
}

/// Appends the bytes of an entry, but for its sequence number, which the frame has.
pub fn encode(entry: &Entry, out: &mut Vec<u8>) {
    put(out, entry.at.micros().to_le_bytes());
    put(out, entry.customer.int().to_le_bytes());
    put_amount(out, entry.balance.available);
    put_amount(out, entry.balance.held);
    match &entry.change {
        Change::CustomerCreated { name } => {
            out.push(1);
            put_bytes(out, name.as_bytes());
        }
        Change::KeyCreated(KeyCreated { key, digest, prefix, name }) => {
            out.push(2);
            put(out, key.int().to_le_bytes());
            put(out, digest.0);
            put_bytes(out, prefix.as_bytes());
            put_bytes(out, name.as_bytes());
        }
        Change::KeyRevoked { key } => {
            out.push(3);
            put(out, key.int().to_le_bytes());
        }
        Change::Deposited { amount, reference } => {
            out.push(4);
            put_amount(out, *amount);
            put_bytes(out, reference.as_bytes());
        }
        Change::Held { request, key, amount, price_version } => {
            out.push(5);
            put(out, request.int().to_le_bytes());
            put(out, key.int().to_le_bytes());
            put_amount(out, *amount);
            put_bytes(out, price_version.as_bytes());
        }
        Change::Captured { request, amount, released, record } => {
            out.push(6);
            put(out, request.int().to_le_bytes());
            put_amount(out, *amount);
            put_amount(out, *released);
            put_bytes(out, record);
        }
        Change::Overage { request, amount } => {
            out.push(7);
            put(out, request.int().to_le_bytes());
            put_amount(out, *amount);
        }
        Change::WrittenOff { request, amount } => {
            out.push(8);
            put(out, request.int().to_le_bytes());
            put_amount(out, *amount);
        }
        Change::Released { request, amount, reason, record } => {
            out.push(9);
            put(out, request.int().to_le_bytes());
            put_amount(out, *amount);
            out.push(match reason {
                Release::Failed => 1,
                Release::Expired => 2,
            });
            put_bytes(out, record);
        }
    }
}

/// Reads one entry off the front of `input`.
///
/// # Errors
/// When the bytes are not what [`encode`] writes.
pub fn decode(input: &mut &[u8], seq: Seq) -> Result<Entry, CodecError> {
    let at = Timestamp::from_micros(i64::from_le_bytes(take(input)?));
    let customer = CustomerId::from_int(u64::from_le_bytes(take(input)?));
    let balance = Balance { available: take_amount(input)?, held: take_amount(input)? };
    let [tag] = take::<1>(input)?;
    let change = decode_change(tag, input)?;
    Ok(Entry { seq, at, customer, change, balance })
}

fn decode_change(tag: u8, input: &mut &[u8]) -> Result<Change, CodecError> {
    Ok(match tag {
        1 => Change::CustomerCreated { name: take_text(input)? },
        2 => Change::KeyCreated(KeyCreated {
            key: take_key(input)?,
            digest: KeyDigest(take(input)?),
            prefix: take_text(input)?,
            name: take_text(input)?,
        }),
        3 => Change::KeyRevoked { key: take_key(input)? },
        4 => Change::Deposited { amount: take_amount(input)?, reference: take_text(input)? },
        5 => Change::Held {
            request: take_request(input)?,
            key: take_key(input)?,
            amount: take_amount(input)?,
            price_version: take_text(input)?,
        },
        6 => Change::Captured {
            request: take_request(input)?,
            amount: take_amount(input)?,
            released: take_amount(input)?,
            record: take_bytes(input)?.into(),
        },
        7 => Change::Overage { request: take_request(input)?, amount: take_amount(input)? },
        8 => Change::WrittenOff { request: take_request(input)?, amount: take_amount(input)? },
        9 => Change::Released {
            request: take_request(input)?,
            amount: take_amount(input)?,
            reason: match take::<1>(input)? {
                [1] => Release::Failed,
                [2] => Release::Expired,
                [other] => return Err(CodecError::UnknownTag(other)),
            },
            record: take_bytes(input)?.into(),
        },
        other => return Err(CodecError::UnknownTag(other)),
    })
}

/// Appends a field of fixed size.
pub(super) fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

/// Appends an amount.
pub(super) fn put_amount(out: &mut Vec<u8>, amount: Amount) {
    put(out, amount.atto_usd().to_le_bytes());
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("the book bounds every field");
    put(out, length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads a field of fixed size off the front.
pub(super) fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (field, rest) = input.split_first_chunk::<N>().ok_or(CodecError::Short)?;
    *input = rest;
    Ok(*field)
}

/// Reads an amount off the front.
pub(super) fn take_amount(input: &mut &[u8]) -> Result<Amount, CodecError> {
    Ok(Amount::from_atto_usd(i128::from_le_bytes(take(input)?)))
}

/// Reads bytes behind their length off the front.
pub(super) fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], CodecError> {
    let length = usize::try_from(u32::from_le_bytes(take(input)?)).map_err(|_| CodecError::Short)?;
    let (bytes, rest) = input.split_at_checked(length).ok_or(CodecError::Short)?;
    *input = rest;
    Ok(bytes)
}

/// Reads text behind its length off the front.
pub(super) fn take_text(input: &mut &[u8]) -> Result<Arc<str>, CodecError> {
    std::str::from_utf8(take_bytes(input)?).map(Arc::from).map_err(|_| CodecError::NotText)
}

/// Reads a key's id off the front.
pub(super) fn take_key(input: &mut &[u8]) -> Result<KeyId, CodecError> {
    Ok(KeyId::from_int(u64::from_le_bytes(take(input)?)))
}

fn take_request(input: &mut &[u8]) -> Result<RequestId, CodecError> {
    Ok(RequestId::from_int(u128::from_le_bytes(take(input)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: Change) {
        let balance =
            Balance { available: Amount::from_atto_usd(-7), held: Amount::from_atto_usd(i128::MAX) };
        let at = Timestamp::from_micros(1_763_915_146_000_001);
        let entry = Entry { seq: Seq(9), at, customer: CustomerId::from_int(5), change, balance };
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes);
        let mut input = &bytes[..];
        assert_eq!(decode(&mut input, Seq(9)), Ok(entry));
        assert!(input.is_empty());
        for cut in 0..bytes.len() {
            assert!(decode(&mut &bytes[..cut], Seq(9)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn every_change_reads_back_and_no_cut_does() {
        let (request, key, amount) = (RequestId::from_int(77), KeyId::from_int(3), Amount::from_atto_usd(41));
        let record: Arc<[u8]> = b"{}".as_slice().into();
        let created =
            KeyCreated { key, digest: KeyDigest([8; 32]), prefix: "tg_live_ab".into(), name: "".into() };
        check(Change::CustomerCreated { name: "Zoë".into() });
        check(Change::KeyCreated(created));
        check(Change::KeyRevoked { key });
        check(Change::Deposited { amount, reference: "invoice 1".into() });
        check(Change::Held { request, key, amount, price_version: "2026-11-23".into() });
        check(Change::Captured { request, amount, released: amount, record: Arc::clone(&record) });
        check(Change::Overage { request, amount });
        check(Change::WrittenOff { request, amount });
        check(Change::Released { request, amount, reason: Release::Expired, record });
    }

    #[test]
    fn an_unknown_tag_is_refused() {
        assert_eq!(decode_change(10, &mut &[0_u8; 64][..]), Err(CodecError::UnknownTag(10)));
    }
}
