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
    let part = part("");
    vec![
        event("response.created", 0, format_args!(r#""response":{running}"#)),
        event("response.in_progress", 1, format_args!(r#""response":{running}"#)),
        event("response.output_item.added", 2, format_args!(r#""output_index":0,"item":{item}"#)),
        event("response.content_part.added", 3, format_args!(r#"{},"part":{part}"#, place(answer))),
    ]
}

/// An event with piece number `sent` of the text.
pub(super) fn content(answer: &Answer, sent: u64, text: &str) -> Event {
    let place = place(answer);
    event("response.output_text.delta", 4 + sent, format_args!(r#"{place},"delta":"{text}","logprobs":[]"#))
}

/// The events after the text, those that go out together in one group.
pub(super) fn last(answer: &Answer) -> Vec<Vec<Event>> {
    let (text, place) = (text(answer), place(answer));
    let message = message(answer, &text);
    let kind = if answer.is_cut() { "response.incomplete" } else { "response.completed" };
    let number = 4 + answer.words;
    let part = part(&text);
    let done = vec![
        event("response.output_text.done", number, format_args!(r#"{place},"text":"{text}","logprobs":[]"#)),
        event("response.content_part.done", number + 1, format_args!(r#"{place},"part":{part}"#)),
        event("response.output_item.done", number + 2, format_args!(r#""output_index":0,"item":{message}"#)),
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
    push(&mut out, format_args!(r#""error":null,"output":[{message}],"usage":{usage}}}"#));
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
    format!(r#""item_id":"msg_{:016x}","output_index":0,"content_index":0"#, answer.stamp.id)
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
