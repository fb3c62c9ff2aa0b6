//! The state: balances, customers, keys and open holds as of some entry, kept in sled.
//!
//! It can be thrown away at any time and made again from the journal. It is written behind the
//! journal by its [keeper](super::keeper) and never waited for by a request. Each value carries a checksum,
//! and one record a digest of all others, so that a start can trust it without folding the journal;
//! any doubt at open means a rebuild.

use super::book::Book;
use super::budget::Spent;
use super::codec::CodecError;
use super::frame::Head;
use super::index::Bookings;
use super::journal::Group;
use super::legs::Totals;
use super::records::{self, FORMAT, Pending, Spender};
use super::segment::JournalError;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Of sled's own cache; the state is small.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Groups in line before the journal waits for the state.
const GROUPS_MAX: usize = 4096;
/// The longest that a lock is waited for which sled is about to let go of.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Why a state is not used.
#[derive(Debug)]
pub enum StateError {
    /// There is none yet.
    Missing,
    /// sled cannot read or write it.
    Sled(sled::Error),
    /// The operating system refuses.
    Io(io::Error),
    /// Another version wrote it.
    Format(u32),
    /// A checksum does not fit, or records do not fit each other.
    Damaged(&'static str),
    /// The journal that it is to follow cannot be read.
    Journal(JournalError),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Missing => f.write_str("there is none yet"),
            StateError::Sled(why) => write!(f, "{why}"),
            StateError::Io(why) => write!(f, "{why}"),
            StateError::Format(found) => write!(f, "its format is {found}, not {FORMAT}"),
            StateError::Damaged(what) => f.write_str(what),
            StateError::Journal(why) => write!(f, "{why}"),
        }
    }
}

impl From<sled::Error> for StateError {
    fn from(why: sled::Error) -> Self {
        StateError::Sled(why)
    }
}

impl From<io::Error> for StateError {
    fn from(why: io::Error) -> Self {
        StateError::Io(why)
    }
}

impl From<JournalError> for StateError {
    fn from(why: JournalError) -> Self {
        StateError::Journal(why)
    }
}

impl From<CodecError> for StateError {
    fn from(_: CodecError) -> Self {
        StateError::Damaged("a record cannot be read")
    }
}

/// The book as of some entry.
pub struct Snapshot {
    /// Customers, keys, balances, holds.
    pub book: Book,
    /// The entry of each booking.
    pub bookings: Bookings,
    /// The entry, and the chain up to it.
    pub head: Head,
}

/// The store of the state.
pub struct State {
    db: sled::Db,
    file: fs::File,
    totals: Totals,
    /// Where it stands; unknown when there is any doubt.
    head: Option<Head>,
    /// Over all records but this: each one's own, combined so that one can be taken out again.
    digest: u128,
    /// Where its writes fail.
    #[cfg(test)]
    pub fault: Option<Fault>,
}

/// What the state is told.
pub enum Told {
    /// A group became durable.
    Group(Group),
    /// Another process is to open the store: it is to be written and closed.
    LetGo(mpsc::SyncSender<()>),
}

/// An end of the line to the state.
#[derive(Clone)]
pub struct StateLine {
    groups: mpsc::SyncSender<Told>,
    /// Ends the wait for more; nothing more comes when all are dropped.
    wake: mpsc::Sender<()>,
}

/// The journal's end of the line to the state.
pub struct Feed(StateLine);

/// The state's end of the line.
pub struct Intake {
    pub(super) groups: mpsc::Receiver<Told>,
    /// Ends a wait for more, and ends with the journal.
    pub(super) wake: mpsc::Receiver<()>,
}

/// A line from the journal to the state.
pub fn line() -> (Feed, Intake) {
    let (groups, receiver) = mpsc::sync_channel(GROUPS_MAX);
    let (wake, woken) = mpsc::channel();
    (Feed(StateLine { groups, wake }), Intake { groups: receiver, wake: woken })
}

