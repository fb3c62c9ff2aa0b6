//! Batches: files of requests that are answered later, in a file of their own.
//!
//! What each line uses follows from its request, as everywhere. A batch ends a chosen time after it was made,
//! when it is looked at first: `simulate_ms` in its metadata; `simulate_end` says how, if not `completed`. One
//! that was cancelled or expired has done the first half of its lines, one that failed none.

use super::faults::scramble;
use super::files::{File, Files, Said};
use super::limit::Headroom;
use super::log::Served;
use super::options::Options;
use super::plan::{Asked, Plan, Shape};
use super::refusal::{Refusal, last4};
use super::stream::Step;
use crate::clock::Timestamp;
use crate::endpoint::Endpoint;
use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many are kept; the oldest are forgotten.
const BATCHES_MAX: usize = 1_000;

/// Who asks, and when.
pub(super) struct Asking<'a> {
    pub account: &'a str,
    /// The request's `x-client-request-id`, or empty.
    pub request: &'a str,
    /// A number that no other request has.
    pub number: u64,
    pub now: Timestamp,
}

/// What is answered, and what was served for it.
pub(super) struct Told {
    pub json: String,
    pub served: Vec<Served>,
}

/// All batches of all accounts.
#[derive(Default)]
pub(super) struct Batches(Mutex<Vec<Batch>>);

struct Batch {
    account: String,
    /// The request that made it.
    request: String,
    id: String,
    number: u64,
    asked: Create,
    created: Timestamp,
    cancelled: bool,
    ended: Option<Ended>,
}

#[derive(Debug, Deserialize)]
struct Create {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    custom_id: String,
    url: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

struct Ended {
    status: &'static str,
    output: Option<String>,
    errors: Option<String>,
    completed: usize,
    failed: usize,
    usage: Value,
}

impl Batches {
    /// Makes a batch.
    pub fn create(&self, asking: &Asking<'_>, body: &[u8], files: &Files) -> Result<Told, Refusal> {
        let asked: Create = serde_json::from_slice(body).map_err(|_| Refusal::not_json())?;
        files.answer(asking.account, &Method::GET, &asked.input_file_id, "content")?;
        let batch = Batch {
            account: asking.account.to_owned(),
            request: asking.request.to_owned(),
            id: format!("batch_{:016x}", scramble(asking.number)),
            number: asking.number,
            asked,
            created: asking.now,
            cancelled: false,
            ended: None,
        };
        let json = batch.told().to_string();
        let mut all = self.0.lock();
        all.push(batch);
        if all.len() > BATCHES_MAX {
            all.remove(0);
        }
        Ok(Told { json, served: Vec::new() })
    }

    /// What is answered to who asks for a batch, or for `below` it; without a name, for all of theirs.
    pub fn answer(&self, asking: &Asking<'_>, id: &str, below: &str, files: &Files) -> Result<Told, Refusal> {
        let mut all = self.0.lock();
        if id.is_empty() {
            let theirs = all.iter().rev().filter(|batch| batch.account == asking.account);
            let list = json!({ "object": "list", "data": theirs.map(Batch::told).collect::<Vec<_>>(), "has_more": false });
            return Ok(Told { json: list.to_string(), served: Vec::new() });
        }
        let found = all.iter_mut().find(|batch| batch.account == asking.account && batch.id == id);
        let batch = found.ok_or_else(|| Refusal::no_batch(id))?;
        if below == "cancel" && batch.ended.is_none() && batch.end(asking.now).is_none() {
            batch.cancelled = true;
            return Ok(Told { json: batch.told().to_string(), served: Vec::new() });
        }
        let served = match batch.end(asking.now) {
            Some(status) if batch.ended.is_none() => batch.work(status, asking.now, files),
            Some(_) | None => Vec::new(),
        };
        Ok(Told { json: batch.told().to_string(), served })
    }
}

impl Batch {
    /// How it has ended by now, if it has.
    fn end(&self, now: Timestamp) -> Option<&'static str> {
        let metadata = |name: &str| self.asked.metadata.get(name).map(String::as_str);
        let ms = metadata("simulate_ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
        match metadata("simulate_end") {
            _ if self.cancelled => Some("cancelled"),
            _ if now.before(Duration::from_millis(ms)) < self.created => None,
            Some("expired") => Some("expired"),
            Some("failed") => Some("failed"),
            Some(_) | None => Some("completed"),
        }
    }

