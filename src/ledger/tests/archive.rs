//! Segments that were archived: found while the archive is there, told by name while it is not, and
//! never in the way of a start; whatever becomes of the archive, of the state, and of an archiving that
//! is cut off.

use super::super::archive::{ArchiveError, Archived, Target, Which, archive};
use super::super::care::{rebuild, verify_stopped};
use super::super::checkpoint;
use super::super::disk::OutOfReach;
use super::super::entry::Seq;
use super::super::frame::Chain;
use super::super::open::Recovered;
use super::super::segment::JournalError;
use super::super::totals::{Label, Labels};
use super::super::{Charged, Ledger, Note, Verified, Window};
use super::bench::{ADA, Bench, DEPOSIT, atto, block_on, create_ada, recompute, record, terms};
use super::memory::Memory;
use crate::id::RequestId;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const CHARGE: i128 = 3;
const CHARGES: u128 = 150;
const LABELS: Labels =
    Labels { version: 1, quantities: 1, read: |_| Label { name: "all".into(), quantities: vec![1] } };

/// A store whose older half is archived, in a folder beside it.
struct Site {
    folder: TempDir,
    archived: Archived,
    /// The head before, in and after what is archived, and where each stood.
    heads: Vec<(Seq, Chain)>,
}

fn open(store: &Path) -> (Arc<Ledger>, Recovered) {
    let (ledger, recovered) = Ledger::open(store, Box::new(|_| {})).unwrap_or_else(|why| panic!("{why}"));
    ledger.label_by(LABELS);
    (ledger, recovered)
}

fn charge(ledger: &Arc<Ledger>, request: u128) {
    let (hold, _) = ledger.hold(terms(request, CHARGE)).expect("rich enough");
    hold.capture(atto(CHARGE), record(CHARGE)).commit.wait().expect("the disk is well");
}

fn head(ledger: &Ledger) -> (Seq, Chain) {
    let verified = ledger.verify(&recompute, None).expect("whole");
    (verified.entries, verified.head)
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let (ledger, _) = open(&folder.path().join("store"));
        create_ada(&ledger).expect("new");
        let mut heads = vec![head(&ledger)];
        (1..=10).for_each(|request| charge(&ledger, request));
        heads.push(head(&ledger));
        ledger.close();
        drop(ledger);
        let store = folder.path().join("store");
        fs::rename(store.join("state"), folder.path().join("old state")).expect("moved");
        let (ledger, _) = open(&store);
        (11..=CHARGES).for_each(|request| charge(&ledger, request));
        heads.push(head(&ledger));
        wait_for_sidecars(&ledger);
        let sealed = ledger.index.sealed().len();
        assert!(sealed >= 4, "{sealed}");
        let which = Which::AllBut(sealed / 2);
        let archived = ledger.archive(&folder.path().join("archive"), which).expect("archived");
        assert_eq!((archived.segments, archived.first), (sealed - sealed / 2, Some(Seq(1))));
        let again = ledger.archive(&folder.path().join("archive"), which).expect("nothing to do");
        assert_eq!((again.segments, again.head), (0, None));
        ledger.close();
        Site { folder, archived, heads }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn take_away(&self) {
        fs::rename(self.archive(), self.folder.path().join("away")).expect("moved");
    }

    fn bring_back(&self) {
        fs::rename(self.folder.path().join("away"), self.archive()).expect("moved");
    }

    fn first(&self) -> PathBuf {
        self.archive().join("journal-00000000000000000001.log")
    }

    fn lose_state(&self) {
        fs::remove_dir_all(self.store().join("state")).expect("removable");
    }

    fn verify(&self, expect: Option<Chain>) -> Verified {
        verify_stopped(&self.store(), &recompute, expect).unwrap_or_else(|why| panic!("{why}"))
    }
}

/// The index is written by a thread of its own.
fn wait_for_sidecars(ledger: &Ledger) {
    let segments = ledger.index.segments_after(Seq::START).0.len();
    while ledger.index.sealed().len() + 1 < segments {
        std::thread::yield_now();
    }
}

fn kinds(ledger: &Ledger, request: u128) -> std::io::Result<Vec<&'static str>> {
    let entries = ledger.entries_of_request(RequestId::from_int(request))?;
    Ok(entries.iter().map(|entry| entry.change.name()).collect())
}

fn statement(ledger: &Ledger, after: Seq) -> std::io::Result<usize> {
    Ok(ledger.entries_of_customer(ADA, Window { after, ..Window::default() }, 10_000)?.len())
}

fn exported(ledger: &Ledger, after: Seq) -> Result<u64, JournalError> {
    let mut entries = 0;
    let take = |_| {
        entries += 1;
        ControlFlow::Continue(())
    };
    ledger.export(after, take).map(|()| entries)
}

