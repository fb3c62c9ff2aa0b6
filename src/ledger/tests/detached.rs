//! Holds of work that goes on elsewhere: they outlive their process, and end once.

use super::super::{Budgets, Change, Command, Detached, Failure, Ledger, Progress, Refusal};
use super::bench::{ADA, Bench, DEPOSIT, Save, Told, atto, block_on, create_ada, recompute, record, terms};
use super::memory::Memory;
use crate::clock::Timestamp;
use crate::id::RequestId;
use std::sync::Arc;

fn request(number: u128) -> RequestId {
    RequestId::from_int(number)
}

fn work(number: u128) -> Detached {
    Detached { object: format!("resp_{number}").into(), record: Arc::from(&b"run"[..]) }
}

/// A hold that is detached, durable.
fn detach(ledger: &Arc<Ledger>, number: u128, amount: i128) {
    let (hold, _) = ledger.hold(terms(number, amount)).expect("rich enough");
    hold.detach(work(number)).commit.wait().expect("the disk is well");
}

/// Ends it by a charge; tells whether it was open.
fn capture(ledger: &Ledger, number: u128, amount: i128) -> bool {
    let kept = (record(amount), work(number).object);
    let ended = ledger.capture_detached(ADA, request(number), atto(amount).into(), kept);
    block_on(ended).expect("the disk is well").is_some()
}

fn held(ledger: &Ledger) -> i128 {
    ledger.customer(ADA, |ada| ada.balance.held.atto_usd()).expect("she is there")
}

/// It is open and asked for once, and found by its name and its request.
#[track_caller]
fn check_at_work(ledger: &Ledger, number: u128) {
    assert_eq!(ledger.take_detached(), [(ADA, request(number))]);
    assert!(ledger.take_detached().is_empty() && ledger.holds(ADA, request(number)));
    assert_eq!(ledger.detached(request(number)).expect("readable"), Some(work(number)));
    let owned = ledger.owned(ADA, &work(number).object, Timestamp::default()).expect("readable");
    assert!(owned.is_some_and(|owned| owned.at_work && *owned.record == *b"run"));
}

#[test]
fn a_hold_that_was_detached_outlives_its_process_and_ends_once() {
    let memory = Memory::default();
    let told = Told::default();
    let bench = Bench::open(Arc::new(memory.clone()), None, &told, Box::new(|_| {})).expect("a new store");
    bench.create_ada().expect("new");
    detach(&bench.ledger, 1, 50);
    let (attended, _) = bench.hold(2, 30).expect("rich enough");
    attended.capture(atto(5), record(5)).commit.wait().expect("the disk is well");
    let (left, held_for) = bench.hold(3, 30).expect("rich enough");
    held_for.wait().expect("the disk is well");
    let killed = memory.killed();
    check_at_work(&bench.ledger, 1);
    drop(left);
    bench.ledger.close();
    let last: Save = told.take().pop().expect("it was told");
    // From the journal alone, and from a state.
    let bench = Bench::on(&killed).expect("whole");
    assert_eq!((bench.expired.released, held(&bench.ledger)), (1, 50), "only what nobody attends to");
    check_at_work(&bench.ledger, 1);
    bench.ledger.close();
    let state = Some(last.snapshot());
    let bench = Bench::open(Arc::new(memory), state, &Told::default(), Box::new(|_| {})).expect("whole");
    let expired = (bench.expired.released, bench.expired.charged);
    assert_eq!((bench.replayed, expired, held(&bench.ledger)), (0, (0, 0), 50));
    check_at_work(&bench.ledger, 1);
    assert!(capture(&bench.ledger, 1, 20) && !capture(&bench.ledger, 1, 20), "once");
    let owned = bench.ledger.owned(ADA, "resp_1", Timestamp::default()).expect("readable");
    assert!(owned.is_some_and(|owned| !owned.at_work && owned.request == request(1)));
    let verified = bench.ledger.verify(&recompute, None).expect("verifies");
    assert_eq!((verified.captures, verified.open_holds), (2, 0));
}

#[test]
fn what_was_detached_is_not_extended_detached_again_or_dropped() {
    let bench = Bench::on(&Memory::default()).expect("a new store");
    bench.create_ada().expect("new");
    detach(&bench.ledger, 1, 50);
    let Detached { object, record } = work(1);
    for command in [
        Command::Extend {
            request: request(1),
            amount: atto(1),
            least: atto(1),
            budgets: Budgets::default(),
            progress: Progress { charge: atto(0).into(), record: Arc::clone(&record) },
        },
        Command::Detach { request: request(1), object, record },
    ] {
        let refused = bench.ledger.carry_out(ADA, command).err();
        assert_eq!(refused, Some(Failure::Refused(Refusal::UnknownHold)));
    }
    assert_eq!((bench.ledger.holds_open(), held(&bench.ledger)), (0, 50));
    let released = bench.ledger.release_detached(ADA, request(1), Arc::from(&[][..]));
    assert!(block_on(released).expect("the disk is well").is_some());
    assert!(!capture(&bench.ledger, 1, 1), "it has ended");
    assert_eq!(bench.ledger.customer(ADA, |ada| ada.balance.available), Some(atto(DEPOSIT)));
    let kinds = bench.ledger.entries_of_request(request(1)).expect("readable");
    let kinds: Vec<_> = kinds.iter().map(|entry| entry.change.name()).collect();
    assert_eq!(kinds, ["hold", "detachment", "release"]);
}

/// On a real disk, as two processes do it: what the one detaches the other looks after.
#[test]
fn another_owner_looks_after_what_is_detached() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, _) = Ledger::open(folder.path(), Box::new(|_| {})).expect("it opens");
    create_ada(&first).expect("well");
    detach(&first, 1, 10);
    let lock = first.share_lock().expect("it has one");
    let lent = first.lend().expect("the disk is well");
    assert!(first.is_away());
    let (next, recovered) = Ledger::take_over(folder.path(), lock, Box::new(|_| {})).expect("it opens");
    assert_eq!((recovered.rebuilt, recovered.replayed), (None, 0), "from the state alone");
    let mut commands = lent.give_up();
    check_at_work(&next, 1);
    // A client of the first reads the end of it.
    let ended = std::thread::spawn({
        let first = Arc::clone(&first);
        move || (capture(&first, 1, 4), capture(&first, 1, 4))
    });
    for _ in 0..2 {
        let asked = block_on(commands.next()).expect("it asks");
        let carried = next.carry_out(asked.customer, asked.command);
        let answer = carried.map(|applied| {
            let (balance, charged, held) = (applied.balance, applied.charged, applied.held);
            applied.commit.wait().expect("the disk is well");
            super::super::Outcome { seq: next.entries(), balance, charged, held }
        });
        assert!(asked.answer.send(answer).is_ok());
    }
    assert_eq!(ended.join().expect("no panic"), (true, false));
    assert!(!next.holds(ADA, request(1)));
    let captured = |entry: &super::super::Entry| matches!(entry.change, Change::Captured { .. });
    assert_eq!(
        next.entries_of_request(request(1)).expect("readable").iter().filter(|e| captured(e)).count(),
        1
    );
}
