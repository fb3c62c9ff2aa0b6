//! Chat completions.

use super::{Answer, Event, FINGERPRINT, Opening, Stamp, push, push_words};
use crate::simulate::plan::Shape;
use std::fmt;

/// What Azure says of each prompt before it answers.
const PROMPT_FILTERED: &str = r#"[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}}]"#;

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let mut out = String::with_capacity(1024);
    let Stamp { id, created } = answer.stamp;
    push(&mut out, format_args!(r#"{{"id":"chatcmpl-{id:016x}","object":"chat.completion","#));
    push(&mut out, format_args!(r#""created":{created},"model":{},"choices":["#, answer.model));
    let mut text = String::new();
    push_words(&mut text, 0..answer.words);
    let finish = answer.finish_reason;
    for index in 0..answer.choices {
        let comma = if index == 0 { "" } else { "," };
        push(&mut out, format_args!(r#"{comma}{{"index":{index},"message":{{"role":"assistant","#));
        push(&mut out, format_args!(r#""content":"{text}","refusal":null,"annotations":[]}},"#));
        push(&mut out, format_args!(r#""logprobs":null,"finish_reason":"{finish}"}}"#));
    }
    out.push(']');
    if let Some(usage) = &answer.usage {
        push(&mut out, format_args!(r#","usage":{usage}"#));
    }
    if answer.shape == Shape::Azure {
        push(&mut out, format_args!(r#","prompt_filter_results":{PROMPT_FILTERED}"#));
    }
    let tier = answer.tier;
    push(&mut out, format_args!(r#","service_tier":"{tier}","system_fingerprint":"{FINGERPRINT}"}}"#));
    out
}

/// What every chunk begins with.
pub(super) fn prefix(answer: &Answer) -> String {
    let Stamp { id, created } = answer.stamp;
    let mut prefix = format!(r#"{{"id":"chatcmpl-{id:016x}","object":"chat.completion.chunk","#);
    push(&mut prefix, format_args!(r#""created":{created},"model":{},"#, answer.model));
    let tier = answer.tier;
    push(&mut prefix, format_args!(r#""service_tier":"{tier}","system_fingerprint":"{FINGERPRINT}","#));
    prefix.push_str(r#""choices":["#);
    prefix
}

/// The events before any text.
pub(super) fn first(answer: &Answer, opening: &Opening) -> Vec<Event> {
    let delta = r#"{"role":"assistant","content":"","refusal":null}"#;
    let begin = |index| choice(opening, index, format_args!("{delta}"), "null");
    let filtered = format!(
        r#"{{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":{PROMPT_FILTERED}}}"#
    );
    let filtered = (answer.shape == Shape::Azure).then(|| Event::data(filtered));
    filtered.into_iter().chain((0..answer.choices).map(begin)).collect()
}

/// An event with a piece of the text.
pub(super) fn content(opening: &Opening, index: u64, text: &str) -> Event {
    choice(opening, index, format_args!(r#"{{"content":"{text}"}}"#), "null")
}

/// The events after the text, those that go out together in one group.
pub(super) fn last(answer: &Answer, opening: &Opening) -> Vec<Vec<Event>> {
    let finish = format!("\"{}\"", answer.finish_reason);
    let finish = |index| choice(opening, index, format_args!("{{}}"), &finish);
    let mut last = vec![(0..answer.choices).map(finish).collect()];
    if let Some(usage) = answer.usage.as_ref().filter(|_| opening.include_usage) {
        last.push(vec![Event::data(format!(r#"{}],"usage":{usage}}}"#, opening.prefix))]);
    }
    last.push(vec![Event::data("[DONE]".to_owned())]);
    last
}

fn choice(opening: &Opening, index: u64, delta: fmt::Arguments<'_>, finish: &str) -> Event {
    let usage = if opening.include_usage { r#","usage":null"# } else { "" };
    let prefix = &opening.prefix;
    let delta = format_args!(r#"{{"index":{index},"delta":{delta},"logprobs":null,"#);
    Event::data(format!(r#"{prefix}{delta}"finish_reason":{finish}}}]{usage}}}"#))
}
