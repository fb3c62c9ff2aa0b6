//! Bytes of entries: little-endian, one tag byte for each kind of change.
//!
//! Reading checks every length, tag and string, and takes nothing it was not given. The layout is
//! part of the journal's format version: a new kind of change takes a new tag, an old one is never
//! altered.

use super::entry::{Balance, Change, Charge, Entry, KeyCreated, Note, Progress, Release, Seq, Step};
use super::mark::Mark;
use super::violation;
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
    /// A kind of change, or of what it says, that this version does not know.
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
        Change::KeyCreated(created) => put_key_created(out, created),
        Change::KeyRevoked { key } => {
            out.push(3);
            put(out, key.int().to_le_bytes());
        }
        Change::Limited { key, limits } => put_limits(out, *key, limits),
        Change::Violated(violation) => {
            out.push(violation::TAG);
            violation::put(out, violation);
        }
        Change::Deposited { amount, reference } => {
            out.push(4);
            put_amount(out, *amount);
            put_bytes(out, reference.as_bytes());
        }
        Change::Held { request, key, amount, price_version, mark } => {
            out.push(if mark.is_some() { 50 } else { 5 });
            put(out, request.int().to_le_bytes());
            put(out, key.int().to_le_bytes());
            put_amount(out, *amount);
            put_bytes(out, price_version.as_bytes());
            put_mark(out, *mark);
        }
        Change::Extended { .. } | Change::Detached { .. } => encode_of_hold(&entry.change, out),
        Change::Captured { .. } => encode_captured(&entry.change, out),
        Change::Overage { request, amount, price_version, key } => {
            out.push(if key.is_some() { 22 } else { 12 });
            put_charge(out, *request, *amount, price_version);
            put_payer(out, *key);
        }
        Change::WrittenOff { request, amount, price_version } => {
            out.push(13);
            put_charge(out, *request, *amount, price_version);
        }
        Change::Released { request, amount, reason, price_version, record } => {
            out.push(14);
            put_charge(out, *request, *amount, price_version);
            out.push(match reason {
                Release::Failed => 1,
                Release::Expired => 2,
            });
            put_bytes(out, record);
        }
        Change::Refunded { .. }
        | Change::Adjusted { .. }
        | Change::OverdraftSet { .. }
        | Change::DebtWrittenOff { .. }
        | Change::TermsAccepted { .. }
        | Change::StandingChanged { .. }
        | Change::Forfeited { .. }
        | Change::ForfeitureReversed { .. } => encode_by_hand(&entry.change, out),
    }
}

/// What becomes of a hold that stays open.
fn encode_of_hold(change: &Change, out: &mut Vec<u8>) {
    if let Change::Extended { request, key, amount, total, price_version, progress } = change {
        out.push(if progress.is_some() { 23 } else { 10 });
        put_charge(out, *request, *amount, price_version);
        put(out, key.int().to_le_bytes());
        put_amount(out, *total);
        progress.iter().for_each(|progress| put_progress(out, progress));
    }
    if let Change::Detached { request, key, amount, price_version, object, record } = change {
        out.push(41);
        put_charge(out, *request, *amount, price_version);
        put(out, key.int().to_le_bytes());
        put_bytes(out, object.as_bytes());
        put_bytes(out, record);
    }
}

fn encode_captured(change: &Change, out: &mut Vec<u8>) {
    let Change::Captured { request, amount, released, cost, price_version, key, record, object } = change
    else {
        unreachable!("it is a charge")
    };
    out.push(match (key, object) {
        (None, None) => 11,
        (Some(_), None) => 21,
        (Some(_), Some(_)) => 40,
        (None, Some(_)) => unreachable!("whoever says what is kept says by which key"),
    });
    put_charge(out, *request, *amount, price_version);
    put_amount(out, *released);
    put_amount(out, *cost);
    put_bytes(out, record);
    put_payer(out, *key);
    if let Some(object) = object {
        put_bytes(out, object.as_bytes());
    }
}

