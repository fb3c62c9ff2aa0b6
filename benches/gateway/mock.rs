//! The mock provider: answers made beforehand, on one thread, for a few microseconds each.

use super::Failed;
use super::wire::Wire;
use memchr::memmem;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

/// Events of a streamed answer that say something.
const EVENTS: usize = 100;
/// Of each such event.
const EVENT_BYTES: usize = 200;
/// From one event to the next: so slow that none waits for the one before it, and the load stays far
/// from what a core can do. Each event is then a read and a write of its own, as in real life.
const PACE: Duration = Duration::from_millis(2);
/// Of a plain answer.
const PLAIN_BYTES: usize = 1024;
const DONE: &str = "data: [DONE]\n\n";

/// What every request is answered with.
pub struct Answers {
    plain: String,
    events: Vec<String>,
    usage: String,
}

impl Answers {
    pub fn new() -> Self {
        let usage = json!({
            "prompt_tokens": 228, "completion_tokens": 120, "total_tokens": 348,
            "prompt_tokens_details": { "cached_tokens": 128, "audio_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 }
        });
        let plain = |content: &str| {
            let message = json!({ "role": "assistant", "content": content, "refusal": null });
            let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" });
            envelope("chat.completion", &json!([choice]), &usage)
        };
        let event = |content: &str| {
            let choice = json!({ "index": 0, "delta": { "content": content }, "finish_reason": null });
            format!("data: {}\n\n", envelope("chat.completion.chunk", &json!([choice]), &json!(null)))
        };
        let last = json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]);
        let last = format!("data: {}\n\n", envelope("chat.completion.chunk", &last, &json!(null)));
        let mut events = vec![filled(EVENT_BYTES, event); EVENTS];
        events.push(last);
        let usage = format!("data: {}\n\n", envelope("chat.completion.chunk", &json!([]), &usage));
        Answers { plain: filled(PLAIN_BYTES, plain), events, usage }
    }

    /// Bytes of the body of a plain answer.
    pub fn plain_bytes(&self) -> usize {
        self.plain.len()
    }

    /// Bytes of the body of a streamed answer whose usage was not asked for.
    pub fn stream_bytes(&self) -> usize {
        self.events.iter().map(String::len).sum::<usize>() + DONE.len()
    }
}

fn envelope(object: &str, choices: &serde_json::Value, usage: &serde_json::Value) -> String {
    json!({
        "id": "chatcmpl-bench", "object": object, "created": 1_795_000_000, "model": "gpt-4o-mini",
        "choices": choices, "usage": usage, "system_fingerprint": "fp_0"
    })
    .to_string()
}

/// What `make` makes of just enough text.
pub fn filled(bytes: usize, make: impl Fn(&str) -> String) -> String {
    let missing = bytes.saturating_sub(make("").len());
    let text: String = "the quick brown fox jumps over the lazy dog ".chars().cycle().take(missing).collect();
    make(&text)
}

/// Serves on any free port, which it prints.
pub fn run() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("{}", listener.local_addr()?);
        let raw = Arc::new(Raw::new(&Answers::new()));
        loop {
            let wire = Wire::new(listener.accept().await?.0)?;
            let raw = Arc::clone(&raw);
            tokio::spawn(async move {
                // A gateway that has ended closes its connections as it likes.
                let _ = serve(wire, &raw).await;
            });
        }
    })
}

/// Answers as they are written.
struct Raw {
    plain: Vec<u8>,
    stream_head: &'static [u8],
    events: Vec<Vec<u8>>,
    end: Vec<u8>,
    end_with_usage: Vec<u8>,
}

impl Raw {
    fn new(answers: &Answers) -> Self {
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
        let end = [chunk(DONE), b"0\r\n\r\n".to_vec()].concat();
        let plain = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
            answers.plain.len(),
            answers.plain
        );
        Raw {
            plain: plain.into_bytes(),
            stream_head:
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            events: answers.events.iter().map(|event| chunk(event)).collect(),
            end_with_usage: [chunk(&answers.usage), end.clone()].concat(),
            end,
        }
    }
}

async fn serve(mut wire: Wire, raw: &Raw) -> io::Result<()> {
    while let Some(head) = wire.head().await? {
        let body = wire.small_body(&head).await?;
        if memmem::find(body, b"\"stream\":true").is_none() {
            wire.write(&raw.plain).await?;
            continue;
        }
        let reports_usage = memmem::find(body, b"\"include_usage\":true").is_some();
        wire.write(raw.stream_head).await?;
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for event in &raw.events {
            pace.tick().await;
            wire.write(event).await?;
        }
        wire.write(if reports_usage { &raw.end_with_usage } else { &raw.end }).await?;
    }
    Ok(())
}
