//! Responses: one message, and events that tell of it piece by piece.

use super::{Answer, Event, Opening, Stamp, push, push_words};
use std::fmt;

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    response(answer, &message(answer, &text(answer)))
}

/// The answer of which nothing was made yet, as one JSON object.
pub(super) fn begun(answer: &Answer, status: &str) -> String {
    let prefix = prefix(answer);
    format!(
        r#"{prefix}"background":true,"status":"{status}","incomplete_details":null,"error":null,"output":[],"usage":null}}"#
    )
}

/// What every event that carries the answer begins with.
pub(super) fn prefix(answer: &Answer) -> String {
    let Stamp { id, created } = answer.stamp;
    let mut prefix = format!(r#"{{"id":"resp_{id:016x}","object":"response","created_at":{created},"#);
    push(
        &mut prefix,
        format_args!(r#""model":{},"service_tier":"{}","tools":[],"#, answer.model, answer.tier),
    );
    prefix.push_str(r#""parallel_tool_calls":true,"tool_choice":"auto","#);
    prefix
}

/// The events before any text.
pub(super) fn first(answer: &Answer, opening: &Opening) -> Vec<Event> {
    let running =
        format!(r#"{}"status":"in_progress","error":null,"output":[],"usage":null}}"#, opening.prefix);
    let item = item(answer, "in_progress", "");
    let (part, index) = (part(""), index(answer));
    let mut events = vec![
        event("response.created", 0, format_args!(r#""response":{running}"#)),
        event("response.in_progress", 1, format_args!(r#""response":{running}"#)),
    ];
    for call in 0..index {
        let number = 2 + EVENTS_PER_CALL * call;
        let place = format!(r#""output_index":{call},"item_id":"{}""#, call_id(answer, call));
        let running = self::call(answer, call, "in_progress");
        let done = self::call(answer, call, "completed");
        let item = |item: &str| format!(r#""output_index":{call},"item":{item}"#);
        events.extend([
            event("response.output_item.added", number, format_args!("{}", item(&running))),
            event("response.web_search_call.in_progress", number + 1, format_args!("{place}")),
            event("response.web_search_call.completed", number + 2, format_args!("{place}")),
            event("response.output_item.done", number + 3, format_args!("{}", item(&done))),
        ]);
    }
    let number = 2 + EVENTS_PER_CALL * index;
    events.extend([
        event("response.output_item.added", number, format_args!(r#""output_index":{index},"item":{item}"#)),
        event("response.content_part.added", number + 1, format_args!(r#"{},"part":{part}"#, place(answer))),
    ]);
    events
}

/// Events that tell of a call of a tool.
const EVENTS_PER_CALL: u64 = 4;

/// Where the message stands: behind the calls, of which the one after all searches opens a page.
fn index(answer: &Answer) -> u64 {
    if answer.searches == 0 { 0 } else { answer.searches + 1 }
}

/// How many events come before the text.
fn opened(answer: &Answer) -> u64 {
    4 + EVENTS_PER_CALL * index(answer)
}

fn call_id(answer: &Answer, call: u64) -> String {
    format!("ws_{:016x}{call:04x}", answer.stamp.id)
}

/// A call of the tool: a search, or the page that is opened after them.
fn call(answer: &Answer, call: u64, status: &str) -> String {
    let (id, page) = (call_id(answer, call), "https://example.com/");
    let action = match call == answer.searches {
        true => format!(r#"{{"type":"open_page","url":"{page}"}}"#),
        false => format!(r#"{{"type":"search","query":"query {call}","queries":["query {call}"]}}"#),
    };
    format!(r#"{{"id":"{id}","type":"web_search_call","status":"{status}","action":{action}}}"#)
}

/// An event with piece number `sent` of the text.
pub(super) fn content(answer: &Answer, sent: u64, text: &str) -> Event {
    let place = place(answer);
    event(
        "response.output_text.delta",
        opened(answer) + sent,
        format_args!(r#"{place},"delta":"{text}","logprobs":[]"#),
    )
}

/// The events after the text, those that go out together in one group.
pub(super) fn last(answer: &Answer) -> Vec<Vec<Event>> {
    let (text, place) = (text(answer), place(answer));
    let message = message(answer, &text);
    let kind = if answer.is_cut() { "response.incomplete" } else { "response.completed" };
    let (number, index) = (opened(answer) + answer.words, index(answer));
    let part = part(&text);
    let done = vec![
        event("response.output_text.done", number, format_args!(r#"{place},"text":"{text}","logprobs":[]"#)),
        event("response.content_part.done", number + 1, format_args!(r#"{place},"part":{part}"#)),
        event(
            "response.output_item.done",
            number + 2,
            format_args!(r#""output_index":{index},"item":{message}"#),
        ),
    ];
    let whole = response(answer, &message);
    vec![done, vec![event(kind, number + 3, format_args!(r#""response":{whole}"#))]]
}

fn response(answer: &Answer, message: &str) -> String {
    let mut out = prefix(answer);
    let usage = answer.usage.as_deref().unwrap_or("null");
    if answer.is_cut() {
        out.push_str(r#""status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"#);
    } else {
        out.push_str(r#""status":"completed","incomplete_details":null,"#);
    }
    out.push_str(r#""error":null,"output":["#);
    (0..index(answer))
        .for_each(|number| push(&mut out, format_args!("{},", call(answer, number, "completed"))));
    let tools = answer.tool_usage.as_ref().map(|tools| format!(r#","tool_usage":{tools}"#));
    push(&mut out, format_args!(r#"{message}],"usage":{usage}{}}}"#, tools.unwrap_or_default()));
    out
}

fn message(answer: &Answer, text: &str) -> String {
    item(answer, if answer.is_cut() { "incomplete" } else { "completed" }, &part(text))
}

fn item(answer: &Answer, status: &str, content: &str) -> String {
    let id = answer.stamp.id;
    format!(
        r#"{{"id":"msg_{id:016x}","type":"message","status":"{status}","role":"assistant","content":[{content}]}}"#
    )
}

fn part(text: &str) -> String {
    format!(r#"{{"type":"output_text","text":"{text}","annotations":[],"logprobs":[]}}"#)
}

fn place(answer: &Answer) -> String {
    let (id, index) = (answer.stamp.id, index(answer));
    format!(r#""item_id":"msg_{id:016x}","output_index":{index},"content_index":0"#)
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    push_words(&mut text, 0..answer.words);
    text
}

fn event(name: &'static str, number: u64, fields: fmt::Arguments<'_>) -> Event {
    let data = format!(r#"{{"type":"{name}","sequence_number":{number},{fields}}}"#);
    Event { name: Some(name), data }
}