/// What operators do, and what follows from a ban.
fn encode_by_hand(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Refunded { request, amount, charged, price_version, reference, note } => {
            out.push(15);
            put_charge(out, *request, *amount, price_version);
            put_amount(out, *charged);
            put_bytes(out, reference.as_bytes());
            put_note(out, note);
        }
        Change::Adjusted { amount, reference, note } => {
            out.push(16);
            put_amount(out, *amount);
            put_bytes(out, reference.as_bytes());
            put_note(out, note);
        }
        Change::OverdraftSet { amount, note } => {
            out.push(24);
            put_amount(out, *amount);
            put_note(out, note);
        }
        Change::DebtWrittenOff { amount, reference, note } => {
            out.push(25);
            put_amount(out, *amount);
            put_bytes(out, reference.as_bytes());
            put_note(out, note);
        }
        Change::TermsAccepted { version, note } => {
            out.push(30);
            put_bytes(out, version.as_bytes());
            put_note(out, note);
        }
        Change::StandingChanged { step, note } => {
            out.push(17);
            out.push(match step {
                Step::Suspend => 1,
                Step::Resume => 2,
                Step::Ban => 3,
                Step::Unban => 4,
            });
            put_note(out, note);
        }
        Change::Forfeited { amount, total, note } => {
            out.push(18);
            put_amount(out, *amount);
            put_amount(out, *total);
            put_note(out, note);
        }
        Change::ForfeitureReversed { amount, note } => {
            out.push(19);
            put_amount(out, *amount);
            put_note(out, note);
        }
        Change::CustomerCreated { .. }
        | Change::KeyCreated(_)
        | Change::KeyRevoked { .. }
        | Change::Limited { .. }
        | Change::Violated(_)
        | Change::Deposited { .. }
        | Change::Held { .. }
        | Change::Extended { .. }
        | Change::Detached { .. }
        | Change::Captured { .. }
        | Change::Overage { .. }
        | Change::WrittenOff { .. }
        | Change::Released { .. } => unreachable!("encoded without a note"),
    }
}

fn put_key_created(out: &mut Vec<u8>, KeyCreated { key, digest, prefix, name }: &KeyCreated) {
    out.push(2);
    put(out, key.int().to_le_bytes());
    put(out, digest.0);
    put_bytes(out, prefix.as_bytes());
    put_bytes(out, name.as_bytes());
}

fn put_limits(out: &mut Vec<u8>, key: Option<KeyId>, limits: &[u8]) {
    out.push(20);
    // No key has the number of none.
    put(out, key.map_or(u64::MAX, KeyId::int).to_le_bytes());
    put_bytes(out, limits);
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
        5 | 50 => take_held(tag, input)?,
        // 6 to 9 are what the first journals have: charges without their costs and price versions.
        6 => Change::Captured {
            request: take_request(input)?,
            amount: take_amount(input)?,
            released: take_amount(input)?,
            cost: Amount::ZERO,
            price_version: "".into(),
            key: None,
            record: take_bytes(input)?.into(),
            object: None,
        },
        7 => Change::Overage {
            request: take_request(input)?,
            amount: take_amount(input)?,
            price_version: "".into(),
            key: None,
        },
        8 => Change::WrittenOff {
            request: take_request(input)?,
            amount: take_amount(input)?,
            price_version: "".into(),
        },
        9 => Change::Released {
            request: take_request(input)?,
            amount: take_amount(input)?,
            reason: take_release(input)?,
            price_version: "".into(),
            record: take_bytes(input)?.into(),
        },
        10..=15 | 21..=23 | 40..=41 => decode_of_request(tag, input)?,
        16..=19 | 24..=25 | 30 => decode_by_hand(tag, input)?,
        20 => {
            let key = take_key(input)?;
            let key = (key.int() != u64::MAX).then_some(key);
            Change::Limited { key, limits: take_bytes(input)?.into() }
        }
        violation::TAG => Change::Violated(violation::take(input)?),
        other => return Err(CodecError::UnknownTag(other)),
    })
}

/// What operators do, and what follows from a ban.
fn decode_by_hand(tag: u8, input: &mut &[u8]) -> Result<Change, CodecError> {
    Ok(match tag {
        16 => Change::Adjusted {
            amount: take_amount(input)?,
            reference: take_text(input)?,
            note: take_note(input)?,
        },
        17 => Change::StandingChanged { step: take_step(input)?, note: take_note(input)? },
        18 => Change::Forfeited {
            amount: take_amount(input)?,
            total: take_amount(input)?,
            note: take_note(input)?,
        },
        19 => Change::ForfeitureReversed { amount: take_amount(input)?, note: take_note(input)? },
        24 => Change::OverdraftSet { amount: take_amount(input)?, note: take_note(input)? },
        25 => Change::DebtWrittenOff {
            amount: take_amount(input)?,
            reference: take_text(input)?,
            note: take_note(input)?,
        },
        30 => Change::TermsAccepted { version: take_text(input)?, note: take_note(input)? },
        other => return Err(CodecError::UnknownTag(other)),
    })
}

/// 5 says by no mark.
fn take_held(tag: u8, input: &mut &[u8]) -> Result<Change, CodecError> {
    Ok(Change::Held {
        request: take_request(input)?,
        key: take_key(input)?,
        amount: take_amount(input)?,
        price_version: take_text(input)?,
        mark: if tag == 50 { Some(take_mark(input)?) } else { None },
    })
}

