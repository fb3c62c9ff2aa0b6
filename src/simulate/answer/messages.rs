//! Messages, as Anthropic writes them.

use super::{Answer, Event, Opening, push_words};
use std::fmt;

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let mut text = String::new();
    push_words(&mut text, 0..answer.words);
    let search = |number| [asked(answer, number, &query(number)), found(answer, number)];
    let mut blocks: Vec<String> = (0..answer.searches).flat_map(search).collect();
    blocks.push(format!(r#"{{"type":"text","text":"{text}"}}"#));
    let blocks = blocks.join(",");
    let usage = answer.usage.as_deref().map(|usage| format!(r#","usage":{usage}"#)).unwrap_or_default();
    format!(
        r#"{}"content":[{blocks}],"stop_reason":"{}","stop_sequence":null{usage}}}"#,
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
    let mut events = vec![event("message_start", format_args!(r#""message":{message}"#))];
    for number in 0..answer.searches {
        let (asks, finds) = (2 * number, 2 * number + 1);
        let [ask, found] = [asked(answer, number, "{}"), found(answer, number)];
        let delta = format!(r#"{{"type":"input_json_delta","partial_json":{:?}}}"#, query(number));
        events.extend([
            event("content_block_start", format_args!(r#""index":{asks},"content_block":{ask}"#)),
            event("content_block_delta", format_args!(r#""index":{asks},"delta":{delta}"#)),
            event("content_block_stop", format_args!(r#""index":{asks}"#)),
            event("content_block_start", format_args!(r#""index":{finds},"content_block":{found}"#)),
            event("content_block_stop", format_args!(r#""index":{finds}"#)),
        ]);
    }
    let (index, block) = (index(answer), r#"{"type":"text","text":""}"#);
    events.push(event("content_block_start", format_args!(r#""index":{index},"content_block":{block}"#)));
    events
}

/// Where the text stands: behind the searches.
fn index(answer: &Answer) -> u64 {
    2 * answer.searches
}

/// What a search asks for.
fn query(number: u64) -> String {
    format!(r#"{{"query":"query {number}"}}"#)
}

/// The block of a search that asks for this.
fn asked(answer: &Answer, number: u64, input: &str) -> String {
    let id = search_id(answer, number);
    format!(r#"{{"type":"server_tool_use","id":"{id}","name":"web_search","input":{input}}}"#)
}

/// The block of what a search found.
fn found(answer: &Answer, number: u64) -> String {
    let id = search_id(answer, number);
    let found = r#"{"type":"web_search_result","url":"https://example.com/","title":"An example","encrypted_content":"Zm91bmQ=","page_age":null}"#;
    format!(r#"{{"type":"web_search_tool_result","tool_use_id":"{id}","content":[{found}]}}"#)
}

fn search_id(answer: &Answer, number: u64) -> String {
    format!("srvtoolu_{:016x}{number:04x}", answer.stamp.id)
}

/// An event with a piece of the text.
pub(super) fn content(answer: &Answer, text: &str) -> Event {
    let index = index(answer);
    let delta = format!(r#"{{"type":"text_delta","text":"{text}"}}"#);
    event("content_block_delta", format_args!(r#""index":{index},"delta":{delta}"#))
}

/// The events after the text, those that go out together in one group.
pub(super) fn last(answer: &Answer) -> Vec<Vec<Event>> {
    let usage = answer.usage.as_deref().map(|usage| format!(r#","usage":{usage}"#)).unwrap_or_default();
    let delta = format!(r#"{{"stop_reason":"{}","stop_sequence":null}}"#, stop_reason(answer));
    vec![
        vec![event("content_block_stop", format_args!(r#""index":{}"#, index(answer)))],
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
