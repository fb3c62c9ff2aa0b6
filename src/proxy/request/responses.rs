//! `POST /v1/responses`: items in, one answer of items out.
//!
//! What the provider keeps from one request to the next belongs to an account that customers share:
//! a request may go on from a response of its own customer, and what else refers to it is not sold.
//! Tools that the provider runs have prices of their own; of those, web search and the code interpreter are
//! sold.

use super::fields::{Fields, Map, bad, is_given, optional, tool_not_sold, typed, whole, wrong_type};
use super::{Asked, BadRequest, OUTPUT_TOKENS_MAX, Streaming, is_object_id, is_streamed, tier, tools};
use crate::admit::{Demand, Work};
use crate::settle::price::Picture;
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
/// What a response goes on from.
const PREVIOUS: &str = "previous_response_id";
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
    let Ran { searches, runs_code } = ran(fields)?;
    let calls = if searches || runs_code { tools::of_response(fields)? } else { 0 };
    let demand = Demand {
        model: model.into(),
        input_bytes: fields.bytes(),
        images: count_images(fields.required("input")?)?,
        stored_tokens: 0,
        calls,
        searches: if searches { calls } else { 0 },
        containers: u64::from(runs_code),
        picture: Picture::default(),
        cached_for: fields.cached_for(),
        tier: tier(fields)?,
        output_tokens_max: whole("max_output_tokens", fields.get("max_output_tokens"), OUTPUT_TOKENS_MAX)?,
        choices: 1,
        work: Work::Text,
    };
    // The usage of a stream comes unasked.
    let stream = if is_streamed(fields)? { Streaming::Events(None) } else { Streaming::Plain };
    Ok(Asked { demand, stream })
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

/// Tools that the provider may run.
#[derive(Default)]
struct Ran {
    searches: bool,
    runs_code: bool,
}

/// Reads which there are. The preview of web search costs otherwise.
fn ran(fields: &Fields<'_>) -> Result<Ran, BadRequest> {
    const EXPECTED: &str = "an array of tools, each with a type";
    let tools: Option<Vec<Tool<'_>>> = optional("tools", fields.get("tools"), EXPECTED)?;
    let mut ran = Ran::default();
    for Tool { kind, container } in tools.into_iter().flatten() {
        match &*kind {
            "web_search" | "web_search_2025_08_26" => ran.searches = true,
            kind if kind.starts_with("web_search_preview") => {
                return Err(bad("tools", "web search is sold as a tool of type `web_search`"));
            }
            "code_interpreter" if ran.runs_code => {
                return Err(bad("tools", "there are two code interpreters"));
            }
            "code_interpreter" => {
                tools::check_container(container)?;
                ran.runs_code = true;
            }
            kind if !TOOLS.contains(&kind) => return Err(tool_not_sold(kind)),
            _ => {}
        }
    }
    // A container of the previous response may go on, and nobody tells whether it costs again.
    if ran.runs_code && is_given(fields.get(PREVIOUS)) {
        return Err(bad(
            "tools",
            "the code interpreter is not sold to what goes on from a response: leave it out",
        ));
    }
    Ok(ran)
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
    if PART_MARKS.iter().all(|mark| memmem::find(text.as_bytes(), mark).is_none()) {
        return Ok(0);
    }
    let items: Vec<Map<'_>> = typed("input", input, EXPECTED)?;
    let mut images = 0;
    for item in items {
        check_item(&item)?;
        // Messages have their parts in `content`, the results of tools in `output`.
        for parts in ["content", "output"].into_iter().filter_map(|name| item.get(name)) {
            if parts.get().starts_with('[') {
                images += count_parts(parts)?;
            } else if parts.get().starts_with('{') {
                images += 1;
            }
        }
    }
    Ok(images)
}

/// Refuses what refers to an earlier item. An id alone does so, too: the type may be left out.
fn check_item(item: &Map<'_>) -> Result<(), BadRequest> {
    let kind: Option<Cow<'_, str>> = optional("input", item.get("type"), "an array of items with types")?;
    let refers = match kind.as_deref() {
        Some("code_interpreter_call") => {
            return Err(bad(
                "input",
                "the containers of earlier answers are not kept here: leave their calls out",
            ));
        }
        Some(kind) => kind == "item_reference",
        None => item.get("id").is_some() && item.get("role").is_none(),
    };
    if refers {
        return Err(bad("input", "earlier items are not kept here: send them whole"));
    }
    Ok(())
}

