//! One customer in the book: keys, balance, open holds, and what was booked under a reference.
//!
//! Pure, as all of the book. [`Customer::apply`] folds a change in and checks that it can follow; what
//! a command changes is [decided](super::decide) elsewhere.

use super::booking::{Booking, BookingKind};
use super::budget::Spent;
use super::entry::{Balance, Change, KeyCreated, Note, Progress, Step};
use super::standing::Standing;
use crate::clock::Timestamp;
use crate::id::{KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An open hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHold {
    /// By which key.
    pub key: KeyId,
    /// How much.
    pub amount: Amount,
    /// The prices that will apply.
    pub price_version: Arc<str>,
    /// How far its request had come when it was last extended.
    pub progress: Option<Progress>,
    /// Whether its request has been answered, and what it pays for is still at work elsewhere.
    pub detached: bool,
}

impl OpenHold {
    /// As a change leaves it, if it leaves one open.
    pub(super) fn after(change: &Change) -> Option<Self> {
        let (key, amount, price_version, progress) =
            if let Change::Held { key, amount, price_version, .. }
            | Change::Detached { key, amount, price_version, .. } = change
            {
                (key, amount, price_version, None)
            } else if let Change::Extended { key, total, price_version, progress, .. } = change {
                (key, total, price_version, progress.clone())
            } else {
                return None;
            };
        let (price_version, detached) =
            (Arc::clone(price_version), matches!(change, Change::Detached { .. }));
        Some(OpenHold { key: *key, amount: *amount, price_version, progress, detached })
    }
}

/// A key of a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// How it is recognised.
    pub digest: KeyDigest,
    /// Its first characters.
    pub prefix: Arc<str>,
    /// As its owner named it.
    pub name: Arc<str>,
    /// Whether it opens anything.
    pub status: KeyStatus,
    /// What is limited, opaque here; nothing if it is empty.
    pub limits: Arc<[u8]>,
    /// What of the balance is held for its requests in flight.
    pub held: Amount,
    /// What its requests were charged.
    pub spent: Spent,
}

impl Key {
    /// A key that nothing was done with.
    pub fn new(digest: KeyDigest, prefix: Arc<str>, name: Arc<str>) -> Self {
        let (status, limits) = (KeyStatus::Active, Arc::default());
        Key { digest, prefix, name, status, limits, held: Amount::ZERO, spent: Spent::default() }
    }
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// It does.
    Active,
    /// It was revoked, for good.
    Revoked,
}

/// Terms of the service, as a customer accepted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedTerms {
    /// Which version; `*` for one with a contract of their own.
    pub version: Arc<str>,
    /// Who did so, as they named themselves.
    pub by: Arc<str>,
}

/// In place of a version: all versions, because a contract stands in their place.
const ANY_TERMS: &str = "*";

impl AcceptedTerms {
    /// Whether these are terms of that version.
    pub fn cover(&self, version: &str) -> bool {
        *self.version == *version || *self.version == *ANY_TERMS
    }
}

/// A customer and all that is open for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// As the operator named them.
    pub name: Arc<str>,
    /// What they have.
    pub balance: Balance,
    /// What they may owe.
    pub overdraft: Amount,
    /// What they were charged.
    pub spent: Spent,
    /// What they may do.
    pub standing: Standing,
    /// What they accepted last, if anything.
    pub terms: Option<AcceptedTerms>,
    /// What is limited for all their keys together, opaque here; nothing if it is empty.
    pub limits: Arc<[u8]>,
    /// By id, in order.
    pub keys: BTreeMap<KeyId, Key>,
    /// By request.
    pub holds: HashMap<RequestId, OpenHold>,
    /// Deposits, refunds, adjustments and write-offs by reference.
    pub bookings: HashMap<Arc<str>, Booking>,
}

impl Customer {
    /// A customer with nothing.
    pub fn new(name: Arc<str>) -> Self {
        Customer {
            name,
            balance: Balance::default(),
            overdraft: Amount::ZERO,
            spent: Spent::default(),
            standing: Standing::Active,
            terms: None,
            limits: Arc::default(),
            keys: BTreeMap::new(),
            holds: HashMap::new(),
            bookings: HashMap::new(),
        }
    }

    /// What may be taken now.
    pub fn reach(&self) -> Amount {
        self.balance.available + self.overdraft
    }

    /// What they may owe, if anything.
    pub fn agreed_overdraft(&self) -> Option<Amount> {
        Some(self.overdraft).filter(|overdraft| *overdraft > Amount::ZERO)
    }

    /// Whether the hold of a request is open, and the request answered.
    pub fn is_detached(&self, request: RequestId) -> bool {
        self.holds.get(&request).is_some_and(|hold| hold.detached)
    }

    /// What they owe, holds aside.
    pub fn debt(&self) -> Amount {
        (-self.balance.posted()).max(Amount::ZERO)
    }

    /// What of a request's charge was given back so far.
    pub fn refunded(&self, request: RequestId) -> Amount {
        let of_request = |booking: &&Booking| booking.kind == BookingKind::Refund(request);
        self.bookings.values().filter(of_request).map(|booking| booking.amount).sum()
    }

