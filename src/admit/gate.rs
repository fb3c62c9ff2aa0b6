//! Gates: the limits of keys and customers, and what was used of them a moment ago.
//!
//! Only what is limited has a gate, found by its id in the same time however many there are. A request
//! passes the gate of its key, then that of its customer; what it took of the first is given back when
//! the second is shut.
//!
//! *Architecture invariant:* a [`Passed`] is made here only. It gives back its places when it is dropped.

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
}

impl Inside {
    fn pass(&mut self, of: Of, knock: &Knock<'_>) -> Result<(), Shut> {
        let restricted = |why| Shut::Restricted(of, why);
        self.limits.open(knock.from, knock.at).map_err(restricted)?;
        self.limits.allow_endpoint(knock.endpoint).map_err(restricted)?;
        if let Some(max) = self.limits.concurrency.filter(|max| self.running >= *max) {
            let short = Short { wait_us: Some(PLACE_WAIT_US) };
            return Err(Shut::Rate(of, Rate::Concurrency, max.into(), short));
        }
        if let Some(rpm) = self.limits.rpm {
            let taken = self.requests.take(1, PerMinute(rpm), knock.tick);
            taken.map_err(|short| Shut::Rate(of, Rate::Requests, rpm, short))?;
        }
        self.running += 1;
        Ok(())
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
        for (of, gate) in [(Of::Key, &mut passed.key), (Of::Customer, &mut passed.customer)] {
            if let Some(place) = gate {
                place.gate.0.lock().pass(of, &knock)?;
                place.inside = true;
            }
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
        for (of, place) in passed.iter().flat_map(Passed::places) {
            place.gate.0.lock().limits.open(from, at).map_err(|why| Shut::Restricted(of, why))?;
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
        let place = |gate: &Arc<Gate>| Place { gate: Arc::clone(gate), inside: false };
        let key = self.keys.get(&caller.key()).map(|gate| place(&gate));
        let customer = self.customers.get(&caller.customer()).map(|gate| place(&gate));
        let limited = key.is_some() || customer.is_some();
        limited.then(|| Passed { key, customer, in_order: false, tick: Tick::default(), tokens: 0 })
    }
}

/// A gate stays when its last limit is lifted: requests are inside. It costs nothing but its room.
fn set<K: Eq + std::hash::Hash>(gates: &DashMap<K, Arc<Gate>>, key: K, limits: Limits, count: &AtomicUsize) {
    if let Some(gate) = gates.get(&key) {
        gate.0.lock().limits = limits;
    } else if limits != Limits::default() {
        let inside = Inside { limits, requests: Bucket::default(), tokens: Bucket::default(), running: 0 };
        gates.insert(key, Arc::new(Gate(Mutex::new(inside))));
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request's place behind one gate.
struct Place {
    gate: Arc<Gate>,
    inside: bool,
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
    fn places(&self) -> impl Iterator<Item = (Of, &Place)> {
        let of = |of: Of| move |place| (of, place);
        self.key.iter().map(of(Of::Key)).chain(self.customer.iter().map(of(Of::Customer)))
    }

    /// Whether a model may be asked for.
    pub fn allows_model(&self, name: &str) -> bool {
        self.places().all(|(_, place)| place.gate.0.lock().limits.allows_model(name))
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
        let mut taken: Option<(&Place, PerMinute)> = None;
        let mut shut = None;
        for (of, place) in self.places() {
            let mut inside = place.gate.0.lock();
            if !inside.limits.allows_model(model) {
                shut = Some(Shut::Restricted(of, Restriction::Model));
            } else if let Some(tpm) = inside.limits.tpm {
                match inside.tokens.take(tokens, PerMinute(tpm), now) {
                    Ok(()) => taken = Some((place, PerMinute(tpm))),
                    Err(short) => shut = Some(Shut::Rate(of, Rate::Tokens, tpm, short)),
                }
            }
            if shut.is_some() {
                break;
            }
        }
        if let Some(shut) = shut {
            if let Some((place, rate)) = taken {
                place.gate.0.lock().tokens.give_back(tokens, rate, now);
            }
            return Err(shut);
        }
        self.tokens = tokens;
        Ok(())
    }

    /// The request used so many tokens: what it took in advance is made true.
    pub fn used(&mut self, tokens: u64, now: Tick) {
        let before = std::mem::replace(&mut self.tokens, tokens);
        for (_, place) in self.places() {
            let mut inside = place.gate.0.lock();
            let Some(rate) = inside.limits.tpm.map(PerMinute) else { continue };
            if tokens >= before {
                inside.tokens.owe(tokens - before, rate, now);
            } else {
                inside.tokens.give_back(before - tokens, rate, now);
            }
        }
    }

    /// What is left of a rate: of the key's or the customer's, whichever is less.
    pub fn told(&self, rate: Rate, now: Tick) -> Option<Told> {
        let told = self.places().filter_map(|(_, place)| place.gate.0.lock().told(rate, now));
        told.min_by_key(|told| told.remaining)
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        let in_order = self.in_order;
        for place in [&self.key, &self.customer].into_iter().flatten().filter(|place| place.inside) {
            let mut inside = place.gate.0.lock();
            inside.running -= 1;
            if !in_order && let Some(rpm) = inside.limits.rpm {
                inside.requests.give_back(1, PerMinute(rpm), self.tick);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::KeyDigest;
    use serde_json::{Value, json};

    const MINUTE: u64 = 60_000_000;

    fn limits(json: Value) -> Limits {
        let Value::Object(changes) = json else { panic!("an object") };
        Limits::default().with(changes).unwrap()
    }

    /// A caller with these limits of their key and of their customer.
    fn gates(key: Value, customer: Value) -> (Gates, Caller) {
        let gates = Gates::default();
        let caller = Caller::known(CustomerId::from_int(1), KeyId::from_int(2));
        gates.set_key(caller.key(), limits(key));
        gates.set_customer(caller.customer(), limits(customer));
        (gates, caller)
    }

    fn knock(tick: u64) -> impl FnOnce() -> Knock<'static> {
        move || Knock {
            endpoint: "chat.completions",
            from: None,
            at: Timestamp::from_micros(0),
            tick: Tick(tick),
        }
    }

    /// What is left of each rate.
    fn left(passed: &Passed, tick: u64) -> [Option<u64>; 2] {
        [Rate::Requests, Rate::Tokens].map(|rate| passed.told(rate, Tick(tick)).map(|told| told.remaining))
    }

    #[test]
    fn who_is_not_limited_has_no_gate() {
        let (gates, caller) = gates(json!({}), json!({}));
        assert_eq!((gates.count.load(Ordering::Relaxed), gates.keys.len()), (0, 0));
        assert!(matches!(gates.pass(&caller, knock(0)), Ok(None)));
    }

    #[test]
    fn requests_of_a_minute_pass_up_to_the_last() {
        let (gates, caller) = gates(json!({ "rpm": 3 }), json!({}));
        for remaining in [2, 1, 0] {
            let passed = gates.pass(&caller, knock(0)).unwrap().unwrap();
            assert_eq!(left(&passed, 0), [Some(remaining), None]);
        }
        let shut = gates.pass(&caller, knock(0)).err();
        let short = Short { wait_us: Some(MINUTE / 3) };
        assert_eq!(shut, Some(Shut::Rate(Of::Key, Rate::Requests, 3, short)));
        assert!(gates.pass(&caller, knock(MINUTE / 3 - 1)).is_err());
        assert!(gates.pass(&caller, knock(MINUTE / 3)).is_ok());
    }

    #[test]
    fn places_are_given_back_when_requests_end() {
        let (gates, caller) = gates(json!({}), json!({ "concurrency": 2 }));
        let first = gates.pass(&caller, knock(0)).unwrap().unwrap();
        let second = gates.pass(&caller, knock(0)).unwrap().unwrap();
        let shut = gates.pass(&caller, knock(0)).err();
        assert!(matches!(shut, Some(Shut::Rate(Of::Customer, Rate::Concurrency, 2, _))), "{shut:?}");
        drop(first);
        let third = gates.pass(&caller, knock(0)).unwrap().unwrap();
        assert!(gates.pass(&caller, knock(0)).is_err());
        drop((second, third));
        assert_eq!(gates.customers.iter().next().unwrap().0.lock().running, 0);
    }

    #[test]
    fn what_the_second_gate_refuses_costs_nothing_at_the_first() {
        let (gates, caller) =
            gates(json!({ "rpm": 2, "tpm": 100, "concurrency": 1 }), json!({ "rpm": 1, "tpm": 50 }));
        let mut passed = gates.pass(&caller, knock(0)).unwrap().unwrap();
        let shut = passed.demand("m", 51, Tick(0)).unwrap_err();
        assert_eq!(shut, Shut::Rate(Of::Customer, Rate::Tokens, 50, Short { wait_us: None }));
        assert_eq!(left(&passed, 0), [Some(0), Some(50)]);
        drop(passed);
        for _ in 0..5 {
            let shut = gates.pass(&caller, knock(0)).err();
            assert!(matches!(shut, Some(Shut::Rate(Of::Customer, Rate::Requests, 1, _))), "{shut:?}");
        }
        let key = gates.keys.iter().next().unwrap();
        let inside = key.0.lock();
        assert_eq!((inside.requests.left(PerMinute(2), Tick(0)), inside.running), (1, 0));
        assert_eq!(inside.tokens.left(PerMinute(100), Tick(0)), 100);
    }

    #[test]
    fn tokens_are_taken_in_advance_and_made_true() {
        let (gates, caller) = gates(json!({ "tpm": 1000 }), json!({}));
        let mut passed = gates.pass(&caller, knock(0)).unwrap().unwrap();
        assert_eq!(passed.demand("m", 600, Tick(0)), Ok(()));
        let mut other = gates.pass(&caller, knock(0)).unwrap().unwrap();
        assert!(other.demand("m", 401, Tick(0)).is_err());
        assert_eq!(other.demand("m", 400, Tick(0)), Ok(()));
        assert_eq!(left(&other, 0), [None, Some(0)]);
        passed.used(100, Tick(0));
        assert_eq!(left(&other, 0), [None, Some(500)]);
        other.used(1_000, Tick(0));
        assert_eq!(left(&other, 0), [None, Some(0)], "in debt");
        assert_eq!(left(&other, 6_000_000), [None, Some(0)]);
        assert_eq!(left(&other, 6_000_000 + 60_000), [None, Some(1)]);
    }

    #[test]
    fn another_limit_applies_at_once_to_what_was_used() {
        let (gates, caller) = gates(json!({ "rpm": 5 }), json!({}));
        for _ in 0..3 {
            assert!(gates.pass(&caller, knock(0)).is_ok());
        }
        gates.set_key(caller.key(), limits(json!({ "rpm": 3 })));
        assert!(gates.pass(&caller, knock(0)).is_err());
        gates.set_key(caller.key(), limits(json!({ "enabled": false })));
        let shut = gates.pass(&caller, knock(0)).err();
        assert_eq!(shut, Some(Shut::Restricted(Of::Key, Restriction::Disabled)));
        gates.set_key(caller.key(), Limits::default());
        assert!(gates.pass(&caller, knock(0)).is_ok());
    }

    /// What a million keys take, and what a limited one takes beside.
    #[test]
    fn the_memory_of_a_key_is_what_the_readme_says() {
        assert!(size_of::<(KeyDigest, Caller)>() <= 48, "{}", size_of::<(KeyDigest, Caller)>());
        let gate = size_of::<Gate>() + 2 * size_of::<usize>() + size_of::<(KeyId, Arc<Gate>)>();
        assert!(gate <= 320, "{gate}");
    }
}
