//! The ledger: balances, holds and charges, exact and durable.
//!
//! A command goes to the [`Book`] of its customer, in memory, which decides and applies it in one
//! step; the entries then go to the [journal](journal), whose writer makes them durable in groups.
//! The caller gets a [`Commit`] to wait for. The journal is the truth: the [state](state) store and
//! the [index](index) are made from it, and a start [trusts](recover) them as far as their checksums
//! and the hash chain go.
//!
//! *Architecture invariant:* the ledger knows amounts, never tokens, models or HTTP. Balances are
//! checked and held in one step, by one owner: the shard of the customer. Nothing on the way of a
//! hold or a capture waits for the disk; only [`Commit::durable`] does.

mod archive;
mod away;
pub mod book;
mod booking;
mod budget;
mod care;
mod checkpoint;
mod codec;
pub mod command;
mod customer;
mod decide;
mod detached;
pub mod disk;
pub mod entry;
mod filter;
mod frame;
mod hold;
mod index;
mod journal;
mod keeper;
pub mod legs;
mod line;
mod mark;
mod open;
mod owned;
mod places;
mod records;
mod recover;
mod room;
mod segment;
mod sidecar;
mod sight;
mod standing;
mod steps;
mod state;
mod table;
mod totals;
mod values;
pub mod verify;
mod violation;
pub mod wire;

pub use archive::{ArchiveError, Archived, Which};
pub use away::{Asked, Commands, Lent, Outcome};
pub use book::Book;
pub use booking::{Booking, BookingKind};
pub use budget::{Budget, Budgets, Period, Spare, Spender, Spent};
pub use care::{Backup, BackupError, Rebuilt, rebuild, verify_stopped};
pub use command::{Charged, Command, Refusal};
pub use customer::{AcceptedTerms, Customer, Key, KeyStatus};
pub use detached::Detached;
use detached::Detachments;
pub use entry::{Balance, Change, Charge, Entry, KeyCreated, Note, Progress, Release, Seq, Step};
pub use frame::Chain;
pub use hold::{Applied, Commit, Extended, Extension, Hold, Terms};
pub use journal::{Committed, OnCommit};
pub use line::Down;
pub use mark::{Claim, Mark, Marked};
pub use open::{Expired, OpenError, Recovered};
pub use owned::{OnShelf, Owned};
pub use places::Window;
pub use segment::JournalError;
pub use sight::Unseen;
pub use standing::Standing;
pub use totals::{Day, Group, Label, Labels, Sums, Usage};
pub use verify::{Recompute, Verified};
pub use violation::{Reaction, Violation};

use crate::clock::Clock;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use arc_swap::ArcSwapOption;
use away::Away;
use disk::Disk;
use index::Index;
use keeper::Health;
use legs::Account;
use line::{Line, Submission};
use mark::Marks;
use parking_lot::Mutex;
use room::Room;
use segment::{Position, Segment};
use state::StateLine;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use verify::Known;

/// Books work side by side, each for its own customers.
const SHARDS: usize = 64;
/// Commands that may wait for the disk before new holds are refused: seconds of a slow disk.
pub const QUEUE_MAX: usize = 65_536;

/// Why a command came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The book refuses.
    Refused(Refusal),
    /// The journal is down: nothing can be made durable.
    Down,
    /// Too much waits for the disk.
    Busy,
    /// The disk is full: what is in flight is finished, nothing new is begun.
    Full,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<Down> for Failure {
    fn from(_: Down) -> Self {
        Failure::Down
    }
}

/// The ledger of one store.
pub struct Ledger {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    shards: Box<[Mutex<Book>]>,
    digests: Mutex<HashSet<KeyDigest>>,
    bookings: tokio::sync::Mutex<()>,
    index: Arc<Index>,
    line: Arc<Line>,
    room: Arc<Room>,
    state: Health,
    holds_open: AtomicUsize,
    marks: Arc<Marks>,
    detached: Detachments,
    threads: Mutex<Threads>,
    /// Held by who copies or moves segments.
    caring: Mutex<()>,
    /// Kept until the ledger is given up.
    lock: Mutex<Option<fs::File>>,
    away: ArcSwapOption<Away>,
}

struct Threads {
    journal: Option<JoinHandle<()>>,
    state: Option<JoinHandle<()>>,
    state_line: Option<StateLine>,
}

impl Ledger {
    /// Sets credit aside for a request, at once. Before the commit is durable, nothing may be
    /// delivered.
    ///
    /// # Errors
    /// When the balance does not reach, the key was revoked, or the ledger cannot take more.
    pub fn hold(self: &Arc<Self>, terms: Terms) -> Result<(Hold, Commit), Failure> {
        self.admits()?;
        let Terms { customer, key, request, amount, least, budgets, price_version, mark } = terms;
        let command = Command::Hold { request, key, amount, least, budgets, price_version, mark };
        let Applied { commit, held: amount, .. } = self.transact(customer, command)?;
        self.holds_open.fetch_add(1, Ordering::Relaxed);
        let asked = commit.is_asked();
        let ledger = Arc::clone(self);
        Ok((Hold { ledger, customer, key, request, amount, asked, ended: false }, commit))
    }

