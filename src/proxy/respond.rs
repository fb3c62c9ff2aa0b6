//! Answers of our own: the one place that chooses error statuses.
//!
//! Errors have OpenAI's shape, so that its clients understand them. Their texts say what to do and
//! never name an upstream account.

use super::anthropic;
use super::context::Place;
use super::refused::{self, budget_ended, over_budget};
use super::request::BadRequest;
use super::stored::NoObject;
use crate::admit::gate::{Rate, Shut};
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::id::RequestId;
use crate::ledger::{Marked, Spare, Spender};
use crate::money::Amount;
use crate::policy::countries::Denied;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora_http::ResponseHeader;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Why a request is answered by us with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No key was presented.
    MissingKey,
    /// The key opens nothing.
    InvalidKey,
    /// The key or the customer is limited.
    Shut(Shut),
    /// Too many keys that open nothing came from one address.
    FailedKeys {
        /// Until the next one is heard.
        wait: Duration,
    },
    /// There are too many connections.
    Crowded,
    /// There are too many connections from one address.
    AddressCrowded,
    /// The header did not come in time.
    HeaderTimeout,
    /// The header is too large, or has too many fields.
    HeaderTooLarge,
    /// The header can be understood in more than one way.
    BadHeader(&'static str),
    /// The customer is suspended.
    Suspended,
    /// The customer is banned.
    Banned,
    /// The customer has not accepted this version of the terms.
    Terms(Arc<str>),
    /// What is asked goes against the content policy, in this category.
    Content(Arc<str>),
    /// What is asked cannot be judged, and must be.
    Unjudged,
    /// Nobody is served there.
    Denied(Denied),
    /// No such path.
    UnknownPath {
        /// Method and path as asked for.
        asked: String,
    },
    /// The path takes another method.
    WrongMethod {
        /// Method and path as asked for.
        asked: String,
        /// The method it takes.
        takes: &'static str,
    },
    /// What is referred to is not there.
    NoObject(NoObject),
    /// The body is not a request.
    BadRequest(BadRequest),
    /// The body is too large.
    BodyTooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// The body did not come in time.
    BodyTimeout,
    /// The client's model is not sold, or nobody serves it.
    UnknownModel(Box<str>),
    /// The client's model is sold at other endpoints.
    OtherEndpoint(Box<str>),
    /// The client's model is sold at other service tiers.
    OtherTier(Box<str>),
    /// The balance does not reach.
    InsufficientCredit {
        /// What the request might cost.
        needed: Amount,
        /// What is free.
        available: Amount,
    },
    /// A budget of the key or the customer does not reach.
    OverBudget {
        /// What the request might cost.
        needed: Amount,
        /// Which, and what is left of it.
        spare: Spare,
    },
    /// The balance, or this budget, came to its end while the answer was streamed.
    CreditEnded(Option<Spare>),
    /// What the client knows the request by stands for another.
    Marked(Marked),
    /// We have too much to do, or cannot write the ledger.
    Overloaded,
    /// Every upstream account has too much to do.
    PoolBusy {
        /// Until one may have room.
        wait: Duration,
    },
    /// No upstream account could answer.
    UpstreamUnavailable {
        /// Until one is tried again.
        wait: Duration,
    },
    /// No upstream account answered in time.
    UpstreamTimeout,
}

/// The longest message.
const MESSAGE_CHARS_MAX: usize = 400;
/// How soon a client may try again, in seconds, unless something else is known.
const RETRY_AFTER_S: u64 = 1;
/// The longest that clients obey.
const NEVER_S: u64 = 60;

