//! Commands: what is asked of the book, and why it may refuse.
//!
//! Everything that changes a book comes in as one of these; [`check_form`] refuses what makes no
//! sense of itself, the book what does not fit its state.

use super::booking::Booking;
use super::budget::{Budgets, Spare};
use super::entry::{Change, Charge, Entry, KeyCreated, Note, Progress, Step};
use super::mark::{Mark, Marked};
use super::standing::Standing;
use super::violation::Violation;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::money::Amount;
use std::sync::Arc;

/// Names and references given from outside, in characters.
pub const NAME_CHARACTERS_MAX: usize = 256;
/// Why something was done by hand, in characters: a sentence or a link to the evidence.
pub const REASON_CHARACTERS_MAX: usize = 1024;
/// What the caller has to say about a charge, in bytes: a receipt's detail is about 1 KiB.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// What is asked of the book. Each concerns one customer.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin to keep a customer.
    CreateCustomer {
        /// As the operator names them.
        name: Arc<str>,
    },
    /// Add a key.
    CreateKey(KeyCreated),
    /// End a key.
    RevokeKey {
        /// Which.
        key: KeyId,
    },
    /// Set what a key, or without one the customer, may do.
    Limit {
        /// Which key.
        key: Option<KeyId>,
        /// All that is limited from now on.
        limits: Arc<[u8]>,
    },
    /// Pay in.
    Deposit {
        /// Above zero, at most [`Amount::OUTSIDE_MAX`].
        amount: Amount,
        /// One deposit each.
        reference: Arc<str>,
    },
    /// Set aside for a request.
    Hold {
        /// New to the book.
        request: RequestId,
        /// Of the same customer.
        key: KeyId,
        /// At least zero.
        amount: Amount,
        /// What is held at least: if there is less than `amount`, all there is.
        least: Amount,
        /// What else bounds it.
        budgets: Budgets,
        /// The prices that will apply.
        price_version: Arc<str>,
        /// By what its sender knows it; claimed before.
        mark: Option<Mark>,
    },
    /// Set more aside for a request in flight.
    Extend {
        /// An open hold.
        request: RequestId,
        /// Above zero.
        amount: Amount,
        /// What is set aside at least, above zero: if there is less than `amount`, all there is.
        least: Amount,
        /// What else bounds it.
        budgets: Budgets,
        /// How far the request has come.
        progress: Progress,
    },
    /// Let a hold go on when its request has been answered.
    Detach {
        /// An open hold.
        request: RequestId,
        /// What is at work, by the name it has there: 1 to 256 characters.
        object: Arc<str>,
        /// How it is found and what it will be charged by.
        record: Arc<[u8]>,
    },
    /// End a hold by a charge.
    Capture {
        /// An open hold.
        request: RequestId,
        /// At least zero; may exceed the hold.
        charge: Charge,
        /// What it was for.
        record: Arc<[u8]>,
        /// What was made for it and is kept elsewhere, by the name it has there: 1 to 256 characters.
        object: Option<Arc<str>>,
    },
    /// End a hold without a charge.
    Release {
        /// An open hold.
        request: RequestId,
        /// What was tried.
        record: Arc<[u8]>,
    },
    /// End a hold of a request that nobody serves any more: by a charge of the last progress that was
    /// noted, or without one.
    Expire {
        /// An open hold.
        request: RequestId,
    },
    /// Give a charge back.
    Refund {
        /// The charge, as its entries say it.
        charged: Charged,
        /// Above zero; without it, all that was not given back yet.
        amount: Option<Amount>,
        /// One refund each.
        reference: Arc<str>,
        /// By whom and why.
        note: Note,
    },
    /// Give or take credit by hand.
    Adjust {
        /// Taken if negative.
        amount: Amount,
        /// One adjustment each.
        reference: Arc<str>,
        /// By whom and why.
        note: Note,
    },
    /// Let the customer owe so much.
    SetOverdraft {
        /// At least zero.
        amount: Amount,
        /// By whom and why.
        note: Note,
    },
    /// Ask no more for what the customer owes.
    WriteOff {
        /// Above zero; without it, all of it.
        amount: Option<Amount>,
        /// One write-off each.
        reference: Arc<str>,
        /// By whom and why.
        note: Note,
    },
    /// Note that terms of the service were accepted.
    AcceptTerms {
        /// Which version.
        version: Arc<str>,
        /// Who did so, and where that is written.
        note: Note,
    },
    /// Note a violation of the operator's content policy.
    Violate(Violation),
    /// Suspend, ban or readmit.
    ChangeStanding {
        /// Which.
        step: Step,
        /// By whom and why.
        note: Note,
    },
}

