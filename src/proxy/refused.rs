//! What other stages refuse, as the refusals that a client is told.

use super::request::BadRequest;
use super::respond::Refusal;
use crate::admit::AdmitError;
use crate::admit::gate::Shut;
use crate::auth::AuthError;
use crate::ledger::{Failure, Period, Refusal as Refused, Spare, Spender};
use crate::money::Amount;

impl From<Shut> for Refusal {
    fn from(shut: Shut) -> Self {
        Refusal::Shut(shut)
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing => Refusal::MissingKey,
            AuthError::Invalid => Refusal::InvalidKey,
        }
    }
}

impl Refusal {
    /// Why a request for `model` was not admitted.
    pub fn not_admitted(error: AdmitError, model: &str) -> Self {
        match error {
            AdmitError::UnknownModel => Refusal::UnknownModel(model.into()),
            AdmitError::OtherTier => Refusal::OtherTier(model.into()),
            AdmitError::OtherEndpoint => Refusal::OtherEndpoint(model.into()),
            AdmitError::TokensUntold => Refusal::BadRequest(BadRequest::tokens_untold()),
            AdmitError::InsufficientCredit { needed, available } => {
                Refusal::InsufficientCredit { needed, available }
            }
            AdmitError::OverBudget { needed, spare } => Refusal::OverBudget { needed, spare },
            AdmitError::KeyRevoked => Refusal::InvalidKey,
            AdmitError::Suspended => Refusal::Suspended,
            AdmitError::Banned => Refusal::Banned,
            AdmitError::Overloaded => Refusal::Overloaded,
        }
    }
    /// Why no more was held for a stream that runs.
    pub fn not_extended(why: Failure) -> Self {
        match why {
            Failure::Refused(Refused::OverBudget(spare)) => Refusal::CreditEnded(Some(spare)),
            Failure::Refused(_) => Refusal::CreditEnded(None),
            Failure::Down | Failure::Busy | Failure::Full => Refusal::Overloaded,
        }
    }
}

/// Which budget does not reach, and when it will.
pub(super) fn over_budget(needed: Amount, spare: &Spare) -> String {
    let Spare { left, .. } = spare;
    format!(
        "{}: {left} USD are left, this request may cost up to {needed} USD. {}.",
        budget(spare),
        then(spare)
    )
}

/// Which budget came to its end, and when it begins anew.
pub(super) fn budget_ended(spare: &Spare) -> String {
    format!("{}, and came to its end while the answer was streamed. {}.", budget(spare), then(spare))
}

fn budget(Spare { of, period, limit, .. }: &Spare) -> String {
    let whose = match of {
        Spender::Key => "key",
        Spender::Customer => "account",
    };
    let per = match period {
        Period::Day => " a day",
        Period::Month => " a month",
        Period::Total => " in all",
    };
    format!("The budget of this {whose} is {limit} USD{per}")
}

fn then(spare: &Spare) -> String {
    let never = || "Ask whoever set it for more".to_owned();
    spare.until.map_or_else(never, |until| format!("It begins anew at {until}"))
}
