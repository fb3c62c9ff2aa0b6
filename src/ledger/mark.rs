//! Marks: by what their senders know requests, so that none is charged twice.
//!
//! A mark stands on the hold of its request, and the journal's index finds it there: also after a
//! restart, without a table of its own that would have to be kept. In memory are the marks of requests
//! under way alone, from before their hold until their charge is durable and thereby found.

use super::command::Refusal;
use super::entry::Change;
use super::{Failure, Ledger};
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::money::Amount;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a mark stands for the request that was charged under it.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// What a request is known by to its sender: digests, of which nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of the sender and the name that they gave it.
    pub key: [u8; 16],
    /// Of what they ask.
    pub content: [u8; 16],
}

impl Mark {
    /// By what it is found in the index: a number beside those of requests, which it does not meet.
    pub(super) fn place(&self) -> RequestId {
        RequestId::from_int(u128::from_le_bytes(self.key))
    }
}

/// What a mark stands for already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// The same, under way.
    Running(RequestId),
    /// The same, which was charged.
    Charged(RequestId),
    /// Something else.
    Other(RequestId),
}

/// Marks of requests under way.
#[derive(Default)]
pub(super) struct Marks(DashMap<[u8; 16], (RequestId, [u8; 16])>);

/// A mark that stands for one request, until this is dropped.
#[must_use]
pub struct Claim {
    marks: Arc<Marks>,
    key: [u8; 16],
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.marks.0.remove(&self.key);
    }
}

impl Marks {
    fn claim(self: &Arc<Self>, request: RequestId, mark: Mark) -> Result<Claim, Marked> {
        match self.0.entry(mark.key) {
            Slot::Occupied(taken) => {
                let (by, content) = *taken.get();
                Err(if content == mark.content { Marked::Running(by) } else { Marked::Other(by) })
            }
            Slot::Vacant(free) => {
                free.insert((request, mark.content));
                Ok(Claim { marks: Arc::clone(self), key: mark.key })
            }
        }
    }
}

impl Ledger {
    /// Claims a mark for a request, before its hold, which is to have it: to be kept until the charge is
    /// durable. If another process owns the ledger, that looks for earlier ones when the hold is asked for.
    ///
    /// # Errors
    /// When it stands for another request already, or that cannot be found out.
    pub async fn claim(self: &Arc<Self>, request: RequestId, mark: Mark) -> Result<Claim, Failure> {
        let marked = |marked| Failure::Refused(Refusal::Marked(marked));
        // First, so that whoever was charged before is found in the journal.
        let claim = self.marks.claim(request, mark).map_err(marked)?;
        if self.is_away() {
            return Ok(claim);
        }
        let ledger = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || ledger.charged_under(&mark)).await;
        match found.map_err(io::Error::other).flatten() {
            Ok(None) => Ok(claim),
            Ok(Some(before)) => Err(marked(before)),
            Err(why) => {
                tracing::error!(%why, "whether a request was charged before cannot be read");
                Err(Failure::Busy)
            }
        }
    }

    /// Claims the marks of open holds, which another process finishes. Reads from the disk: not for the
    /// request path.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn adopt(&self, open: &[RequestId]) -> io::Result<HashMap<RequestId, Claim>> {
        let mut claims = HashMap::new();
        for request in open {
            let hold = self.entries_of_request(*request)?.into_iter().next();
            let mark = hold.and_then(|hold| hold.change.mark());
            claims.extend(mark.and_then(|mark| Some((*request, self.marks.claim(*request, mark).ok()?))));
        }
        Ok(claims)
    }

    /// What was charged under a mark. The newest hold with it tells: there is none behind a charge.
    fn charged_under(&self, mark: &Mark) -> io::Result<Option<Marked>> {
        let remembered_us = i64::try_from(REMEMBERED.as_micros()).expect("a day");
        let from = Timestamp::from_micros(self.clock.now().micros().saturating_sub(remembered_us));
        let Some((at, request, before)) = self.index.newest_marked(mark, from)? else { return Ok(None) };
        let entries = self.entries_of_request(request)?;
        let paid: Amount = entries.iter().map(|entry| entry.change.paid()).sum();
        // What was answered and is still at work ends by its charge.
        let last = entries.last().map(|entry| &entry.change);
        let at_work = matches!(last, Some(Change::Detached { .. }));
        Ok((at >= from && (at_work || paid > Amount::ZERO)).then_some(match before.content == mark.content {
            true if at_work => Marked::Running(request),
            true => Marked::Charged(request),
            false => Marked::Other(request),
        }))
    }
}

impl Change {
    /// By what its sender knows the request that it sets credit aside for.
    pub fn mark(&self) -> Option<Mark> {
        if let Change::Held { mark, .. } = self { *mark } else { None }
    }
}
