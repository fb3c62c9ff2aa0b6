//! What an account has taken of its limits, from one process to the one that takes its place.

use super::Account;
use crate::upstream::limits::{Change, Counts, Tell, UnderWay};
use std::time::Instant;

impl Account {
    /// What counts, for the process that takes over; `tell` hears of each change from now on.
    pub fn hand_over(&self, tell: Tell, now: Instant) -> Counts {
        self.state.limits.lock().hand_over(tell, now)
    }

    /// Nobody took over.
    pub fn keep(&self) {
        self.state.limits.lock().keep();
    }

    /// What counted in the process before.
    pub fn take_over(&self, counts: &Counts, now: Instant) {
        self.state.limits.lock().take_over(counts, now);
    }

    /// The process before this one has something under way, and tells of it.
    pub fn changed_elsewhere(&self, change: Change, now: Instant) {
        self.state.limits.lock().changed_elsewhere(change, now);
        self.state.queue.wake();
    }

    /// That process is gone with what it had under way.
    pub fn lost(&self, under_way: UnderWay) {
        self.state.limits.lock().lost(under_way);
        self.state.queue.wake();
    }
}
