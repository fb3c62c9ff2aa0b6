//! The pool of upstream accounts: which one serves a request.
//!
//! An account is a credential at a provider. Its addresses are found and watched by
//! pingora-load-balancing ([`addresses`]); whether it is used is decided by its own breaker
//! ([`health`]) and load ([`select`]).
//!
//! *Architecture invariant:* a [`Lease`] is one attempt on one account. It is made here only,
//! counts as in flight as long as it lives, and reports its outcome once.

pub mod addresses;
pub mod health;
pub mod select;

use crate::config::{BaseUrl, Models, OnHangUp, Secret, Timeouts, Upstream};
use crate::endpoint::Endpoint;
use addresses::Addresses;
use health::{Breaker, Fault, Health};
use http::HeaderValue;
use parking_lot::Mutex;
use select::Candidate;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// One member of the pool.
pub struct Account {
    /// Its name in the configuration, unique.
    pub name: Arc<str>,
    /// Where it is.
    pub base_url: BaseUrl,
    /// `Bearer` and its credential; marked sensitive, so that it is not printed.
    pub authorization: HeaderValue,
    /// The host as requests name it.
    pub authority: HeaderValue,
    /// What it serves.
    pub models: Models,
    /// What a client that hangs up means for it.
    pub on_hang_up: OnHangUp,
    /// How long its answers may take.
    pub timeouts: Timeouts,
    weight: u32,
    /// Requests that it may have at once.
    pub concurrency_max: u32,
    state: Arc<State>,
    addresses: Addresses,
}

/// What is known of an account while it runs; kept over a reload.
#[derive(Default)]
struct State {
    in_flight: AtomicU32,
    breaker: Mutex<Breaker>,
}

/// Why no account takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// None serves the model.
    UnknownModel,
    /// Those that serve it have as many requests as they may, or say so themselves.
    Busy,
    /// Those that serve it are shut, or were tried.
    Down,
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
        Ok(Pool { accounts: upstreams.iter().map(account).collect::<Result<_, _>>()? })
    }

    /// All accounts, in the order of the configuration.
    pub fn accounts(&self) -> &[Arc<Account>] {
        &self.accounts
    }

    /// Whether any account serves a model of this name.
    pub fn serves(&self, model: &str) -> bool {
        self.accounts.iter().any(|account| account.models.provider_name(model).is_some())
    }

    /// Chooses an account for one attempt; never one of those in `tried`.
    ///
    /// # Errors
    /// When none can take it.
    pub fn choose(
        &self,
        model: &str,
        tried: &[usize],
        now: Instant,
        random: u64,
    ) -> Result<Lease, NoAccount> {
        let mut none = NoAccount::UnknownModel;
        let mut candidates = Vec::with_capacity(self.accounts.len());
        for (index, account) in self.accounts.iter().enumerate() {
            if account.models.provider_name(model).is_none() {
                continue;
            }
            let in_flight = account.in_flight();
            let (admits, overloaded) = {
                let breaker = account.state.breaker.lock();
                (breaker.admits(now), breaker.is_overloaded())
            };
            if (admits && in_flight >= account.concurrency_max) || (!admits && overloaded) {
                none = NoAccount::Busy;
            } else if !admits || tried.contains(&index) {
                none = if none == NoAccount::Busy { NoAccount::Busy } else { NoAccount::Down };
            } else {
                candidates.push(Candidate { index, weight: account.weight, in_flight });
            }
        }
        while let Some(picked) = select::pick(&candidates, random) {
            match Lease::take(&self.accounts[picked.index], picked.index, now) {
                Some(lease) => return Ok(lease),
                None => candidates.retain(|candidate| candidate.index != picked.index),
            }
            none = NoAccount::Busy;
        }
        Err(none)
    }
}

impl Account {
    fn new(upstream: &Upstream, before: Option<&Account>) -> Result<Self, String> {
        let authorization = bearer(&upstream.api_key)
            .ok_or_else(|| format!("{}: the api_key cannot be sent in a header", upstream.name))?;
        let before = before.filter(|before| before.base_url == upstream.base_url);
        // Health and load are a credential's; addresses are a host's.
        let same = before.filter(|before| before.authorization == authorization);
        Ok(Account {
            name: Arc::clone(&upstream.name),
            base_url: upstream.base_url.clone(),
            authority: HeaderValue::from_str(&upstream.base_url.authority())
                .map_err(|_| format!("{}: the base_url cannot be sent in a header", upstream.name))?,
            authorization,
            models: upstream.models.clone(),
            on_hang_up: upstream.on_hang_up,
            timeouts: upstream.timeouts,
            weight: upstream.weight,
            concurrency_max: upstream.limits.concurrency,
            state: same.map_or_else(Arc::default, |same| Arc::clone(&same.state)),
            addresses: before
                .map_or_else(|| Addresses::new(&upstream.base_url), |before| before.addresses.clone()),
        })
    }

    /// Where it serves this.
    pub fn path_of(&self, endpoint: Endpoint) -> String {
        [&self.base_url.path, endpoint.path()].concat()
    }

    /// An address to connect to; `None` when its name does not resolve.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.pick()
    }

    /// What finds and watches its addresses; to be run in the background.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Requests that it has now.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it is used.
    pub fn health(&self) -> Health {
        self.state.breaker.lock().health()
    }
}

fn bearer(key: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One attempt on one account, from its choice to the end of its answer.
#[must_use]
pub struct Lease {
    account: Arc<Account>,
    index: usize,
    /// When it began.
    pub begun: Instant,
}

impl Lease {
    fn take(account: &Arc<Account>, index: usize, now: Instant) -> Option<Lease> {
        let mut breaker = account.state.breaker.lock();
        let full = account.in_flight() >= account.concurrency_max;
        if full || !breaker.admits(now) {
            return None;
        }
        breaker.begin(now);
        account.state.in_flight.fetch_add(1, Ordering::Relaxed);
        drop(breaker);
        Some(Lease { account: Arc::clone(account), index, begun: now })
    }

    /// Whose.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The account's place in the pool, for the set of those tried.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The account begins to answer.
    pub fn answered(&self) {
        self.account.state.breaker.lock().answered();
    }

    /// The account answered to the end.
    pub fn succeeded(&self) {
        self.account.state.breaker.lock().success();
    }

    /// The attempt failed by the account's fault.
    pub fn failed(&self, fault: Fault, now: Instant) {
        self.account.state.breaker.lock().failure(fault, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        // Without effect unless this was the one on probation and said nothing.
        self.account.state.breaker.lock().abandoned(Instant::now());
    }
}