fn count_parts(parts: &RawValue) -> Result<u64, BadRequest> {
    let parts: Vec<Part<'_>> = typed("input", parts, "an array of items with content parts")?;
    let mut images = 0;
    for part in parts {
        let is = |kind: &str| part.kind.as_deref() == Some(kind);
        if part.input_audio.is_some() || ["input_file", "input_audio"].into_iter().any(is) {
            return Err(bad("input", "files and audio are not sold by this gateway: leave them out"));
        }
        images += u64::from(part.image_url.is_some() || is("input_image") || is("computer_screenshot"));
    }
    Ok(images)
}

/// Without any of these there is only text; an escape may hide one.
const PART_MARKS: [&[u8]; 7] = [
    b"image",
    b"\"input_file\"",
    b"\"input_audio\"",
    b"screenshot",
    b"\"id\"",
    b"code_interpreter_call",
    b"\\u00",
];

#[derive(serde::Deserialize)]
struct Tool<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    container: Option<&'a RawValue>,
}

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

    fn check_refused(fields: &str, param: &str, says: &str) {
        let refused = read(fields).expect_err(fields);
        assert_eq!(refused.param, Some(param), "{fields}: {}", refused.message);
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
        for tool in ["file_search", "image_generation", "mcp", "shell"] {
            let tools = format!(r#""input":"a","tools":[{{"type":"function"}},{{"type":"{tool}"}}]"#);
            check_refused(&tools, "tools", tool);
        }
        check_refused(r#""input":"a","tools":[{}]"#, "tools", "each with a type");
        check_refused(r#""input":"a","tools":[{"type":"web_search_preview"}]"#, "tools", "`web_search`");
        let code = |container: &str, more: &str| {
            format!(r#""input":"a","tools":[{{"type":"code_interpreter","container":{container}}}]{more}"#)
        };
        for container in [
            "null",
            r#""cntr_1""#,
            r#"{"type":"explicit"}"#,
            r#"{"type":"auto","file_ids":["file-1"]}"#,
            r#"{"type":"auto","memory_limit":"4g"}"#,
            r#"{"type":"auto","skills":[]}"#,
        ] {
            check_refused(&code(container, ""), "tools", "container");
        }
        let auto = r#"{"type":"auto","memory_limit":"1g","file_ids":[]}"#;
        let demand = read(&code(auto, r#","max_tool_calls":3"#)).unwrap().demand;
        assert_eq!((demand.calls, demand.searches, demand.containers), (3, 0, 1));
        let two = format!(
            r#""input":"a","tools":[{0},{0}]"#,
            r#"{"type":"code_interpreter","container":{"type":"auto"}}"#
        );
        check_refused(&two, "tools", "two code interpreters");
        check_refused(&code(auto, r#","previous_response_id":"resp_1""#), "tools", "goes on from");
        let item = r#""input":[{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1"}]"#;
        check_refused(item, "input", "containers");
        let tools = r#""input":"a","tools":[{"type":"web_search"}]"#;
        check_refused(&format!(r#"{tools},"max_tool_calls":101"#), "max_tool_calls", "from 1 to 100");
        check_refused(&format!(r#"{tools},"max_tool_calls":0"#), "max_tool_calls", "from 1 to 100");
        check_refused(&format!(r#"{tools},"max_tool_calls":"1""#), "max_tool_calls", "a whole number");
        for part in [r#"{"type":"input_file","file_id":"f"}"#, r#"{"type":"input\u005faudio"}"#] {
            check_refused(&format!(r#""input":[{{"content":[{part}]}}]"#), "input", "not sold");
        }
        check_refused(r#""input":[{"type":"item_reference","id":"i"}]"#, "input", "not kept");
        check_refused(r#""input":[{"id":"msg_1"}]"#, "input", "not kept");
        check_refused(r#""input":[{"type":null,"i\u0064":"msg_1"}]"#, "input", "not kept");
    }
}
