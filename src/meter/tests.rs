//! Whole transcripts under every split: the same bytes out, the same reading.

use super::*;
use crate::endpoint::Endpoint;
use crate::usage::Usage;
use bytes::Bytes;

/// What a transcript must read as.
struct Expected<'a> {
    endpoint: Endpoint,
    shape: Shape,
    /// Input, cached input, cache write, output, reasoning.
    usage: Option<Result<[u64; 5], Absurd>>,
    text: &'a str,
    events: u64,
    unparsed: u64,
    /// A piece of the chunk that is taken out, as long as no other event has it.
    hidden: Option<&'a str>,
}

fn run(endpoint: Endpoint, usage_chunk: UsageChunk, pieces: &[Bytes]) -> (Vec<u8>, Reading) {
    let mut meter = StreamMeter::new(endpoint, usage_chunk);
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&meter.feed(piece));
    }
    out.extend_from_slice(&meter.finish());
    (out, meter.end())
}

/// Without the event that has `mark` in it.
fn without(transcript: &str, mark: &str, blank_line: &str) -> String {
    let at = transcript.find(mark).expect("the hidden chunk");
    let start = transcript[..at].rfind(blank_line).map_or(0, |start| start + blank_line.len());
    let end = transcript[at..].find(blank_line).map_or(transcript.len(), |end| at + end + blank_line.len());
    assert_eq!(transcript[start..end].matches(mark).count(), transcript.matches(mark).count());
    [&transcript[..start], &transcript[end..]].concat()
}

fn reading(expected: &Expected<'_>, found: &Reading) -> Reading {
    let usage = expected.usage.map(|usage| Reported {
        raw: found.usage.as_ref().map(|reported| reported.raw.clone()).unwrap_or_default(),
        usage: usage.map(|[input, cached_input, cache_write, output, reasoning]| Usage {
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            web_searches: found.delivered.searches,
            ..Usage::default()
        }),
    });
    let bytes = reading::count(expected.text.len());
    Reading {
        shape: expected.shape,
        usage,
        begun: found.begun,
        tier: found.tier,
        picture: found.picture.clone(),
        object: found.object.clone(),
        at_work: found.at_work,
        delivered: Delivered {
            text: expected.text.to_owned(),
            bytes,
            events: expected.events,
            images: found.delivered.images,
            searches: found.delivered.searches,
        },
        oddities: Oddities { unparsed: expected.unparsed, oversized: 0 },
    }
}

/// Whole, byte by byte and under every split in two: hidden, and shown.
fn check(transcript: &str, expected: &Expected<'_>) {
    let blank_line = ["\r\n\r\n", "\n\n", "\r\r"].into_iter().find(|end| transcript.contains(end));
    let blank_line = blank_line.expect("an event");
    let shown = transcript.to_owned();
    let hidden = expected.hidden.map_or(shown.clone(), |mark| without(transcript, mark, blank_line));
    let whole = Bytes::copy_from_slice(transcript.as_bytes());
    for (usage_chunk, bytes) in [(UsageChunk::Show, shown), (UsageChunk::Hide, hidden)] {
        let (_, first) = run(expected.endpoint, usage_chunk, std::slice::from_ref(&whole));
        let endpoint = expected.endpoint;
        let expected = reading(expected, &first);
        let same = |pieces: &[Bytes]| {
            let (out, found) = run(endpoint, usage_chunk, pieces);
            assert_eq!(String::from_utf8_lossy(&out), bytes, "{usage_chunk:?}");
            assert_eq!(found, expected, "{usage_chunk:?}");
        };
        same(std::slice::from_ref(&whole));
        same(&(0..whole.len()).map(|at| whole.slice(at..=at)).collect::<Vec<_>>());
        for at in 0..=whole.len() {
            same(&[whole.slice(..at), whole.slice(at..)]);
        }
    }
}

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/", $name))
    };
}

mod media;
mod room;
mod search;
mod usage;

const PLAIN_EVENT: Expected<'_> = Expected {
    endpoint: Endpoint::Chat,
    shape: Shape::Complete,
    usage: None,
    text: "",
    events: 0,
    unparsed: 0,
    hidden: None,
};

