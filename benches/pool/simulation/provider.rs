//! A provider's side of one account: what it lets pass, what it tells, and when it is ill.

use std::ops::Range;
use std::time::Duration;
use tollgate::upstream::told::{Kind, Report, Told};

const MINUTE: Duration = Duration::from_secs(60);

/// How a limit comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// A little at any time, up to a minute's worth.
    Steady,
    /// All of it at the full minute.
    Fixed,
}

/// Whether answers tell what is left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    Everything,
    Nothing,
}

/// What an account is limited by.
#[derive(Clone)]
pub struct Limit {
    pub kind: Kind,
    pub per_minute: u32,
    pub refill: Refill,
    pub tells: Tells,
}

/// What one request takes.
#[derive(Clone, Copy)]
pub struct Size {
    pub input: u32,
    pub output: u32,
}

/// An account, as its provider sees it. Time runs from the start of the simulation.
pub struct Provider {
    pub limit: Limit,
    /// Until an answer begins, while it is well.
    pub latency: Duration,
    /// When every request fails.
    pub down: Vec<Range<Duration>>,
    /// When answers take twenty times as long.
    pub slow: Vec<Range<Duration>>,
    /// What is used and wasted counts from here on.
    pub counts_from: Duration,
    left: f64,
    seen: Duration,
    /// Of the limit, in its own unit.
    used: f64,
    /// What came back while there was no room for it, or was not used at the end of a window: it could
    /// have served somebody.
    wasted: f64,
}

fn is_in(ranges: &[Range<Duration>], at: Duration) -> bool {
    ranges.iter().any(|range| range.contains(&at))
}

impl Provider {
    pub fn new(limit: Limit, latency: Duration) -> Self {
        let left = f64::from(limit.per_minute);
        let (seen, counts_from) = (Duration::ZERO, Duration::ZERO);
        let (down, slow) = (Vec::new(), Vec::new());
        Provider { limit, latency, down, slow, counts_from, left, seen, used: 0.0, wasted: 0.0 }
    }

    /// A request of `size` comes in. Tells whether it is let pass.
    pub fn take(&mut self, size: Size, at: Duration) -> (bool, Report) {
        self.advance(at);
        let amount = self.amount(size);
        let passes = self.left >= amount;
        if passes {
            self.left -= amount;
            if at >= self.counts_from {
                self.used += amount;
            }
        }
        (passes, self.report(amount, at))
    }

    pub fn is_down(&self, at: Duration) -> bool {
        is_in(&self.down, at)
    }

    pub fn latency(&self, at: Duration) -> Duration {
        if is_in(&self.slow, at) { self.latency * 20 } else { self.latency }
    }

    /// What it serves in a second, if each request is of `mean` size.
    pub fn capacity(&self, mean: Size) -> f64 {
        f64::from(self.limit.per_minute) / 60.0 / self.amount(mean)
    }

    /// The share of what it could have served that it did, until `at`.
    pub fn utilization(&mut self, at: Duration) -> f64 {
        self.advance(at);
        if self.used + self.wasted == 0.0 { 1.0 } else { self.used / (self.used + self.wasted) }
    }

    fn amount(&self, size: Size) -> f64 {
        match self.limit.kind {
            Kind::Requests => 1.0,
            Kind::Tokens | Kind::ProjectTokens => f64::from(size.input) + f64::from(size.output),
            Kind::InputTokens => f64::from(size.input),
            Kind::OutputTokens => f64::from(size.output),
        }
    }

    /// Lets time pass in steps that are short enough to tell when it was down.
    fn advance(&mut self, at: Duration) {
        let step = Duration::from_millis(100);
        while self.seen < at {
            let next = (self.seen + step).min(at);
            self.refill(next);
            self.seen = next;
        }
    }

    fn refill(&mut self, next: Duration) {
        let max = f64::from(self.limit.per_minute);
        let (lost, since) = match self.limit.refill {
            Refill::Steady => {
                let full = self.left + max * (next - self.seen).as_secs_f64() / 60.0;
                self.left = full.min(max);
                (full - self.left, self.seen)
            }
            Refill::Fixed if minute(next) == minute(self.seen) => return,
            Refill::Fixed => (std::mem::replace(&mut self.left, max), next.saturating_sub(MINUTE)),
        };
        // While it was down nobody could have used it.
        let was_down = self.down.iter().any(|down| down.start < next && since < down.end);
        if next >= self.counts_from && !was_down {
            self.wasted += lost;
        }
    }

    fn report(&self, amount: f64, at: Duration) -> Report {
        let max = f64::from(self.limit.per_minute);
        let whole = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0).ceil());
        let into = Duration::from_nanos(u64::try_from(at.as_nanos() % MINUTE.as_nanos()).unwrap_or_default());
        let (reset, wait) = match self.limit.refill {
            Refill::Steady => (
                Duration::from_secs_f64((max - self.left) * 60.0 / max),
                Duration::from_secs_f64((amount - self.left).max(0.0) * 60.0 / max),
            ),
            Refill::Fixed => {
                let left = (MINUTE - into).as_secs_f64();
                (whole(left), whole(left))
            }
        };
        let wait = (self.left < amount).then_some(wait);
        let mut report = Report { wait, ..Report::default() };
        if self.limit.tells == Tells::Everything {
            let remaining = Duration::from_secs_f64(self.left.max(0.0)).as_secs();
            report.told[self.limit.kind.index()] = Told {
                limit: Some(self.limit.per_minute.into()),
                remaining: Some(remaining),
                reset: Some(reset),
            };
        }
        report
    }
}

fn minute(at: Duration) -> u64 {
    at.as_secs() / 60
}