impl Feed {
    /// Hands a durable group on. Waits only when the state is thousands of groups behind.
    pub fn send(&self, group: Group) {
        // The state's thread ends only after the journal's.
        let _ = self.0.groups.send(Told::Group(group));
    }

    /// Another end of the same line.
    pub fn line(&self) -> StateLine {
        self.0.clone()
    }
}

impl StateLine {
    /// Has the state written and closed, so that another process can open it; the next group opens it
    /// again. Waits for that; false if it is not written any more.
    pub fn let_go(&self) -> bool {
        let (done, closed) = mpsc::sync_channel(1);
        let told = self.groups.send(Told::LetGo(done));
        let _ = self.wake.send(());
        told.is_ok() && closed.recv().is_ok()
    }
}

impl State {
    /// Opens the store in `directory`, made if need be.
    ///
    /// # Errors
    /// When sled cannot; the caller then removes the directory and rebuilds.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        remove_unfinished_snapshots(directory)?;
        wait_for_lock(directory);
        let db =
            sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
        let file = fs::File::open(directory.join("db"))?;
        Ok(State {
            db,
            file,
            totals: Totals::default(),
            head: None,
            digest: 0,
            #[cfg(test)]
            fault: None,
        })
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// When there is none, or any doubt about it.
    pub fn load(&mut self) -> Result<Snapshot, StateError> {
        let meta = self.db.get([records::META])?.ok_or(StateError::Missing)?;
        let of_prefix = |prefix| self.db.scan_prefix([prefix]).map(|pair| Ok(pair?));
        let snapshot = records::snapshot(&meta, of_prefix)?;
        let (head, totals, digest) = records::read_meta(&meta)?;
        (self.totals, self.head, self.digest) = (totals, Some(head), digest);
        Ok(snapshot)
    }

    /// Empties it, to be made anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn clear(&mut self) -> Result<(), StateError> {
        self.db.clear()?;
        (self.totals, self.head, self.digest) = (Totals::default(), None, 0);
        Ok(())
    }

    /// Brings it up to `head`, by what the entries up to there changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn catch_up(&mut self, pending: Pending, totals: Totals, head: Head) -> Result<(), StateError> {
        let mut pending = pending;
        self.totals = totals;
        if self.head == Some(head) {
            return Ok(());
        }
        self.write(&mut pending, head)
    }

    /// Notes what a group changes, and gives where the store will stand with it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn fold(&mut self, pending: &mut Pending, group: Group) -> Result<Head, StateError> {
        for entry in &group.entries {
            entry.change.legs().into_iter().for_each(|leg| self.totals.follow(leg));
            pending.note(entry, |spender| self.spent(spender))?;
        }
        Ok(group.head)
    }

    fn spent(&self, spender: Spender) -> Result<Spent, StateError> {
        let found = self.db.get(records::spent_name(spender))?;
        found.map_or_else(|| Ok(Spent::default()), |sealed| records::read_spent(&sealed))
    }

    /// Writes what is pending, as one, durably.
    ///
    /// # Errors
    /// When it cannot be written: what the store has then is unknown.
    pub(super) fn write(&mut self, pending: &mut Pending, head: Head) -> Result<(), StateError> {
        #[cfg(test)]
        self.fault(Fault::BeforeTheBatch)?;
        let mut batch = sled::Batch::default();
        for (name, value) in pending.take() {
            if let Some(old) = self.db.get(&name)? {
                self.digest ^= records::digest(&name, &old);
            }
            match value {
                Some(value) => {
                    self.digest ^= records::digest(&name, &value);
                    batch.insert(name, value);
                }
                None => batch.remove(name),
            }
        }
        batch.insert(&[records::META], records::meta(head, self.totals, self.digest));
        self.db.apply_batch(batch)?;
        #[cfg(test)]
        self.fault(Fault::AfterTheBatch)?;
        self.db.flush()?;
        // sled's flush is not an fsync on Linux.
        self.file.sync_data()?;
        self.head = Some(head);
        Ok(())
    }
}

