//! Bookings: what operators book under a reference of their own, once each.
//!
//! The same reference with the same content again is the same booking; with any other it is refused.

use super::entry::Change;
use crate::id::RequestId;
use crate::money::Amount;
use std::fmt;
use std::sync::Arc;

/// What was booked under a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    /// What it was.
    pub kind: BookingKind,
    /// What the customer got by it, lost if negative.
    pub amount: Amount,
    /// Why; empty for deposits.
    pub reason: Arc<str>,
}

/// Kinds of bookings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BookingKind {
    /// Paid in.
    Deposit,
    /// Of this request's charge.
    Refund(RequestId),
    /// By hand.
    Adjustment,
    /// Of what was owed.
    WriteOff,
}

impl Booking {
    /// What a change books, and under which reference.
    pub fn of(change: &Change) -> Option<(&Arc<str>, Booking)> {
        let (reference, kind, amount, reason) = match change {
            Change::Deposited { amount, reference } => (reference, BookingKind::Deposit, amount, ""),
            Change::Refunded { request, amount, reference, note, .. } => {
                (reference, BookingKind::Refund(*request), amount, &*note.reason)
            }
            Change::Adjusted { amount, reference, note } => {
                (reference, BookingKind::Adjustment, amount, &*note.reason)
            }
            Change::DebtWrittenOff { amount, reference, note } => {
                (reference, BookingKind::WriteOff, amount, &*note.reason)
            }
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::Held { .. }
            | Change::Extended { .. }
            | Change::Detached { .. }
            | Change::Captured { .. }
            | Change::Overage { .. }
            | Change::WrittenOff { .. }
            | Change::Released { .. }
            | Change::OverdraftSet { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. }
            | Change::Forfeited { .. }
            | Change::ForfeitureReversed { .. } => return None,
        };
        Some((reference, Booking { kind, amount: *amount, reason: reason.into() }))
    }
}

impl fmt::Display for Booking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            BookingKind::Deposit => write!(f, "a deposit of {} USD", self.amount),
            BookingKind::Refund(request) => write!(f, "a refund of {} USD for {request}", self.amount),
            BookingKind::Adjustment => write!(f, "an adjustment of {} USD", self.amount),
            BookingKind::WriteOff => write!(f, "a write-off of {} USD", self.amount),
        }
    }
}
