//! Looking after runs: each is read after [`FIRST`], then less and less often, for as long as it is at work.

use super::{Ask, Running, Runs, Told};
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Customer, Standing};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// How often it is looked which ones are to be read.
const STEP: Duration = Duration::from_millis(500);
/// When a run is read first; after each time it is read, half as much again passes before the next.
const FIRST: Duration = Duration::from_secs(2);
/// The longest between two reads.
const LONGEST: Duration = Duration::from_secs(60);
/// How many are read at once: each answer is held in memory.
const AT_ONCE_MAX: usize = 32;
/// How many are read at once of one account, so that one that is slow leaves room for others.
const AT_ONCE_OF_ACCOUNT_MAX: usize = 16;
/// How often a provider may not know a run before it is given up: it may be told of late.
const MISSING_MAX: u32 = 3;

/// A run that is looked after.
struct Watched {
    customer: CustomerId,
    request: RequestId,
    /// Once it was found in the journal.
    running: Option<Running>,
    pause: Duration,
    missing: u32,
}

/// What was seen of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing yet: it was only found.
    Found,
    /// It is at work, or may be.
    AtWork,
    /// Its account cannot be read.
    Unread,
    /// Its hold has ended.
    Ended,
}

impl Runs {
    /// Looks after all runs, for as long as the process lives.
    pub async fn keep(&self) {
        let mut schedule = Schedule::default();
        let mut reads = FuturesUnordered::new();
        let mut step = tokio::time::interval(STEP);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = step.tick() => {}
                Some((watched, seen)) = reads.next() => schedule.seen(watched, seen, Instant::now()),
            }
            for (customer, request) in self.ledger.take_detached() {
                let watched = Watched { customer, request, running: None, pause: FIRST, missing: 0 };
                schedule.put(watched, Instant::now() + FIRST);
            }
            // Another process that owns the ledger looks after them.
            if self.ledger.is_away() {
                continue;
            }
            let timeout = self.live.load().config.background.run_timeout;
            let since = Timestamp::now().before(timeout);
            while reads.len() < AT_ONCE_MAX
                && let Some(due) = schedule.due(Instant::now(), since)
            {
                reads.push(self.look(due, since));
            }
        }
    }

    /// Looks at a run. One that is still at work is cancelled if it began before `since`, and given up if that
    /// tells nothing; or if its customer was banned.
    async fn look(&self, mut watched: Watched, since: Timestamp) -> (Watched, Seen) {
        let Watched { customer, request, .. } = watched;
        if !self.ledger.holds(customer, request) {
            return (watched, Seen::Ended);
        }
        let Some(running) = &watched.running else {
            watched.running = self.find(customer, request).await;
            let seen = if watched.running.is_some() { Seen::Found } else { Seen::AtWork };
            return (watched, seen);
        };
        let seen = match self.ask(running, Ask::Read).await {
            Ok(Told::Ended) => return (watched, Seen::Ended),
            Ok(Told::AtWork) => {
                watched.missing = 0;
                Seen::AtWork
            }
            Ok(Told::Missing) => {
                watched.missing += 1;
                Seen::AtWork
            }
            Err(refusal) => {
                tracing::debug!(%request, why = refusal.reason(), "a run in the background cannot be read now");
                Seen::Unread
            }
        };
        let late = running.patience_since() < since;
        if (late || self.is_banned(customer)) && self.ask(running, Ask::Cancel).await == Ok(Told::Ended) {
            // What it used until then was told.
            return (watched, Seen::Ended);
        }
        let end = match () {
            () if watched.missing >= MISSING_MAX => "lost",
            () if late => "expired",
            () => return (watched, seen),
        };
        let released = self.release(running, end).await;
        (watched, if released.is_ok() { Seen::Ended } else { seen })
    }

    fn is_banned(&self, customer: CustomerId) -> bool {
        let banned = |found: &Customer| matches!(found.standing, Standing::Banned { .. });
        self.ledger.customer(customer, banned).unwrap_or(false)
    }

    async fn find(&self, customer: CustomerId, request: RequestId) -> Option<Running> {
        let ledger = Arc::clone(&self.ledger);
        match tokio::task::spawn_blocking(move || ledger.detached(request)).await {
            Ok(Ok(detached)) => Running::of(customer, request, &detached?),
            Ok(Err(why)) => {
                tracing::error!(%request, %why, "a run in the background cannot be found in the journal");
                None
            }
            Err(_) => None,
        }
    }
}

/// When which run is looked at. Pure: time is an argument.
#[derive(Default)]
struct Schedule {
    waiting: BTreeMap<(Instant, RequestId), Watched>,
    /// By the name of an account.
    turns: HashMap<Box<str>, Turn>,
}

/// What is read of one account.
#[derive(Default)]
struct Turn {
    at_once: usize,
    /// It could not be read, and is left alone until then.
    silent_until: Option<Instant>,
}

impl Schedule {
    fn put(&mut self, watched: Watched, at: Instant) {
        self.waiting.insert((at, watched.request), watched);
    }

    /// The next one to be looked at now. Those of an account that has to wait come later, unless they began
    /// before `since`.
    fn due(&mut self, now: Instant, since: Timestamp) -> Option<Watched> {
        loop {
            let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
            let watched = first.remove();
            let Some(running) = &watched.running else { return Some(watched) };
            let turn = self.turns.entry(running.run.upstream().into()).or_default();
            let later = match turn.silent_until.filter(|until| *until > now) {
                _ if running.patience_since() < since => None,
                None if turn.at_once >= AT_ONCE_OF_ACCOUNT_MAX => Some(now + STEP),
                silent => silent,
            };
            match later {
                Some(at) => self.put(watched, at),
                None => {
                    turn.at_once += 1;
                    return Some(watched);
                }
            }
        }
    }

    /// One was looked at.
    fn seen(&mut self, mut watched: Watched, seen: Seen, now: Instant) {
        if seen == Seen::Found {
            return self.put(watched, now);
        }
        if let Some(turn) =
            watched.running.as_ref().and_then(|running| self.turns.get_mut(running.run.upstream()))
        {
            turn.at_once -= 1;
            turn.silent_until = (seen == Seen::Unread).then_some(now + LONGEST);
        }
        if seen != Seen::Ended {
            watched.pause = (watched.pause + watched.pause / 2).min(LONGEST);
            let next = now + watched.pause;
            self.put(watched, next);
        }
    }
}

#[cfg(test)]
mod tests;
