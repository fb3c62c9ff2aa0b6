//! A disk in memory that fails, is killed or loses its power when it is told to.
//!
//! Each file has what is cached and what is durable. Death comes at a counted operation, which may
//! take effect in part; from then on everything fails. [`Memory::killed`] is the disk as a restarted
//! process finds it: nothing that was written is lost, but nothing more is durable than before.
//! [`Memory::power_cut`] is the disk as a restarted machine finds it: of what was not synced, any
//! sector may be there or not.

use super::super::disk::{Disk, File, OutOfReach};
use fastrand::Rng;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is written at once or not at all.
const SECTOR: usize = 512;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Write,
    Sync,
    Truncate,
    Replace,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Stored>,
    /// Names that stand for files of an archive, and that, if it is in reach.
    links: BTreeMap<String, PathBuf>,
    archive: Option<Memory>,
    /// Operations so far, by kind.
    counts: [usize; 5],
    /// The operation, of all kinds together, at which everything ends.
    death: Option<usize>,
    /// One that fails once, and how.
    failure: Option<(Operation, usize, i32)>,
    /// One that fails once after the next file is made, and how.
    failure_of_new: Option<(Operation, i32)>,
    dead: bool,
    /// Of all files together.
    bytes_max: Option<usize>,
    /// How operations failed on a disk that lived.
    failures: Vec<i32>,
    /// Whether syncing does nothing, and says that it did.
    lies: bool,
    rng: Rng,
}

#[derive(Clone, Default)]
struct Stored {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Of `cached`.
    unsynced: Vec<Range<usize>>,
}

impl Memory {
    /// Ends everything at the `nth` operation from now that changes something.
    pub fn die_at(&self, nth: usize, seed: u64) {
        let mut inner = self.0.lock();
        inner.rng = Rng::with_seed(seed);
        inner.death = Some(inner.counts.iter().sum::<usize>() + nth);
    }

    /// Lets the `nth` operation of this kind from now fail, once.
    pub fn fail(&self, operation: Operation, nth: usize, errno: i32) {
        let mut inner = self.0.lock();
        inner.failure = Some((operation, inner.count(operation) + nth, errno));
    }

    /// Lets the first operation of this kind on the next new file fail, or its making.
    pub fn fail_new(&self, operation: Operation, errno: i32) {
        match operation {
            Operation::Create => self.fail(operation, 1, errno),
            Operation::Write | Operation::Sync | Operation::Truncate | Operation::Replace => {
                self.0.lock().failure_of_new = Some((operation, errno));
            }
        }
    }

    /// Leaves room for so many more bytes, or for any number.
    pub fn leave_room(&self, bytes: Option<usize>) {
        let mut inner = self.0.lock();
        let taken: usize = inner.files.values().map(|file| file.cached.len()).sum();
        inner.bytes_max = bytes.map(|bytes| taken + bytes);
    }

    /// Decides by `seed` how much of what fails takes effect.
    pub fn seed(&self, seed: u64) {
        self.0.lock().rng = Rng::with_seed(seed);
    }

    /// Lets syncing do nothing from now on, and say that it did.
    pub fn sync_nothing(&self) {
        self.0.lock().lies = true;
    }

    /// How operations failed so far while the disk lived.
    pub fn failures(&self) -> Vec<i32> {
        self.0.lock().failures.clone()
    }

