//! Every transcript, cut at every byte: what was delivered is not free, and nothing else is charged.

use super::*;
use crate::endpoint::Endpoint;
use crate::meter::{BodyMeter, StreamMeter, UsageChunk};
use crate::settle::price::{Rates, Reasoning, Tariff};
use bytes::Bytes;
use serde_json::Value;

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/", $name))
    };
}

const STREAMS: [(Endpoint, &str); 23] = [
    (Endpoint::Chat, data!("chat-stream-absurd-usage.sse")),
    (Endpoint::Chat, data!("chat-stream-azure-prompt-filter.sse")),
    (Endpoint::Chat, data!("chat-stream-cr-no-done.sse")),
    (Endpoint::Chat, data!("chat-stream-crlf-comments.sse")),
    (Endpoint::Chat, data!("chat-stream-cut.sse")),
    (Endpoint::Chat, data!("chat-stream-deepseek-finish-usage.sse")),
    (Endpoint::Chat, data!("chat-stream-error-midway.sse")),
    (Endpoint::Chat, data!("chat-stream-garbage.sse")),
    (Endpoint::Chat, data!("chat-stream-groq.sse")),
    (Endpoint::Chat, data!("chat-stream-tool-calls.sse")),
    (Endpoint::Chat, data!("chat-stream-usage.sse")),
    (Endpoint::Chat, data!("chat-stream-vllm-cumulative.sse")),
    (Endpoint::Completions, data!("completions-stream-usage.sse")),
    (Endpoint::Responses, data!("responses-stream-error.sse")),
    (Endpoint::Responses, data!("responses-stream-failed.sse")),
    (Endpoint::Responses, data!("responses-stream-incomplete.sse")),
    (Endpoint::Responses, data!("responses-stream-search.sse")),
    (Endpoint::Responses, data!("responses-stream-tools.sse")),
    (Endpoint::Messages, data!("messages-stream-error.sse")),
    (Endpoint::Messages, data!("messages-stream-search.sse")),
    (Endpoint::Messages, data!("messages-stream-tools.sse")),
    (Endpoint::Speech, data!("speech-stream.sse")),
    (Endpoint::Transcriptions, data!("transcription-stream.sse")),
];

const PLAIN: [(Endpoint, &str); 15] = [
    (Endpoint::Chat, data!("chat-plain.json")),
    (Endpoint::Chat, data!("chat-plain-deepseek.json")),
    (Endpoint::Chat, data!("chat-plain-no-usage.json")),
    (Endpoint::Chat, data!("chat-plain-tool-calls.json")),
    (Endpoint::Completions, data!("completions-plain.json")),
    (Endpoint::Embeddings, data!("embeddings-base64.json")),
    (Endpoint::Embeddings, data!("embeddings-float.json")),
    (Endpoint::ImageGenerations, data!("images-plain.json")),
    (Endpoint::Messages, data!("messages-plain.json")),
    (Endpoint::Messages, data!("messages-plain-search.json")),
    (Endpoint::Moderations, data!("moderations.json")),
    (Endpoint::Responses, data!("responses-plain.json")),
    (Endpoint::Responses, data!("responses-plain-search.json")),
    (Endpoint::Transcriptions, data!("transcription-plain.json")),
    (Endpoint::Transcriptions, data!("transcription-verbose.json")),
];

const ASKED: &[u8] = br#"{"messages":[{"role":"user","content":"Tell me a story."}]}"#;
const ENCODING: Encoding = Encoding::O200kBase;

fn sold_by(unit: Unit) -> ModelPrice {
    ModelPrice {
        price: Tariff { default: Rates::default(), flex: None, priority: None, batch: None },
        sold_by: unit,
        cost: None,
        max_output_tokens: Some(1_000),
        max_input_tokens: None,
        encoding: ENCODING,
        hidden_reasoning: Reasoning::None,
    }
}

/// How a stream stops.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The provider closes as if it were over.
    Closes,
    /// The connection breaks.
    Breaks,
    /// The client hangs up.
    HangsUp,
}

