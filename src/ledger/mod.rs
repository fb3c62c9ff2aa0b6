//! The ledger: balances, holds and charges, exact and durable.
//!
//! A command goes to the [`Book`] of its customer, in memory, which decides and applies it in one
//! step; the entries then go to the [journal](journal), whose writer makes them durable in groups.
//! The caller gets a [`Commit`] to wait for. The journal is the truth: the [state](state) store and
//! the [index](index) are made from it.
//!
//! *Architecture invariant:* the ledger knows amounts, never tokens, models or HTTP. Balances are
//! checked and held in one step, by one owner: the shard of the customer. Nothing on the way of a
//! hold or a capture waits for the disk; only [`Commit::durable`] does.

pub mod book;
mod codec;
pub mod disk;
pub mod entry;
mod frame;
mod index;
mod journal;
mod segment;
mod state;
pub mod verify;

pub use book::{Book, Command, Customer, Key, KeyStatus, Refusal};
pub use entry::{Balance, Change, Entry, KeyCreated, Release, Seq};
pub use frame::Chain;
pub use journal::{Committed, Down, OnCommit};
pub use segment::JournalError;
pub use verify::{Recompute, Verified};

use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use disk::{Directory, Disk};
use index::Index;
use journal::{Queue, Submission};
use parking_lot::Mutex;
use state::{Snapshot, State, StateError};
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use verify::Fold;

/// Books work side by side, each for its own customers.
const SHARDS: usize = 64;
/// Commands that may wait for the disk before new holds are refused: seconds of a slow disk.
pub const QUEUE_MAX: usize = 65_536;

/// Why a store cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it open.
    InUse(PathBuf),
    /// The operating system refuses.
    Io(PathBuf, io::Error),
    /// The journal cannot be used.
    Journal(JournalError),
    /// The state store cannot be made, even anew.
    State(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(path) => write!(f, "the store {} is in use by another process", path.display()),
            OpenError::Io(path, why) => write!(f, "the store {}: {why}", path.display()),
            OpenError::Journal(why) => write!(f, "{why}"),
            OpenError::State(why) => write!(f, "the state store cannot be made: {why}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a command came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The book refuses.
    Refused(Refusal),
    /// The journal is down: nothing can be made durable.
    Down,
    /// Too much waits for the disk.
    Busy,
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

/// What was found at start.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Entries in the journal.
    pub entries: Seq,
    /// Holds of requests that were in flight when the store was last in use, now released.
    pub expired: usize,
    /// Bytes of an unfinished write that were cut off.
    pub torn_bytes: u64,
    /// Why the state was made anew from the journal, if it was.
    pub rebuilt: Option<String>,
}

/// The ledger of one store.
pub struct Ledger {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    shards: Box<[Mutex<Book>]>,
    digests: Mutex<HashSet<KeyDigest>>,
    deposits: tokio::sync::Mutex<()>,
    index: Arc<Index>,
    queue: Queue,
    holds_open: AtomicUsize,
    threads: Mutex<Threads>,
    _lock: fs::File,
}

struct Threads {
    journal: Option<JoinHandle<()>>,
    state: Option<JoinHandle<()>>,
}

/// What a hold is for.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Who pays.
    pub customer: CustomerId,
    /// By which key.
    pub key: KeyId,
    /// For which request, new to the ledger.
    pub request: RequestId,
    /// How much.
    pub amount: Amount,
    /// The prices that will apply.
    pub price_version: Arc<str>,
}

