//! A ledger that is lent: what waits is carried out once, in order, by whoever owns it next.

use super::bench::{ADA, Bench, atto, block_on, create_ada, recompute, record, terms};
use super::memory::Memory;
use crate::ledger::{Failure, Ledger, Outcome, Refusal};
use std::sync::Arc;

#[test]
fn what_waited_is_carried_out_in_order_when_nobody_took_the_ledger() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("it opens");
    bench.create_ada().expect("well");
    let ledger = &bench.ledger;
    let (begun, _) = bench.hold(1, 10).expect("rich enough");
    let lent = ledger.lend().expect("the disk is well");
    let before = ledger.entries();
    // A request that goes on, one that begins, one whose client leaves, and one that is too dear.
    let mut charged = begun.capture(atto(4), record(4)).commit;
    let (next, mut held) = bench.hold(2, 10).expect("decided later");
    let (gone, _) = bench.hold(3, 10).expect("decided later");
    drop(gone);
    let (dear, mut refused) = bench.hold(4, i128::MAX / 2).expect("decided later");
    assert_eq!((ledger.entries(), ledger.unanswered()), (before, 5), "nothing is written meanwhile");
    lent.take_back();
    assert_eq!((block_on(held.accepted()), ledger.unanswered()), (Ok(()), 0));
    let Some(Outcome { seq, charged: amount, .. }) = block_on(async {
        charged.durable().await.expect("the disk is well");
        charged.told()
    }) else {
        panic!("it was told")
    };
    assert_eq!((seq, amount), (before.next(), atto(4)));
    let why = block_on(refused.accepted()).expect_err("too dear");
    assert!(matches!(why, Failure::Refused(Refusal::InsufficientCredit { .. })), "{why:?}");
    drop(dear);
    let applied = next.capture(atto(5), record(5));
    assert_eq!(applied.charged, atto(5), "decided here again");
    applied.commit.wait().expect("the disk is well");
    let verified = ledger.verify(&recompute, None).expect("verifies");
    assert_eq!((verified.captures, verified.open_holds), (2, 0), "{verified:?}");
}

/// On a real disk, as two processes do it.
#[test]
fn another_owner_carries_out_what_is_asked_and_may_lend_it_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, _) = Ledger::open(folder.path(), Box::new(|_| {})).expect("it opens");
    create_ada(&first).expect("well");
    let (hold, _) = first.hold(terms(1, 10)).expect("rich enough");
    let mut owner = Arc::clone(&first);
    for round in 0..3 {
        let lent = owner.lend().expect("the disk is well");
        let lock = owner.share_lock().expect("it is here");
        let (next, recovered) =
            Ledger::take_over(folder.path(), lock, Box::new(|_| {})).expect("it is closed");
        assert_eq!((recovered.entries, recovered.rebuilt), (owner.entries(), None), "round {round}");
        assert_eq!(next.open_holds(), [(ADA, terms(1, 10).request)]);
        if round == 1 {
            // It changes its mind, and the one before goes on where it was.
            next.close();
            drop(next);
            lent.take_back();
            assert_eq!(charge(&owner), Ok(()));
            continue;
        }
        drop(lent.give_up());
        assert!(owner.share_lock().is_err(), "it is no longer its to give");
        assert!(Ledger::open(folder.path(), Box::new(|_| {})).is_err(), "the new owner keeps others out");
        owner = next;
    }
    drop(hold);
    owner.expire(&owner.open_holds()).expect("the disk is well");
    let verified = owner.verify(&recompute, None).expect("verifies");
    assert_eq!((verified.captures, verified.open_holds), (1, 0), "{verified:?}");
}

fn charge(ledger: &Arc<Ledger>) -> Result<(), Failure> {
    let (hold, _) = ledger.hold(terms(7, 10))?;
    Ok(hold.capture(atto(3), record(3)).commit.wait()?)
}