    /// Folds a change in, but for the balance, which follows its legs.
    pub(super) fn apply(&mut self, change: &Change, at: Timestamp) -> Result<(), String> {
        match change {
            // It is looked up in the journal where it counts.
            Change::CustomerCreated { .. } | Change::Violated(_) => Ok(()),
            Change::KeyCreated(created) => self.apply_key(created),
            Change::KeyRevoked { key } => {
                let known = self.keys.get_mut(key).ok_or_else(|| format!("{key} is revoked but unknown"))?;
                known.status = KeyStatus::Revoked;
                Ok(())
            }
            Change::Limited { key: None, limits } => {
                self.limits = Arc::clone(limits);
                Ok(())
            }
            Change::Limited { key: Some(key), limits } => {
                let known = self.keys.get_mut(key).ok_or_else(|| format!("{key} is limited but unknown"))?;
                known.limits = Arc::clone(limits);
                Ok(())
            }
            Change::Deposited { .. } => self.book(change),
            Change::Held { request, key, amount, .. } => {
                let before = OpenHold::after(change).and_then(|hold| self.holds.insert(*request, hold));
                self.hold_more(*key, *amount)?;
                refuse_if(before.is_some() || amount.is_negative(), || format!("I4: bad hold of {request}"))
            }
            Change::Extended { request, key, amount, total, price_version, progress } => {
                let hold = self.holds.get_mut(request).ok_or_else(|| ends_unknown(*request))?;
                hold.amount += *amount;
                hold.progress.clone_from(progress);
                let fits = *amount > Amount::ZERO
                    && (hold.amount, hold.key, &hold.price_version) == (*total, *key, price_version);
                refuse_if(!fits, || format!("I5: bad extension of {request}"))?;
                self.hold_more(*key, *amount)
            }
            Change::Detached { request, key, amount, price_version, .. } => {
                self.detach(*request, *key, *amount, price_version)
            }
            Change::Captured { request, amount, released, cost, price_version, key, .. } => {
                let hold = self.end(*request, price_version)?;
                self.spend(Some(hold.key), *amount, at);
                let other = key.is_some_and(|key| key != hold.key);
                refuse_if(other, || format!("{request} is charged to another key than held for"))?;
                let adds_up = *amount + *released == hold.amount
                    && !amount.is_negative()
                    && !released.is_negative()
                    && !cost.is_negative();
                refuse_if(!adds_up, || format!("I5: capture of {request} is not its hold of {}", hold.amount))
            }
            Change::Released { request, amount, price_version, .. } => {
                let hold = self.end(*request, price_version)?;
                refuse_if(hold.amount != *amount, || format!("I5: release of {request} is not its hold"))
            }
            Change::Overage { request, amount, key, .. } => {
                self.spend(*key, *amount, at);
                refuse_if(*amount <= Amount::ZERO, || format!("I5: empty overage of {request}"))
            }
            Change::WrittenOff { request, amount, .. } => {
                refuse_if(*amount <= Amount::ZERO, || format!("I5: empty {} of {request}", change.name()))
            }
            Change::Refunded { .. }
            | Change::Adjusted { .. }
            | Change::OverdraftSet { .. }
            | Change::DebtWrittenOff { .. }
            | Change::TermsAccepted { .. }
            | Change::StandingChanged { .. }
            | Change::Forfeited { .. }
            | Change::ForfeitureReversed { .. } => self.apply_by_hand(change),
        }
    }

