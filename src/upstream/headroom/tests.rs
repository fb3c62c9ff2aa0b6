//! Headroom against providers whose rule is known.

use super::*;
use crate::clock::Timestamp;

const SMALL: Expected = Expected { input: 10, output_max: 0 };

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn report(header: &[(&str, &str)]) -> Report {
    Report::read(header.iter().map(|(n, v)| (*n, v.as_bytes())), Timestamp::default())
}

fn requests(limit: u64, remaining: u64, reset: Duration) -> Report {
    let mut report = Report::default();
    report.told[0] = Told { limit: Some(limit), remaining: Some(remaining), reset: Some(reset) };
    report
}

/// How many requests go out now.
fn burst(headroom: &mut Headroom, now: Instant) -> usize {
    (0..10_000)
        .take_while(|_| headroom.fits(SMALL, now).is_ok().then(|| headroom.take(SMALL, now)).is_some())
        .count()
}

/// After one answer with this header: what goes out at once, and then again when it says it fits.
fn check(header: &[(&str, &str)], expect: usize, expect_wait_s: Option<u64>, expect_then: usize) {
    let start = Instant::now();
    let mut headroom = Headroom::default();
    let mark = headroom.take(SMALL, start);
    headroom.told(&report(header), &mark, start);
    assert_eq!(burst(&mut headroom, start), expect, "{header:?}");
    let wait = headroom.fits(SMALL, start).err();
    assert_eq!(wait.map(|at| at.duration_since(start)), expect_wait_s.map(secs), "{header:?}");
    if let Some(at) = wait {
        assert_eq!(burst(&mut headroom, at), expect_then, "{header:?}");
    }
}

#[test]
fn what_is_told_is_what_goes_out() {
    let of = |remaining| {
        [
            ("x-ratelimit-limit-requests", "20"),
            ("x-ratelimit-remaining-requests", remaining),
            ("x-ratelimit-reset-requests", "7s"),
        ]
    };
    check(&of("3"), 3, Some(7), 20);
    check(&of("0"), 0, Some(7), 20);
    check(&of("-1"), 10_000, None, 0);
    // Of tokens: 10 a request, and no output.
    let tokens = [("x-ratelimit-limit-tokens", "95"), ("x-ratelimit-remaining-tokens", "39")];
    check(&tokens, 3, Some(60), 9);
    check(&[("anthropic-ratelimit-input-tokens-remaining", "39")], 3, Some(60), 10_000);
    check(&[("anthropic-ratelimit-output-tokens-remaining", "0")], 10_000, None, 0);
    check(
        &[("x-ratelimit-remaining-requests", "2"), ("x-ratelimit-reset-requests", "1m0s")],
        2,
        Some(60),
        10_000,
    );
    check(&[], 10_000, None, 0);
}

#[test]
fn what_is_larger_than_a_limit_goes_out_alone() {
    let (start, mut headroom) = (Instant::now(), Headroom::default());
    let tokens = |remaining| {
        report(&[("x-ratelimit-limit-tokens", "100"), ("x-ratelimit-remaining-tokens", remaining)])
    };
    let large = Expected { input: 5_000, output_max: 0 };
    let mark = headroom.take(SMALL, start);
    headroom.told(&tokens("99"), &mark, start);
    assert_eq!(headroom.fits(large, start), Err(start + secs(60)));
    headroom.told(&tokens("100"), &mark, start);
    assert_eq!(headroom.fits(large, start), Ok(()));
}

#[test]
fn what_was_sent_since_is_taken_off_and_late_answers_change_nothing() {
    let (start, mut headroom) = (Instant::now(), Headroom::default());
    let [first, second, third] = [(); 3].map(|()| headroom.take(SMALL, start));
    headroom.told(&requests(10, 9, secs(60)), &first, start);
    assert_eq!(headroom.clone().ratios_ppm(start)[0], Some(700_000), "two may not be counted yet");
    headroom.told(&requests(10, 4, secs(60)), &third, start);
    assert_eq!(headroom.clone().ratios_ppm(start)[0], Some(400_000), "somebody else uses it, too");
    headroom.told(&requests(10, 8, secs(60)), &second, start);
    assert_eq!(burst(&mut headroom, start), 4);
}