fn requests(ledger: &Ledger) -> u64 {
    ledger.usage(ADA, Window::default()).expect("from the totals").values().map(|sums| sums.requests).sum()
}

/// Everything is found, and Ada has what she should after so many charges.
fn check_whole(ledger: &Ledger, charges: u128) {
    for request in 1..=charges {
        assert_eq!(kinds(ledger, request).expect("readable"), ["hold", "capture"], "{request}");
    }
    let entries = u64::try_from(3 + 2 * charges).expect("few");
    assert_eq!(statement(ledger, Seq::START).expect("readable"), usize::try_from(entries).expect("few"));
    assert_eq!(exported(ledger, Seq::START).expect("readable"), entries);
    check_balance(ledger, charges);
    let verified = ledger.verify(&recompute, None).expect("whole");
    assert_eq!((u128::from(verified.captures), verified.unseen.len()), (charges, 0));
}

fn check_balance(ledger: &Ledger, charges: u128) {
    let left = DEPOSIT - CHARGE * i128::try_from(charges).expect("few");
    assert_eq!(ledger.customer(ADA, |found| found.balance.posted()), Some(atto(left)));
    assert_eq!(u128::from(requests(ledger)), charges);
}

/// What is archived is told by its file; all else is as it was.
fn check_without(ledger: &Ledger, site: &Site, charges: u128) {
    let last = site.archived.last.expect("some");
    let file = site.first().display().to_string();
    let why = kinds(ledger, 1).expect_err("archived");
    assert!(OutOfReach::is(&why) && why.to_string().contains(&file), "{why}");
    let why = statement(ledger, Seq::START).expect_err("archived");
    assert!(OutOfReach::is(&why) && why.to_string().contains(&file), "{why}");
    let why = exported(ledger, Seq::START).expect_err("archived");
    assert!(why.is_out_of_reach() && why.to_string().contains(&file), "{why}");
    assert_eq!(kinds(ledger, charges).expect("readable"), ["hold", "capture"]);
    let left = 3 + 2 * u64::try_from(charges).expect("few") - last.0;
    assert_eq!(exported(ledger, last).expect("readable"), left);
    assert_eq!(statement(ledger, last).expect("readable"), usize::try_from(left).expect("few"));
    check_balance(ledger, charges);
    check_unseen(&ledger.verify(&recompute, None).expect("what is seen is whole"), site, charges);
}

fn check_unseen(verified: &Verified, site: &Site, charges: u128) {
    let unseen = &verified.unseen;
    assert_eq!((unseen.len(), &unseen[0].file), (site.archived.segments, &site.first()));
    assert_eq!((unseen[0].first, unseen[0].before), (Seq(1), Chain::START));
    for pair in unseen.windows(2) {
        assert_eq!((pair[0].last.next(), pair[0].head), (pair[1].first, pair[1].before));
    }
    let end = unseen.last().expect("some");
    assert_eq!((Some(end.last), Some(end.head)), (site.archived.last, site.archived.head));
    assert_eq!(verified.deposits, atto(DEPOSIT), "told by the checkpoint");
    assert_eq!(verified.revenue, atto(CHARGE * i128::try_from(charges).expect("few")));
    assert!(verified.captures > 0 && u128::from(verified.captures) < charges, "of what was seen");
}

#[test]
fn what_is_archived_is_found_while_it_is_there_and_told_while_it_is_not() {
    let site = Site::new();
    let files = fs::read_dir(site.archive()).expect("readable").count();
    assert_eq!(files, site.archived.segments);
    let (ledger, recovered) = open(&site.store());
    assert_eq!((recovered.replayed, recovered.indexed, recovered.rebuilt), (0, 0, None));
    check_whole(&ledger, CHARGES);
    site.take_away();
    check_without(&ledger, &site, CHARGES);
    charge(&ledger, CHARGES + 1);
    site.bring_back();
    check_whole(&ledger, CHARGES + 1);
}

#[test]
fn a_start_needs_nothing_of_the_archive_with_a_state_or_without_one() {
    let site = Site::new();
    site.take_away();
    let (ledger, recovered) = open(&site.store());
    assert_eq!((recovered.replayed, recovered.rebuilt), (0, None));
    check_without(&ledger, &site, CHARGES);
    ledger.close();
    drop(ledger);
    check_unseen(&site.verify(None), &site, CHARGES);

    site.lose_state();
    let (ledger, recovered) = open(&site.store());
    let after = site.archived.last.expect("some").0;
    assert_eq!(recovered.replayed, recovered.entries.0 - after, "from the checkpoint");
    assert!(recovered.rebuilt.is_some());
    check_without(&ledger, &site, CHARGES);
    charge(&ledger, CHARGES + 1);
    let again = block_on(ledger.deposit(ADA, atto(DEPOSIT), "first".into())).expect("it was booked before");
    assert_eq!(again.0, Seq(3), "also what was booked in the archive is known");
    ledger.close();
    drop(ledger);
    let (ledger, recovered) = open(&site.store());
    assert_eq!((recovered.replayed, recovered.rebuilt), (0, None), "the state that was made is whole");
    site.bring_back();
    check_whole(&ledger, CHARGES + 1);
    ledger.close();
    drop(ledger);
    check_rebuilt(&site);
}

