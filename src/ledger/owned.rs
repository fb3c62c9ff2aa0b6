//! What is kept elsewhere for customers: whose it is, and which request made it.
//!
//! The charge of a request names what was made for it; the index finds the charge by that name. So it
//! is as durable as the charge, is told to another process with it, and takes no room of its own. It is
//! never forgotten early and never kept for long: whoever asks says from when on it counts.
//!
//! What is named `shelf/name` stands on a shelf, and all that a customer has there is found at once. A
//! later charge of the same name says what has become of it. One charge may name several things, with
//! blanks between them.

use super::entry::{Change, Entry};
use super::places::{SHELF_END, Window};
use super::{Ledger, Seq};
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io;
use std::sync::Arc;

/// Something that is kept elsewhere for a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The request that made it.
    pub request: RequestId,
    /// What that was charged for, or of what is at work how it will be, opaque here.
    pub record: Arc<[u8]>,
    /// Whether it is still at work.
    pub at_work: bool,
}

impl Owned {
    fn of(entry: &Entry) -> Option<Self> {
        let at_work = matches!(entry.change, Change::Detached { .. });
        let (Change::Captured { request, record, .. } | Change::Detached { request, record, .. }) =
            &entry.change
        else {
            return None;
        };
        Some(Owned { request: *request, record: Arc::clone(record), at_work })
    }
}

/// Something on a shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnShelf {
    /// Its name, with that of the shelf.
    pub object: Arc<str>,
    /// What is said of it last.
    pub owned: Owned,
}

impl Ledger {
    /// What was noted for this customer on a shelf since then, in that order, and of each what was noted
    /// last.
    ///
    /// # Errors
    /// When the journal cannot be read, or another process writes it. Reads from the disk: not on a thread that serves.
    pub fn shelf(&self, customer: CustomerId, shelf: &str, since: Timestamp) -> io::Result<Vec<OnShelf>> {
        if self.away.load().is_some() {
            return Err(io::Error::other("another process writes the journal"));
        }
        let window = Window { after: Seq::START, from: Some(since), to: None };
        let mut found: Vec<OnShelf> = Vec::new();
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        for entry in self.index.of_shelf(customer, shelf, &window)? {
            let stands = |object: &&str| object.split_once(SHELF_END).is_some_and(|(on, _)| on == shelf);
            for object in entry.change.objects().filter(stands).filter(|_| entry.at >= since) {
                let Some(owned) = Owned::of(&entry) else { continue };
                match places.entry(object.into()) {
                    Slot::Occupied(place) => found[*place.get()].owned = owned,
                    Slot::Vacant(place) => {
                        let object = Arc::clone(place.key());
                        place.insert(found.len());
                        found.push(OnShelf { object, owned });
                    }
                }
            }
        }
        Ok(found)
    }

    /// What is kept for this customer under a name, if that was made since then. Of another customer's
    /// it says as little as of what never was.
    ///
    /// # Errors
    /// When the journal cannot be read, or it is not there and another process writes the journal. Reads from the disk: not on a thread that serves.
    pub fn owned(&self, customer: CustomerId, object: &str, since: Timestamp) -> io::Result<Option<Owned>> {
        let window = Window { after: Seq::START, from: Some(since), to: None };
        let entries = self.index.of_object(object, &window)?;
        let theirs = |entry: &&Entry| entry.customer == customer && entry.at >= since;
        // The last one counts, if a provider ever gives a name twice.
        let found = entries.iter().rev().filter(theirs).find_map(Owned::of);
        if found.is_none() && self.away.load().is_some() {
            return Err(io::Error::other("another process writes the journal"));
        }
        Ok(found)
    }
}
