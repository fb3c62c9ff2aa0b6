//! Care of a store: copies made while it is used, all made again from the journal, and heads that
//! prove what was there.

use super::super::care::{BackupError, backup, rebuild, verify_stopped};
use super::super::disk::Disk;
use super::super::entry::Seq;
use super::super::frame::Chain;
use super::super::open::OpenError;
use super::super::segment::JournalError;
use super::super::verify::{Known, verify};
use super::super::{Ledger, sidecar};
use super::bench::{
    ADA, Bench, DEPOSIT, Scribe, atto, capture, create_ada, hold, opening, recompute, record, terms,
};
use super::memory::Memory;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const CHARGE: i128 = 3;

fn open(folder: &Path) -> Arc<Ledger> {
    Ledger::open(folder, Box::new(|_| {})).expect("a good store").0
}

fn charge(ledger: &Arc<Ledger>, request: u128) {
    let (hold, _) = ledger.hold(terms(request, CHARGE)).expect("rich enough");
    hold.capture(atto(CHARGE), record(CHARGE)).commit.wait().expect("the disk is well");
}

#[test]
fn a_backup_made_while_charges_go_on_is_whole_and_verifies() {
    let folder = tempfile::tempdir().expect("a folder");
    let copies = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("store"));
    create_ada(&ledger).expect("new");
    (1..100).for_each(|request| charge(&ledger, request));
    let enough = AtomicBool::new(false);
    let mut backups = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            (100..).take_while(|_| !enough.load(Ordering::Relaxed)).for_each(|n| charge(&ledger, n))
        });
        for number in 0..8 {
            let directory = copies.path().join(number.to_string());
            let before = ledger.index.durable();
            let backup = ledger.backup(&directory).unwrap_or_else(|why| panic!("{why}"));
            assert!(backup.entries >= before, "all that was durable when it was asked for");
            backups.push((directory, backup));
        }
        enough.store(true, Ordering::Relaxed);
    });
    assert!(backups[7].1.entries > backups[0].1.entries && backups[7].1.segments > 1, "{backups:?}");
    for (directory, backup) in &backups {
        let verified = verify_stopped(directory, &recompute, Some(backup.head)).expect("whole");
        assert_eq!((verified.entries, verified.head), (backup.entries, backup.head));
        assert_eq!(verified.expected, Some(backup.entries));
        let now = ledger.verify(&recompute, Some(backup.head)).expect("the same story");
        assert_eq!(now.expected, Some(backup.entries), "nothing was changed since");
        let restored = open(directory);
        let captures = i128::from(verified.captures);
        let balance = restored.customer(ADA, |found| found.balance.posted());
        assert_eq!(balance, Some(atto(DEPOSIT - captures * CHARGE)));
        charge(&restored, u128::MAX);
    }
}

#[test]
fn a_backup_does_not_overwrite_and_does_not_copy_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(&folder.path().join("store"));
    create_ada(&ledger).expect("new");
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).expect("made");
    fs::write(taken.join("mine"), b"mine").expect("written");
    let why = ledger.backup(&taken).expect_err("refused").to_string();
    assert!(why.contains("taken") && why.contains("not empty"), "{why}");
    assert_eq!(fs::read_dir(&taken).expect("readable").count(), 1);

    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    (1..150).for_each(|request| bench.charge(request, CHARGE).expect("rich enough"));
    let name = memory.segments().remove(1);
    let mut bytes = memory.bytes(&name);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    memory.put(&name, bytes);
    match backup(&memory, bench.ledger.index.durable(), &Memory::default()) {
        Err(BackupError::Journal(JournalError::Damaged { file, .. })) => assert_eq!(file, name),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_is_made_again_from_the_journal() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    create_ada(&ledger).expect("new");
    (1..=150).for_each(|request| charge(&ledger, request));
    match rebuild(folder.path()) {
        Err(OpenError::InUse(path)) => assert_eq!(path, folder.path()),
        other => panic!("{other:?}"),
    }
    ledger.close();
    drop(ledger);
    let journal = super::super::disk::Directory::open(&folder.path().join("journal")).expect("readable");
    let segments = super::super::segment::list(&journal).expect("readable");
    let sidecars = || segments[..segments.len() - 1].iter().map(|segment| sidecar::name(segment));
    let good: Vec<_> =
        sidecars().map(|name| fs::read(folder.path().join("journal").join(name)).unwrap()).collect();
    sidecars().for_each(|name| journal.replace(&name, b"garbage").expect("written"));
    fs::write(folder.path().join("state").join("db"), b"garbage").expect("written");
    let rebuilt = rebuild(folder.path()).expect("a good journal");
    assert_eq!((rebuilt.entries, rebuilt.indexed), (Seq(303), good.len()));
    for (name, good) in sidecars().zip(&good) {
        assert_eq!(&fs::read(folder.path().join("journal").join(&name)).unwrap(), good, "{name}");
    }
    let (ledger, recovered) = Ledger::open(folder.path(), Box::new(|_| {})).expect("a good store");
    assert_eq!((recovered.rebuilt, recovered.replayed, recovered.indexed), (None, 0, 0));
    assert_eq!(ledger.customer(ADA, |found| found.balance.posted()), Some(atto(DEPOSIT - 150 * CHARGE)));
    let nothing = tempfile::tempdir().expect("a folder");
    let why = rebuild(nothing.path()).expect_err("refused").to_string();
    assert!(why.contains("no journal"), "{why}");
}

/// A story of three charges, the second of which is told in two ways.
fn story(second: i128) -> (Memory, Vec<Chain>) {
    let mut scribe = Scribe::new();
    let mut heads = vec![scribe.head.chain];
    let charges =
        [(1, 5), (2, second), (3, 5)].map(|(request, amount)| [hold(request, 9), capture(request, amount)]);
    for command in opening().into_iter().chain(charges.into_iter().flatten()) {
        scribe.groups(vec![command]);
        heads.push(scribe.head.chain);
    }
    (scribe.memory, heads)
}

#[test]
fn a_head_of_any_time_proves_that_nothing_before_it_was_changed() {
    let (told, heads) = story(6);
    let (retold, others) = story(7);
    let look = |memory: &Memory, head| {
        let known = Known { head: Some(head), ..Known::default() };
        verify(memory, known, &recompute).map(|verified| verified.expected)
    };
    for (seq, head) in (0..).map(Seq).zip(&heads) {
        assert_eq!(look(&told, *head).expect("whole"), Some(seq));
        let changed = look(&retold, *head);
        if seq < Seq(7) {
            assert_eq!(changed.expect("the same up to there"), Some(seq));
        } else {
            // The other story is whole and adds up: only who kept the head can tell.
            assert!(verify(&retold, Known::default(), &recompute).is_ok());
            let why = changed.expect_err("changed").to_string();
            assert!(why.contains(&head.to_string()) && why.contains("was changed"), "{why}");
        }
    }
    assert_eq!(heads.len(), others.len());
}
