//! The archive: full segments that were moved to another directory, where they may be out of reach.
//!
//! A segment is copied there, verified, and its name in the journal's directory then stands for the
//! copy: a symbolic link on a real disk. Whoever reads the journal goes on as before while the archive is
//! there, and is told the file that is missing while it is not. What stays is small: the index of the
//! segment, its totals, and a [checkpoint](super::checkpoint) of all balances as of the end of the newest
//! one, so that a start needs nothing of the archive.
//!
//! A crash at any point leaves each segment whole in one of the two places.

use super::Ledger;
use super::book::{Book, Broken};
use super::checkpoint::{self, Checkpoint};
use super::disk::{Directory, Disk};
use super::entry::Seq;
use super::frame::{Chain, Head};
use super::records::Pending;
use super::segment::{JournalError, Position, Segment, whole};
use super::sidecar::About;
use super::verify::Fold;
use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use utoipa::ToSchema;

const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Which full segments are moved: the oldest ones, up to some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All but so many of the newest.
    AllBut(usize),
    /// Those whose last entry is older than this.
    OlderThan {
        /// Of 24 hours.
        days: u32,
    },
}

impl Which {
    /// How many of the `sealed` ones these are.
    pub fn of(self, sealed: &[(Arc<str>, About)], now: Timestamp) -> usize {
        match self {
            Which::AllBut(kept) => sealed.len().saturating_sub(kept),
            Which::OlderThan { days } => {
                let oldest = now.micros().saturating_sub(i64::from(days) * DAY_MICROS);
                sealed.iter().take_while(|(_, about)| about.last_at.micros() < oldest).count()
            }
        }
    }
}

/// What was archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Archived {
    /// Segments that were moved.
    pub segments: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// The first entry that was moved; none if nothing was.
    pub first: Option<Seq>,
    /// The last entry that was moved.
    pub last: Option<Seq>,
    /// The end of the hash chain after it.
    pub head: Option<Chain>,
}

