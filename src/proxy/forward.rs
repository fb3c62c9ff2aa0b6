//! What goes to a provider and what comes back: only what is listed here passes.

use super::cors::Page;
use super::request::{Comes, Request};
use super::signature::{id_value, sign};
use crate::clock::Timestamp;
use crate::config::{Dialect, Scheme};
use crate::id::RequestId;
use crate::meter::Decoder;
use crate::upstream::Account;
use crate::upstream::health::Fault;
use crate::upstream::spoken::{ANTHROPIC_VERSION, ANTHROPIC_VERSION_DEFAULT, credential_header};
use crate::upstream::told::Report;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use pingora::upstreams::peer::{ALPN, HttpPeer};
use pingora::{ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::net::SocketAddr;
use std::time::Duration;

/// Kept-alive connections to a provider are closed after this: providers close theirs in minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// Requests at once on one connection of HTTP/2, if the provider lets them: as many as most do. What
/// breaks a connection breaks them all.
const H2_STREAMS_MAX: usize = 100;
/// A client's headers that mean something to the provider.
const REQUEST_HEADERS: [HeaderName; 2] = [header::CONTENT_TYPE, header::ACCEPT];
/// A provider's headers that mean something to the client.
const RESPONSE_HEADERS: [HeaderName; 2] = [header::CONTENT_TYPE, header::CACHE_CONTROL];
/// The same, OpenAI's own.
const RESPONSE_NAMES: [HeaderName; 2] =
    [HeaderName::from_static("openai-processing-ms"), HeaderName::from_static("openai-version")];
/// Room for all headers of a message.
const HEADERS_MAX: usize = 12;
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION")));

/// Where to connect.
pub fn peer(account: &Account, address: SocketAddr) -> HttpPeer {
    let tls = match account.base_url.scheme {
        Scheme::Https => true,
        Scheme::Http => false,
    };
    let mut peer = HttpPeer::new(address, tls, account.base_url.host.clone());
    let trust = account.addresses().trust();
    peer.group_key = trust.group;
    let options = &mut peer.options;
    if tls {
        options.ca.clone_from(&trust.authorities);
        options.alpn = ALPN::H2H1;
        options.max_h2_streams = H2_STREAMS_MAX;
    }
    options.connection_timeout = Some(account.timeouts.connect);
    options.total_connection_timeout = Some(account.timeouts.connect);
    options.read_timeout = Some(account.timeouts.silence);
    options.write_timeout = Some(account.timeouts.silence);
    options.idle_timeout = Some(IDLE_TIMEOUT);
    peer
}

/// The header of the request to the provider.
///
/// # Errors
/// When a header cannot be made: a bug.
pub fn request(
    client: &RequestHeader,
    account: &Account,
    path: &str,
    request: RequestId,
    body_bytes: usize,
) -> Result<RequestHeader> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = client.method.clone();
    parts.uri = path.parse().or_err(ErrorType::InvalidHTTPHeader, "the path of an account")?;
    // As the connection speaks that was chosen for it.
    parts.version = match client.version {
        Version::HTTP_2 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let mut headers = HeaderMap::with_capacity(HEADERS_MAX);
    headers.insert(header::HOST, account.authority.clone());
    headers.insert(credential_header(account.dialect), account.authorization.clone());
    match account.dialect {
        Dialect::OpenAi | Dialect::Azure => {}
        Dialect::Anthropic => {
            let version = client.headers.get(ANTHROPIC_VERSION).cloned().unwrap_or(ANTHROPIC_VERSION_DEFAULT);
            headers.insert(ANTHROPIC_VERSION, version);
        }
    }
    for name in REQUEST_HEADERS {
        if let Some(value) = client.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(CLIENT_REQUEST_ID, id_value(request)?);
    headers.insert(header::CONTENT_LENGTH, body_bytes.into());
    parts.headers = headers;
    Ok(parts.into())
}

/// What a provider's status means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A plain answer.
    Plain,
    /// A streamed answer.
    Stream,
    /// Audio.
    Audio,
    /// The request is at fault: its sender is told.
    Refusal,
    /// The account is at fault: another is tried.
    Fault(Fault),
    /// One request too many, or an account that cannot pay: its body says which.
    Judge,
}

/// What a provider's 429 means, by its body.
pub fn judge_429(body: &[u8], wait: Option<Duration>) -> Fault {
    let error = serde_json::from_slice::<Told>(body).map(|told| told.error).unwrap_or_default();
    let (kind, code) = (error.kind.unwrap_or_default(), error.code.unwrap_or_default());
    let limit = code.ends_with("_spend_limit_exceeded") || code.ends_with("_usage_limit_exceeded");
    let credit = code == "credit_balance_exhausted" || code == "insufficient_quota";
    if limit || credit || kind == "insufficient_quota" { Fault::Quota } else { Fault::RateLimited(wait) }
}

#[derive(serde::Deserialize)]
struct Told {
    error: ErrorTold,
}

#[derive(Default, serde::Deserialize)]
struct ErrorTold {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// What an answer tells of its account's limits.
pub fn report(response: &ResponseHeader) -> Report {
    let header = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Report::read(header, Timestamp::now())
}

/// Judges the header of an answer to a request.
pub fn judge_for(request: &Request, response: &ResponseHeader) -> Verdict {
    match judge(response, request.comes) {
        // It may be what it goes on from that is not there.
        Verdict::Fault(Fault::Model) if request.kept.previous.is_some() => Verdict::Refusal,
        verdict => verdict,
    }
}

/// Judges the header of an answer that comes so.
pub fn judge(response: &ResponseHeader, comes: Comes) -> Verdict {
    match response.status {
        StatusCode::OK if comes == Comes::Events && is_of(response, "text/event-stream") => Verdict::Stream,
        StatusCode::OK if comes == Comes::Audio && AUDIO.into_iter().any(|kind| is_of(response, kind)) => {
            Verdict::Audio
        }
        StatusCode::OK => Verdict::Plain,
        StatusCode::TOO_MANY_REQUESTS => Verdict::Judge,
        StatusCode::UNAUTHORIZED | StatusCode::PAYMENT_REQUIRED => Verdict::Fault(Fault::Credential),
        StatusCode::FORBIDDEN => Verdict::Fault(Fault::Forbidden),
        StatusCode::NOT_FOUND => Verdict::Fault(Fault::Model),
        StatusCode::REQUEST_TIMEOUT => Verdict::Fault(Fault::Server),
        status if status.is_client_error() => Verdict::Refusal,
        status if status.is_server_error() => Verdict::Fault(Fault::Server),
        _ => Verdict::Fault(Fault::Broken),
    }
}

/// What undoes the answer's compression, which was not asked for.
///
/// # Errors
/// When it cannot be undone: the meter would be blind.
pub fn decoder(response: &ResponseHeader) -> std::result::Result<Option<Decoder>, Fault> {
    let Some(encoding) = response.headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
    let encoding = encoding.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    if encoding.is_empty() || encoding == "identity" {
        return Ok(None);
    }
    Decoder::for_encoding(&encoding).map(Some).ok_or(Fault::Broken)
}

/// Turns the header of the provider's answer into the client's.
///
/// # Errors
/// When a header cannot be made: a bug.
pub fn response(response: &mut ResponseHeader, request: RequestId, page: &Page) -> Result<()> {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = response.status;
    parts.version = response.version;
    parts.headers.reserve(HEADERS_MAX);
    for name in RESPONSE_HEADERS.into_iter().chain(RESPONSE_NAMES) {
        if let Some(value) = response.headers.get(&name) {
            parts.headers.insert(name, value.clone());
        }
    }
    sign(&mut parts.headers, request, page)?;
    *response = parts.into();
    Ok(())
}

/// Beginnings of what audio is said to be.
const AUDIO: [&str; 2] = ["audio/", "application/octet-stream"];

fn is_of(response: &ResponseHeader, beginning: &str) -> bool {
    let kind = response.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..beginning.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(beginning.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, headers: &[(&'static str, &'static str)], comes: Comes, expect: Verdict) {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in headers {
            response.insert_header(*name, *value).unwrap();
        }
        assert_eq!(judge(&response, comes), expect, "{status} {headers:?}");
    }

    #[test]
    fn a_status_is_the_callers_fault_or_the_accounts() {
        let events = &[("content-type", "Text/Event-Stream; charset=utf-8")];
        check(200, events, Comes::Events, Verdict::Stream);
        check(200, events, Comes::Json, Verdict::Plain);
        check(200, &[("content-type", "application/json")], Comes::Events, Verdict::Plain);
        check(200, &[("content-type", "audio/mpeg")], Comes::Audio, Verdict::Audio);
        check(200, &[("content-type", "audio/mpeg")], Comes::Json, Verdict::Plain);
        check(200, &[("content-type", "application/json")], Comes::Audio, Verdict::Plain);
        for status in [400, 409, 413, 415, 422] {
            check(status, &[], Comes::Json, Verdict::Refusal);
        }
        for status in [401, 402] {
            check(status, &[], Comes::Json, Verdict::Fault(Fault::Credential));
        }
        check(403, &[], Comes::Json, Verdict::Fault(Fault::Forbidden));
        check(404, &[], Comes::Json, Verdict::Fault(Fault::Model));
        for status in [408, 500, 502, 503, 529] {
            check(status, &[], Comes::Events, Verdict::Fault(Fault::Server));
        }
        for status in [204, 206, 301, 304] {
            check(status, &[], Comes::Events, Verdict::Fault(Fault::Broken));
        }
    }

    #[test]
    fn a_429_is_a_limit_or_an_empty_account() {
        check(429, &[], Comes::Json, Verdict::Judge);
        let wait = Some(Duration::from_secs(7));
        let judged = |body: &str| judge_429(body.as_bytes(), wait);
        for (kind, code) in [
            ("insufficient_quota", "null"),
            ("insufficient_quota", r#""insufficient_quota""#),
            ("x", r#""credit_balance_exhausted""#),
            ("x", r#""project_spend_limit_exceeded""#),
            ("x", r#""organization_usage_limit_exceeded""#),
        ] {
            let body = format!(r#"{{"error":{{"message":"","type":"{kind}","param":null,"code":{code}}}}}"#);
            assert_eq!(judged(&body), Fault::Quota, "{body}");
        }
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#,
            r#"{"error":{"code":7}}"#,
            r#"{"error":"insufficient_quota"}"#,
        ] {
            assert_eq!(judged(body), Fault::RateLimited(wait), "{body}");
        }
    }

    #[test]
    fn nothing_of_the_provider_passes_that_is_not_listed() {
        let mut from_provider = ResponseHeader::build(200, None).unwrap();
        for name in [
            "content-type",
            "openai-organization",
            "set-cookie",
            "x-request-id",
            "x-ratelimit-limit-requests",
            "server",
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "vary",
        ] {
            from_provider.insert_header(name, "theirs").unwrap();
        }
        response(&mut from_provider, RequestId::from_int(1), &Page::default()).unwrap();
        let names: Vec<&str> = from_provider.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-request-id"]);
        assert_ne!(from_provider.headers["x-request-id"], "theirs");
    }
}
