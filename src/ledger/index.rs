//! The index: where the entries of a request and of a customer stand in the journal.
//!
//! Kept in memory and made anew at start: about 100 bytes for each request. Entries themselves
//! are read from the journal.

use super::disk::File;
use super::entry::{Change, Entry, Seq};
use super::frame::{self, FRAME_BYTES_MAX, HEAD_BYTES};
use super::segment::Location;
use crate::id::{CustomerId, RequestId};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// Finds entries.
#[derive(Default)]
pub struct Index {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    files: Vec<Arc<dyn File>>,
    /// First and last frame of each request.
    requests: HashMap<RequestId, (Location, Location)>,
    /// Frames of each customer, with the sequence number of the first entry, in order.
    customers: HashMap<CustomerId, Vec<(Seq, Location)>>,
    /// Deposits by reference: there are few.
    deposits: HashMap<(CustomerId, Arc<str>), Seq>,
    durable: Seq,
}

impl Index {
    /// A segment was begun: entries added from now on stand in it.
    pub fn add_file(&self, file: Arc<dyn File>) {
        self.inner.write().files.push(file);
    }

    /// Entries became durable; each with the offset of its frame in the newest segment.
    pub fn add<'a>(&self, entries: impl Iterator<Item = (&'a Entry, u64)>) {
        let mut inner = self.inner.write();
        let segment = inner.files.len().checked_sub(1).expect("a segment before its entries");
        for (entry, offset) in entries {
            inner.note(entry, Location::new(segment, offset));
        }
    }

    /// Entries found at start.
    pub fn add_found(&self, entries: &[Entry], location: Location) {
        let mut inner = self.inner.write();
        entries.iter().for_each(|entry| inner.note(entry, location));
    }

    /// The newest entry that is durable.
    pub fn durable(&self) -> Seq {
        self.inner.read().durable
    }

    /// The entry of a deposit.
    pub fn deposit(&self, customer: CustomerId, reference: Arc<str>) -> Option<Seq> {
        self.inner.read().deposits.get(&(customer, reference)).copied()
    }

    /// All entries of a request, in order; none if it is not known.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of_request(&self, request: RequestId) -> io::Result<Vec<Entry>> {
        let Some((first, last)) = self.inner.read().requests.get(&request).copied() else {
            return Ok(Vec::new());
        };
        let mut entries = self.frame(first)?;
        if last != first {
            entries.extend(self.frame(last)?);
        }
        Ok(entries)
    }

    /// Up to about `limit` entries of a customer after `after`, in order.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of_customer(&self, customer: CustomerId, after: Seq, limit: usize) -> io::Result<Vec<Entry>> {
        let places: Vec<Location> = {
            let inner = self.inner.read();
            let all = inner.customers.get(&customer).map_or(&[][..], Vec::as_slice);
            let from = all.partition_point(|(seq, _)| *seq <= after);
            all[from..].iter().take(limit).map(|(_, location)| *location).collect()
        };
        let mut entries = Vec::with_capacity(places.len());
        for place in places {
            entries.extend(self.frame(place)?);
        }
        Ok(entries)
    }

    fn frame(&self, place: Location) -> io::Result<Vec<Entry>> {
        let segment = usize::try_from(place.segment).expect("u32 fits");
        let file = Arc::clone(&self.inner.read().files[segment]);
        let offset = u64::from(place.offset);
        let mut bytes = vec![0; HEAD_BYTES];
        file.read_at(&mut bytes, offset)?;
        let damaged =
            |why: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
        let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| damaged(&"a frame claims too many bytes"))?;
        bytes.resize(HEAD_BYTES + length, 0);
        file.read_at(&mut bytes, offset)?;
        frame::decode_entries(&bytes).map_err(|why| damaged(&why))
    }
}

impl Inner {
    fn note(&mut self, entry: &Entry, location: Location) {
        self.durable = entry.seq;
        if let Some(request) = entry.change.request() {
            self.requests
                .entry(request)
                .and_modify(|(_, last)| *last = location)
                .or_insert((location, location));
        }
        if let Change::Deposited { reference, .. } = &entry.change {
            self.deposits.insert((entry.customer, Arc::clone(reference)), entry.seq);
        }
        let frames = self.customers.entry(entry.customer).or_default();
        if frames.last().is_none_or(|(_, last)| *last != location) {
            frames.push((entry.seq, location));
        }
    }
}
