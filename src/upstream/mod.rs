//! The pool of upstream accounts: which one serves a request.
//!
//! An account is a credential at a provider. Its addresses are found and watched by
//! pingora-load-balancing ([`addresses`]). Whether it takes a request is decided by its own breaker
//! ([`health`]), by what the operator lets it have ([`limits`]) and by what its provider tells
//! ([`told`], [`headroom`]); which one of those that can does, by [`select`]. When none can, a request
//! waits in line ([`queue`], [`fair`]).
//!
//! *Architecture invariant:* a [`Lease`] is one attempt on one account. It is made here only, takes
//! its share of the account's limits as long as it lives, and reports its outcome once.

pub mod account;
pub mod addresses;
pub mod budget;
pub mod fair;
pub mod headroom;
pub mod health;
pub mod latency;
mod lease;
pub mod limits;
pub mod queue;
pub mod select;
pub mod spoken;
pub mod told;
pub mod window;

pub use account::{Account, Comes, Need, Room, Standing};
pub use lease::Lease;

use crate::config::{self, Upstream};
use crate::endpoint::Endpoint;
use crate::id::CustomerId;
use budget::Budget;
use limits::Counts;
use queue::{Place, Queue, Unserved};
use select::Candidate;
use std::sync::Arc;
use std::time::Instant;

/// What is asked of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// On whose behalf.
    pub customer: CustomerId,
    /// Where it is asked for.
    pub endpoint: Endpoint,
    /// The model, by the name that the client used.
    pub model: &'a str,
    /// What the request needs.
    pub need: &'a Need,
    /// The only account that can serve it, by name, if it goes on from what that has.
    pub only: Option<&'a str>,
    /// Accounts that failed at it, by name: a reload may come between two attempts.
    pub tried: &'a [Arc<str>],
}

impl Ask<'_> {
    /// Whether this account is one to ask.
    fn considers(&self, account: &Account) -> bool {
        self.only.is_none_or(|only| *only == *account.name) && !self.tried.contains(&account.name)
    }
}

/// Why no account takes a request, from the worst news to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// None serves the model.
    UnknownModel,
    /// All that serve it were tried, are drained, or do not have what it goes on from.
    Tried,
    /// Those that serve it are shut; not before then.
    Down(Instant),
    /// Those that serve it have as much as they may; not before then, if that is known.
    Busy(Option<Instant>),
}

impl NoAccount {
    /// With one more account that cannot take it.
    fn and(self, other: NoAccount) -> NoAccount {
        match (self, other) {
            (NoAccount::Busy(a), NoAccount::Busy(b)) => NoAccount::Busy(a.zip(b).map(|(a, b)| a.min(b))),
            (NoAccount::Busy(Some(a)), NoAccount::Down(b))
            | (NoAccount::Down(b), NoAccount::Busy(Some(a))) => NoAccount::Busy(Some(a.min(b))),
            (busy @ NoAccount::Busy(_), _) | (_, busy @ NoAccount::Busy(_)) => busy,
            (NoAccount::Down(a), NoAccount::Down(b)) => NoAccount::Down(a.min(b)),
            (down @ NoAccount::Down(_), _) | (_, down @ NoAccount::Down(_)) => down,
            (NoAccount::Tried, _) | (_, NoAccount::Tried) => NoAccount::Tried,
            (NoAccount::UnknownModel, NoAccount::UnknownModel) => NoAccount::UnknownModel,
        }
    }

    /// The earliest moment at which that may change, if it is known.
    pub fn until(self) -> Option<Instant> {
        match self {
            NoAccount::UnknownModel | NoAccount::Tried => None,
            NoAccount::Down(until) => Some(until),
            NoAccount::Busy(until) => until,
        }
    }

    /// Whether it may change before then.
    pub fn may_change_by(self, deadline: Instant) -> bool {
        match self {
            NoAccount::UnknownModel | NoAccount::Tried => false,
            NoAccount::Down(until) => until <= deadline,
            NoAccount::Busy(until) => until.is_none_or(|until| until <= deadline),
        }
    }
}

/// All accounts.
pub struct Pool {
    accounts: Box<[Arc<Account>]>,
    queue: Arc<Queue>,
    budget: Arc<Budget>,
}

impl Pool {
    /// A pool of configured accounts.
    ///
    /// # Errors
    /// What is wrong with an account, by name.
    pub fn new(upstreams: &[Upstream]) -> Result<Self, String> {
        let (queue, budget) = (Arc::default(), Arc::default());
        Pool { accounts: Box::default(), queue, budget }.next(upstreams)
    }

