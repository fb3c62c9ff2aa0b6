//! Marks: one charge for what is sent twice, found in the journal across segments, restarts and owners.

use super::super::command::Command;
use super::super::entry::Seq;
use super::super::mark::{Claim, Mark, Marked, REMEMBERED};
use super::super::{Failure, Ledger, Refusal, Terms};
use super::bench::{Bench, Inline, Scribe, atto, block_on, capture, hold, opening, record, terms};
use super::memory::Memory;
use crate::clock::{Clock, Timestamp};
use crate::id::RequestId;
use std::sync::Arc;

const MARK: Mark = Mark { key: [1; 16], content: [1; 16] };
const OTHER: Mark = Mark { key: [1; 16], content: [2; 16] };
const NEXT: Mark = Mark { key: [2; 16], content: [1; 16] };

fn claim(ledger: &Arc<Ledger>, request: u128, mark: Mark) -> Result<Claim, Marked> {
    match block_on(ledger.claim(RequestId::from_int(request), mark)) {
        Ok(claim) => Ok(claim),
        Err(Failure::Refused(Refusal::Marked(marked))) => Err(marked),
        Err(other) => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(ledger: &Arc<Ledger>, mark: Mark, expect: Option<Marked>) {
    assert_eq!(claim(ledger, 99_999, mark).err(), expect);
}

/// A request with a mark, ended by a charge or, without one, released.
fn serve(ledger: &Arc<Ledger>, request: u128, mark: Mark, charge: Option<i128>) {
    let id = RequestId::from_int(request);
    let claimed = claim(ledger, request, mark).expect("free");
    check(ledger, mark, Some(Marked::Running(id)));
    check(ledger, Mark { content: [9; 16], ..mark }, Some(Marked::Other(id)));
    let (held, _) = ledger.hold(Terms { mark: Some(mark), ..terms(request, 10) }).expect("rich enough");
    let applied = match charge {
        Some(amount) => held.capture(atto(amount), record(amount)),
        None => held.release(record(0)),
    };
    applied.commit.wait().expect("the disk is well");
    drop(claimed);
}

#[test]
fn a_mark_stands_for_what_was_charged_across_segments_and_restarts() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    let ledger = &bench.ledger;
    // What costs nothing frees its mark, however often.
    for request in [1, 2] {
        serve(ledger, request, MARK, None);
    }
    serve(ledger, 3, MARK, Some(0));
    serve(ledger, 4, OTHER, Some(7));
    let charged = Some(Marked::Charged(RequestId::from_int(4)));
    let other = Some(Marked::Other(RequestId::from_int(4)));
    check(ledger, OTHER, charged);
    check(ledger, MARK, other);
    check(ledger, NEXT, None);
    let before = memory.segments().len();
    for request in 100..300 {
        bench.charge(request, 3).expect("rich enough");
    }
    assert!(memory.segments().len() > before + 2);
    check(ledger, OTHER, charged);
    drop(bench);
    let bench = Bench::on(&memory).expect("as it was left");
    check(&bench.ledger, OTHER, charged);
    check(&bench.ledger, MARK, other);
    check(&bench.ledger, NEXT, None);
    for sidecar in memory.sidecars() {
        memory.lose(&sidecar);
    }
    drop(bench);
    let bench = Bench::on(&memory).expect("indexes are made again");
    check(&bench.ledger, OTHER, charged);
}

/// A clock that stands.
struct Stands(i64);

impl Clock for Stands {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0)
    }
}

fn marked(request: u128, mark: Mark) -> Command {
    let Command::Hold { request, key, amount, least, budgets, price_version, .. } = hold(request, 10) else {
        panic!("a hold")
    };
    Command::Hold { request, key, amount, least, budgets, price_version, mark: Some(mark) }
}

#[test]
fn a_mark_is_forgotten_after_its_time_and_not_before() {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    scribe.groups(vec![marked(1, MARK), capture(1, 5)]);
    let day_us = i64::try_from(REMEMBERED.as_micros()).unwrap();
    let charged = Some(Marked::Charged(RequestId::from_int(1)));
    // Entries of a scribe are of the first microsecond.
    for (now, expect) in [(1, charged), (1 + day_us, charged), (2 + day_us, None)] {
        let disk = Arc::new(scribe.memory.copy());
        let inline = Inline::open(disk, None, Arc::new(Stands(now))).expect("whole");
        check(&inline.ledger, MARK, expect);
    }
}

/// What another process finishes keeps its mark, for as long as it is under way.
#[test]
fn marks_of_open_holds_are_adopted() {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    scribe.groups(vec![marked(1, MARK), hold(2, 10)]);
    let inline = Inline::open(Arc::new(scribe.memory), None, Arc::new(Stands(5))).expect("whole");
    let ledger = &inline.ledger;
    check(ledger, MARK, None);
    let open: Vec<RequestId> = ledger.open_holds().into_iter().map(|(_, request)| request).collect();
    let adopted = ledger.adopt(&open).expect("readable");
    assert_eq!((open.len(), adopted.len()), (2, 1));
    check(ledger, MARK, Some(Marked::Running(RequestId::from_int(1))));
    drop(adopted);
    check(ledger, MARK, None);
}

/// The journal that is kept in `tests/data`, and what it says for ever.
#[test]
fn a_marked_hold_of_an_earlier_version_is_found() {
    let memory = super::golden::golden("journal-marked");
    assert_eq!(super::bench::read(&memory, Seq::START).expect("whole").0.len(), 5);
    let inline = Inline::open(Arc::new(memory), None, Arc::new(Stands(5))).expect("whole");
    check(&inline.ledger, MARK, Some(Marked::Charged(RequestId::from_int(1))));
}
