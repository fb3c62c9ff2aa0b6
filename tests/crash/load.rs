//! Clients that ask until the gateway is gone, and remember exactly what they received.

use super::support::{Gateway, MODEL, PATIENCE, Site};
use fastrand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What one request came to, as its client saw it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the header of the answer.
    pub request: String,
    pub streamed: bool,
    /// The whole answer arrived: all bytes of a plain one; of a stream, `[DONE]`.
    pub complete: bool,
    /// The charge that a plain answer names.
    pub charge: Option<String>,
}

/// How many there were of each.
#[derive(Debug, Default)]
pub struct Tally {
    pub plain: usize,
    pub streamed: usize,
    pub cut: usize,
}

impl Tally {
    pub fn of(outcomes: &[Outcome]) -> Tally {
        let count = |streamed, complete| {
            outcomes.iter().filter(|seen| seen.streamed == streamed && seen.complete == complete).count()
        };
        Tally { plain: count(false, true), streamed: count(true, true), cut: count(true, false) }
    }
}

/// Clients at work at the same time.
pub const CLIENTS: usize = 32;
const GOES_ON: u8 = 0;
/// Clients end after the request that they are at.
const FINISHING: u8 = 1;
/// Errors are expected, and end a client.
const KILLING: u8 = 2;

/// Clients at work.
pub struct Load {
    runtime: Handle,
    phase: Arc<AtomicU8>,
    seen: tokio::sync::Mutex<mpsc::UnboundedReceiver<Outcome>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn begin(site: &Site, gateway: &Gateway, keys: &[String], mut rng: Rng) -> Load {
        let phase = Arc::new(AtomicU8::new(GOES_ON));
        let (sender, seen) = mpsc::unbounded_channel();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let tasks = (0..CLIENTS).map(|_| {
            let client = Client {
                http: http.clone(),
                url: format!("{}/v1/chat/completions", gateway.url),
                key: keys[rng.usize(..keys.len())].clone(),
                rng: rng.fork(),
                phase: Arc::clone(&phase),
                seen: sender.clone(),
            };
            site.runtime.spawn(client.work())
        });
        let tasks = tasks.collect();
        let seen = tokio::sync::Mutex::new(seen);
        Load { runtime: site.runtime.handle().clone(), phase, seen, tasks }
    }

    /// Waits for so many complete answers.
    pub fn wait_for(&self, answers: usize) -> Vec<Outcome> {
        self.runtime.block_on(async {
            let mut seen = self.seen.lock().await;
            let mut outcomes = Vec::new();
            while outcomes.len() < answers {
                let outcome = tokio::time::timeout(PATIENCE, seen.recv()).await.expect("answers in time");
                outcomes.push(outcome.expect("clients go on until they are told"));
            }
            outcomes
        })
    }

    /// From now on the gateway may go at any moment.
    pub fn killing(&self) {
        self.phase.store(KILLING, Ordering::SeqCst);
    }

    /// From now on no request is begun.
    pub fn finishing(&self) {
        self.phase.store(FINISHING, Ordering::SeqCst);
    }

    /// Waits for all clients to end, and gives what else they saw.
    pub fn end(self) -> Vec<Outcome> {
        self.runtime.block_on(async {
            for task in self.tasks {
                let ended = tokio::time::timeout(PATIENCE, task).await.expect("clients end in time");
                ended.expect("a client's own asserts hold");
            }
            let mut seen = self.seen.into_inner();
            let mut outcomes = Vec::new();
            while let Some(outcome) = seen.recv().await {
                outcomes.push(outcome);
            }
            outcomes
        })
    }
}

struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
    rng: Rng,
    phase: Arc<AtomicU8>,
    seen: mpsc::UnboundedSender<Outcome>,
}

impl Client {
    async fn work(mut self) {
        while self.phase.load(Ordering::SeqCst) != FINISHING {
            let (body, streamed) = request(&mut self.rng);
            match self.ask(&body, streamed).await {
                Ok(()) => {}
                Err(why) if self.phase.load(Ordering::SeqCst) == KILLING => {
                    drop(why);
                    return;
                }
                Err(why) => panic!("a request failed, and no kill was near: {why:?}"),
            }
        }
    }

    /// Asks, and tells of an answer that began; an error is the end of the connection.
    async fn ask(&self, body: &Value, streamed: bool) -> Result<(), reqwest::Error> {
        let request = self.http.post(&self.url).bearer_auth(&self.key).json(body);
        let mut response = request.send().await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("text").to_owned())
        };
        let id = header("x-request-id").expect("each answer has its id");
        let mut outcome =
            Outcome { request: id, streamed, complete: false, charge: header("x-tollgate-charge") };
        let status = response.status();
        let mut text = Vec::new();
        let read = loop {
            match response.chunk().await {
                Ok(Some(piece)) => text.extend_from_slice(&piece),
                Ok(None) => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        let text = String::from_utf8_lossy(&text);
        assert_eq!(status, 200, "{text}");
        outcome.complete =
            if streamed { text.contains("data: [DONE]\n") || read.is_ok() } else { read.is_ok() };
        if outcome.complete && streamed {
            assert!(text.contains("data: [DONE]\n"), "a stream that ended well is whole: {text}");
        }
        self.seen.send(outcome).expect("the load is there until its clients have ended");
        read
    }
}

/// A request, and whether it is streamed: plain and quick ones, and streams so slow that a kill
/// comes in their middle.
fn request(rng: &mut Rng) -> (Value, bool) {
    let mut metadata = serde_json::Map::new();
    let mut set = |name: &str, number: u64| {
        metadata.insert(format!("simulate_{name}"), number.to_string().into());
    };
    set("tokens", rng.u64(1..60));
    set("cached_tokens", rng.u64(0..8));
    if rng.u32(0..3) == 0 {
        set("reasoning_tokens", rng.u64(1..40));
    }
    let streamed = match rng.u32(0..10) {
        0..4 => false,
        4 => {
            set("latency_ms", rng.u64(1..40));
            false
        }
        5..7 => true,
        _ => {
            set("chunks", rng.u64(2..12));
            set("pace_ms", rng.u64(1..25));
            true
        }
    };
    let prompt = "What is the smallest thing that can be charged for? ".repeat(rng.usize(1..4));
    let mut body = json!({
        "model": MODEL, "messages": [{ "role": "user", "content": prompt }], "metadata": metadata
    });
    if streamed {
        body["stream"] = true.into();
        if rng.bool() {
            body["stream_options"] = json!({ "include_usage": true });
        }
    }
    (body, streamed)
}
