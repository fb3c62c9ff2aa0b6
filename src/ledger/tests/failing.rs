//! A disk that fails while it is used: everyone is told, nothing is tried again, and what was
//! acknowledged is there after a restart.

use super::super::disk::{Directory, Disk, File};
use super::super::entry::Seq;
use super::super::line::Down;
use super::super::{Commit, Failure, Ledger, Recompute};
use super::bench::{ADA, Bench, DEPOSIT, Told, atto, block_on, read, recompute, record, terms};
use super::memory::{Memory, Operation};
use crate::id::RequestId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const PATIENCE: Duration = Duration::from_secs(5);

fn outcome(commit: Commit) -> Result<Seq, Down> {
    let mut commit = commit;
    block_on(commit.durable())
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// A bench whose `nth` operation of a kind fails, after a charge that is durable.
fn failing(operation: Operation, nth: usize, errno: i32) -> (Bench, Memory) {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    bench.charge(1, 100).expect("rich enough");
    memory.fail(operation, nth, errno);
    (bench, memory)
}

/// Nothing works any more, and nothing touches the disk.
fn check_down(bench: &Bench, memory: &Memory) {
    eventually("the ledger is down", || bench.ledger.is_down());
    let operations = || [Operation::Create, Operation::Write, Operation::Sync].map(|kind| memory.count(kind));
    let before = operations();
    assert_eq!(bench.hold(90, 1).err(), Some(Failure::Down), "new holds are refused");
    let deposit = block_on(bench.ledger.deposit(ADA, atto(5), "second".into()));
    assert_eq!(deposit, Err(Failure::Down));
    let again = block_on(bench.ledger.deposit(ADA, atto(5), "second".into()));
    assert_eq!(again, Err(Failure::Down), "a deposit that failed is not told to have been made");
    assert_eq!(block_on(bench.ledger.revoke_key(ADA, super::bench::KEY)), Err(Failure::Down));
    bench.ledger.close();
    assert_eq!(operations(), before, "a failed write is never tried again");
}

fn check_reopened(memory: &Memory, acknowledged: &[u128]) {
    let bench = Bench::on(memory).expect("a good store");
    for request in acknowledged {
        let entries = bench.ledger.entries_of_request(RequestId::from_int(*request)).expect("readable");
        let kinds: Vec<_> = entries.iter().map(|entry| entry.change.name()).collect();
        assert_eq!(kinds, ["hold", "capture"], "request {request}");
    }
    let verified = bench.ledger.verify(&recompute, None).expect("verifies");
    assert_eq!(verified.open_holds, 0);
    bench.charge(1_000, 1).expect("it goes on");
}

#[test]
fn a_failed_fsync_is_told_to_all_who_wait() {
    let (bench, memory) = failing(Operation::Sync, 1, EIO);
    let acknowledged = bench.ledger.verify(&recompute, None).expect("verifies").entries;
    let paused = memory.pause();
    let held: Vec<_> = (2..40).map(|request| bench.hold(request, 10).expect("rich enough")).collect();
    let mut waiting = Vec::new();
    for (hold, commit) in held {
        waiting.extend([commit, hold.capture(atto(10), record(10)).commit]);
    }
    drop(paused);
    assert!(waiting.into_iter().map(outcome).all(|outcome| outcome == Err(Down)));
    check_down(&bench, &memory);
    for left in [memory.killed(), memory.power_cut(&mut fastrand::Rng::with_seed(1))] {
        let (entries, _) = read(&left, acknowledged).expect("all that was acknowledged is there");
        assert!(entries.len() >= usize::try_from(acknowledged.0).unwrap());
        check_reopened(&left, &[1]);
    }
}

#[test]
fn a_failed_or_short_write_is_not_acknowledged_and_is_cut_off() {
    let (bench, memory) = failing(Operation::Write, 2, EIO);
    let (open, commit) = bench.hold(2, 10).expect("rich enough");
    commit.wait().expect("the first write succeeds");
    let (hold, commit) = bench.hold(3, 10).expect("rich enough");
    assert_eq!(outcome(commit), Err(Down));
    assert_eq!(outcome(hold.capture(atto(10), record(10)).commit), Err(Down));
    check_down(&bench, &memory);
    drop(open);
    assert!(bench.ledger.entries_of_request(RequestId::from_int(3)).expect("readable").is_empty());
    check_reopened(&memory.killed(), &[1]);
}

/// The rotation's own failure must not make a journal that cannot be opened.
#[test]
fn a_segment_that_cannot_be_begun_costs_nothing_that_was_acknowledged() {
    let operations = [Operation::Create, Operation::Write, Operation::Sync];
    for (operation, errno) in operations.into_iter().flat_map(|kind| [(kind, EIO), (kind, ENOSPC)]) {
        let memory = Memory::default();
        let bench = Bench::on(&memory).expect("a new store");
        bench.create_ada().expect("new");
        memory.fail_new(operation, errno);
        let mut acknowledged = Vec::new();
        for request in 1..200 {
            match charge_slowly(&bench, request) {
                Ok(()) => acknowledged.push(request),
                // A full disk is waited for; all else is the end.
                Err(failure) => assert_eq!(failure == Failure::Full, errno == ENOSPC, "{failure:?}"),
            }
        }
        assert_eq!(bench.ledger.is_down(), errno == EIO, "{operation:?}");
        assert!(acknowledged.len() > 10, "{} charges", acknowledged.len());
        bench.ledger.close();
        drop(bench);
        check_reopened(&memory.killed(), &acknowledged);
    }
}

/// One command a group.
fn charge_slowly(bench: &Bench, request: u128) -> Result<(), Failure> {
    let (hold, commit) = bench.hold(request, 10)?;
    commit.wait()?;
    Ok(hold.capture(atto(10), record(10)).commit.wait()?)
}

#[test]
fn a_store_that_cannot_be_begun_does_not_open() {
    for operation in [Operation::Create, Operation::Write, Operation::Sync] {
        let memory = Memory::default();
        memory.fail(operation, 1, ENOSPC);
        assert!(Bench::on(&memory).is_err(), "{operation:?}");
        let bench = Bench::on(&memory).unwrap_or_else(|why| panic!("after {operation:?}: {why:?}"));
        bench.create_ada().expect("new");
    }
}

/// A writer that is gone is as good as a disk that is gone.
#[test]
fn a_writer_that_panics_is_down() {
    let memory = Memory::default();
    let broken = Arc::new(AtomicBool::new(false));
    let panics = Arc::clone(&broken);
    let on_commit = Box::new(move |_| assert!(!panics.load(Ordering::Relaxed), "as asked"));
    let bench =
        Bench::open(Arc::new(memory.clone()), None, &Told::default(), on_commit).expect("a new store");
    bench.create_ada().expect("new");
    bench.charge(1, 5).expect("rich enough");
    broken.store(true, Ordering::Relaxed);
    let (hold, commit) = bench.hold(2, 5).expect("rich enough");
    assert_eq!(outcome(commit), Err(Down));
    drop(hold);
    check_down(&bench, &memory);
}

/// A real directory whose fsync fails once it is told to.
struct Unwell(Directory, Arc<AtomicBool>);

struct UnwellFile(Arc<dyn File>, Arc<AtomicBool>);

impl Disk for Unwell {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnwellFile(self.0.create(name)?, Arc::clone(&self.1))))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnwellFile(self.0.open(name)?, Arc::clone(&self.1))))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.replace(name, bytes)
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.reserve(name, bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn refer(&self, name: &str, path: &Path) -> io::Result<()> {
        self.0.refer(name, path)
    }

    fn elsewhere(&self, name: &str) -> io::Result<Option<PathBuf>> {
        self.0.elsewhere(name)
    }
}

