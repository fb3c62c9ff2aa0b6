//! `POST /v1/responses`: items in, one answer of items out.
//!
//! What the provider keeps from one request to the next belongs to an account that customers share:
//! a request may go on from a response of its own customer, and what else refers to it is not sold.
//! Tools that the provider runs have prices of their own; of those, web search is sold.

use super::fields::{Fields, Map, bad, each, is_given, optional, type_not_sold, typed, whole, wrong_type};
use super::tools::{self, Searches};
use super::{Asked, BadRequest, OUTPUT_TOKENS_MAX, Streaming, is_object_id, is_streamed, tier};
use crate::admit::Demand;
use memchr::memmem;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Fields that decide about the charge, or about what is kept.
const METERED: [&str; 14] = [
    "model",
    "input",
    "instructions",
    "stream",
    "max_output_tokens",
    "service_tier",
    "tools",
    tools::CALLS_MAX,
    "background",
    "store",
    "previous_response_id",
    "conversation",
    "prompt",
    "context_management",
];
/// Fields that refer to what the provider keeps, or would have it change it on its own.
const KEPT: [(&str, &str); 3] = [
    ("conversation", "conversations are not kept here: send their items as input"),
    ("prompt", "stored prompts are not sold by this gateway: send instructions and input"),
    ("context_management", "this is not sold by this gateway: leave it out"),
];
/// Tools that the client runs itself, so that they cost their tokens and nothing else.
const TOOLS: [&str; 6] =
    ["function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview"];

/// Reads the fields of a request.
pub(super) fn read(fields: &Fields<'_>) -> Result<Asked, BadRequest> {
    fields.check(&METERED)?;
    let model: Cow<'_, str> = typed("model", fields.required("model")?, "a string")?;
    for (name, message) in KEPT {
        if is_given(fields.get(name)) {
            return Err(bad(name, message));
        }
    }
    let Searches { most: searches, edits: search_edits } = tools::of_response(fields, &TOOLS)?;
    let demand = Demand {
        model: model.into(),
        input_bytes: fields.bytes(),
        images: count_images(fields.required("input")?)?,
        searches,
        cached_for: fields.cached_for(),
        tier: tier(fields)?,
        output_tokens_max: whole("max_output_tokens", fields.get("max_output_tokens"), OUTPUT_TOKENS_MAX)?,
        choices: 1,
        ..Demand::default()
    };
    // The usage of a stream comes unasked.
    let stream = if is_streamed(fields)? { Streaming::Events(None) } else { Streaming::Plain };
    Ok(Asked { search_edits, ..Asked::of(demand, stream) })
}

/// What a request has to do with what its provider keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Whether its answer is kept.
    pub answer: bool,
    /// Whether it is answered before its work is done, and its answer is read later.
    pub run: bool,
    /// The response that it goes on from.
    pub previous: Option<Box<str>>,
}

/// Reads what is to be kept and what is gone on from. Responses are kept unless that is declined.
pub(super) fn kept(fields: &Fields<'_>) -> Result<Kept, BadRequest> {
    const PREVIOUS: &str = "previous_response_id";
    let previous: Option<Cow<'_, str>> = optional(PREVIOUS, fields.get(PREVIOUS), "a string")?;
    if previous.as_ref().is_some_and(|id| !is_object_id(id)) {
        return Err(bad(PREVIOUS, "must be the id of a response"));
    }
    let declined = optional("store", fields.get("store"), "true or false")? == Some(false);
    let run = optional("background", fields.get("background"), "true or false")? == Some(true);
    if run && declined {
        return Err(bad("store", "what runs in the background is kept: leave it out"));
    }
    if run && is_streamed(fields)? {
        return Err(bad("background", "what runs in the background is not streamed here: read it later"));
    }
    Ok(Kept { answer: !declined, run, previous: previous.map(Into::into) })
}

