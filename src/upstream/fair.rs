//! A waiting line that is fair across customers: they take turns, however many each has waiting. Pure.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Names one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The line: what waits is a `T`, on behalf of a `C`.
#[derive(Debug)]
pub struct Fair<C, T> {
    lanes: HashMap<C, VecDeque<(Ticket, T)>>,
    /// Customers who have something waiting; the first is next.
    turns: VecDeque<C>,
    len: usize,
    tickets: u64,
}

impl<C, T> Default for Fair<C, T> {
    fn default() -> Self {
        Fair { lanes: HashMap::new(), turns: VecDeque::new(), len: 0, tickets: 0 }
    }
}

impl<C: Copy + Eq + Hash, T> Fair<C, T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All that wait, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.values().flatten().map(|(_, waiting)| waiting)
    }

    /// Lets one more wait, if there are fewer than `max`. Once the line is full, the newest of the
    /// customer with the most waiting makes room for one who has fewer: it is given back.
    ///
    /// # Errors
    /// What was to wait, when the line is full and its customer has no fewer waiting than others.
    pub fn push(&mut self, customer: C, waiting: T, max: usize) -> Result<(Ticket, Option<T>), T> {
        let mut pushed_out = None;
        if self.len >= max {
            let own = self.lanes.get(&customer).map_or(0, VecDeque::len);
            let longest = self.lanes.iter().max_by_key(|(_, lane)| lane.len());
            let Some((longest, _)) = longest.filter(|(_, lane)| lane.len() > own + 1) else {
                return Err(waiting);
            };
            let longest = *longest;
            let newest = self.lanes.get(&longest).and_then(|lane| lane.back().map(|(ticket, _)| *ticket));
            pushed_out = newest.and_then(|newest| self.remove(longest, newest));
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let lane = self.lanes.entry(customer).or_default();
        if lane.is_empty() {
            self.turns.push_back(customer);
        }
        lane.push_back((ticket, waiting));
        self.len += 1;
        Ok((ticket, pushed_out))
    }

    /// One no longer waits.
    pub fn remove(&mut self, customer: C, ticket: Ticket) -> Option<T> {
        let lane = self.lanes.get_mut(&customer)?;
        let at = lane.iter().position(|(found, _)| *found == ticket)?;
        let (_, waiting) = lane.remove(at)?;
        self.len -= 1;
        if lane.is_empty() {
            self.lanes.remove(&customer);
            self.turns.retain(|turn| *turn != customer);
        }
        Some(waiting)
    }

    /// Offers a place to each in turn, until nobody takes one: of each customer the first who takes
    /// it, and then it is the next customer's turn.
    pub fn serve(&mut self, mut takes: impl FnMut(&mut T) -> bool) {
        let mut turn = 0;
        while let Some(customer) = self.turns.get(turn).copied() {
            let lane = self.lanes.get_mut(&customer).expect("who has a turn has a lane");
            let Some(at) = lane.iter_mut().position(|(_, waiting)| takes(waiting)) else {
                turn += 1;
                continue;
            };
            lane.remove(at);
            self.len -= 1;
            self.turns.remove(turn);
            if lane.is_empty() {
                self.lanes.remove(&customer);
            } else {
                self.turns.push_back(customer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Customers push in this order into a line of `max`; tells who is served in which order, and
    /// who is turned away or pushed out.
    fn check(pushes: &[&'static str], max: usize, expect: &[&str], expect_away: &[&str]) {
        let mut line = Fair::default();
        let mut away = Vec::new();
        for push in pushes {
            match line.push(&push[..1], *push, max) {
                Ok((_, pushed_out)) => away.extend(pushed_out),
                Err(turned_away) => away.push(turned_away),
            }
            assert!(line.len() <= max && line.len() == line.iter().count());
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
    fn who_does_not_fit_keeps_their_place_and_holds_up_nobody() {
        let mut line = Fair::default();
        for push in ["a1", "a2", "b1", "b2"] {
            line.push(&push[..1], push, 10).unwrap();
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
        let (first, _) = line.push("a", 1, 10).unwrap();
        let (second, _) = line.push("a", 2, 10).unwrap();
        assert_eq!(
            (line.remove("a", first), line.remove("a", first), line.remove("b", second)),
            (Some(1), None, None)
        );
        assert_eq!((line.remove("a", second), line.len(), line.turns.len()), (Some(2), 0, 0));
    }
}
