//! Price books that follow on each other: the one in effect, and those whose day comes.
//!
//! Pure: the moment is an argument. A request asks once, at admission, and is charged by that book
//! whatever takes effect while it runs.

use super::PriceBook;
use crate::clock::Timestamp;
use std::fmt;
use std::sync::Arc;

/// All price books of a configuration, at least one, each effective after the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBooks(Vec<Arc<PriceBook>>);

impl PriceBooks {
    /// The books in the order in which they take effect; `None` if there is none, or they are not in
    /// that order. Only the first may be without a date.
    pub fn new(books: Vec<Arc<PriceBook>>) -> Option<Self> {
        let follows = |pair: &[Arc<PriceBook>]| pair[1].effective > pair[0].effective;
        (!books.is_empty() && books.windows(2).all(follows)).then_some(PriceBooks(books))
    }

    /// The book in effect: the last whose date has come. The first, before there were any.
    pub fn at(&self, now: Timestamp) -> &Arc<PriceBook> {
        let come = |book: &&Arc<PriceBook>| book.effective.is_none_or(|date| date <= now);
        self.0.iter().rev().find(come).unwrap_or(&self.0[0])
    }

    /// The book of this name.
    pub fn named(&self, version: &str) -> Option<&Arc<PriceBook>> {
        self.0.iter().find(|book| &*book.version == version)
    }

    /// All of them, in order.
    pub fn each(&self) -> impl Iterator<Item = &Arc<PriceBook>> {
        self.0.iter()
    }
}

/// Their names, and from when those that follow hold.
impl fmt::Display for PriceBooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[0].version)?;
        for book in &self.0[1..] {
            write!(f, ", from {} {}", book.effective.unwrap_or_default(), book.version)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn book(version: &str, effective: Option<&str>) -> Arc<PriceBook> {
        let effective = effective.map(|date| Timestamp::parse(date).unwrap());
        Arc::new(PriceBook { version: version.into(), effective, models: HashMap::new() })
    }

    fn check(books: &PriceBooks, now: &str, expect: &str) {
        assert_eq!(&*books.at(Timestamp::parse(now).unwrap()).version, expect, "{now}");
    }

    #[test]
    fn a_book_is_in_effect_from_its_date_until_the_next() {
        let all = vec![book("a", None), book("b", Some("2026-12-01")), book("c", Some("2027-01-01"))];
        let books = PriceBooks::new(all).unwrap();
        check(&books, "2020-01-01", "a");
        check(&books, "2026-11-30T23:59:59.999999Z", "a");
        check(&books, "2026-12-01", "b");
        check(&books, "2026-12-31T23:59:59.999999Z", "b");
        check(&books, "2027-01-01", "c");
        assert_eq!(books.named("b").map(|book| &*book.version), Some("b"));
        assert_eq!(books.to_string(), "a, from 2026-12-01T00:00:00Z b, from 2027-01-01T00:00:00Z c");
    }

    #[test]
    fn books_out_of_order_are_none() {
        assert_eq!(PriceBooks::new(Vec::new()), None);
        let (a, b) = (book("a", Some("2026-12-01")), book("b", Some("2026-12-02")));
        for wrong in [vec![b.clone(), a.clone()], vec![a.clone(), a.clone()], vec![a, book("c", None)]] {
            assert_eq!(PriceBooks::new(wrong), None);
        }
        assert!(PriceBooks::new(vec![book("c", None), b]).is_some());
    }
}
