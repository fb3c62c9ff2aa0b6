//! Every kind of entry: what it does to the balance, what it leaves in the state store, and which
//! journals it cannot stand in.

use super::super::book::{Book, Broken};
use super::super::command::{Charged, Command};
use super::super::entry::{Balance, Change, Charge, Note, Seq, Step};
use super::super::segment::JournalError;
use super::super::verify::{Known, verify};
use super::super::{
    Budgets, Expired, Extension, Failure, Hold, Ledger, Progress, Refusal, Standing, Window, verify_stopped,
};
use super::bench::{
    ADA, DEPOSIT, KEY, Scribe, atto, block_on, capture, create_ada, hold, opening, recompute, record,
    release, terms,
};
use crate::clock::Timestamp;
use crate::id::RequestId;
use std::path::Path;
use std::sync::Arc;

fn note(reason: &str) -> Note {
    Note { by: "ops".into(), reason: reason.into() }
}

fn open(folder: &Path) -> Arc<Ledger> {
    let (ledger, recovered) = Ledger::open(folder, Box::new(|_| {})).expect("a good store");
    assert_eq!(recovered.rebuilt, None, "the state says what the journal says");
    ledger
}

fn held(ledger: &Arc<Ledger>, request: u128, amount: i128) -> Hold {
    let (hold, mut commit) = ledger.hold(terms(request, amount)).expect("rich enough");
    block_on(commit.durable()).expect("the disk is well");
    hold
}

fn refund(ledger: &Ledger, request: u128, amount: Option<i128>, reference: &str) -> Result<Seq, Failure> {
    let entries = ledger.entries_of_request(RequestId::from_int(request)).expect("readable");
    let (customer, charged) = Charged::of(&entries).expect("it was charged");
    let refund = ledger.refund(customer, charged, amount.map(atto), reference.into(), note("slow"));
    block_on(refund).map(|(seq, _)| seq)
}

fn step(ledger: &Ledger, step: Step) -> Result<(), Failure> {
    block_on(ledger.change_standing(ADA, step, note("spam")))
}

/// What Ada has: available, held, and what she lost by a ban.
fn has(ledger: &Ledger) -> (i128, i128, i128) {
    let look = |customer: &super::super::Customer| {
        let Balance { available, held } = customer.balance;
        let forfeited = match customer.standing {
            Standing::Banned { forfeited, .. } => forfeited.atto_usd(),
            Standing::Active | Standing::Suspended(_) => 0,
        };
        (available.atto_usd(), held.atto_usd(), forfeited)
    };
    ledger.customer(ADA, look).expect("known")
}

fn kinds(ledger: &Ledger, request: u128) -> Vec<&'static str> {
    let entries = ledger.entries_of_request(RequestId::from_int(request)).expect("readable");
    entries.iter().map(|entry| entry.change.name()).collect()
}

fn extension(amount: i128, so_far: i128) -> Extension {
    let (amount, budgets) = (atto(amount), Budgets::default());
    let progress = Progress { charge: atto(so_far).into(), record: record(so_far) };
    Extension { amount, least: amount, budgets, progress }
}

/// Closes the store and opens it again: it is what it was.
fn again(ledger: Arc<Ledger>, folder: &Path) -> Arc<Ledger> {
    let before = has(&ledger);
    ledger.close();
    drop(ledger);
    let verified = verify_stopped(folder, &recompute, None).expect("verifies");
    let ledger = open(folder);
    assert_eq!(has(&ledger), before);
    assert_eq!(verified.balances, atto(before.0 + before.1), "I7");
    ledger
}

