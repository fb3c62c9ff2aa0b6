//! Budgets: what may be spent in a day, in a month and in all, and what was.
//!
//! The book keeps what each key and each customer [spent](Spent), folded from the charges; what they may
//! spend comes with each hold. Both meet in one step with the balance, so that nothing is spent twice.
//! What is held counts as spent until it is released. Days and months are those of UTC.
//!
//! What was given back later stays spent: a refund is no reason to spend more.

use super::totals::Day;
use crate::clock::Timestamp;
use crate::money::Amount;

/// What may be spent; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// In a day.
    pub day: Option<Amount>,
    /// In a month.
    pub month: Option<Amount>,
    /// In all.
    pub total: Option<Amount>,
}

/// What bounds a hold, beside the balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// Of the key.
    pub key: Budget,
    /// Of all keys of the customer together.
    pub customer: Budget,
}

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spender {
    /// The key's.
    Key,
    /// The customer's.
    Customer,
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A day.
    Day,
    /// A month.
    Month,
    /// All time.
    Total,
}

/// A budget that does not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Whose it is.
    pub of: Spender,
    /// For how long.
    pub period: Period,
    /// What may be spent.
    pub limit: Amount,
    /// What is left of it.
    pub left: Amount,
    /// When it is whole again, if ever.
    pub until: Option<Timestamp>,
}

impl Budget {
    /// What is left of each limit, when so much was spent and is held.
    pub(super) fn left(
        self,
        of: Spender,
        spent: Spent,
        held: Amount,
        now: Timestamp,
    ) -> impl Iterator<Item = Spare> {
        let spent = spent.at(now);
        let limits = [
            (Period::Day, self.day, spent.in_day, Some(spent.day.next().begin())),
            (Period::Month, self.month, spent.in_month, Some(spent.day.month_end().begin())),
            (Period::Total, self.total, spent.total, None),
        ];
        limits.into_iter().filter_map(move |(period, limit, spent, until)| {
            let limit = limit?;
            let left = (limit - spent - held).max(Amount::ZERO);
            Some(Spare { of, period, limit, left, until })
        })
    }
}

/// What was spent, as of the last charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The day of the last charge. A clock that steps back begins no day again.
    pub day: Day,
    /// In that day.
    pub in_day: Amount,
    /// In its month.
    pub in_month: Amount,
    /// Ever.
    pub total: Amount,
}

impl Spent {
    /// The same as of a moment: what was spent before its day and month is over.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        let day = Day::of(now);
        if day <= self.day {
            return self;
        }
        let in_month = if day < self.day.month_end() { self.in_month } else { Amount::ZERO };
        Spent { day, in_day: Amount::ZERO, in_month, total: self.total }
    }

    /// Adds a charge.
    pub(super) fn add(&mut self, amount: Amount, at: Timestamp) {
        if amount == Amount::ZERO {
            return;
        }
        *self = self.at(at);
        for spent in [&mut self.in_day, &mut self.in_month, &mut self.total] {
            *spent += amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("a time")
    }

    fn atto(amount: i128) -> Amount {
        Amount::from_atto_usd(amount)
    }

    /// What is spent in the day, the month and in all at `now`, after charges at these times.
    fn check(charges: &[(&str, i128)], now: &str, expect: [i128; 3]) {
        let mut spent = Spent::default();
        charges.iter().for_each(|(when, amount)| spent.add(atto(*amount), at(when)));
        let Spent { in_day, in_month, total, .. } = spent.at(at(now));
        assert_eq!([in_day, in_month, total], expect.map(atto), "{charges:?} at {now}");
    }

    #[test]
    fn a_day_and_a_month_end_at_their_last_moment() {
        let last = [("2027-01-31T23:59:59.999999Z", 7)];
        check(&last, "2027-01-31T23:59:59.999999Z", [7, 7, 7]);
        check(&last, "2027-02-01", [0, 0, 7]);
        check(&[("2028-02-28T00:00:00Z", 7)], "2028-02-29", [0, 7, 7]);
        check(&[("2028-02-29T00:00:00Z", 7)], "2028-03-01", [0, 0, 7]);
        check(&[("2027-12-31T12:00:00Z", 7)], "2028-01-01", [0, 0, 7]);
        check(&[("2027-01-05T12:00:00Z", 7)], "2028-01-05", [0, 0, 7]);
    }

    #[test]
    fn charges_add_up_and_a_clock_that_steps_back_begins_nothing_again() {
        let days = [("2027-01-30", 1), ("2027-01-31", 2), ("2027-01-30", 4)];
        check(&days, "2027-01-31", [6, 7, 7]);
        check(&days, "2027-01-30", [6, 7, 7]);
        check(&days, "2027-02-01", [0, 0, 7]);
        check(&[("2027-02-01", 0)], "2027-01-31", [0, 0, 0]);
    }

    #[test]
    fn what_is_left_is_told_with_its_end() {
        let budget = Budget { day: Some(atto(10)), month: Some(atto(30)), total: Some(atto(5)) };
        let mut spent = Spent::default();
        spent.add(atto(4), at("2027-01-30"));
        let now = at("2027-01-31T10:00:00Z");
        let left: Vec<_> = budget.left(Spender::Key, spent, atto(3), now).collect();
        let spare = |period, limit, left, until: Option<&str>| {
            let (limit, left, until) = (atto(limit), atto(left), until.map(at));
            Spare { of: Spender::Key, period, limit, left, until }
        };
        let expect = [
            spare(Period::Day, 10, 7, Some("2027-02-01")),
            spare(Period::Month, 30, 23, Some("2027-02-01")),
            spare(Period::Total, 5, 0, None),
        ];
        assert_eq!(left, expect);
        assert_eq!(Budget::default().left(Spender::Key, spent, atto(3), now).count(), 0);
    }
}
