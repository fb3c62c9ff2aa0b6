//! The pool of upstream accounts: which one serves a request.
//!
//! An account is a credential at a provider. Its addresses are found and watched by
//! pingora-load-balancing ([`addresses`]). Whether it takes a request is decided by its own breaker
//! ([`health`]), by what the operator lets it have ([`limits`]) and by what its provider tells
//! ([`told`], [`headroom`]); which one of those that can does, by [`select`].
//!
//! *Architecture invariant:* a [`Lease`] is one attempt on one account. It is made here only, takes
//! its share of the account's limits as long as it lives, and reports its outcome once.

mod account;
pub mod addresses;
pub mod headroom;
pub mod health;
mod lease;
pub mod limits;
pub mod select;
pub mod told;
pub mod window;

pub use account::{Account, Need, Room};
pub use lease::Lease;

use crate::config::Upstream;
use crate::endpoint::Endpoint;
use select::Candidate;
use std::sync::Arc;
use std::time::Instant;

/// What is asked of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where it is asked for.
    pub endpoint: Endpoint,
    /// The model, by the name that the client used.
    pub model: &'a str,
    /// What the request needs.
    pub need: &'a Need,
    /// Accounts that failed at it.
    pub tried: &'a [usize],
}

/// Why no account takes a request. The moment is when one may at the earliest, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// None serves the model.
    UnknownModel,
    /// Those that serve it have as much as they may, or say so themselves.
    Busy(Option<Instant>),
    /// Those that serve it are shut, or were tried.
    Down(Option<Instant>),
}

impl NoAccount {
    /// With one more account that cannot take it: having too much to do is the better news.
    fn and(self, other: NoAccount) -> NoAccount {
        let earlier = |a: Option<Instant>, b: Option<Instant>| a.into_iter().chain(b).min();
        match (self, other) {
            (NoAccount::UnknownModel, other) | (other, NoAccount::UnknownModel) => other,
            (NoAccount::Down(a), NoAccount::Down(b)) => NoAccount::Down(earlier(a, b)),
            (NoAccount::Busy(a), NoAccount::Busy(b) | NoAccount::Down(b))
            | (NoAccount::Down(a), NoAccount::Busy(b)) => NoAccount::Busy(earlier(a, b)),
        }
    }
}

/// All accounts.
pub struct Pool {
    accounts: Vec<Arc<Account>>,
}

impl Pool {
    /// A pool of configured accounts.
    ///
    /// # Errors
    /// What is wrong with an account, by name.
    pub fn new(upstreams: &[Upstream]) -> Result<Self, String> {
        Pool { accounts: Vec::new() }.next(upstreams)
    }

    /// The pool of another configuration. An account that keeps its base URL and its credential
    /// keeps its health, its load and its addresses; what this pool has leased stays leased.
    ///
    /// # Errors
    /// What is wrong with an account, by name.
    pub fn next(&self, upstreams: &[Upstream]) -> Result<Self, String> {
        let account = |upstream: &Upstream| {
            let before = self.accounts.iter().find(|account| account.name == upstream.name);
            Account::new(upstream, before.map(|account| &**account)).map(Arc::new)
        };
        let accounts = upstreams.iter().map(account).collect::<Result<Vec<_>, _>>()?;
        // Not before all of them are good: what an account keeps, it keeps for both pools.
        accounts.iter().zip(upstreams).for_each(|(account, upstream)| account.limit(&upstream.limits));
        Ok(Pool { accounts })
    }

    /// All accounts, in the order of the configuration.
    pub fn accounts(&self) -> &[Arc<Account>] {
        &self.accounts
    }

    /// Whether any account serves a model of this name, at this endpoint.
    pub fn serves(&self, endpoint: Endpoint, model: &str) -> bool {
        self.accounts.iter().any(|account| account.serves(endpoint, model).is_some())
    }

    /// Whether any account serves a model of this name, wherever.
    pub fn knows(&self, model: &str) -> bool {
        Endpoint::ALL.into_iter().any(|endpoint| self.serves(endpoint, model))
    }

    /// Chooses an account for one attempt, of those that have room; never one that was tried.
    ///
    /// # Errors
    /// When none can take it.
    pub fn choose(&self, ask: &Ask<'_>, now: Instant, random: u64) -> Result<Lease, NoAccount> {
        let mut none = NoAccount::UnknownModel;
        let mut candidates = Vec::with_capacity(self.accounts.len());
        for (index, account) in self.accounts.iter().enumerate() {
            let Some(model) = account.serves(ask.endpoint, ask.model) else { continue };
            match account.room(model, ask.need, now) {
                Room::Full(until) => none = none.and(NoAccount::Busy(until)),
                Room::Shut(until) => none = none.and(NoAccount::Down(Some(until))),
                Room::Free { .. } if ask.tried.contains(&index) => none = none.and(NoAccount::Down(None)),
                Room::Free { in_flight } => {
                    candidates.push(Candidate { index, weight: account.weight, in_flight });
                }
            }
        }
        while let Some(picked) = select::pick(&candidates, random) {
            match Lease::take(&self.accounts[picked.index], picked.index, ask, now) {
                Some(lease) => return Ok(lease),
                None => candidates.retain(|candidate| candidate.index != picked.index),
            }
            none = none.and(NoAccount::Busy(None));
        }
        Err(none)
    }
}