#[test]
fn every_kind_of_entry_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = open(folder.path());
    create_ada(&ledger).expect("new");
    let first = held(&ledger, 1, 100);
    let extended = first.extend(extension(50, 30)).expect("rich enough");
    assert_eq!(block_on(extended.durable()), Ok(atto(50)));
    assert_eq!(has(&ledger), (DEPOSIT - 150, 150, 0));
    let charge = Charge { amount: atto(170), cost: atto(90) };
    let mut applied = first.capture(charge, record(170));
    assert_eq!(applied.charged, atto(170));
    block_on(applied.commit.durable()).expect("the disk is well");
    assert_eq!(kinds(&ledger, 1), ["hold", "extension", "capture", "overage"]);

    let part = refund(&ledger, 1, Some(70), "ticket 1").expect("it was charged more");
    assert_eq!(refund(&ledger, 1, Some(70), "ticket 1"), Ok(part), "the same refund");
    let full = refund(&ledger, 1, None, "ticket 2").expect("100 are left");
    assert_eq!(refund(&ledger, 1, None, "ticket 2"), Ok(full), "the same refund");
    let exceeds = Err(Failure::Refused(Refusal::RefundExceeds { left: atto(0) }));
    assert_eq!(refund(&ledger, 1, Some(1), "ticket 3"), exceeds);
    assert_eq!(refund(&ledger, 1, None, "ticket 3"), exceeds);
    assert!(matches!(
        refund(&ledger, 1, Some(1), "ticket 1"),
        Err(Failure::Refused(Refusal::ReferenceUsed(_)))
    ));
    ledger = again(ledger, folder.path());
    assert_eq!(has(&ledger), (DEPOSIT, 0, 0), "all of it was given back");
    assert_eq!(refund(&ledger, 1, None, "ticket 3"), exceeds);
    assert_eq!(refund(&ledger, 1, None, "ticket 2"), Ok(full), "the same refund, also after a restart");

    let adjust = |ledger: &Ledger, amount, reference: &str| {
        block_on(ledger.adjust(ADA, atto(amount), reference.into(), note("goodwill"))).map(|(seq, _)| seq)
    };
    adjust(&ledger, 500, "a").expect("credit is given");
    let taken = adjust(&ledger, -200, "b").expect("credit is taken");
    assert_eq!(adjust(&ledger, -200, "b"), Ok(taken));
    let available = atto(DEPOSIT + 300);
    let insufficient = Err(Failure::Refused(Refusal::InsufficientCredit { available }));
    assert_eq!(adjust(&ledger, -(DEPOSIT + 301), "c"), insufficient, "I3");
    ledger = again(ledger, folder.path());

    let total = ledger.verify(&recompute, None).expect("verifies");
    assert_eq!((total.refunds, total.adjustments, total.cost), (atto(170), atto(300), atto(90)));
    assert_eq!((total.revenue, total.written_off, total.forfeited), (atto(170), atto(0), atto(0)));
}

#[test]
fn a_ban_takes_what_there_is_and_what_comes_free_later_and_gives_it_all_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = open(folder.path());
    create_ada(&ledger).expect("new");
    step(&ledger, Step::Suspend).expect("active");
    let refused = |ledger: &Arc<Ledger>| match ledger.hold(terms(9, 1)) {
        Err(Failure::Refused(Refusal::Standing(standing))) => standing.name(),
        Err(_) | Ok(_) => "something else",
    };
    assert_eq!(refused(&ledger), "suspended");
    ledger = again(ledger, folder.path());
    assert_eq!(refused(&ledger), "suspended");
    step(&ledger, Step::Resume).expect("suspended");
    let (charged, released) = (held(&ledger, 1, 1_000), held(&ledger, 2, 300));
    ledger = {
        step(&ledger, Step::Ban).expect("active");
        assert_eq!(has(&ledger), (0, 1_300, DEPOSIT - 1_300));
        assert_eq!(refused(&ledger), "banned");
        for wrong in [Step::Suspend, Step::Resume, Step::Ban] {
            assert!(matches!(step(&ledger, wrong), Err(Failure::Refused(Refusal::Standing(_)))));
        }
        let deposit = block_on(ledger.deposit(ADA, atto(5), "second".into()));
        assert!(matches!(deposit, Err(Failure::Refused(Refusal::Standing(_)))), "no money is taken");
        let first = block_on(ledger.deposit(ADA, atto(DEPOSIT), "first".into()));
        assert!(first.is_ok(), "what was paid in before is told again");
        let mut commits = [charged.capture(atto(400), record(400)), released.release(Arc::from(&[][..]))];
        for applied in &mut commits {
            block_on(applied.commit.durable()).expect("the disk is well");
        }
        assert_eq!(has(&ledger), (0, 0, DEPOSIT - 400), "what came free is forfeited, too");
        assert_eq!(kinds(&ledger, 1), ["hold", "capture"]);
        again(ledger, folder.path())
    };
    let verified = ledger.verify(&recompute, None).expect("verifies");
    assert_eq!((verified.forfeited, verified.balances), (atto(DEPOSIT - 400), atto(0)));
    assert_eq!(refused(&ledger), "banned");
    step(&ledger, Step::Unban).expect("banned");
    ledger = again(ledger, folder.path());
    assert_eq!(has(&ledger), (DEPOSIT - 400, 0, 0));
    let history = ledger.entries_of_customer(ADA, Window::default(), 100).expect("readable");
    let by_hand: Vec<_> = history
        .iter()
        .filter_map(|entry| entry.change.note().map(|note| (entry.change.name(), &*note.by, &*note.reason)))
        .collect();
    let expect = [
        "suspension",
        "resumption",
        "ban",
        "forfeiture",
        "forfeiture",
        "forfeiture",
        "forfeiture_reversal",
        "unban",
    ];
    assert_eq!(by_hand, expect.map(|kind| (kind, "ops", "spam")));
}

