//! What other stages refuse, as the refusals that a client is told.

use super::request::BadRequest;
use super::respond::Refusal;
use crate::admit::AdmitError;
use crate::admit::content::Objection;
use crate::admit::gate::Shut;
use crate::auth::AuthError;
use crate::ledger::{Failure, Marked, Period, Refusal as Refused, Spare, Spender};
use crate::money::Amount;

impl From<Shut> for Refusal {
    fn from(shut: Shut) -> Self {
        Refusal::Shut(shut)
    }
}

impl From<Objection> for Refusal {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Category(category) => Refusal::Content(category),
            Objection::Unjudged => Refusal::Unjudged,
            Objection::Unreadable => Refusal::BadRequest(BadRequest {
                message:
                    "Some of the request cannot be held against the content policy of this service: send \
                          less text, fewer images, and neither other files nor images that cannot be read."
                        .into(),
                param: None,
            }),
            // Who is refused is not told before it is in the books.
            Objection::Unnoted => Refusal::Overloaded,
        }
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
            AdmitError::SearchUnsold => Refusal::BadRequest(BadRequest::search_unsold()),
            AdmitError::OtherEndpoint => Refusal::OtherEndpoint(model.into()),
            AdmitError::TokensUntold => Refusal::BadRequest(BadRequest::tokens_untold()),
            AdmitError::MinutesUntold => Refusal::BadRequest(BadRequest::minutes_untold()),
            AdmitError::InsufficientCredit { needed, available } => {
                Refusal::InsufficientCredit { needed, available }
            }
            AdmitError::OverBudget { needed, spare } => Refusal::OverBudget { needed, spare },
            AdmitError::Marked(marked) => Refusal::Marked(marked),
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

/// What the key of a request stands for already.
pub(super) fn marked(marked: Marked) -> String {
    match marked {
        Marked::Running(first) => {
            format!("The request {first} with this Idempotency-Key is under way. Wait for its answer.")
        }
        Marked::Charged(first) => format!(
            "The request {first} with this Idempotency-Key was served and charged, see \
             GET /tollgate/v1/receipts/{first}. Answers are not stored, so it is not sent again; this costs \
             nothing. To ask anew, use another key."
        ),
        Marked::Other(first) => format!(
            "This Idempotency-Key stands for the request {first}, which asked for something else. Use another \
             key."
        ),
    }
}
