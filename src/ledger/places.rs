//! Places: where the entries of a request, of what is kept for a customer, and of a customer stand in
//! one segment.
//!
//! Collected in memory while the segment is written, about 100 bytes for each request; a full
//! segment's are put into a [sidecar](super::sidecar).

use super::entry::{Entry, Seq};
use super::frame::Head;
use crate::clock::Timestamp;
use crate::id::{CustomerId, RequestId};
use ring::digest;
use std::collections::HashMap;
use std::sync::Arc;

/// Where a frame of a customer stands, and what it is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first entry.
    pub seq: Seq,
    /// When it was made.
    pub at: Timestamp,
    /// Bytes of the segment before it.
    pub offset: u32,
}

/// Which of a customer's entries are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// After this entry.
    pub after: Seq,
    /// Not before this time.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
}

impl Window {
    /// Whether a frame stands in it.
    pub fn holds(&self, place: &Place) -> bool {
        place.seq > self.after && self.meets(place.at, place.at)
    }

    /// Whether it has anything of the time between these two, both included.
    pub fn meets(&self, first: Timestamp, last: Timestamp) -> bool {
        self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
    }
}

/// What is kept elsewhere is looked up by a number of its own among those of requests. Two of the same
/// number are told apart by their entries.
pub fn of_object(object: &str) -> RequestId {
    let digest = digest::digest(&digest::SHA256, object.as_bytes());
    RequestId::from_int(u128::from_le_bytes(digest.as_ref()[..16].try_into().expect("it has 32 bytes")))
}

/// What stands between a shelf and a name on it.
pub const SHELF_END: char = '/';

/// All that is kept for a customer on a shelf is looked up by one number.
pub fn of_shelf(customer: CustomerId, shelf: &str) -> RequestId {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&customer.int().to_le_bytes());
    context.update(shelf.as_bytes());
    let digest = context.finish();
    RequestId::from_int(u128::from_le_bytes(digest.as_ref()[..16].try_into().expect("it has 32 bytes")))
}

/// The frames of one segment.
#[derive(Debug)]
pub struct Places {
    /// The segment's name.
    pub segment: Arc<str>,
    /// The journal's head before it.
    pub before: Head,
    /// Frames of each request, in order; and of what is kept, by [`of_object`] and [`of_shelf`].
    pub requests: HashMap<RequestId, Vec<u32>>,
    /// Frames of each customer, in order.
    pub customers: HashMap<CustomerId, Vec<Place>>,
}

/// The frames of a segment that no more are added to.
#[derive(Debug)]
pub struct Full {
    /// All of them.
    pub places: Places,
    /// The journal's head after the segment.
    pub after: Head,
    /// Bytes of the segment.
    pub bytes: u64,
}

impl Places {
    /// Of a segment that continues `before`.
    pub fn new(segment: Arc<str>, before: Head) -> Self {
        Places { segment, before, requests: HashMap::new(), customers: HashMap::new() }
    }

    /// Notes an entry; they come in order.
    pub fn note(&mut self, entry: &Entry, offset: u32) {
        let shelf = |object: &str| {
            let (shelf, _) = object.split_once(SHELF_END)?;
            Some(of_shelf(entry.customer, shelf))
        };
        let objects = entry.change.objects().flat_map(|object| [Some(of_object(object)), shelf(object)]);
        for request in entry.change.request().into_iter().chain(objects.flatten()) {
            let frames = self.requests.entry(request).or_default();
            if frames.last() != Some(&offset) {
                frames.push(offset);
            }
        }
        if let Some(mark) = entry.change.mark() {
            self.requests.entry(mark.place()).or_default().push(offset);
        }
        let frames = self.customers.entry(entry.customer).or_default();
        if frames.last().is_none_or(|last| last.offset != offset) {
            frames.push(Place { seq: entry.seq, at: entry.at, offset });
        }
    }

    /// Frames of a request.
    pub fn of_request(&self, request: RequestId) -> &[u32] {
        self.requests.get(&request).map_or(&[], Vec::as_slice)
    }

    /// Up to `limit` frames of a customer.
    pub fn of_customer(&self, customer: CustomerId, window: &Window, limit: usize) -> Vec<Place> {
        let all = self.customers.get(&customer).map_or(&[][..], Vec::as_slice);
        let from = all.partition_point(|place| place.seq <= window.after);
        all[from..].iter().filter(|place| window.holds(place)).take(limit).copied().collect()
    }

    /// Up to `limit` frames of a customer before one, the latest first.
    pub fn latest_of_customer(
        &self,
        customer: CustomerId,
        window: &Window,
        before: Seq,
        limit: usize,
    ) -> Vec<Place> {
        let all = self.customers.get(&customer).map_or(&[][..], Vec::as_slice);
        let to = all.partition_point(|place| place.seq < before);
        all[..to].iter().rev().filter(|place| window.holds(place)).take(limit).copied().collect()
    }
}
