//! Gates: the limits of keys and customers, and what was used of them a moment ago.
//!
//! Only what is limited has a gate, found by its id in the same time however many there are. A request
//! passes the gate of its key, then that of its customer; what it took of the first is given back when
//! the second is shut.
//!
//! *Architecture invariant:* a [`Passed`] is made here only. It gives back its places when it is dropped.

mod elsewhere;

pub use elsewhere::{Change, Tell, Used};

use super::limits::{Limits, Restriction};
use super::rate::{Bucket, PerMinute, Short};
use crate::auth::Caller;
use crate::clock::{Tick, Timestamp};
use crate::id::{CustomerId, KeyId};
use crate::ledger::Budgets;
use crate::policy::content::Mode;
use crate::policy::countries::Denied;
use dashmap::DashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How soon a place may be free: nobody knows.
const PLACE_WAIT_US: u64 = 1_000_000;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The key's.
    Key,
    /// The customer's.
    Customer,
}

/// Whose gate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// A key's.
    Key(KeyId),
    /// A customer's.
    Customer(CustomerId),
}

impl Whose {
    fn of(self) -> Of {
        match self {
            Whose::Key(_) => Of::Key,
            Whose::Customer(_) => Of::Customer,
        }
    }
}

/// Which rate or number is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Requests at once.
    Concurrency,
    /// Looks at the account a minute.
    Looks,
    /// Runs in the background at once.
    Runs,
}

/// Why a gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// It is not allowed at all.
    Restricted(Of, Restriction),
    /// Too much, for now.
    Rate(Of, Rate, u64, Short),
}

impl Rate {
    /// The word used in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Rate::Requests => "requests_per_minute",
            Rate::Tokens => "tokens_per_minute",
            Rate::Concurrency => "concurrency",
            Rate::Looks => "account_requests_per_minute",
            Rate::Runs => "runs",
        }
    }
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |of: &Of| match of {
            Of::Key => "key",
            Of::Customer => "account",
        };
        match self {
            Shut::Restricted(of, why) => write!(f, "This {} {}.", whose(of), why.message()),
            Shut::Rate(of, rate, limit, short) => {
                let what = match rate {
                    Rate::Requests => "requests a minute",
                    Rate::Tokens => "tokens a minute",
                    Rate::Concurrency => "requests at once",
                    Rate::Looks => "looks at it a minute",
                    Rate::Runs => "runs in the background at once",
                };
                let then = match short.wait_us {
                    Some(_) => "Try again in a moment",
                    None => "This request is larger than that: send less, or lower max_completion_tokens",
                };
                write!(f, "The limit of this {} is {limit} {what}. {then}.", whose(of))
            }
        }
    }
}

/// Where and when a request knocks.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    /// The endpoint's name.
    pub endpoint: &'a str,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// Now, on the wall clock.
    pub at: Timestamp,
    /// Now, on the other.
    pub tick: Tick,
}

/// What the caller is told about a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The rate.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Until it is whole again.
    pub reset_us: u64,
}

/// The gate of one key or customer.
struct Gate(Mutex<Inside>);

struct Inside {
    limits: Limits,
    requests: Bucket,
    tokens: Bucket,
    running: u32,
    /// The same of requests that another process has.
    elsewhere: u32,
    /// Hears of what is taken and given back, once another process counts that.
    tell: Option<Tell>,
}

impl Inside {
    fn new(limits: Limits) -> Self {
        let (requests, tokens) = (Bucket::default(), Bucket::default());
        Inside { limits, requests, tokens, running: 0, elsewhere: 0, tell: None }
    }

    fn pass(&mut self, whose: Whose, knock: &Knock<'_>) -> Result<(), Shut> {
        let of = whose.of();
        let restricted = |why| Shut::Restricted(of, why);
        self.limits.open(knock.from, knock.at).map_err(restricted)?;
        self.limits.allow_endpoint(knock.endpoint).map_err(restricted)?;
        if let Some(max) = self.limits.concurrency.filter(|max| self.under_way() >= *max) {
            let short = Short { wait_us: Some(PLACE_WAIT_US) };
            return Err(Shut::Rate(of, Rate::Concurrency, max.into(), short));
        }
        if let Some(rpm) = self.limits.rpm {
            let taken = self.requests.take(1, PerMinute(rpm), knock.tick);
            taken.map_err(|short| Shut::Rate(of, Rate::Requests, rpm, short))?;
        }
        self.running += 1;
        self.tell(whose, Change::Began);
        Ok(())
    }