#[test]
fn usage_chunk() {
    check(
        data!("chat-stream-usage.sse"),
        &Expected {
            usage: Some(Ok([67, 1024, 128, 10, 4])),
            text: "Grüezi, \"Welt\"\n\u{1f44b}",
            events: 3,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn crlf_comments_and_data_in_two_lines() {
    check(
        data!("chat-stream-crlf-comments.sse"),
        &Expected {
            usage: Some(Ok([9, 0, 0, 2, 0])),
            text: "Hello there",
            events: 2,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn groq_tells_the_usage_in_a_field_of_its_own() {
    check(
        data!("chat-stream-groq.sse"),
        &Expected { usage: Some(Ok([38, 0, 0, 4, 0])), text: "Hello World!", events: 3, ..PLAIN_EVENT },
    );
}

#[test]
fn azure_begins_with_empty_choices() {
    check(
        data!("chat-stream-azure-prompt-filter.sse"),
        &Expected {
            usage: Some(Ok([21, 0, 0, 3, 0])),
            text: "Zürich.",
            events: 2,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn vllm_reports_in_every_chunk_and_the_last_counts() {
    check(
        data!("chat-stream-vllm-cumulative.sse"),
        &Expected {
            usage: Some(Ok([17, 0, 0, 7, 0])),
            text: "The user greets.Hi!",
            events: 4,
            hidden: Some("\"choices\":[],"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn deepseek_reports_on_the_finish_chunk_which_stays() {
    check(
        data!("chat-stream-deepseek-finish-usage.sse"),
        &Expected { usage: Some(Ok([12, 0, 0, 2, 43])), text: "2+24", events: 2, ..PLAIN_EVENT },
    );
}

#[test]
fn an_error_midway() {
    check(
        data!("chat-stream-error-midway.sse"),
        &Expected { shape: Shape::Failed, text: "Once upon a time", events: 2, ..PLAIN_EVENT },
    );
}

#[test]
fn tool_calls_are_delivered_text() {
    check(
        data!("chat-stream-tool-calls.sse"),
        &Expected {
            usage: Some(Ok([81, 0, 0, 31, 0])),
            text: "get_weather{\"city\":\"Bern\",\"unit\":\"c\"}get_time{}",
            events: 5,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn cut_within_an_event() {
    check(
        data!("chat-stream-cut.sse"),
        &Expected { shape: Shape::Cut, text: "All happy families", events: 2, ..PLAIN_EVENT },
    );
}

#[test]
fn absurd_usage_is_no_zero() {
    check(
        data!("chat-stream-absurd-usage.sse"),
        &Expected {
            usage: Some(Err(Absurd { field: Field::PromptTokens, why: Why::Negative })),
            text: "ok",
            events: 1,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn garbage_passes_and_is_counted() {
    check(data!("chat-stream-garbage.sse"), &Expected { shape: Shape::Garbage, unparsed: 2, ..PLAIN_EVENT });
}

#[test]
fn carriage_returns_and_no_done_and_no_last_blank_line() {
    check(
        data!("chat-stream-cr-no-done.sse"),
        &Expected {
            shape: Shape::Finished,
            usage: Some(Ok([5, 0, 0, 1, 0])),
            text: "Bye",
            events: 1,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

#[test]
fn a_completion_is_delivered_text() {
    check(
        data!("completions-stream-usage.sse"),
        &Expected {
            endpoint: Endpoint::Completions,
            usage: Some(Ok([5, 0, 0, 6, 0])),
            text: " in a land\nfar away",
            events: 2,
            hidden: Some("prompt_tokens\":"),
            ..PLAIN_EVENT
        },
    );
}

const RESPONSE_EVENT: Expected<'_> = Expected { endpoint: Endpoint::Responses, ..PLAIN_EVENT };

#[test]
fn a_response_says_its_usage_in_its_last_event() {
    check(
        data!("responses-stream-tools.sse"),
        &Expected {
            usage: Some(Ok([36, 64, 0, 20, 128])),
            text: "**Looking**Zürich:\nget_weather{\"city\":\"Zürich\"}",
            events: 6,
            ..RESPONSE_EVENT
        },
    );
    check(
        data!("responses-stream-incomplete.sse"),
        &Expected { usage: Some(Ok([11, 0, 0, 16, 0])), text: "All happy", events: 1, ..RESPONSE_EVENT },
    );
}

#[test]
fn a_response_may_fail_at_work() {
    check(
        data!("responses-stream-failed.sse"),
        &Expected {
            shape: Shape::Failed,
            usage: Some(Ok([11, 0, 0, 3, 0])),
            text: "All",
            events: 1,
            ..RESPONSE_EVENT
        },
    );
    check(
        data!("responses-stream-error.sse"),
        &Expected { shape: Shape::Failed, text: "All", events: 1, ..RESPONSE_EVENT },
    );
}

#[test]
fn an_event_that_repeats_the_request_is_read() {
    let asked = "x".repeat(EVENT_BYTES_MAX);
    let event = format!(
        "data: {{\"type\":\"response.completed\",\"response\":{{\"instructions\":\"{asked}\",\
         \"usage\":{{\"input_tokens\":1,\"output_tokens\":2}}}}}}\n\n"
    );
    let read = |mut meter: StreamMeter| {
        meter.feed(&Bytes::from(event.clone()));
        (meter.is_done(), meter.end().usage.is_some())
    };
    assert_eq!(read(StreamMeter::new(Endpoint::Responses, UsageChunk::Show)), (false, false));
    let aware = StreamMeter::with_echo(Endpoint::Responses, UsageChunk::Show, asked.len());
    assert_eq!(read(aware), (true, true));
}

const MESSAGE_EVENT: Expected<'_> = Expected { endpoint: Endpoint::Messages, ..PLAIN_EVENT };

#[test]
fn a_message_tells_its_usage_in_two_parts() {
    let transcript = data!("messages-stream-tools.sse");
    let (out, read) = run(Endpoint::Messages, UsageChunk::Show, &[Bytes::from_static(transcript.as_bytes())]);
    assert_eq!((String::from_utf8_lossy(&out), read.shape), (transcript.into(), Shape::Complete));
    let classes = |usage: Usage| {
        [
            usage.input,
            usage.cached_input,
            usage.cache_write,
            usage.cache_write_1h,
            usage.output,
            usage.reasoning,
        ]
    };
    assert_eq!(read.usage.unwrap().usage.map(classes), Ok([472, 64, 40, 60, 59, 30]));
    assert_eq!(read.begun.map(classes), Some([472, 64, 40, 60, 2, 0]));
    assert_eq!(read.delivered.text, "Let me see.Grüezi\nget_weather{\"city\":\"Bern\"}");
    // However it is cut into pieces.
    let whole = Bytes::from_static(transcript.as_bytes());
    for at in 0..=whole.len() {
        let (pieces, found) =
            run(Endpoint::Messages, UsageChunk::Show, &[whole.slice(..at), whole.slice(at..)]);
        assert_eq!((pieces, found.delivered.events, found.begun), (out.clone(), 4, read.begun));
    }
}

#[test]
fn a_message_that_breaks_off_keeps_what_was_told_of_its_input() {
    let transcript = Bytes::from_static(data!("messages-stream-error.sse").as_bytes());
    let (_, read) = run(Endpoint::Messages, UsageChunk::Show, &[transcript]);
    assert_eq!((read.shape, read.usage.is_none()), (Shape::Failed, true));
    assert_eq!((read.begun.map(|usage| usage.input), &*read.delivered.text), (Some(25), "Once"));
    check(
        data!("messages-stream-error.sse"),
        &Expected { shape: Shape::Failed, text: "Once", events: 1, ..MESSAGE_EVENT },
    );
}

#[test]
fn plain_answers() {
    let read = |body: &str, expected: Expected| {
        for at in 0..=body.len() {
            let (head, tail) = body.as_bytes().split_at(at);
            let mut meter = BodyMeter::new(expected.endpoint);
            meter.feed(head).expect("fits");
            meter.feed(tail).expect("fits");
            let (bytes, found) = meter.end();
            assert_eq!(bytes, body.as_bytes());
            assert_eq!(found, reading(&expected, &found));
        }
    };
    // Text is gathered only where it may have to be counted.
    let check = |endpoint, body: &str, usage: Option<[u64; 5]>, text: &str| {
        if usage.is_some() {
            // The `error` that a response always has, null or not, sends it the long way.
            let (text, events) = if endpoint == Endpoint::Responses { (text, 1) } else { ("", 0) };
            read(body, Expected { endpoint, usage: usage.map(Ok), text, events, ..PLAIN_EVENT });
        }
        let silent = body.replace("\"usage\"", "\"other\"");
        let events = u64::from(endpoint != Endpoint::Moderations);
        read(&silent, Expected { endpoint, text, events, ..PLAIN_EVENT });
    };
    let chat = Endpoint::Chat;
    check(chat, data!("chat-plain.json"), Some([93, 1024, 0, 26, 20]), "Hello \"there\"! \u{1f44b}");
    check(
        chat,
        data!("chat-plain-tool-calls.json"),
        Some([82, 0, 0, 17, 0]),
        "get_weather{\"city\":\"Bern\"}",
    );
    check(chat, data!("chat-plain-deepseek.json"), Some([128, 512, 0, 2, 43]), "42+2");
    check(chat, data!("chat-plain-no-usage.json"), None, "HiHey");
    let usage = Some([5, 0, 0, 8, 0]);
    check(Endpoint::Completions, data!("completions-plain.json"), usage, " in a land far away");
    let usage = Some([11, 0, 0, 16, 30]);
    check(Endpoint::Responses, data!("responses-plain.json"), usage, "ThinkingHi \u{1f44b}get_time{}");
    let usage = Some([20, 7, 0, 12, 0]);
    check(Endpoint::Messages, data!("messages-plain.json"), usage, "Hi f{\"a\": 1}");
    let usage = Some([8, 0, 0, 0, 0]);
    check(Endpoint::Embeddings, data!("embeddings-float.json"), usage, "");
    check(Endpoint::Embeddings, data!("embeddings-base64.json"), usage, "");
    check(Endpoint::Moderations, data!("moderations.json"), None, "");
}

#[test]
fn the_raw_usage_is_kept_as_written() {
    let raw = r#"{"prompt_tokens": 1,  "completion_tokens":2, "new_field":[null]}"#;
    let event = format!("data: {{\"choices\":[],\"usage\":{raw}}}\n\n");
    let (out, reading) = run(Endpoint::Chat, UsageChunk::Hide, &[Bytes::from(event)]);
    assert!(out.is_empty());
    assert_eq!(reading.usage.expect("reported").raw.as_ref(), raw);

    let padding = " ".repeat(USAGE_BYTES_MAX);
    let event = format!("data: {{\"usage\":{{\"prompt_tokens\":1,{padding}\"completion_tokens\":2}}}}\n\n");
    let reported = run(Endpoint::Chat, UsageChunk::Show, &[Bytes::from(event)]).1.usage.expect("reported");
    assert_eq!(reported.raw.as_ref(), "null");
    assert_eq!(reported.usage, Err(Absurd { field: Field::Usage, why: Why::TooLarge }));
}

#[test]
fn nothing_is_copied_without_need() {
    let transcript = Bytes::from_static(data!("chat-stream-usage.sse").as_bytes());
    let mut show = StreamMeter::new(Endpoint::Chat, UsageChunk::Show);
    assert_eq!(show.feed(&transcript).as_ptr(), transcript.as_ptr());
    let two_events = transcript.slice(..transcript.len() / 2);
    let mut hide = StreamMeter::new(Endpoint::Chat, UsageChunk::Hide);
    let out = hide.feed(&two_events);
    assert_eq!(out.as_ptr(), two_events.as_ptr());
    assert!(out.ends_with(b"\n\n") && out.len() < two_events.len());
}

#[test]
fn an_oversized_event_passes_unread() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\r\n\r\n";
    let text = "x".repeat(EVENT_BYTES_MAX);
    let large = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\r\n\r\n");
    let stream = Bytes::from([usage, &large, usage, "data: [DONE]\r\n\r\n"].concat());
    let expected = [&large, "data: [DONE]\r\n\r\n"].concat();
    let check = |pieces: Vec<Bytes>| {
        let (out, reading) = run(Endpoint::Chat, UsageChunk::Hide, &pieces);
        assert!(out == expected.as_bytes());
        assert_eq!((reading.shape, reading.oddities.oversized), (Shape::Complete, 1));
        assert!(reading.usage.is_some() && (reading.delivered.events, reading.delivered.bytes) == (1, 0));
    };
    check(vec![stream.clone()]);
    check(stream.chunks(1).map(|byte| stream.slice_ref(byte)).collect());
    for size in [1000, EVENT_BYTES_MAX / 2, EVENT_BYTES_MAX + 40] {
        check(stream.chunks(size).map(|piece| stream.slice_ref(piece)).collect());
    }
}

#[test]
fn delivered_text_is_bounded_and_its_length_is_not() {
    let text = "word ".repeat(DELIVERED_BYTES_MAX / 10);
    let event = Bytes::from(format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"));
    let mut meter = StreamMeter::new(Endpoint::Chat, UsageChunk::Show);
    meter.feed(&event);
    assert_eq!(meter.delivered().text, text);
    for _ in 0..3 {
        meter.feed(&event);
    }
    let delivered = meter.end().delivered;
    assert_eq!((delivered.bytes, delivered.events), (4 * reading::count(text.len()), 4));
    assert!(delivered.text.is_empty());
}
