//! Records of the state: their names and the bytes of their values.
//!
//! Knows what an entry changes in the state, and nothing of the store that keeps it.

use super::book::Book;
use super::booking::Booking;
use super::budget::Spent;
use super::codec::{self, CodecError};
use super::customer::{Customer, Key, KeyStatus, OpenHold};
use super::entry::{Balance, Change, Entry, KeyCreated, Seq};
use super::frame::{Chain, Head};
use super::index::Bookings;
use super::legs::Totals;
use super::standing::Standing;
use super::state::{Snapshot, StateError};
use super::values;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use ring::digest;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The format that this version writes; any other is rebuilt.
pub const FORMAT: u32 = 6;
/// The name of the record of where the state stands.
pub const META: u8 = b'm';
const CUSTOMER: u8 = b'c';
const BALANCE: u8 = b'b';
const KEY: u8 = b'k';
const REVOKED: u8 = b'r';
const HOLD: u8 = b'h';
const BOOKING: u8 = b'o';
const STANDING: u8 = b's';
const FORFEITED: u8 = b'f';
const LIMITS: u8 = b'l';
const TERMS: u8 = b't';
const SPENT: u8 = b'u';
const OVERDRAFT: u8 = b'd';
/// Stands at the end of a hold whose request has been answered.
const DETACHED: u8 = 1;
/// Of all other records, in the order in which they are read.
const PREFIXES: [u8; 12] =
    [CUSTOMER, BALANCE, KEY, REVOKED, HOLD, BOOKING, STANDING, FORFEITED, LIMITS, TERMS, SPENT, OVERDRAFT];

/// Whose spending: a customer's as a whole, or that by one key.
pub type Spender = (CustomerId, Option<KeyId>);

/// What is to be written next: the last of what came, once each.
#[derive(Default)]
pub struct Pending {
    balances: HashMap<CustomerId, Balance>,
    holds: HashMap<(CustomerId, RequestId), PendingHold>,
    spent: HashMap<Spender, Spent>,
    /// Names and values of all else.
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

enum PendingHold {
    /// Made since the last write.
    Made(OpenHold),
    /// Made before it, and changed since.
    Changed(OpenHold),
    /// Made before it, and ended since.
    Ended,
}

impl Pending {
    /// Of records as they are.
    pub fn of(records: BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        Pending { records: records.into_iter().collect(), ..Pending::default() }
    }

    /// Notes what an entry changes; they come in order. `before` tells what was spent before the first
    /// of them.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn note<E>(&mut self, entry: &Entry, before: impl Fn(Spender) -> Result<Spent, E>) -> Result<(), E> {
        let owner = entry.customer.int().to_be_bytes();
        self.balances.insert(entry.customer, entry.balance);
        match &entry.change {
            Change::CustomerCreated { name: called } => {
                self.records.push((name(CUSTOMER, &[&owner]), seal(called.as_bytes().to_vec())));
            }
            Change::KeyCreated(created) => {
                let place = name(KEY, &[&owner, &created.key.int().to_be_bytes()]);
                self.records.push((place, key_value(created)));
            }
            Change::KeyRevoked { key } => {
                let place = name(REVOKED, &[&owner, &key.int().to_be_bytes()]);
                self.records.push((place, seal(Vec::new())));
            }
            Change::Limited { key, limits } => {
                // Behind the customer's own number there is nothing.
                let place = match key {
                    Some(key) => name(LIMITS, &[&owner, &key.int().to_be_bytes()]),
                    None => name(LIMITS, &[&owner]),
                };
                self.records.push((place, seal(limits.to_vec())));
            }
            Change::Held { request, .. } => {
                let made = OpenHold::after(&entry.change).map(PendingHold::Made);
                self.holds.extend(made.map(|hold| ((entry.customer, *request), hold)));
            }
            Change::Extended { request, .. } | Change::Detached { request, .. } => {
                self.change((entry.customer, *request), OpenHold::after(&entry.change));
            }
            Change::Captured { request, amount, key, .. } => {
                let held_by = self.end(entry.customer, *request);
                self.spend(entry, key.or(held_by), *amount, before)?;
            }
            Change::Released { request, .. } => {
                self.end(entry.customer, *request);
            }
            Change::Overage { amount, key, .. } => self.spend(entry, *key, *amount, before)?,
            Change::WrittenOff { .. } | Change::Violated(_) => {}
            Change::Deposited { .. }
            | Change::Refunded { .. }
            | Change::Adjusted { .. }
            | Change::DebtWrittenOff { .. } => {
                let (reference, booking) = Booking::of(&entry.change).expect("it books");
                let place = name(BOOKING, &[&owner, reference.as_bytes()]);
                self.records.push((place, seal(values::booking(&booking, entry.seq))));
            }
            Change::OverdraftSet { amount, .. } => {
                self.records.push((name(OVERDRAFT, &[&owner]), amount_value(*amount)));
            }
            Change::TermsAccepted { version, note } => {
                self.records.push((name(TERMS, &[&owner]), seal(values::terms(version, note))));
            }
            Change::StandingChanged { step, note } => {
                self.records.push((name(STANDING, &[&owner]), seal(values::standing(*step, note))));
            }
            Change::Forfeited { total, .. } => {
                self.records.push((name(FORFEITED, &[&owner]), amount_value(*total)));
            }
            Change::ForfeitureReversed { .. } => {
                self.records.push((name(FORFEITED, &[&owner]), amount_value(Amount::ZERO)));
            }
        }
        Ok(())
    }