/// What passed of a stream that stopped here, and what is due for it.
fn stopped(endpoint: Endpoint, stream: &[u8], stop: Stop, price: &ModelPrice, work: Work) -> (Vec<u8>, Due) {
    let mut meter = StreamMeter::new(endpoint, UsageChunk::Hide);
    let mut passed = meter.feed(&Bytes::copy_from_slice(stream)).to_vec();
    if matches!(stop, Stop::Closes) {
        passed.extend_from_slice(&meter.finish());
    }
    let reading = meter.end();
    let end = match stop {
        Stop::Closes => end_of(reading.shape),
        Stop::Breaks => End::Cut,
        Stop::HangsUp => End::ClientGone,
    };
    let demand = Demand { choices: 1, work, ..Demand::default() };
    (passed, due(&demand, price, reading, end))
}

/// What a client reads and hears in these events, by a reader of its own.
fn said(events: &[u8]) -> (String, u32) {
    let text = String::from_utf8_lossy(events).replace("\r\n", "\n").replace('\r', "\n");
    let (mut said, mut heard) = (String::new(), 0);
    for event in text.split("\n\n") {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        let data: Vec<&str> = lines.map(str::trim_start).collect();
        let Ok(event) = serde_json::from_str::<Value>(&data.join("\n")) else { continue };
        let kind = event["type"].as_str().unwrap_or_default();
        heard += u32::from(kind == "speech.audio.delta");
        let mut say = |value: &Value| said.push_str(value.as_str().unwrap_or_default());
        for choice in event["choices"].as_array().into_iter().flatten() {
            say(&choice["text"]);
            let delta = &choice["delta"];
            ["content", "refusal", "reasoning_content"].into_iter().for_each(|name| say(&delta[name]));
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                ["name", "arguments"].into_iter().for_each(|name| say(&call["function"][name]));
            }
        }
        for block in [&event["delta"], &event["content_block"]] {
            ["text", "thinking", "partial_json", "name"].into_iter().for_each(|name| say(&block[name]));
        }
        if kind.ends_with(".delta") {
            say(&event["delta"]);
        }
        if kind == "response.output_item.added" {
            say(&event["item"]["name"]);
        }
    }
    (said, heard)
}

/// Checks one cut; tells in a word what is due.
fn check(endpoint: Endpoint, stream: &[u8], stop: Stop) -> &'static str {
    let (passed, due) = stopped(endpoint, stream, stop, &sold_by(Unit::Token), Work::Text);
    let (said, heard) = said(&passed);
    let shown = || format!("{endpoint:?} {stop:?} after {}", String::from_utf8_lossy(stream));
    match due {
        Due::Nothing => {
            assert!(said.is_empty() && heard == 0, "{said:?} is free: {}", shown());
            "nothing"
        }
        Due::Known { usage, metered: Metered::Reported, reported: Some(raw) } => {
            // Told in two parts, the later one is in the end.
            let last = raw.trim_end_matches(']').rsplit("},{").next().unwrap();
            assert!(String::from_utf8_lossy(stream).contains(last), "{raw} was not told: {}", shown());
            assert!(said.is_empty() || usage.output_total() > 0, "{said:?} is left out: {}", shown());
            "reported"
        }
        Due::Known { .. } => panic!("nothing is counted for tokens: {}", shown()),
        Due::Uncounted(uncounted) => {
            let begun = uncounted.begun.map(|begun| begun.input_total());
            let usage = uncounted.count(ENCODING, ASKED);
            let input = begun.unwrap_or_else(|| tokenizer::count_input(ENCODING, ASKED));
            assert_eq!((usage.input_total(), usage.images, usage.seconds), (input, 0, 0), "{}", shown());
            assert_eq!(usage.output_total(), tokenizer::count(ENCODING, &said), "{said:?}: {}", shown());
            assert!(input > 0 && (said.is_empty() || usage.output > 0), "{}", shown());
            "estimated"
        }
    }
}