    fn demand(&mut self, whose: Whose, model: &str, tokens: u64, now: Tick) -> Result<(), Shut> {
        if !self.limits.allows_model(model) {
            return Err(Shut::Restricted(whose.of(), Restriction::Model));
        }
        if let Some(tpm) = self.limits.tpm {
            let taken = self.tokens.take(tokens, PerMinute(tpm), now);
            taken.map_err(|short| Shut::Rate(whose.of(), Rate::Tokens, tpm, short))?;
        }
        self.tell(whose, Change::Took(tokens));
        Ok(())
    }

    /// What a request that was let in does later.
    fn does(&mut self, whose: Whose, change: Change, now: Tick) {
        if let Change::Ended { .. } = change {
            self.running -= 1;
        }
        self.count(change, now);
        self.tell(whose, change);
    }

    fn told(&self, rate: Rate, now: Tick) -> Option<Told> {
        let (limit, bucket) = match rate {
            Rate::Requests => (self.limits.rpm?, &self.requests),
            Rate::Tokens => (self.limits.tpm?, &self.tokens),
            Rate::Concurrency | Rate::Looks | Rate::Runs => return None,
        };
        let per_minute = PerMinute(limit);
        Some(Told {
            limit,
            remaining: bucket.left(per_minute, now),
            reset_us: bucket.full_in_us(per_minute, now),
        })
    }
}

/// All gates.
#[derive(Default)]
pub struct Gates {
    keys: DashMap<KeyId, Arc<Gate>>,
    customers: DashMap<CustomerId, Arc<Gate>>,
    /// Of both: a look at it spares two look-ups where nothing is limited.
    count: AtomicUsize,
}

impl Gates {
    /// From now on, these are the limits of a key; what it used just now still counts.
    pub fn set_key(&self, key: KeyId, limits: Limits) {
        set(&self.keys, key, limits, &self.count);
    }

    /// A key opens nothing any more.
    pub fn remove_key(&self, key: KeyId) {
        if self.keys.remove(&key).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// From now on, these are the limits of a customer; what they used just now still counts.
    pub fn set_customer(&self, customer: CustomerId, limits: Limits) {
        set(&self.customers, customer, limits, &self.count);
    }

    /// Lets a request of `caller` in; nothing is given to who is not limited.
    ///
    /// # Errors
    /// The first limit that forbids it; nothing is taken then.
    pub fn pass<'a>(
        &self,
        caller: &Caller,
        knock: impl FnOnce() -> Knock<'a>,
    ) -> Result<Option<Passed>, Shut> {
        let Some(mut passed) = self.gates_of(caller) else { return Ok(None) };
        let knock = knock();
        passed.tick = knock.tick;
        for place in [&mut passed.key, &mut passed.customer].into_iter().flatten() {
            place.gate.0.lock().pass(place.whose, &knock)?;
            place.inside = true;
        }
        passed.in_order = true;
        Ok(Some(passed))
    }

    /// Whether `caller` is let in for what costs nothing: only what they may do at all counts.
    ///
    /// # Errors
    /// The first restriction that forbids it.
    pub fn look(&self, caller: &Caller, from: Option<IpAddr>, at: Timestamp) -> Result<Option<Passed>, Shut> {
        let passed = self.gates_of(caller);
        for place in passed.iter().flat_map(Passed::places) {
            let open = place.gate.0.lock().limits.open(from, at);
            open.map_err(|why| Shut::Restricted(place.whose.of(), why))?;
        }
        Ok(passed)
    }

    /// Whether a customer is served where nobody else is.
    pub fn excepts(&self, customer: CustomerId, denied: Denied) -> bool {
        self.customers.get(&customer).is_some_and(|gate| gate.0.lock().limits.excepts(denied))
    }

