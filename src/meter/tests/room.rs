//! Streams that may not deliver all they have at once.

use super::*;
use crate::usage::Weight;

/// With room that grows by `step`, all comes out in the end as it would have at once, and never more than
/// there is room for.
fn check(endpoint: Endpoint, transcript: &str, step: u64) {
    let whole = Bytes::copy_from_slice(transcript.as_bytes());
    let expected = run(endpoint, UsageChunk::Hide, std::slice::from_ref(&whole));
    for size in [1, 7, 64, whole.len()] {
        let mut meter = StreamMeter::new(endpoint, UsageChunk::Hide);
        let (mut room, mut out) = (Weight(0), Vec::new());
        meter.allow(room);
        let mut waits = 0;
        let mut drain = |meter: &mut StreamMeter, mut piece: Bytes| loop {
            out.extend_from_slice(&piece);
            assert!(meter.delivered().weight() <= room, "{step}, {size}");
            if !meter.is_short() {
                return;
            }
            waits += 1;
            room.0 += step;
            meter.allow(room);
            piece = meter.resume();
        };
        // Some pieces come while something is kept back already.
        for pair in whole.chunks(size).collect::<Vec<_>>().chunks(2) {
            let pieces: Vec<Bytes> =
                pair.iter().map(|piece| meter.feed(&Bytes::copy_from_slice(piece))).collect();
            drain(&mut meter, Bytes::from(pieces.concat()));
        }
        let tail = meter.finish();
        drain(&mut meter, tail);
        assert!(waits > 0, "there was never too little room");
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected.0), "{step}, {size}");
        assert_eq!(meter.end(), expected.1, "{step}, {size}");
    }
}

#[test]
fn what_there_is_no_room_for_is_kept_back_until_there_is() {
    for step in [1, 5, 100] {
        check(Endpoint::Chat, data!("chat-stream-usage.sse"), step);
        check(Endpoint::Chat, data!("chat-stream-crlf-comments.sse"), step);
        check(Endpoint::Chat, data!("chat-stream-cr-no-done.sse"), step);
        check(Endpoint::Chat, data!("chat-stream-tool-calls.sse"), step);
        check(Endpoint::Completions, data!("completions-stream-usage.sse"), step);
        check(Endpoint::Responses, data!("responses-stream-tools.sse"), step);
        check(Endpoint::Messages, data!("messages-stream-tools.sse"), step);
    }
}

#[test]
fn a_last_event_without_its_blank_line_is_kept_back_too() {
    let event = r#"data: {"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}"#;
    check(Endpoint::Chat, event, 1);
}

#[test]
fn what_is_kept_back_for_good_was_not_delivered() {
    let transcript = Bytes::from_static(data!("chat-stream-usage.sse").as_bytes());
    let mut meter = StreamMeter::new(Endpoint::Chat, UsageChunk::Show);
    meter.allow(Weight(9));
    let out = meter.feed(&transcript);
    assert!(meter.is_short() && transcript.starts_with(&out) && out.len() < transcript.len());
    let reading = meter.end();
    assert_eq!((reading.delivered.text.as_str(), reading.delivered.events), ("Grüezi", 1));
}