    /// Lets every operation wait until this is dropped.
    pub fn pause(&self) -> impl Drop + '_ {
        self.0.lock()
    }

    /// Whether everything has ended.
    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// Operations of this kind so far.
    pub fn count(&self, operation: Operation) -> usize {
        self.0.lock().count(operation)
    }

    /// The disk after the process was killed.
    pub fn killed(&self) -> Memory {
        let inner = self.0.lock();
        let (files, links, archive) = (inner.files.clone(), inner.links.clone(), inner.archive.clone());
        Memory(Arc::new(Mutex::new(Inner { files, links, archive, ..Inner::default() })))
    }

    /// The disk after the power was cut.
    pub fn power_cut(&self, rng: &mut Rng) -> Memory {
        let left = self.killed();
        left.0.lock().files.values_mut().for_each(|file| file.cut(rng));
        left
    }

    /// A copy that is changed independently.
    pub fn copy(&self) -> Memory {
        self.killed()
    }

    /// Lets the archive be in reach, or none.
    pub fn mount(&self, archive: Option<&Memory>) {
        self.0.lock().archive = archive.cloned();
    }

    /// Names of all files, in order.
    pub fn names(&self) -> Vec<String> {
        let inner = self.0.lock();
        let mut names: Vec<_> = inner.files.keys().chain(inner.links.keys()).cloned().collect();
        names.sort_unstable();
        names
    }

    /// Names of the segments, in order.
    pub fn segments(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.ends_with(".log")).collect()
    }

    /// Names of the sidecars, in order.
    pub fn sidecars(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.ends_with(".index")).collect()
    }

    /// What is in a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.lock().files[name].cached.clone()
    }

    /// Puts something else into a file, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let stored = Stored { cached: bytes.clone(), durable: bytes, unsynced: Vec::new() };
        self.0.lock().files.insert(name.to_owned(), stored);
    }

    /// Removes a file and gives what was in it.
    pub fn lose(&self, name: &str) -> Vec<u8> {
        self.0.lock().files.remove(name).expect("it is there").cached
    }
}

impl Stored {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        assert!(offset <= self.cached.len() && offset >= self.durable.len(), "files grow at their end");
        self.cached.truncate(offset);
        self.cached.extend_from_slice(bytes);
        self.unsynced.retain(|range| range.start < offset);
        self.unsynced.push(offset..self.cached.len());
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.cached);
        self.unsynced.clear();
    }

    fn cut(&mut self, rng: &mut Rng) {
        let mut left = self.durable.clone();
        let whole = rng.u32(0..4);
        for range in std::mem::take(&mut self.unsynced) {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at / SECTOR + 1) * SECTOR);
                let kept = match whole {
                    0 => false,
                    1 => true,
                    _ => rng.bool(),
                };
                // A sector that is missing before one that is there reads as zeros.
                if kept || rng.u32(0..8) == 0 {
                    left.resize(left.len().max(end), 0);
                }
                if kept {
                    left[at..end].copy_from_slice(&self.cached[at..end]);
                }
                at = end;
            }
        }
        // The first byte of a sector may be the last one that counts.
        if whole == 3 && left.len() > self.durable.len() {
            left.truncate(rng.usize(self.durable.len()..=left.len()));
        }
        *self = Stored { cached: left.clone(), durable: left, unsynced: Vec::new() };
    }
}

enum Outcome {
    Done,
    /// It fails, after as many parts in 256 of it as this.
    Fails(i32, usize),
}

impl Inner {
    /// Bytes that may still be written.
    fn room(&self) -> usize {
        let taken = self.files.values().map(|file| file.cached.len()).sum();
        self.bytes_max.map_or(usize::MAX / 2, |bytes| bytes.saturating_sub(taken))
    }

    fn count(&self, operation: Operation) -> usize {
        self.counts[place(operation)]
    }

