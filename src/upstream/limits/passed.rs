//! An account's limits over a hand-over: what one process took counts in the one that takes its place. Pure.
//!
//! What is under way stays with the process that has it, which tells the other of each change until it is
//! done. Where something cannot be told exactly, more counts as taken, never less.

use super::{Limits, Most, Share, Use};
use crate::money::Amount;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What counts against the limits of an account; moments are ages in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that have not ended.
    pub under_way: UnderWay,
    requests: Vec<(u64, u64)>,
    tokens: Vec<(u64, u64)>,
    /// Of the day under way.
    pub spent: Amount,
}

/// Requests that have not ended, and the most that they may still need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    requests: u32,
    most: Most,
}

/// What happened in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A request went out, and took this.
    Began(Most),
    /// One has ended.
    Ended {
        /// What it had taken.
        most: Most,
        /// It never reached the provider, a moment ago: it is no request.
        unsent: bool,
        /// Tokens that it used; without, what it took stays taken.
        tokens: Option<u64>,
        /// What it spent; the same.
        spend: Option<Amount>,
    },
}

/// Hears of changes.
pub type Tell = Box<dyn Fn(Change) + Send>;

impl UnderWay {
    /// How many.
    pub fn requests(self) -> u32 {
        self.requests
    }

    /// The most that all of them may still need.
    pub fn most(self) -> Most {
        self.most
    }

    /// After a change of them.
    pub fn after(self, change: Change) -> Self {
        match change {
            Change::Began(most) => self.with(UnderWay { requests: 1, most }),
            Change::Ended { most, .. } => self.without(UnderWay { requests: 1, most }),
        }
    }

    /// With others.
    pub fn with(self, other: UnderWay) -> Self {
        UnderWay {
            requests: self.requests.saturating_add(other.requests),
            most: Most {
                tokens: self.most.tokens.saturating_add(other.most.tokens),
                spend: self.most.spend + other.most.spend,
            },
        }
    }

    /// Without some of them.
    pub fn without(self, other: UnderWay) -> Self {
        UnderWay {
            requests: self.requests.saturating_sub(other.requests),
            most: Most {
                tokens: self.most.tokens.saturating_sub(other.most.tokens),
                spend: (self.most.spend - other.most.spend).max(Amount::ZERO),
            },
        }
    }
}

impl Limits {
    /// What counts, for the process that takes over; `tell` hears of each change from now on.
    pub fn hand_over(&mut self, tell: Tell, now: Instant) -> Counts {
        self.tell = Some(tell);
        Counts {
            under_way: self.under_way(),
            requests: self.requests.remembered(now),
            tokens: self.tokens.remembered(now),
            spent: self.spent(now),
        }
    }

    /// Nobody took over.
    pub fn keep(&mut self) {
        self.tell = None;
    }

    /// What counted in the process before, where nothing counts yet.
    pub fn take_over(&mut self, counts: &Counts, now: Instant) {
        self.elsewhere = counts.under_way;
        self.requests.remember(&counts.requests, now);
        self.tokens.remember(&counts.tokens, now);
        self.spend.used = counts.spent;
    }

    /// Another process has something under way, and tells this of it.
    pub fn changed_elsewhere(&mut self, change: Change, now: Instant) {
        self.elsewhere = self.elsewhere.after(change);
        match change {
            Change::Began(most) => {
                self.requests.take(1, now);
                self.tokens.take(most.tokens, now);
                self.spend.take(most.spend, now);
            }
            Change::Ended { most, unsent, tokens, spend } => {
                self.requests.give_back(u64::from(unsent), now);
                let used = tokens.unwrap_or(most.tokens);
                self.tokens.give_back(most.tokens.saturating_sub(used), now);
                if used > most.tokens {
                    self.tokens.take(used - most.tokens, now);
                }
                self.spend.turn(now);
                let more = spend.map_or(Amount::ZERO, |spend| spend - most.spend);
                self.spend.used = (self.spend.used + more).max(Amount::ZERO);
            }
        }
    }

    /// Who had these is gone, and nobody knows what they used.
    pub fn lost(&mut self, under_way: UnderWay) {
        self.elsewhere = self.elsewhere.without(under_way);
    }

    /// What the end of a request is to another process.
    pub(super) fn ended(&self, share: &Share, used: Use, now: Instant) -> Change {
        let (unsent, used) = match used {
            Use::Unknown => (false, None),
            Use::Unsent => (true, Some(Most::NOTHING)),
            Use::Used(used) => (false, Some(used)),
        };
        Change::Ended {
            most: share.most,
            unsent: unsent && self.requests.remembers(share.requests, now),
            tokens: used.map(|used| used.tokens).filter(|_| self.tokens.remembers(share.tokens, now)),
            spend: used.map(|used| used.spend).filter(|_| share.spend.0 == self.spend.midnight),
        }
    }

