//! The context of one request: what one hook leaves for the next.

use super::cors::Page;
use super::exchange::Exchange;
use super::line::Line;
use super::respond::Refusal;
use super::runs::Room;
use super::shelf::Shelf;
use super::trace::Trace;
use crate::admit::gate::Passed;
use crate::auth::Caller;
use crate::config::Retry;
use crate::endpoint::Endpoint;
use crate::id::{CustomerId, RequestId};
use crate::ledger::Commit;
use crate::live::Live;
use crate::record::metrics::Metrics;
use crate::upstream::health::Fault;
use crate::upstream::{Account, Lease, Need};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What is asked of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An endpoint that a provider serves.
    Sold(Endpoint),
    /// What a provider keeps for a customer.
    Stored,
    /// What a customer put at a provider.
    Shelf(Shelf),
    /// `GET /v1/models` and below.
    Models,
    /// `GET /tollgate/v1/…` and `/dashboard/billing/…`, with a customer's key.
    Account,
    /// `GET /healthz`, `/readyz`, preflights, and what does not exist.
    Other,
}

impl Place {
    /// The name used in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Place::Sold(endpoint) => endpoint.name(),
            Place::Stored => "responses.stored",
            Place::Shelf(shelf) => shelf.name(),
            Place::Models => "models",
            Place::Account => "account",
            Place::Other => "other",
        }
    }
}

/// One request.
pub struct Context {
    /// When its header had been read.
    pub started: Instant,
    /// The configuration and the pool that it is served by.
    pub live: Arc<Live>,
    /// Its id, told to the client and kept in the ledger.
    pub request: RequestId,
    /// The trace that its client is in.
    pub trace: Option<Trace>,
    /// The page in a browser that asks, if it is one.
    pub page: Page,
    /// What it asks for.
    pub place: Place,
    /// Who asks, once that is known.
    pub caller: Option<Caller>,
    /// The model that it asks for, if that is one of the price book.
    pub model: Option<Box<str>>,
    /// Its place behind the limits of its key and customer.
    pub passed: Option<Passed>,
    /// Once admitted.
    pub admitted: Option<InExchange>,
    /// Why it was answered by us with an error.
    pub refusal: Option<Refusal>,
    /// The status that the client got.
    pub status: u16,
    /// When its body had been read, when it first went out, when the answer had ended.
    pub times: Times,
    metrics: Arc<Metrics>,
    finished: bool,
}

/// An admitted request and its attempts.
pub struct InExchange {
    /// Its answer and its charge.
    pub exchange: Arc<Exchange>,
    /// Its downstream session's side.
    pub line: Arc<Line>,
    /// The hold's way to the disk, until it was waited for.
    pub commit: Option<Commit>,
    /// Who asked.
    pub customer: CustomerId,
    /// What it needs of an account.
    pub need: Need,
    /// The attempt under way.
    pub lease: Option<Lease>,
    /// The only account that can serve it, by name, if it goes on from what that has.
    pub only: Option<Arc<str>>,
    /// Accounts that failed, by name.
    pub tried: Vec<Arc<str>>,
    /// The account that failed last.
    pub last: Option<Arc<str>>,
    /// Attempts so far.
    pub attempts: u32,
    /// Which of them is the one under way, counted from 1.
    pub number: u32,
    /// Whether the attempt under way was answered.
    pub answered: bool,
    /// A refusal of the attempt under way, whose body is awaited.
    pub judged: Option<Judged>,
    /// A connection that had been kept alive was found closed: once, that is nobody's fault.
    pub stale: bool,
    /// Bytes of text that the client could have read when it was found gone.
    pub gone_at_bytes: Option<u64>,
    /// How the last attempt failed.
    pub fault: Option<Fault>,
    /// How often it is tried.
    pub retry: Retry,
    /// Attempts that have ended, if a collector is told of them.
    pub traced: Option<Vec<Ended>>,
    /// The share of the body budget; given back at the end.
    pub _body: BodyPermit,
    /// Its place among runs in the background, if it is to be one; given back at the end.
    pub(super) _run: Option<Room>,
}

/// An attempt that has ended.
pub struct Ended {
    /// Counted from 1.
    pub number: u32,
    /// On which account.
    pub account: Arc<Account>,
    /// When it began.
    pub begun: Instant,
    /// When it ended.
    pub ended: Instant,
    /// How, in a word.
    pub outcome: &'static str,
}

/// A refusal that says in its body what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// Its status.
    pub status: u16,
    /// How long it asks to wait.
    pub wait: Option<Duration>,
}

/// Moments that tell whose time was spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// The body had been read.
    pub read: Option<Instant>,
    /// The request was ready to go out.
    pub forwarded: Option<Instant>,
    /// The provider's last byte had come.
    pub ended: Option<Instant>,
}

impl Context {
    /// A new request.
    pub fn new(request: RequestId, live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        metrics.request_begins();
        Context {
            started: Instant::now(),
            live,
            request,
            trace: None,
            page: Page::default(),
            place: Place::Other,
            caller: None,
            model: None,
            passed: None,
            admitted: None,
            refusal: None,
            status: 0,
            times: Times::default(),
            metrics,
            finished: false,
        }
    }

    /// Time that was ours, if the request went out and came back.
    pub fn overhead(&self, now: Instant) -> Option<Duration> {
        let Times { read, forwarded, ended } = self.times;
        Some(forwarded?.duration_since(read?) + now.duration_since(ended?))
    }

    /// Counts the request as ended.
    pub fn finish(&mut self, model: &str) {
        if !std::mem::replace(&mut self.finished, true) {
            self.metrics.request_ends(self.place.name(), model, self.status, self.started.elapsed());
        }
    }
}

/// Panics and aborts end here, without `logging`; an open hold is released by its own drop.
impl Drop for Context {
    fn drop(&mut self) {
        self.finish("other");
    }
}

/// All request bodies in memory at once.
#[derive(Default)]
pub struct BodyBudget {
    used: Arc<AtomicUsize>,
}

impl BodyBudget {
    /// Begins a body of unknown size, if all together stay below `bytes_max`.
    pub fn begin(&self, bytes_max: usize) -> BodyPermit {
        BodyPermit { bytes: 0, bytes_max, used: Arc::clone(&self.used) }
    }
}

/// A body's share of the budget.
pub struct BodyPermit {
    bytes: usize,
    bytes_max: usize,
    used: Arc<AtomicUsize>,
}

impl BodyPermit {
    /// Asks for `more` bytes; tells whether they fit.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let before = self.used.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        before.saturating_add(more) <= self.bytes_max
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
