//! Requests that wait for room: a line for the whole pool, kept over a reload, in which customers take
//! turns. It knows no accounts: whoever serves it brings those that there are by then.
//!
//! What becomes free is handed out in one place ([`Queue::serve`]): when a lease ends or an answer
//! tells of room, when a reload has changed the pool, and at the moments at which room is known to come. As long as anybody waits for a
//! model, whoever comes for it waits behind them, so that nobody is overtaken for the same; other
//! models are not held up, and have places of their own.

use super::fair::{Fair, Ticket};
use super::spoken::speaks;
use super::{Ask, Lease, Need, NoAccount};
use crate::config::{self, Dialect};
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
    line: Mutex<Fair<CustomerId, Sought, Waiter>>,
    depth: AtomicUsize,
    wake: Notify,
}

/// What is waited for: it decides which accounts can serve it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Sought {
    dialect: Dialect,
    model: Arc<str>,
}

impl Sought {
    fn of(ask: &Ask<'_>) -> Self {
        Sought { dialect: speaks(ask.endpoint), model: ask.model.into() }
    }
}

struct Waiter {
    kind: Arc<Kind>,
    customer: CustomerId,
    endpoint: Endpoint,
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
    sought: Sought,
    only: Option<Box<str>>,
    tried: Vec<Arc<str>>,
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

    /// Whether anybody waits for the same.
    pub(super) fn is_waited_for(&self, ask: &Ask<'_>) -> bool {
        self.depth() > 0 && self.line.lock().len_of(&Sought::of(ask)) > 0
    }

    /// How long the one who waits longest for the same has waited: whoever comes now waits as long,
    /// or longer.
    pub fn age(&self, ask: &Ask<'_>, now: Instant) -> Duration {
        let since = self.line.lock().iter_of(&Sought::of(ask)).map(|waiter| waiter.since).min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Joins the line.
    ///
    /// # Errors
    /// When it is full.
    pub(super) fn join(
        &self,
        ask: &Ask<'_>,
        bounds: config::Queue,
        now: Instant,
    ) -> Result<Place<'_>, Unserved> {
        let (place, served) = oneshot::channel();
        let Ask { customer, endpoint, .. } = *ask;
        let sought = Sought::of(ask);
        let (only, tried) = (ask.only.map(Box::from), ask.tried.to_vec());
        let kind = Arc::new(Kind { sought: sought.clone(), only, tried });
        let (need, since, deadline) = (*ask.need, now, now + bounds.wait);
        let waiter = Waiter { kind, customer, endpoint, need, since, deadline, place: Some(place) };
        // Dropping one that was pushed out tells it.
        let ticket = {
            let mut line = self.line.lock();
            let pushed = line.push(customer, sought, waiter, bounds.waiting_max);
            self.depth.store(line.len(), Ordering::Relaxed);
            pushed.map_err(|_| Unserved::Full)?.0
        };
        self.wake.notify_one();
        Ok(Place { queue: self, customer, ticket, deadline, served })
    }

    /// Has what becomes free handed out, for ever: `serve` does it, and gives the moment to look again.
    pub async fn run(&self, serve: impl Fn() -> Option<Instant>) {
        loop {
            let next = serve();
            tokio::select! {
                () = self.wake.notified() => {}
                () = next_look(next) => {}
            }
        }
    }

    /// Offers what is free now, by `choose`. Gives the moment to look again, if anybody is left.
    pub(super) fn serve(
        &self,
        now: Instant,
        mut choose: impl FnMut(&Ask<'_>) -> Result<Lease, NoAccount>,
    ) -> Option<Instant> {
        let mut line = self.line.lock();
        let mut next = now + LOOK_EVERY;
        let mut full: Vec<Arc<Kind>> = Vec::new();
        line.serve(|waiter| {
            if full.contains(&waiter.kind) {
                return false;
            }
            let Waiter { customer, endpoint, .. } = *waiter;
            let Kind { sought, only, tried } = &*waiter.kind;
            let (model, need, only) = (&*sought.model, &waiter.need, only.as_deref());
            let chosen = choose(&Ask { customer, endpoint, model, need, only, tried });
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

/// One's place in line. Who drops it has left the line.
#[must_use]
pub struct Place<'a> {
    queue: &'a Queue,
    customer: CustomerId,
    ticket: Ticket,
    deadline: Instant,
    served: oneshot::Receiver<Result<Lease, NoAccount>>,
}

impl Place<'_> {
    /// When it is given up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What came of it, if anything did yet.
    pub fn look(&mut self) -> Option<Result<Lease, Unserved>> {
        match self.served.try_recv() {
            Ok(served) => Some(served.map_err(Unserved::Hopeless)),
            Err(oneshot::error::TryRecvError::Empty) => None,
            // Pushed out by one who has fewer.
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Unserved::Full)),
        }
    }

    /// Waits until something came of it.
    ///
    /// # Errors
    /// When there is no lease in time.
    pub async fn wait(mut self) -> Result<Lease, Unserved> {
        match tokio::time::timeout_at(self.deadline.into(), &mut self.served).await {
            Ok(Ok(served)) => served.map_err(Unserved::Hopeless),
            Ok(Err(_)) => Err(Unserved::Full),
            Err(_) => Err(Unserved::Late),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = self.queue.line.lock();
        let gone = line.remove(self.customer, self.ticket);
        self.queue.depth.store(line.len(), Ordering::Relaxed);
        drop(line);
        // Outside of the lock.
        drop(gone);
    }
}
