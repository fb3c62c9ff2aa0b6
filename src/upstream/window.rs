//! A sliding minute, kept exactly: in no sixty seconds is more taken than its limit. Pure.
//!
//! What is taken is written down with its moment and forgotten a minute later, so there is no
//! boundary at which twice the limit fits, as there is between fixed minutes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long what was taken counts.
const WINDOW: Duration = Duration::from_secs(60);
/// What is taken within this time is one slot and leaves with the last of it: bounds a window to
/// 6,000 slots, however much is taken.
const SLOT: Duration = Duration::from_millis(10);
/// The same for what is told to another process.
const MERGED: Duration = Duration::from_secs(1);

/// What was taken of one limit during the last minute.
#[derive(Clone, Debug)]
pub struct Window {
    max: Option<u64>,
    sum: u64,
    slots: VecDeque<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    opened: Instant,
    amount: u64,
}

impl Slot {
    fn leaves(&self) -> Instant {
        self.opened + SLOT + WINDOW
    }
}

/// Where something was written down, to change it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    opened: Instant,
    amount: u64,
}

impl Window {
    /// Nothing was taken; at most `max` may be, or any amount.
    pub fn new(max: Option<u64>) -> Self {
        Window { max, sum: 0, slots: VecDeque::new() }
    }

    /// The limit.
    pub fn max(&self) -> Option<u64> {
        self.max
    }

    /// Another limit from now on. What was taken stays taken.
    pub fn set_max(&mut self, max: Option<u64>) {
        self.max = max;
    }

    /// What may be taken now, if there is a limit.
    pub fn free(&mut self, now: Instant) -> Option<u64> {
        self.forget(now);
        self.max.map(|max| max.saturating_sub(self.sum))
    }

    /// Whether `amount` may be taken now; if not, when it may at the earliest. What is larger than
    /// the limit fits once nothing else is there: or it would never be served.
    ///
    /// # Errors
    /// The earliest moment.
    pub fn fits(&mut self, amount: u64, now: Instant) -> Result<(), Instant> {
        let (Some(free), Some(max)) = (self.free(now), self.max) else { return Ok(()) };
        let mut missing = amount.min(max).saturating_sub(free);
        if missing == 0 {
            return Ok(());
        }
        // What is above the limit leaves first.
        missing = missing.saturating_add(self.sum.saturating_sub(max));
        for slot in &self.slots {
            missing = missing.saturating_sub(slot.amount);
            if missing == 0 {
                return Err(slot.leaves());
            }
        }
        Err(now + WINDOW)
    }

    /// Takes `amount`.
    pub fn take(&mut self, amount: u64, now: Instant) -> Taken {
        self.forget(now);
        self.sum = self.sum.saturating_add(amount);
        match self.slots.back_mut() {
            Some(slot) if now < slot.opened + SLOT => {
                slot.amount = slot.amount.saturating_add(amount);
                Taken { opened: slot.opened, amount }
            }
            Some(_) | None => {
                self.slots.push_back(Slot { opened: now, amount });
                Taken { opened: now, amount }
            }
        }
    }

    /// It was `amount` in truth. Without effect once it is forgotten.
    pub fn amend(&mut self, taken: Taken, amount: u64) {
        if let Ok(at) = self.slots.binary_search_by_key(&taken.opened, |slot| slot.opened) {
            let slot = &mut self.slots[at];
            slot.amount = slot.amount.saturating_sub(taken.amount).saturating_add(amount);
            self.sum = self.sum.saturating_sub(taken.amount).saturating_add(amount);
        }
    }

    /// Whether it still counts.
    pub fn remembers(&self, taken: Taken, now: Instant) -> bool {
        Slot { opened: taken.opened, amount: taken.amount }.leaves() > now
    }

    /// What counts, by age in microseconds, the oldest first. What was taken within a second is one, and leaves
    /// with the last of it.
    pub fn remembered(&mut self, now: Instant) -> Vec<(u64, u64)> {
        self.forget(now);
        let mut merged: Vec<(Instant, Slot)> = Vec::new();
        for slot in &self.slots {
            match merged.last_mut() {
                Some((begun, last)) if slot.opened < *begun + MERGED => {
                    *last = Slot { opened: slot.opened, amount: last.amount.saturating_add(slot.amount) };
                }
                Some(_) | None => merged.push((slot.opened, *slot)),
            }
        }
        let age_us = |slot: &Slot| now.saturating_duration_since(slot.opened).as_micros();
        let aged = |(_, slot): &(Instant, Slot)| (u64::try_from(age_us(slot)).unwrap_or(0), slot.amount);
        merged.iter().map(aged).collect()
    }