impl Ledger {
    /// Opens the store in `directory`, made if need be, and brings it up to date: a torn tail is cut
    /// off, the state is made anew if there is any doubt about it, holds left open are released.
    ///
    /// # Errors
    /// When the store is in use or damaged; it is unchanged then.
    pub fn open(directory: &Path, on_commit: OnCommit) -> Result<(Arc<Self>, Recovered), OpenError> {
        let io = |why| OpenError::Io(directory.to_owned(), why);
        let lock = lock(directory)?;
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(&directory.join("journal")).map_err(io)?);
        let path = directory.join("state");
        let (mut state, snapshot) = open_state(&path)?;
        let (snapshot, mut rebuilt) = match snapshot {
            Ok(snapshot) => (Some(snapshot), None),
            Err(why) => (None, Some(why.to_string())),
        };
        let index = Arc::new(Index::default());
        let known = snapshot.as_ref().map_or(Seq::START, |snapshot| snapshot.head.seq);
        let (journal, book, fits) = replay(&*disk, known, snapshot, &index).map_err(OpenError::Journal)?;
        if !fits {
            rebuilt.get_or_insert_with(|| "it does not fit the journal".into());
        }
        let snapshot = Snapshot { book, head: journal.head };
        if rebuilt.is_some() || journal.head.seq > known {
            let failed = |why: StateError| OpenError::State(why.to_string());
            state.replace(&snapshot).map_err(failed)?;
        }
        let (entries, torn_bytes) = (journal.head.seq, journal.torn_bytes);
        let open: Vec<_> = snapshot.book.open_holds().collect();
        let digests =
            snapshot.book.customers.values().flat_map(|c| c.keys.values().map(|key| key.digest)).collect();