/// A charge that can be given back. The book keeps open holds, not history: the ledger reads what a
/// request was charged from its entries, which are final once the request has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charged {
    /// Which request.
    pub request: RequestId,
    /// What the customer paid for it, overage included.
    pub amount: Amount,
    /// By which prices.
    pub price_version: Arc<str>,
}

impl Charged {
    /// Whose charge, and what it was, from all entries of a request; `None` if it was not charged.
    pub fn of(entries: &[Entry]) -> Option<(CustomerId, Charged)> {
        let Change::Held { request, price_version, .. } = &entries.first()?.change else { return None };
        let captured = entries.iter().any(|entry| matches!(entry.change, Change::Captured { .. }));
        let amount = entries.iter().map(|entry| entry.change.paid()).sum();
        let charged = Charged { request: *request, amount, price_version: Arc::clone(price_version) };
        captured.then_some((entries[0].customer, charged))
    }
}

/// Why a command is not carried out: the world's fault, never ours. In order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Empty, too long, or not above zero where it must be.
    Malformed(&'static str),
    /// No such customer.
    UnknownCustomer,
    /// The customer exists already.
    CustomerExists,
    /// No such key of this customer, or it was revoked.
    UnknownKey,
    /// The key exists already, here or with another customer.
    KeyExists,
    /// The reference was used for something else.
    ReferenceUsed(Booking),
    /// The very same was booked before: nothing to do.
    BookedAlready,
    /// The customer is suspended or banned, or is not.
    Standing(Standing),
    /// The mark of the request stands for another.
    Marked(Marked),
    /// The request has, or had, a hold.
    HoldExists,
    /// No open hold for the request.
    UnknownHold,
    /// More would be given back than was charged.
    RefundExceeds {
        /// What was not given back yet.
        left: Amount,
    },
    /// The customer owes more already than they would be let.
    OwesMore {
        /// How much, with what is held.
        debt: Amount,
    },
    /// The customer does not owe so much, or nothing at all.
    OwesLess {
        /// How much they owe.
        debt: Amount,
    },
    /// The balance does not reach.
    InsufficientCredit {
        /// What is free, with what may be owed.
        available: Amount,
    },
    /// A budget does not reach.
    OverBudget(Spare),
}