    /// What counted elsewhere counts here.
    pub fn remember(&mut self, remembered: &[(u64, u64)], now: Instant) {
        for (age_us, amount) in remembered {
            let opened = now.checked_sub(Duration::from_micros(*age_us)).unwrap_or(now);
            self.slots.push_back(Slot { opened, amount: *amount });
            self.sum = self.sum.saturating_add(*amount);
        }
        self.slots.make_contiguous().sort_by_key(|slot| slot.opened);
    }

    /// Gives back what was taken by somebody else at a moment that still counts: of the oldest, so that what is
    /// left counts no shorter than it should.
    pub fn give_back(&mut self, amount: u64, now: Instant) {
        self.forget(now);
        let mut left = amount;
        for slot in &mut self.slots {
            let given = left.min(slot.amount);
            (slot.amount, self.sum, left) = (slot.amount - given, self.sum - given, left - given);
            if left == 0 {
                return;
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(slot) = self.slots.front().filter(|slot| slot.leaves() <= now) {
            self.sum -= slot.amount;
            self.slots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(after: u64) -> Duration {
        Duration::from_millis(after)
    }

    /// Takes all that fits, at these moments; tells what was taken when.
    fn check(max: u64, asked: &[(u64, u64)], expect: &[Result<(), u64>]) {
        let start = Instant::now();
        let mut window = Window::new(Some(max));
        for ((after_ms, amount), expect) in asked.iter().zip(expect) {
            let now = start + ms(*after_ms);
            let fits = window.fits(*amount, now);
            let wait = fits.map_err(|at| at.duration_since(start).as_millis());
            assert_eq!(wait, expect.map_err(u128::from), "{amount} at {after_ms} of {asked:?}");
            if fits.is_ok() {
                window.take(*amount, now);
            }
        }
    }

    #[test]
    fn a_minute_admits_its_limit_wherever_it_begins() {
        let asked = [(0, 1), (50_000, 1), (50_000, 1), (59_999, 1), (60_010, 1), (60_010, 1)];
        check(2, &asked, &[Ok(()), Ok(()), Err(60_010), Err(60_010), Ok(()), Err(110_010)]);
        check(10, &[(0, 4), (5_000, 4), (5_000, 7)], &[Ok(()), Ok(()), Err(65_010)]);
        check(10, &[(0, 99), (1, 1), (60_010, 1)], &[Ok(()), Err(60_010), Ok(())]);
        check(10, &[(0, 1), (1, 99), (60_010, 99)], &[Ok(()), Err(60_010), Ok(())]);
    }

    #[test]
    fn no_minute_has_more_than_the_limit() {
        let (start, mut window) = (Instant::now(), Window::new(Some(50)));
        let mut random = fastrand::Rng::with_seed(7);
        let (mut now, mut taken) = (0, VecDeque::new());
        for _ in 0..20_000 {
            now += random.u64(..40);
            let amount = random.u64(1..5);
            if window.fits(amount, start + ms(now)).is_ok() {
                window.take(amount, start + ms(now));
                taken.push_back((now, amount));
            }
            while taken.front().is_some_and(|(at, _)| at + 60_000 <= now) {
                taken.pop_front();
            }
            let sum: u64 = taken.iter().map(|(_, amount)| amount).sum();
            assert!(sum <= 50, "{sum} in the minute before {now}");
        }
        assert!(now > 300_000 && window.slots.len() <= 6_001);
    }

    #[test]
    fn what_was_too_much_is_given_back() {
        let (start, mut window) = (Instant::now(), Window::new(Some(10)));
        let first = window.take(8, start);
        window.take(2, start);
        assert_eq!(window.free(start), Some(0));
        window.amend(first, 1);
        assert_eq!(window.free(start), Some(7));
        window.amend(Taken { amount: 1, ..first }, 15);
        assert_eq!((window.free(start), window.sum), (Some(0), 17));
        assert_eq!(window.fits(1, start), Err(start + ms(60_010)));
        window.amend(Taken { amount: 15, ..first }, 0);
        assert_eq!(window.free(start + ms(60_010)), Some(10));
        window.amend(first, 3);
        assert_eq!(window.free(start + ms(60_010)), Some(10), "it is forgotten");
    }
}
