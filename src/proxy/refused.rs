//! What the stages before a provider refuse, as the refusals that a client is told.

use super::request::BadRequest;
use super::respond::Refusal;
use crate::admit::AdmitError;
use crate::admit::gate::Shut;
use crate::auth::AuthError;

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
}
