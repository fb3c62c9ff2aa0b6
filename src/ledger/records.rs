//! Records of the state: their names and the bytes of their values.
//!
//! Knows what an entry changes in the state, and nothing of the store that keeps it.

use super::book::{Customer, Key, KeyStatus, OpenHold, Totals};
use super::codec::{self, CodecError};
use super::entry::{Balance, Change, Entry, Seq};
use super::frame::{Chain, Head};
use super::state::{Snapshot, StateError};
use crate::id::{CustomerId, KeyDigest, RequestId};
use crate::money::Amount;
use ring::digest;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The format that this version writes; any other is rebuilt.
pub const FORMAT: u32 = 2;
/// The name of the record of where the state stands.
pub const META: u8 = b'm';
const CUSTOMER: u8 = b'c';
const BALANCE: u8 = b'b';
const KEY: u8 = b'k';
const REVOKED: u8 = b'r';
const HOLD: u8 = b'h';
const DEPOSIT: u8 = b'd';
/// Of all other records, in the order in which they are read.
pub const PREFIXES: [u8; 6] = [CUSTOMER, BALANCE, KEY, REVOKED, HOLD, DEPOSIT];

/// What is to be written next: the last of what came, once each.
#[derive(Default)]
pub struct Pending {
    balances: HashMap<CustomerId, Balance>,
    /// Made since the last write, or `None`: ended, but made before it.
    holds: HashMap<(CustomerId, RequestId), Option<OpenHold>>,
    /// Names and values of all else.
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pending {
    /// Notes what an entry changes; they come in order.
    pub fn note(&mut self, entry: &Entry) {
        let owner = entry.customer.int().to_be_bytes();
        self.balances.insert(entry.customer, entry.balance);
        match &entry.change {
            Change::CustomerCreated { name: called } => {
                self.records.push((name(CUSTOMER, &[&owner]), seal(called.as_bytes().to_vec())));
            }
            Change::KeyCreated(created) => {
                let key = Key {
                    digest: created.digest,
                    prefix: Arc::clone(&created.prefix),
                    name: Arc::clone(&created.name),
                    status: KeyStatus::Active,
                };
                let place = name(KEY, &[&owner, &created.key.int().to_be_bytes()]);
                self.records.push((place, key_value(&key)));
            }
            Change::KeyRevoked { key } => {
                let place = name(REVOKED, &[&owner, &key.int().to_be_bytes()]);
                self.records.push((place, seal(Vec::new())));
            }
            Change::Deposited { amount, reference } => {
                let place = name(DEPOSIT, &[&owner, reference.as_bytes()]);
                self.records.push((place, deposit_value(*amount, entry.seq)));
            }
            Change::Held { request, key, amount, price_version } => {
                let hold = OpenHold { key: *key, amount: *amount, price_version: Arc::clone(price_version) };
                self.holds.insert((entry.customer, *request), Some(hold));
            }
            Change::Captured { request, .. } | Change::Released { request, .. } => {
                let hold = (entry.customer, *request);
                // Most are made and ended between two writes, and never written at all.
                if !matches!(self.holds.remove(&hold), Some(Some(_))) {
                    self.holds.insert(hold, None);
                }
            }
            Change::Overage { .. } | Change::WrittenOff { .. } => {}
        }
    }

    /// All of it: names of records, and their values unless they are to go.
    pub fn take(&mut self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut all: BTreeMap<_, _> =
            self.records.drain(..).map(|(name, value)| (name, Some(value))).collect();
        for (customer, balance) in self.balances.drain() {
            all.insert(name(BALANCE, &[&customer.int().to_be_bytes()]), Some(balance_value(balance)));
        }
        for ((customer, request), hold) in self.holds.drain() {
            all.insert(hold_name(customer, request), hold.as_ref().map(hold_value));
        }
        all
    }
}

/// Reads a record into `snapshot`; its name comes without the prefix.
///
/// # Errors
/// When it is damaged, or does not fit those before it.
pub fn read(snapshot: &mut Snapshot, prefix: u8, name: &[u8], sealed: &[u8]) -> Result<(), StateError> {
    let (mut name, mut value) = (name, unseal(sealed)?);
    let Snapshot { book, deposits, .. } = snapshot;
    let owner = CustomerId::from_int(u64::from_be_bytes(codec::take(&mut name)?));
    if prefix == CUSTOMER {
        let called = std::str::from_utf8(value).map_err(|_| CodecError::NotText)?;
        book.customers.insert(owner, Customer::new(called.into()));
        return Ok(());
    }
    let customer = book.customers.get_mut(&owner).ok_or(StateError::Damaged("a record has no customer"))?;
    match prefix {
        BALANCE => {
            let available = codec::take_amount(&mut value)?;
            customer.balance = Balance { available, held: codec::take_amount(&mut value)? };
        }
        KEY => {
            let digest = KeyDigest(codec::take(&mut value)?);
            let (prefix, called) = (codec::take_text(&mut value)?, codec::take_text(&mut value)?);
            let key = Key { digest, prefix, name: called, status: KeyStatus::Active };
            customer.keys.insert(key_id(name)?, key);
        }
        REVOKED => {
            let key = customer.keys.get_mut(&key_id(name)?);
            key.ok_or(StateError::Damaged("a revoked key is missing"))?.status = KeyStatus::Revoked;
        }
        HOLD => {
            let request = RequestId::from_int(u128::from_be_bytes(codec::take(&mut name)?));
            let (key, amount) = (codec::take_key(&mut value)?, codec::take_amount(&mut value)?);
            customer
                .holds
                .insert(request, OpenHold { key, amount, price_version: codec::take_text(&mut value)? });
        }
        DEPOSIT => {
            let reference: Arc<str> = std::str::from_utf8(name).map_err(|_| CodecError::NotText)?.into();
            customer.deposits.insert(Arc::clone(&reference), codec::take_amount(&mut value)?);
            deposits.insert((owner, reference), Seq(u64::from_le_bytes(codec::take(&mut value)?)));
        }
        _ => unreachable!("only known prefixes are scanned"),
    }
    if value.is_empty() { Ok(()) } else { Err(CodecError::Trailing.into()) }
}

fn key_id(name: &[u8]) -> Result<crate::id::KeyId, CodecError> {
    let number = <[u8; 8]>::try_from(name).map_err(|_| CodecError::Short)?;
    Ok(crate::id::KeyId::from_int(u64::from_be_bytes(number)))
}

fn name(prefix: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut name = vec![prefix];
    parts.iter().for_each(|part| name.extend_from_slice(part));
    name
}

fn hold_name(customer: CustomerId, request: RequestId) -> Vec<u8> {
    name(HOLD, &[&customer.int().to_be_bytes(), &request.int().to_be_bytes()])
}

fn balance_value(balance: Balance) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    codec::put_amount(&mut value, balance.available);
    codec::put_amount(&mut value, balance.held);
    seal(value)
}

