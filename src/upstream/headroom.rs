//! What is left of a provider's rate limits, estimated between its answers. Pure: time is an argument.
//!
//! An answer tells what was left when its request came in ([`super::told`]). From then on everything
//! that was sent since is taken off: it may not have been counted yet. What comes back with time
//! depends on how the provider limits, which nobody tells:
//!
//! - by fixed windows: all of the limit at the reset, nothing before. This is assumed first, as it
//!   never says too much.
//! - by a bucket that fills steadily, and whose reset is when it is full: a little at any time. This
//!   is assumed once the answers prove it; see [`Known::learn`].

use super::told::{Kind, Report, Told};
use std::time::{Duration, Instant};

/// Limits are by the minute, or by the day.
const PERIODS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(86_400)];
/// How far a reset may be from what a bucket would tell: providers round.
const ROUNDING: Duration = Duration::from_secs(1);
/// A fixed window looks like a bucket for no longer than it takes its reset to pass through twice
/// the rounding: whoever looks like a bucket for longer is one.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// The first wait after a 429 that does not say how long.
const BLOCKED_FIRST: Duration = Duration::from_secs(1);
/// The longest such wait.
const BLOCKED_MAX: Duration = Duration::from_secs(60);
/// What an answer has in tokens, before any was seen.
const OUTPUT_TOKENS_FIRST: u64 = 512;

/// Amounts by [`Kind::index`].
pub type Amounts = [u64; 5];

/// How much had been sent when a request went out, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    sent: Amounts,
    at: Option<Instant>,
}

/// The tokens that a request is expected to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of input.
    pub input: u64,
    /// The longest output.
    pub output_max: u64,
}

/// What is known of the limits of one account, for one model.
#[derive(Clone, Debug)]
pub struct Headroom {
    known: [Option<Known>; 5],
    sent: Amounts,
    blocked: Option<Instant>,
    refusals: u32,
    output_mean: u64,
}

impl Default for Headroom {
    fn default() -> Self {
        Headroom {
            known: [None; 5],
            sent: Amounts::default(),
            blocked: None,
            refusals: 0,
            output_mean: OUTPUT_TOKENS_FIRST,
        }
    }
}

impl Headroom {
    /// Whether a request fits now; if not, when it may at the earliest.
    ///
    /// # Errors
    /// The earliest moment.
    pub fn fits(&mut self, expected: Expected, now: Instant) -> Result<(), Instant> {
        let amounts = self.amounts(expected);
        let mut until = self.blocked.filter(|until| now < *until);
        for kind in Kind::ALL.map(Kind::index) {
            let sent = self.sent[kind];
            if let Some(known) = &mut self.known[kind]
                && let Err(at) = known.fits(amounts[kind], sent, now)
            {
                until = Some(until.map_or(at, |until| until.max(at)));
            }
        }
        until.map_or(Ok(()), Err)
    }

    /// A request goes out.
    pub fn take(&mut self, expected: Expected, now: Instant) -> Mark {
        let amounts = self.amounts(expected);
        for (sent, amount) in self.sent.iter_mut().zip(amounts) {
            *sent = sent.saturating_add(amount);
        }
        Mark { sent: self.sent, at: Some(now) }
    }

    /// The answer to the request of `mark` came.
    pub fn told(&mut self, report: &Report, mark: &Mark, now: Instant) {
        for kind in Kind::ALL.map(Kind::index) {
            let seen = Seen { told: report.told[kind], mark: mark.sent[kind], from: mark.at, at: now };
            if let Some(known) = Known::after(self.known[kind], seen) {
                self.known[kind] = Some(known);
            }
        }
    }

    /// The provider refused a request as one too many: nothing is sent for as long as it says, or
    /// for a time that doubles. `random` spreads the return of many.
    pub fn refused(&mut self, wait: Option<Duration>, now: Instant, random: u32) {
        let growing = BLOCKED_FIRST.saturating_mul(1 << self.refusals.min(6)).min(BLOCKED_MAX);
        self.refusals = self.refusals.saturating_add(1);
        // Between a half and the whole of it.
        let growing = growing / 2 + scale(growing / 2, u64::from(random), u64::from(u32::MAX));
        let until = now + wait.unwrap_or(growing);
        self.blocked = Some(self.blocked.map_or(until, |blocked| blocked.max(until)));
    }

    /// An answer came to its end.
    pub fn served(&mut self, output_tokens: u64) {
        self.refusals = 0;
        self.output_mean = (self.output_mean.saturating_mul(15).saturating_add(output_tokens)) / 16;
    }

    /// The share of each limit that is left, in millionths, as far as it is known.
    pub fn ratios_ppm(&mut self, now: Instant) -> [Option<u32>; 5] {
        let blocked = self.blocked.is_some_and(|until| now < until);
        Kind::ALL.map(|kind| {
            let known = self.known[kind.index()].as_mut()?;
            let limit = known.limit?;
            let left = known.remaining(self.sent[kind.index()], now)?;
            let ppm = u128::from(left.min(limit)) * 1_000_000 / u128::from(limit);
            Some(if blocked { 0 } else { u32::try_from(ppm).unwrap_or(1_000_000) })
        })
    }