impl Refusal {
    /// The status, the error's type and its code.
    fn class(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        const INVALID: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Refusal::MissingKey | Refusal::InvalidKey => {
                (StatusCode::UNAUTHORIZED, INVALID, Some("invalid_api_key"))
            }
            Refusal::Suspended => (StatusCode::FORBIDDEN, INVALID, Some("account_suspended")),
            Refusal::Banned => (StatusCode::FORBIDDEN, INVALID, Some("account_banned")),
            Refusal::Terms(_) => (StatusCode::FORBIDDEN, INVALID, Some("terms_not_accepted")),
            Refusal::Content(_) => (StatusCode::BAD_REQUEST, INVALID, Some("content_policy_violation")),
            Refusal::Unjudged => (StatusCode::SERVICE_UNAVAILABLE, SERVER, Some(self.reason())),
            Refusal::Denied(_) => {
                let code = "unsupported_country_region_territory";
                (StatusCode::FORBIDDEN, "request_forbidden", Some(code))
            }
            Refusal::UnknownPath { .. } | Refusal::OtherEndpoint(_) => (StatusCode::NOT_FOUND, INVALID, None),
            Refusal::NoObject(NoObject::Previous(_)) => {
                (StatusCode::BAD_REQUEST, INVALID, Some("previous_response_not_found"))
            }
            Refusal::NoObject(_) => (StatusCode::NOT_FOUND, INVALID, None),
            Refusal::Shut(Shut::Restricted(..)) => (StatusCode::FORBIDDEN, INVALID, Some("key_restricted")),
            Refusal::Shut(Shut::Rate(_, Rate::Tokens, ..)) => {
                (StatusCode::TOO_MANY_REQUESTS, "tokens", Some("rate_limit_exceeded"))
            }
            Refusal::FailedKeys { .. } | Refusal::AddressCrowded | Refusal::Shut(Shut::Rate(..)) => {
                (StatusCode::TOO_MANY_REQUESTS, "requests", Some("rate_limit_exceeded"))
            }
            Refusal::HeaderTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, Some("request_too_large"))
            }
            Refusal::BadHeader(_) => (StatusCode::BAD_REQUEST, INVALID, None),
            Refusal::WrongMethod { .. } => (StatusCode::METHOD_NOT_ALLOWED, INVALID, None),
            Refusal::BadRequest(_) | Refusal::OtherTier(_) => (StatusCode::BAD_REQUEST, INVALID, None),
            Refusal::BodyTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("request_too_large"))
            }
            Refusal::BodyTimeout | Refusal::HeaderTimeout => {
                (StatusCode::REQUEST_TIMEOUT, INVALID, Some("request_timeout"))
            }
            Refusal::UnknownModel(_) => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Refusal::InsufficientCredit { .. } | Refusal::CreditEnded(None) => {
                (StatusCode::PAYMENT_REQUIRED, "insufficient_quota", Some("insufficient_quota"))
            }
            Refusal::OverBudget { spare, .. } | Refusal::CreditEnded(Some(spare)) => {
                let (status, code) = spent(spare);
                (status, "insufficient_quota", Some(code))
            }
            Refusal::Marked(Marked::Running(_) | Marked::Charged(_)) => {
                (StatusCode::CONFLICT, INVALID, Some(self.reason()))
            }
            Refusal::Marked(Marked::Other(_)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, INVALID, Some(self.reason()))
            }
            Refusal::Overloaded | Refusal::PoolBusy { .. } | Refusal::Crowded => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("overloaded"))
            }
            Refusal::UpstreamUnavailable { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("upstream_unavailable"))
            }
            Refusal::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, SERVER, Some("upstream_timeout")),
        }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.class().0.as_u16()
    }

    /// The word used in metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Refusal::MissingKey | Refusal::InvalidKey => "invalid_api_key",
            Refusal::Shut(Shut::Restricted(_, why)) => why.name(),
            Refusal::Shut(Shut::Rate(_, rate, ..)) => rate.name(),
            Refusal::FailedKeys { .. } => "failed_keys",
            Refusal::Crowded => "connections",
            Refusal::AddressCrowded => "connections_per_address",
            Refusal::HeaderTimeout => "header_timeout",
            Refusal::HeaderTooLarge => "header_too_large",
            Refusal::BadHeader(_) => "bad_header",
            Refusal::Suspended => "account_suspended",
            Refusal::Banned => "account_banned",
            Refusal::Terms(_) => "terms_not_accepted",
            Refusal::Content(_) => "content_policy",
            Refusal::Unjudged => "content_policy_unavailable",
            Refusal::Denied(Denied::Country(_)) => "country_denied",
            Refusal::Denied(Denied::Unknown) => "country_unknown",
            Refusal::UnknownPath { .. } => "unknown_path",
            Refusal::WrongMethod { .. } => "wrong_method",
            Refusal::NoObject(_) => "no_object",
            Refusal::BadRequest(_) => "bad_request",
            Refusal::BodyTooLarge { .. } => "request_too_large",
            Refusal::BodyTimeout => "body_timeout",
            Refusal::UnknownModel(_) => "model_not_found",
            Refusal::OtherEndpoint(_) => "other_endpoint",
            Refusal::OtherTier(_) => "other_tier",
            Refusal::InsufficientCredit { .. } => "insufficient_quota",
            Refusal::OverBudget { .. } => "over_budget",
            Refusal::CreditEnded(_) => "credit_ended",
            Refusal::Marked(Marked::Running(_)) => "idempotency_key_in_use",
            Refusal::Marked(Marked::Charged(_)) => "idempotency_key_used",
            Refusal::Marked(Marked::Other(_)) => "idempotency_key_reused",
            Refusal::Overloaded => "overloaded",
            Refusal::PoolBusy { .. } => "pool_busy",
            Refusal::UpstreamUnavailable { .. } => "upstream_unavailable",
            Refusal::UpstreamTimeout => "upstream_timeout",
        }
    }

    fn message(&self) -> String {
        match self {
            Refusal::MissingKey => {
                "You didn't provide an API key. Send it as Authorization: Bearer KEY.".into()
            }
            Refusal::InvalidKey => "The API key is not valid. Check it, or ask for a new one.".into(),
            Refusal::Shut(shut) => shut.to_string(),
            Refusal::FailedKeys { .. } => {
                "Too many keys that are not valid came from this address. Check the key, then wait.".into()
            }
            Refusal::Crowded => "The gateway has too many connections. Try again in a moment.".into(),
            Refusal::AddressCrowded => {
                "There are too many connections from this address. Use fewer, and keep them open.".into()
            }
            Refusal::HeaderTimeout => {
                "The header of the request did not arrive in time. Send it faster.".into()
            }
            Refusal::HeaderTooLarge => {
                "The header of the request is too large or has too many fields. Send less.".into()
            }
            Refusal::BadHeader(why) => format!("The header of the request is not what HTTP asks for: {why}."),
            Refusal::Suspended => "The account is suspended. Ask the operator of this service why.".into(),
            Refusal::Banned => {
                "The account is banned. To appeal, write to the operator of this service.".into()
            }
            Refusal::Terms(version) => format!(
                "The terms of this service in their version {version} were not accepted for this account. \
                 Accept them with the operator of this service."
            ),
            Refusal::Content(category) => {
                format!("The request goes against the acceptable-use policy of this service: {category}.")
            }
            Refusal::Unjudged => "The request cannot be judged now. Try again in a moment.".into(),
            Refusal::Denied(_) => "Country, region, or territory not supported.".into(),
            Refusal::UnknownPath { asked } => format!("Invalid URL ({asked})"),
            Refusal::WrongMethod { asked, takes } => format!("Not allowed to {asked}. (HINT: use {takes})"),
            Refusal::NoObject(none) => none.to_string(),
            Refusal::BadRequest(bad) => bad.message.clone(),
            Refusal::BodyTooLarge { bytes_max } => {
                format!("The body of the request is larger than {bytes_max} bytes. Send less.")
            }
            Refusal::BodyTimeout => "The body of the request did not arrive in time. Send it faster.".into(),
            Refusal::UnknownModel(model) => {
                format!("The model `{model}` does not exist or is not sold here. See GET /v1/models.")
            }
            Refusal::OtherTier(model) => {
                format!("The model `{model}` is not sold at this service tier. Leave service_tier out.")
            }
            Refusal::OtherEndpoint(model) => {
                format!("The model `{model}` is not sold at this endpoint: its price is of something else.")
            }
            Refusal::InsufficientCredit { needed, available } => format!(
                "The balance does not cover this request: it may cost up to {needed} USD, {available} USD \
                 are available. Add credit, or lower max_completion_tokens, and max_tool_calls or max_uses of web searches."
            ),
            Refusal::OverBudget { needed, spare } => over_budget(*needed, spare),
            Refusal::CreditEnded(None) => {
                "The balance came to its end while the answer was streamed. Add credit, and ask again.".into()
            }
            Refusal::CreditEnded(Some(spare)) => budget_ended(spare),
            Refusal::Marked(marked) => refused::marked(*marked),
            Refusal::Overloaded => "The gateway is overloaded. Try again in a moment.".into(),
            Refusal::PoolBusy { .. } => {
                "All capacity for this model is in use. Try again in a moment.".into()
            }
            Refusal::UpstreamUnavailable { .. } => "No provider could answer. Try again in a moment.".into(),
            Refusal::UpstreamTimeout => "No provider answered in time. Try again.".into(),
        }
    }

    fn param(&self) -> Option<&'static str> {
        match self {
            Refusal::BadRequest(bad) => bad.param,
            Refusal::NoObject(none) => none.param(),
            Refusal::UnknownModel(_) | Refusal::OtherEndpoint(_) => Some("model"),
            Refusal::OtherTier(_) => Some("service_tier"),
            Refusal::MissingKey
            | Refusal::InvalidKey
            | Refusal::Shut(_)
            | Refusal::FailedKeys { .. }
            | Refusal::Crowded
            | Refusal::AddressCrowded
            | Refusal::HeaderTimeout
            | Refusal::HeaderTooLarge
            | Refusal::BadHeader(_)
            | Refusal::Suspended
            | Refusal::Banned
            | Refusal::Terms(_)
            | Refusal::Content(_)
            | Refusal::Unjudged
            | Refusal::Denied(_)
            | Refusal::UnknownPath { .. }
            | Refusal::WrongMethod { .. }
            | Refusal::BodyTooLarge { .. }
            | Refusal::BodyTimeout
            | Refusal::InsufficientCredit { .. }
            | Refusal::OverBudget { .. }
            | Refusal::CreditEnded(_)
            | Refusal::Marked(_)
            | Refusal::Overloaded
            | Refusal::PoolBusy { .. }
            | Refusal::UpstreamUnavailable { .. }
            | Refusal::UpstreamTimeout => None,
        }
    }

    /// Whole seconds until it is worth trying again: rounded up, or clients come a moment too early.
    fn retry_after_s(&self) -> u64 {
        match self {
            Refusal::PoolBusy { wait }
            | Refusal::UpstreamUnavailable { wait }
            | Refusal::FailedKeys { wait } => {
                (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(RETRY_AFTER_S)
            }
            Refusal::OverBudget { spare, .. } | Refusal::CreditEnded(Some(spare)) => {
                spare.until.map_or(NEVER_S, |until| {
                    let us = until.micros().saturating_sub(Timestamp::now().micros());
                    u64::try_from(us).unwrap_or_default().div_ceil(1_000_000).max(RETRY_AFTER_S)
                })
            }
            // What would never pass is not worth trying soon.
            Refusal::Shut(Shut::Rate(_, _, _, short)) => {
                short.wait_us.map_or(NEVER_S, |wait_us| wait_us.div_ceil(1_000_000).max(RETRY_AFTER_S))
            }
            _ => RETRY_AFTER_S,
        }
    }

    /// The message, no longer than a person reads: it may quote what the client sent.
    fn short_message(&self) -> String {
        let message = self.message();
        match message.char_indices().nth(MESSAGE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message,
        }
    }

    /// What a stream ends with of which so many events have passed. A piece of another may stand before it.
    pub fn event_at(&self, place: Place, request: RequestId, events: u64) -> Bytes {
        let (name, data) = match place {
            Place::Sold(Endpoint::Messages) => ("event: error\n", self.body_at(place, request)),
            Place::Sold(Endpoint::Responses) => ("event: error\n", self.event_of_response(events)),
            _ => ("", self.body_at(place, request)),
        };
        format!("\n\n{name}data: {data}\n\n").into()
    }

    fn event_of_response(&self, events: u64) -> Value {
        let (_, _, code) = self.class();
        json!({
            "type": "error", "code": code, "message": self.short_message(), "param": self.param(),
            "sequence_number": events,
        })
    }

    /// The whole answer, in the dialect of the place that was asked.
    ///
    /// # Errors
    /// When a header cannot be made: a bug.
    pub fn answer_at(&self, place: Place, request: RequestId) -> pingora::Result<(ResponseHeader, Bytes)> {
        self.with_body(&self.body_at(place, request))
    }

    fn body_at(&self, place: Place, request: RequestId) -> Value {
        match place {
            Place::Sold(Endpoint::Messages) => json!({
                "type": "error",
                "error": { "type": anthropic::kind(self.class().0), "message": self.short_message() },
                "request_id": request,
            }),
            _ => self.body(),
        }
    }

    fn body(&self) -> Value {
        let (_, kind, code) = self.class();
        json!({
            "error": { "message": self.short_message(), "type": kind, "param": self.param(), "code": code }
        })
    }

    /// The whole answer, as OpenAI writes it.
    ///
    /// # Errors
    /// When a header cannot be made: a bug.
    pub fn answer(&self) -> pingora::Result<(ResponseHeader, Bytes)> {
        self.with_body(&self.body())
    }

    fn with_body(&self, body: &Value) -> pingora::Result<(ResponseHeader, Bytes)> {
        let status = self.class().0;
        let (mut header, body) = json_answer(status, body)?;
        let again = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || matches!(self, Refusal::Marked(Marked::Running(_)));
        if again {
            header.insert_header(header::RETRY_AFTER, self.retry_after_s())?;
        }
        // Clients of OpenAI's make obeys this over their own rules. Nobody waits for a new day.
        let soon = again && !matches!(self, Refusal::OverBudget { .. } | Refusal::CreditEnded(_));
        header.insert_header("x-should-retry", if soon { "true" } else { "false" })?;
        if let Refusal::Marked(Marked::Running(first) | Marked::Charged(first) | Marked::Other(first)) = self
        {
            header.insert_header("x-tollgate-first-request", first.to_string())?;
        }
        if let Refusal::WrongMethod { takes, .. } = self {
            header.insert_header(header::ALLOW, *takes)?;
        }
        Ok((header, body))
    }
}

