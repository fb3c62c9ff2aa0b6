//! The state store on a real disk: missing, damaged, old or of another store, it is made anew from
//! the journal, and the balances are right.

use super::super::care::verify_stopped;
use super::super::open::{OpenError, Recovered};
use super::super::segment::JournalError;
use super::super::{Ledger, Verified};
use super::bench::{ADA, DEPOSIT, atto, create_ada, recompute, record, terms};
use fastrand::Rng;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// What each charge of these tests costs.
const CHARGE: i128 = 7;
/// Kinds of damage; more by `TOLLGATE_STATE_SEEDS`.
const SEEDS: u64 = 60;

fn open(folder: &Path) -> Result<(Arc<Ledger>, Recovered), OpenError> {
    Ledger::open(folder, Box::new(|_| {}))
}

fn charge(ledger: &Arc<Ledger>, requests: impl Iterator<Item = u128>) {
    let mut last = None;
    for request in requests {
        let (hold, _) = ledger.hold(terms(request, 2 * CHARGE)).expect("rich enough");
        last = Some(hold.capture(atto(CHARGE), record(CHARGE)).commit);
    }
    last.into_iter().for_each(|commit| commit.wait().expect("the disk is well"));
}

/// A store with this many charges, closed in good order.
fn store(charges: u128) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (ledger, _) = open(folder.path()).expect("a new store");
    create_ada(&ledger).expect("new");
    charge(&ledger, 1..=charges);
    ledger.close();
    folder
}

/// Opens it, checks Ada's balance after so many charges, and closes it again.
fn check(folder: &Path, charges: u128, told: &str) -> Recovered {
    let (ledger, recovered) = open(folder).unwrap_or_else(|why| panic!("{told}: {why}"));
    let balance = ledger.customer(ADA, |found| (found.balance.available, found.balance.held));
    let left = DEPOSIT - CHARGE * i128::try_from(charges).unwrap();
    assert_eq!(balance, Some((atto(left), atto(0))), "{told}");
    ledger.close();
    drop(ledger);
    check_verifies(folder, charges, told);
    recovered
}

fn check_verifies(folder: &Path, charges: u128, told: &str) -> Verified {
    let verified = verify_stopped(folder, &recompute, None).unwrap_or_else(|why| panic!("{told}: {why}"));
    assert_eq!((u128::from(verified.captures), verified.open_holds), (charges, 0), "{told}");
    verified
}

fn state(folder: &Path) -> PathBuf {
    folder.join("state")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let mut files: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    if to.is_dir() {
        fs::remove_dir_all(to).expect("removable");
    }
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("it is in it"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
        fs::copy(&file, target).expect("copied");
    }
}

#[test]
fn a_good_state_is_not_made_anew() {
    let folder = store(20);
    assert_eq!(check(folder.path(), 20, "as it was left").rebuilt, None);
    fs::write(state(folder.path()).join("snap.0000000000000A00.generating"), b"half").expect("written");
    assert_eq!(check(folder.path(), 20, "beside an unfinished snapshot").rebuilt, None);
}

#[test]
fn a_missing_state_is_made_anew() {
    let folder = store(20);
    fs::remove_dir_all(state(folder.path())).expect("removable");
    check_verifies(folder.path(), 20, "no state");
    let recovered = check(folder.path(), 20, "no state");
    assert!(recovered.rebuilt.is_some_and(|why| why.contains("none")));
    assert_eq!(check(folder.path(), 20, "made anew").rebuilt, None);
}

#[test]
fn an_older_state_is_brought_up_to_date() {
    let folder = store(5);
    let old = tempfile::tempdir().expect("a folder");
    copy(&state(folder.path()), old.path());
    let (ledger, _) = open(folder.path()).expect("a good store");
    charge(&ledger, 6..=30);
    ledger.close();
    drop(ledger);
    copy(old.path(), &state(folder.path()));
    check_verifies(folder.path(), 30, "an old state");
    assert_eq!(check(folder.path(), 30, "an old state").rebuilt, None, "there is no doubt about it");
}

