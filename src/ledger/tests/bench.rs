//! What the tests share: a ledger on any disk, and a scribe who writes journals frame by frame.

use super::super::book::Book;
use super::super::budget::Budgets;
use super::super::command::Command;
use super::super::detached::Detachments;
use super::super::disk::{Disk, File};
use super::super::entry::{Entry, KeyCreated, Seq};
use super::super::frame::{self, Head};
use super::super::index::{Bookings, Index, note_booking};
use super::super::journal::{self, Group, OnCommit, Writer};
use super::super::keeper::Health;
use super::super::line::{Down, Line};
use super::super::open::{Expired, OpenError, split};
use super::super::recover::{Recovery, recover};
use super::super::room::Room;
use super::super::segment::{self, JournalError};
use super::super::state::{self, Intake, Snapshot};
use super::super::verify::Fold;
use super::super::{Commit, Failure, Hold, Ledger, Refusal, Terms, Threads};
use super::memory::Memory;
use crate::clock::{Clock, Timestamp, Wall};
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

pub const ADA: CustomerId = CustomerId::from_int(7);
pub const KEY: KeyId = KeyId::from_int(1);
/// What Ada pays in first.
pub const DEPOSIT: i128 = 1_000_000;

/// The state store's stand-in: what it was told, and what it would have on disk.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<Save>>>);

/// What the state store wrote at one time.
#[derive(Clone)]
pub struct Save {
    pub book: Book,
    pub bookings: Bookings,
    pub head: Head,
    /// The entries that were new: durable, since the writer told of them. None when the state was
    /// made anew at start.
    pub entries: Vec<Entry>,
}

impl Save {
    /// The state as a start finds it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { book: self.book.clone(), bookings: self.bookings.clone(), head: self.head }
    }
}

impl Told {
    /// All of it, oldest first.
    pub fn take(&self) -> Vec<Save> {
        std::mem::take(&mut *self.0.lock())
    }

    fn put(&self, book: &Book, bookings: &Bookings, head: Head, entries: Vec<Entry>) {
        self.0.lock().push(Save { book: book.clone(), bookings: bookings.clone(), head, entries });
    }

    fn run(&self, mut book: Book, mut bookings: Bookings, intake: &Intake) {
        intake.groups.iter().for_each(|told| match told {
            state::Told::Group(group) => self.follow(&mut book, &mut bookings, group),
            state::Told::LetGo(done) => drop(done.send(())),
        });
    }

    fn follow(&self, book: &mut Book, bookings: &mut Bookings, Group { entries, head }: Group) {
        for entry in &entries {
            book.apply(entry.customer, &entry.change, entry.at).expect("the writer writes what can follow");
            note_booking(bookings, entry);
        }
        self.put(book, bookings, head, entries);
    }
}

/// A ledger whose state store is a list in memory.
pub struct Bench {
    pub ledger: Arc<Ledger>,
    pub entries: Seq,
    /// Entries that were folded.
    pub replayed: u64,
    /// Sidecars that were made again.
    pub indexed: usize,
    pub torn_bytes: u64,
    pub expired: Expired,
    /// Whether the snapshot that was given fits the journal.
    pub fits: bool,
}

impl Bench {
    /// What [`Ledger::open`] does, but for the lock and the state store.
    pub fn open(
        disk: Arc<dyn Disk>,
        snapshot: Option<Snapshot>,
        told: &Told,
        on_commit: OnCommit,
    ) -> Result<Bench, OpenError> {
        let io = |why| OpenError::Io(PathBuf::new(), why);
        let known = snapshot.as_ref().map_or(Seq::START, |snapshot| snapshot.head.seq);
        let recovery = recover(&*disk, snapshot).map_err(OpenError::Journal)?;
        let Recovery { journal, book, index, fits, replayed, indexed, .. } = recovery;
        let (entries, torn_bytes) = (journal.head.seq, journal.torn_bytes);
        let bookings = index.bookings.clone();
        if !fits || journal.head.seq > known {
            told.put(&book, &bookings, journal.head, Vec::new());
        }
        let index = Index::start(Arc::clone(&disk), index).map_err(io)?;
        let open: Vec<_> = book.attended_holds().collect();
        let (feed, intake) = state::line();
        let state_line = Some(feed.line());
        let room = Room::keep(Arc::clone(&disk)).map_err(io)?;
        let made = (Arc::clone(&index), Arc::clone(&room));
        let (line, writer) = journal::begin(Arc::clone(&disk), journal, made, feed, on_commit).map_err(io)?;
        // Nobody here has to save power.
        let writer = writer.spawn(Duration::ZERO).map_err(io)?;
        let (told, state_book) = (told.clone(), book.clone());
        let state = thread::spawn(move || told.run(state_book, bookings, &intake));
        let threads = Threads { journal: Some(writer), state: Some(state), state_line };
        let ledger = Arc::new(ledger(disk, Arc::new(Wall), book, index, (line, room), threads));
        let expired = ledger.expire(&open).map_err(|Down| io(io::Error::other("down")))?;
        Ok(Bench { ledger, entries, replayed, indexed, torn_bytes, expired, fits })
    }