    /// The pool of another configuration. An account that keeps its base URL and its credential
    /// keeps its health, its load and its addresses; what this pool has leased stays leased. What one that
    /// stays may have changes when the pool [goes live](Pool::goes_live).
    ///
    /// # Errors
    /// What is wrong with an account, by name.
    pub fn next(&self, upstreams: &[Upstream]) -> Result<Self, String> {
        let account = |upstream: &Upstream| {
            let before = self.accounts().iter().find(|account| account.name == upstream.name);
            Account::new(upstream, before.map(|account| &**account), &self.queue).map(Arc::new)
        };
        let accounts = upstreams.iter().map(account).collect::<Result<Box<[_]>, _>>()?;
        let (queue, budget) = (Arc::clone(&self.queue), Arc::clone(&self.budget));
        Ok(Pool { accounts, queue, budget })
    }

    /// It has taken the place of the pool before it, with which its accounts share what they may have. Whoever
    /// waits may fit now.
    pub fn goes_live(&self) {
        self.accounts.iter().for_each(|account| account.goes_live());
        self.queue.wake();
    }

    /// All accounts, in the order of the configuration.
    pub fn accounts(&self) -> &[Arc<Account>] {
        &self.accounts
    }

    /// The account of this name.
    pub fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.iter().find(|account| *account.name == *name)
    }

    /// What counted against the limits of accounts of these names in the process before.
    pub fn take_over(&self, counts: &[(Arc<str>, Counts)], now: Instant) {
        for (name, counts) in counts {
            if let Some(account) = self.account(name) {
                account.take_over(counts, now);
            }
        }
    }

    /// Those who wait.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// What is left for retries.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Whether any account serves a model of this name, at this endpoint.
    pub fn serves(&self, endpoint: Endpoint, model: &str) -> bool {
        self.accounts().iter().any(|account| account.serves(endpoint, model).is_some())
    }

    /// Whether any account serves a model of this name, wherever.
    pub fn knows(&self, model: &str) -> bool {
        Endpoint::ALL.into_iter().any(|endpoint| self.serves(endpoint, model))
    }

    /// Chooses an account for one attempt, of those that have room; never one that was tried.
    /// Whoever comes while others wait for the same model has to wait, too.
    ///
    /// # Errors
    /// When none can take it now.
    pub fn choose(&self, ask: &Ask<'_>, now: Instant, random: u64) -> Result<Lease, NoAccount> {
        if self.queue.is_waited_for(ask) {
            Err(NoAccount::Busy(None))
        } else {
            self.choose_of_all(ask, now, random)
        }
    }

    /// Joins the line of those who wait for a lease.
    ///
    /// # Errors
    /// When it is full.
    pub fn join(&self, ask: &Ask<'_>, bounds: config::Queue, now: Instant) -> Result<Place<'_>, Unserved> {
        self.queue.join(ask, bounds, now)
    }

    /// Hands the room that there is now to those who wait, whatever pool they came to. Gives the moment to
    /// look again, if anybody is left.
    pub fn serve(&self, now: Instant, mut random: impl FnMut() -> u64) -> Option<Instant> {
        self.queue.serve(now, |ask| self.choose_of_all(ask, now, random()))
    }

    fn choose_of_all(&self, ask: &Ask<'_>, now: Instant, random: u64) -> Result<Lease, NoAccount> {
        let mut none = NoAccount::UnknownModel;
        let mut candidates = Vec::with_capacity(self.accounts.len());
        for (index, account) in self.accounts.iter().enumerate() {
            let Some(model) = account.serves(ask.endpoint, ask.model) else { continue };
            if !ask.considers(account) {
                none = none.and(NoAccount::Tried);
                continue;
            }
            match account.room(model, ask.need, now) {
                Room::Full(until) => none = none.and(NoAccount::Busy(until)),
                Room::Shut(until) => none = none.and(NoAccount::Down(until)),
                Room::Absent => {}
                Room::Draining => none = none.and(NoAccount::Tried),
                Room::Free { in_flight, latency } => candidates.push(Candidate {
                    index,
                    priority: account.priority,
                    weight: account.weight,
                    in_flight,
                    latency,
                    affinity: ask.need.affinity.map(|affinity| select::mix(affinity, account.seed)),
                }),
            }
        }
        while let Some(picked) = select::pick(&mut candidates, random) {
            match Lease::take(&self.accounts[picked.index], ask, now) {
                Some(lease) => return Ok(lease),
                None => candidates.retain(|candidate| candidate.index != picked.index),
            }
            none = none.and(NoAccount::Busy(None));
        }
        Err(none)
    }
}

#[cfg(test)]
mod tests;
