//! A customer's latest entries, found through the index from its end.

use super::super::entry::{Entry, Seq};
use super::super::places::{Place, Window};
use super::{Hash, Index, Part, Shared};
use crate::id::CustomerId;
use std::io;
use std::sync::Arc;

impl Index {
    /// Entries of a customer in a window and before one, the latest first: all of up to `limit` frames.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn latest_of_customer(
        &self,
        customer: CustomerId,
        window: &Window,
        before: Seq,
        limit: usize,
    ) -> io::Result<Vec<Entry>> {
        let shared = &*self.shared;
        let (parts, live) = {
            let inner = shared.inner.read();
            let mut parts = inner.candidates(Hash::of_customer(customer), window);
            parts.retain(|part| part.before().seq.next() < before);
            let live = inner.live.as_ref().map(|live| {
                (Arc::clone(&live.segment), live.latest_of_customer(customer, window, before, limit))
            });
            (parts, live)
        };
        let mut entries = Vec::new();
        let mut left = limit;
        if let Some((segment, places)) = live {
            left -= shared.frames_back(&segment, &places, &mut entries)?;
        }
        for part in parts.iter().rev() {
            if left == 0 {
                break;
            }
            let places = shared.latest_of_customer(part, customer, (window, before), left)?;
            left -= shared.frames_back(part.segment(), &places, &mut entries)?;
        }
        Ok(entries)
    }
}

impl Shared {
    fn latest_of_customer(
        &self,
        part: &Part,
        customer: CustomerId,
        (window, before): (&Window, Seq),
        limit: usize,
    ) -> io::Result<Vec<Place>> {
        match part {
            Part::Memory(full) => Ok(full.places.latest_of_customer(customer, window, before, limit)),
            Part::Sidecar(sidecar) => {
                sidecar.latest_of_customer(&*self.disk, customer, (window, before), limit).or_else(|why| {
                    let full = self.mend(sidecar, &why)?;
                    Ok(full.places.latest_of_customer(customer, window, before, limit))
                })
            }
        }
    }

    /// Reads entries of frames of one segment, each frame from its end. Gives how many frames.
    fn frames_back(&self, segment: &str, places: &[Place], entries: &mut Vec<Entry>) -> io::Result<usize> {
        if !places.is_empty() {
            for frame in self.open(segment)?.frames(places.iter().map(|place| place.offset)) {
                entries.extend(frame?.into_iter().rev());
            }
        }
        Ok(places.len())
    }
}