    /// On a disk in memory, with nothing known from elsewhere.
    pub fn on(memory: &Memory) -> Result<Bench, OpenError> {
        Self::open(Arc::new(memory.clone()), None, &Told::default(), Box::new(|_| {}))
    }

    /// Makes Ada, with a key and a deposit.
    pub fn create_ada(&self) -> Result<(), Failure> {
        create_ada(&self.ledger)
    }

    /// Makes of Ada what is not there yet, and pays in.
    pub fn create_ada_again(&self, reference: &str) -> Result<(), Failure> {
        let or_there = |outcome| match outcome {
            Err(Failure::Refused(Refusal::CustomerExists | Refusal::KeyExists)) => Ok(()),
            other => other,
        };
        block_on(async {
            or_there(self.ledger.create_customer(ADA, "Ada".into()).await)?;
            or_there(self.ledger.create_key(ADA, key(1)).await)?;
            self.ledger.deposit(ADA, atto(DEPOSIT), reference.into()).await.map(|_| ())
        })
    }

    /// Holds for a request.
    pub fn hold(&self, request: u128, amount: i128) -> Result<(Hold, Commit), Failure> {
        self.ledger.hold(terms(request, amount))
    }

    /// A hold and a charge that is durable.
    pub fn charge(&self, request: u128, amount: i128) -> Result<(), Failure> {
        let (hold, _) = self.hold(request, amount)?;
        Ok(hold.capture(atto(amount), record(amount)).commit.wait()?)
    }
}

fn ledger(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    book: Book,
    index: Arc<Index>,
    (line, room): (Arc<Line>, Arc<Room>),
    threads: Threads,
) -> Ledger {
    let detached = Detachments::of(&book);
    Ledger {
        directory: PathBuf::new(),
        disk,
        clock,
        shards: split(book),
        digests: Mutex::new(HashSet::new()),
        bookings: tokio::sync::Mutex::new(()),
        index,
        line,
        room,
        state: Health::default(),
        holds_open: AtomicUsize::new(0),
        marks: Arc::default(),
        detached,
        threads: Mutex::new(threads),
        caring: Mutex::default(),
        lock: Mutex::new(None),
        away: ArcSwapOption::empty(),
    }
}

/// A ledger without threads: whoever drives it says when the writer, the index and the state do their
/// work. Holds that it finds open stay open.
pub struct Inline {
    pub ledger: Arc<Ledger>,
    /// As it was found.
    pub book: Book,
    /// Whether the snapshot that was given fits the journal.
    pub fits: bool,
    /// The last entry of what was given so far.
    last: Seq,
    writer: Writer,
    intake: Intake,
    told: Told,
    state: (Book, Bookings),
}

impl Inline {
    pub fn open(
        disk: Arc<dyn Disk>,
        snapshot: Option<Snapshot>,
        clock: Arc<dyn Clock>,
    ) -> Result<Inline, OpenError> {
        let io = |why| OpenError::Io(PathBuf::new(), why);
        let recovery = recover(&*disk, snapshot).map_err(OpenError::Journal)?;
        let Recovery { journal, book, index, fits, .. } = recovery;
        let (last, told, state) = (journal.head.seq, Told::default(), (book.clone(), index.bookings.clone()));
        let index = Index::inline(Arc::clone(&disk), index);
        let (feed, intake) = state::line();
        let room = Room::inline(Arc::clone(&disk));
        let made = (Arc::clone(&index), Arc::clone(&room));
        let begun = journal::begin(Arc::clone(&disk), journal, made, feed, Box::new(|_| {}));
        let (line, writer) = begun.map_err(io)?;
        let threads = Threads { journal: None, state: None, state_line: None };
        let ledger = Arc::new(ledger(disk, clock, book.clone(), index, (line, room), threads));
        Ok(Inline { ledger, book, fits, last, writer, intake, told, state })
    }

    /// A command made so many entries: gives the last of them.
    pub fn given(&mut self, entries: u64) -> Seq {
        self.last = Seq(self.last.0 + entries);
        self.last
    }

    /// Lets the writer write all that is in line, and the index and the state follow.
    pub fn step(&mut self) {
        self.writer.step();
        self.ledger.index.seal();
        let (book, bookings) = &mut self.state;
        while let Ok(state::Told::Group(group)) = self.intake.groups.try_recv() {
            self.told.follow(book, bookings, group);
        }
    }

    /// Ends it, and gives what the state store was told.
    pub fn end(self) -> Vec<Save> {
        self.told.take()
    }
}

