//! Requests that wait for room: one line for the whole pool, kept over a reload.
//!
//! One task hands out what becomes free ([`Queue::run`]): it is woken when a lease ends or an answer
//! tells of room, and at the moments at which room is known to come. As long as anybody waits, whoever
//! comes waits behind them, so that nobody is overtaken for the same accounts.

use super::fair::{Fair, Ticket};
use super::{Accounts, Ask, Lease, Need, NoAccount};
use crate::config;
use crate::endpoint::Endpoint;
use crate::id::CustomerId;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// While anybody waits, it is looked at least this often, whatever was missed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The line.
#[derive(Default)]
pub struct Queue {
    line: Mutex<Fair<CustomerId, Waiter>>,
    depth: AtomicUsize,
    wake: Notify,
}

struct Waiter {
    kind: Arc<Kind>,
    customer: CustomerId,
    need: Need,
    since: Instant,
    /// When it gives up.
    deadline: Instant,
    /// Until it is served.
    place: Option<oneshot::Sender<Result<Lease, NoAccount>>>,
}

/// Who is of one kind could be served by the same accounts: so nobody overtakes their like.
#[derive(PartialEq)]
struct Kind {
    accounts: Accounts,
    endpoint: Endpoint,
    model: Box<str>,
    tried: Vec<usize>,
}

/// Why one who waited has no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The line is full.
    Full,
    /// Its time was up.
    Late,
    /// Waiting does not help.
    Hopeless(NoAccount),
}

impl Queue {
    /// How many wait.
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// Something may have become free.
    pub fn wake(&self) {
        if self.depth() > 0 {
            self.wake.notify_one();
        }
    }

    /// How long the one who waits longest has waited: whoever comes now waits as long, or longer.
    pub fn age(&self, now: Instant) -> Duration {
        let since = self.line.lock().iter().map(|waiter| waiter.since).min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Waits for a lease. Who drops the future no longer waits.
    ///
    /// # Errors
    /// When there is none in time.
    pub(super) async fn wait(
        &self,
        accounts: &Accounts,
        ask: &Ask<'_>,
        bounds: config::Queue,
    ) -> Result<Lease, Unserved> {
        let (place, served) = oneshot::channel();
        let Ask { endpoint, model, tried, .. } = *ask;
        let kind = Kind { accounts: accounts.clone(), endpoint, model: model.into(), tried: tried.to_vec() };
        let (kind, since, place) = (Arc::new(kind), Instant::now(), Some(place));
        let deadline = since + bounds.wait;
        let waiter = Waiter { kind, customer: ask.customer, need: *ask.need, since, deadline, place };
        // Dropping one that was pushed out tells it.
        let ticket = {
            let mut line = self.line.lock();
            let pushed = line.push(ask.customer, waiter, bounds.waiting_max);
            self.depth.store(line.len(), Ordering::Relaxed);
            pushed.map_err(|_| Unserved::Full)?.0
        };
        let _waiting = Waiting { queue: self, customer: ask.customer, ticket };
        self.wake.notify_one();
        match tokio::time::timeout(bounds.wait, served).await {
            Ok(Ok(Ok(lease))) => Ok(lease),
            Ok(Ok(Err(none))) => Err(Unserved::Hopeless(none)),
            Ok(Err(_)) => Err(Unserved::Full),
            Err(_) => Err(Unserved::Late),
        }
    }

    /// Hands out what becomes free, for ever.
    pub async fn run(&self) {
        loop {
            let next = self.serve(Instant::now());
            tokio::select! {
                () = self.wake.notified() => {}
                () = next_look(next) => {}
            }
        }
    }

    /// Hands out what is free now. Gives the moment to look again, if anybody is left.
    fn serve(&self, now: Instant) -> Option<Instant> {
        let mut line = self.line.lock();
        let mut next = now + LOOK_EVERY;
        let mut full: Vec<Arc<Kind>> = Vec::new();
        line.serve(|waiter| {
            if full.contains(&waiter.kind) {
                return false;
            }
            let Kind { accounts, endpoint, model, tried } = &*waiter.kind;
            let endpoint = *endpoint;
            let ask = Ask { customer: waiter.customer, endpoint, model, need: &waiter.need, tried };
            let chosen = accounts.choose(&ask, now, fastrand::u64(..));
            // Who cannot be served in time is told so at once, and keeps nobody waiting.
            if let Err(none @ (NoAccount::Busy(_) | NoAccount::Down(_))) = chosen
                && none.may_change_by(waiter.deadline)
            {
                next = none.until().map_or(next, |until| next.min(until));
                full.push(Arc::clone(&waiter.kind));
                return false;
            }
            // Who left in this moment drops the lease, and that wakes us again.
            if let Some(place) = waiter.place.take() {
                drop(place.send(chosen));
            }
            true
        });
        self.depth.store(line.len(), Ordering::Relaxed);
        (!line.is_empty()).then_some(next)
    }
}

async fn next_look(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// One that waits: out of the line when dropped.
struct Waiting<'a> {
    queue: &'a Queue,
    customer: CustomerId,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.line.lock();
        let gone = line.remove(self.customer, self.ticket);
        self.queue.depth.store(line.len(), Ordering::Relaxed);
        drop(line);
        // Outside of the lock.
        drop(gone);
    }
}