    /// A hold is another one from now on.
    fn change(&mut self, place: (CustomerId, RequestId), hold: Option<OpenHold>) {
        let made = matches!(self.holds.get(&place), Some(PendingHold::Made(_)));
        let hold = hold.map(if made { PendingHold::Made } else { PendingHold::Changed });
        self.holds.extend(hold.map(|hold| (place, hold)));
    }

    /// A hold ends. Tells by which key it was, if it was made since the last write: most are made and
    /// ended between two writes, and never written at all.
    fn end(&mut self, customer: CustomerId, request: RequestId) -> Option<KeyId> {
        if let Some(PendingHold::Made(hold)) = self.holds.remove(&(customer, request)) {
            return Some(hold.key);
        }
        self.holds.insert((customer, request), PendingHold::Ended);
        None
    }

    fn spend<E>(
        &mut self,
        entry: &Entry,
        key: Option<KeyId>,
        amount: Amount,
        before: impl Fn(Spender) -> Result<Spent, E>,
    ) -> Result<(), E> {
        let own = key.map(|key| (entry.customer, Some(key)));
        for spender in own.into_iter().chain([(entry.customer, None)]) {
            let spent = match self.spent.entry(spender) {
                Slot::Occupied(known) => known.into_mut(),
                Slot::Vacant(new) => new.insert(before(spender)?),
            };
            spent.add(amount, entry.at);
        }
        Ok(())
    }

    /// All of it: names of records, and their values unless they are to go.
    pub fn take(&mut self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut all: BTreeMap<_, _> =
            self.records.drain(..).map(|(name, value)| (name, Some(value))).collect();
        for (customer, balance) in self.balances.drain() {
            all.insert(name(BALANCE, &[&customer.int().to_be_bytes()]), Some(balance_value(balance)));
        }
        for (spender, spent) in self.spent.drain() {
            all.insert(spent_name(spender), Some(seal(values::spent(&spent))));
        }
        for ((customer, request), hold) in self.holds.drain() {
            let value = match &hold {
                PendingHold::Made(hold) | PendingHold::Changed(hold) => Some(hold_value(hold)),
                PendingHold::Ended => None,
            };
            all.insert(hold_name(customer, request), value);
        }
        all
    }
}

/// Reads a state: the record of where it stands, and all others by their prefix.
///
/// # Errors
/// When one cannot be read, is missing, or does not fit the others.
pub fn snapshot<N: AsRef<[u8]>, I: Iterator<Item = Result<(N, N), StateError>>>(
    meta: &[u8],
    of_prefix: impl Fn(u8) -> I,
) -> Result<Snapshot, StateError> {
    let (head, totals, digest) = read_meta(meta)?;
    let mut snapshot = Snapshot { book: Book { totals, ..Book::default() }, bookings: Bookings::new(), head };
    let mut found = 0;
    for prefix in PREFIXES {
        for pair in of_prefix(prefix) {
            let (name, value) = pair?;
            let (name, value) = (name.as_ref(), value.as_ref());
            found ^= self::digest(name, value);
            read(&mut snapshot, prefix, &name[1..], value)?;
        }
    }
    if found != digest {
        return Err(StateError::Damaged("a record is missing or is not the last one written"));
    }
    snapshot.book.audit().map_err(|_| StateError::Damaged("its balances do not add up"))?;
    Ok(snapshot)
}

