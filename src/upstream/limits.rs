//! What the operator lets one account have at most, kept exactly. Pure: time is an argument.
//!
//! A request takes the most that it can need when it goes out, and gives back what it did not when
//! it ends. So no limit is ever passed, whatever is under way.

mod passed;

pub use passed::{Change, Counts, Tell, UnderWay};

use super::window::{Taken, Window};
use crate::clock::Timestamp;
use crate::config;
use crate::money::Amount;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const DAY: Duration = Duration::from_secs(86_400);

/// What a request can need at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Most {
    /// Tokens of input and output.
    pub tokens: u64,
    /// US dollars, by the price book.
    pub spend: Amount,
}

impl Most {
    /// Nothing at all.
    pub const NOTHING: Most = Most { tokens: 0, spend: Amount::ZERO };
}

/// What limits an account, in the words of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Requests at once.
    Concurrency,
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Spend of a day.
    Spend,
}

impl Limited {
    /// The word used in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Limited::Concurrency => "concurrency",
            Limited::Requests => "requests_per_minute",
            Limited::Tokens => "tokens_per_minute",
            Limited::Spend => "spend_per_day",
        }
    }
}

/// The limits of one account, and what is taken of them.
pub struct Limits {
    begun: Instant,
    concurrency_max: u32,
    in_flight: u32,
    /// The most that those may still need, and may give back.
    reserved: Most,
    /// The same of requests that another process has.
    elsewhere: UnderWay,
    requests: Window,
    tokens: Window,
    spend: Spend,
    /// Hears of what is taken and given back, once another process counts that.
    tell: Option<Tell>,
}

/// What one request took. Given back once, by [`Limits::release`].
#[derive(Debug)]
#[must_use]
pub struct Share {
    most: Most,
    requests: Taken,
    tokens: Taken,
    spend: (Instant, Amount),
}

/// What happened to what a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It never reached the provider.
    Unsent,
    /// It reached the provider and used this.
    Used(Most),
    /// Nobody knows: what was taken stays taken.
    Unknown,
}

impl Limits {
    /// What the operator wants, and nothing is taken.
    pub fn new(set: config::Limits, now: Instant, utc: Timestamp) -> Self {
        let (requests, tokens) = (Window::new(None), Window::new(None));
        let (reserved, spend) = (Most::NOTHING, Spend::new(now, utc));
        let mut limits = Limits {
            begun: now,
            concurrency_max: 0,
            in_flight: 0,
            reserved,
            elsewhere: UnderWay::default(),
            requests,
            tokens,
            spend,
            tell: None,
        };
        limits.set(set);
        limits
    }

    /// What the operator wants from now on. What was taken stays taken.
    pub fn set(&mut self, set: config::Limits) {
        self.concurrency_max = set.concurrency;
        self.requests.set_max(set.requests_per_minute);
        self.tokens.set_max(set.tokens_per_minute);
        self.spend.max = set.spend_per_day;
    }

    /// Requests that it has now.
    pub fn in_flight(&self) -> u32 {
        self.under_way().requests()
    }

    /// The spend of the day under way; what requests under way can cost at most is part of it.
    pub fn spent(&mut self, now: Instant) -> Amount {
        self.spend.turn(now);
        self.spend.used
    }

    /// What was spent of the day under way before this was made.
    pub fn spent_before(&mut self, amount: Amount) {
        self.spend.used += amount;
    }

    /// What a request took of the spend, and nobody gave back when it ended, was `used` so far in truth. What
    /// was taken on another day, or before this was made, stays taken.
    pub fn known_late(&mut self, (taken, used): (Amount, Amount), age: Duration, now: Instant) {
        self.spend.turn(now);
        let today = (self.spend.midnight - DAY).max(self.begun);
        if now.checked_sub(age).is_some_and(|taken_at| taken_at >= today) {
            self.spend.used += used - taken;
        }
    }

    /// Whether a request fits now; if not, when it may at the earliest, if that is known.
    ///
    /// # Errors
    /// The earliest moment; none when it is the end of some request.
    pub fn fits(&mut self, most: Most, now: Instant) -> Result<(), Option<Instant>> {
        if self.in_flight() >= self.concurrency_max {
            return Err(None);
        }
        let requests = self.requests.fits(1, now).err();
        let tokens = self.tokens.fits(most.tokens, now).err();
        let spend = self.spend.fits(most.spend, now).err();
        if requests.or(tokens).or(spend).is_none() {
            return Ok(());
        }
        // Those under way may give back enough when they end.
        let reserved = self.under_way().most();
        let room = self.tokens.free(now).unwrap_or(u64::MAX).saturating_add(reserved.tokens);
        let tokens = tokens.filter(|_| room < most.tokens.min(self.tokens.max().unwrap_or(u64::MAX)));
        let spend = spend.filter(|_| !self.spend.has_room(most.spend - reserved.spend));
        Err([requests, tokens, spend].into_iter().flatten().max())
    }

