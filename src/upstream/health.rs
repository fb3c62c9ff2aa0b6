//! The breaker of one upstream account: pure, time is an argument.
//!
//! Open, an account is used. Failures in a row shut it for a while that grows with each time; then
//! one live request is let through on probation, and decides.

use std::time::{Duration, Instant};

/// Failures in a row that shut an account: fewer would let one bad request do it.
const FAILURES_MAX: u32 = 5;
/// The first time it stays shut.
const SHUT_FIRST: Duration = Duration::from_secs(1);
/// The longest time it stays shut.
const SHUT_MAX: Duration = Duration::from_secs(60);
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
    /// Its credential or quota is not good: every request would fail.
    Credential,
    /// It may not do this; other requests may pass.
    Forbidden,
    /// It does not serve this model.
    Model,
    /// An error of its own.
    Server,
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
            Fault::Forbidden => "forbidden",
            Fault::Model => "model",
            Fault::Server => "server",
        }
    }
}

/// Whether an account may be used.
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

/// The breaker of one account.
#[derive(Clone, Debug)]
pub struct Breaker {
    health: Health,
    failures: u32,
    shut_times: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { health: Health::Open, failures: 0, shut_times: 0 }
    }
}

impl Breaker {
    /// Its state.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether a request may use the account now; if not, when it may.
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

    /// A request uses the account.
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

    /// A request was answered to its end. One that began before the account was shut says nothing.
    pub fn success(&mut self) {
        if !matches!(self.health, Health::Shut { .. }) {
            *self = Breaker::default();
        }
    }

    /// A request ended without a verdict: if it was on probation, the next one may try.
    pub fn abandoned(&mut self, now: Instant) {
        if matches!(self.health, Health::Probation { .. }) {
            self.health = Health::Shut { until: now };
        }
    }

    /// A request failed by the account's fault.
    pub fn failure(&mut self, fault: Fault, now: Instant) {
        let on_probation = matches!(self.health, Health::Probation { .. });
        if !matches!(fault, Fault::Model | Fault::RateLimited(_)) {
            self.failures = self.failures.saturating_add(1);
        }
        let shut = match fault {
            // The model may be missing while all others work; having too much to do is not being ill.
            Fault::Model | Fault::RateLimited(_) => return self.answered(),
            Fault::Credential => Some(SHUT_MAX),
            Fault::Connect | Fault::Broken | Fault::Timeout | Fault::Server | Fault::Forbidden => {
                (on_probation || self.failures >= FAILURES_MAX).then(|| self.growing())
            }
        };
        if let Some(shut) = shut {
            self.shut_times = self.shut_times.saturating_add(1);
            self.health = Health::Shut { until: now + shut };
        }
    }

    fn growing(&self) -> Duration {
        SHUT_FIRST.saturating_mul(1 << self.shut_times.min(6)).min(SHUT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies faults one second apart and tells for how many seconds the account is shut then.
    fn check(faults: &[Fault], expect_shut_s: u64) {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        faults.iter().for_each(|fault| breaker.failure(*fault, start));
        let second = |s| start + Duration::from_secs(s);
        let shut = (0..200).find(|s| breaker.admits(second(*s)).is_ok());
        assert_eq!(shut, Some(expect_shut_s), "{faults:?}");
    }

    #[test]
    fn failures_in_a_row_shut_an_account() {
        check(&[Fault::Server; 4], 0);
        check(&[Fault::Server; 5], 1);
        check(&[Fault::Connect; 6], 2);
        check(&[Fault::Model; 50], 0);
        check(&[Fault::Credential], 60);
        check(&[Fault::Forbidden; 4], 0);
        check(&[Fault::Forbidden; 5], 1);
        check(&[Fault::RateLimited(None); 50], 0);
        check(&[Fault::Timeout; 50], 60);
    }

    #[test]
    fn one_request_on_probation_decides() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let mut breaker = Breaker::default();
        (0..5).for_each(|_| breaker.failure(Fault::Server, start));
        assert!(breaker.admits(start).is_err() && breaker.admits(later).is_ok());
        breaker.begin(later);
        assert!(breaker.admits(later).is_err(), "only one at a time");
        let mut recovered = breaker.clone();
        recovered.success();
        assert_eq!(recovered.health(), Health::Open);
        let mut left = breaker.clone();
        left.abandoned(later);
        assert!(left.admits(later).is_ok(), "who hangs up decides nothing");
        let mut streaming = breaker.clone();
        streaming.answered();
        assert_eq!(streaming.health(), Health::Open);
        breaker.failure(Fault::Server, later);
        assert!(breaker.admits(later + Duration::from_secs(1)).is_err(), "longer than before");
        breaker.success();
        assert!(breaker.admits(later + Duration::from_secs(1)).is_err(), "an older request says nothing");
    }
}
