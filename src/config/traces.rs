//! The settings of traces.

use super::Traces;
use super::base_url::{BaseUrl, Scheme};
use super::reader::{Required, Section};
use std::sync::Arc;

/// What the spans are of, unless told otherwise.
const SERVICE_NAME: &str = "tollgate";
/// Longer names are none.
const SERVICE_NAME_BYTES_MAX: usize = 100;
/// Fewer than one in a million requests are none.
const SAMPLE_ONE_IN_MAX: u64 = 1_000_000;
/// A bound of more is none.
const ASKED_MAX: u64 = 1_000_000;

/// Reads the section `traces`.
pub(super) fn read(mut section: Section<'_>) -> Option<Traces> {
    let url = section.required(Required { key: "otlp_url", example: "\"http://127.0.0.1:4318\"" });
    let otlp_url = url.and_then(|node| node.parsed(collector));
    let sample_one_in = section.number("sample_one_in", 0..=SAMPLE_ONE_IN_MAX, 100);
    let asked_per_minute = section.number("asked_per_minute", 0..=ASKED_MAX, 600);
    let service_name = match section.get("service_name") {
        Some(node) => node.parsed(service_name),
        None => Some(SERVICE_NAME.into()),
    };
    section.finish();
    Some(Traces { otlp_url: otlp_url?, sample_one_in, asked_per_minute, service_name: service_name? })
}

fn collector(text: &str) -> Result<BaseUrl, &'static str> {
    let url = BaseUrl::parse(text)?;
    match url.scheme {
        Scheme::Http => Ok(url),
        Scheme::Https => Err(
            "must start with http://: name a collector on this machine or your network, which passes spans on over TLS",
        ),
    }
}

fn service_name(text: &str) -> Result<Arc<str>, &'static str> {
    let fits = (1..=SERVICE_NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text.into()) } else { Err("must be 1 to 100 bytes without control characters") }
}
