//! Gates: who passes, what that takes, and what is given back.

use super::*;
use crate::id::KeyDigest;
use serde_json::{Value, json};

const MINUTE: u64 = 60_000_000;

fn limits(json: Value) -> Limits {
    let Value::Object(changes) = json else { panic!("an object") };
    Limits::default().with(changes).unwrap()
}

/// A caller with these limits of their key and of their customer.
pub(super) fn gates(key: Value, customer: Value) -> (Gates, Caller) {
    let gates = Gates::default();
    let caller = Caller::known(CustomerId::from_int(1), KeyId::from_int(2));
    gates.set_key(caller.key(), limits(key));
    gates.set_customer(caller.customer(), limits(customer));
    (gates, caller)
}

pub(super) fn knock(tick: u64) -> impl FnOnce() -> Knock<'static> {
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
    assert!(gate <= 336, "{gate}");
}