/// The first start wrote an empty state; a kill came before the state was written again.
#[test]
fn a_state_from_before_the_first_entry_is_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = tempfile::tempdir().expect("a folder");
    open(folder.path()).expect("a new store").0.close();
    copy(&state(folder.path()), old.path());
    let (ledger, _) = open(folder.path()).expect("an empty store");
    create_ada(&ledger).expect("new");
    charge(&ledger, 1..=3);
    ledger.close();
    drop(ledger);
    copy(old.path(), &state(folder.path()));
    check_verifies(folder.path(), 3, "a state of an empty journal");
    assert_eq!(check(folder.path(), 3, "a state of an empty journal").rebuilt, None);
}

#[test]
fn the_state_of_another_store_is_not_taken() {
    for (charges, others) in [(30, 10), (30, 30)] {
        let (folder, other) = (store(charges), store(others));
        let (ledger, _) = open(other.path()).expect("a good store");
        super::bench::block_on(ledger.deposit(ADA, atto(5), "only here".into())).expect("new");
        ledger.close();
        drop(ledger);
        copy(&state(other.path()), &state(folder.path()));
        let told = format!("the state of a store with {others} charges");
        if others < charges {
            let why = verify_stopped(folder.path(), &recompute, None).expect_err("another state").to_string();
            assert!(why.contains("I8"), "{why}");
            let recovered = check(folder.path(), charges, &told);
            assert!(recovered.rebuilt.is_some_and(|why| why.contains("fit")), "{told}");
        } else {
            // It knows of an entry that this journal does not have: that could be a lost journal.
            let before = files(folder.path()).len();
            let why = open(folder.path()).err().expect("refused").to_string();
            assert!(why.contains("was durable once"), "{why}");
            assert_eq!(files(folder.path()).len(), before, "nothing is thrown away");
            fs::remove_dir_all(state(folder.path())).expect("removable");
            check(folder.path(), charges, "without the state that was not its own");
        }
    }
}

#[test]
fn a_journal_that_lost_what_the_state_knows_is_refused() {
    let folder = store(10);
    let last = files(&folder.path().join("journal")).pop().expect("a segment");
    let bytes = fs::read(&last).expect("readable");
    fs::write(&last, &bytes[..bytes.len() - 1]).expect("written");
    for _ in 0..2 {
        match open(folder.path()) {
            Err(OpenError::Journal(JournalError::Damaged { file, .. })) => assert!(last.ends_with(file)),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it opens with less than was acknowledged"),
        }
        assert!(verify_stopped(folder.path(), &recompute, None).is_err());
    }
    fs::write(&last, &bytes).expect("written");
    check(folder.path(), 10, "the file of the backup");
}

fn damage(rng: &mut Rng, folder: &Path) -> String {
    let files = files(folder);
    let file = &files[rng.usize(..files.len())];
    let name = file.strip_prefix(folder).expect("it is in it").display();
    let mut bytes = fs::read(file).expect("readable");
    let told = match rng.u32(0..6) {
        0 => {
            fs::remove_file(file).expect("removable");
            return format!("without {name}");
        }
        1 => {
            bytes.truncate(rng.usize(0..=bytes.len()));
            format!("{name} cut at {}", bytes.len())
        }
        2 => {
            bytes.iter_mut().for_each(|byte| *byte = rng.u8(..));
            format!("{name} of random bytes")
        }
        3 => {
            bytes.fill(0);
            format!("{name} of zeros")
        }
        _ if bytes.is_empty() => format!("{name}, which is empty"),
        _ => {
            // Most of the file is unused: strike what is used.
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let places: Vec<usize> = (0..rng.usize(1..4)).map(|_| rng.usize(..used)).collect();
            places.iter().for_each(|place| bytes[*place] ^= 1 << rng.u32(0..8));
            format!("{name} flipped at {places:?}")
        }
    };
    fs::write(file, bytes).expect("written");
    told
}

#[test]
fn a_damaged_state_is_made_anew() {
    let pristine = store(40);
    let seeds = std::env::var("TOLLGATE_STATE_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut rebuilt = 0;
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("a folder");
        copy(pristine.path(), folder.path());
        let told = format!("seed {seed}: {}", damage(&mut rng, &state(folder.path())));
        rebuilt += u64::from(check(folder.path(), 40, &told).rebuilt.is_some());
        assert_eq!(check(folder.path(), 40, &format!("{told}, then opened again")).rebuilt, None);
    }
    println!("{seeds} seeds: {rebuilt} made anew");
    assert!(rebuilt > seeds / 3, "{rebuilt} were made anew");
}