/// A ledger that was opened with a hold from before the last write of the state, and extended it.
#[test]
fn an_extended_hold_that_the_state_has_ends_in_the_state_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    create_ada(&ledger).expect("new");
    let hold = held(&ledger, 1, 100);
    // While these become durable, one after another, the state is written with the hold in it.
    for request in 2..400 {
        drop(held(&ledger, request, 1));
    }
    let extended = hold.extend(extension(11, 5)).expect("rich enough");
    block_on(extended.durable()).expect("the disk is well");
    drop(hold);
    again(ledger, folder.path());
}

/// What is left open by a process that ends: of one request it is known how far it had come.
#[test]
fn what_was_in_flight_is_charged_as_far_as_it_is_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    create_ada(&ledger).expect("new");
    let holds = [held(&ledger, 1, 100), held(&ledger, 2, 10)];
    for so_far in [20, 30] {
        let extended = holds[0].extend(extension(25, so_far)).expect("rich enough");
        block_on(extended.durable()).expect("the disk is well");
    }
    ledger.close();
    // Nothing of their ends is written any more.
    drop(holds);
    drop(ledger);
    let (ledger, recovered) = Ledger::open(folder.path(), Box::new(|_| {})).expect("a good store");
    let expired = Expired { charged: 1, released: 1 };
    assert_eq!((recovered.rebuilt, recovered.replayed, recovered.expired), (None, 0, expired));
    assert_eq!(kinds(&ledger, 1), ["hold", "extension", "extension", "capture"]);
    assert_eq!(kinds(&ledger, 2), ["hold", "release"]);
    assert_eq!(has(&ledger), (DEPOSIT - 30, 0, 0));
    let entries = ledger.entries_of_request(RequestId::from_int(1)).expect("readable");
    let Some(Change::Captured { record: kept, released, .. }) = entries.last().map(|entry| &entry.change)
    else {
        panic!("{entries:?}")
    };
    assert_eq!((kept, *released), (&record(30), atto(120)));
    again(ledger, folder.path());
}