    fn amounts(&self, expected: Expected) -> Amounts {
        let output = expected.output_max.min(self.output_mean);
        let both = expected.input.saturating_add(output);
        [1, both, both, expected.input, output]
    }
}

/// One limit as it was told last.
#[derive(Clone, Copy, Debug)]
struct Known {
    limit: Option<u64>,
    remaining: u64,
    /// What had been sent when that was so.
    mark: u64,
    /// When the answer came: what was told was so then or a little before.
    at: Instant,
    /// When all of the limit is there again; at the latest then, if the answer was on its way for long.
    reset_at: Instant,
    /// The same at the earliest.
    reset_from: Instant,
    /// How long an empty bucket takes to fill, if it looks like one; since when; whether it is proven.
    period: Option<Duration>,
    since: Instant,
    proven: bool,
}

/// What an answer told of one limit.
#[derive(Clone, Copy)]
struct Seen {
    told: Told,
    mark: u64,
    from: Option<Instant>,
    at: Instant,
}

impl Known {
    /// What is known after an answer: nothing new if it tells nothing, or less than a later one did.
    fn after(before: Option<Known>, seen: Seen) -> Option<Known> {
        let Seen { told, mark, from, at } = seen;
        let remaining = told.remaining?;
        if before.is_some_and(|known| known.mark > mark) {
            return None;
        }
        let reset = told.reset.unwrap_or(PERIODS[0]);
        let mut known = Known {
            limit: told.limit,
            remaining,
            mark,
            at,
            reset_at: at + reset,
            reset_from: from.unwrap_or(at) + reset,
            period: None,
            since: at,
            proven: false,
        };
        known.learn(before.as_ref(), reset);
        Some(known)
    }

    /// Whether this is a bucket: its reset goes with what was used of it, at the rate of a whole
    /// limit in a minute or a day. That is proven when it has been so for a while, or when the reset
    /// moved away while less was left, which a fixed window's never does.
    fn learn(&mut self, before: Option<&Known>, reset: Duration) {
        let Some(limit) = self.limit else { return };
        let used = limit.saturating_sub(self.remaining);
        let fits = |period: &Duration| scale(*period, used, limit).abs_diff(reset) <= ROUNDING;
        let before = before.filter(|before| before.limit == self.limit);
        let known = before.and_then(|before| before.period).filter(fits);
        self.period = known.or_else(|| PERIODS.into_iter().find(fits));
        if let (Some(period), Some(before)) = (self.period, before)
            && before.period == Some(period)
        {
            let moved = self.remaining < before.remaining && self.reset_from > before.reset_at;
            self.since = before.since;
            self.proven = before.proven || moved || self.at.duration_since(self.since) >= PROVEN_AFTER;
        }
    }

    /// What is left now; `None` when that is not known.
    fn remaining(&mut self, sent: u64, now: Instant) -> Option<u64> {
        if now >= self.reset_at {
            let limit = self.limit?;
            // What was sent until now was asked for before it went out: it was before the reset.
            let (reset_at, mark) = (now + self.period.unwrap_or(PERIODS[0]), sent);
            *self = Known { remaining: limit, mark, at: now, reset_at, reset_from: reset_at, ..*self };
        }
        let since = now.duration_since(self.at);
        let back = self.filling().map_or(0, |(limit, period)| share(limit, since, period));
        let most = self.limit.unwrap_or(u64::MAX);
        Some(self.remaining.saturating_add(back).min(most).saturating_sub(sent.saturating_sub(self.mark)))
    }

    fn fits(&mut self, amount: u64, sent: u64, now: Instant) -> Result<(), Instant> {
        let Some(left) = self.remaining(sent, now) else { return Ok(()) };
        // What is larger than the limit is for the provider to refuse, once nothing else is there.
        let amount = self.limit.map_or(amount, |limit| amount.min(limit));
        let missing = amount.saturating_sub(left);
        match self.filling() {
            _ if missing == 0 => Ok(()),
            Some((limit, period)) => Err(now + scale(period, missing, limit).max(Duration::from_millis(1))),
            None => Err(self.reset_at),
        }
    }

    /// The limit and the period of a proven bucket.
    fn filling(&self) -> Option<(u64, Duration)> {
        self.proven.then_some(()).and(self.limit.zip(self.period))
    }
}

/// `of * part / whole`, rounded up to a nanosecond.
fn scale(of: Duration, part: u64, whole: u64) -> Duration {
    let nanos = (of.as_nanos() * u128::from(part)).div_ceil(u128::from(whole.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// `of * part / whole`, rounded down.
fn share(of: u64, part: Duration, whole: Duration) -> u64 {
    let share = u128::from(of) * part.as_nanos() / whole.as_nanos().max(1);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
