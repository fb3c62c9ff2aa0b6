//! What nobody waits for rides along with what somebody waits for.

use super::bench::{Bench, atto, block_on, recompute, record};
use super::memory::{Memory, Operation};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_hold_that_nobody_waits_for_shares_the_fsync_of_its_charge() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    let before = memory.count(Operation::Sync);
    let charges = 20;
    for request in 1..=charges {
        bench.charge(request, 10).expect("rich enough");
    }
    // A pause of this thread between the two lets a hold go alone, once in a while.
    let fsyncs = memory.count(Operation::Sync) - before;
    assert!((20..30).contains(&fsyncs), "{fsyncs} fsyncs for {charges} charges");
    let verified = bench.ledger.verify(&recompute, None).expect("verifies");
    assert_eq!((u128::from(verified.captures), verified.open_holds), (charges, 0));
}

#[test]
fn what_nobody_waits_for_becomes_durable_all_the_same() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    let before = bench.ledger.verify(&recompute, None).expect("verifies").entries;
    let (hold, mut commit) = bench.hold(1, 10).expect("rich enough");
    let begun = Instant::now();
    while bench.ledger.verify(&recompute, None).expect("verifies").entries == before {
        assert!(begun.elapsed() < PATIENCE, "the hold never became durable");
        thread::yield_now();
    }
    // Whoever asks late is told, and needs no further group.
    let fsyncs = memory.count(Operation::Sync);
    assert_eq!(block_on(commit.durable()), Ok(before.next()));
    assert_eq!(memory.count(Operation::Sync), fsyncs);
    hold.capture(atto(10), record(10)).commit.wait().expect("it goes on");
}