    /// Here and elsewhere.
    pub(super) fn under_way(&self) -> UnderWay {
        UnderWay { requests: self.in_flight, most: self.reserved }.with(self.elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::config;
    use std::sync::mpsc;
    use std::time::Duration;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn most(tokens: u64, spend: &str) -> Most {
        Most { tokens, spend: Amount::parse(spend).unwrap() }
    }

    /// Noon of a day, and limits of which nothing is taken.
    fn limits(now: Instant) -> Limits {
        let set = config::Limits {
            concurrency: 3,
            requests_per_minute: Some(4),
            tokens_per_minute: Some(1_000),
            spend_per_day: Some(Amount::parse("1").unwrap()),
        };
        Limits::new(set, now, Timestamp::parse("2026-11-23T12:00:00Z").unwrap())
    }

    /// Hands over at `now`, through JSON as between processes.
    fn hand_over(old: &mut Limits, now: Instant) -> (Limits, mpsc::Receiver<Change>) {
        let (changes, told) = mpsc::channel();
        let tell = move |change| changes.send(change).expect("the test listens");
        let counts = old.hand_over(Box::new(tell), now);
        let counts = serde_json::from_str(&serde_json::to_string(&counts).unwrap()).unwrap();
        let mut new = limits(now);
        new.take_over(&counts, now);
        (new, told)
    }

    #[test]
    fn what_was_used_before_is_forgotten_no_sooner_than_it_would_have_been() {
        let begun = Instant::now();
        let mut old = limits(begun);
        for (at, tokens) in [(0, 100), (30, 600), (30, 200)] {
            let share = old.take(most(tokens, "0.2"), begun + seconds(at));
            old.release(&share, Use::Used(most(tokens, "0.1")), begun + seconds(at));
        }
        let (mut new, _) = hand_over(&mut old, begun + seconds(40));
        for (at, fits) in [(40, false), (59, false), (61, false), (89, false), (92, true)] {
            let now = begun + seconds(at);
            assert_eq!(new.fits(most(300, "0.1"), now).is_ok(), fits, "after {at} s");
            assert!(new.fits(most(100, "0.1"), now).is_ok());
            assert!(new.fits(most(1, "0.8"), now).is_err(), "the day");
            assert_eq!(new.ratios_ppm(now), old.ratios_ppm(now), "after {at} s");
        }
    }

    #[test]
    fn what_the_other_process_has_under_way_counts_until_it_ends() {
        let now = Instant::now();
        let mut old = limits(now);
        let first = old.take(most(400, "0.4"), now);
        let (mut new, told) = hand_over(&mut old, now);
        let second = old.take(most(300, "0.3"), now);
        let third = old.take(most(300, "0.3"), now);
        told.try_iter().for_each(|change| new.changed_elsewhere(change, now));
        assert_eq!(new.fits(Most::NOTHING, now), Err(None), "three at once");
        for (share, used) in
            [(first, Use::Used(most(500, "0.5"))), (second, Use::Unsent), (third, Use::Unknown)]
        {
            old.release(&share, used, now);
            told.try_iter().for_each(|change| new.changed_elsewhere(change, now));
            assert_eq!(new.ratios_ppm(now), old.ratios_ppm(now), "{used:?}");
        }
        assert_eq!(new.under_way(), UnderWay::default());
        assert_eq!(new.fits(most(200, "0.2"), now), Ok(()));
        assert!(new.fits(most(201, "0.2"), now).is_err() && new.fits(most(200, "0.21"), now).is_err());
    }

    #[test]
    fn what_ends_when_it_is_forgotten_gives_nothing_back() {
        let begun = Instant::now();
        let mut old = limits(begun);
        let long = old.take(most(900, "0.9"), begun);
        let (mut new, told) = hand_over(&mut old, begun);
        let late = begun + seconds(61);
        let share = new.take(most(900, "0.1"), late);
        old.release(&long, Use::Used(most(1, "0.1")), late);
        told.try_iter().for_each(|change| new.changed_elsewhere(change, late));
        assert!(new.fits(most(101, "0.1"), late).is_err(), "of this minute nothing was given back");
        assert_eq!(new.fits(most(100, "0.8"), late), Ok(()), "of the day it was");
        new.release(&share, Use::Unsent, late);
    }

    #[test]
    fn who_is_gone_has_nothing_under_way_and_who_keeps_all_tells_nobody() {
        let now = Instant::now();
        let mut old = limits(now);
        let share = old.take(most(400, "0.4"), now);
        let (mut new, told) = hand_over(&mut old, now);
        let under_way = UnderWay { requests: 1, most: most(400, "0.4") };
        new.lost(under_way);
        assert_eq!((new.in_flight(), new.fits(most(601, "0"), now).is_err()), (0, true), "it stays taken");
        new.lost(under_way);
        assert_eq!(new.in_flight(), 0);
        old.keep();
        old.release(&share, Use::Unsent, now);
        assert_eq!(told.try_iter().count(), 0);
    }
}