fn deposit_value(amount: Amount, seq: Seq) -> Vec<u8> {
    let mut value = amount.atto_usd().to_le_bytes().to_vec();
    codec::put(&mut value, seq.0.to_le_bytes());
    seal(value)
}

fn key_value(key: &Key) -> Vec<u8> {
    let mut value = key.digest.0.to_vec();
    codec::put_bytes(&mut value, key.prefix.as_bytes());
    codec::put_bytes(&mut value, key.name.as_bytes());
    seal(value)
}

fn hold_value(hold: &OpenHold) -> Vec<u8> {
    let mut value = hold.key.int().to_le_bytes().to_vec();
    codec::put_amount(&mut value, hold.amount);
    codec::put_bytes(&mut value, hold.price_version.as_bytes());
    seal(value)
}

/// The record of where the state stands.
pub fn meta(head: Head, totals: Totals, digest: u128) -> Vec<u8> {
    let mut value = FORMAT.to_le_bytes().to_vec();
    codec::put(&mut value, head.seq.0.to_le_bytes());
    codec::put(&mut value, head.chain.0);
    for amount in [totals.cash, totals.revenue, totals.written_off] {
        codec::put_amount(&mut value, amount);
    }
    codec::put(&mut value, digest.to_le_bytes());
    seal(value)
}

/// Reads the record of where the state stands: the head, the sums, and the digest of all others.
///
/// # Errors
/// When it is damaged or of another format.
pub fn read_meta(sealed: &[u8]) -> Result<(Head, Totals, u128), StateError> {
    let mut value = unseal(sealed)?;
    let format = u32::from_le_bytes(codec::take(&mut value)?);
    if format != FORMAT {
        return Err(StateError::Format(format));
    }
    let seq = Seq(u64::from_le_bytes(codec::take(&mut value)?));
    let head = Head { seq, chain: Chain(codec::take(&mut value)?) };
    let cash = codec::take_amount(&mut value)?;
    let revenue = codec::take_amount(&mut value)?;
    let written_off = codec::take_amount(&mut value)?;
    let digest = u128::from_le_bytes(codec::take(&mut value)?);
    Ok((head, Totals { cash, revenue, written_off }, digest))
}

/// The digest of one record, as it stands in the store.
pub fn digest(name: &[u8], value: &[u8]) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&u64::try_from(name.len()).expect("usize fits").to_le_bytes());
    context.update(name);
    context.update(value);
    let bytes = context.finish();
    u128::from_le_bytes(bytes.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
}

/// Puts a checksum before a value.
fn seal(value: Vec<u8>) -> Vec<u8> {
    let mut sealed = crc32c::crc32c(&value).to_le_bytes().to_vec();
    sealed.extend_from_slice(&value);
    sealed
}

fn unseal(sealed: &[u8]) -> Result<&[u8], StateError> {
    let mut rest = sealed;
    let crc = u32::from_le_bytes(codec::take(&mut rest)?);
    if crc32c::crc32c(rest) == crc { Ok(rest) } else { Err(StateError::Damaged("a checksum does not fit")) }
}