    /// Begins to keep a customer.
    ///
    /// # Errors
    /// When the name is malformed or the id is taken, or nothing can be made durable.
    pub async fn create_customer(&self, customer: CustomerId, name: Arc<str>) -> Result<(), Failure> {
        let mut applied = self.transact(customer, Command::CreateCustomer { name })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Adds a key.
    ///
    /// # Errors
    /// When the customer is unknown, the key exists, or nothing can be made durable.
    pub async fn create_key(&self, customer: CustomerId, key: KeyCreated) -> Result<(), Failure> {
        let digest = key.digest;
        if !self.digests.lock().insert(digest) {
            return Err(Failure::Refused(Refusal::KeyExists));
        }
        let decided = self.transact(customer, Command::CreateKey(key));
        let mut applied = decided.inspect_err(|_| {
            self.digests.lock().remove(&digest);
        })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Sets what a key, or without one the customer, may do: opaque here.
    ///
    /// # Errors
    /// When either is unknown, or nothing can be made durable.
    pub async fn limit(
        &self,
        customer: CustomerId,
        key: Option<KeyId>,
        limits: Arc<[u8]>,
    ) -> Result<(), Failure> {
        let mut applied = self.transact(customer, Command::Limit { key, limits })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Ends a key for good. Requests in flight go on.
    ///
    /// # Errors
    /// When it is unknown or revoked already, or nothing can be made durable.
    pub async fn revoke_key(&self, customer: CustomerId, key: KeyId) -> Result<(), Failure> {
        let mut applied = self.transact(customer, Command::RevokeKey { key })?;
        applied.commit.durable().await?;
        Ok(())
    }

    /// Pays in. The same reference and amount twice is one deposit: the first is told again.
    /// Gives its entry and the balance now.
    ///
    /// # Errors
    /// When the reference was used for something else, the customer is unknown or banned, or nothing
    /// can be made durable.
    pub async fn deposit(
        &self,
        customer: CustomerId,
        amount: Amount,
        reference: Arc<str>,
    ) -> Result<(Seq, Balance), Failure> {
        let command = Command::Deposit { amount, reference: Arc::clone(&reference) };
        self.book(customer, command, reference).await
    }

    /// Gives a charge back, in full or, by `amount`, in part. The same reference and content twice is
    /// one refund. Gives its entry and the balance now.
    ///
    /// # Errors
    /// When more would be given back than was charged, the reference was used for something else, the
    /// customer is banned, or nothing can be made durable.
    pub async fn refund(
        &self,
        customer: CustomerId,
        charged: Charged,
        amount: Option<Amount>,
        reference: Arc<str>,
        note: Note,
    ) -> Result<(Seq, Balance), Failure> {
        let command = Command::Refund { charged, amount, reference: Arc::clone(&reference), note };
        self.book(customer, command, reference).await
    }

    /// Gives credit by hand, or takes it if `amount` is negative. The same reference and content twice
    /// is one adjustment. Gives its entry and the balance now.
    ///
    /// # Errors
    /// When the balance does not reach, the reference was used for something else, the customer is
    /// banned or unknown, or nothing can be made durable.
    pub async fn adjust(
        &self,
        customer: CustomerId,
        amount: Amount,
        reference: Arc<str>,
        note: Note,
    ) -> Result<(Seq, Balance), Failure> {
        let command = Command::Adjust { amount, reference: Arc::clone(&reference), note };
        self.book(customer, command, reference).await
    }

    async fn book(
        &self,
        customer: CustomerId,
        command: Command,
        reference: Arc<str>,
    ) -> Result<(Seq, Balance), Failure> {
        // One at a time: who is told "booked before" can be told where.
        let _one = self.bookings.lock().await;
        match self.transact(customer, command) {
            Ok(Applied { mut commit, balance, .. }) => Ok((commit.durable().await?, balance)),
            Err(Refusal::BookedAlready) => {
                let seq = self.index.booking(customer, reference).ok_or(Failure::Down)?;
                let balance = self.customer(customer, |found| found.balance).ok_or(Failure::Down)?;
                Ok((seq, balance))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Looks at a customer as they are now, entries in flight included.
    pub fn customer<T>(&self, customer: CustomerId, look: impl FnOnce(&Customer) -> T) -> Option<T> {
        self.shard(customer).lock().customers.get(&customer).map(look)
    }

    /// Looks at every customer, shard by shard, in no particular order.
    pub fn each_customer(&self, mut look: impl FnMut(CustomerId, &Customer)) {
        for shard in &self.shards {
            shard.lock().customers.iter().for_each(|(id, customer)| look(*id, customer));
        }
    }

    /// All durable entries of a request; none if it is not known.
    ///
    /// # Errors
    /// When the journal cannot be read. Reads from the disk: not for the request path.
    pub fn entries_of_request(&self, request: RequestId) -> io::Result<Vec<Entry>> {
        self.index.of_request(request)
    }

    /// Durable entries of a customer in a window, in order: all those of up to `limit` commands.
    ///
    /// # Errors
    /// When the journal cannot be read. Reads from the disk: not for the request path.
    pub fn entries_of_customer(
        &self,
        customer: CustomerId,
        window: Window,
        limit: usize,
    ) -> io::Result<Vec<Entry>> {
        self.index.of_customer(customer, &window, limit)
    }

    /// The same before one entry, the latest first.
    ///
    /// # Errors
    /// When the journal cannot be read. Reads from the disk: not for the request path.
    pub fn latest_of_customer(
        &self,
        customer: CustomerId,
        window: Window,
        before: Seq,
        limit: usize,
    ) -> io::Result<Vec<Entry>> {
        self.index.latest_of_customer(customer, &window, before, limit)
    }

    /// Gives every entry after `after` that is durable now, in order, until `take` breaks off. Reads
    /// segment by segment, each verified: not for the request path.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn export(
        &self,
        after: Seq,
        mut take: impl FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), JournalError> {
        let (segments, durable) = self.index.segments_after(after);
        let mut flow = ControlFlow::Continue(());
        for (name, before) in segments {
            let segment = Segment::load(&*self.disk, &name, Position::Last)?;
            segment.read_until(before, durable, |frame| {
                for entry in frame.entries.into_iter().filter(|entry| entry.seq > after) {
                    if flow.is_continue() {
                        flow = take(entry);
                    }
                }
            })?;
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How charges are labelled in [`Ledger::usage`]: to be told once, before the first use.
    pub fn label_by(&self, labels: Labels) {
        self.index.label_by(labels);
    }

    /// Sums of a customer's durable charges by day, key and label, of days in the window.
    ///
    /// # Errors
    /// When the journal cannot be read. Reads from the disk: not for the request path.
    pub fn usage(&self, customer: CustomerId, window: Window) -> io::Result<Usage> {
        self.index.usage(customer, &window)
    }

    /// Whether nothing more can be made durable.
    pub fn is_down(&self) -> bool {
        self.line.is_down()
    }

    /// Whether the disk is full, so that no holds are admitted until there is room.
    pub fn is_full(&self) -> bool {
        self.room.is_full()
    }

    /// Commands that wait for the disk.
    pub fn queue_depth(&self) -> usize {
        self.line.depth()
    }

    /// Holds of requests under way.
    pub fn holds_open(&self) -> usize {
        self.holds_open.load(Ordering::Relaxed)
    }

    /// Where it stands on disk.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads and folds all that is durable, and looks for a `head` that it is known to have had.
    /// Takes seconds for a large journal: not for the request path.
    ///
    /// # Errors
    /// The first thing that does not hold, and where.
    pub fn verify(&self, recompute: Recompute, head: Option<Chain>) -> Result<Verified, JournalError> {
        let known = Known { durable: self.index.durable(), state: None, head };
        verify::verify(&*self.disk, known, recompute)
    }

    /// Ends all writing, once everything submitted is durable and the state is up to date.
    pub fn close(&self) {
        self.line.close();
        let mut threads = self.threads.lock();
        threads.state_line.take();
        for thread in [threads.journal.take(), threads.state.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger panicked");
            }
        }
        self.index.close();
        self.room.close();
    }

    fn transact(&self, customer: CustomerId, command: Command) -> Result<Applied, Refusal> {
        let mut book = self.shard(customer).lock();
        if let Some(away) = &*self.away.load() {
            let balance = book.customers.get(&customer).map(|found| found.balance).unwrap_or_default();
            let commit = Commit::asked(away.ask(customer, command));
            return Ok(Applied { commit, balance, charged: Amount::ZERO, held: Amount::ZERO });
        }
        self.decide(&mut book, customer, command)
    }

    fn decide(&self, book: &mut Book, customer: CustomerId, command: Command) -> Result<Applied, Refusal> {
        let (done, waiting) = oneshot::channel();
        let at = self.clock.now();
        let decided = book.decide(customer, command, at)?;
        let mut changes = Vec::with_capacity(decided.len());
        let charged = decided.iter().map(Change::paid).sum();
        let held = decided.iter().map(|change| change.moved(Account::Held)).sum();
        for change in decided {
            self.detached.follow(book, customer, &change);
            let balance = book.apply(customer, &change, at).expect("what was decided can be applied");
            changes.push((change, balance));
        }
        let balance = changes.last().expect("a command changes something").1;
        // Under the shard's lock, so that a customer's entries are in the order of their balances.
        let place = self.line.submit(Submission { customer, at, changes, done });
        let commit = Commit::submitted(Arc::clone(&self.line), place, waiting);
        Ok(Applied { commit, balance, charged, held })
    }

    fn shard(&self, customer: CustomerId) -> &Mutex<Book> {
        &self.shards[Self::shard_of(customer)]
    }

    fn shard_of(customer: CustomerId) -> usize {
        let shards = u64::try_from(SHARDS).expect("small");
        usize::try_from(customer.int() % shards).expect("small")
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
