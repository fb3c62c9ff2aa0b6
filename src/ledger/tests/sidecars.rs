//! A start reads what the state and the sidecars leave open, and no more; sidecars that are missing,
//! damaged or of another time are made again, at a start and while they are used.

use super::super::entry::Seq;
use super::super::recover::recover;
use super::super::segment::JournalError;
use super::super::{Change, Window, open::OpenError};
use super::bench::{ADA, Bench, Save, Told, atto, read, recompute, record};
use super::memory::Memory;
use crate::clock::Timestamp;
use crate::id::RequestId;
use std::sync::Arc;

const CHARGES: u128 = 150;

/// A store of several segments, closed in good order, and its state.
fn store() -> (Memory, Save) {
    let memory = Memory::default();
    let told = Told::default();
    let bench = Bench::open(Arc::new(memory.clone()), None, &told, Box::new(|_| {})).expect("a new store");
    bench.create_ada().expect("new");
    // Open over all segments but the first.
    let (apart, _) = bench.hold(u128::MAX, 5).expect("rich enough");
    (1..=CHARGES).for_each(|request| bench.charge(request, 3).expect("rich enough"));
    apart.capture(atto(5), record(5)).commit.wait().expect("the disk is well");
    bench.ledger.close();
    assert!(memory.segments().len() >= 4, "{:?}", memory.names());
    assert_eq!(memory.sidecars().len(), memory.segments().len() - 1, "each full segment has one");
    (memory, told.take().pop().expect("it was told"))
}

fn open(memory: &Memory, state: Option<&Save>) -> Result<Bench, OpenError> {
    let state = state.map(Save::snapshot);
    Bench::open(Arc::new(memory.clone()), state, &Told::default(), Box::new(|_| {}))
}

/// Every entry is found, by its request and in the statement.
fn check_found(bench: &Bench, told: &str) {
    for request in (1..=CHARGES).chain([u128::MAX]) {
        let request = RequestId::from_int(request);
        let entries = bench.ledger.entries_of_request(request).unwrap_or_else(|why| panic!("{told}: {why}"));
        let kinds: Vec<_> = entries.iter().map(|entry| entry.change.name()).collect();
        assert_eq!(kinds, ["hold", "capture"], "{told}: {request}");
        assert!(entries.iter().all(|entry| entry.change.request() == Some(request)), "{told}");
    }
    assert!(bench.ledger.entries_of_request(RequestId::from_int(0)).expect("readable").is_empty());
    let all = bench.ledger.entries_of_customer(ADA, Window::default(), 10_000).expect("readable");
    let seqs: Vec<Seq> = all.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (1..=bench.entries.0).map(Seq).collect::<Vec<_>>(), "{told}");
    let mut back = Vec::new();
    let mut before = Seq::END;
    loop {
        let page = bench.ledger.latest_of_customer(ADA, Window::default(), before, 7).expect("readable");
        let Some(end) = page.last() else { break };
        before = end.seq;
        back.extend(page);
    }
    back.reverse();
    assert_eq!(back, all, "{told}, from the end");
}

#[test]
fn a_start_folds_what_the_state_does_not_have() {
    let (memory, last) = store();
    let bench = open(&memory, Some(&last)).expect("a good store");
    assert_eq!((bench.entries, bench.replayed, bench.indexed), (last.head.seq, 0, 0));
    check_found(&bench, "from the state");
    bench.ledger.close();
    let bench = open(&memory, None).expect("a good store");
    assert_eq!((bench.replayed, bench.indexed), (last.head.seq.0, 0));
    check_found(&bench, "without a state");
}

