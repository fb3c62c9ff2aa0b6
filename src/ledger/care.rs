//! Care of a store: it is verified, made again from its journal, and copied while it is used.

use super::Ledger;
use super::checkpoint;
use super::disk::{Directory, Disk, OutOfReach};
use super::entry::Seq;
use super::frame::{Chain, Head};
use super::open::{OpenError, lock};
use super::recover::{Recovery, recover_whole};
use super::segment::{self, JournalError, Position, Segment, whole};
use super::sidecar::{self, Sidecar};
use super::state::{self, State};
use super::totals;
use super::verify::{self, Known, Recompute, Verified};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use utoipa::ToSchema;

/// What a backup has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// Entries, from the first.
    pub entries: Seq,
    /// The end of their hash chain.
    pub head: Chain,
    /// Segments.
    pub segments: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments that were archived and are out of reach: of these there is the index, and where they lie.
    #[serde(default)]
    pub unseen: usize,
}

/// Why there is no backup.
#[derive(Debug)]
pub enum BackupError {
    /// Something is in the directory already, or it cannot be made.
    Target(PathBuf, io::Error),
    /// The journal cannot be read or copied.
    Journal(JournalError),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackupError::Target(path, why) => write!(f, "the backup {}: {why}", path.display()),
            BackupError::Journal(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for BackupError {}

/// What was made again from the journal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Entries in the journal.
    pub entries: Seq,
    /// Segments that were indexed.
    pub indexed: usize,
}

impl Ledger {
    /// Copies all that is durable now into `directory`, new or empty, and verifies what it copies.
    /// Others go on meanwhile, but for archiving. Takes as long as reading the journal: not for the
    /// request path.
    ///
    /// # Errors
    /// When the directory has something in it already, or the operating system refuses, or the
    /// journal is damaged.
    pub fn backup(&self, directory: &Path) -> Result<Backup, BackupError> {
        let _one = self.caring.lock();
        let target = target(directory)?;
        backup(&*self.disk, self.index.durable(), &target)
    }
}

/// Verifies a store that nobody uses, and looks for a `head` that it is known to have had.
///
/// # Errors
/// When it is in use, or the first thing that does not hold.
pub fn verify_stopped(
    directory: &Path,
    recompute: Recompute,
    head: Option<Chain>,
) -> Result<Verified, OpenError> {
    let (_lock, disk) = stopped(directory)?;
    let path = directory.join("state");
    let state = if path.is_dir() { State::open(&path).and_then(|mut state| state.load()).ok() } else { None };
    let known = Known { durable: Seq::START, state, head };
    verify::verify(&disk, known, recompute).map_err(OpenError::Journal)
}

/// Makes the state and the indexes of a store that nobody uses again from its journal, whatever
/// they are now.
///
/// # Errors
/// When the store is in use, or its journal is damaged.
pub fn rebuild(directory: &Path) -> Result<Rebuilt, OpenError> {
    let (_lock, disk) = stopped(directory)?;
    let io = |why| OpenError::Io(directory.to_owned(), why);
    for segment in segment::list(&disk).map_err(OpenError::Journal)? {
        match disk.open(&segment) {
            // Its index cannot be made again.
            Err(why) if OutOfReach::is(&why) => {}
            Ok(_) | Err(_) => disk.remove(&sidecar::name(&segment)).map_err(io)?,
        }
    }
    let recovery = recover_whole(&disk).map_err(OpenError::Journal)?;
    let Recovery { journal, book, pending, indexed, .. } = recovery;
    let path = directory.join("state");
    state::remove(&path).map_err(io)?;
    let failed = |why: state::StateError| OpenError::State(why.to_string());
    let mut state = State::open(&path).map_err(failed)?;
    state.catch_up(pending, book.totals, journal.head).map_err(failed)?;
    Ok(Rebuilt { entries: journal.head.seq, indexed })
}

/// Makes the directory of a backup.
pub fn target(directory: &Path) -> Result<Directory, BackupError> {
    let failed = |why| BackupError::Target(directory.to_owned(), why);
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let why = "it is not empty: name a new directory";
                return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, why)));
            }
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(failed(why)),
    }
    super::open::make_private(directory).map_err(failed)?;
    Directory::open(&directory.join("journal")).map_err(failed)
}

/// Copies the journal up to the entry `durable`, segment by segment, each verified as it is copied;
/// those that were archived too, as far as they can be reached.
pub fn backup(disk: &dyn Disk, durable: Seq, target: &dyn Disk) -> Result<Backup, BackupError> {
    let mut backup = Backup { entries: Seq::START, head: Chain::START, segments: 0, bytes: 0, unseen: 0 };
    let mut head = Head::START;
    let names = segment::list(disk).map_err(BackupError::Journal)?;
    for (place, name) in names.iter().enumerate() {
        if head.seq >= durable {
            break;
        }
        let segment = match Segment::load(disk, name, Position::of(place, &names)) {
            Err(why) if why.is_out_of_reach() => {
                head = copy_unseen(disk, name, target).map_err(BackupError::Journal)?;
                backup.unseen += 1;
                continue;
            }
            loaded => loaded.map_err(BackupError::Journal)?,
        };
        // More may have been written meanwhile: it is left out.
        let ending = segment.read_until(head, durable, |_| {}).map_err(BackupError::Journal)?;
        let bytes = segment.start(ending.end);
        let failed = |why| BackupError::Journal(JournalError::Io(format!("the copy of {name}"), why));
        target.replace(name, bytes).map_err(failed)?;
        head = ending.head;
        backup.segments += 1;
        backup.bytes += ending.end;
    }
    if backup.unseen > 0 {
        copy(disk, checkpoint::NAME, target).map_err(BackupError::Journal)?;
    }
    Ok(Backup { entries: head.seq, head: head.chain, ..backup })
}

/// Copies what stayed of a segment that is out of reach, and gives the head after it.
fn copy_unseen(disk: &dyn Disk, name: &str, target: &dyn Disk) -> Result<Head, JournalError> {
    let failed = |why| JournalError::Io(format!("what stayed of {name}"), why);
    let sidecar = Sidecar::open(disk, name.into()).map_err(failed)?;
    copy(disk, &sidecar::name(name), target)?;
    let totals = totals::name(name);
    match disk.open(&totals) {
        Ok(_) => copy(disk, &totals, target)?,
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(failed(why)),
    }
    let path = disk.elsewhere(name).map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    target.refer(name, &path).map_err(failed)?;
    Ok(sidecar.about.after)
}

fn copy(disk: &dyn Disk, name: &str, target: &dyn Disk) -> Result<(), JournalError> {
    let bytes = disk.open(name).and_then(|file| whole(&*file));
    bytes
        .and_then(|bytes| target.replace(name, &bytes))
        .map_err(|why| JournalError::Io(format!("the copy of {name}"), why))
}

/// A store that nobody uses, and the lock that keeps it so.
fn stopped(directory: &Path) -> Result<(fs::File, Directory), OpenError> {
    let io = |why| OpenError::Io(directory.to_owned(), why);
    if !directory.join("journal").is_dir() {
        return Err(io(io::Error::new(io::ErrorKind::NotFound, "there is no journal in it")));
    }
    let lock = lock(directory)?;
    Ok((lock, Directory::open(&directory.join("journal")).map_err(io)?))
}
