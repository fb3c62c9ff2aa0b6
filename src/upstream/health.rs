//! The breaker, of an account or of one model of it: pure, time and randomness are arguments.
//!
//! Open, it is used. What went wrong too often of late shuts it for a while that grows with each
//! time; then one live request is let through on probation, and decides.

use std::time::{Duration, Instant};

/// Failures in a row that shut it: fewer would let one bad request do it.
const FAILURES_MAX: u32 = 5;
/// Outcomes that are looked at together; half of them failed shut it as well.
const OUTCOMES: u32 = 20;
/// Outcomes older than this say nothing.
const MEMORY: Duration = Duration::from_secs(30);
/// The first time it stays shut.
const SHUT_FIRST: Duration = Duration::from_secs(1);
/// The longest time it stays shut.
const SHUT_MAX: Duration = Duration::from_secs(60);
/// The same where only the operator or the provider can mend it: probes are slow.
const OUT_FIRST: Duration = Duration::from_secs(60);
const OUT_MAX: Duration = Duration::from_secs(600);
/// The longest time a request on probation may take before another may try.
const PROBATION_MAX: Duration = Duration::from_secs(120);

/// What went wrong with an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection.
    Connect,
    /// A connection that broke, or bytes that are no answer.
    Broken,
    /// No answer in time.
    Timeout,
    /// It has had too many requests; it may say how long to wait.
    RateLimited(Option<Duration>),
    /// Its credential is not good: every request would fail.
    Credential,
    /// It cannot pay: every request would fail.
    Quota,
    /// It may not do this; other requests may pass.
    Forbidden,
    /// It does not serve this model.
    Model,
    /// An error of its own.
    Server,
}

/// Whose breaker a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Whatever is asked of the account fails.
    Account,
    /// Other models of it may work.
    Model,
    /// Nobody's: having too much to do is not being ill.
    None,
}

impl Fault {
    /// The word used in receipts and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Connect => "connect",
            Fault::Broken => "broken",
            Fault::Timeout => "timeout",
            Fault::RateLimited(_) => "rate_limited",
            Fault::Credential => "credential",
            Fault::Quota => "quota",
            Fault::Forbidden => "forbidden",
            Fault::Model => "model",
            Fault::Server => "server",
        }
    }

    /// Whose breaker it is for.
    pub const fn reach(self) -> Reach {
        match self {
            Fault::Connect | Fault::Credential | Fault::Quota | Fault::Forbidden => Reach::Account,
            Fault::Broken | Fault::Timeout | Fault::Model | Fault::Server => Reach::Model,
            Fault::RateLimited(_) => Reach::None,
        }
    }

    /// Whether it goes away by itself, as far as anybody knows.
    pub const fn passes(self) -> bool {
        match self {
            Fault::Connect | Fault::Broken | Fault::Timeout | Fault::RateLimited(_) | Fault::Server => true,
            Fault::Credential | Fault::Quota | Fault::Forbidden | Fault::Model => false,
        }
    }

    /// Whether one is enough. A caller may provoke a refusal of its own request: that takes more.
    const fn is_certain(self) -> bool {
        matches!(self, Fault::Credential | Fault::Quota | Fault::Model)
    }
}

/// Whether something may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Open,
    /// Not before then.
    Shut {
        /// When the next request may try.
        until: Instant,
    },
    /// One request is trying.
    Probation {
        /// When the next may try, if that one does not end.
        until: Instant,
    },
}

/// A breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    health: Health,
    /// Failures in a row.
    failures: u32,
    /// The last outcomes, the newest lowest: a bit is a failure.
    outcomes: u32,
    count: u32,
    last: Option<Instant>,
    shut_times: u32,
    cause: Option<Fault>,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            health: Health::Open,
            failures: 0,
            outcomes: 0,
            count: 0,
            last: None,
            shut_times: 0,
            cause: None,
        }
    }
}

impl Breaker {
    /// Its state.
    pub fn health(&self) -> Health {
        self.health
    }

    /// What shut it, unless it is open.
    pub fn cause(&self) -> Option<Fault> {
        self.cause.filter(|_| self.health != Health::Open)
    }

    /// Whether a request may pass now; if not, when one may.
    ///
    /// # Errors
    /// The earliest moment.
    pub fn admits(&self, now: Instant) -> Result<(), Instant> {
        match self.health {
            Health::Open => Ok(()),
            Health::Shut { until } | Health::Probation { until } if now >= until => Ok(()),
            Health::Shut { until } | Health::Probation { until } => Err(until),
        }
    }

    /// A request passes.
    pub fn begin(&mut self, now: Instant) {
        match self.health {
            Health::Open => {}
            Health::Shut { .. } | Health::Probation { .. } => {
                self.health = Health::Probation { until: now + PROBATION_MAX };
            }
        }
    }

    /// A request is being answered: that is enough to end probation.
    pub fn answered(&mut self) {
        if matches!(self.health, Health::Probation { .. }) {
            self.health = Health::Open;
        }
    }

    /// A request was answered to its end. One that began before it was shut says nothing.
    pub fn success(&mut self, now: Instant) {
        if matches!(self.health, Health::Shut { .. }) {
            return;
        }
        self.health = Health::Open;
        self.note(0, now);
        (self.failures, self.shut_times) = (0, 0);
    }

    /// A request ended without a verdict: if it was on probation, the next one may try.
    pub fn abandoned(&mut self, now: Instant) {
        if matches!(self.health, Health::Probation { .. }) {
            self.health = Health::Shut { until: now };
        }
    }

    /// What shut it is mended: the next request may try.
    pub fn mended(&mut self, now: Instant) {
        if matches!(self.health, Health::Shut { .. }) {
            self.health = Health::Shut { until: now };
        }
    }