#[test]
fn from_the_state_of_any_time_the_book_is_the_same() {
    let memory = Memory::default();
    let told = Told::default();
    let bench = Bench::open(Arc::new(memory.clone()), None, &told, Box::new(|_| {})).expect("a new store");
    bench.create_ada().expect("new");
    (1..=CHARGES).for_each(|request| bench.charge(request, 3).expect("rich enough"));
    bench.ledger.close();
    let whole = recover(&memory, None).expect("a good store");
    let states: Vec<Save> = told.take();
    assert!(states.len() > 100, "{} states", states.len());
    for state in states {
        let seq = state.head.seq;
        let from = recover(&memory, Some(state.snapshot())).expect("a good store");
        assert!(from.fits, "from {seq}");
        assert_eq!(from.replayed, whole.journal.head.seq.0 - seq.0, "from {seq}");
        assert_eq!((from.journal.head, &from.book), (whole.journal.head, &whole.book), "from {seq}");
        assert_eq!(from.index.bookings, whole.index.bookings, "from {seq}");
    }
}

/// A start costs what is new, not what is old: a full segment is held against its sidecar by its
/// size alone. Who reads it, by a receipt or by `verify`, is told.
#[test]
fn damage_in_a_full_segment_is_told_when_it_is_read() {
    let (memory, last) = store();
    let name = memory.segments().remove(1);
    let mut bytes = memory.bytes(&name);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 200].fill(7);
    memory.put(&name, bytes.clone());
    let bench = open(&memory, Some(&last)).expect("it opens");
    let why = bench.ledger.verify(&recompute, None).expect_err("damaged").to_string();
    assert!(why.contains(&name), "{why}");
    let whole = |request| bench.ledger.entries_of_request(RequestId::from_int(request));
    let refused = (1..=CHARGES).filter(|request| whole(*request).is_err()).count();
    assert!((1..4).contains(&refused), "{refused} receipts cannot be read");
    bench.ledger.close();
    // Without a state there is nothing else to trust.
    assert!(
        matches!(open(&memory, None), Err(OpenError::Journal(JournalError::Damaged { file, .. })) if file == name)
    );
    bytes.pop();
    memory.put(&name, bytes);
    assert!(open(&memory, Some(&last)).is_err(), "a size that is not the sidecar's is looked into");
}

#[test]
fn a_lost_last_segment_is_missed_without_a_state() {
    let (memory, _) = store();
    let last = memory.segments().pop().expect("some");
    memory.lose(&last);
    match open(&memory, None) {
        Err(OpenError::Journal(JournalError::Damaged { file, .. })) => assert_eq!(file, last),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opens with less than was acknowledged"),
    }
}