/// Makes Ada, with a key and a deposit.
pub fn create_ada(ledger: &Ledger) -> Result<(), Failure> {
    block_on(async {
        ledger.create_customer(ADA, "Ada".into()).await?;
        ledger.create_key(ADA, key(1)).await?;
        ledger.deposit(ADA, atto(DEPOSIT), "first".into()).await.map(|_| ())
    })
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

pub fn terms(request: u128, amount: i128) -> Terms {
    let request = RequestId::from_int(request);
    let (amount, budgets, price_version) = (atto(amount), Budgets::default(), "2026-11-23".into());
    Terms { customer: ADA, key: KEY, request, amount, least: amount, budgets, price_version, mark: None }
}

pub fn atto(units: i128) -> Amount {
    Amount::from_atto_usd(units)
}

/// The records of these tests are their charges.
pub fn record(amount: i128) -> Arc<[u8]> {
    amount.to_string().into_bytes().into()
}

/// Computes a charge from such a record.
pub fn recompute(record: &[u8]) -> Result<Amount, String> {
    let text = std::str::from_utf8(record).map_err(|why| why.to_string())?;
    text.parse().map(Amount::from_atto_usd).map_err(|why| format!("{why}"))
}

pub fn key(number: u8) -> KeyCreated {
    let key = KeyId::from_int(u64::from(number));
    KeyCreated { key, digest: KeyDigest([number; 32]), prefix: "tg_live_".into(), name: "".into() }
}

/// Reads all entries that a journal has, and how many bytes are torn.
pub fn read(disk: &dyn Disk, known: Seq) -> Result<(Vec<Entry>, u64), JournalError> {
    let mut entries = Vec::new();
    let mut fold = Fold::default();
    let journal = segment::read(disk, Head::START, known, |frame| {
        frame.entries.iter().try_for_each(|entry| fold.entry(entry))?;
        entries.extend(frame.entries);
        Ok(())
    })?;
    Ok((entries, journal.torn_bytes))
}

/// Where a frame was written.
#[derive(Clone, Debug)]
pub struct Placed {
    pub file: String,
    pub offset: usize,
    pub end: usize,
    pub first: Seq,
    pub last: Seq,
}

/// Writes journals as the writer does, but frame by frame as a test wants them.
pub struct Scribe {
    pub memory: Memory,
    pub frames: Vec<Placed>,
    pub book: Book,
    pub head: Head,
    file: Arc<dyn File>,
}

impl Scribe {
    /// An empty journal.
    pub fn new() -> Scribe {
        let memory = Memory::default();
        let (file, _) = segment::create(&memory, Head::START).expect("memory is well");
        Scribe { memory, frames: Vec::new(), book: Book::default(), head: Head::START, file }
    }

    /// Begins the next segment.
    pub fn rotate(&mut self) {
        self.file = segment::create(&self.memory, self.head).expect("memory is well").0;
    }

    /// Writes a frame for each command, all in one group: none vouches for another.
    pub fn group(&mut self, commands: Vec<Command>) {
        let name = self.memory.segments().pop().expect("a segment");
        let begin = self.file.size().expect("memory is well");
        let durable = self.head.seq;
        let mut bytes = Vec::new();
        for command in commands {
            let entries = self.entries(command);
            let offset = usize::try_from(begin).expect("small") + bytes.len();
            self.head = frame::encode(&entries, self.head, durable, &mut bytes);
            let end = usize::try_from(begin).expect("small") + bytes.len();
            let first = entries[0].seq;
            self.frames.push(Placed { file: name.clone(), offset, end, first, last: self.head.seq });
        }
        self.file.write_at(&bytes, begin).and_then(|()| self.file.sync()).expect("memory is well");
    }

    /// Writes a group for each command: each vouches for all before it.
    pub fn groups(&mut self, commands: Vec<Command>) {
        commands.into_iter().for_each(|command| self.group(vec![command]));
    }

    fn entries(&mut self, command: Command) -> Vec<Entry> {
        let mut seq = self.head.seq;
        let at = Timestamp::from_micros(1);
        let decided = self.book.decide(ADA, command, at).expect("a good command");
        decided
            .into_iter()
            .map(|change| {
                seq = seq.next();
                let balance = self.book.apply(ADA, &change, at).expect("it was decided");
                Entry { seq, at, customer: ADA, change, balance }
            })
            .collect()
    }
}

/// Ada, a key and a deposit.
pub fn opening() -> Vec<Command> {
    let deposit = Command::Deposit { amount: atto(DEPOSIT), reference: "first".into() };
    vec![Command::CreateCustomer { name: "Ada".into() }, Command::CreateKey(key(1)), deposit]
}

pub fn hold(request: u128, amount: i128) -> Command {
    let Terms { key, request, amount, least, budgets, price_version, .. } = terms(request, amount);
    Command::Hold { request, key, amount, least, budgets, price_version, mark: None }
}

pub fn capture(request: u128, amount: i128) -> Command {
    let charge = atto(amount).into();
    Command::Capture { request: RequestId::from_int(request), charge, record: record(amount), object: None }
}

pub fn release(request: u128) -> Command {
    let request = RequestId::from_int(request);
    Command::Release { request, record: Arc::default() }
}
