//! The budget of retries: one for each ten requests, so that a pool in trouble is not asked twice
//! as much for it.

use std::sync::atomic::{AtomicU32, Ordering};

/// Requests that earn a retry: 10 %.
const REQUESTS_A_RETRY: u32 = 10;
/// Retries that can be saved up: enough for all that is under way on an account that dies.
const SAVED_MAX: u32 = 100;

/// What is left for retries, in tenths of one.
#[derive(Debug)]
pub struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Budget(AtomicU32::new(SAVED_MAX * REQUESTS_A_RETRY))
    }
}

impl Budget {
    /// A request came.
    pub fn earn(&self) {
        let more = |saved| (saved < SAVED_MAX * REQUESTS_A_RETRY).then_some(saved + 1);
        // Full is full.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether one may be tried again.
    #[must_use]
    pub fn spend(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(REQUESTS_A_RETRY);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_requests_is_tried_again() {
        let budget = Budget::default();
        let mut retried = 0;
        for _ in 0..10_000 {
            budget.earn();
            retried += u32::from(budget.spend());
        }
        assert!((1_099..=1_101).contains(&retried), "{retried}");
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..10_000).filter(|_| budget.spend()).count(), 100, "no more than that is saved up");
    }
}