/// Ada may owe 50: to the last unit, by holds and by a charge beyond its hold; over a restart, and until it
/// is written off.
#[test]
fn an_overdraft_is_the_floor_of_a_balance_and_a_debt_is_written_off_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = open(folder.path());
    create_ada(&ledger).expect("new");
    let set = |ledger: &Ledger, amount| block_on(ledger.set_overdraft(ADA, atto(amount), note("a contract")));
    let write_off = |ledger: &Ledger, amount: Option<i128>, reference: &str| {
        let written_off = ledger.write_off(ADA, amount.map(atto), reference.into(), note("gone"));
        block_on(written_off).map(|(seq, _)| seq)
    };
    let refused = |refusal| Failure::Refused(refusal);
    set(&ledger, 50).expect("it is a number");
    assert!(set(&ledger, -1).is_err(), "nobody has to keep credit");
    let short = |request, amount| ledger.hold(terms(request, amount)).map(drop);
    let insufficient = refused(Refusal::InsufficientCredit { available: atto(DEPOSIT + 50) });
    assert_eq!(short(1, DEPOSIT + 51), Err(insufficient));
    let all = held(&ledger, 1, DEPOSIT + 40);
    assert_eq!(has(&ledger), (-40, DEPOSIT + 40, 0));
    assert_eq!(set(&ledger, 39), Err(refused(Refusal::OwesMore { debt: atto(40) })));
    assert_eq!(
        write_off(&ledger, None, "a"),
        Err(refused(Refusal::OwesLess { debt: atto(0) })),
        "it is held"
    );
    // 15 beyond the hold: 10 may be owed, 5 are the operator's loss.
    let mut applied = all.capture(atto(DEPOSIT + 55), record(DEPOSIT + 55));
    block_on(applied.commit.durable()).expect("the disk is well");
    assert_eq!(kinds(&ledger, 1), ["hold", "capture", "overage", "write_off"]);
    ledger = again(ledger, folder.path());
    assert_eq!(has(&ledger), (-50, 0, 0));
    assert_eq!(
        ledger.hold(terms(2, 1)).map(drop),
        Err(refused(Refusal::InsufficientCredit { available: atto(0) }))
    );
    assert_eq!(write_off(&ledger, Some(51), "a"), Err(refused(Refusal::OwesLess { debt: atto(50) })));
    let part = write_off(&ledger, Some(20), "a").expect("so much is owed");
    assert_eq!(write_off(&ledger, Some(20), "a"), Ok(part), "the same write-off");
    assert!(matches!(write_off(&ledger, Some(21), "a"), Err(Failure::Refused(Refusal::ReferenceUsed(_)))));
    // Who is banned owes it still, and what comes in is theirs only when nothing is owed.
    let hold = held(&ledger, 3, 15);
    step(&ledger, Step::Ban).expect("she is not");
    drop(hold);
    assert_eq!(has(&ledger), (-30, 0, 0));
    let rest = write_off(&ledger, None, "b").expect("30 are owed");
    assert_eq!(write_off(&ledger, None, "b"), Ok(rest), "the same write-off");
    ledger = again(ledger, folder.path());
    assert_eq!(has(&ledger), (0, 0, 0));
    assert_eq!(write_off(&ledger, None, "b"), Ok(rest), "the same write-off, also after a restart");
    let verified = ledger.verify(&recompute, None).expect("whole");
    assert_eq!((verified.written_off, verified.balances), (atto(5 + 50), atto(0)), "I7");
}

/// A book with Ada, a hold of 100 for request 1, and 40 charged for request 2.
fn scribe() -> Scribe {
    let mut scribe = Scribe::new();
    scribe.groups(opening());
    scribe.groups(vec![hold(1, 100), hold(2, 60), capture(2, 40)]);
    scribe
}

#[track_caller]
fn breaks(changes: &[Change], invariant: &str) {
    let mut book: Book = scribe().book;
    let mut outcome = Ok(());
    for change in changes {
        outcome = outcome.and_then(|()| book.apply(ADA, change, Timestamp::default()).map(drop));
    }
    let Broken(why) = outcome.and_then(|()| book.audit()).expect_err("no book of ours says that");
    assert!(why.contains(invariant), "{why}");
}

fn refunded(amount: i128, charged: i128, reference: &str) -> Change {
    Change::Refunded {
        request: RequestId::from_int(2),
        amount: atto(amount),
        charged: atto(charged),
        price_version: "2026-11-23".into(),
        reference: reference.into(),
        note: note(""),
    }
}

#[test]
fn what_no_book_could_say_is_refused() {
    let request = RequestId::from_int(1);
    let version = || Arc::<str>::from("2026-11-23");
    let captured = |amount, released, cost, price_version| Change::Captured {
        request,
        amount: atto(amount),
        released: atto(released),
        cost: atto(cost),
        price_version,
        key: Some(KEY),
        record: record(amount),
        object: None,
    };
    breaks(&[captured(60, 41, 0, version())], "I5");
    breaks(&[captured(101, -1, 0, version())], "I5");
    breaks(&[captured(60, 40, -1, version())], "I5");
    breaks(&[captured(60, 40, 0, "2027-01-01".into())], "prices");
    breaks(&[captured(60, 40, 0, version()), captured(60, 40, 0, version())], "I4");
    let extended = |key, total| Change::Extended {
        request,
        key,
        amount: atto(10),
        total: atto(total),
        price_version: version(),
        progress: None,
    };
    breaks(&[extended(KEY, 111)], "I5");
    breaks(&[extended(crate::id::KeyId::from_int(9), 110)], "I5");
    breaks(&[refunded(41, 40, "a")], "I5");
    breaks(&[refunded(30, 40, "a"), refunded(11, 40, "b")], "I5");
    breaks(&[refunded(1, 40, "a"), refunded(1, 40, "a")], "twice");
    breaks(&[refunded(0, 40, "a")], "empty");
    let adjusted = |amount| Change::Adjusted { amount: atto(amount), reference: "a".into(), note: note("x") };
    breaks(&[adjusted(0)], "empty");
    breaks(&[adjusted(-DEPOSIT)], "I3");
    let overdraft = |amount| Change::OverdraftSet { amount: atto(amount), note: note("x") };
    let written_off = |amount| {
        let (amount, reference) = (atto(amount), "w".into());
        Change::DebtWrittenOff { amount, reference, note: note("x") }
    };
    breaks(&[overdraft(-1)], "overdraft");
    breaks(&[overdraft(99), adjusted(-DEPOSIT)], "I3");
    breaks(&[overdraft(200), adjusted(-DEPOSIT), overdraft(139)], "I3");
    breaks(&[written_off(1)], "is owed");
    breaks(&[overdraft(200), adjusted(-DEPOSIT), written_off(41)], "is owed");
    let stepped = |step| Change::StandingChanged { step, note: note("x") };
    let forfeited =
        |amount, total| Change::Forfeited { amount: atto(amount), total: atto(total), note: note("x") };
    breaks(&[stepped(Step::Resume)], "resumption of who is active");
    breaks(&[stepped(Step::Ban)], "banned, but has");
    breaks(&[forfeited(5, 5)], "not banned");
    breaks(&[stepped(Step::Ban), forfeited(5, 6)], "add up");
    breaks(&[stepped(Step::Ban), forfeited(5, 5), stepped(Step::Unban)], "not its forfeiture");
    let reversed = |amount| Change::ForfeitureReversed { amount: atto(amount), note: note("x") };
    breaks(&[stepped(Step::Ban), forfeited(5, 5), reversed(6)], "reversal");
    breaks(&[reversed(5)], "reversal");
}

