//! `POST /v1/messages`, as Anthropic speaks it: messages in, one answer of content blocks out.

use super::fields::{Fields, Map, bad, each, is_given, not_sold, optional, typed, whole, wrong_type};
use super::tools::{self, Searches};
use super::{Asked, BadRequest, OUTPUT_TOKENS_MAX, Streaming, is_streamed, tier};
use crate::admit::Demand;
use memchr::memmem;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Fields that decide about the charge, or about what is kept.
const METERED: [&str; 13] = [
    "model",
    "messages",
    "system",
    "max_tokens",
    "stream",
    "service_tier",
    "tools",
    "thinking",
    "mcp_servers",
    "container",
    "context_management",
    "inference_geo",
    "speed",
];
/// Fields that have a price of their own, or run something at the provider.
const EXTRA: [&str; 5] = ["mcp_servers", "container", "context_management", "inference_geo", "speed"];
/// Beginnings of the types of tools that the client runs itself.
const TOOLS: [&str; 5] = ["custom", "bash_", "text_editor_", "computer_", "memory_"];

/// Reads the fields of a request.
pub(super) fn read(fields: &Fields<'_>) -> Result<Asked, BadRequest> {
    fields.check(&METERED)?;
    let model: Cow<'_, str> = typed("model", fields.required("model")?, "a string")?;
    let messages = fields.required("messages")?;
    if !messages.get().starts_with('[') {
        return Err(wrong_type("messages", "an array"));
    }
    if let Some(extra) = EXTRA.into_iter().find(|name| is_given(fields.get(name))) {
        return Err(not_sold(extra, "this is"));
    }
    let Searches { most: searches, edits: search_edits } = tools::of_message(fields, &TOOLS)?;
    let demand = Demand {
        model: model.into(),
        input_bytes: fields.bytes(),
        images: count_images(messages)?,
        searches,
        cached_for: fields.cached_for(),
        tier: tier(fields)?,
        output_tokens_max: whole("max_tokens", fields.get("max_tokens"), OUTPUT_TOKENS_MAX)?,
        choices: 1,
        ..Demand::default()
    };
    // The usage of a stream comes unasked.
    let stream = if is_streamed(fields)? { Streaming::Events(None) } else { Streaming::Plain };
    Ok(Asked { search_edits, ..Asked::of(demand, stream) })
}

/// Images that messages give or refer to. Documents are refused: those that are fetched have no bound.
fn count_images(messages: &RawValue) -> Result<u64, BadRequest> {
    const EXPECTED: &str = "an array of messages with content blocks";
    let text = messages.get().as_bytes();
    if MARKS.iter().all(|mark| memmem::find(text, mark).is_none()) {
        return Ok(0);
    }
    let mut images = 0;
    each("messages", messages, EXPECTED, |message| {
        let message: Map<'_> = typed("messages", message, EXPECTED)?;
        images += message.get("content").map_or(Ok(0), count_blocks)?;
        Ok(())
    })?;
    Ok(images)
}

/// Blocks of a message; the result of a tool has blocks of its own.
fn count_blocks(content: &RawValue) -> Result<u64, BadRequest> {
    if !content.get().starts_with('[') {
        return Ok(0);
    }
    const EXPECTED: &str = "an array of messages with content blocks";
    let mut images = 0;
    each("messages", content, EXPECTED, |block| {
        let block: Map<'_> = typed("messages", block, EXPECTED)?;
        let kind: Option<Cow<'_, str>> = optional("messages", block.get("type"), "blocks with types")?;
        match kind.as_deref() {
            Some("document" | "container_upload") => {
                return Err(bad("messages", "documents are not sold by this gateway: leave them out"));
            }
            Some("image") => images += 1,
            _ => {}
        }
        images += block.get("content").map_or(Ok(0), count_blocks)?;
        Ok(())
    })?;
    Ok(images)
}

/// Without any of these there is only text; an escape may hide one.
const MARKS: [&[u8]; 4] = [b"\"image\"", b"\"document\"", b"\"container_upload\"", b"\\u00"];

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::meter::UsageChunk;
    use bytes::Bytes;

    fn read(fields: &str) -> Result<Request, BadRequest> {
        let text = format!(r#"{{"model":"m","max_tokens":9,{fields}}}"#);
        Request::read(Endpoint::Messages, "application/json", &Bytes::from(text))
    }

    #[test]
    fn a_message_is_bounded_by_its_cap() {
        let request = read(r#""messages":[{"role":"user","content":"image"}],"stream":true"#).unwrap();
        assert_eq!((request.demand.output_tokens_max, request.demand.images), (Some(9), 0));
        assert_eq!(request.stream, Some(UsageChunk::Show));
        let nested = r#""messages":[{"content":[{"type":"image","source":{}},
            {"type":"tool_result","content":[{"type":"image","source":{}}]}]}]"#;
        assert_eq!(read(nested).unwrap().demand.images, 2);
        assert!(read(r#""messages":[],"tools":[{"name":"f"},{"type":"bash_20250124"}]"#).is_ok());
    }

    #[test]
    fn what_costs_extra_is_refused() {
        for (fields, param) in [
            (r#""messages":"a""#, "messages"),
            (r#""messages":[{"content":[{"type":"document","source":{}}]}]"#, "messages"),
            (r#""messages":[],"tools":[{"type":"web_search_20250305","max_uses":101}]"#, "tools"),
            (r#""messages":[],"tools":[{"type":"web_search_20260209"}]"#, "tools"),
            (r#""messages":[],"tools":[{"type":"web_fetch_20250910","name":"web_fetch"}]"#, "tools"),
            (r#""messages":[],"tools":[{"type":"code_execution_20250825"}]"#, "tools"),
            (r#""messages":[],"mcp_servers":[]"#, "mcp_servers"),
            (r#""messages":[],"speed":"fast""#, "speed"),
            (r#""messages":[],"service_tier":"ultra""#, "service_tier"),
        ] {
            assert_eq!(read(fields).expect_err(fields).param, Some(param), "{fields}");
        }
    }
}