impl Refusal {
    /// The answer as HTTP/1.1, after which the connection is closed: for clients whose request Pingora
    /// does not hand to us.
    pub fn wire(&self) -> Bytes {
        let Ok((header, body)) = self.answer() else { return Bytes::new() };
        let mut text = format!("HTTP/1.1 {}\r\n", header.status).into_bytes();
        for (name, value) in &header.headers {
            text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend_from_slice(b"connection: close\r\n\r\n");
        text.extend_from_slice(&body);
        text.into()
    }
}

/// As OpenAI calls the limits of an organization and of a project. What begins anew comes back.
fn spent(spare: &Spare) -> (StatusCode, &'static str) {
    let status = match spare.until {
        Some(_) => StatusCode::TOO_MANY_REQUESTS,
        None => StatusCode::PAYMENT_REQUIRED,
    };
    let code = match spare.of {
        Spender::Key => "project_spend_limit_exceeded",
        Spender::Customer => "organization_spend_limit_exceeded",
    };
    (status, code)
}

/// An answer of JSON.
///
/// # Errors
/// When a header cannot be made: a bug.
pub fn json_answer(status: StatusCode, body: &serde_json::Value) -> pingora::Result<(ResponseHeader, Bytes)> {
    let body = Bytes::from(body.to_string());
    let mut header = ResponseHeader::build(status, Some(8))?;
    header.insert_header(header::CONTENT_TYPE, "application/json")?;
    header.insert_header(header::CONTENT_LENGTH, body.len())?;
    Ok((header, body))
}
