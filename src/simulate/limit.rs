//! The provider's rate limit: requests of one credential in a fixed minute. Time is an argument.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Credentials whose windows are kept. Beyond it all begin anew: only a test that makes up its
/// credentials comes here.
const CREDENTIALS_MAX: usize = 10_000;
/// What is shown as the limit when there is none.
const SHOWN_REQUESTS: u32 = 10_000;

/// The open window of every credential.
#[derive(Default)]
pub(super) struct Limits {
    windows: Mutex<HashMap<String, Window>>,
}

/// What the `x-ratelimit-*` headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headroom {
    pub limit: u32,
    pub remaining: u32,
    pub reset: Duration,
    /// Whether this request is beyond the limit.
    pub exceeded: bool,
}

impl Limits {
    /// Counts one request of this credential.
    pub fn take(&self, credential: &str, limit: u32, now: Instant) -> Headroom {
        let mut windows = self.windows.lock();
        if let Some(window) = windows.get_mut(credential) {
            return window.take(limit, now);
        }
        if windows.len() >= CREDENTIALS_MAX {
            windows.clear();
        }
        windows.entry(credential.to_owned()).or_insert(Window { opened: now, used: 0 }).take(limit, now)
    }
}

impl Headroom {
    /// What an account without a limit shows.
    pub const UNLIMITED: Headroom = Headroom {
        limit: SHOWN_REQUESTS,
        remaining: SHOWN_REQUESTS - 1,
        reset: Duration::from_millis(6),
        exceeded: false,
    };
}

struct Window {
    opened: Instant,
    used: u32,
}

impl Window {
    fn take(&mut self, limit: u32, now: Instant) -> Headroom {
        let mut age = now.saturating_duration_since(self.opened);
        if age >= WINDOW {
            (*self, age) = (Window { opened: now, used: 0 }, Duration::ZERO);
        }
        let exceeded = self.used >= limit;
        if !exceeded {
            self.used += 1;
        }
        Headroom { limit, remaining: limit.saturating_sub(self.used), reset: WINDOW - age, exceeded }
    }
}

/// A duration as the headers write it: `20ms`, `6s`, `1m0s`.
pub(super) fn written(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60.. => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_admits_its_limit() {
        let (limits, start) = (Limits::default(), Instant::now());
        let check = |credential, after_s, remaining, exceeded| {
            let got = limits.take(credential, 2, start + Duration::from_secs(after_s));
            assert_eq!((got.remaining, got.exceeded), (remaining, exceeded), "{credential} {after_s}");
            got.reset.as_secs()
        };
        assert_eq!(check("a", 0, 1, false), 60);
        assert_eq!(check("a", 1, 0, false), 59);
        assert_eq!(check("a", 59, 0, true), 1);
        assert_eq!(check("b", 59, 1, false), 60);
        assert_eq!(check("a", 60, 1, false), 60);
    }

    #[test]
    fn durations_are_written_as_go_does() {
        let texts = [0, 20, 6_000, 60_000, 360_500].map(|ms| written(Duration::from_millis(ms)));
        assert_eq!(texts, ["0ms", "20ms", "6s", "1m0s", "6m0s"]);
    }
}