/// Made again, from all that can be reached.
fn check_rebuilt(site: &Site) {
    let entries = rebuild(&site.store()).expect("a good journal");
    assert!(entries.indexed > site.archived.segments, "the archive too: {entries:?}");
    assert_eq!(site.verify(None).unseen, []);
    site.take_away();
    let rebuilt = rebuild(&site.store()).expect("from the checkpoint");
    assert_eq!(
        (rebuilt.entries, rebuilt.indexed),
        (entries.entries, entries.indexed - site.archived.segments)
    );
    let (ledger, recovered) = open(&site.store());
    assert_eq!((recovered.replayed, recovered.indexed, recovered.rebuilt), (0, 0, None));
    check_without(&ledger, site, CHARGES + 1);
}

/// A state that is older than what was archived is of no use without the archive; the checkpoint is.
#[test]
fn an_old_state_is_made_anew_from_the_checkpoint() {
    let site = Site::new();
    site.lose_state();
    fs::rename(site.folder.path().join("old state"), site.store().join("state")).expect("moved");
    site.take_away();
    let (ledger, recovered) = open(&site.store());
    assert!(recovered.rebuilt.is_some());
    check_without(&ledger, &site, CHARGES);
}

#[test]
fn a_damaged_archive_stops_nothing_and_is_told_by_verify() {
    for cut in [true, false] {
        let site = Site::new();
        let mut bytes = fs::read(site.first()).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes.truncate(if cut { middle } else { bytes.len() });
        fs::write(site.first(), bytes).expect("written");
        site.lose_state();
        let (ledger, _) = open(&site.store());
        check_balance(&ledger, CHARGES);
        assert_eq!(kinds(&ledger, CHARGES).expect("readable"), ["hold", "capture"]);
        match ledger.verify(&recompute, None) {
            Err(JournalError::Damaged { file, .. }) => assert!(site.first().ends_with(file)),
            other => panic!("{other:?}"),
        }
        charge(&ledger, CHARGES + 1);
    }
}

#[test]
fn a_damaged_checkpoint_is_as_good_as_missing() {
    let site = Site::new();
    let path = site.store().join("journal").join(checkpoint::NAME);
    let good = fs::read(&path).expect("it is there");
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).expect("written");
        site.lose_state();
        let (ledger, recovered) = open(&site.store());
        assert_eq!(recovered.replayed, recovered.entries.0, "byte {at}: from the first entry");
        check_balance(&ledger, CHARGES);
    }
    site.take_away();
    site.lose_state();
    let Err(why) = Ledger::open(&site.store(), Box::new(|_| {})) else { panic!("there is nothing to go by") };
    assert!(why.to_string().contains(&site.first().display().to_string()), "{why}");
    fs::write(&path, good).expect("written");
    check_without(&open(&site.store()).0, &site, CHARGES);
}

#[test]
fn a_head_proves_what_can_be_seen_and_is_open_in_what_cannot() {
    let site = Site::new();
    let boundary = (site.archived.last.expect("some"), site.archived.head.expect("some"));
    for (seq, head) in site.heads.iter().chain([&boundary]) {
        assert_eq!(site.verify(Some(*head)).expected, Some(*seq));
    }
    site.take_away();
    for (seq, head) in site.heads.iter().chain([&boundary]) {
        if *seq >= boundary.0 {
            assert_eq!(site.verify(Some(*head)).expected, Some(*seq));
            continue;
        }
        let why = verify_stopped(&site.store(), &recompute, Some(*head)).expect_err("not to be seen");
        assert!(why.to_string().contains("bring the archive back"), "{why}");
    }
}

#[test]
fn a_backup_has_what_can_be_reached_and_the_index_of_what_cannot() {
    let site = Site::new();
    let (ledger, _) = open(&site.store());
    let whole = site.folder.path().join("whole");
    assert_eq!(ledger.backup(&whole).expect("copied").unseen, 0);
    site.take_away();
    let part = site.folder.path().join("part");
    let backup = ledger.backup(&part).expect("copied");
    assert_eq!((backup.unseen, backup.segments > 0), (site.archived.segments, true));
    check_whole(&open(&whole).0, CHARGES);
    check_without(&open(&part).0, &site, CHARGES);
    site.bring_back();
    check_whole(&open(&part).0, CHARGES);
}