/// Images that items give or refer to. Items and parts that are billed in a way that is not measured
/// here, or that refer to what is kept, are refused.
fn count_images(input: &RawValue) -> Result<u64, BadRequest> {
    const EXPECTED: &str = "a string or an array of items";
    let text = input.get();
    if text.starts_with('"') {
        return Ok(0);
    }
    if !text.starts_with('[') {
        return Err(wrong_type("input", EXPECTED));
    }
    let only_text = PART_MARKS.iter().all(|mark| memmem::find(text.as_bytes(), mark).is_none());
    // Messages have their parts in `content`, the results of tools in `output`.
    let places: &[&str] = if only_text { &[] } else { &["content", "output"] };
    let mut images = 0;
    each("input", input, EXPECTED, |item| {
        let item: Map<'_> = typed("input", item, EXPECTED)?;
        check_item(&item)?;
        for parts in places.iter().filter_map(|name| item.get(name)) {
            if parts.get().starts_with('[') {
                images += count_parts(parts)?;
            } else if parts.get().starts_with('{') {
                images += 1;
            }
        }
        Ok(())
    })?;
    Ok(images)
}

/// Kinds of items that cost their tokens and bring nothing with them but what they show. Others bring tools, or
/// refer to what an account has.
const ITEMS: [&str; 13] = [
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "web_search_call",
    "computer_call",
    "computer_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
];

/// Refuses what refers to an earlier item. An id alone does so, too: the type may be left out.
fn check_item(item: &Map<'_>) -> Result<(), BadRequest> {
    item.check(&["type", "id", "role", "content", "output"])?;
    let kind: Option<Cow<'_, str>> = optional("input", item.get("type"), "an array of items with types")?;
    let refers = match kind.as_deref() {
        Some("item_reference") => true,
        Some(kind) if !ITEMS.contains(&kind) => {
            return Err(type_not_sold("input", "an item", kind));
        }
        Some(_) => false,
        None => item.get("id").is_some() && item.get("role").is_none(),
    };
    if refers {
        return Err(bad("input", "earlier items are not kept here: send them whole"));
    }
    Ok(())
}

fn count_parts(parts: &RawValue) -> Result<u64, BadRequest> {
    const EXPECTED: &str = "an array of items with content parts";
    let mut images = 0;
    each("input", parts, EXPECTED, |part| {
        let part: Part<'_> = typed("input", part, EXPECTED)?;
        let is = |kind: &str| part.kind.as_deref() == Some(kind);
        if part.input_audio.is_some() || ["input_file", "input_audio"].into_iter().any(is) {
            return Err(bad("input", "files and audio are not sold by this gateway: leave them out"));
        }
        images += u64::from(part.image_url.is_some() || is("input_image") || is("computer_screenshot"));
        Ok(())
    })?;
    Ok(images)
}

/// Without any of these there is only text; an escape may hide one.
const PART_MARKS: [&[u8]; 5] = [b"image", b"\"input_file\"", b"\"input_audio\"", b"screenshot", b"\\u00"];

