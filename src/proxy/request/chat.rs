//! `POST /v1/chat/completions`: messages in, `n` answers out.

use super::fields::{Fields, bad, each, is_given, not_sold, typed, whole, wrong_type};
use super::{Asked, BadRequest, CHOICES_MAX, OUTPUT_TOKENS_MAX, streaming, tier, tools};
use crate::admit::Demand;
use memchr::memmem::{self, Finder};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Fields that decide about the charge.
const METERED: [&str; 12] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "service_tier",
    "modalities",
    "audio",
    "web_search_options",
    "tools",
];
/// Tools that the client runs itself. Some servers that speak so have others.
const TOOLS: [&str; 2] = ["function", "custom"];

/// Reads the fields of a request.
pub(super) fn read(fields: &Fields<'_>) -> Result<Asked, BadRequest> {
    fields.check(&METERED)?;
    let model: Cow<'_, str> = typed("model", fields.required("model")?, "a string")?;
    let messages = fields.required("messages")?;
    if !messages.get().starts_with('[') {
        return Err(wrong_type("messages", "an array"));
    }
    refuse_unmetered(fields)?;
    tools::refuse_others(fields, &TOOLS)?;
    let cap = |name| whole(name, fields.get(name), OUTPUT_TOKENS_MAX);
    let caps = [cap("max_completion_tokens")?, cap("max_tokens")?];
    let demand = Demand {
        model: model.into(),
        input_bytes: fields.bytes(),
        images: count_images(messages)?,
        cached_for: fields.cached_for(),
        tier: tier(fields)?,
        // Providers differ in which of two counts.
        output_tokens_max: caps.into_iter().flatten().max(),
        choices: whole("n", fields.get("n"), CHOICES_MAX)?.unwrap_or(1),
        ..Demand::default()
    };
    Ok(Asked::of(demand, streaming(fields)?))
}

/// What would be billed by the provider in a way that is not measured here is refused.
fn refuse_unmetered(fields: &Fields<'_>) -> Result<(), BadRequest> {
    let speaks = |modalities: &RawValue| memmem::find(modalities.get().as_bytes(), b"audio").is_some();
    if fields.get("modalities").is_some_and(speaks) || is_given(fields.get("audio")) {
        return Err(not_sold("audio", "audio output is"));
    }
    if is_given(fields.get("web_search_options")) {
        return Err(bad(
            "web_search_options",
            "web search is sold at /v1/responses: leave it out, or ask there",
        ));
    }
    Ok(())
}

/// Images that messages give or refer to. Parts that are billed in a way that is not measured here
/// are refused.
fn count_images(messages: &RawValue) -> Result<u64, BadRequest> {
    let text = messages.get().as_bytes();
    if PART_MARKS.iter().all(|mark| mark.find(text).is_none()) {
        return Ok(0);
    }
    const EXPECTED: &str = "an array of messages with content parts";
    let mut images = 0;
    each("messages", messages, "an array of messages", |message| {
        let Message { content } = typed("messages", message, "an array of messages")?;
        let Some(content) = content.filter(|content| content.get().starts_with('[')) else { return Ok(()) };
        each("messages", content, EXPECTED, |part| {
            let part: Part<'_> = typed("messages", part, EXPECTED)?;
            let is = |kind: &str| part.kind.as_deref() == Some(kind);
            if part.file.is_some() || part.input_audio.is_some() || is("file") || is("input_audio") {
                return Err(bad("messages", "files and audio are not sold by this gateway: leave them out"));
            }
            images += u64::from(part.image_url.is_some() || is("image_url"));
            Ok(())
        })
    })?;
    Ok(images)
}

/// Without any of these there is only text; an escape may hide one.
static PART_MARKS: LazyLock<[Finder<'static>; 4]> =
    LazyLock::new(|| ["\"image_url\"", "\"file\"", "\"input_audio\"", "\\u00"].map(Finder::new));

#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    image_url: Option<IgnoredAny>,
    file: Option<IgnoredAny>,
    input_audio: Option<IgnoredAny>,
}
