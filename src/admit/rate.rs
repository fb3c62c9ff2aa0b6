//! Token buckets: exact rates per minute. Pure: time is an argument.
//!
//! A bucket counts what was taken and has not flowed back yet, in units that make the flow a whole
//! number for each microsecond. So nothing is rounded, a rate that changes applies at once, and a
//! bucket of which nothing was taken is all zeros.

use crate::clock::Tick;

/// Units in one token: microseconds in a minute. At `n` tokens a minute, `n` units flow back each
/// microsecond.
const UNITS: u64 = 60_000_000;
/// The largest rate: its units fit with room for a debt.
pub const PER_MINUTE_MAX: u64 = 10_000_000_000;

/// How much passes in a minute, and at once: from 1 to [`PER_MINUTE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMinute(pub u64);

/// A bucket. It is full when new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Units that were taken; above the rate's own, it is a debt.
    taken: u64,
    at: Tick,
}

/// What a bucket does not give, and after how many microseconds it would; never if that is more than
/// it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// Until then.
    pub wait_us: Option<u64>,
}

impl Bucket {
    /// Takes `tokens`, or says when they would be there.
    ///
    /// # Errors
    /// When they are not there; nothing is taken then.
    pub fn take(&mut self, tokens: u64, rate: PerMinute, now: Tick) -> Result<(), Short> {
        self.flow(rate, now);
        let wanted = tokens.saturating_mul(UNITS);
        let after = self.taken.saturating_add(wanted);
        let whole = rate.0.saturating_mul(UNITS);
        if after <= whole {
            self.taken = after;
            return Ok(());
        }
        Err(Short { wait_us: (wanted <= whole).then(|| (after - whole).div_ceil(rate.0)) })
    }

    /// Takes `tokens` whether they are there or not: what was used is used.
    pub fn owe(&mut self, tokens: u64, rate: PerMinute, now: Tick) {
        self.flow(rate, now);
        self.taken = self.taken.saturating_add(tokens.saturating_mul(UNITS));
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, tokens: u64, rate: PerMinute, now: Tick) {
        self.flow(rate, now);
        self.taken = self.taken.saturating_sub(tokens.saturating_mul(UNITS));
    }

    /// Units that were taken and have not flowed back.
    pub fn taken(&self, rate: PerMinute, now: Tick) -> u64 {
        let mut flown = *self;
        flown.flow(rate, now);
        flown.taken
    }

    /// Whether more was taken than may be: there is a debt.
    pub fn is_over(&self, rate: PerMinute, now: Tick) -> bool {
        self.taken(rate, now) > rate.0.saturating_mul(UNITS)
    }

    /// One of which so many units were taken.
    pub fn with_taken(units: u64, now: Tick) -> Self {
        Bucket { taken: units, at: now }
    }

    /// Whole tokens that are there.
    pub fn left(&self, rate: PerMinute, now: Tick) -> u64 {
        rate.0.saturating_mul(UNITS).saturating_sub(self.taken(rate, now)) / UNITS
    }

    /// Microseconds until it is full again.
    pub fn full_in_us(&self, rate: PerMinute, now: Tick) -> u64 {
        self.taken(rate, now).div_ceil(rate.0)
    }

    fn flow(&mut self, rate: PerMinute, now: Tick) {
        let elapsed = now.0.saturating_sub(self.at.0);
        self.taken = self.taken.saturating_sub(elapsed.saturating_mul(rate.0));
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// When, in microseconds, how many, and how it went.
    type Take = (u64, u64, Result<(), Option<u64>>);

    fn check(rate: u64, takes: &[Take]) {
        let mut bucket = Bucket::default();
        for (at, tokens, expect) in takes {
            let taken = bucket.take(*tokens, PerMinute(rate), Tick(*at)).map_err(|short| short.wait_us);
            assert_eq!(taken, *expect, "{tokens} at {at} of {bucket:?}");
        }
    }

    #[test]
    fn the_last_token_passes_and_the_next_waits_to_the_microsecond() {
        let mut takes = vec![(0, 1, Ok(())); 10];
        takes.extend([
            (0, 1, Err(Some(6 * SECOND))),
            (6 * SECOND - 1, 1, Err(Some(1))),
            (6 * SECOND, 1, Ok(())),
            (6 * SECOND, 1, Err(Some(6 * SECOND))),
        ]);
        check(10, &takes);
        // A rate that does not divide a minute: nothing is lost to rounding.
        check(7, &[(0, 7, Ok(())), (8_571_428, 1, Err(Some(1))), (8_571_429, 1, Ok(()))]);
        check(1, &[(0, 1, Ok(())), (60 * SECOND - 1, 1, Err(Some(1))), (60 * SECOND, 1, Ok(()))]);
    }

    #[test]
    fn more_than_a_bucket_holds_never_passes() {
        check(10, &[(0, 11, Err(None)), (600 * SECOND, 11, Err(None)), (0, 10, Ok(()))]);
        check(10, &[(0, u64::MAX, Err(None))]);
    }

    #[test]
    fn over_any_minute_no_more_than_the_rate_and_what_it_holds_passes() {
        let (mut bucket, mut passed, rate) = (Bucket::default(), 0_u64, 7_919);
        for at in (0..=600 * SECOND).step_by(1_009) {
            passed += u64::from(bucket.take(1, PerMinute(rate), Tick(at)).is_ok());
        }
        assert!((rate * 11 - 1..=rate * 11).contains(&passed), "{passed}");
    }

    #[test]
    fn a_debt_is_paid_off_before_anything_passes() {
        let (mut bucket, rate) = (Bucket::default(), PerMinute(60));
        bucket.owe(90, rate, Tick(0));
        assert_eq!((bucket.left(rate, Tick(0)), bucket.full_in_us(rate, Tick(0))), (0, 90 * SECOND));
        assert_eq!(bucket.take(1, rate, Tick(0)), Err(Short { wait_us: Some(31 * SECOND) }));
        assert_eq!(bucket.left(rate, Tick(30 * SECOND)), 0);
        assert_eq!([0, 29, 30].map(|at| bucket.is_over(rate, Tick(at * SECOND))), [true, true, false]);
        assert_eq!(bucket.left(rate, Tick(31 * SECOND)), 1);
        bucket.give_back(1_000, rate, Tick(31 * SECOND));
        assert_eq!(bucket, Bucket { taken: 0, at: Tick(31 * SECOND) });
    }

    #[test]
    fn another_rate_and_a_clock_that_stands_still_apply_at_once() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(10, PerMinute(10), Tick(5)).is_ok());
        assert!(bucket.take(1, PerMinute(10), Tick(5)).is_err());
        assert!(bucket.take(1, PerMinute(10), Tick(4)).is_err(), "time does not run backwards");
        assert!(bucket.take(1, PerMinute(11), Tick(5)).is_ok());
        assert_eq!(bucket.take(1, PerMinute(5), Tick(5)), Err(Short { wait_us: Some(84 * SECOND) }));
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let (mut bucket, rate) = (Bucket::default(), PerMinute(PER_MINUTE_MAX));
        assert!(bucket.take(PER_MINUTE_MAX, rate, Tick(0)).is_ok());
        assert!(bucket.take(1, rate, Tick(0)).is_err());
        bucket.owe(u64::MAX, rate, Tick(0));
        assert_eq!(bucket.left(rate, Tick(u64::MAX)), PER_MINUTE_MAX);
    }
}