        let (groups, receiver) = mpsc::sync_channel(state::GROUPS_MAX);
        let state = std::thread::Builder::new()
            .name("state".into())
            .spawn(move || state.run(&receiver))
            .map_err(io)?;
        let (queue, writer) =
            journal::start(Arc::clone(&disk), journal, Arc::clone(&index), groups, on_commit).map_err(io)?;
        let ledger = Arc::new(Ledger {
            directory: directory.to_owned(),
            disk,
            shards: split(snapshot.book),
            digests: Mutex::new(digests),
            deposits: tokio::sync::Mutex::new(()),
            index,
            queue,
            holds_open: AtomicUsize::new(0),
            threads: Mutex::new(Threads { journal: Some(writer), state: Some(state) }),
            _lock: lock,
        });
        ledger.expire(&open).map_err(|Down| io(io::Error::other("the journal cannot be written")))?;
        let rebuilt = rebuilt.filter(|_| entries > Seq::START);
        Ok((ledger, Recovered { entries, expired: open.len(), torn_bytes, rebuilt }))
    }

    /// Sets credit aside for a request, at once. Before the commit is durable, nothing may be
    /// delivered.
    ///
    /// # Errors
    /// When the balance does not reach, the key was revoked, or the ledger cannot take more.
    pub fn hold(self: &Arc<Self>, terms: Terms) -> Result<(Hold, Commit), Failure> {
        if self.queue.is_down() {
            return Err(Failure::Down);
        }
        if self.queue.depth() > QUEUE_MAX {
            return Err(Failure::Busy);
        }
        let Terms { customer, key, request, amount, price_version } = terms;
        let command = Command::Hold { request, key, amount, price_version };
        let (commit, _) = self.transact(customer, command)?;
        self.holds_open.fetch_add(1, Ordering::Relaxed);
        Ok((Hold { ledger: Arc::clone(self), customer, request, amount, ended: false }, commit))
    }

    /// Begins to keep a customer.
    ///
    /// # Errors
    /// When the name is malformed or the id is taken, or nothing can be made durable.
    pub async fn create_customer(&self, customer: CustomerId, name: Arc<str>) -> Result<(), Failure> {
        let (mut commit, _) = self.transact(customer, Command::CreateCustomer { name })?;
        commit.durable().await?;
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
        let (mut commit, _) = decided.inspect_err(|_| {
            self.digests.lock().remove(&digest);
        })?;
        commit.durable().await?;
        Ok(())
    }

    /// Ends a key for good. Requests in flight go on.
    ///
    /// # Errors
    /// When it is unknown or revoked already, or nothing can be made durable.
    pub async fn revoke_key(&self, customer: CustomerId, key: KeyId) -> Result<(), Failure> {
        let (mut commit, _) = self.transact(customer, Command::RevokeKey { key })?;
        commit.durable().await?;
        Ok(())
    }

    /// Pays in. The same reference and amount twice is one deposit: the first is told again.
    /// Gives its entry and the balance now.
    ///
    /// # Errors
    /// When the reference was used for another amount, the customer is unknown, or nothing can be
    /// made durable.
    pub async fn deposit(
        &self,
        customer: CustomerId,
        amount: Amount,
        reference: Arc<str>,
    ) -> Result<(Seq, Balance), Failure> {
        // One at a time: who is told "made before" can be told where.
        let _one = self.deposits.lock().await;
        let command = Command::Deposit { amount, reference: Arc::clone(&reference) };
        match self.transact(customer, command) {
            Ok((mut commit, balance)) => Ok((commit.durable().await?, balance)),
            Err(Refusal::DepositedAlready) => {
                let seq = self.index.deposit(customer, reference).ok_or(Failure::Down)?;
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

    /// Up to about `limit` durable entries of a customer after `after`.
    ///
    /// # Errors
    /// When the journal cannot be read. Reads from the disk: not for the request path.
    pub fn entries_of_customer(
        &self,
        customer: CustomerId,
        after: Seq,
        limit: usize,
    ) -> io::Result<Vec<Entry>> {
        self.index.of_customer(customer, after, limit)
    }

    /// Whether nothing more can be made durable.
    pub fn is_down(&self) -> bool {
        self.queue.is_down()
    }

    /// Commands that wait for the disk.
    pub fn queue_depth(&self) -> usize {
        self.queue.depth()
    }

    /// Holds that have not ended.
    pub fn holds_open(&self) -> usize {
        self.holds_open.load(Ordering::Relaxed)
    }

    /// Where it stands on disk.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads and folds all that is durable. Takes seconds for a large journal: not for the request
    /// path.
    ///
    /// # Errors
    /// The first thing that does not hold, and where.
    pub fn verify(&self, recompute: Recompute) -> Result<Verified, JournalError> {
        verify::verify(&*self.disk, self.index.durable(), None, recompute)
    }

    /// Ends all writing, once everything submitted is durable and the state is up to date.
    pub fn close(&self) {
        self.queue.close();
        let mut threads = self.threads.lock();
        for thread in [threads.journal.take(), threads.state.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger panicked");
            }
        }
    }

    fn transact(&self, customer: CustomerId, command: Command) -> Result<(Commit, Balance), Refusal> {
        let (done, waiting) = oneshot::channel();
        let mut book = self.shard(customer).lock();
        let decided = book.decide(customer, command)?;
        let mut changes = Vec::with_capacity(decided.len());
        for change in decided {
            let balance = book.apply(customer, &change).expect("what was decided can be applied");
            changes.push((change, balance));
        }
        let balance = changes.last().expect("a command changes something").1;
        // Under the shard's lock, so that a customer's entries are in the order of their balances.
        self.queue.submit(Submission { customer, at: Timestamp::now(), changes, done });
        Ok((Commit { waiting, known: None }, balance))
    }

    fn expire(&self, open: &[(CustomerId, RequestId)]) -> Result<(), Down> {
        let mut commits = Vec::with_capacity(open.len());
        for (customer, request) in open {
            let command =
                Command::Release { request: *request, reason: Release::Expired, record: Arc::from(&[][..]) };
            let (commit, _) = self.transact(*customer, command).expect("the hold is open");
            commits.push(commit);
        }
        commits.into_iter().try_for_each(Commit::wait)
    }

    fn shard(&self, customer: CustomerId) -> &Mutex<Book> {
        let shards = u64::try_from(SHARDS).expect("small");
        &self.shards[usize::try_from(customer.int() % shards).expect("small")]
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

/// Entries on their way to the disk.
pub struct Commit {
    waiting: oneshot::Receiver<Result<Seq, Down>>,
    known: Option<Result<Seq, Down>>,
}

impl Commit {
    /// Waits until they are durable, and gives the last of them. May be asked again.
    ///
    /// # Errors
    /// When they never will be.
    pub async fn durable(&mut self) -> Result<Seq, Down> {
        if self.known.is_none() {
            self.known = Some((&mut self.waiting).await.unwrap_or(Err(Down)));
        }
        self.known.unwrap_or(Err(Down))
    }

    fn wait(self) -> Result<(), Down> {
        self.waiting.blocking_recv().unwrap_or(Err(Down)).map(|_| ())
    }
}

/// Credit set aside for one request. Ends once: by a capture or a release; dropped, it is released.
#[must_use = "a hold must end in a capture or a release"]
pub struct Hold {
    ledger: Arc<Ledger>,
    customer: CustomerId,
    request: RequestId,
    amount: Amount,
    ended: bool,
}

impl Hold {
    /// How much is set aside.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// Ends it by a charge, at once; the rest is released. Gives the balance after it, and the
    /// commit to wait for before the answer is completed.
    pub fn capture(mut self, amount: Amount, record: Arc<[u8]>) -> (Commit, Balance) {
        self.end(Command::Capture { request: self.request, amount, record })
    }

    /// Ends it without a charge.
    pub fn release(mut self, record: Arc<[u8]>) -> (Commit, Balance) {
        self.end(Command::Release { request: self.request, reason: Release::Failed, record })
    }

    fn end(&mut self, command: Command) -> (Commit, Balance) {
        self.ended = true;
        self.ledger.holds_open.fetch_sub(1, Ordering::Relaxed);
        self.ledger.transact(self.customer, command).expect("the hold is open and the charge well formed")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Command::Release {
                request: self.request,
                reason: Release::Failed,
                record: Arc::from(&[][..]),
            });
        }
    }
}

/// Verifies a store that nobody uses.
///
/// # Errors
/// When it is in use, or the first thing that does not hold.
pub fn verify_stopped(directory: &Path, recompute: Recompute) -> Result<Verified, OpenError> {
    if !directory.join("journal").is_dir() {
        let why = io::Error::new(io::ErrorKind::NotFound, "there is no journal in it");
        return Err(OpenError::Io(directory.to_owned(), why));
    }
    let _lock = lock(directory)?;
    let disk = Directory::open(&directory.join("journal"))
        .map_err(|why| OpenError::Io(directory.to_owned(), why))?;
    let path = directory.join("state");
    let snapshot =
        if path.is_dir() { State::open(&path).and_then(|mut state| state.load()).ok() } else { None };
    verify::verify(&disk, Seq::START, snapshot, recompute).map_err(OpenError::Journal)
}

fn lock(directory: &Path) -> Result<fs::File, OpenError> {
    let io = |why| OpenError::Io(directory.to_owned(), why);
    // What customers have is nobody else's business.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    let file = fs::File::create(directory.join("lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse(directory.to_owned())),
        Err(fs::TryLockError::Error(why)) => Err(io(why)),
    }
}

