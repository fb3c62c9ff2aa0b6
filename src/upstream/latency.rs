//! How long an account takes to answer, as far as that matters now. Pure: time is an argument.
//!
//! A peak-sensitive moving mean: a slow answer counts at once and whole, quick ones make it forgotten
//! over [`MEMORY`]. An account that was slow and is not asked any more is forgiven after [`FORGIVEN`].

use std::time::{Duration, Instant};

/// How long the past counts.
const MEMORY: Duration = Duration::from_secs(10);
/// After this long without an answer nothing is known any more.
const FORGIVEN: Duration = Duration::from_secs(60);

/// The latency of one account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency(Option<(Duration, Instant)>);

impl Latency {
    /// An answer began after `took`.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let mean = match self.0 {
            Some((mean, at)) if mean > took => {
                let since = now.saturating_duration_since(at).min(MEMORY);
                mean - part(mean - took, since, MEMORY)
            }
            Some(_) | None => took,
        };
        self.0 = Some((mean, now));
    }

    /// An answer was given up that had not begun after `took`: it would have taken longer.
    pub fn exceeds(&mut self, took: Duration, now: Instant) {
        if self.expected(now).is_none_or(|expected| expected < took) {
            self.observe(took, now);
        }
    }

    /// What is to be expected; `None` if nothing is known.
    pub fn expected(&self, now: Instant) -> Option<Duration> {
        let (mean, at) = self.0?;
        (now.saturating_duration_since(at) < FORGIVEN).then_some(mean)
    }
}

fn part(of: Duration, part: Duration, whole: Duration) -> Duration {
    let nanos = of.as_nanos() * part.as_nanos() / whole.as_nanos();
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as (moment, latency) in ms; tells what is expected at the moment of the last.
    fn check(answers: &[(u64, u64)], after_ms: u64, expect_ms: Option<u64>) {
        let start = Instant::now();
        let mut latency = Latency::default();
        let mut last = start;
        for (at, took) in answers {
            last = start + Duration::from_millis(*at);
            latency.observe(Duration::from_millis(*took), last);
        }
        let expected = latency.expected(last + Duration::from_millis(after_ms));
        assert_eq!(expected, expect_ms.map(Duration::from_millis), "{answers:?}");
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        check(&[], 0, None);
        check(&[(0, 100)], 0, Some(100));
        check(&[(0, 100), (1, 2_000)], 0, Some(2_000));
        check(&[(0, 1_100), (5_000, 100)], 0, Some(600));
        check(&[(0, 1_100), (50_000, 100)], 0, Some(100));
        check(&[(0, 100)], 59_999, Some(100));
        check(&[(0, 100)], 60_000, None);
    }

    #[test]
    fn what_was_given_up_never_counts_as_quick() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let given_up = |known: &[u64], after, at| {
            let mut latency = Latency::default();
            known.iter().for_each(|known| latency.observe(ms(*known), start));
            latency.exceeds(ms(after), start + ms(at));
            latency.expected(start + ms(at))
        };
        assert_eq!(given_up(&[], 300, 0), Some(ms(300)), "that much is known");
        assert_eq!(given_up(&[100], 300, 5_000), Some(ms(300)));
        assert_eq!(given_up(&[2_000], 300, 5_000), Some(ms(2_000)));
        assert_eq!(given_up(&[2_000], 300, 60_000), Some(ms(300)), "what was before is forgiven");
    }
}
