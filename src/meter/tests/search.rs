//! Web searches: what the provider tells of them, and else what is seen.

use super::*;

/// What is charged, what was seen, and the usage as it is kept.
#[track_caller]
fn check(reading: &Reading, usage: [u64; 4], charged: u64, seen: u64, raw: &str) {
    let reported = reading.usage.as_ref().unwrap();
    let told = reported.usage.unwrap();
    assert_eq!([told.input, told.cached_input, told.output, told.reasoning], usage);
    assert_eq!((told.web_searches, reading.delivered.searches), (charged, seen));
    assert!(reported.raw.contains(raw), "{}", reported.raw);
}

fn plain(endpoint: Endpoint, answer: &str) -> Reading {
    let mut meter = BodyMeter::of_text(endpoint);
    meter.feed(answer.as_bytes()).unwrap();
    let wanted = meter.end().1;
    let mut meter = BodyMeter::new(endpoint);
    meter.feed(answer.as_bytes()).unwrap();
    assert_eq!(meter.end().1.usage, wanted.usage, "read the quick way or not");
    wanted
}

/// Whole, and split at every byte.
fn streamed(endpoint: Endpoint, transcript: &'static str) -> Reading {
    let whole = Bytes::from_static(transcript.as_bytes());
    let (out, reading) = run(endpoint, UsageChunk::Show, std::slice::from_ref(&whole));
    assert_eq!((String::from_utf8_lossy(&out), reading.shape), (transcript.into(), Shape::Complete));
    for at in 0..=whole.len() {
        let (out, split) = run(endpoint, UsageChunk::Hide, &[whole.slice(..at), whole.slice(at..)]);
        assert_eq!((&*out, &split), (transcript.as_bytes(), &reading), "{at}");
    }
    reading
}

#[test]
fn a_response_costs_the_searches_that_it_tells_of_or_shows() {
    let usage = [6162, 2048, 76, 64];
    // Pages that are opened, or searched themselves, are none.
    let shown = data!("responses-plain-search.json");
    check(&plain(Endpoint::Responses, shown), usage, 2, 2, "{\"input_tokens\": 8210");
    let told =
        |tools: &str| shown.replace(r#""usage": {"#, &format!(r#""tool_usage": {tools}, "usage": {{"#));
    for (tools, charged) in [
        (r#"{"web_search":{"num_requests":5}}"#, 5),
        (r#"{"web_search":{"num_requests":0}}"#, 0),
        (r#"{"web_search":{}}"#, 2),
        (r#"{"image_gen":{"input_tokens":0}}"#, 2),
        (r#"{"web_search":{"num_requests":-1}}"#, 2),
        ("[]", 2),
        ("null", 2),
    ] {
        let raw = if charged == 2 { "{\"input_tokens" } else { "[{\"input_tokens" };
        check(&plain(Endpoint::Responses, &told(tools)), usage, charged, 2, raw);
    }
    for status in ["failed", "in_progress", "searching"] {
        let failed = shown.replacen(
            r#""status": "completed", "action""#,
            &format!(r#""status": "{status}", "action""#),
            1,
        );
        check(&plain(Endpoint::Responses, &failed), usage, 1, 1, "{\"input_tokens\"");
    }
    let reading = streamed(Endpoint::Responses, data!("responses-stream-search.sse"));
    check(&reading, usage, 3, 2, r#","web_search":{"num_requests":3}}]"#);
    assert_eq!(reading.delivered.text, "Snow in Bern.");
}

#[test]
fn a_message_costs_the_searches_that_it_tells_of_or_shows() {
    let usage = [9050, 1024, 95, 0];
    let told = data!("messages-plain-search.json");
    check(&plain(Endpoint::Messages, told), usage, 2, 2, "\"web_search_requests\": 2");
    let more = told.replace("\"web_search_requests\": 2", "\"web_search_requests\": 4");
    check(&plain(Endpoint::Messages, &more), usage, 4, 2, "\"web_search_requests\": 4");
    let untold = told.replace("server_tool_use\": {\"web", "other\": {\"web");
    let read = {
        let mut meter = BodyMeter::of_text(Endpoint::Messages);
        meter.feed(untold.as_bytes()).unwrap();
        meter.end().1
    };
    // A search that failed is none.
    check(&read, usage, 2, 2, "\"other\"");
    check(&streamed(Endpoint::Messages, data!("messages-stream-search.sse")), usage, 2, 2, "[{\"input");
}
