//! The access log: one JSON object a line for each request that is told.
//!
//! A request leaves its line in a bounded queue and goes on; a thread of this module's own looks up
//! what is missing, writes JSON, and waits for whoever reads the log. When the queue is full, lines
//! are dropped and counted: nobody's answer waits for a log.
//!
//! *Architecture invariant:* a line has ids, our own words, names of the configuration and numbers.
//! Nothing of a request's text, nothing of a key but its prefix.

use super::failures::Failures;
use super::output;
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::ledger::Ledger;
use crate::money::Amount;
use crate::record::metrics::Metrics;
use crate::usage::{Metered, Usage};
use serde::Serialize;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait at most: about 4 MB, and a second of a busy gateway.
const QUEUE_LINES_MAX: usize = 8_192;
/// Lines that are written at once.
const BATCH_LINES_MAX: usize = 256;
/// How long the end of the process waits for a reader of the log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is told of one request.
#[derive(Debug, Serialize)]
pub struct Line {
    /// When it ended.
    pub timestamp: Timestamp,
    /// `INFO`, or `WARN` where the fault is ours or the provider's.
    pub level: &'static str,
    /// What kind of line this is.
    pub target: &'static str,
    /// Its id.
    pub request: RequestId,
    /// What it asked for.
    pub endpoint: &'static str,
    /// What the client got; 499 for one that went.
    pub status: u16,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer: Option<CustomerId>,
    /// By which key; its prefix is looked up when the line is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// The model, if it is one of the price book.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub model: Box<str>,
    /// The upstream account that answered, or the last that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    /// Attempts on upstream accounts.
    pub attempts: u32,
    /// Why the gateway refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<&'static str>,
    /// What broke, in a word of Pingora's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// How it was charged.
    #[serde(flatten)]
    pub charged: Option<Charged>,
    /// From the end of its header to the end of its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_us: Option<u64>,
    /// From the end of its header to the first byte of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u64>,
    /// The part of its time that was the gateway's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead_us: Option<u64>,
    /// From the end of its header to the end of its answer.
    pub duration_us: u64,
    /// The trace that the client is in, and the span that this request is.
    #[serde(flatten)]
    pub span: Option<Span>,
}

/// What a charge adds to a line.
#[derive(Debug, Serialize)]
pub struct Charged {
    /// How the answer ended.
    pub end: &'static str,
    /// How the usage was found.
    pub metered: Metered,
    /// Tokens by class.
    pub usage: Usage,
    /// US dollars.
    pub charge: Amount,
    /// What the customer has after it.
    pub balance: Amount,
}

/// A place in a W3C trace.
#[derive(Debug, Serialize)]
pub struct Span {
    /// Of all that one cause led to.
    pub trace_id: String,
    /// Of this request.
    pub span_id: String,
}

/// A line with what only the ledger knows.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    line: &'a Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_prefix: Option<Arc<str>>,
}

enum Message {
    Line(Box<Line>),
    /// Everything before it is to be written; then the sender is told.
    Flush(SyncSender<()>),
}

/// Takes lines from any thread.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    failures: Arc<Failures>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Begins to write to standard output.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(ledger: Arc<Ledger>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        let failures = Arc::<Failures>::default();
        let noted = Arc::clone(&failures);
        let write = move || write_all(&lines, &ledger, &noted, &mut io::stdout());
        thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok(AccessLog { queue, failures, metrics })
    }

    /// The last requests that failed.
    pub fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.failures)
    }

    /// Leaves a line to be written, unless too many wait.
    pub fn tell(&self, line: Line) {
        match self.queue.try_send(Message::Line(Box::new(line))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.log_line_dropped(),
        }
    }

    /// Waits until what was told is written, for a while.
    pub fn flush(&self) {
        let until = Instant::now() + FLUSH_TIMEOUT;
        let (done, written) = sync_channel(1);
        let mut flush = Message::Flush(done);
        // Who does not read the log loses its end.
        while let Err(TrySendError::Full(unsent)) = self.queue.try_send(flush) {
            if Instant::now() > until {
                return;
            }
            flush = unsent;
            thread::sleep(Duration::from_millis(10));
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Writes until all senders are gone.
fn write_all(lines: &Receiver<Message>, ledger: &Ledger, failures: &Failures, out: &mut impl Write) {
    let mut batch = Vec::with_capacity(64 * 1024);
    while let Ok(first) = lines.recv() {
        let mut flushed = Vec::new();
        let more = lines.try_iter().take(BATCH_LINES_MAX - 1);
        for message in std::iter::once(first).chain(more) {
            match message {
                Message::Line(line) => {
                    failures.note(&line);
                    put(&mut batch, &line, ledger);
                }
                Message::Flush(done) => flushed.push(done),
            }
        }
        // Nobody reads: there is nobody to tell.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        for done in flushed {
            // Who asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

fn put(out: &mut Vec<u8>, line: &Line, ledger: &Ledger) {
    let key = line.customer.zip(line.key);
    let key_prefix = key.and_then(|(customer, key)| {
        ledger.customer(customer, |found| found.keys.get(&key).map(|key| Arc::clone(&key.prefix)))?
    });
    out.extend_from_slice(output::priority(line.level));
    let begun = out.len();
    match serde_json::to_writer(&mut *out, &Written { line, key_prefix }) {
        Ok(()) => out.push(b'\n'),
        Err(_) => out.truncate(begun),
    }
}
