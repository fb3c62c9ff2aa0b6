//! The load: connections that each send the next request when the last was answered, or at a pace.

use super::Failed;
use super::mock::{Answers, filled};
use super::wire::Wire;
use clap::ValueEnum;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Of every request's body.
const REQUEST_BYTES: usize = 1024;
/// No answer takes longer unless something is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// An answer of 1 KiB
    Plain,
    /// An answer of 100 events, one each 2 ms
    Stream,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Plain, Kind::Stream];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Stream => "stream",
        }
    }
}

/// Load on one target.
pub struct Load<'a> {
    pub address: SocketAddr,
    pub kind: Kind,
    pub key: &'a str,
    pub connections: u16,
    /// Requests a second over all connections; without it, as many as are answered.
    pub rate: Option<u32>,
}

/// What a load got: as many answers as asked, all of them whole.
pub struct Counted {
    /// To the last byte of a plain answer, to the first of a stream; in microseconds, sorted.
    pub latencies_us: Vec<u32>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Counted {
    pub fn count(&self) -> u64 {
        u64::try_from(self.latencies_us.len()).unwrap_or(u64::MAX)
    }
}

impl Load<'_> {
    /// Sends requests for `length`, and waits for the answers to all of them.
    pub fn run(&self, length: Duration) -> Result<Counted, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.send(length))
    }

    async fn send(&self, length: Duration) -> Result<Counted, Failed> {
        let job = Arc::new(Job::new(self, length));
        let mut connections = JoinSet::new();
        for place in 0..self.connections {
            let due = self.rate.map(|rate| Pace::new(place, self.connections, rate));
            connections.spawn(Arc::clone(&job).work(due));
        }
        let mut latencies_us = Vec::new();
        while let Some(worked) = connections.join_next().await {
            latencies_us.extend(worked??);
        }
        let elapsed = job.begun.elapsed();
        latencies_us.sort_unstable();
        Ok(Counted { latencies_us, elapsed })
    }
}

/// When a connection sends: connections take turns, each after the same time.
struct Pace {
    next: Duration,
    interval: Duration,
}

impl Pace {
    fn new(place: u16, connections: u16, rate: u32) -> Self {
        let turn = Duration::from_secs(1) / rate;
        Pace { next: turn * u32::from(place), interval: turn * u32::from(connections) }
    }
}

/// What every connection does.
struct Job {
    address: SocketAddr,
    kind: Kind,
    request: Vec<u8>,
    expected_bytes: usize,
    begun: Instant,
    length: Duration,
}

impl Job {
    fn new(load: &Load<'_>, length: Duration) -> Self {
        let answers = Answers::new();
        let expected_bytes = match load.kind {
            Kind::Plain => answers.plain_bytes(),
            Kind::Stream => answers.stream_bytes(),
        };
        let request = request(load);
        Job { address: load.address, kind: load.kind, request, expected_bytes, begun: Instant::now(), length }
    }

    async fn work(self: Arc<Self>, mut pace: Option<Pace>) -> Result<Vec<u32>, Failed> {
        let mut wire = Wire::new(TcpStream::connect(self.address).await?)?;
        let mut latencies_us = Vec::with_capacity(4096);
        while self.begun.elapsed() < self.length {
            if let Some(pace) = &mut pace {
                tokio::time::sleep_until((self.begun + pace.next).into()).await;
                pace.next += pace.interval;
            }
            let answered = tokio::time::timeout(PATIENCE, self.exchange(&mut wire)).await;
            let latency = answered.map_err(|_| "no answer came")??;
            latencies_us.push(u32::try_from(latency.as_micros())?);
        }
        Ok(latencies_us)
    }

    async fn exchange(&self, wire: &mut Wire) -> Result<Duration, Failed> {
        let sent = Instant::now();
        wire.write(&self.request).await?;
        let head = wire.head().await?.ok_or("a connection was closed instead of an answer")?;
        let first = sent.elapsed();
        if head.status != 200 {
            return Err(format!("an answer had status {}", head.status).into());
        }
        let bytes = wire.skip_body(&head).await?;
        if bytes != self.expected_bytes {
            return Err(format!("an answer had {bytes} bytes instead of {}", self.expected_bytes).into());
        }
        Ok(match self.kind {
            Kind::Plain => sent.elapsed(),
            Kind::Stream => first,
        })
    }
}

fn request(load: &Load<'_>) -> Vec<u8> {
    let body = filled(REQUEST_BYTES, |content| {
        let mut body = json!({
            "model": "gpt-4o-mini", "temperature": 0.7, "max_tokens": 256,
            "messages": [
                { "role": "system", "content": "You are a helpful assistant." },
                { "role": "user", "content": content }
            ]
        });
        if load.kind == Kind::Stream {
            body["stream"] = true.into();
        }
        body.to_string()
    });
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: bench\r\n\
         Content-Length: {}\r\n\r\n{body}",
        load.address,
        load.key,
        body.len()
    )
    .into_bytes()
}