    fn begin(&mut self, operation: Operation) -> Outcome {
        if self.dead {
            return Outcome::Fails(EIO, 0);
        }
        self.counts[place(operation)] += 1;
        if self.death == Some(self.counts.iter().sum()) {
            self.dead = true;
            return Outcome::Fails(EIO, self.rng.usize(0..=256));
        }
        if operation == Operation::Create
            && let Some((failing, errno)) = self.failure_of_new.take()
        {
            self.failure = Some((failing, self.count(failing) + 1, errno));
        }
        match self.failure {
            Some((failing, nth, errno)) if failing == operation && nth == self.count(operation) => {
                self.failure = None;
                self.failures.push(errno);
                Outcome::Fails(errno, self.rng.usize(0..256))
            }
            Some(_) | None => Outcome::Done,
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Stored> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

const fn place(operation: Operation) -> usize {
    match operation {
        Operation::Create => 0,
        Operation::Write => 1,
        Operation::Sync => 2,
        Operation::Truncate => 3,
        Operation::Replace => 4,
    }
}

struct Handle {
    disk: Memory,
    name: String,
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.0.lock();
        if inner.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let outcome = inner.begin(Operation::Create);
        let done = match outcome {
            Outcome::Done => Ok(()),
            Outcome::Fails(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        };
        if matches!(outcome, Outcome::Done | Outcome::Fails(_, 128..)) {
            inner.files.insert(name.to_owned(), Stored::default());
        }
        done.map(|()| -> Arc<dyn File> { Arc::new(Handle { disk: self.clone(), name: name.to_owned() }) })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if let Some(path) = self.elsewhere(name)? {
            let archive = self.0.lock().archive.clone().ok_or(io::ErrorKind::NotFound.into());
            return archive
                .and_then(|archive| archive.open(name))
                .map_err(|why| OutOfReach::error(path, why));
        }
        self.0.lock().file(name)?;
        Ok(Arc::new(Handle { disk: self.clone(), name: name.to_owned() }))
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let bytes = usize::try_from(bytes).expect("small");
        let taken = bytes.min(inner.room());
        inner.files.insert(name.to_owned(), Stored { cached: vec![0; taken], ..Stored::default() });
        if taken == bytes { Ok(()) } else { Err(io::Error::from_raw_os_error(ENOSPC)) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().files.remove(name);
        Ok(())
    }

    fn refer(&self, name: &str, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        let outcome = inner.begin(Operation::Replace);
        if matches!(outcome, Outcome::Done | Outcome::Fails(_, 128..)) {
            inner.files.remove(name);
            inner.links.insert(name.to_owned(), path.to_owned());
        }
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Fails(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn elsewhere(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let mut inner = self.0.lock();
        if let Some(path) = inner.links.get(name) {
            return Ok(Some(path.clone()));
        }
        inner.file(name).map(|_| None)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.room() < bytes.len() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        // Under another name at first: only the last of these steps is seen.
        for operation in [Operation::Write, Operation::Sync] {
            if let Outcome::Fails(errno, _) = inner.begin(operation) {
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        let outcome = inner.begin(Operation::Replace);
        if matches!(outcome, Outcome::Done | Outcome::Fails(_, 128..)) {
            let stored = Stored { cached: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() };
            inner.files.insert(name.to_owned(), stored);
        }
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Fails(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl File for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.disk.0.lock().file(&self.name)?.cached.len()).expect("usize fits"))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        let mut inner = self.disk.0.lock();
        let bytes = inner.file(&self.name)?.cached.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).expect("small");
        let mut inner = self.disk.0.lock();
        // What is written again takes no more room.
        let over = inner.file(&self.name)?.cached.len().saturating_sub(offset);
        let room = inner.room();
        if bytes.len() > over + room {
            inner.file(&self.name)?.write(&bytes[..over.max(room)], offset);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        match inner.begin(Operation::Write) {
            Outcome::Done => {
                inner.file(&self.name)?.write(bytes, offset);
                Ok(())
            }
            Outcome::Fails(errno, part) => {
                inner.file(&self.name)?.write(&bytes[..bytes.len() * part / 256], offset);
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        match inner.begin(Operation::Sync) {
            Outcome::Done if inner.lies => Ok(()),
            Outcome::Done => {
                inner.file(&self.name)?.sync();
                Ok(())
            }
            Outcome::Fails(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let size = usize::try_from(size).expect("small");
        let mut inner = self.disk.0.lock();
        match inner.begin(Operation::Truncate) {
            Outcome::Done => {
                let file = inner.file(&self.name)?;
                file.cached.truncate(size);
                file.sync();
                Ok(())
            }
            Outcome::Fails(errno, _) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}
