//! What a change tells of itself, whatever kind it is.

use super::{Change, Note};
use crate::id::RequestId;
use std::sync::Arc;

/// What stands between the names of several things that were made for one request.
const NAMES_END: char = ' ';

impl Change {
    /// The request it belongs to, if it belongs to one.
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::Deposited { .. }
            | Change::Adjusted { .. }
            | Change::OverdraftSet { .. }
            | Change::DebtWrittenOff { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. }
            | Change::Forfeited { .. }
            | Change::ForfeitureReversed { .. } => None,
            Change::Held { request, .. }
            | Change::Extended { request, .. }
            | Change::Detached { request, .. }
            | Change::Captured { request, .. }
            | Change::Overage { request, .. }
            | Change::WrittenOff { request, .. }
            | Change::Released { request, .. }
            | Change::Refunded { request, .. } => Some(*request),
        }
    }

    /// What is kept elsewhere for its customer, by the name it has there.
    pub fn object(&self) -> Option<&Arc<str>> {
        match self {
            Change::Captured { object, .. } => object.as_ref(),
            Change::Detached { object, .. } => Some(object),
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::Deposited { .. }
            | Change::Held { .. }
            | Change::Extended { .. }
            | Change::Overage { .. }
            | Change::WrittenOff { .. }
            | Change::Released { .. }
            | Change::Refunded { .. }
            | Change::Adjusted { .. }
            | Change::OverdraftSet { .. }
            | Change::DebtWrittenOff { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. }
            | Change::Forfeited { .. }
            | Change::ForfeitureReversed { .. } => None,
        }
    }

    /// All names of what is kept elsewhere: a batch has files.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.object().into_iter().flat_map(|names| names.split(NAMES_END))
    }

    /// The price version that was pinned for its request, if it belongs to one.
    pub fn price_version(&self) -> Option<&Arc<str>> {
        match self {
            Change::Held { price_version, .. }
            | Change::Extended { price_version, .. }
            | Change::Detached { price_version, .. }
            | Change::Captured { price_version, .. }
            | Change::Overage { price_version, .. }
            | Change::WrittenOff { price_version, .. }
            | Change::Released { price_version, .. }
            | Change::Refunded { price_version, .. } => Some(price_version).filter(|text| !text.is_empty()),
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::Deposited { .. }
            | Change::Adjusted { .. }
            | Change::OverdraftSet { .. }
            | Change::DebtWrittenOff { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. }
            | Change::Forfeited { .. }
            | Change::ForfeitureReversed { .. } => None,
        }
    }

    /// By whom and why, if it was done by hand.
    pub fn note(&self) -> Option<&Note> {
        match self {
            Change::Refunded { note, .. }
            | Change::Adjusted { note, .. }
            | Change::OverdraftSet { note, .. }
            | Change::DebtWrittenOff { note, .. }
            | Change::TermsAccepted { note, .. }
            | Change::StandingChanged { note, .. }
            | Change::Forfeited { note, .. }
            | Change::ForfeitureReversed { note, .. } => Some(note),
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::Deposited { .. }
            | Change::Held { .. }
            | Change::Extended { .. }
            | Change::Detached { .. }
            | Change::Captured { .. }
            | Change::Overage { .. }
            | Change::WrittenOff { .. }
            | Change::Violated(_)
            | Change::Released { .. } => None,
        }
    }

    /// The name used in statements.
    pub const fn name(&self) -> &'static str {
        match self {
            Change::CustomerCreated { .. } => "customer_created",
            Change::KeyCreated(_) => "key_created",
            Change::KeyRevoked { .. } => "key_revoked",
            Change::Limited { .. } => "limits",
            Change::Deposited { .. } => "deposit",
            Change::Held { .. } => "hold",
            Change::Extended { .. } => "extension",
            Change::Detached { .. } => "detachment",
            Change::Captured { .. } => "capture",
            Change::Overage { .. } => "overage",
            Change::WrittenOff { .. } => "write_off",
            Change::Released { .. } => "release",
            Change::Refunded { .. } => "refund",
            Change::Adjusted { .. } => "adjustment",
            Change::TermsAccepted { .. } => "terms",
            Change::Violated(_) => "violation",
            Change::OverdraftSet { .. } => "overdraft",
            Change::DebtWrittenOff { .. } => "debt_write_off",
            Change::StandingChanged { step, .. } => step.name(),
            Change::Forfeited { .. } => "forfeiture",
            Change::ForfeitureReversed { .. } => "forfeiture_reversal",
        }
    }
}
