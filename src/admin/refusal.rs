//! Refusals of the admin API, in the shape that the gateway's errors have.

use super::openapi::{self, Refused};
use crate::ledger::disk::OutOfReach;
use crate::ledger::{Failure, Refusal, Standing};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use std::io;

/// Why the operator is refused.
#[derive(Debug)]
pub struct AdminRefusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Seconds until it may be tried again.
    retry_after: Option<u64>,
}

impl AdminRefusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        AdminRefusal { status, code, message: message.into(), retry_after: None }
    }

    /// The token is missing or wrong.
    pub fn unauthorized() -> Self {
        let message = "the admin token is missing or wrong: set TOLLGATE_ADMIN_TOKEN to that of the gateway";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_admin_token", message)
    }

    /// More than the operator allows by the setting `admin.{bound}`.
    pub fn too_many(bound: &str, seconds: u64) -> Self {
        let message = format!("too many requests of the admin API: see admin.{bound}");
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        AdminRefusal { retry_after: Some(seconds), ..refusal }
    }

    /// No such thing.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    /// The path takes another method.
    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this path takes another method")
    }

    /// What was sent makes no sense.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    /// The ledger does not verify.
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "ledger_damaged", message)
    }

    /// The journal cannot be read: what is asked for was archived and is out of reach, or worse.
    pub fn unread(why: &io::Error) -> Self {
        match OutOfReach::is(why) {
            true => {
                Self::new(StatusCode::CONFLICT, "archived", format!("{why}; bring it back, and ask again"))
            }
            false => Self::failed(format!("the journal cannot be read: {why}")),
        }
    }

    /// A backup cannot be put there.
    pub fn unfit(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "unfit_directory", message)
    }

    /// Something of ours failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
    }
}

impl From<Failure> for AdminRefusal {
    fn from(failure: Failure) -> Self {
        let refusal = match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Down | Failure::Busy | Failure::Full => {
                let message = "the ledger cannot be written: see the gateway's log";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "ledger_down", message);
            }
        };
        match refusal {
            Refusal::Malformed(what) => Self::malformed(what),
            Refusal::UnknownCustomer => Self::not_found("there is no such customer"),
            Refusal::UnknownKey => Self::not_found("there is no such key, or it was revoked already"),
            Refusal::CustomerExists => {
                Self::new(StatusCode::CONFLICT, "exists", "the customer exists already")
            }
            Refusal::KeyExists => {
                let message = "this key exists already, here or with another customer";
                Self::new(StatusCode::CONFLICT, "exists", message)
            }
            Refusal::ReferenceUsed(booking) => {
                let message = format!("this reference was used for {booking}: choose another");
                Self::new(StatusCode::CONFLICT, "reference_used", message)
            }
            Refusal::Standing(standing) => Self::new(
                StatusCode::CONFLICT,
                "wrong_status",
                match standing {
                    Standing::Active => "the customer is active: there is nothing to lift",
                    Standing::Suspended(_) => "the customer is suspended already: resume or ban them",
                    Standing::Banned { .. } => "the customer is banned: unban them first",
                },
            ),
            Refusal::RefundExceeds { left } => {
                let message =
                    format!("{left} USD of this charge can be given back: the rest was given back before");
                Self::new(StatusCode::CONFLICT, "refund_exceeds_charge", message)
            }
            Refusal::OwesMore { debt } => {
                let message = format!("{debt} USD are owed or held already: it cannot be less");
                Self::new(StatusCode::CONFLICT, "owes_more", message)
            }
            Refusal::OwesLess { debt } => {
                let message = format!("{debt} USD are owed: no more can be written off");
                Self::new(StatusCode::CONFLICT, "owes_less", message)
            }
            Refusal::InsufficientCredit { available } => {
                let message = format!("{available} USD are available: no more can be taken");
                Self::new(StatusCode::CONFLICT, "insufficient_credit", message)
            }
            Refusal::BookedAlready
            | Refusal::Marked(_)
            | Refusal::HoldExists
            | Refusal::UnknownHold
            | Refusal::OverBudget(_) => Self::failed(format!("unexpected: {refusal:?}")),
        }
    }
}

impl From<JsonRejection> for AdminRefusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::malformed(rejection.body_text())
    }
}

impl From<QueryRejection> for AdminRefusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::malformed(rejection.body_text())
    }
}

impl IntoResponse for AdminRefusal {
    fn into_response(self) -> Response {
        let AdminRefusal { status, code, message, retry_after } = self;
        let error = openapi::Refusal { message, kind: "admin_error", param: None, code };
        let mut response = (status, Json(Refused { error })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