type Loaded = Result<Snapshot, StateError>;

fn open_state(path: &Path) -> Result<(State, Loaded), OpenError> {
    match State::open(path) {
        Ok(mut state) => {
            let snapshot = state.load();
            Ok((state, snapshot))
        }
        Err(why) => {
            state::remove(path).map_err(|why| OpenError::Io(path.to_owned(), why))?;
            let state = State::open(path).map_err(|why| OpenError::State(why.to_string()))?;
            Ok((state, Err(why)))
        }
    }
}

/// Reads the journal into the index and brings the book up to date: from the state's snapshot where
/// that fits, else from the first entry. Tells whether it did fit.
fn replay(
    disk: &dyn Disk,
    known: Seq,
    snapshot: Option<Snapshot>,
    index: &Index,
) -> Result<(segment::Journal, Book, bool), JournalError> {
    let mut fold = Fold::default();
    let mut fits = snapshot.is_none();
    let journal = segment::read(disk, known, |frame, location| {
        for entry in &frame.entries {
            fold.entry(entry)?;
        }
        if let Some(snapshot) = snapshot.as_ref().filter(|snapshot| snapshot.head == frame.head) {
            fits = snapshot.book == fold.book;
        }
        index.add_found(&frame.entries, location);
        Ok(())
    })?;
    journal.files.iter().for_each(|file| index.add_file(Arc::clone(file)));
    fold.book.audit().map_err(|why| JournalError::Broken { seq: journal.head.seq, why })?;
    let empty = journal.head.seq == Seq::START;
    Ok((journal, fold.book, fits || empty))
}

fn split(book: Book) -> Box<[Mutex<Book>]> {
    let mut shards: Vec<Book> = (0..SHARDS).map(|_| Book::default()).collect();
    let count = u64::try_from(SHARDS).expect("small");
    for (id, customer) in book.customers {
        let shard = usize::try_from(id.int() % count).expect("small");
        shards[shard].customers.insert(id, customer);
    }
    // Sums stand in the first shard: only their total over all shards has a meaning.
    shards[0].totals = book.totals;
    shards.into_iter().map(Mutex::new).collect()
}
