//! Marks, found through the index as requests are: each stands beside the request that has it.

use super::super::entry::Entry;
use super::super::mark::Mark;
use super::super::places::Window;
use super::{Hash, Index, Part, Shared};
use crate::clock::Timestamp;
use crate::id::RequestId;
use std::io;
use std::sync::Arc;

/// A hold with a mark: when it was made, and for which request.
type Found = (Timestamp, RequestId, Mark);

impl Index {
    /// The newest durable hold with a mark of this key, in segments that reach to `from`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn newest_marked(&self, mark: &Mark, from: Timestamp) -> io::Result<Option<Found>> {
        let shared = &*self.shared;
        let place = mark.place();
        let window = Window { from: Some(from), ..Window::default() };
        let (parts, live) = {
            let inner = shared.inner.read();
            let parts: Vec<Part> = inner.candidates(Hash::of_request(place), &window);
            let newest = |live: &super::Places| live.of_request(place).last().copied();
            let live = inner.live.as_ref().and_then(|live| Some((Arc::clone(&live.segment), newest(live)?)));
            (parts, live)
        };
        if let Some((segment, offset)) = live {
            return shared.marked(&segment, offset, mark);
        }
        for part in parts.iter().rev() {
            if let Some(offset) = shared.of_request(part, place)?.last() {
                return shared.marked(part.segment(), *offset, mark);
            }
        }
        Ok(None)
    }
}

impl Shared {
    fn marked(&self, segment: &str, offset: u32, asked: &Mark) -> io::Result<Option<Found>> {
        let mut entries = Vec::new();
        self.frames(segment, vec![offset], &mut entries)?;
        let found = |Entry { at, change, .. }: &Entry| {
            let mark = change.mark().filter(|mark| mark.key == asked.key)?;
            Some((*at, change.request()?, mark))
        };
        Ok(entries.iter().find_map(found))
    }
}
