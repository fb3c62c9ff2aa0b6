//! The provider's errors, as the real one words them.
//!
//! Some of them tell about the account they were made with: the 429 names its organization, the
//! 401 shows part of its key. That is on purpose: a gateway must not pass it on.

use serde_json::json;
use std::borrow::Cow;

/// An answer that is an error object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    kind: &'static str,
    code: Option<Cow<'static, str>>,
    param: Option<&'static str>,
    message: String,
    /// Seconds, as the header of that name.
    pub retry_after: Option<u64>,
}

const INVALID: &str = "invalid_request_error";

impl Refusal {
    pub fn no_key() -> Self {
        Self::new(
            401,
            INVALID,
            "You didn't provide an API key. \
             You need to provide your API key in an Authorization header \
             using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    }

    pub fn wrong_key(credential: &str) -> Self {
        let message = format!(
            "Incorrect API key provided: {}. \
             You can find your API key at https://platform.openai.com/account/api-keys.",
            masked(credential)
        );
        Self::new(401, INVALID, message).code("invalid_api_key")
    }

    pub fn not_json() -> Self {
        Self::new(
            400,
            INVALID,
            "We could not parse the JSON body of your request. \
             The OpenAI API expects a JSON payload, but what was sent was not valid JSON.",
        )
    }

    pub fn wrong_type(line: usize, column: usize) -> Self {
        let message = format!("Invalid type for a parameter, at line {line} column {column}.");
        Self::new(400, INVALID, message).code("invalid_type")
    }

    pub fn missing(param: &'static str) -> Self {
        let refusal = Self::new(400, INVALID, format!("Missing required parameter: '{param}'."));
        refusal.param(param).code("missing_required_parameter")
    }

    pub fn empty_messages() -> Self {
        let message = "Invalid 'messages': empty array. \
             Expected an array with minimum length 1, but got an empty array instead.";
        Self::new(400, INVALID, message).param("messages").code("empty_array")
    }

    pub fn stray_stream_options() -> Self {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        Self::new(400, INVALID, message).param("stream_options")
    }

    pub fn too_many(param: &'static str) -> Self {
        let message = format!("Invalid '{param}': asks for more than is served.");
        Self::new(400, INVALID, message).param(param).code("integer_above_max_value")
    }

    pub fn unknown_directive(key: &str, value: &str) -> Self {
        let message = format!("The simulation does not know {key:?} with the value {value:?}.");
        Self::new(400, INVALID, message).param("metadata")
    }

    pub fn no_model(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self::new(404, INVALID, message).code("model_not_found")
    }

    pub fn no_response(id: &str) -> Self {
        Self::new(404, INVALID, format!("Response with id '{id}' not found."))
    }

    pub fn no_file(id: &str) -> Self {
        Self::new(404, INVALID, format!("No such File object: {id}")).param("id")
    }

    pub fn no_batch(id: &str) -> Self {
        Self::new(404, INVALID, format!("No batch found with id '{id}'."))
    }

    pub fn no_previous(id: &str) -> Self {
        let refusal = Self::new(400, INVALID, format!("Previous response with id '{id}' not found."));
        refusal.param("previous_response_id").code("previous_response_not_found")
    }

    pub fn not_cancelled() -> Self {
        Self::new(400, INVALID, "Cannot cancel a synchronous response.")
    }

    pub fn no_url(method: &str, path: &str) -> Self {
        Self::new(404, INVALID, format!("Invalid URL ({method} {path})"))
    }

    pub fn wrong_method(method: &str, path: &str) -> Self {
        let hint = "(HINT: Perhaps you meant to use a different HTTP method?)";
        Self::new(405, INVALID, format!("Not allowed to {method} on {path}. {hint}"))
    }

    pub fn rate_limited(model: &str, limit: u32, seconds: u64) -> Self {
        let mut refusal = Self::new(
            429,
            "requests",
            format!(
                "Rate limit reached for {model} in organization org-SECRETORG on requests per min (RPM): \
             Limit {limit}, Used {limit}, Requested 1. Please try again in {seconds}s. \
             Visit https://platform.openai.com/account/rate-limits to learn more."
            ),
        )
        .code("rate_limit_exceeded");
        refusal.retry_after = Some(seconds);
        refusal
    }

    pub fn server_error() -> Self {
        Self::new(
            500,
            "server_error",
            "The server had an error while processing your request. Sorry about that!",
        )
    }

    /// The provider's usual error of this status.
    pub fn of_status(status: u16, model: &str, credential: &str) -> Self {
        match status {
            401 => Self::wrong_key(credential),
            403 => Self::new(403, "request_forbidden", "Country, region, or territory not supported")
                .code("unsupported_country_region_territory"),
            404 => Self::no_model(model),
            429 => Refusal { retry_after: None, ..Self::rate_limited(model, 500, 1) },
            503 => Self::new(
                503,
                "service_unavailable_error",
                "The model is currently overloaded with other requests. Please try again later.",
            )
            .code("server_is_overloaded"),
            500.. => Refusal { status, ..Self::server_error() },
            _ => Self::new(status, INVALID, "The request was refused as simulated."),
        }
    }

    /// With another code; the codes of an account that cannot pay change the type as well.
    pub fn with_code(mut self, code: String) -> Self {
        let billing = ["insufficient_quota", "credit_balance_exhausted"];
        if billing.contains(&code.as_str())
            || code.ends_with("_limit_exceeded") && code != "rate_limit_exceeded"
        {
            self.kind = "insufficient_quota";
            self.message =
                "You exceeded your current quota, please check your plan and billing details.".to_owned();
        }
        self.code = Some(Cow::Owned(code));
        self
    }

    /// The body of the answer.
    pub fn body(&self) -> String {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
            .to_string()
    }

    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, kind, code: None, param: None, message: message.into(), retry_after: None }
    }