/// Reads a record into `snapshot`; its name comes without the prefix.
fn read(snapshot: &mut Snapshot, prefix: u8, name: &[u8], sealed: &[u8]) -> Result<(), StateError> {
    let (mut name, mut value) = (name, unseal(sealed)?);
    let Snapshot { book, bookings, .. } = snapshot;
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
            customer.keys.insert(key_id(name)?, Key::new(digest, prefix, called));
        }
        REVOKED => {
            let key = customer.keys.get_mut(&key_id(name)?);
            key.ok_or(StateError::Damaged("a revoked key is missing"))?.status = KeyStatus::Revoked;
        }
        HOLD => {
            let request = RequestId::from_int(u128::from_be_bytes(codec::take(&mut name)?));
            let hold = read_hold(&mut value)?;
            let known = customer.keys.get_mut(&hold.key);
            known.ok_or(StateError::Damaged("a key that holds is missing"))?.held += hold.amount;
            customer.holds.insert(request, hold);
        }
        BOOKING => {
            let reference: Arc<str> = std::str::from_utf8(name).map_err(|_| CodecError::NotText)?.into();
            let (booking, seq) = values::read_booking(&mut value)?;
            customer.bookings.insert(Arc::clone(&reference), booking);
            bookings.insert((owner, reference), seq);
        }
        OVERDRAFT => customer.overdraft = codec::take_amount(&mut value)?,
        TERMS => customer.terms = Some(values::read_terms(&mut value)?),
        STANDING => customer.standing = values::read_standing(&mut value)?,
        FORFEITED => match (&mut customer.standing, codec::take_amount(&mut value)?) {
            (Standing::Banned { forfeited, .. }, amount) => *forfeited = amount,
            (Standing::Active | Standing::Suspended(_), Amount::ZERO) => {}
            (Standing::Active | Standing::Suspended(_), _) => {
                return Err(StateError::Damaged("credit is forfeited, but nobody is banned"));
            }
        },
        LIMITS => {
            let limits = Arc::from(std::mem::take(&mut value));
            if name.is_empty() {
                customer.limits = limits;
            } else {
                let key = customer.keys.get_mut(&key_id(name)?);
                key.ok_or(StateError::Damaged("a limited key is missing"))?.limits = limits;
            }
        }
        SPENT => {
            let spent = values::read_spent(&mut value)?;
            if name.is_empty() {
                customer.spent = spent;
            } else {
                let key = customer.keys.get_mut(&key_id(name)?);
                key.ok_or(StateError::Damaged("a key that spent is missing"))?.spent = spent;
            }
        }
        _ => unreachable!("only known prefixes are scanned"),
    }
    if value.is_empty() { Ok(()) } else { Err(CodecError::Trailing.into()) }
}

fn read_hold(value: &mut &[u8]) -> Result<OpenHold, CodecError> {
    let (key, amount) = (codec::take_key(value)?, codec::take_amount(value)?);
    let price_version = codec::take_text(value)?;
    // How far a request has come takes more than a byte.
    let detached = *value == [DETACHED];
    if detached {
        *value = &[];
    }
    let extended = !value.is_empty();
    let progress = extended.then(|| codec::take_progress(value)).transpose()?;
    Ok(OpenHold { key, amount, price_version, progress, detached })
}

fn key_id(name: &[u8]) -> Result<KeyId, CodecError> {
    let number = <[u8; 8]>::try_from(name).map_err(|_| CodecError::Short)?;
    Ok(KeyId::from_int(u64::from_be_bytes(number)))
}

/// The name of the record of what was spent; behind the customer's own number there is nothing.
pub fn spent_name((customer, key): Spender) -> Vec<u8> {
    let owner = customer.int().to_be_bytes();
    match key {
        Some(key) => name(SPENT, &[&owner, &key.int().to_be_bytes()]),
        None => name(SPENT, &[&owner]),
    }
}

/// Reads the record of what was spent.
///
/// # Errors
/// When it is damaged.
pub fn read_spent(sealed: &[u8]) -> Result<Spent, StateError> {
    Ok(values::read_spent(&mut unseal(sealed)?)?)
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

fn amount_value(amount: Amount) -> Vec<u8> {
    seal(amount.atto_usd().to_le_bytes().to_vec())
}

fn key_value(key: &KeyCreated) -> Vec<u8> {
    let mut value = key.digest.0.to_vec();
    codec::put_bytes(&mut value, key.prefix.as_bytes());
    codec::put_bytes(&mut value, key.name.as_bytes());
    seal(value)
}

fn hold_value(hold: &OpenHold) -> Vec<u8> {
    let mut value = hold.key.int().to_le_bytes().to_vec();
    codec::put_amount(&mut value, hold.amount);
    codec::put_bytes(&mut value, hold.price_version.as_bytes());
    hold.progress.iter().for_each(|progress| codec::put_progress(&mut value, progress));
    value.extend(hold.detached.then_some(DETACHED));
    seal(value)
}

/// The record of where the state stands.
pub fn meta(head: Head, totals: Totals, digest: u128) -> Vec<u8> {
    let mut value = FORMAT.to_le_bytes().to_vec();
    codec::put(&mut value, head.seq.0.to_le_bytes());
    codec::put(&mut value, head.chain.0);
    values::put_totals(&mut value, totals);
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
    let totals = values::take_totals(&mut value)?;
    let digest = u128::from_le_bytes(codec::take(&mut value)?);
    Ok((head, totals, digest))
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