#[test]
fn a_sidecar_that_is_missing_damaged_or_of_another_format_is_made_again() {
    let (memory, last) = store();
    let name = memory.sidecars().remove(1);
    let good = memory.bytes(&name);
    let mut newer = good.clone();
    newer[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let crc = crc32c::crc32c(&newer[..4092]);
    newer[4092..4096].copy_from_slice(&crc.to_le_bytes());
    let other = memory.bytes(&memory.sidecars()[0]);
    let flipped = [0, 9, 50, 130, 4095, good.len() - 1].map(|at| {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        flipped
    });
    let cut = [0, 1, 4095, 4096, good.len() - 1].map(|at| good[..at].to_vec());
    for (number, bytes) in flipped.into_iter().chain(cut).chain([newer, other]).enumerate() {
        memory.put(&name, bytes);
        let bench = open(&memory, Some(&last)).expect("it opens");
        assert_eq!((bench.replayed, bench.indexed), (0, 1), "{number}");
        check_found(&bench, &format!("{number}"));
        bench.ledger.close();
        assert_eq!(memory.bytes(&name), good, "{number}: made again, byte for byte");
    }
    memory.sidecars().iter().for_each(|name| drop(memory.lose(name)));
    let bench = open(&memory, None).expect("it opens");
    assert_eq!(bench.indexed, memory.segments().len() - 1, "as after an upgrade");
    check_found(&bench, "without sidecars");
    assert_eq!(memory.bytes(&name), good);
}

/// Tables are read when they are asked: damage in them is found then.
#[test]
fn a_sidecar_that_is_damaged_while_it_is_used_is_made_again() {
    let (memory, last) = store();
    let good: Vec<_> = memory.sidecars().iter().map(|name| memory.bytes(name)).collect();
    for at in (4096..good[0].len().min(8 * 4096)).step_by(997) {
        let bench = open(&memory, Some(&last)).expect("it opens");
        for (name, good) in memory.sidecars().iter().zip(&good) {
            let mut bytes = good.clone();
            bytes[at % good.len()] ^= 0x10;
            memory.put(name, bytes);
        }
        check_found(&bench, &format!("byte {at}"));
        bench.ledger.close();
        for (name, good) in memory.sidecars().iter().zip(&good) {
            memory.put(name, good.clone());
        }
    }
}

/// Between the end of a full segment, the beginning of the next, the sidecar and the state.
#[test]
fn a_crash_at_any_operation_of_a_rotation_loses_nothing_and_the_index_finds_all() {
    let (mut deaths, mut indexed) = (0, 0);
    for nth in 1..=160 {
        let memory = Memory::default();
        let told = Told::default();
        let bench =
            Bench::open(Arc::new(memory.clone()), None, &told, Box::new(|_| {})).expect("a new store");
        bench.create_ada().expect("new");
        memory.die_at(nth, u64::try_from(nth).unwrap());
        let mut acknowledged = Vec::new();
        for request in 1..=60 {
            if bench.charge(request, 3).is_ok() {
                acknowledged.push(RequestId::from_int(request));
            }
        }
        bench.ledger.close();
        deaths += usize::from(memory.is_dead());
        let memory = memory.killed();
        let state = told.take().pop().expect("it was told of Ada");
        let bench = open(&memory, Some(&state)).unwrap_or_else(|why| panic!("death at {nth}: {why}"));
        assert!(bench.fits, "death at {nth}");
        indexed += bench.indexed;
        for request in acknowledged {
            let entries = bench.ledger.entries_of_request(request).expect("readable");
            let captured = entries.iter().any(|entry| matches!(entry.change, Change::Captured { .. }));
            assert!(captured, "death at {nth}: {request}");
        }
        bench.ledger.verify(&recompute, None).expect("verifies");
        bench.ledger.close();
        assert_eq!(memory.sidecars().len(), memory.segments().len() - 1, "death at {nth}");
        read(&memory, bench.entries).expect("whole");
    }
    println!("{deaths} deaths, {indexed} sidecars made again");
    assert!(deaths > 80 && indexed > 0, "{deaths} deaths, {indexed} sidecars made again");
}

#[test]
fn a_window_of_time_gives_what_was_made_in_it() {
    let (memory, last) = store();
    let bench = open(&memory, Some(&last)).expect("a good store");
    let all = bench.ledger.entries_of_customer(ADA, Window::default(), 10_000).expect("readable");
    let times: Vec<Timestamp> = all.iter().map(|entry| entry.at).collect();
    for (from, to) in [(0, all.len() / 3), (all.len() / 4, all.len() / 2), (all.len() / 2, all.len() - 1)] {
        let window = Window { after: Seq::START, from: Some(times[from]), to: Some(times[to]) };
        let expect: Vec<_> =
            all.iter().filter(|entry| entry.at >= times[from] && entry.at < times[to]).cloned().collect();
        let mut found = Vec::new();
        // Page by page.
        let mut after = Seq::START;
        loop {
            let page =
                bench.ledger.entries_of_customer(ADA, Window { after, ..window }, 10).expect("readable");
            let Some(end) = page.last() else { break };
            after = end.seq;
            found.extend(page);
        }
        assert_eq!(found, expect, "{from} to {to}");
        let latest = |limit| bench.ledger.latest_of_customer(ADA, window, Seq::END, limit).expect("readable");
        let back: Vec<_> = latest(usize::MAX).into_iter().rev().collect();
        assert_eq!((&back, &latest(1)[0]), (&expect, expect.last().expect("not empty")), "{from} to {to}");
        assert!(!found.is_empty());
    }
}