    /// Answers its lines, as many as it came to, and puts that into files.
    fn work(&mut self, status: &'static str, now: Timestamp, files: &Files) -> Vec<Served> {
        let file = files.answer(&self.account, &Method::GET, &self.asked.input_file_id, "content");
        let text = if let Ok(Said::Content(bytes)) = file { bytes } else { Bytes::new() };
        let lines: Vec<Line<'_>> =
            text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let done = match status {
            "completed" => lines.len(),
            "failed" => 0,
            _ => lines.len() / 2,
        };
        let (mut output, mut errors, mut served) = (String::new(), String::new(), Vec::new());
        for (place, line) in (0..).zip(&lines[..done]) {
            let (answer, entry) = self.serve(line, place, now);
            let out = if entry.status == 200 { &mut output } else { &mut errors };
            out.push_str(&answer);
            out.push('\n');
            served.extend(Some(entry).filter(|entry| entry.status == 200));
        }
        let put = |text: String, name: &str, number: u64| {
            (!text.is_empty()).then(|| {
                let file = File {
                    account: self.account.clone(),
                    id: format!("file-{:016x}", scramble(self.number ^ number)),
                    name: format!("{}_{name}.jsonl", self.id),
                    purpose: "batch_output".to_owned(),
                    bytes: text.into(),
                    created: now.seconds(),
                };
                let id = file.id.clone();
                files.put(file);
                id
            })
        };
        let (completed, failed) = (served.len(), done - served.len());
        self.ended = Some(Ended {
            status,
            output: put(output, "output", 1 << 62),
            errors: put(errors, "error", 1 << 63),
            completed,
            failed,
            usage: usage(&served),
        });
        served
    }

    /// The answer to a line, and what the log has of it.
    fn serve(&self, line: &Line<'_>, place: u64, now: Timestamp) -> (String, Served) {
        let number = self.number.wrapping_add(place << 32);
        let asked = Asked {
            endpoint: Endpoint::at(&line.url).unwrap_or(Endpoint::Chat),
            shape: Shape::OpenAi,
            credential: Some(&self.account),
            content_type: "application/json",
            body: line.body.get().as_bytes(),
            headroom: Headroom::UNLIMITED,
            number,
            seed: 0,
            stored_tokens: 0,
            now_s: now.seconds(),
        };
        let mut plan = Plan::of(&asked, &Options::default());
        let body = match plan.script.next() {
            Some(Step::Send { bytes, .. }) => bytes,
            Some(Step::Cut) | None => Bytes::new(),
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = json!({
            "id": format!("batch_req_{:016x}", scramble(number)),
            "custom_id": line.custom_id,
            "response": { "status_code": plan.status, "request_id": format!("{number:016x}"), "body": body },
            "error": null,
        });
        let entry = Served {
            at: now,
            request: self.request.clone(),
            path: line.url.clone(),
            model: plan.model,
            status: plan.status,
            prompt_tokens: plan.counts.prompt_tokens,
            cached_tokens: plan.counts.cached_tokens,
            completion_tokens: plan.counts.completion_tokens,
            reasoning_tokens: plan.counts.reasoning_tokens,
            service_tier: "batch".to_owned(),
            complete: true,
            chunks_sent: 1,
            credential_last4: last4(&self.account).to_owned(),
            ..Served::default()
        };
        (answer.to_string(), entry)
    }

    fn told(&self) -> Value {
        let ended = self.ended.as_ref();
        let status = match (ended, self.cancelled) {
            (Some(ended), _) => ended.status,
            (None, true) => "cancelling",
            (None, false) => "in_progress",
        };
        json!({
            "id": self.id, "object": "batch", "endpoint": self.asked.endpoint, "errors": null,
            "input_file_id": self.asked.input_file_id, "completion_window": self.asked.completion_window,
            "status": status, "created_at": self.created.seconds(), "metadata": self.asked.metadata,
            "output_file_id": ended.and_then(|ended| ended.output.as_ref()),
            "error_file_id": ended.and_then(|ended| ended.errors.as_ref()),
            "request_counts": {
                "total": ended.map_or(0, |ended| ended.completed + ended.failed),
                "completed": ended.map_or(0, |ended| ended.completed),
                "failed": ended.map_or(0, |ended| ended.failed),
            },
            "usage": ended.map(|ended| &ended.usage),
        })
    }
}

/// The sum over all lines, as a batch tells it.
fn usage(served: &[Served]) -> Value {
    let sum = |of: fn(&Served) -> u64| served.iter().map(of).sum::<u64>();
    let (input, output) = (sum(|line| line.prompt_tokens), sum(|line| line.completion_tokens));
    json!({
        "input_tokens": input, "input_tokens_details": { "cached_tokens": sum(|line| line.cached_tokens) },
        "output_tokens": output, "output_tokens_details": { "reasoning_tokens": sum(|line| line.reasoning_tokens) },
        "total_tokens": input + output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(number: u64, at_ms: i64) -> Asking<'static> {
        Asking { account: "a", request: "req_1", number, now: Timestamp::from_micros(at_ms * 1_000) }
    }

    fn line(custom_id: &str, status: &str) -> String {
        json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": {
            "model": "gpt-4o", "messages": [{ "role": "user", "content": "hello" }],
            "metadata": { "simulate_status": status } } })
        .to_string()
        .replace(r#""simulate_status":"""#, r#""simulate_tokens":"7""#)
    }