#[test]
fn archives_are_not_mixed_up() {
    let site = Site::new();
    let other = tempfile::tempdir().expect("a folder");
    let (ledger, _) = open(&other.path().join("store"));
    create_ada(&ledger).expect("new");
    (1..=CHARGES).for_each(|request| charge(&ledger, request));
    wait_for_sidecars(&ledger);
    let refused = |directory: &Path, why: &str| match ledger.archive(directory, Which::AllBut(0)) {
        Err(error @ ArchiveError::Target(..)) => assert!(error.to_string().contains(why), "{error}"),
        other => panic!("{other:?}"),
    };
    refused(&site.archive(), "another");
    refused(&other.path().join("store/archive"), "in the store");
    refused(Path::new("/proc/nowhere"), "/proc/nowhere");
    check_whole(&ledger, CHARGES);
    let old = ledger.archive(&other.path().join("old"), Which::OlderThan { days: 1 }).expect("nothing");
    assert_eq!(old.segments, 0, "all are of today");
    // Archives may lie in several places, and grow.
    for (place, kept) in [("one", 3), ("two", 1)] {
        assert!(
            ledger.archive(&other.path().join(place), Which::AllBut(kept)).expect("archived").segments > 0
        );
    }
    check_whole(&ledger, CHARGES);
}

/// A refund says what was charged: when the charge cannot be seen, that is not held against it.
#[test]
fn a_refund_of_what_is_archived_verifies() {
    let site = Site::new();
    let (ledger, _) = open(&site.store());
    let entries = ledger.entries_of_request(RequestId::from_int(1)).expect("readable");
    let (_, charged) = Charged::of(&entries).expect("charged");
    let note = Note { by: "ada".into(), reason: "".into() };
    block_on(ledger.refund(ADA, charged, None, "ticket 1".into(), note)).expect("refunded");
    assert_eq!(ledger.verify(&recompute, None).expect("whole").refunds, atto(CHARGE));
    site.take_away();
    let verified = ledger.verify(&recompute, None).expect("what is seen is whole");
    assert_eq!((verified.refunds, verified.unseen.len()), (atto(CHARGE), site.archived.segments));
}

/// Wherever it is cut off, each segment is whole in one place or the other, and it can be done again.
#[test]
fn an_archiving_that_is_cut_off_anywhere_loses_nothing() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    (1..=CHARGES).for_each(|request| bench.charge(request, CHARGE).expect("rich enough"));
    bench.ledger.close();
    drop(bench);
    let mut cut = 0;
    for dies_first in [true, false] {
        for at in 1.. {
            let (disk, elsewhere) = (memory.copy(), Memory::default());
            disk.mount(Some(&elsewhere));
            if dies_first {
                disk.die_at(at, 7)
            } else {
                elsewhere.die_at(at, 7)
            };
            let done = archive_all(&disk, &elsewhere).is_ok();
            cut += u32::from(!done);
            let (disk, elsewhere) = (disk.killed(), elsewhere.killed());
            disk.mount(Some(&elsewhere));
            check_cut_off(&disk, &elsewhere, at);
            if done {
                break;
            }
        }
    }
    println!("{cut} archivings were cut off");
    assert!(cut > 20, "{cut}");
}

fn archive_all(disk: &Memory, elsewhere: &Memory) -> Result<Archived, ArchiveError> {
    let bench = Bench::on(&disk.copy()).expect("a good store");
    let sealed = bench.ledger.index.sealed();
    let target = Target { disk: Box::new(elsewhere.clone()), path: "/archive".into() };
    archive(disk, &sealed, &target)
}

fn check_cut_off(disk: &Memory, elsewhere: &Memory, at: usize) {
    let verify = |disk: &Memory| {
        let bench = Bench::on(&disk.copy()).unwrap_or_else(|why| panic!("cut off at {at}: {why}"));
        bench.ledger.verify(&recompute, None).unwrap_or_else(|why| panic!("cut off at {at}: {why}"))
    };
    let verified = verify(disk);
    assert_eq!((u128::from(verified.captures), verified.unseen.len()), (CHARGES, 0), "cut off at {at}");
    archive_all(disk, elsewhere).unwrap_or_else(|why| panic!("again after {at}: {why}"));
    assert_eq!(verify(disk).head, verified.head);
    disk.mount(None);
    let unseen = verify(disk);
    assert_eq!((unseen.head, unseen.balances), (verified.head, verified.balances));
    assert!(unseen.unseen.len() >= 4, "{:?}", unseen.unseen);
}
