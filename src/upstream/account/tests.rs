//! Accounts over a reload: what is kept by the name, and what goes with a credential.

use crate::config::{self, BaseUrl, Check, Dialect, Drain, Models, OnHangUp, Secret, Timeouts, Upstream};
use crate::endpoint::Endpoint;
use crate::id::CustomerId;
use crate::money::Amount;
use crate::upstream::headroom::Expected;
use crate::upstream::health::Fault;
use crate::upstream::limits::Most;
use crate::upstream::{Ask, Comes, Lease, Need, NoAccount, Pool};
use std::time::{Duration, Instant};

pub(in crate::upstream) fn upstream(key: &str, limits: config::Limits) -> Upstream {
    let minute = Duration::from_secs(60);
    Upstream {
        name: "a".into(),
        dialect: Dialect::OpenAi,
        base_url: BaseUrl::parse("http://127.0.0.1:1/v1").unwrap(),
        api_version: None,
        api_key: Secret::parse(key).unwrap(),
        ca: None,
        models: Models::All,
        weight: 1,
        check: Check::Connect,
        priority: 0,
        limits,
        on_hang_up: OnHangUp::Auto,
        drain: Drain { time: minute, tokens_max: 1_000 },
        timeouts: Timeouts { connect: minute, first_byte: None, silence: minute, total: minute },
    }
}

fn cents(cents: u64) -> Amount {
    Amount::parse(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap()
}

/// A lease of a request that may cost this many cents.
fn lease(pool: &Pool, spend: u64, now: Instant) -> Result<Lease, NoAccount> {
    let need = Need {
        expected: Expected { input: 10, output_max: 10 },
        most: Most { tokens: 20, spend: cents(spend) },
        comes: Comes::Whole,
        affinity: None,
    };
    let customer = CustomerId::from_int(1);
    let (endpoint, need) = (Endpoint::Chat, &need);
    pool.choose(&Ask { customer, endpoint, model: "m", need, only: None, tried: &[] }, now, 0)
}

#[test]
fn a_new_credential_starts_no_count_anew() {
    let limits = config::Limits {
        concurrency: 2,
        requests_per_minute: Some(4),
        tokens_per_minute: None,
        spend_per_day: Some(cents(100)),
    };
    let now = Instant::now();
    let before = Pool::new(&[upstream("sk-old", limits)]).unwrap();
    let [mut first, second] = [40, 10].map(|spend| lease(&before, spend, now).ok().unwrap());
    let after = before.next(&[upstream("sk-new", limits)]).unwrap();
    assert_ne!(before.accounts()[0].authorization, after.accounts()[0].authorization);
    assert_eq!(lease(&after, 1, now).err(), Some(NoAccount::Busy(None)), "both are still under way");
    assert_eq!(after.accounts()[0].standing(), ("open", 2));

    // They end with what the name had before, and what they used is known to both.
    first.sent();
    first.used(Most { tokens: 20, spend: cents(30) });
    first.end(now);
    second.end(now);
    assert_eq!((after.accounts()[0].standing(), after.accounts()[0].spent(now)), (("open", 0), cents(30)));
    assert!(matches!(lease(&after, 71, now), Err(NoAccount::Busy(Some(_)))), "the day");
    for _ in 0..3 {
        let mut third = lease(&after, 10, now).ok().unwrap();
        third.sent();
        third.used(Most::NOTHING);
        third.end(now);
    }
    assert!(matches!(lease(&after, 1, now), Err(NoAccount::Busy(Some(_)))), "the minute");
    assert!(lease(&after, 1, now + Duration::from_secs(61)).is_ok());
}

#[test]
fn a_new_credential_is_not_shut_for_what_the_old_one_did() {
    let limits = config::Limits {
        concurrency: 9,
        requests_per_minute: None,
        tokens_per_minute: None,
        spend_per_day: None,
    };
    let now = Instant::now();
    let before = Pool::new(&[upstream("sk-old", limits)]).unwrap();
    let [mut refused, mut late] = [(); 2].map(|()| lease(&before, 1, now).ok().unwrap());
    refused.failed(Fault::Credential, now, 0);
    assert!(matches!(lease(&before, 1, now), Err(NoAccount::Down(_))));
    assert!(lease(&before.next(&[upstream("sk-old", limits)]).unwrap(), 1, now).is_err());
    let after = before.next(&[upstream("sk-new", limits)]).unwrap();
    late.failed(Fault::Credential, now, 0);
    assert!(lease(&after, 1, now).is_ok());
}

#[test]
fn an_attempt_that_was_never_sent_gives_back_what_it_took() {
    let limits = config::Limits {
        concurrency: 1,
        requests_per_minute: Some(1),
        tokens_per_minute: Some(20),
        spend_per_day: Some(cents(1)),
    };
    let now = Instant::now();
    let pool = Pool::new(&[upstream("sk", limits)]).unwrap();
    lease(&pool, 1, now).ok().unwrap().end(now);
    assert_eq!(pool.accounts()[0].spent(now), Amount::ZERO);
    let mut sent = lease(&pool, 1, now).ok().unwrap();
    sent.sent();
    sent.end(now);
    assert!(lease(&pool, 1, now).is_err(), "nobody knows what it used");
}

#[test]
fn what_an_account_may_have_changes_when_the_pool_goes_live() {
    let limits = |concurrency| config::Limits {
        concurrency,
        requests_per_minute: None,
        tokens_per_minute: None,
        spend_per_day: None,
    };
    let now = Instant::now();
    let before = Pool::new(&[upstream("sk", limits(1))]).unwrap();
    let _first = lease(&before, 1, now).ok().unwrap();
    let after = before.next(&[upstream("sk", limits(2))]).unwrap();
    assert_eq!(lease(&before, 1, now).err(), Some(NoAccount::Busy(None)), "that is not used yet");
    after.goes_live();
    assert!(lease(&after, 1, now).is_ok());
}