#[test]
fn a_stream_that_stops_anywhere_costs_what_passed_of_it() {
    let mut found = [("nothing", 0), ("reported", 0), ("estimated", 0)];
    for (endpoint, stream) in STREAMS {
        for at in 0..=stream.len() {
            let stops = [Stop::Closes, Stop::Breaks, Stop::HangsUp];
            // Each at the ends of events, and in turn within them.
            let between = at > 0 && matches!(stream.as_bytes()[at - 1], b'\n' | b'\r');
            let stops = if between { &stops[..] } else { &stops[at % 3..=at % 3] };
            for stop in stops {
                let word = check(endpoint, &stream.as_bytes()[..at], *stop);
                found.iter_mut().filter(|(name, _)| *name == word).for_each(|(_, count)| *count += 1);
            }
        }
    }
    assert!(found.iter().all(|(_, count)| *count > 300), "{found:?}");
}

#[test]
fn a_plain_answer_that_stops_anywhere_is_not_delivered() {
    for (endpoint, answer) in PLAIN {
        let answer = answer.trim_end();
        for at in 0..=answer.len() {
            let mut meter = BodyMeter::new(endpoint);
            meter.feed(&answer.as_bytes()[..at]).expect("fits");
            let shape = meter.end().1.shape;
            let whole = !matches!(shape, Shape::Cut | Shape::Garbage);
            assert_eq!(whole, at == answer.len(), "{shape:?} at {at} of {answer}");
        }
    }
}

#[test]
fn what_is_not_sold_by_tokens_is_counted_or_free() {
    let due_at = |endpoint, stream: &str, at: usize, unit, work| {
        stopped(endpoint, &stream.as_bytes()[..at], Stop::Breaks, &sold_by(unit), work).1
    };
    let speech = data!("speech-stream.sse");
    let work = Work::Speech { characters: 7, usage: crate::admit::Tells::Tokens };
    let first = speech.find("\n\n").expect("an event") + 2;
    for at in 0..=speech.len() {
        match due_at(Endpoint::Speech, speech, at, Unit::Character, work) {
            Due::Known { usage, metered: Metered::Counted, .. } => {
                assert!(at >= first && usage == Usage { characters: 7, ..Usage::default() });
            }
            other => assert!(at < first && matches!(other, Due::Nothing), "{other:?} at {at}"),
        }
    }
    let images = data!("images-stream.sse");
    for at in 0..=images.len() {
        match due_at(Endpoint::ImageGenerations, images, at, Unit::Image, Work::Images) {
            Due::Known { usage, metered: Metered::Counted, .. } => {
                assert!(at == images.len() && usage == Usage { images: 1, ..Usage::default() });
            }
            // A preview is not what is sold.
            other => assert!(at < images.len() && matches!(other, Due::Nothing), "{other:?} at {at}"),
        }
    }
}

#[test]
fn a_report_that_came_before_what_was_delivered_is_not_all() {
    let check = |usage: &str, text: &str, stop: Stop, expect: Option<&str>| {
        let begun =
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"\"}}}}],\"usage\":{usage}}}\n\n");
        let said = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let done = if matches!(stop, Stop::Closes) { "data: [DONE]\n\n" } else { "" };
        let stream = [&begun, &said, done].concat();
        let (_, due) = stopped(Endpoint::Chat, stream.as_bytes(), stop, &sold_by(Unit::Token), Work::Text);
        let refused = match &due {
            Due::Uncounted(Uncounted { refused, .. }) => refused.as_deref(),
            Due::Known { .. } => None,
            Due::Nothing => panic!("{stream}"),
        };
        assert_eq!(refused, expect, "{stream}");
    };
    let (early, absurd) = (Some("it was told before the answer was"), Some("completion_tokens is negative"));
    for stop in [Stop::Breaks, Stop::HangsUp] {
        check(r#"{"prompt_tokens":0,"completion_tokens":0}"#, "hi", stop, early);
        check(r#"{"prompt_tokens":9,"completion_tokens":0}"#, "hi", stop, early);
        check(r#"{"prompt_tokens":9,"completion_tokens":0}"#, "", stop, None);
        check(r#"{"prompt_tokens":9,"completion_tokens":1}"#, "hi", stop, None);
        check(r#"{"prompt_tokens":9,"completion_tokens":-1}"#, "hi", stop, absurd);
    }
    // What a whole answer is told to have used is believed.
    check(r#"{"prompt_tokens":0,"completion_tokens":0}"#, "hi", Stop::Closes, None);
    check(r#"{"prompt_tokens":9,"completion_tokens":-1}"#, "hi", Stop::Closes, absurd);
}