impl File for UnwellFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        match self.1.load(Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => self.0.sync(),
        }
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.0.truncate(size)
    }
}

fn open_real(folder: &Path) -> Arc<Ledger> {
    Ledger::open(folder, Box::new(|_| {})).expect("the store opens").0
}

#[test]
fn what_was_acknowledged_before_a_failed_fsync_is_there_on_the_real_disk() {
    const RECOMPUTE: Recompute = &recompute;
    let folder = tempfile::tempdir().expect("a folder");
    let fails = Arc::new(AtomicBool::new(false));
    let journal = Directory::open(&folder.path().join("journal")).expect("a folder");
    let disk = Arc::new(Unwell(journal, Arc::clone(&fails)));
    let bench = Bench::open(disk, None, &Told::default(), Box::new(|_| {})).expect("a new store");
    bench.create_ada().expect("new");
    (1..=50).for_each(|request| bench.charge(request, 10).expect("rich enough"));
    fails.store(true, Ordering::Relaxed);
    assert_eq!(bench.charge(51, 10), Err(Failure::Down));
    assert!(bench.ledger.is_down());
    fails.store(false, Ordering::Relaxed);
    assert_eq!(bench.charge(52, 10), Err(Failure::Down), "it stays down until it is started again");
    bench.ledger.close();
    drop(bench);

    let ledger = open_real(folder.path());
    let balance = ledger.customer(ADA, |found| found.balance.posted()).expect("known");
    // What failed may be there or not: written it was.
    assert!([500, 510].map(|charged| atto(DEPOSIT - charged)).contains(&balance), "{balance}");
    let verified = ledger.verify(RECOMPUTE, None).expect("verifies");
    assert!((50..=51).contains(&verified.captures) && verified.open_holds == 0, "{verified:?}");
    let (hold, _) = ledger.hold(terms(53, 10)).expect("it goes on");
    hold.capture(atto(10), record(10)).commit.wait().expect("the disk is well");
}
