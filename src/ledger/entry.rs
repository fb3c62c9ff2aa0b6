//! Entries: the immutable records of the ledger, and the legs that move money.
//!
//! An entry says what changed for one customer and what the balance was afterwards. Entries that
//! move money do so by legs that sum to zero. Nothing is ever edited: a correction is a new entry.
//!
//! Deliberately absent: tokens, models, HTTP. What a charge was for is an opaque `record`.

mod told;

use super::legs::{Account, Leg};
use super::mark::Mark;
use super::violation::Violation;
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
    /// Behind the last entry.
    pub const END: Seq = Seq(u64::MAX);

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
    /// Free to be held. Below zero only as far as an overdraft reaches.
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
            Account::Cash
            | Account::Revenue
            | Account::WrittenOff
            | Account::Refunds
            | Account::Adjustments
            | Account::Forfeited
            | Account::Cost
            | Account::Providers => {}
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
    /// What a key or the customer may do was set, apart from what the balance allows.
    Limited {
        /// Which key; without it, the customer as a whole.
        key: Option<KeyId>,
        /// All that is limited from now on, opaque here; nothing if it is empty.
        limits: Arc<[u8]>,
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
        /// By what its sender knows it, if they said that.
        mark: Option<Mark>,
    },
    /// More credit was set aside for a request in flight.
    Extended {
        /// The hold.
        request: RequestId,
        /// By which key.
        key: KeyId,
        /// How much more.
        amount: Amount,
        /// The whole hold now.
        total: Amount,
        /// The prices that apply, as pinned.
        price_version: Arc<str>,
        /// How far the request had come. Earlier journals do not say it.
        progress: Option<Progress>,
    },
    /// A request was answered, and what it pays for is still at work elsewhere: its hold stays open.
    Detached {
        /// The hold.
        request: RequestId,
        /// By which key.
        key: KeyId,
        /// How much is held.
        amount: Amount,
        /// The prices that apply, as pinned.
        price_version: Arc<str>,
        /// What is at work, by the name it has there.
        object: Arc<str>,
        /// How it is found and what it will be charged by, opaque here.
        record: Arc<[u8]>,
    },
    /// A hold ended in a charge.
    Captured {
        /// The hold.
        request: RequestId,
        /// How much of the hold was charged.
        amount: Amount,
        /// How much of the hold went back.
        released: Amount,
        /// What the providers charge the operator for it, as far as that is known.
        cost: Amount,
        /// The prices that applied. The first journals did not repeat it here: empty.
        price_version: Arc<str>,
        /// By which key. Earlier journals did not repeat it here.
        key: Option<KeyId>,
        /// What it was for, opaque here.
        record: Arc<[u8]>,
        /// What was made for it and is kept elsewhere for its customer, by the name it has there.
        object: Option<Arc<str>>,
    },
    /// A charge above its hold, as far as the balance reached.
    Overage {
        /// The hold.
        request: RequestId,
        /// How much more was charged.
        amount: Amount,
        /// The prices that applied; empty in the first journals.
        price_version: Arc<str>,
        /// By which key. Earlier journals did not repeat it here.
        key: Option<KeyId>,
    },
    /// A charge above its hold that the balance did not reach: the operator bears it.
    WrittenOff {
        /// The hold.
        request: RequestId,
        /// How much.
        amount: Amount,
        /// The prices that applied; empty in the first journals.
        price_version: Arc<str>,
    },
    /// A hold ended without a charge.
    Released {
        /// The hold.
        request: RequestId,
        /// How much went back: all of it.
        amount: Amount,
        /// Why.
        reason: Release,
        /// The prices that would have applied; empty in the first journals.
        price_version: Arc<str>,
        /// What was tried, opaque here.
        record: Arc<[u8]>,
    },
    /// A charge was given back, in full or in part.
    Refunded {
        /// Whose charge.
        request: RequestId,
        /// How much, above zero.
        amount: Amount,
        /// What the request was charged in all: its refunds are never more.
        charged: Amount,
        /// The prices by which it was charged.
        price_version: Arc<str>,
        /// The operator's own; one refund each.
        reference: Arc<str>,
        /// By whom and why.
        note: Note,
    },
    /// Credit was given or taken by hand.
    Adjusted {
        /// How much; taken if negative, never zero.
        amount: Amount,
        /// The operator's own; one adjustment each.
        reference: Arc<str>,
        /// By whom and why.
        note: Note,
    },
    /// From now on the customer may owe so much.
    OverdraftSet {
        /// At least zero.
        amount: Amount,
        /// By whom and why.
        note: Note,
    },
    /// What a customer owes is not asked for any more: the operator bears it.
    DebtWrittenOff {
        /// How much of it, above zero.
        amount: Amount,
        /// The operator's own; one write-off each.
        reference: Arc<str>,
        /// By whom and why.
        note: Note,
    },
    /// The customer accepted terms of the service.
    TermsAccepted {
        /// Which version of them.
        version: Arc<str>,
        /// Who did so, and where that is written.
        note: Note,
    },
    /// A request went against the operator's content policy.
    Violated(Violation),
    /// The customer was suspended, banned or readmitted.
    StandingChanged {
        /// What was done.
        step: Step,
        /// By whom and why.
        note: Note,
    },
    /// Credit of a banned customer fell to the operator.
    Forfeited {
        /// How much, above zero.
        amount: Amount,
        /// All that fell since the ban.
        total: Amount,
        /// By whom the customer was banned, and why.
        note: Note,
    },
    /// What was forfeited was given back.
    ForfeitureReversed {
        /// All that fell since the ban.
        amount: Amount,
        /// By whom and why.
        note: Note,
    },
}

/// Who did something by hand, and why: the operator's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// As they named themselves.
    pub by: Arc<str>,
    /// The reason, the evidence.
    pub reason: Arc<str>,
}

/// What a request cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// What the customer owes for it.
    pub amount: Amount,
    /// What the providers charge the operator for it; zero if that is not known.
    pub cost: Amount,
}

/// What a request in flight would be charged if it ended here: what it is charged if the gateway does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it costs so far.
    pub charge: Charge,
    /// What for, opaque here.
    pub record: Arc<[u8]>,
}

impl From<Amount> for Charge {
    fn from(amount: Amount) -> Self {
        Charge { amount, cost: Amount::ZERO }
    }
}

/// A change of what a customer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// No new requests, until further notice.
    Suspend,
    /// As before the suspension.
    Resume,
    /// No requests, also none of those in flight; all credit is forfeited.
    Ban,
    /// As before the ban; the credit is back.
    Unban,
}

impl Step {
    /// The name used in statements.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Suspend => "suspension",
            Step::Resume => "resumption",
            Step::Ban => "ban",
            Step::Unban => "unban",
        }
    }
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