    /// A request failed by this fault. Tells whether that shut it. `random` spreads the return of
    /// many that were shut by the same.
    pub fn failure(&mut self, fault: Fault, now: Instant, random: u32) -> bool {
        if matches!(self.health, Health::Shut { until } if now < until) {
            // It began before that: many that fail by one trouble are one trouble.
            return false;
        }
        let on_probation = matches!(self.health, Health::Probation { .. });
        self.note(1, now);
        self.failures = self.failures.saturating_add(1);
        let half = self.count >= OUTCOMES && self.outcomes.count_ones() * 2 >= OUTCOMES;
        if !(on_probation || fault.is_certain() || self.failures >= FAILURES_MAX || half) {
            return false;
        }
        let opened = self.health == Health::Open;
        let (first, longest) = if fault.passes() { (SHUT_FIRST, SHUT_MAX) } else { (OUT_FIRST, OUT_MAX) };
        let whole = first.saturating_mul(1 << self.shut_times.min(6)).min(longest);
        // Between three quarters and the whole of it.
        let jitter = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX) / 4;
        let jitter = u128::from(jitter) * u128::from(random) / u128::from(u32::MAX);
        let shut = whole - Duration::from_nanos(u64::try_from(jitter).unwrap_or_default());
        self.shut_times = self.shut_times.saturating_add(1);
        self.cause = Some(fault);
        // The outcomes before it have done what they could.
        (self.outcomes, self.count) = (0, 0);
        self.health = Health::Shut { until: now + shut };
        opened
    }

    fn note(&mut self, failed: u32, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > MEMORY) {
            (self.outcomes, self.count) = (0, 0);
        }
        self.last = Some(now);
        self.outcomes = ((self.outcomes << 1) | failed) & ((1 << OUTCOMES) - 1);
        self.count = (self.count + 1).min(OUTCOMES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies faults, each as soon as it may happen, and tells for how many seconds it is shut then.
    fn check(faults: &[Fault], expect_shut_s: u64) {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        faults.iter().for_each(|fault| {
            now = breaker.admits(now).err().unwrap_or(now);
            breaker.begin(now);
            breaker.failure(*fault, now, 0);
        });
        let second = |s| now + Duration::from_secs(s);
        let shut = (0..2_000).find(|s| breaker.admits(second(*s)).is_ok());
        assert_eq!(shut, Some(expect_shut_s), "{faults:?}");
    }

    #[test]
    fn failures_in_a_row_shut_it() {
        check(&[Fault::Server; 4], 0);
        check(&[Fault::Server; 5], 1);
        check(&[Fault::Connect; 6], 2);
        check(&[Fault::Timeout; 50], 60);
        check(&[Fault::Forbidden; 4], 0);
        check(&[Fault::Forbidden; 5], 60);
    }

    #[test]
    fn what_is_certain_shuts_it_at_once_and_for_longer() {
        for fault in [Fault::Credential, Fault::Quota, Fault::Model] {
            check(&[fault], 60);
            check(&[fault; 2], 120);
            check(&[fault; 20], 600);
        }
    }

    #[test]
    fn many_that_fail_by_one_trouble_are_one_trouble() {
        for (fault, expect_s) in [(Fault::Broken, 1), (Fault::Credential, 60)] {
            let (now, mut breaker) = (Instant::now(), Breaker::default());
            let shut = (0..200).filter(|_| breaker.failure(fault, now, 0)).count();
            assert_eq!((shut, breaker.admits(now)), (1, Err(now + Duration::from_secs(expect_s))));
        }
    }

    #[test]
    fn half_of_the_last_outcomes_shut_it() {
        let (now, mut breaker) = (Instant::now(), Breaker::default());
        for outcome in 0..19 {
            assert_eq!(breaker.health(), Health::Open, "{outcome}");
            match outcome % 2 {
                0 => assert!(!breaker.failure(Fault::Server, now, 0)),
                _ => breaker.success(now),
            }
        }
        assert!(breaker.clone().failure(Fault::Server, now, 0));
        let later = now + MEMORY + Duration::from_millis(1);
        assert!(!breaker.failure(Fault::Server, later, 0), "that was long ago");
    }

    #[test]
    fn many_do_not_return_at_once() {
        let now = Instant::now();
        let until = |random| {
            let mut breaker = Breaker::default();
            breaker.failure(Fault::Credential, now, random);
            breaker.admits(now).unwrap_err().duration_since(now).as_secs()
        };
        assert_eq!([0, u32::MAX / 2, u32::MAX].map(until), [60, 52, 45]);
    }

    #[test]
    fn one_request_on_probation_decides() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let mut breaker = Breaker::default();
        let shut = (0..5).filter(|_| breaker.failure(Fault::Server, start, 0)).count();
        assert_eq!((shut, breaker.cause()), (1, Some(Fault::Server)));
        assert!(breaker.admits(start).is_err() && breaker.admits(later).is_ok());
        breaker.begin(later);
        assert!(breaker.admits(later).is_err(), "only one at a time");
        let mut recovered = breaker.clone();
        recovered.success(later);
        assert_eq!((recovered.health(), recovered.cause()), (Health::Open, None));
        let mut left = breaker.clone();
        left.abandoned(later);
        assert!(left.admits(later).is_ok(), "who hangs up decides nothing");
        let mut streaming = breaker.clone();
        streaming.answered();
        assert_eq!(streaming.health(), Health::Open);
        breaker.failure(Fault::Server, later, 0);
        assert!(breaker.admits(later + Duration::from_secs(1)).is_err(), "longer than before");
        breaker.success(later);
        assert!(breaker.admits(later + Duration::from_secs(1)).is_err(), "an older request says nothing");
        breaker.mended(later);
        assert!(breaker.admits(later).is_ok(), "a check found it well");
    }
}
