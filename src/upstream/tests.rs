//! Who waits in line, over a reload.

use super::account::tests::upstream;
use super::headroom::Expected;
use super::limits::Most;
use super::queue::Place;
use super::{Ask, Comes, Lease, Need, Pool};
use crate::config::{Limits, Queue, Upstream};
use crate::endpoint::Endpoint;
use crate::id::CustomerId;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NEED: Need = Need {
    expected: Expected { input: 1, output_max: 1 },
    most: Most::NOTHING,
    comes: Comes::Whole,
    affinity: None,
};

/// An account that has one request at once.
fn account(name: &str) -> Upstream {
    let limits =
        Limits { concurrency: 1, requests_per_minute: None, tokens_per_minute: None, spend_per_day: None };
    Upstream { name: name.into(), ..upstream("sk", limits) }
}

fn accounts(names: &[&str]) -> Vec<Upstream> {
    names.iter().map(|name| account(name)).collect()
}

fn ask<'a>(only: Option<&'a str>, tried: &'a [Arc<str>]) -> Ask<'a> {
    let (customer, endpoint) = (CustomerId::from_int(1), Endpoint::Chat);
    Ask { customer, endpoint, model: "m", need: &NEED, only, tried }
}

fn wait<'a>(pool: &'a Pool, ask: &Ask<'_>, now: Instant) -> Place<'a> {
    let bounds = Queue { wait: Duration::from_secs(10), waiting_max: 10 };
    pool.join(ask, bounds, now).ok().unwrap()
}

/// By which account it is served now, if by any; that has room again at once.
fn served(pool: &Pool, place: &mut Place<'_>, now: Instant) -> Option<String> {
    pool.serve(now, || 0);
    let lease: Lease = place.look()?.ok().unwrap();
    Some(lease.account().name.to_string())
}

#[test]
fn who_waits_is_served_by_the_accounts_that_there_are_by_then() {
    let now = Instant::now();
    let before = Pool::new(&accounts(&["a"])).unwrap();
    let held = before.choose(&ask(None, &[]), now, 0).ok().unwrap();
    let mut place = wait(&before, &ask(None, &[]), now);
    assert_eq!(served(&before, &mut place, now), None);
    let after = before.next(&accounts(&["b"])).unwrap();
    held.end(now);
    assert_eq!(served(&after, &mut place, now), Some("b".into()));
}

#[test]
fn what_was_tried_is_not_tried_again_whatever_its_place_in_the_pool() {
    let now = Instant::now();
    let before = Pool::new(&accounts(&["a", "b"])).unwrap();
    let tried = ["a".into()];
    let held = before.choose(&ask(None, &tried), now, 0).ok().unwrap();
    assert_eq!(&*held.account().name, "b");
    let mut place = wait(&before, &ask(None, &tried), now);
    let turned = before.next(&accounts(&["b", "a"])).unwrap();
    assert_eq!(served(&turned, &mut place, now), None, "`a` has room, and was tried");
    held.end(now);
    assert_eq!(served(&turned, &mut place, now), Some("b".into()));
}

#[test]
fn who_goes_on_from_what_one_account_has_waits_for_that_alone() {
    let now = Instant::now();
    let before = Pool::new(&accounts(&["a"])).unwrap();
    let held = before.choose(&ask(Some("a"), &[]), now, 0).ok().unwrap();
    let mut place = wait(&before, &ask(Some("a"), &[]), now);
    let after = before.next(&accounts(&["b", "a"])).unwrap();
    assert_eq!(served(&after, &mut place, now), None, "`b` has room, and nothing of theirs");
    held.end(now);
    assert_eq!(served(&after, &mut place, now), Some("a".into()));
}