/// A refund says what was charged; the book does not know, the journal does.
#[test]
fn a_refund_of_more_than_the_journal_says_was_charged_does_not_verify() {
    let charged = |amount| {
        let request = RequestId::from_int(2);
        let charged = Charged { request, amount: atto(amount), price_version: "2026-11-23".into() };
        let reference = "ticket".into();
        Command::Refund { charged, amount: None, reference, note: note("") }
    };
    for (amount, expect) in [(40, true), (41, false), (39, false)] {
        let mut scribe = scribe();
        scribe.groups(vec![release(1), charged(amount)]);
        let refund = scribe.head.seq;
        let known = Known { durable: refund, ..Known::default() };
        match verify(&scribe.memory, known, &recompute) {
            Ok(verified) => assert!(expect && verified.refunds == atto(40), "{amount}: {verified:?}"),
            Err(JournalError::Broken { seq, why }) => {
                assert!(!expect && seq == refund && why.0.contains("I5"), "{amount}: {why}");
            }
            Err(other) => panic!("{amount}: {other}"),
        }
    }
}

/// What a request would have been charged follows from its record, too (I9): it may come to that.
#[test]
fn an_extension_that_its_record_does_not_amount_to_does_not_verify() {
    for (amounts_to, expect) in [(30, true), (29, false)] {
        let mut scribe = scribe();
        let Extension { amount, least, budgets, .. } = extension(10, 0);
        let progress = Progress { charge: atto(30).into(), record: record(amounts_to) };
        let request = RequestId::from_int(1);
        scribe.groups(vec![Command::Extend { request, amount, least, budgets, progress }]);
        match verify(&scribe.memory, Known::default(), &recompute) {
            Ok(_) => assert!(expect, "{amounts_to}"),
            Err(why) => assert!(!expect && why.to_string().contains("I9"), "{amounts_to}: {why}"),
        }
    }
}

/// What a request was charged follows from its record, to the last unit (I9).
#[test]
fn a_charge_that_its_record_does_not_amount_to_does_not_verify() {
    // Within the hold, above it, and beyond the balance: the charge is all of them together.
    for charge in [40, 70, DEPOSIT + 50] {
        for (amounts_to, expect) in [(charge, true), (charge - 1, false), (charge + 1, false)] {
            let mut scribe = Scribe::new();
            scribe.groups(opening());
            let (request, charge) = (RequestId::from_int(1), atto(charge).into());
            scribe.groups(vec![
                hold(1, 60),
                Command::Capture { request, charge, record: record(amounts_to), object: None },
            ]);
            let outcome = verify(&scribe.memory, Known::default(), &recompute);
            match outcome {
                Ok(verified) => assert!(expect && verified.captures == 1, "{amounts_to}"),
                Err(why) => assert!(!expect && why.to_string().contains("I9"), "{amounts_to}: {why}"),
            }
        }
    }
}
