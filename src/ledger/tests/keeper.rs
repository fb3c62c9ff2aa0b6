//! A state store whose write failed is mended while requests go on, whatever became of it.

use super::super::care::verify_stopped;
use super::super::disk::{Directory, Disk};
use super::super::entry::{Entry, Seq};
use super::super::frame::Head;
use super::super::index::Index;
use super::super::journal::Group;
use super::super::keeper::{Health, Keeper};
use super::super::recover::recover_whole;
use super::super::state::{self, Fault, Feed, State};
use super::super::{Ledger, Which};
use super::bench::{atto, create_ada, recompute, record, terms};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tempfile::TempDir;

const CHARGES: u128 = 60;

/// A journal, and a state store that is behind it.
struct Site {
    folder: TempDir,
    /// What the store has.
    begin: Head,
    /// What it does not have yet.
    entries: Vec<Entry>,
    head: Head,
}

fn charge(store: &Path, requests: impl Iterator<Item = u128>) -> Arc<Ledger> {
    let (ledger, _) = Ledger::open(store, Box::new(|_| {})).expect("a good store");
    for request in requests {
        let (hold, _) = ledger.hold(terms(request, 7)).expect("rich enough");
        hold.capture(atto(7), record(7)).commit.wait().expect("the disk is well");
    }
    ledger
}

fn load(directory: &Path) -> Head {
    State::open(directory).expect("sled is well").load().unwrap_or_else(|why| panic!("{why}")).head
}

impl Site {
    fn new() -> Site {
        Site::with(|_, _| {})
    }

    fn with(more: impl FnOnce(&Ledger, &Path)) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store");
        let (ledger, _) = Ledger::open(&store, Box::new(|_| {})).expect("a new store");
        create_ada(&ledger).expect("new");
        ledger.close();
        drop(ledger);
        drop(charge(&store, 1..=5));
        let begin = load(&store.join("state"));
        fs::rename(store.join("state"), folder.path().join("state")).expect("moved");
        let ledger = charge(&store, 6..=CHARGES);
        let mut entries = Vec::new();
        let take = |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        };
        ledger.export(begin.seq, take).expect("readable");
        more(&ledger, folder.path());
        drop(ledger);
        let head = load(&store.join("state"));
        assert!(head.seq > begin.seq && entries.len() > 50, "{head:?}");
        state::remove(&store.join("state")).expect("removable");
        fs::rename(folder.path().join("state"), store.join("state")).expect("moved");
        Site { folder, begin, entries, head }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// A keeper of the store that is told of all it does not have, and whose first write fails.
    fn fail(&self, fault: Fault, directory: &Path) -> (Feed, Health, JoinHandle<()>) {
        let journal: Arc<dyn Disk> =
            Arc::new(Directory::open(&self.store().join("journal")).expect("readable"));
        let index =
            Index::inline(Arc::clone(&journal), recover_whole(&*journal).expect("a good journal").index);
        let mut state = State::open(&self.store().join("state")).expect("sled is well");
        assert_eq!(state.load().expect("whole").head, self.begin);
        state.fault = Some(fault);
        let health = Health::default();
        let keeper = Keeper { directory: directory.to_owned(), journal, index, health: health.clone() };
        let (feed, intake) = state::line();
        let thread = thread::spawn(move || keeper.run(state, &intake));
        feed.send(Group { entries: self.entries.clone(), head: self.head });
        (feed, health, thread)
    }

    /// It has everything, and nothing else.
    fn check(&self, directory: &Path) {
        assert_eq!(load(directory), self.head);
        if directory != self.store().join("state") {
            state::remove(&self.store().join("state")).expect("removable");
            fs::rename(directory, self.store().join("state")).expect("moved");
        }
        let verified =
            verify_stopped(&self.store(), &recompute, None).expect("the state is that of the journal");
        assert_eq!(u128::from(verified.captures), CHARGES);
        let (ledger, recovered) = Ledger::open(&self.store(), Box::new(|_| {})).expect("a good store");
        assert_eq!((recovered.replayed, recovered.rebuilt), (0, None));
        drop(ledger);
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

#[test]
fn a_store_whose_write_failed_follows_the_journal_again() {
    for fault in [Fault::BeforeTheBatch, Fault::AfterTheBatch] {
        let site = Site::new();
        let directory = site.store().join("state");
        let (feed, health, thread) = site.fail(fault, &directory);
        wait_until(|| health.is_failing());
        wait_until(|| !health.is_failing());
        drop(feed);
        thread.join().expect("no panic");
        site.check(&directory);
    }
}

/// Also when the store is older than what was archived, and the archive is out of reach.
#[test]
fn a_store_that_is_of_no_use_is_made_anew() {
    for is_archived in [false, true] {
        let site = Site::with(|ledger, folder| {
            if is_archived {
                let archived = ledger.archive(&folder.join("archive"), Which::AllBut(0)).expect("archived");
                assert!(archived.last > Some(Seq(20)), "{archived:?}");
            }
        });
        if is_archived {
            fs::rename(site.folder.path().join("archive"), site.folder.path().join("away")).expect("moved");
        }
        let directory =
            if is_archived { site.store().join("state") } else { site.folder.path().join("none") };
        let (feed, health, thread) = site.fail(Fault::BeforeTheBatch, &directory);
        wait_until(|| health.is_failing());
        wait_until(|| !health.is_failing());
        drop(feed);
        thread.join().expect("no panic");
        if is_archived {
            fs::rename(site.folder.path().join("away"), site.folder.path().join("archive")).expect("moved");
        }
        site.check(&directory);
    }
}

/// Tried until it can be mended; what comes meanwhile is not lost.
#[test]
fn a_store_that_cannot_be_mended_yet_is_mended_later() {
    let site = Site::new();
    let blocked = site.folder.path().join("blocked");
    fs::write(&blocked, b"a file, where a folder should be").expect("written");
    let directory = blocked.join("state");
    let (feed, health, thread) = site.fail(Fault::BeforeTheBatch, &directory);
    wait_until(|| health.is_failing());
    fs::remove_file(&blocked).expect("removable");
    wait_until(|| !health.is_failing());
    drop(feed);
    thread.join().expect("no panic");
    site.check(&directory);
}
