//! Holds of work that goes on when its request has been answered.
//!
//! Such a hold is not ended by a restart, nor when a process has handed over and is gone: whoever owns
//! the ledger looks after it, and ends it once it is known what was done. Who is first ends it; for
//! whoever comes after that it has ended.

use super::book::Book;
use super::command::{Command, Refusal};
use super::customer::Customer;
use super::entry::{Change, Charge};
use super::{Applied, Failure, Hold, Ledger};
use crate::id::{CustomerId, RequestId};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is at work for a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// By the name it has there.
    pub object: Arc<str>,
    /// How it is found and what it will be charged by, opaque here.
    pub record: Arc<[u8]>,
}

impl Hold {
    /// Lets it go on: what it pays for is at work elsewhere under this name. The commit is to be waited
    /// for before the request is answered.
    pub fn detach(mut self, Detached { object, record }: Detached) -> Applied {
        self.end(Command::Detach { request: self.request, object, record })
    }
}

/// The detached holds of a ledger.
#[derive(Default)]
pub(super) struct Detachments {
    /// Those that nobody was told of yet.
    fresh: Mutex<Vec<(CustomerId, RequestId)>>,
    open: AtomicUsize,
}

impl Detachments {
    /// Those of a book.
    pub(super) fn of(book: &Book) -> Self {
        let mut found: Vec<_> = book.detached_holds().collect();
        found.sort_unstable();
        let open = AtomicUsize::new(found.len());
        Detachments { fresh: Mutex::new(found), open }
    }

    /// Follows a change that is about to be applied.
    pub(super) fn follow(&self, book: &Book, customer: CustomerId, change: &Change) {
        if let Change::Detached { request, .. } = change {
            self.open.fetch_add(1, Ordering::Relaxed);
            self.fresh.lock().push((customer, *request));
        }
        // Where there are none, as most of the time, that is all.
        let any = self.open.load(Ordering::Relaxed) > 0;
        if any
            && let Change::Captured { request, .. } | Change::Released { request, .. } = change
            && book.customers.get(&customer).is_some_and(|found| found.is_detached(*request))
        {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Ledger {
    /// Detached holds that nobody was told of yet.
    pub fn take_detached(&self) -> Vec<(CustomerId, RequestId)> {
        std::mem::take(&mut *self.detached.fresh.lock())
    }

    /// How many detached holds are open.
    pub fn detached_open(&self) -> usize {
        self.detached.open.load(Ordering::Relaxed)
    }

    /// How many of those are one customer's.
    pub fn detached_of(&self, customer: CustomerId) -> usize {
        let count = |found: &Customer| found.holds.values().filter(|hold| hold.detached).count();
        self.customer(customer, count).unwrap_or_default()
    }

    /// Whether the hold of a request is open.
    pub fn holds(&self, customer: CustomerId, request: RequestId) -> bool {
        self.customer(customer, |found| found.holds.contains_key(&request)).unwrap_or(false)
    }

    /// What is at work for a hold; nothing if it was not detached.
    ///
    /// # Errors
    /// When the journal cannot be read. Reads from the disk: not on a thread that serves.
    pub fn detached(&self, request: RequestId) -> io::Result<Option<Detached>> {
        let entries = self.index.of_request(request)?;
        Ok(entries.into_iter().find_map(|entry| {
            let Change::Detached { object, record, .. } = entry.change else { return None };
            Some(Detached { object, record })
        }))
    }

    /// Ends a detached hold by a charge; nothing if it has ended already.
    ///
    /// # Errors
    /// When nothing can be made durable.
    pub async fn capture_detached(
        &self,
        customer: CustomerId,
        request: RequestId,
        charge: Charge,
        (record, object): (Arc<[u8]>, Arc<str>),
    ) -> Result<Option<Applied>, Failure> {
        self.end_detached(customer, Command::Capture { request, charge, record, object: Some(object) }).await
    }

    /// Ends a detached hold without a charge; nothing if it has ended already.
    ///
    /// # Errors
    /// When nothing can be made durable.
    pub async fn release_detached(
        &self,
        customer: CustomerId,
        request: RequestId,
        record: Arc<[u8]>,
    ) -> Result<Option<Applied>, Failure> {
        self.end_detached(customer, Command::Release { request, record }).await
    }

    async fn end_detached(&self, customer: CustomerId, command: Command) -> Result<Option<Applied>, Failure> {
        let mut applied = match self.transact(customer, command) {
            Ok(applied) => applied,
            Err(Refusal::UnknownHold) => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        match applied.commit.accepted().await {
            Err(Failure::Refused(Refusal::UnknownHold)) => return Ok(None),
            accepted => accepted?,
        }
        applied.commit.durable().await?;
        Ok(Some(applied))
    }
}
