//! Entries: the immutable records of the ledger, and the legs that move money.
//!
//! An entry says what changed for one customer and what the balance was afterwards. Entries that
//! move money do so by legs that sum to zero. Nothing is ever edited: a correction is a new entry.
//!
//! Deliberately absent: tokens, models, HTTP. What a charge was for is an opaque `record`.

use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Place of an entry in the journal, from 1, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first entry.
    pub const START: Seq = Seq(0);

    /// The one after it.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a customer has: the sum is the posted balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Free to be held. Never below zero.
    pub available: Amount,
    /// Held for requests in flight.
    pub held: Amount,
}

impl Balance {
    /// Follows one movement of money, as far as it is the customer's.
    pub fn follow(&mut self, (account, amount): Leg) {
        match account {
            Account::Available => self.available += amount,
            Account::Held => self.held += amount,
            Account::Cash | Account::Revenue | Account::WrittenOff => {}
        }
    }

    /// Deposits less charges so far.
    pub fn posted(self) -> Amount {
        self.available + self.held
    }
}

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// When it was made, by the wall clock; order comes from `seq` alone.
    pub at: Timestamp,
    /// Whose it is.
    pub customer: CustomerId,
    /// What changed.
    pub change: Change,
    /// The customer's balance after it.
    pub balance: Balance,
}

/// What an entry changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A customer was created.
    CustomerCreated {
        /// As the operator named them.
        name: Arc<str>,
    },
    /// A key was created or imported.
    KeyCreated(KeyCreated),
    /// A key was revoked for good.
    KeyRevoked {
        /// Which.
        key: KeyId,
    },
    /// Credit was paid in.
    Deposited {
        /// How much, above zero.
        amount: Amount,
        /// The operator's own; one deposit each.
        reference: Arc<str>,
    },
    /// Credit was set aside for a request.
    Held {
        /// For which request.
        request: RequestId,
        /// By which key.
        key: KeyId,
        /// How much.
        amount: Amount,
        /// The prices that will apply, whatever is configured later.
        price_version: Arc<str>,
    },
    /// A hold ended in a charge.
    Captured {
        /// The hold.
        request: RequestId,
        /// How much of the hold was charged.
        amount: Amount,
        /// How much of the hold went back.
        released: Amount,
        /// What it was for, opaque here.
        record: Arc<[u8]>,
    },
    /// A charge above its hold, as far as the balance reached.
    Overage {
        /// The hold.
        request: RequestId,
        /// How much more was charged.
        amount: Amount,
    },
    /// A charge above its hold that the balance did not reach: the operator bears it.
    WrittenOff {
        /// The hold.
        request: RequestId,
        /// How much.
        amount: Amount,
    },
    /// A hold ended without a charge.
    Released {
        /// The hold.
        request: RequestId,
        /// How much went back: all of it.
        amount: Amount,
        /// Why.
        reason: Release,
        /// What was tried, opaque here.
        record: Arc<[u8]>,
    },
}

/// A key as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCreated {
    /// Its name for the operator.
    pub key: KeyId,
    /// How it is recognised.
    pub digest: KeyDigest,
    /// Its first characters, for people to tell keys apart.
    pub prefix: Arc<str>,
    /// As its owner named it.
    pub name: Arc<str>,
}

/// Why a hold was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The request failed before anything was delivered.
    Failed,
    /// The gateway stopped while the request was in flight.
    Expired,
}

impl Release {
    /// The name used in receipts.
    pub const fn name(self) -> &'static str {
        match self {
            Release::Failed => "released",
            Release::Expired => "expired",
        }
    }
}

/// An account of the books. Customers' accounts are what the operator owes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Money received: grows by negative legs, as assets do beside liabilities.
    Cash,
    /// The entry's customer: free credit.
    Available,
    /// The entry's customer: held credit.
    Held,
    /// Charges earned.
    Revenue,
    /// Charges earned that nobody pays.
    WrittenOff,
}

/// One side of a movement of money.
pub type Leg = (Account, Amount);

impl Change {
    /// The movements of money. They sum to zero (I1).
    pub fn legs(&self) -> [Leg; 3] {
        const NONE: Leg = (Account::Cash, Amount::ZERO);
        match *self {
            Change::CustomerCreated { .. } | Change::KeyCreated(_) | Change::KeyRevoked { .. } => {
                [NONE, NONE, NONE]
            }
            Change::Deposited { amount, .. } => {
                [(Account::Cash, -amount), (Account::Available, amount), NONE]
            }
            Change::Held { amount, .. } => [(Account::Available, -amount), (Account::Held, amount), NONE],
            Change::Captured { amount, released, .. } => [
                (Account::Held, -(amount + released)),
                (Account::Revenue, amount),
                (Account::Available, released),
            ],
            Change::Overage { amount, .. } => {
                [(Account::Available, -amount), (Account::Revenue, amount), NONE]
            }
            Change::WrittenOff { amount, .. } => {
                [(Account::WrittenOff, -amount), (Account::Revenue, amount), NONE]
            }
            Change::Released { amount, .. } => [(Account::Held, -amount), (Account::Available, amount), NONE],
        }
    }

    /// The request it belongs to, if it belongs to one.
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Deposited { .. } => None,
            Change::Held { request, .. }
            | Change::Captured { request, .. }
            | Change::Overage { request, .. }
            | Change::WrittenOff { request, .. }
            | Change::Released { request, .. } => Some(*request),
        }
    }

    /// What it moves into an account, out of it if negative.
    pub fn moved(&self, account: Account) -> Amount {
        self.legs().into_iter().filter(|(side, _)| *side == account).map(|(_, amount)| amount).sum()
    }

    /// The name used in statements.
    pub const fn name(&self) -> &'static str {
        match self {
            Change::CustomerCreated { .. } => "customer_created",
            Change::KeyCreated(_) => "key_created",
            Change::KeyRevoked { .. } => "key_revoked",
            Change::Deposited { .. } => "deposit",
            Change::Held { .. } => "hold",
            Change::Captured { .. } => "capture",
            Change::Overage { .. } => "overage",
            Change::WrittenOff { .. } => "write_off",
            Change::Released { .. } => "release",
        }
    }
}