/// Checks what can be judged without the book.
///
/// # Errors
/// [`Refusal::Malformed`], with what to do.
pub fn check_form(command: &Command) -> Result<(), Refusal> {
    let (wrong, what) = match command {
        Command::CreateCustomer { name } => {
            (!is_name(name), "the name must be 1 to 256 characters without control characters")
        }
        Command::CreateKey(key) => (
            !key.name.is_empty() && !is_name(&key.name),
            "the name must be at most 256 characters without control characters",
        ),
        Command::RevokeKey { .. } => return Ok(()),
        Command::Limit { limits, .. } => (limits.len() > RECORD_BYTES_MAX, "the limits are too long"),
        Command::Deposit { amount, reference } => {
            check_reference(reference)?;
            (!is_amount(*amount), ABOVE_ZERO)
        }
        Command::Hold { amount, least, .. } => {
            (amount.is_negative() || least.is_negative(), "a hold is not negative")
        }
        Command::Extend { amount, least, progress, .. } => {
            check_charge(progress.charge, &progress.record)?;
            (!is_amount(*amount) || !is_amount(*least), ABOVE_ZERO)
        }
        Command::Detach { object, record, .. } => {
            (!is_name(object) || record.len() > RECORD_BYTES_MAX, "what is detached has a name")
        }
        Command::Capture { charge, record, object, .. } => {
            check_charge(*charge, record)?;
            let unnamed = object.as_ref().is_some_and(|object| !is_name(object));
            (unnamed, "what a capture names has a name")
        }
        Command::Expire { .. } => return Ok(()),
        Command::Release { record, .. } => (record.len() > RECORD_BYTES_MAX, "the record is too long"),
        Command::Refund { amount, reference, note, .. } => {
            check_reference(reference)?;
            check_note(note, Reason::Optional)?;
            (amount.is_some_and(|amount| !is_amount(amount)), ABOVE_ZERO)
        }
        Command::Adjust { amount, reference, note } => {
            check_reference(reference)?;
            check_note(note, Reason::Required)?;
            let size = if amount.is_negative() { -*amount } else { *amount };
            (!is_amount(size), "the amount must not be zero, and at most a trillion either way")
        }
        Command::SetOverdraft { amount, note } => {
            check_note(note, Reason::Optional)?;
            let out = amount.is_negative() || *amount > Amount::OUTSIDE_MAX;
            (out, "an overdraft is from zero to a trillion")
        }
        Command::WriteOff { amount, reference, note } => {
            check_reference(reference)?;
            check_note(note, Reason::Required)?;
            (amount.is_some_and(|amount| !is_amount(amount)), ABOVE_ZERO)
        }
        Command::AcceptTerms { version, note } => {
            check_note(note, Reason::Optional)?;
            (!is_name(version), "the version must be 1 to 256 characters without control characters")
        }
        Command::Violate(violation) => (!is_name(&violation.category), "a category is 1 to 256 bytes"),
        Command::ChangeStanding { step: Step::Ban, note } => return check_note(note, Reason::Required),
        Command::ChangeStanding { step: Step::Suspend | Step::Resume | Step::Unban, note } => {
            return check_note(note, Reason::Optional);
        }
    };
    if wrong { Err(Refusal::Malformed(what)) } else { Ok(()) }
}

const ABOVE_ZERO: &str = "the amount must be above zero and at most a trillion";

fn is_amount(amount: Amount) -> bool {
    amount > Amount::ZERO && amount <= Amount::OUTSIDE_MAX
}

fn check_charge(Charge { amount, cost }: Charge, record: &[u8]) -> Result<(), Refusal> {
    let negative = amount.is_negative() || cost.is_negative();
    match negative || record.len() > RECORD_BYTES_MAX {
        true => Err(Refusal::Malformed("a charge is not negative, nor its record too long")),
        false => Ok(()),
    }
}

fn check_reference(reference: &str) -> Result<(), Refusal> {
    match is_name(reference) {
        true => Ok(()),
        false => {
            Err(Refusal::Malformed("the reference must be 1 to 256 characters without control characters"))
        }
    }
}

#[derive(PartialEq, Eq)]
enum Reason {
    Required,
    Optional,
}

fn check_note(note: &Note, reason: Reason) -> Result<(), Refusal> {
    if !is_name(&note.by) {
        return Err(Refusal::Malformed("who did it must be 1 to 256 characters without control characters"));
    }
    if note.reason.is_empty() && reason == Reason::Optional || is_text(&note.reason, REASON_CHARACTERS_MAX) {
        return Ok(());
    }
    Err(Refusal::Malformed("the reason must be 1 to 1024 characters without control characters"))
}

fn is_name(text: &str) -> bool {
    is_text(text, NAME_CHARACTERS_MAX)
}

fn is_text(text: &str, characters_max: usize) -> bool {
    (1..=characters_max).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}