    /// A request goes out.
    pub fn take(&mut self, most: Most, now: Instant) -> Share {
        self.in_flight += 1;
        self.reserved.tokens = self.reserved.tokens.saturating_add(most.tokens);
        self.reserved.spend += most.spend;
        if let Some(tell) = &self.tell {
            tell(Change::Began(most));
        }
        Share {
            most,
            requests: self.requests.take(1, now),
            tokens: self.tokens.take(most.tokens, now),
            spend: self.spend.take(most.spend, now),
        }
    }

    /// It has ended.
    pub fn release(&mut self, share: &Share, used: Use, now: Instant) {
        self.in_flight -= 1;
        self.reserved.tokens = self.reserved.tokens.saturating_sub(share.most.tokens);
        self.reserved.spend -= share.most.spend;
        self.spend.turn(now);
        if let Some(tell) = &self.tell {
            tell(self.ended(share, used, now));
        }
        let used = match used {
            Use::Unknown => return,
            Use::Used(used) => used,
            Use::Unsent => {
                self.requests.amend(share.requests, 0);
                Most::NOTHING
            }
        };
        self.tokens.amend(share.tokens, used.tokens);
        self.spend.amend(share.spend, used.spend, now);
    }

    /// The share of each limit that is free, in millionths.
    pub fn ratios_ppm(&mut self, now: Instant) -> [(Limited, Option<u32>); 4] {
        let ppm = |free: i128, max: i128| {
            u32::try_from(free.max(0).saturating_mul(1_000_000) / max.max(1)).unwrap_or(1_000_000)
        };
        let free = self.concurrency_max.saturating_sub(self.in_flight());
        let window = |window: &mut Window| Some(ppm(window.free(now)?.into(), window.max()?.into()));
        let (requests, tokens) = (window(&mut self.requests), window(&mut self.tokens));
        self.spend.turn(now);
        let micro_usd = |amount: Amount| amount.atto_usd() / 1_000_000_000_000;
        let spend = self.spend.max.map(|max| ppm(micro_usd(max - self.spend.used), micro_usd(max)));
        [
            (Limited::Concurrency, Some(ppm(free.into(), self.concurrency_max.into()))),
            (Limited::Requests, requests),
            (Limited::Tokens, tokens),
            (Limited::Spend, spend),
        ]
    }
}

/// The spend of the day under way, in UTC.
#[derive(Clone, Debug)]
struct Spend {
    max: Option<Amount>,
    used: Amount,
    /// When the day ends, on the clock that never steps.
    midnight: Instant,
}

impl Spend {
    fn new(now: Instant, utc: Timestamp) -> Self {
        let into_day = u64::try_from(utc.seconds().rem_euclid(86_400)).unwrap_or_default();
        Spend { max: None, used: Amount::ZERO, midnight: now + DAY - Duration::from_secs(into_day) }
    }

    fn turn(&mut self, now: Instant) {
        while now >= self.midnight {
            self.midnight += DAY;
            self.used = Amount::ZERO;
        }
    }

    /// What can cost more than a day's limit is never sent: money has no "once nothing else is there".
    fn fits(&mut self, most: Amount, now: Instant) -> Result<(), Instant> {
        self.turn(now);
        if self.has_room(most) { Ok(()) } else { Err(self.midnight) }
    }

    fn has_room(&self, most: Amount) -> bool {
        self.max.is_none_or(|max| self.used + most <= max)
    }

    fn take(&mut self, most: Amount, now: Instant) -> (Instant, Amount) {
        self.turn(now);
        self.used += most;
        (self.midnight, most)
    }