    /// How what a customer asks is judged, if that is said of them.
    pub fn content_of(&self, customer: CustomerId) -> Option<Mode> {
        self.customers.get(&customer)?.0.lock().limits.content
    }

    fn gates_of(&self, caller: &Caller) -> Option<Passed> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let place = |whose| self.gate(whose).map(|gate| Place { gate, whose, inside: false });
        let (key, customer) = (place(Whose::Key(caller.key())), place(Whose::Customer(caller.customer())));
        let limited = key.is_some() || customer.is_some();
        limited.then(|| Passed { key, customer, in_order: false, tick: Tick::default(), tokens: 0 })
    }

    fn gate(&self, whose: Whose) -> Option<Arc<Gate>> {
        match whose {
            Whose::Key(key) => self.keys.get(&key).map(|gate| Arc::clone(&gate)),
            Whose::Customer(customer) => self.customers.get(&customer).map(|gate| Arc::clone(&gate)),
        }
    }
}

/// A gate stays when its last limit is lifted: requests are inside. It costs nothing but its room.
fn set<K: Eq + std::hash::Hash>(gates: &DashMap<K, Arc<Gate>>, key: K, limits: Limits, count: &AtomicUsize) {
    if let Some(gate) = gates.get(&key) {
        gate.0.lock().limits = limits;
    } else if limits != Limits::default() {
        gates.insert(key, Arc::new(Gate(Mutex::new(Inside::new(limits)))));
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request's place behind one gate.
struct Place {
    gate: Arc<Gate>,
    whose: Whose,
    inside: bool,
}

impl Place {
    fn does(&self, change: Change, now: Tick) {
        self.gate.0.lock().does(self.whose, change, now);
    }
}

/// A request that was let in.
#[must_use]
pub struct Passed {
    key: Option<Place>,
    customer: Option<Place>,
    /// It was not sent back at the second gate.
    in_order: bool,
    /// When it knocked.
    tick: Tick,
    tokens: u64,
}

impl Passed {
    fn places(&self) -> impl Iterator<Item = &Place> {
        [&self.key, &self.customer].into_iter().flatten()
    }

    /// Whether a model may be asked for.
    pub fn allows_model(&self, name: &str) -> bool {
        self.places().all(|place| place.gate.0.lock().limits.allows_model(name))
    }

    /// What the request may spend.
    pub fn budgets(&self) -> Budgets {
        let budget = |place: &Option<Place>| {
            place.as_ref().map(|place| place.gate.0.lock().limits.budget()).unwrap_or_default()
        };
        Budgets { key: budget(&self.key), customer: budget(&self.customer) }
    }

    /// Takes what the request will use, as far as that can be said.
    ///
    /// # Errors
    /// When the model is not allowed, or so many tokens are not there; none are taken then.
    pub fn demand(&mut self, model: &str, tokens: u64, now: Tick) -> Result<(), Shut> {
        for (number, place) in self.places().enumerate() {
            let asked = place.gate.0.lock().demand(place.whose, model, tokens, now);
            if let Err(shut) = asked {
                self.places().take(number).for_each(|place| place.does(Change::GaveBack(tokens), now));
                return Err(shut);
            }
        }
        self.tokens = tokens;
        Ok(())
    }

    /// The request used so many tokens: what it took in advance is made true.
    pub fn used(&mut self, tokens: u64, now: Tick) {
        let before = std::mem::replace(&mut self.tokens, tokens);
        let change = match tokens.checked_sub(before) {
            Some(0) => return,
            Some(more) => Change::Took(more),
            None => Change::GaveBack(before - tokens),
        };
        self.places().for_each(|place| place.does(change, now));
    }

    /// What is left of a rate: of the key's or the customer's, whichever is less.
    pub fn told(&self, rate: Rate, now: Tick) -> Option<Told> {
        let told = self.places().filter_map(|place| place.gate.0.lock().told(rate, now));
        told.min_by_key(|told| told.remaining)
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        let ended = Change::Ended { sent_back: !self.in_order };
        self.places().filter(|place| place.inside).for_each(|place| place.does(ended, self.tick));
    }
}

#[cfg(test)]
mod tests;