    fn made(metadata: &Value) -> (Files, Batches, String) {
        let (files, batches) = (Files::default(), Batches::default());
        let bytes = [line("1", ""), line("2", "400"), line("3", ""), line("4", "")].join("\n").into();
        let (account, id) = ("a".to_owned(), "file-in".to_owned());
        files.put(File { account, id, name: "x".into(), purpose: "batch".into(), bytes, created: 0 });
        let body = json!({ "input_file_id": "file-in", "endpoint": "/v1/chat/completions",
            "completion_window": "24h", "metadata": metadata });
        let told = batches.create(&asking(1, 1_000), body.to_string().as_bytes(), &files);
        let Ok(told) = told else { panic!("it was made") };
        let id = serde_json::from_str::<Value>(&told.json).unwrap()["id"].as_str().unwrap().to_owned();
        (files, batches, id)
    }

    #[track_caller]
    fn check(metadata: &Value, asks: &[(&str, i64, &str, usize)]) {
        let (files, batches, id) = made(metadata);
        for (below, at_ms, status, served) in asks {
            let Ok(told) = batches.answer(&asking(2, *at_ms), &id, below, &files) else { panic!("{asks:?}") };
            let json: Value = serde_json::from_str(&told.json).unwrap();
            assert_eq!((&json["status"], told.served.len()), (&json!(status), *served), "{json}");
            if let Some(output) = json["output_file_id"].as_str() {
                let said = files.answer("a", &Method::GET, output, "content");
                let Ok(Said::Content(output)) = said else { panic!("{said:?}") };
                let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
                assert_eq!(json["request_counts"]["completed"], json!(lines));
            }
        }
    }

    #[test]
    fn a_batch_ends_when_it_is_time_and_is_served_once() {
        check(&json!({}), &[("", 1_000, "completed", 3), ("", 1_000, "completed", 0)]);
        let later = json!({ "simulate_ms": "500" });
        check(&later, &[("", 1_499, "in_progress", 0), ("", 1_500, "completed", 3)]);
        check(
            &later,
            &[
                ("cancel", 1_400, "cancelling", 0),
                ("", 1_400, "cancelled", 1),
                ("cancel", 1_600, "cancelled", 0),
            ],
        );
        check(&json!({ "simulate_end": "expired" }), &[("", 1_000, "expired", 1)]);
        check(&json!({ "simulate_end": "failed" }), &[("", 1_000, "failed", 0)]);
        let (files, batches, id) = made(&json!({}));
        let other = Asking { account: "b", ..asking(3, 1_000) };
        assert!(batches.answer(&other, &id, "", &files).is_err());
    }
}