    /// What operators do, and what follows from a ban.
    fn apply_by_hand(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Refunded { request, charged, .. } => {
                self.book(change)?;
                let exceeds = self.refunded(*request) > *charged;
                refuse_if(exceeds, || format!("I5: refunds of {request} exceed its charge of {charged}"))
            }
            Change::Adjusted { .. } => self.book(change),
            Change::OverdraftSet { amount, .. } => {
                self.overdraft = *amount;
                refuse_if(amount.is_negative(), || format!("an overdraft of {amount}"))
            }
            Change::DebtWrittenOff { amount, .. } => {
                let debt = self.debt();
                refuse_if(*amount > debt, || format!("{amount} is written off, {debt} is owed"))?;
                self.book(change)
            }
            Change::TermsAccepted { version, note } => {
                let (version, by) = (Arc::clone(version), Arc::clone(&note.by));
                self.terms = Some(AcceptedTerms { version, by });
                Ok(())
            }
            Change::StandingChanged { step, note } => self.apply_step(*step, note),
            Change::Forfeited { amount, total, .. } => {
                let Standing::Banned { forfeited, .. } = &mut self.standing else {
                    return Err("a forfeiture of who is not banned".into());
                };
                *forfeited += *amount;
                let fits = *amount > Amount::ZERO && forfeited == total;
                refuse_if(!fits, || "a forfeiture that does not add up".into())
            }
            Change::ForfeitureReversed { amount, .. } => match &mut self.standing {
                Standing::Banned { forfeited, .. } if forfeited == amount && *amount > Amount::ZERO => {
                    *forfeited = Amount::ZERO;
                    Ok(())
                }
                Standing::Active | Standing::Suspended(_) | Standing::Banned { .. } => {
                    Err("a reversal that is not of the forfeiture".into())
                }
            },
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
            | Change::Released { .. } => unreachable!("applied without a note"),
        }
    }

    fn apply_key(&mut self, created: &KeyCreated) -> Result<(), String> {
        let KeyCreated { key, digest, prefix, name } = created;
        let added = Key::new(*digest, Arc::clone(prefix), Arc::clone(name));
        let before = self.keys.insert(*key, added);
        refuse_if(before.is_some(), || format!("{key} is created twice"))
    }

    fn book(&mut self, change: &Change) -> Result<(), String> {
        let (reference, booking) = Booking::of(change).expect("it books");
        let empty = match booking.kind {
            BookingKind::Deposit | BookingKind::Refund(_) | BookingKind::WriteOff => {
                booking.amount <= Amount::ZERO
            }
            BookingKind::Adjustment => booking.amount == Amount::ZERO,
        };
        refuse_if(empty, || format!("an empty {} {reference:?}", change.name()))?;
        let before = self.bookings.insert(Arc::clone(reference), booking);
        refuse_if(before.is_some(), || format!("{reference:?} is booked twice"))
    }

    fn hold_more(&mut self, key: KeyId, amount: Amount) -> Result<(), String> {
        let known = self.keys.get_mut(&key).ok_or_else(|| format!("{key} holds but is unknown"))?;
        known.held += amount;
        Ok(())
    }

    fn spend(&mut self, key: Option<KeyId>, amount: Amount, at: Timestamp) {
        self.spent.add(amount, at);
        if let Some(known) = key.and_then(|key| self.keys.get_mut(&key)) {
            known.spent.add(amount, at);
        }
    }

    fn detach(
        &mut self,
        request: RequestId,
        key: KeyId,
        amount: Amount,
        price_version: &Arc<str>,
    ) -> Result<(), String> {
        let hold = self.holds.get_mut(&request).ok_or_else(|| ends_unknown(request))?;
        let known = (hold.detached, hold.amount, hold.key, &hold.price_version);
        let fits = known == (false, amount, key, price_version);
        (hold.detached, hold.progress) = (true, None);
        refuse_if(!fits, || format!("I4: bad detachment of {request}"))
    }

    fn end(&mut self, request: RequestId, price_version: &Arc<str>) -> Result<OpenHold, String> {
        let hold = self.holds.remove(&request).ok_or_else(|| ends_unknown(request))?;
        self.hold_more(hold.key, -hold.amount)?;
        // The first journals did not repeat it.
        let pinned = price_version.is_empty() || *price_version == hold.price_version;
        refuse_if(!pinned, || {
            format!("{request} ends at prices {price_version:?}, which it did not begin with")
        })?;
        Ok(hold)
    }

    fn apply_step(&mut self, step: Step, note: &Note) -> Result<(), String> {
        if let Standing::Banned { forfeited, .. } = &self.standing
            && *forfeited > Amount::ZERO
        {
            return Err("a ban is lifted, but not its forfeiture".into());
        }
        let after = self.standing.after(step, note);
        self.standing =
            after.ok_or_else(|| format!("a {} of who is {}", step.name(), self.standing.name()))?;
        Ok(())
    }

    /// Checks what must hold between commands: holds add up, nothing is below zero, and nobody has
    /// more than they were given.
    pub(super) fn audit(&self) -> Result<(), String> {
        let held: Amount = self.holds.values().map(|hold| hold.amount).sum();
        refuse_if(held != self.balance.held, || {
            format!("I4: holds are {held}, the balance says {:?}", self.balance)
        })?;
        let by_key: Amount = self.keys.values().map(|key| key.held).sum();
        refuse_if(by_key != held, || format!("I4: holds are {held}, those of all keys {by_key}"))?;
        let spent: Amount = self.keys.values().map(|key| key.spent.total).sum();
        refuse_if(spent > self.spent.total, || format!("keys spent {spent}, the customer less"))?;
        let available = self.balance.available;
        refuse_if(self.reach().is_negative(), || {
            format!("I3: {available} available, {} may be owed", self.overdraft)
        })?;
        let given: Amount = self.bookings.values().map(|booking| booking.amount).sum();
        let forfeited = match &self.standing {
            Standing::Active | Standing::Suspended(_) => Amount::ZERO,
            Standing::Banned { forfeited, .. } => {
                refuse_if(available > Amount::ZERO, || format!("banned, but has {available}"))?;
                *forfeited
            }
        };
        refuse_if(self.balance.posted() + forfeited > given, || "I2: more than was ever paid in".into())
    }
}

fn ends_unknown(request: RequestId) -> String {
    format!("I4: {request} ends but is not open")
}

fn refuse_if(wrong: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(what()) } else { Ok(()) }
}
