//! The ledger's refusals in the words of the plain book.
//!
//! Included by tests inside the crate and outside of it, each of which names the ledger in its own way:
//! what is translated comes from whoever includes this.

use super::reference::{Said, Standing as Plain};
use super::{Refusal, Standing};

pub fn said(refusal: &Refusal) -> Said {
    match refusal {
        Refusal::Malformed(_) => Said::Malformed,
        Refusal::UnknownCustomer => Said::UnknownCustomer,
        Refusal::CustomerExists => Said::CustomerExists,
        Refusal::UnknownKey => Said::UnknownKey,
        Refusal::KeyExists => Said::KeyExists,
        Refusal::ReferenceUsed(booking) => Said::ReferenceUsed(booking.amount.atto_usd()),
        Refusal::BookedAlready => Said::BookedAlready,
        Refusal::Standing(found) => Said::Standing(standing(found)),
        Refusal::RefundExceeds { left } => Said::RefundExceeds(left.atto_usd()),
        Refusal::OwesMore { debt } => Said::OwesMore(debt.atto_usd()),
        Refusal::OwesLess { debt } => Said::OwesLess(debt.atto_usd()),
        Refusal::HoldExists => Said::HoldExists,
        Refusal::UnknownHold => Said::UnknownHold,
        Refusal::InsufficientCredit { available } => Said::Insufficient(available.atto_usd()),
        Refusal::OverBudget(spare) => unreachable!("nobody has a budget: {spare:?}"),
        Refusal::Marked(marked) => unreachable!("nothing is marked: {marked:?}"),
    }
}

pub fn standing(standing: &Standing) -> Plain {
    match standing {
        Standing::Active => Plain::Active,
        Standing::Suspended(_) => Plain::Suspended,
        Standing::Banned { .. } => Plain::Banned,
    }
}
