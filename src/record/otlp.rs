//! Spans as OTLP has them in JSON, named by OpenTelemetry's conventions: a request is a span of an HTTP
//! server, each of its attempts one of a client of generative AI.
//! <https://opentelemetry.io/docs/specs/otlp/>, <https://opentelemetry.io/docs/specs/semconv/gen-ai/>

use super::spans::{Attempt, Traced};
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use crate::usage::{Class, Usage};
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;

/// The kind of a span of who is asked.
const SERVER: u8 = 2;
/// The kind of a span of who asks.
const CLIENT: u8 = 3;
/// The status of a span that failed.
const ERROR: u8 = 2;
/// How an attempt ended that was answered.
const ANSWERED: &str = "ok";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: Vec<Attribute<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Span<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Value<'a> {
    StringValue(Cow<'a, str>),
    /// As text: numbers of JSON are not wide enough.
    IntValue(String),
}

/// The body of a request to a collector.
pub fn document(batch: &[Traced], service: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let attributes = vec![text("service.name", service), text("service.version", version)];
    let spans = batch.iter().flat_map(spans).collect();
    let scope_spans = [ScopeSpans { scope: Scope { name: "tollgate", version }, spans }];
    let document =
        Document { resource_spans: [ResourceSpans { resource: Resource { attributes }, scope_spans }] };
    serde_json::to_vec(&document).expect("spans are plain JSON")
}

/// The request, and each of its attempts below it.
fn spans(traced: &Traced) -> impl Iterator<Item = Span<'_>> {
    let last = traced.attempts.len();
    let attempts = traced.attempts.iter().zip(1..).map(move |(attempt, number)| {
        // What was used is of the last one: those that failed cost nobody anything.
        attempt_span(traced, attempt, traced.usage.as_ref().filter(|_| number == last))
    });
    std::iter::once(request_span(traced)).chain(attempts)
}

fn request_span(traced: &Traced) -> Span<'_> {
    let Traced { endpoint, status, customer, reason, .. } = traced;
    let route = format!("/v1{}", endpoint.path());
    let failed = *status >= 500 || *status == 0;
    let mut attributes = vec![
        text("http.request.method", "POST"),
        text("http.route", route.clone()),
        int("http.response.status_code", u64::from(*status)),
        text("tollgate.request_id", traced.request.to_string()),
    ];
    attributes.extend(customer.map(|customer| text("tollgate.customer", customer.to_string())));
    attributes.extend(reason.as_deref().map(|reason| text("tollgate.reason", reason)));
    if failed {
        attributes.push(text("error.type", status.to_string()));
    }
    Span {
        trace_id: trace_id(traced),
        span_id: span_id(traced.span),
        parent_span_id: traced.parent.map(span_id),
        name: format!("POST {route}"),
        kind: SERVER,
        start_time_unix_nano: nanos(traced.began, Duration::ZERO),
        end_time_unix_nano: nanos(traced.began, traced.duration),
        attributes,
        status: failed.then_some(Status { code: ERROR }),
    }
}

fn attempt_span<'a>(traced: &'a Traced, attempt: &'a Attempt, usage: Option<&Usage>) -> Span<'a> {
    let operation = operation(traced.endpoint);
    let failed = attempt.outcome != ANSWERED;
    let mut attributes = vec![
        text("gen_ai.operation.name", operation),
        text("gen_ai.provider.name", attempt.provider),
        text("gen_ai.request.model", &*traced.model),
        text("server.address", &*attempt.host),
        int("server.port", u64::from(attempt.port)),
        text("tollgate.upstream", &*attempt.upstream),
    ];
    if let Some((input, output)) = usage.map(tokens) {
        attributes.push(int("gen_ai.usage.input_tokens", input));
        attributes.push(int("gen_ai.usage.output_tokens", output));
    }
    if failed {
        attributes.push(text("error.type", attempt.outcome));
    }
    Span {
        trace_id: trace_id(traced),
        span_id: span_id(attempt.span),
        parent_span_id: Some(span_id(traced.span)),
        name: format!("{operation} {}", traced.model),
        kind: CLIENT,
        start_time_unix_nano: nanos(traced.began, attempt.begins),
        end_time_unix_nano: nanos(traced.began, attempt.ends),
        attributes,
        status: failed.then_some(Status { code: ERROR }),
    }
}

/// What the conventions call it; where they have no word, ours.
const fn operation(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat | Endpoint::Responses | Endpoint::Messages => "chat",
        Endpoint::Completions => "text_completion",
        Endpoint::Embeddings => "embeddings",
        Endpoint::Moderations
        | Endpoint::ImageGenerations
        | Endpoint::ImageEdits
        | Endpoint::Speech
        | Endpoint::Transcriptions
        | Endpoint::Translations => endpoint.name(),
    }
}

/// Tokens of input and of output, those of caches and of reasoning with them.
fn tokens(usage: &Usage) -> (u64, u64) {
    let (mut input, mut output) = (0_u64, 0_u64);
    for class in Class::ALL {
        let of = match class {
            Class::Input
            | Class::CachedInput
            | Class::CacheWrite
            | Class::CacheWrite1h
            | Class::CacheWrite12h
            | Class::AudioInput
            | Class::ImageInput => &mut input,
            Class::Output | Class::Reasoning | Class::AudioOutput | Class::ImageOutput => &mut output,
            Class::Images | Class::Seconds | Class::Characters | Class::WebSearches => continue,
        };
        *of = of.saturating_add(usage.of(class));
    }
    (input, output)
}

