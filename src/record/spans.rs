//! Spans of requests, on their way to a collector.
//!
//! A request whose trace is exported leaves what it was in a bounded queue and goes on; a thread of this
//! module's own sends spans in batches, by OTLP over HTTP. When the queue is full, or the collector does
//! not take a batch, spans are dropped and counted: nobody's answer waits for a collector.
//!
//! *Architecture invariant:* a span has ids, our own words, names of the configuration and numbers. Nothing
//! of a request's text, nothing of a key.

use super::metrics::Metrics;
use super::otlp;
use crate::clock::Timestamp;
use crate::config::Traces;
use crate::endpoint::Endpoint;
use crate::id::{CustomerId, RequestId};
use crate::usage::Usage;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use ureq::Agent;

/// Requests that wait at most: about 4 MB.
const QUEUE_REQUESTS_MAX: usize = 4_096;
/// Requests that are sent at once.
const BATCH_REQUESTS_MAX: usize = 256;
/// How long a batch is gathered.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take for a batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last batch.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// A request whose trace is exported.
#[derive(Debug)]
pub struct Traced {
    /// The trace.
    pub trace: u128,
    /// The span of the request.
    pub span: u64,
    /// The client's span, if it has one.
    pub parent: Option<u64>,
    /// When it began.
    pub began: Timestamp,
    /// From the end of its header to the end of its answer.
    pub duration: Duration,
    /// Its id.
    pub request: RequestId,
    /// What it asked for.
    pub endpoint: Endpoint,
    /// What the client got; 499 for one that went.
    pub status: u16,
    /// Who asked, if that is known.
    pub customer: Option<CustomerId>,
    /// The model, if it is one of the price book.
    pub model: Box<str>,
    /// Why the gateway refused it, or what broke.
    pub reason: Option<Box<str>>,
    /// What it was charged for.
    pub usage: Option<Usage>,
    /// In order.
    pub attempts: Vec<Attempt>,
}

/// One attempt on an upstream account.
#[derive(Debug)]
pub struct Attempt {
    /// Its span, a child of the request's.
    pub span: u64,
    /// The account.
    pub upstream: Arc<str>,
    /// Who made the API that it speaks.
    pub provider: &'static str,
    /// The host of the account.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// How long after the beginning of the request it began.
    pub begins: Duration,
    /// How long after it it ended.
    pub ends: Duration,
    /// How it ended, in a word; `ok` if it was answered.
    pub outcome: &'static str,
}

enum Message {
    Traced(Box<Traced>),
    /// Everything before it is to be sent; then the sender is told.
    Flush(SyncSender<()>),
}

/// Takes spans from any thread.
#[derive(Clone)]
pub struct Spans {
    queue: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

/// Says where spans go now; nowhere since a reload took that away.
pub type Target = Box<dyn Fn() -> Option<Arc<Traces>> + Send>;

impl Spans {
    /// Begins to send to `target`.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(target: Target, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_REQUESTS_MAX);
        let config = Agent::config_builder().timeout_global(Some(SEND_TIMEOUT)).proxy(None).build();
        let sender = Sender { agent: config.into(), target, metrics: Arc::clone(&metrics), failing: false };
        thread::Builder::new().name("spans".into()).spawn(move || sender.run(&messages))?;
        Ok(Spans { queue, metrics })
    }

    /// Leaves a request to be sent, unless too many wait.
    pub fn tell(&self, traced: Traced) {
        let spans = traced.spans();
        match self.queue.try_send(Message::Traced(Box::new(traced))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.spans_dropped(spans),
        }
    }

    /// Waits until what was told is sent, for a while.
    pub fn flush(&self) {
        let (done, sent) = sync_channel(1);
        // A queue that is full is that of a collector that is not there.
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = sent.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Traced {
    /// How many it is.
    fn spans(&self) -> u64 {
        1 + u64::try_from(self.attempts.len()).unwrap_or(u64::MAX - 1)
    }
}

/// The thread.
struct Sender {
    agent: Agent,
    target: Target,
    metrics: Arc<Metrics>,
    /// Whether the last batch was not taken.
    failing: bool,
}

impl Sender {
    /// Sends until all who tell are gone.
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let until = Instant::now() + GATHER;
            let (mut batch, mut flushed) = (Vec::new(), None);
            let mut next = Ok(first);
            loop {
                match next {
                    Ok(Message::Traced(traced)) => batch.push(*traced),
                    Ok(Message::Flush(done)) => flushed = Some(done),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
                if flushed.is_some() || batch.len() == BATCH_REQUESTS_MAX {
                    break;
                }
                next = messages.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            if !batch.is_empty() {
                self.send(&batch);
            }
            if let Some(done) = flushed {
                // Who asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    fn send(&mut self, batch: &[Traced]) {
        let spans = batch.iter().map(Traced::spans).sum();
        let Some(target) = (self.target)() else { return self.metrics.spans_dropped(spans) };
        let url = format!("{}/v1/traces", target.otlp_url);
        let body = otlp::document(batch, &target.service_name);
        let sent = self.agent.post(&url).header("content-type", "application/json").send(body);
        // What cannot be counted as taken is not sent again: the next batch would have to wait for it.
        match sent {
            Ok(_) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(url, "the collector takes spans again");
                }
                self.metrics.spans_exported(spans);
            }
            Err(why) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(url, %why, "the collector does not take spans: they are dropped");
                }
                self.metrics.spans_dropped(spans);
            }
        }
    }
}
