//! Opening a store: its lock, its journal, its state, and what a crash left behind.

use super::book::Book;
use super::command::Command;
use super::customer::Customer;
use super::detached::Detachments;
use super::disk::{Directory, Disk};
use super::entry::Seq;
use super::index::Index;
use super::journal::{self, OnCommit};
use super::keeper::{Health, Keeper};
use super::line::Down;
use super::recover::{Recovery, recover};
use super::room::Room;
use super::segment::JournalError;
use super::state::{self, Snapshot, State, StateError};
use super::{Commit, Ledger, SHARDS, Threads};
use crate::clock::Wall;
use crate::id::{CustomerId, RequestId};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

/// Whose, and of which request.
pub(super) type OpenHolds = Vec<(CustomerId, RequestId)>;

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

/// Requests that nobody serves any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Charged what was known of them: what their last extension says was used.
    pub charged: usize,
    /// Released: nothing was known.
    pub released: usize,
}

impl Expired {
    /// Tells the operator, if there were any.
    pub fn tell(self, what: &str) {
        let Expired { charged, released } = self;
        if released > 0 {
            tracing::warn!(holds = released, "{what}: released, not charged");
        }
        if charged > 0 {
            tracing::warn!(holds = charged, "{what}: charged what they are known to have used");
        }
    }
}

/// What was found at start.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Entries in the journal.
    pub entries: Seq,
    /// Entries that the state did not have yet.
    pub replayed: u64,
    /// Segments whose index was made again.
    pub indexed: usize,
    /// What became of requests that were in flight when the store was last in use. Those whose work goes
    /// on elsewhere are not among them.
    pub expired: Expired,
    /// Bytes of an unfinished write that were cut off.
    pub torn_bytes: u64,
    /// Why the state was made anew from the journal, if it was.
    pub rebuilt: Option<String>,
}

impl Ledger {
    /// Opens the store in `directory`, made if need be, and brings it up to date: a torn tail is cut
    /// off, the state follows the journal, or is made anew if there is any doubt about it, holds left
    /// open end by what is known of their requests.
    ///
    /// # Errors
    /// When the store is in use or damaged; it is unchanged then.
    pub fn open(directory: &Path, on_commit: OnCommit) -> Result<(Arc<Self>, Recovered), OpenError> {
        let (ledger, recovered, open) = Self::begin(directory, lock(directory)?, on_commit)?;
        let expired = ledger.expire(&open).map_err(|Down| {
            OpenError::Io(directory.to_owned(), io::Error::other("the journal cannot be written"))
        })?;
        Ok((ledger, Recovered { expired, ..recovered }))
    }

    /// The same, and leaves holds open: gives them.
    pub(super) fn begin(
        directory: &Path,
        lock: fs::File,
        on_commit: OnCommit,
    ) -> Result<(Arc<Self>, Recovered, OpenHolds), OpenError> {
        let io = |why| OpenError::Io(directory.to_owned(), why);
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(&directory.join("journal")).map_err(io)?);
        let path = directory.join("state");
        let (mut state, snapshot) = open_state(&path)?;
        let (snapshot, mut rebuilt) = match snapshot {
            Ok(snapshot) => (Some(snapshot), None),
            Err(why) => (None, Some(why.to_string())),
        };
        let Recovery { journal, book, index, pending, fits, replayed, indexed } =
            recover(&*disk, snapshot).map_err(OpenError::Journal)?;
        if !fits {
            rebuilt.get_or_insert_with(|| "it does not fit the journal".into());
        }
        let anew = rebuilt.is_some().then(|| state.clear());
        anew.unwrap_or(Ok(()))
            .and_then(|()| state.catch_up(pending, book.totals, journal.head))
            .map_err(|why| OpenError::State(why.to_string()))?;
        let (entries, torn_bytes) = (journal.head.seq, journal.torn_bytes);
        let mut open: Vec<_> = book.attended_holds().collect();
        // The order in which they end is not left to chance.
        open.sort_unstable();
        let detached = Detachments::of(&book);
        let digests = book.customers.values().flat_map(|c| c.keys.values().map(|key| key.digest)).collect();

        let index = Index::start(Arc::clone(&disk), index).map_err(io)?;
        let (feed, intake) = state::line();
        let state_line = Some(feed.line());
        let health = Health::default();
        let keeper = Keeper {
            directory: path,
            journal: Arc::clone(&disk),
            index: Arc::clone(&index),
            health: health.clone(),
        };
        let state = thread::Builder::new()
            .name("state".into())
            .spawn(move || keeper.run(state, &intake))
            .map_err(io)?;
        let room = Room::keep(Arc::clone(&disk)).map_err(io)?;
        let made = (Arc::clone(&index), Arc::clone(&room));
        let (line, writer) = journal::begin(Arc::clone(&disk), journal, made, feed, on_commit).map_err(io)?;
        let writer = writer.spawn(journal::PACE_MAX).map_err(io)?;
        let ledger = Arc::new(Ledger {
            directory: directory.to_owned(),
            disk,
            clock: Arc::new(Wall),
            shards: split(book),
            digests: Mutex::new(digests),
            bookings: tokio::sync::Mutex::new(()),
            index,
            line,
            room,
            state: health,
            holds_open: AtomicUsize::new(0),
            marks: Arc::default(),
            detached,
            caring: Mutex::default(),
            threads: Mutex::new(Threads { journal: Some(writer), state: Some(state), state_line }),
            lock: Mutex::new(Some(lock)),
            away: ArcSwapOption::empty(),
        });
        let rebuilt = rebuilt.filter(|_| entries > Seq::START);
        let expired = Expired::default();
        Ok((ledger, Recovered { entries, replayed, indexed, expired, torn_bytes, rebuilt }, open))
    }

    /// Ends holds of requests that nobody serves any more: where it is known how far one had come, by a
    /// charge of that, else without one. Waits for the disk.
    ///
    /// # Errors
    /// When the journal is down.
    pub fn expire(&self, open: &[(CustomerId, RequestId)]) -> Result<Expired, Down> {
        let mut expired = Expired::default();
        let mut commits = Vec::with_capacity(open.len());
        for (customer, request) in open {
            let known = |found: &Customer| Some(found.holds.get(request)?.progress.is_some());
            match self.customer(*customer, known).flatten().expect("the hold is open") {
                true => expired.charged += 1,
                false => expired.released += 1,
            }
            let command = Command::Expire { request: *request };
            commits.push(self.transact(*customer, command).expect("the hold is open").commit);
        }
        commits.into_iter().try_for_each(Commit::wait)?;
        Ok(expired)
    }
}

/// Keeps other processes out.
pub(super) fn lock(directory: &Path) -> Result<fs::File, OpenError> {
    let io = |why| OpenError::Io(directory.to_owned(), why);
    if directory.is_file() {
        return Err(io(io::Error::new(io::ErrorKind::NotADirectory, "it is a file, not a directory")));
    }
    make_private(directory).map_err(io)?;
    let file = fs::File::create(directory.join("lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse(directory.to_owned())),
        Err(fs::TryLockError::Error(why)) => Err(io(why)),
    }
}

/// Makes a directory, if need be: what customers have is nobody else's business.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

type Loaded = Result<Snapshot, StateError>;

/// Opens the state, made anew if it cannot be opened, and reads it.
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

pub(super) fn split(book: Book) -> Box<[Mutex<Book>]> {
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
