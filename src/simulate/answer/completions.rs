//! Completions of a prompt.

use super::{Answer, Event, Opening, Stamp, push, push_words};

/// The whole answer as one JSON object.
pub(super) fn plain(answer: &Answer) -> String {
    let mut out = prefix(answer);
    let mut text = String::new();
    push_words(&mut text, 0..answer.words);
    let finish = format!("\"{}\"", answer.finish_reason);
    for index in 0..answer.choices {
        let comma = if index == 0 { "" } else { "," };
        push(&mut out, format_args!("{comma}{}", choice(index, &text, &finish)));
    }
    out.push(']');
    if let Some(usage) = &answer.usage {
        push(&mut out, format_args!(r#","usage":{usage}"#));
    }
    out.push('}');
    out
}

/// What every chunk begins with, and the whole answer too.
pub(super) fn prefix(answer: &Answer) -> String {
    let Stamp { id, created } = answer.stamp;
    let mut prefix = format!(r#"{{"id":"cmpl-{id:016x}","object":"text_completion","#);
    push(&mut prefix, format_args!(r#""created":{created},"model":{},"choices":["#, answer.model));
    prefix
}

/// An event with a piece of the text.
pub(super) fn content(opening: &Opening, index: u64, text: &str) -> Event {
    event(opening, &choice(index, text, "null"))
}

/// The events after the text, those that go out together in one group.
pub(super) fn last(answer: &Answer, opening: &Opening) -> Vec<Vec<Event>> {
    let finish = format!("\"{}\"", answer.finish_reason);
    let finish = |index| event(opening, &choice(index, "", &finish));
    let mut last = vec![(0..answer.choices).map(finish).collect()];
    if let Some(usage) = answer.usage.as_ref().filter(|_| opening.include_usage) {
        last.push(vec![Event::data(format!(r#"{}],"usage":{usage}}}"#, opening.prefix))]);
    }
    last.push(vec![Event::data("[DONE]".to_owned())]);
    last
}

fn choice(index: u64, text: &str, finish: &str) -> String {
    format!(r#"{{"text":"{text}","index":{index},"logprobs":null,"finish_reason":{finish}}}"#)
}

fn event(opening: &Opening, choice: &str) -> Event {
    let usage = if opening.include_usage { r#","usage":null"# } else { "" };
    Event::data(format!("{}{choice}]{usage}}}", opening.prefix))
}