#[test]
fn a_refusal_is_waited_for() {
    let (start, mut headroom) = (Instant::now(), Headroom::default());
    headroom.refused(Some(secs(7)), start, 0);
    headroom.refused(Some(secs(3)), start, 0);
    assert_eq!(headroom.fits(SMALL, start), Err(start + secs(7)));
    assert_eq!(headroom.fits(SMALL, start + secs(7)), Ok(()));
    let waits = [1, 2, 4, 8, 16, 32, 60, 60];
    let mut headroom = Headroom::default();
    for (wait, random) in waits.into_iter().zip([u32::MAX, 0].into_iter().cycle()) {
        headroom.blocked = None;
        headroom.refused(None, start, random);
        let expect = if random == 0 { secs(wait) / 2 } else { secs(wait) };
        assert_eq!(headroom.fits(SMALL, start), Err(start + expect));
    }
    headroom.served(1);
    headroom.blocked = None;
    headroom.refused(None, start, u32::MAX);
    assert_eq!(headroom.fits(SMALL, start), Err(start + secs(1)), "it begins anew");
}

#[test]
fn the_length_of_answers_is_learnt() {
    let mut headroom = Headroom::default();
    let expected = Expected { input: 100, output_max: 10_000 };
    assert_eq!(headroom.amounts(expected), [1, 612, 612, 100, 512]);
    (0..200).for_each(|_| headroom.served(2_000));
    assert!((1_980..=2_000).contains(&headroom.amounts(expected)[4]), "{}", headroom.output_mean);
    assert_eq!(headroom.amounts(Expected { output_max: 5, ..expected })[4], 5);
}

/// How a provider limits requests: 60 a minute.
enum Rule {
    Bucket { left: f64 },
    Fixed { used: u64, window: u64 },
}

/// A client that sends whatever fits, for ten minutes, with answers after `latency_ms`.
/// Tells how many were served and how many refused.
fn run(mut rule: Rule, latency_ms: u64) -> (u64, u64) {
    let (start, mut headroom) = (Instant::now(), Headroom::default());
    let (mut served, mut refused) = (0, 0);
    let mut answers: std::collections::VecDeque<(u64, Report, Mark)> = Default::default();
    for step in 0..60_000_u64 {
        let now = start + Duration::from_millis(step * 10);
        while answers.front().is_some_and(|(at, ..)| *at <= step * 10) {
            let (_, report, mark) = answers.pop_front().unwrap();
            headroom.told(&report, &mark, now);
        }
        if let Rule::Bucket { left } = &mut rule {
            *left = (*left + 0.01).min(60.0);
        }
        if headroom.fits(SMALL, now).is_err() {
            continue;
        }
        let mark = headroom.take(SMALL, now);
        let report = match &mut rule {
            Rule::Bucket { left } if *left >= 1.0 => {
                *left -= 1.0;
                let remaining = (0..60_u32).rev().find(|n| f64::from(*n) <= *left).unwrap_or(0);
                requests(60, u64::from(remaining), Duration::from_secs_f64(60.0 - *left))
            }
            Rule::Fixed { used, window } => {
                if *window != step / 6_000 {
                    (*used, *window) = (0, step / 6_000);
                }
                *used += 1;
                let reset = Duration::from_millis(60_000 - step % 6_000 * 10);
                if *used > 60 {
                    refused += 1;
                    continue;
                }
                requests(60, 60 - *used, reset)
            }
            Rule::Bucket { .. } => {
                refused += 1;
                continue;
            }
        };
        served += 1;
        answers.push_back((step * 10 + latency_ms, report, mark));
    }
    (served, refused)
}

#[test]
fn a_bucket_is_used_as_it_fills_and_never_beyond() {
    for latency_ms in [0, 10, 200, 3_000] {
        let (served, refused) = run(Rule::Bucket { left: 60.0 }, latency_ms);
        // Ten minutes of 60, and the bucket's own 60. Before the first answer nobody can know.
        assert!(served >= 620, "{latency_ms} ms: {served} served");
        assert!(refused == 0 || latency_ms > 500, "{latency_ms} ms: {refused} refused");
    }
}

#[test]
fn a_fixed_window_is_never_taken_for_a_bucket() {
    for latency_ms in [0, 10, 200] {
        let (served, refused) = run(Rule::Fixed { used: 0, window: 0 }, latency_ms);
        assert!(served >= 480, "{latency_ms} ms: {served} served");
        assert_eq!(refused, 0, "{latency_ms} ms");
    }
}
