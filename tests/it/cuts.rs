//! Every transcript of a stream, broken off behind each of its events: what was delivered is charged, by what the
//! provider told or by counting it, and nothing more.

use crate::support::gateway::text;
use crate::support::scripted::Then;
use crate::support::{Account, Answer, Client, Gateway, Script, Scripted, ask, audit, streamed};
use serde_json::{Value, json};
use tollgate::meter::tokenizer;
use tollgate::settle::price::Encoding;

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("../data/", $name))
    };
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const SPEECH: &str = "/v1/audio/speech";

const STREAMS: [(&str, &str); 20] = [
    (CHAT, data!("chat-stream-absurd-usage.sse")),
    (CHAT, data!("chat-stream-azure-prompt-filter.sse")),
    (CHAT, data!("chat-stream-cr-no-done.sse")),
    (CHAT, data!("chat-stream-crlf-comments.sse")),
    (CHAT, data!("chat-stream-cut.sse")),
    (CHAT, data!("chat-stream-deepseek-finish-usage.sse")),
    (CHAT, data!("chat-stream-error-midway.sse")),
    (CHAT, data!("chat-stream-garbage.sse")),
    (CHAT, data!("chat-stream-groq.sse")),
    (CHAT, data!("chat-stream-tool-calls.sse")),
    (CHAT, data!("chat-stream-usage.sse")),
    (CHAT, data!("chat-stream-vllm-cumulative.sse")),
    (COMPLETIONS, data!("completions-stream-usage.sse")),
    (RESPONSES, data!("responses-stream-error.sse")),
    (RESPONSES, data!("responses-stream-failed.sse")),
    (RESPONSES, data!("responses-stream-incomplete.sse")),
    (RESPONSES, data!("responses-stream-tools.sse")),
    (MESSAGES, data!("messages-stream-error.sse")),
    (MESSAGES, data!("messages-stream-tools.sse")),
    (SPEECH, data!("speech-stream.sse")),
];

/// A request for such a stream, and what a provider there answers whose account is well.
fn asked(path: &str) -> (Value, &'static str) {
    match path {
        CHAT => (streamed(ask(&[])), data!("chat-plain.json")),
        COMPLETIONS => {
            let body = json!({ "model": "gpt-4o-mini", "prompt": "Once", "stream": true });
            (body, data!("completions-plain.json"))
        }
        RESPONSES => {
            let body = json!({ "model": "gpt-4o-mini", "input": "Once", "stream": true });
            (body, data!("responses-plain.json"))
        }
        MESSAGES => {
            let said = json!([{ "role": "user", "content": "Once" }]);
            let body = json!({ "model": "gpt-4o-mini", "messages": said, "max_tokens": 100, "stream": true });
            (body, data!("messages-plain.json"))
        }
        _ => {
            let body = json!({ "model": "speaker", "input": "Once", "voice": "a", "stream_format": "sse" });
            (body, data!("speech-stream.sse"))
        }
    }
}

/// The places behind each event.
fn ends_of_events(stream: &str) -> Vec<usize> {
    let blank_line = ["\r\n\r\n", "\n\n", "\r\r"].into_iter().find(|end| stream.contains(end)).unwrap();
    stream.match_indices(blank_line).map(|(at, end)| at + end.len()).collect()
}

/// All strings in these events under names by which text is delivered, and how much audio there is.
fn said(events: &str) -> (String, usize) {
    let mut said = String::new();
    for event in events.replace("\r\n", "\n").replace('\r', "\n").split("\n\n") {
        let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        let event: Value = serde_json::from_str(&data.concat()).unwrap_or_default();
        // What a response ends with repeats what was said.
        if !event["type"].as_str().unwrap_or_default().ends_with(".done") {
            gather(&event, &mut said);
        }
    }
    (said, events.matches("speech.audio.delta").count())
}

fn gather(value: &Value, said: &mut String) {
    const NAMES: [&str; 9] = [
        "content",
        "refusal",
        "reasoning_content",
        "arguments",
        "name",
        "text",
        "thinking",
        "partial_json",
        "delta",
    ];
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(text) = value.as_str().filter(|_| NAMES.contains(&name.as_str())) {
            said.push_str(text);
        }
        // As above.
        if name != "response" {
            gather(value, said);
        }
    }
    value.as_array().into_iter().flatten().for_each(|value| gather(value, said));
}

/// Reads what comes until it breaks off; the id that was told with it, if anything came.
async fn read(client: &Client, path: &str, body: &Value) -> (Option<String>, String) {
    let mut response = client.post(path, body.to_string()).send().await.unwrap();
    let begun = response.status() == 200;
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut came = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        came.extend_from_slice(&chunk);
    }
    (begun.then_some(id), String::from_utf8_lossy(&came).into_owned())
}

#[tokio::test]
async fn a_stream_that_breaks_behind_any_event_costs_what_was_delivered() {
    let mut cuts = Vec::new();
    for (path, stream) in STREAMS {
        cuts.extend(ends_of_events(stream).into_iter().map(|end| (path, &stream[..end])));
    }
    let scripts: Vec<Script> = cuts
        .iter()
        .flat_map(|(path, stream)| {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000000\r\n\r\n";
            let cut = Script::send([head, stream].concat()).then(Then::Close);
            let good = match *path {
                SPEECH => Script::events(asked(path).1),
                _ => Script::json(asked(path).1),
            };
            [cut, good]
        })
        .collect();
    let provider = Scripted::start(move |number| scripts[number].clone());
    let gateway = Gateway::start(&[
        Account::scripted(&provider),
        Account::new("anthropic", provider.address).with("dialect: anthropic"),
    ]);
    let customer = gateway.customer("25.00");
    let clients = Client::both(&gateway, &customer);
    let mut found = [("none", 0), ("reported", 0), ("estimated", 0)];
    for (number, (path, sent)) in cuts.iter().enumerate() {
        let client = &clients[number % 2];
        let (mut body, _) = asked(path);
        let (id, came) = read(client, path, &body).await;
        let (could_be_read, could_be_heard) = said(sent);
        let (was_read, was_heard) = said(&came);
        if let Some(id) = id {
            let receipt = gateway.receipt(&id).await;
            let [metered, output] = [&receipt["metered"], &receipt["usage"]["output"]];
            let output = output.as_u64().unwrap();
            let bounds = [&was_read, &could_be_read].map(|said| tokenizer::count(Encoding::O200kBase, said));
            match metered.as_str().unwrap() {
                "none" => assert!(was_read.is_empty() && was_heard == 0, "free: {came} {receipt}"),
                "estimated" => {
                    assert!((bounds[0]..=bounds[1]).contains(&output), "{bounds:?}: {came} {receipt}");
                    assert_ne!(text(&receipt["charge"]), "0.00", "{came} {receipt}");
                }
                reported => {
                    assert_eq!(reported, "reported");
                    assert!(sent.contains("usage"), "{sent} {receipt}");
                }
            }
            found.iter_mut().filter(|(name, _)| metered == name).for_each(|(_, count)| *count += 1);
        } else {
            assert!(could_be_read.is_empty() && could_be_heard == 0, "lost: {sent} {came}");
        }
        // An account is shut by failures in a row.
        body["stream"] = json!(*path == SPEECH);
        let good = Answer::read(client.post(path, body.to_string())).await;
        assert_eq!(good.status, 200, "{good:?}");
    }
    assert!(found.iter().all(|(_, count)| *count >= 10), "{found:?} of {}", cuts.len());
    let audit = audit(gateway, &[]);
    assert_eq!(audit.reported + audit.estimated + audit.released, cuts.len() * 2, "one charge for each");
}