    fn code(self, code: &'static str) -> Self {
        Refusal { code: Some(Cow::Borrowed(code)), ..self }
    }

    fn param(self, param: &'static str) -> Self {
        Refusal { param: Some(param), ..self }
    }
}

/// The last four characters of a credential.
pub(super) fn last4(credential: &str) -> &str {
    let start = credential.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
    &credential[start..]
}

fn masked(credential: &str) -> String {
    let start: String = credential.chars().take(5).collect();
    format!("{start}{}{}", "*".repeat(12), last4(credential))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(refusal: &Refusal, status: u16, kind: &str, code: Option<&str>) {
        let body: serde_json::Value = serde_json::from_str(&refusal.body()).unwrap();
        let error = body["error"].as_object().unwrap();
        assert_eq!(error.len(), 4, "message, type, param and code: {body}");
        let got = (refusal.status, error["type"].as_str().unwrap(), error["code"].as_str());
        assert_eq!(got, (status, kind, code), "{body}");
    }

    #[test]
    fn errors_of_a_status_have_its_usual_code() {
        let of = |status| Refusal::of_status(status, "gpt-4o", "sk-test-abcd");
        check(&of(400), 400, INVALID, None);
        check(&of(401), 401, INVALID, Some("invalid_api_key"));
        check(&of(403), 403, "request_forbidden", Some("unsupported_country_region_territory"));
        check(&of(404), 404, INVALID, Some("model_not_found"));
        check(&of(429), 429, "requests", Some("rate_limit_exceeded"));
        check(&of(500), 500, "server_error", None);
        check(&of(502), 502, "server_error", None);
        check(&of(503), 503, "service_unavailable_error", Some("server_is_overloaded"));
    }

    #[test]
    fn a_billing_code_is_of_its_own_type() {
        let of = |code: &str| Refusal::of_status(429, "gpt-4o", "").with_code(code.to_owned());
        check(&of("insufficient_quota"), 429, "insufficient_quota", Some("insufficient_quota"));
        check(
            &of("project_spend_limit_exceeded"),
            429,
            "insufficient_quota",
            Some("project_spend_limit_exceeded"),
        );
        check(&of("rate_limit_exceeded"), 429, "requests", Some("rate_limit_exceeded"));
    }

    #[test]
    fn errors_tell_about_the_account_as_the_real_ones_do() {
        assert!(Refusal::rate_limited("gpt-4o", 3, 20).body().contains("org-SECRETORG"));
        assert!(Refusal::wrong_key("sk-test-abcd").body().contains("sk-te************abcd"));
        assert_eq!((last4("abc"), last4("sk-é€ab"), last4("")), ("abc", "é€ab", ""));
    }
}