    fn amend(&mut self, (midnight, taken): (Instant, Amount), used: Amount, now: Instant) {
        self.turn(now);
        if midnight == self.midnight {
            self.used += used - taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> Amount {
        Amount::parse(text).unwrap()
    }

    fn most(tokens: u64, spend: &str) -> Most {
        Most { tokens, spend: usd(spend) }
    }

    /// An hour before midnight.
    fn limits(set: config::Limits) -> (Instant, Limits) {
        let now = Instant::now();
        (now, Limits::new(set, now, Timestamp::parse("2026-11-23T23:00:00Z").unwrap()))
    }

    fn unlimited() -> config::Limits {
        config::Limits {
            concurrency: 100,
            requests_per_minute: None,
            tokens_per_minute: None,
            spend_per_day: None,
        }
    }

    /// How many such requests go out at once; for how long the next one has to wait while they are
    /// under way, and then, when they needed all that they took: `None` is until one ends, or not at all.
    fn check(set: config::Limits, most: Most, expect: usize, expect_wait_s: [Option<u64>; 2]) {
        let (now, mut limits) = limits(set);
        let mut shares = Vec::new();
        while limits.fits(most, now).is_ok() {
            shares.push(limits.take(most, now));
        }
        let wait = |limits: &mut Limits| {
            limits.fits(most, now).err().flatten().map(|at| at.duration_since(now).as_secs())
        };
        let under_way = wait(&mut limits);
        shares.iter().for_each(|share| limits.release(share, Use::Unknown, now));
        assert_eq!((shares.len(), [under_way, wait(&mut limits)]), (expect, expect_wait_s), "{set:?}");
    }

    #[test]
    fn each_limit_is_kept() {
        let one = most(100, "0.5");
        let minute = [None, Some(60)];
        check(unlimited(), one, 100, [None, None]);
        check(config::Limits { requests_per_minute: Some(7), ..unlimited() }, one, 7, [Some(60); 2]);
        check(config::Limits { tokens_per_minute: Some(1_050), ..unlimited() }, one, 10, minute);
        check(config::Limits { tokens_per_minute: Some(50), ..unlimited() }, one, 1, minute);
        let spend = |max| config::Limits { spend_per_day: Some(usd(max)), ..unlimited() };
        check(spend("1.75"), one, 3, [None, Some(3_600)]);
        check(spend("0.4"), one, 0, [Some(3_600); 2]);
    }

    #[test]
    fn what_was_not_needed_is_given_back() {
        let set = config::Limits {
            tokens_per_minute: Some(1_000),
            spend_per_day: Some(usd("1")),
            requests_per_minute: Some(2),
            ..unlimited()
        };
        let (now, mut limits) = limits(set);
        let share = limits.take(most(900, "0.9"), now);
        assert!(limits.fits(most(200, "0.2"), now).is_err());
        limits.release(&share, Use::Used(most(300, "0.3")), now);
        assert_eq!(limits.fits(most(700, "0.7"), now), Ok(()));
        assert_eq!(
            limits.ratios_ppm(now).map(|(_, ppm)| ppm.unwrap()),
            [1_000_000, 500_000, 700_000, 700_000]
        );
        let share = limits.take(most(700, "0.7"), now);
        limits.release(&share, Use::Unknown, now);
        assert_eq!(limits.ratios_ppm(now).map(|(_, ppm)| ppm.unwrap()), [1_000_000, 0, 0, 0]);
    }

    #[test]
    fn a_change_of_limits_forgets_nothing() {
        let (now, mut limits) = limits(unlimited());
        let shares: Vec<_> = (0..5).map(|_| limits.take(most(100, "0.2"), now)).collect();
        let set = config::Limits {
            concurrency: 6,
            requests_per_minute: Some(6),
            tokens_per_minute: Some(600),
            spend_per_day: Some(usd("1.2")),
        };
        limits.set(set);
        assert_eq!(limits.fits(most(100, "0.2"), now), Ok(()));
        assert!(limits.fits(most(101, "0.2"), now).is_err() && limits.fits(most(1, "0.3"), now).is_err());
        let last = limits.take(most(100, "0.2"), now);
        assert_eq!(limits.fits(Most::NOTHING, now), Err(None));
        shares.iter().chain([&last]).for_each(|share| limits.release(share, Use::Unsent, now));
        assert_eq!((limits.in_flight(), limits.fits(most(600, "1.2"), now)), (0, Ok(())));
    }

    #[test]
    fn what_was_spent_before_counts() {
        let (now, mut limits) = limits(config::Limits { spend_per_day: Some(usd("1")), ..unlimited() });
        let share = limits.take(most(0, "0.3"), now);
        limits.spent_before(usd("0.6"));
        assert!(limits.fits(most(0, "0.2"), now).is_err());
        limits.release(&share, Use::Used(most(0, "0.1")), now);
        assert_eq!((limits.fits(most(0, "0.3"), now), limits.spent(now)), (Ok(()), usd("0.7")));
        assert_eq!(limits.spent(now + Duration::from_secs(3_600)), Amount::ZERO);
    }

    #[test]
    fn what_is_known_late_is_given_back_on_its_own_day() {
        let (now, mut limits) = limits(config::Limits { spend_per_day: Some(usd("1")), ..unlimited() });
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let share = limits.take(most(0, "0.4"), now + minutes(1));
        limits.release(&share, Use::Unknown, now + minutes(2));
        assert_eq!(limits.spent(now + minutes(2)), usd("0.4"));
        limits.known_late((usd("0.4"), usd("0.1")), minutes(2), now + minutes(3));
        assert_eq!(limits.spent(now + minutes(3)), usd("0.1"));
        // Before this counted, and yesterday.
        limits.known_late((usd("0.4"), usd("0.1")), minutes(4), now + minutes(3));
        assert_eq!(limits.spent(now + minutes(3)), usd("0.1"));
        limits.known_late((usd("0.4"), usd("0.1")), minutes(2), now + minutes(61));
        assert_eq!(limits.spent(now + minutes(61)), Amount::ZERO);
    }

    #[test]
    fn a_day_ends_at_midnight_in_utc() {
        let (now, mut limits) = limits(config::Limits { spend_per_day: Some(usd("1")), ..unlimited() });
        let share = limits.take(most(0, "1"), now);
        let before = now + Duration::from_secs(3_599);
        assert!(limits.fits(most(0, "0.1"), before).is_err());
        let after = now + Duration::from_secs(3_600);
        assert_eq!(limits.fits(most(0, "1"), after), Ok(()));
        limits.release(&share, Use::Unsent, after);
        assert_eq!(limits.fits(most(0, "1.1"), after).unwrap_err(), Some(after + DAY), "yesterday's");
    }
}
