//! A full disk: what is in flight is finished from the room that was kept, nothing new is admitted,
//! and it goes on by itself when there is room.

use super::super::room::{RESERVE, RESERVE_BYTES};
use super::super::{Failure, Hold};
use super::bench::{Bench, atto, read, recompute, record};
use super::memory::{Memory, Operation};
use crate::id::RequestId;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::yield_now();
    }
}

fn reserve_bytes() -> usize {
    usize::try_from(RESERVE_BYTES).unwrap()
}

/// Holds until the disk is full; those that were admitted.
fn fill(bench: &Bench, begin: u128) -> Vec<(u128, Hold)> {
    let mut holds = Vec::new();
    for request in begin..begin + 1_000 {
        match bench.hold(request, 3) {
            Ok((hold, commit)) => {
                commit.wait().expect("there is the reserve");
                holds.push((request, hold));
            }
            Err(failure) => {
                assert_eq!(failure, Failure::Full);
                return holds;
            }
        }
    }
    panic!("it is never full");
}

#[test]
fn in_flight_is_finished_nothing_is_admitted_and_it_goes_on_by_itself() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    assert_eq!(memory.bytes(RESERVE).len(), reserve_bytes());
    let mut charged = Vec::new();
    // Again and again, over rotations: room at the end of a segment, too.
    for round in 0..6_u128 {
        memory.leave_room(Some(4_000));
        let holds = fill(&bench, 1 + round * 10_000);
        assert!(holds.len() > 5, "round {round}: {} holds", holds.len());
        assert!(bench.ledger.is_full() && !bench.ledger.is_down(), "round {round}");
        assert!(!memory.names().contains(&RESERVE.to_owned()), "it was given up");
        assert_eq!(bench.hold(u128::MAX, 1).err(), Some(Failure::Full));
        for (request, hold) in holds {
            hold.capture(atto(2), record(2)).commit.wait().expect("from the room that was kept");
            charged.push(request);
        }
        // Less than twice the reserve is not taken for room.
        memory.leave_room(Some(reserve_bytes()));
        assert_eq!(bench.hold(u128::MAX, 1).err(), Some(Failure::Full), "round {round}");
        memory.leave_room(None);
        eventually("it admits again", || !bench.ledger.is_full());
        assert_eq!(memory.bytes(RESERVE).len(), reserve_bytes(), "round {round}");
    }
    bench.charge(999_999, 3).expect("it goes on");
    assert!(memory.segments().len() > 2, "{:?}", memory.names());
    let verified = bench.ledger.verify(&recompute, None).expect("whole");
    assert_eq!((verified.captures, verified.open_holds), (u64::try_from(charged.len()).unwrap() + 1, 0));
    bench.ledger.close();
    for left in [memory.killed(), memory.power_cut(&mut fastrand::Rng::with_seed(1))] {
        let bench = Bench::on(&left).expect("a good store");
        for request in &charged {
            let entries = bench.ledger.entries_of_request(RequestId::from_int(*request)).expect("readable");
            assert_eq!(entries.len(), 2, "request {request}");
        }
    }
}

#[test]
fn more_in_flight_than_was_kept_for_stops_and_loses_nothing_that_was_acknowledged() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    let held: Vec<_> = (1..=60)
        .map(|request| {
            let (hold, commit) = bench.hold(request, 3).expect("rich enough");
            commit.wait().expect("well");
            hold
        })
        .collect();
    memory.leave_room(Some(100));
    // Records that do not fit the reserve.
    let long = [vec![b'0'; 1_000], b"2".to_vec()].concat();
    let ends: Vec<_> =
        held.into_iter().map(|hold| hold.capture(atto(2), long.clone().into()).commit.wait()).collect();
    let acknowledged = ends.iter().filter(|end| end.is_ok()).count();
    assert!((1..60).contains(&acknowledged), "{acknowledged} of 60");
    eventually("it is down", || bench.ledger.is_down());
    bench.ledger.close();
    let memory = memory.killed();
    let bench = Bench::on(&memory).expect("a good store");
    let verified = bench.ledger.verify(&recompute, None).expect("whole");
    assert!(verified.captures >= u64::try_from(acknowledged).unwrap() && verified.open_holds == 0);
}

#[test]
fn a_start_on_a_full_disk_waits_for_room() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    bench.ledger.close();
    memory.lose(RESERVE);
    memory.leave_room(Some(1_000));
    let bench = Bench::on(&memory).expect("it opens");
    assert_eq!(bench.hold(1, 1).err(), Some(Failure::Full));
    memory.leave_room(None);
    eventually("it admits", || bench.hold(2, 1).is_ok());
}

/// What is durable is unknown after it: there is no second try, whatever the error says.
#[test]
fn an_fsync_that_finds_the_disk_full_stops_the_journal() {
    const ENOSPC: i32 = 28;
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    memory.fail(Operation::Sync, 1, ENOSPC);
    assert_eq!(bench.charge(1, 3), Err(Failure::Down));
    assert!(bench.ledger.is_down());
    bench.ledger.close();
    read(&memory.killed(), bench.entries).expect("whole");
}