/// Why nothing more is archived.
#[derive(Debug)]
pub enum ArchiveError {
    /// The directory cannot be used.
    Target(PathBuf, io::Error),
    /// The journal cannot be read, or what stands for it cannot be written.
    Journal(JournalError),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveError::Target(path, why) => write!(f, "the archive {}: {why}", path.display()),
            ArchiveError::Journal(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for ArchiveError {}

impl From<JournalError> for ArchiveError {
    fn from(why: JournalError) -> Self {
        ArchiveError::Journal(why)
    }
}

impl Ledger {
    /// Moves full segments to `directory`, made if need be, each verified on its way. Others go on
    /// meanwhile. Takes as long as reading them: not for the request path.
    ///
    /// # Errors
    /// When the directory cannot be used, or a segment is damaged. What was moved before stays so.
    pub fn archive(&self, directory: &Path, which: Which) -> Result<Archived, ArchiveError> {
        let _one = self.caring.lock();
        if self.away.load().is_some() {
            let why = "the store passes on to another process: ask that one";
            return Err(ArchiveError::Target(directory.to_owned(), io::Error::other(why)));
        }
        let target = Target::open(directory, &self.directory)?;
        self.index.count_all();
        let sealed = self.index.sealed();
        archive(&*self.disk, &sealed[..which.of(&sealed, self.clock.now())], &target)
    }
}

/// Where segments go.
pub struct Target {
    /// Its files.
    pub disk: Box<dyn Disk>,
    /// Where it is, in full.
    pub path: PathBuf,
}

impl Target {
    fn open(directory: &Path, store: &Path) -> Result<Self, ArchiveError> {
        let failed = |why| ArchiveError::Target(directory.to_owned(), why);
        super::open::make_private(directory).map_err(failed)?;
        let path = directory.canonicalize().map_err(failed)?;
        if store.canonicalize().is_ok_and(|store| path.starts_with(store)) {
            let why = "it is in the store: name a directory elsewhere";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        let disk = Directory::open(&path).map_err(failed)?;
        Ok(Target { disk: Box::new(disk), path })
    }
}

/// Moves the oldest segments of `disk`, but for those that were moved before.
///
/// # Errors
/// As [`Ledger::archive`].
pub fn archive(
    disk: &dyn Disk,
    oldest: &[(Arc<str>, About)],
    target: &Target,
) -> Result<Archived, ArchiveError> {
    let mut moving = Moving::begin(disk);
    let mut moved = Vec::new();
    for (segment, about) in oldest {
        let is_moved = disk.elsewhere(segment).map_err(|why| JournalError::Io(segment.to_string(), why))?;
        if is_moved.is_some() && about.after.seq <= moving.head.seq {
            continue;
        }
        let found = Segment::load(disk, segment, Position::Sealed)?;
        moving.follow(&found, about)?;
        if is_moved.is_none() {
            put(target, segment, found.start(about.bytes))?;
            moved.push((segment, about));
        }
    }
    moving.end(disk).map_err(|why| JournalError::Io(checkpoint::NAME.into(), why))?;
    for (segment, _) in &moved {
        let path = target.path.join(&***segment);
        disk.refer(segment, &path).map_err(|why| JournalError::Io(segment.to_string(), why))?;
    }
    Ok(Archived {
        segments: moved.len(),
        bytes: moved.iter().map(|(_, about)| about.bytes).sum(),
        first: moved.first().map(|(_, about)| about.before.seq.next()),
        last: moved.last().map(|(_, about)| about.after.seq),
        head: moved.last().map(|(_, about)| about.after.chain),
    })
}

/// Puts a segment into the archive, unless an archiving that was cut off has put it there.
fn put(target: &Target, segment: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
    let failed = |why| ArchiveError::Target(target.path.join(segment), why);
    let lies = || target.disk.open(segment).and_then(|file| whole(&*file));
    match lies() {
        Ok(there) if there == bytes => return Ok(()),
        Ok(_) => {
            let why = "it is there already, and is another: name another directory";
            return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, why)));
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(failed(why)),
    }
    target.disk.replace(segment, bytes).map_err(failed)?;
    if lies().map_err(failed)? == bytes {
        return Ok(());
    }
    Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it does not read back as it was written")))
}

/// The checkpoint on its way to the end of the last segment that is moved.
struct Moving {
    checkpoint: Checkpoint,
    /// Where it stands on disk.
    head: Head,
    fold: Fold,
    pending: Pending,
    /// Where it will stand.
    reached: Head,
}

impl Moving {
    fn begin(disk: &dyn Disk) -> Self {
        let found =
            Checkpoint::found(disk).map(|(checkpoint, snapshot)| (checkpoint, snapshot.book, snapshot.head));
        let (checkpoint, book, head) = found.unwrap_or((Checkpoint::default(), Book::default(), Head::START));
        let fold = Fold { book, ..Fold::default() };
        Moving { checkpoint, head, fold, pending: Pending::default(), reached: head }
    }

    /// Verifies a segment, and folds it in unless that was done before.
    fn follow(&mut self, segment: &Segment, about: &About) -> Result<(), JournalError> {
        let ending = segment.read(about.before, about.after.seq, |frame, _| {
            for entry in frame.entries.iter().filter(|entry| entry.seq > self.head.seq) {
                self.pending.note(entry, |spender| Ok::<_, Broken>(self.fold.book.spent(spender)))?;
                self.fold.entry(entry)?;
            }
            Ok(())
        })?;
        if ending.head != about.after {
            return Err(segment.damaged(0, about.before.seq.next(), &"it does not end as its index says"));
        }
        if ending.head.seq > self.reached.seq {
            self.reached = ending.head;
        }
        Ok(())
    }

    fn end(mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.reached == self.head {
            return Ok(());
        }
        self.checkpoint.follow(&mut self.pending, self.fold.book.totals, self.reached);
        self.checkpoint.write(disk)
    }
}