/// Where a test lets a write fail.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of it is there.
    BeforeTheBatch,
    /// Some of it may be.
    AfterTheBatch,
}

#[cfg(test)]
impl State {
    fn fault(&self, at: Fault) -> Result<(), StateError> {
        if self.fault == Some(at) { Err(io::Error::from_raw_os_error(5).into()) } else { Ok(()) }
    }
}

/// Removes a store that is not to be used.
///
/// # Errors
/// As the operating system says.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until sled's own lock is free: it lets go of it a moment after it was closed. Nobody else can
/// have it, since the store has a lock of ours; who waits in vain is told by sled.
fn wait_for_lock(directory: &Path) {
    let until = Instant::now() + LOCK_WAIT;
    while let Ok(file) = fs::File::open(directory.join("db"))
        && file.try_lock().is_err()
        && Instant::now() < until
    {
        thread::sleep(Duration::from_millis(1));
    }
}

/// sled takes an unfinished snapshot for the newest and can then never be opened again.
fn remove_unfinished_snapshots(directory: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    let unfinished = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("snap.") && name.ends_with(".generating")
    };
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(unfinished) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::CustomerId;
    use crate::ledger::entry::{Balance, Change, Entry, Seq};
    use crate::ledger::frame::Chain;
    use crate::money::Amount;

    fn head(seq: u64) -> Head {
        Head { seq: Seq(seq), chain: Chain([1; 32]) }
    }

    /// Ada with a deposit and its like.
    fn state(folder: &Path) -> State {
        let customer = CustomerId::from_int(7);
        let changes = [
            Change::CustomerCreated { name: "Ada".into() },
            Change::Deposited { amount: Amount::from_atto_usd(3), reference: "first".into() },
            Change::Deposited { amount: Amount::ZERO, reference: "second".into() },
        ];
        let mut pending = Pending::default();
        let mut totals = Totals::default();
        let mut balance = Balance::default();
        for (seq, change) in (1..).map(Seq).zip(changes) {
            change.legs().into_iter().for_each(|leg| {
                totals.follow(leg);
                balance.follow(leg);
            });
            let entry = Entry { seq, at: Timestamp::default(), customer, change, balance };
            pending.note(&entry, |_| Ok::<_, StateError>(Spent::default())).expect("nothing was spent");
        }
        let mut state = State::open(folder).expect("sled is well");
        state.catch_up(pending, totals, head(3)).expect("written");
        state
    }

    /// What is gone from the store may be whole and add up without it: a deposit that would be taken
    /// twice.
    #[test]
    fn a_state_that_lost_a_record_or_kept_an_old_one_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut state = state(folder.path());
        let snapshot = state.load().expect("whole");
        assert_eq!((snapshot.head, snapshot.bookings.len()), (head(3), 2));
        let names: Vec<_> = state.db.iter().keys().map(|name| name.expect("readable")).collect();
        assert_eq!(names.len(), 5);
        for name in names.iter().filter(|name| name[0] != records::META) {
            let value = state.db.remove(name).expect("well").expect("there");
            assert!(state.load().is_err(), "without {name:?}");
            state.db.insert(name, value).expect("well");
            state.load().expect("whole again");
        }
        // An ended write leaves all of a batch or none of it; half of one is of two times.
        let mut later = Pending::default();
        let balance = Balance { available: Amount::from_atto_usd(3), held: Amount::ZERO };
        let change = Change::Deposited { amount: Amount::ZERO, reference: "third".into() };
        let customer = CustomerId::from_int(7);
        let entry = Entry { seq: Seq(4), at: Timestamp::default(), customer, change, balance };
        later.note(&entry, |_| Ok::<_, StateError>(Spent::default())).expect("nothing was spent");
        let old = state.db.get([records::META]).expect("well").expect("there");
        state.catch_up(later, snapshot.book.totals, head(4)).expect("written");
        state.load().expect("whole");
        state.db.insert([records::META], old).expect("well");
        assert!(state.load().is_err(), "a head of another time");
    }
}
