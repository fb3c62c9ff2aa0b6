//! Messages, as Anthropic writes them.

use super::{Answer, Event, Opening, push_words};
use std::fmt;

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let mut text = String::new();
    push_words(&mut text, 0..answer.words);
    let block = format!(r#"{{"type":"text","text":"{text}"}}"#);
    let usage = answer.usage.as_deref().map(|usage| format!(r#","usage":{usage}"#)).unwrap_or_default();
    format!(
        r#"{}"content":[{block}],"stop_reason":"{}","stop_sequence":null{usage}}}"#,
        prefix(answer),
        stop_reason(answer)
    )
}

/// What an answer begins with.
pub(super) fn prefix(answer: &Answer) -> String {
    format!(
        r#"{{"id":"msg_{:016x}","type":"message","role":"assistant","model":{},"#,
        answer.stamp.id, answer.model
    )
}

/// The events before any text. The usage of the input is told here, and one token of output.
pub(super) fn first(answer: &Answer, opening: &Opening) -> Vec<Event> {
    let begun = answer.begun.as_deref().map(|usage| format!(r#","usage":{usage}"#)).unwrap_or_default();
    let message =
        format!(r#"{}"content":[],"stop_reason":null,"stop_sequence":null{begun}}}"#, opening.prefix);
    vec![
        event("message_start", format_args!(r#""message":{message}"#)),
        event(
            "content_block_start",
            format_args!(r#""index":0,"content_block":{{"type":"text","text":""}}"#),
        ),
    ]
}

/// An event with a piece of the text.
pub(super) fn content(text: &str) -> Event {
    let delta = format!(r#"{{"type":"text_delta","text":"{text}"}}"#);
    event("content_block_delta", format_args!(r#""index":0,"delta":{delta}"#))
}

/// The events after the text, those that go out together in one group.
pub(super) fn last(answer: &Answer) -> Vec<Vec<Event>> {
    let usage = answer.usage.as_deref().map(|usage| format!(r#","usage":{usage}"#)).unwrap_or_default();
    let delta = format!(r#"{{"stop_reason":"{}","stop_sequence":null}}"#, stop_reason(answer));
    vec![
        vec![event("content_block_stop", format_args!(r#""index":0"#))],
        vec![event("message_delta", format_args!(r#""delta":{delta}{usage}"#))],
        vec![Event { name: Some("message_stop"), data: r#"{"type":"message_stop"}"#.to_owned() }],
    ]
}

fn stop_reason(answer: &Answer) -> &'static str {
    if answer.is_cut() { "max_tokens" } else { "end_turn" }
}

fn event(name: &'static str, fields: fmt::Arguments<'_>) -> Event {
    Event { name: Some(name), data: format!(r#"{{"type":"{name}",{fields}}}"#) }
}