#[derive(serde::Deserialize)]
struct Part<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    image_url: Option<IgnoredAny>,
    input_audio: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::meter::UsageChunk;
    use bytes::Bytes;

    fn read(fields: &str) -> Result<Request, BadRequest> {
        let text = format!(r#"{{"model":"m",{fields}}}"#);
        Request::read(Endpoint::Responses, "application/json", &Bytes::from(text))
    }

    #[test]
    fn a_response_is_bounded_by_its_cap() {
        let request = read(r#""input":"hi","max_output_tokens":7,"stream":true"#).unwrap();
        assert_eq!((request.demand.output_tokens_max, request.demand.choices), (Some(7), 1));
        assert_eq!(request.stream, Some(UsageChunk::Show));
        // Unlike a chat's, its stream reports usage unasked, so that nothing is added.
        assert!(request.body_for("n").starts_with(br#"{"model":"n","input":"hi","#));
        let items = r#""input":[{"role":"user","content":[{"type":"input_image","image_url":"u"},
            {"type":"input_text","text":"input_file"}]},
            {"type":"computer_call_output","output":{"type":"computer_screenshot"}}]"#;
        assert_eq!(read(items).unwrap().demand.images, 2);
        assert!(read(r#""input":"a","tools":[{"type":"function","name":"f"}],"background":false"#).is_ok());
    }

    #[test]
    fn an_answer_is_kept_unless_that_is_declined() {
        let kept = |fields: &str| read(&format!(r#""input":"a"{fields}"#)).unwrap().kept;
        let previous = Some("resp_1".into());
        assert_eq!(kept(""), Kept { answer: true, run: false, previous: None });
        assert!(kept(r#","background":true"#).run);
        assert_eq!(kept(r#","store":null,"previous_response_id":null"#), kept(""));
        assert_eq!(kept(r#","store":false"#), Kept::default());
        assert_eq!(kept(r#","previous_response_id":"resp_1""#), Kept { answer: true, run: false, previous });
        assert!(read(r#""input":"a","Store":false"#).is_err(), "in other letters it might count");
    }

    fn check_refused(fields: &str, param: impl Into<Option<&'static str>>, says: &str) {
        let refused = read(fields).expect_err(fields);
        assert_eq!(refused.param, param.into(), "{fields}: {}", refused.message);
        assert!(refused.message.contains(says), "{fields}: {}", refused.message);
    }

    #[test]
    fn what_is_kept_or_costs_extra_is_refused() {
        check_refused(r#""stream":true"#, "input", "provide input");
        check_refused(r#""input":{}"#, "input", "array of items");
        check_refused(r#""input":"a","background":true,"stream":true"#, "background", "not streamed");
        check_refused(r#""input":"a","background":true,"store":false"#, "store", "is kept");
        check_refused(r#""input":"a","background":1"#, "background", "true or false");
        for id in ["7", "\"\"", "\"../files\"", "\"a\\u0000\""] {
            let previous = format!(r#""input":"a","previous_response_id":{id}"#);
            check_refused(&previous, "previous_response_id", "must be");
        }
        check_refused(r#""input":"a","store":"no""#, "store", "true or false");
        check_refused(r#""input":"a","conversation":{"id":"c"}"#, "conversation", "not kept");
        check_refused(r#""input":"a","prompt":{"id":"p"}"#, "prompt", "stored prompts");
        check_refused(r#""input":"a","service_tier":"ultrafast""#, "service_tier", "must be auto");
        for tool in ["file_search", "code_interpreter", "mcp", "shell"] {
            let tools = format!(r#""input":"a","tools":[{{"type":"function"}},{{"type":"{tool}"}}]"#);
            check_refused(&tools, "tools", tool);
        }
        check_refused(r#""input":"a","tools":[{}]"#, "tools", "each with a type");
        check_refused(r#""input":"a","tools":[{"type":"web_search_preview"}]"#, "tools", "`web_search`");
        let tools = r#""input":"a","tools":[{"type":"web_search"}]"#;
        check_refused(&format!(r#"{tools},"max_tool_calls":101"#), "max_tool_calls", "from 1 to 100");
        check_refused(&format!(r#"{tools},"max_tool_calls":0"#), "max_tool_calls", "from 1 to 100");
        check_refused(&format!(r#"{tools},"max_tool_calls":"1""#), "max_tool_calls", "a whole number");
        for part in [r#"{"type":"input_file","file_id":"f"}"#, r#"{"type":"input\u005faudio"}"#] {
            check_refused(&format!(r#""input":[{{"content":[{part}]}}]"#), "input", "not sold");
        }
        check_refused(r#""input":[{"type":"item_reference","id":"i"}]"#, "input", "not kept");
        check_refused(r#""input":[{"id":"msg_1"}]"#, "input", "not kept");
        check_refused(r#""input":[{"role":"user","Type":"item_reference"}]"#, None, "write `type`");
        for kind in ["additional_tools", "code_interpreter_call", "compaction", "mcp_call"] {
            let item = format!(r#""input":[{{"role":"user","content":"a"}},{{"type":"{kind}","tools":[]}}]"#);
            check_refused(&item, "input", kind);
        }
        check_refused(r#""input":[{"type":null,"i\u0064":"msg_1"}]"#, "input", "not kept");
    }
}
