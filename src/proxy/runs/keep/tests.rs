//! When which run is looked at.

use super::*;
use crate::money::Amount;
use crate::settle::price::{Encoding, Rates, Tariff, Tier};
use crate::settle::{Attempt, Run};

const NEVER: Timestamp = Timestamp::from_micros(0);

fn watched(number: u128, upstream: &str, begun_us: i64) -> Watched {
    let attempt = Attempt { upstream: upstream.into(), outcome: "ok".into(), status: Some(200), ms: 1 };
    let run = Run {
        endpoint: "responses".into(),
        lines: None,
        model: "m".into(),
        tier: Tier::Default,
        output_cap: None,
        attempts: vec![attempt],
        begun: Timestamp::from_micros(begun_us),
        most: Amount::ZERO,
        input_tokens: 1,
        encoding: Encoding::O200kBase,
        price: Tariff { default: Rates::default(), flex: None, priority: None, batch: None },
        cost: None,
    };
    let (customer, request) = (CustomerId::from_int(1), RequestId::from_int(number));
    let running = Some(Running { customer, request, object: "resp_1".into(), run });
    Watched { customer, request, running, pause: FIRST, missing: 0 }
}

/// All that are due now.
fn due(schedule: &mut Schedule, now: Instant, since: Timestamp) -> Vec<Watched> {
    std::iter::from_fn(|| schedule.due(now, since)).collect()
}

#[test]
fn a_run_is_read_less_and_less_often() {
    let (mut schedule, mut now) = (Schedule::default(), Instant::now());
    schedule.put(watched(1, "a", 9), now);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let run = schedule.due(now, NEVER).expect("it is due");
        schedule.seen(run, Seen::AtWork, now);
        let next = schedule.waiting.first_key_value().expect("it is watched").0.0;
        assert!(schedule.due(next - Duration::from_millis(1), NEVER).is_none());
        pauses.push(next.duration_since(now).as_millis());
        now = next;
    }
    assert_eq!(pauses[..4], [3_000, 4_500, 6_750, 10_125]);
    assert_eq!(pauses[10..], [60_000, 60_000]);
    let run = schedule.due(now, NEVER).expect("it is due");
    schedule.seen(run, Seen::Ended, now);
    assert!(schedule.waiting.is_empty());
}

#[test]
fn a_slow_or_silent_account_leaves_room_for_others() {
    let (mut schedule, now) = (Schedule::default(), Instant::now());
    (0..40).for_each(|number| schedule.put(watched(number, "slow", 9), now));
    (40..42).for_each(|number| schedule.put(watched(number, "quick", 9), now));
    let mut read = due(&mut schedule, now, NEVER);
    let of = |read: &[Watched], name: &str| {
        read.iter().filter(|of| of.running.as_ref().is_some_and(|it| it.run.upstream() == name)).count()
    };
    assert_eq!((of(&read, "slow"), of(&read, "quick")), (AT_ONCE_OF_ACCOUNT_MAX, 2));
    // It does not answer one of them: the others are not asked for, and come back.
    schedule.seen(read.remove(0), Seen::Unread, now);
    assert!(due(&mut schedule, now + STEP, NEVER).is_empty());
    let later = now + LONGEST;
    assert_eq!(due(&mut schedule, later, NEVER).len(), 1, "as many as there is room for");
    for run in read.drain(..) {
        schedule.seen(run, Seen::AtWork, later);
    }
    assert_eq!(schedule.waiting.len(), 41, "none but that is gone");
}

#[test]
fn one_that_takes_too_long_does_not_wait_for_its_account() {
    let (mut schedule, now) = (Schedule::default(), Instant::now());
    (0..20).for_each(|number| schedule.put(watched(number, "gone", 10), now));
    let first = schedule.due(now, NEVER).expect("it is due");
    schedule.seen(first, Seen::Unread, now);
    assert!(due(&mut schedule, now, NEVER).is_empty());
    let later = now + STEP;
    (20..30).for_each(|number| schedule.put(watched(number, "gone", 9), later));
    assert_eq!(due(&mut schedule, later, Timestamp::from_micros(10)).len(), 10);
}
