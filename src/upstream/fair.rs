//! A waiting line that is fair across customers: they take turns, however many each has waiting. Pure.
//!
//! Those who wait for the same have a bound of their own, so that what one thing lacks fills no line
//! for another.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Names one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The line: what waits is a `T`, on behalf of a `C`, for a `G`.
#[derive(Debug)]
pub struct Fair<C, G, T> {
    lanes: HashMap<C, VecDeque<Place<G, T>>>,
    /// Customers who have something waiting; the first is next.
    turns: VecDeque<C>,
    /// How many wait for each; nothing for which nobody waits.
    counts: HashMap<G, usize>,
    tickets: u64,
}

#[derive(Debug)]
struct Place<G, T> {
    ticket: Ticket,
    sought: G,
    waiting: T,
}

impl<C, G, T> Default for Fair<C, G, T> {
    fn default() -> Self {
        Fair { lanes: HashMap::new(), turns: VecDeque::new(), counts: HashMap::new(), tickets: 0 }
    }
}

impl<C: Copy + Eq + Hash, G: Clone + Eq + Hash, T> Fair<C, G, T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.counts.values().sum()
    }

    /// How many wait for this.
    pub fn len_of(&self, sought: &G) -> usize {
        self.counts.get(sought).copied().unwrap_or_default()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// All that wait for this, in no order.
    pub fn iter_of(&self, sought: &G) -> impl Iterator<Item = &T> {
        let alike = move |place: &&Place<G, T>| place.sought == *sought;
        self.lanes.values().flatten().filter(alike).map(|place| &place.waiting)
    }

    /// Lets one more wait, if fewer than `max` wait for the same. Beyond that, the newest of the
    /// customer with the most of those makes room for one who has fewer: it is given back.
    ///
    /// # Errors
    /// What was to wait, when there is no place and its customer has no fewer waiting than others.
    pub fn push(&mut self, customer: C, sought: G, waiting: T, max: usize) -> Result<(Ticket, Option<T>), T> {
        let mut pushed_out = None;
        if self.len_of(&sought) >= max {
            let own = self.alike(customer, &sought).count();
            let longest = self.turns.iter().max_by_key(|turn| self.alike(**turn, &sought).count());
            let longest = longest.copied().filter(|longest| self.alike(*longest, &sought).count() > own + 1);
            let Some(longest) = longest else { return Err(waiting) };
            let newest = self.alike(longest, &sought).next_back();
            pushed_out = newest.and_then(|newest| self.remove(longest, newest));
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        *self.counts.entry(sought.clone()).or_default() += 1;
        let lane = self.lanes.entry(customer).or_default();
        if lane.is_empty() {
            self.turns.push_back(customer);
        }
        lane.push_back(Place { ticket, sought, waiting });
        Ok((ticket, pushed_out))
    }

    /// One no longer waits.
    pub fn remove(&mut self, customer: C, ticket: Ticket) -> Option<T> {
        let lane = self.lanes.get_mut(&customer)?;
        let at = lane.iter().position(|place| place.ticket == ticket)?;
        let place = lane.remove(at)?;
        if lane.is_empty() {
            self.lanes.remove(&customer);
            self.turns.retain(|turn| *turn != customer);
        }
        self.uncount(&place.sought);
        Some(place.waiting)
    }

    /// Offers a place to each in turn, until nobody takes one: of each customer the first who takes
    /// it, and then it is the next customer's turn.
    pub fn serve(&mut self, mut takes: impl FnMut(&mut T) -> bool) {
        let mut turn = 0;
        while let Some(customer) = self.turns.get(turn).copied() {
            let lane = self.lanes.get_mut(&customer).expect("who has a turn has a lane");
            let Some(at) = lane.iter_mut().position(|place| takes(&mut place.waiting)) else {
                turn += 1;
                continue;
            };
            let served = lane.remove(at).expect("it was found there");
            self.turns.remove(turn);
            if lane.is_empty() {
                self.lanes.remove(&customer);
            } else {
                self.turns.push_back(customer);
            }
            self.uncount(&served.sought);
        }
    }

    /// What a customer has waiting for this, the oldest first.
    fn alike(&self, customer: C, sought: &G) -> impl DoubleEndedIterator<Item = Ticket> {
        let lane = self.lanes.get(&customer).into_iter().flatten();
        lane.filter(move |place| place.sought == *sought).map(|place| place.ticket)
    }

    fn uncount(&mut self, sought: &G) {
        let count = self.counts.get_mut(sought).expect("what waits is counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(sought);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Customers push in this order into a line of `max` each for what they seek; tells who is served
    /// in which order, and who is turned away or pushed out. `a1` is of customer `a`, and `a1x` seeks
    /// something else.
    fn check(pushes: &[&'static str], max: usize, expect: &[&str], expect_away: &[&str]) {
        let mut line = Fair::default();
        let mut away = Vec::new();
        for push in pushes {
            match line.push(&push[..1], &push[2..], *push, max) {
                Ok((_, pushed_out)) => away.extend(pushed_out),
                Err(turned_away) => away.push(turned_away),
            }
            assert!(line.len_of(&"") <= max && line.len_of(&"") == line.iter_of(&"").count());
        }
        let mut served = Vec::new();
        line.serve(|waiting| {
            served.push(*waiting);
            true
        });
        assert_eq!((&*served, &*away), (expect, expect_away), "{pushes:?}");
        assert!(line.is_empty() && line.lanes.is_empty() && line.turns.is_empty());
    }

    #[test]
    fn customers_take_turns() {
        check(&["a1", "a2", "a3", "b1", "c1", "b2"], 10, &["a1", "b1", "c1", "a2", "b2", "a3"], &[]);
        check(&["a1", "a2x", "a3", "b1x"], 10, &["a1", "b1x", "a2x", "a3"], &[]);
        check(&["a1", "a2"], 10, &["a1", "a2"], &[]);
        check(&[], 0, &[], &[]);
    }

    #[test]
    fn a_full_line_has_room_for_who_has_fewer() {
        check(&["a1", "a2", "a3", "b1"], 3, &["a1", "b1", "a2"], &["a3"]);
        check(&["a1", "a2", "a3", "b1", "b2", "a4"], 3, &["a1", "b1", "a2"], &["a3", "b2", "a4"]);
        check(&["a1", "b1", "c1"], 2, &["a1", "b1"], &["c1"]);
        check(&["a1"], 0, &[], &["a1"]);
    }

    #[test]
    fn a_line_that_is_full_for_one_thing_has_room_for_another() {
        check(&["a1", "a2", "a3x", "a4"], 2, &["a1", "a2", "a3x"], &["a4"]);
        check(&["a1", "a2x", "a3x", "b1", "b2x"], 2, &["a1", "b1", "a2x", "b2x"], &["a3x"]);
        check(&["a1x", "a2", "a3", "a4", "b1"], 3, &["a1x", "b1", "a2", "a3"], &["a4"]);
    }

    #[test]
    fn who_does_not_fit_keeps_their_place_and_holds_up_nobody() {
        let mut line = Fair::default();
        for push in ["a1", "a2", "b1", "b2"] {
            line.push(&push[..1], "", push, 10).unwrap();
        }
        let mut served = Vec::new();
        line.serve(|waiting| {
            let fits = waiting.ends_with('2');
            served.extend(fits.then_some(*waiting));
            fits
        });
        assert_eq!((served, line.len()), (vec!["a2", "b2"], 2));
        line.serve(|_| false);
        assert_eq!(line.len(), 2);
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let mut line = Fair::default();
        let (first, _) = line.push("a", "", 1, 10).unwrap();
        let (second, _) = line.push("a", "", 2, 10).unwrap();
        assert_eq!(
            (line.remove("a", first), line.remove("a", first), line.remove("b", second)),
            (Some(1), None, None)
        );
        assert_eq!((line.remove("a", second), line.len(), line.turns.len()), (Some(2), 0, 0));
    }
}