/// Kinds that begin with a request, an amount and a price version.
fn decode_of_request(tag: u8, input: &mut &[u8]) -> Result<Change, CodecError> {
    let (request, amount, price_version) = (take_request(input)?, take_amount(input)?, take_text(input)?);
    Ok(match tag {
        // 10 does not say how far the request had come.
        10 | 23 => {
            let (key, total) = (take_key(input)?, take_amount(input)?);
            let progress = if tag == 23 { Some(take_progress(input)?) } else { None };
            Change::Extended { request, key, amount, total, price_version, progress }
        }
        // 11 and 12 do not say by which key, 11 and 21 not what is kept.
        11 | 21 | 40 => {
            let (released, cost) = (take_amount(input)?, take_amount(input)?);
            let record = take_bytes(input)?.into();
            let key = if tag == 11 { None } else { Some(take_key(input)?) };
            let object = if tag == 40 { Some(take_text(input)?) } else { None };
            Change::Captured { request, amount, released, cost, price_version, key, record, object }
        }
        41 => {
            let (key, object, record) = (take_key(input)?, take_text(input)?, take_bytes(input)?.into());
            Change::Detached { request, key, amount, price_version, object, record }
        }
        12 | 22 => {
            let key = if tag == 22 { Some(take_key(input)?) } else { None };
            Change::Overage { request, amount, price_version, key }
        }
        13 => Change::WrittenOff { request, amount, price_version },
        14 => {
            let (reason, record) = (take_release(input)?, take_bytes(input)?.into());
            Change::Released { request, amount, reason, price_version, record }
        }
        15 => {
            let (charged, reference, note) = (take_amount(input)?, take_text(input)?, take_note(input)?);
            Change::Refunded { request, amount, charged, price_version, reference, note }
        }
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

/// Appends who did something and why.
pub(super) fn put_note(out: &mut Vec<u8>, note: &Note) {
    put_bytes(out, note.by.as_bytes());
    put_bytes(out, note.reason.as_bytes());
}

/// Reads who did something and why off the front.
pub(super) fn take_note(input: &mut &[u8]) -> Result<Note, CodecError> {
    Ok(Note { by: take_text(input)?, reason: take_text(input)? })
}

/// Appends how far a request had come.
pub(super) fn put_progress(out: &mut Vec<u8>, Progress { charge, record }: &Progress) {
    put_amount(out, charge.amount);
    put_amount(out, charge.cost);
    put_bytes(out, record);
}

/// Reads how far a request had come off the front.
pub(super) fn take_progress(input: &mut &[u8]) -> Result<Progress, CodecError> {
    let charge = Charge { amount: take_amount(input)?, cost: take_amount(input)? };
    Ok(Progress { charge, record: take_bytes(input)?.into() })
}

fn put_charge(out: &mut Vec<u8>, request: RequestId, amount: Amount, price_version: &str) {
    put(out, request.int().to_le_bytes());
    put_amount(out, amount);
    put_bytes(out, price_version.as_bytes());
}

/// By which key a charge was made, where that is said.
fn put_payer(out: &mut Vec<u8>, key: Option<KeyId>) {
    if let Some(key) = key {
        put(out, key.int().to_le_bytes());
    }
}

/// By what its sender knows a request, where that is said.
pub(super) fn put_mark(out: &mut Vec<u8>, mark: Option<Mark>) {
    if let Some(Mark { key, content }) = mark {
        put(out, key);
        put(out, content);
    }
}

/// Reads by what its sender knows a request off the front.
pub(super) fn take_mark(input: &mut &[u8]) -> Result<Mark, CodecError> {
    Ok(Mark { key: take(input)?, content: take(input)? })
}

fn take_release(input: &mut &[u8]) -> Result<Release, CodecError> {
    match take::<1>(input)? {
        [1] => Ok(Release::Failed),
        [2] => Ok(Release::Expired),
        [other] => Err(CodecError::UnknownTag(other)),
    }
}

fn take_step(input: &mut &[u8]) -> Result<Step, CodecError> {
    match take::<1>(input)? {
        [1] => Ok(Step::Suspend),
        [2] => Ok(Step::Resume),
        [3] => Ok(Step::Ban),
        [4] => Ok(Step::Unban),
        [other] => Err(CodecError::UnknownTag(other)),
    }
}

/// Reads a request's id off the front.
pub(super) fn take_request(input: &mut &[u8]) -> Result<RequestId, CodecError> {
    Ok(RequestId::from_int(u128::from_le_bytes(take(input)?)))
}

#[cfg(test)]
mod tests;