fn text<'a>(key: &'static str, value: impl Into<Cow<'a, str>>) -> Attribute<'a> {
    Attribute { key, value: Value::StringValue(value.into()) }
}

fn int(key: &'static str, value: u64) -> Attribute<'static> {
    Attribute { key, value: Value::IntValue(value.to_string()) }
}

fn trace_id(traced: &Traced) -> String {
    format!("{:032x}", traced.trace)
}

fn span_id(id: u64) -> String {
    format!("{id:016x}")
}

fn nanos(began: Timestamp, after: Duration) -> String {
    let began = u128::try_from(began.micros()).unwrap_or_default() * 1_000;
    (began + after.as_nanos()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{CustomerId, RequestId};
    use serde_json::json;

    fn traced() -> Traced {
        let attempt = |span, upstream: &str, outcome, begins_ms, ends_ms| Attempt {
            span,
            upstream: upstream.into(),
            provider: "openai",
            host: "api.example".into(),
            port: 443,
            begins: Duration::from_millis(begins_ms),
            ends: Duration::from_millis(ends_ms),
            outcome,
        };
        Traced {
            trace: 0xabc,
            span: 0x10,
            parent: Some(0x9),
            began: Timestamp::from_micros(1_000_000),
            duration: Duration::from_millis(30),
            request: RequestId::from_int(0x10),
            endpoint: Endpoint::Chat,
            status: 200,
            customer: Some(CustomerId::from_int(7)),
            model: "m".into(),
            reason: None,
            usage: Some(Usage { input: 3, cached_input: 4, output: 5, reasoning: 6, ..Usage::default() }),
            attempts: vec![attempt(0x11, "a", "server", 1, 2), attempt(0x12, "b", "ok", 3, 29)],
        }
    }

    fn said(traced: Traced) -> Vec<serde_json::Value> {
        let document: serde_json::Value = serde_json::from_slice(&document(&[traced], "gate")).unwrap();
        let resource = &document["resourceSpans"][0];
        let service = json!({ "key": "service.name", "value": { "stringValue": "gate" } });
        assert_eq!(resource["resource"]["attributes"][0], service);
        resource["scopeSpans"][0]["spans"].as_array().unwrap().clone()
    }

    fn attribute(span: &serde_json::Value, key: &str) -> serde_json::Value {
        let attributes = span["attributes"].as_array().unwrap().iter();
        let mut found = attributes.filter(|attribute| attribute["key"] == key);
        found.next().map_or(serde_json::Value::Null, |attribute| attribute["value"].clone())
    }

    #[test]
    fn a_request_and_its_attempts_are_spans_of_one_trace() {
        let spans = said(traced());
        let ids: Vec<_> = spans.iter().map(|span| (&span["spanId"], &span["parentSpanId"])).collect();
        let [nine, ten] = [json!("0000000000000009"), json!("0000000000000010")];
        let [eleven, twelve] = [json!("0000000000000011"), json!("0000000000000012")];
        assert_eq!(ids, [(&ten, &nine), (&eleven, &ten), (&twelve, &ten)]);
        assert!(spans.iter().all(|span| span["traceId"] == "00000000000000000000000000000abc"));
        let names: Vec<_> = spans.iter().map(|span| (&span["name"], &span["kind"])).collect();
        let client = (&json!("chat m"), &json!(3));
        assert_eq!(names, [(&json!("POST /v1/chat/completions"), &json!(2)), client, client]);
        let [request, failed, answered] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!(request["startTimeUnixNano"], "1000000000");
        assert_eq!(answered["endTimeUnixNano"], "1029000000");
        assert_eq!(attribute(request, "http.response.status_code"), json!({ "intValue": "200" }));
        assert_eq!(attribute(failed, "error.type"), json!({ "stringValue": "server" }));
        assert_eq!((&failed["status"]["code"], &answered["status"]), (&json!(2), &json!(null)));
        assert_eq!(attribute(failed, "gen_ai.usage.input_tokens"), json!(null));
        assert_eq!(attribute(answered, "gen_ai.usage.input_tokens"), json!({ "intValue": "7" }));
        assert_eq!(attribute(answered, "gen_ai.usage.output_tokens"), json!({ "intValue": "11" }));
    }

    #[test]
    fn what_failed_says_so() {
        let mut failed = traced();
        (failed.status, failed.parent, failed.reason) = (503, None, Some("upstream_unavailable".into()));
        failed.attempts.truncate(1);
        failed.usage = None;
        let spans = said(failed);
        assert_eq!((&spans[0]["status"]["code"], &spans[0]["parentSpanId"]), (&json!(2), &json!(null)));
        assert_eq!(attribute(&spans[0], "error.type"), json!({ "stringValue": "503" }));
        assert_eq!(attribute(&spans[0], "tollgate.reason"), json!({ "stringValue": "upstream_unavailable" }));
        assert_eq!(spans.len(), 2);
    }
}
