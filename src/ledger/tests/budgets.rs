//! Budgets in the book: each at its exact edge, by a clock that is an argument; and after a restart.

use super::super::budget::{Budget, Budgets, Period, Spare, Spender};
use super::super::command::{Command, Refusal};
use super::super::{Book, Failure, Ledger, Progress, Terms};
use super::bench::{ADA, DEPOSIT, KEY, atto, block_on, create_ada, key, opening, record, terms};
use crate::clock::Timestamp;
use crate::id::{KeyId, RequestId};
use std::sync::Arc;

/// Ada and her keys on some day.
struct Scene {
    book: Book,
    now: Timestamp,
    budgets: Budgets,
}

impl Scene {
    fn new(now: &str, key_budget: Budget, customer: Budget) -> Self {
        let mut scene =
            Scene { book: Book::default(), now: at(now), budgets: Budgets { key: key_budget, customer } };
        for command in opening().into_iter().chain([Command::CreateKey(key(2))]) {
            scene.act(command).expect("a good command");
        }
        scene
    }

    fn act(&mut self, command: Command) -> Result<(), Refusal> {
        for change in self.book.decide(ADA, command, self.now)? {
            self.book.apply(ADA, &change, self.now).expect("it was decided");
        }
        self.book.audit().expect("it adds up");
        Ok(())
    }

    fn hold(&mut self, key: KeyId, request: u128, amount: i128) -> Result<(), Refusal> {
        self.hold_some(key, request, amount, amount)
    }

    fn hold_some(&mut self, key: KeyId, request: u128, amount: i128, least: i128) -> Result<(), Refusal> {
        let Terms { request, amount, price_version, .. } = terms(request, amount);
        let (least, budgets) = (atto(least), self.budgets);
        self.act(Command::Hold { request, key, amount, least, budgets, price_version, mark: None })
    }

    fn extend(&mut self, request: u128, amount: i128, least: i128) -> Result<(), Refusal> {
        let progress = Progress { charge: atto(0).into(), record: record(0) };
        let (request, budgets) = (RequestId::from_int(request), self.budgets);
        let (amount, least) = (atto(amount), atto(least));
        self.act(Command::Extend { request, amount, least, budgets, progress })
    }

    fn held(&self, request: u128) -> i128 {
        self.book.customers[&ADA].holds[&RequestId::from_int(request)].amount.atto_usd()
    }

    fn capture(&mut self, request: u128, amount: i128) {
        let (request, charge) = (RequestId::from_int(request), atto(amount).into());
        self.act(Command::Capture { request, charge, record: record(amount), object: None })
            .expect("it is open");
    }

    fn release(&mut self, request: u128) {
        let (request, record) = (RequestId::from_int(request), Arc::from(&[][..]));
        self.act(Command::Release { request, record }).expect("it is open");
    }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

fn day(amount: i128) -> Budget {
    Budget { day: Some(atto(amount)), ..Budget::default() }
}

fn month(amount: i128) -> Budget {
    Budget { month: Some(atto(amount)), ..Budget::default() }
}

fn total(amount: i128) -> Budget {
    Budget { total: Some(atto(amount)), ..Budget::default() }
}

fn over(of: Spender, period: Period, limit: i128, left: i128, until: Option<&str>) -> Result<(), Refusal> {
    let (limit, left, until) = (atto(limit), atto(left), until.map(at));
    Err(Refusal::OverBudget(Spare { of, period, limit, left, until }))
}

const OTHER: KeyId = KeyId::from_int(2);

#[test]
fn a_day_is_spent_to_the_last_unit_and_begins_anew_at_midnight() {
    let mut scene = Scene::new("2027-01-30T10:00:00Z", day(100), Budget::default());
    let until = Some("2027-01-31");
    assert_eq!(scene.hold(KEY, 1, 101), over(Spender::Key, Period::Day, 100, 100, until));
    scene.hold(KEY, 1, 60).expect("60 of 100");
    assert_eq!(
        scene.hold(KEY, 2, 41),
        over(Spender::Key, Period::Day, 100, 40, until),
        "what is held counts"
    );
    scene.hold(KEY, 2, 40).expect("to the last unit");
    assert_eq!(scene.hold(KEY, 3, 1), over(Spender::Key, Period::Day, 100, 0, until));
    scene.hold(KEY, 4, 0).expect("what is free costs nothing");
    scene.hold(OTHER, 5, 100).expect("another key");
    scene.capture(1, 25);
    scene.release(2);
    assert_eq!(scene.hold(KEY, 6, 76), over(Spender::Key, Period::Day, 100, 75, until));
    scene.now = at("2027-01-30T23:59:59.999999Z");
    assert_eq!(scene.hold(KEY, 6, 76), over(Spender::Key, Period::Day, 100, 75, until));
    scene.now = at("2027-01-31");
    scene.hold(KEY, 6, 100).expect("a new day");
    // What is charged beyond a hold is spent as well.
    scene.capture(6, 130);
    assert_eq!(scene.hold(KEY, 7, 1), over(Spender::Key, Period::Day, 100, 0, Some("2027-02-01")));
}

#[test]
fn a_month_ends_with_its_last_day_and_a_total_never() {
    let mut scene = Scene::new("2028-02-28T12:00:00Z", total(150), month(100));
    scene.hold(KEY, 1, 80).expect("80 of 100");
    scene.capture(1, 80);
    scene.now = at("2028-02-29T23:59:59.999999Z");
    let until = Some("2028-03-01");
    assert_eq!(scene.hold(OTHER, 2, 21), over(Spender::Customer, Period::Month, 100, 20, until), "all keys");
    scene.now = at("2028-03-01");
    assert_eq!(scene.hold(KEY, 2, 71), over(Spender::Key, Period::Total, 150, 70, None));
    scene.hold(KEY, 2, 70).expect("to the last unit");
    scene.capture(2, 70);
    scene.now = at("2030-01-01");
    assert_eq!(scene.hold(KEY, 3, 1), over(Spender::Key, Period::Total, 150, 0, None));
    scene.budgets.key = total(151);
    scene.hold(KEY, 3, 1).expect("more may be spent at once");
    scene.budgets.key = total(10);
    assert_eq!(scene.hold(KEY, 4, 1), over(Spender::Key, Period::Total, 10, 0, None), "and less");
}

#[test]
fn the_tightest_bound_is_what_is_granted_and_told() {
    let mut scene = Scene::new("2027-01-30", day(100), day(90));
    scene.hold_some(KEY, 1, 200, 90).expect("90 are there");
    assert_eq!(scene.held(1), 90);
    let refused = scene.hold_some(KEY, 2, 200, 1);
    assert_eq!(refused, over(Spender::Customer, Period::Day, 90, 0, Some("2027-01-31")));
    scene.budgets = Budgets { key: day(2 * DEPOSIT), customer: Budget::default() };
    scene.hold_some(KEY, 2, 2 * DEPOSIT, 1).expect("all that is there");
    assert_eq!(scene.held(2), DEPOSIT - 90);
    let nothing = Err(Refusal::InsufficientCredit { available: atto(0) });
    assert_eq!(scene.hold_some(KEY, 3, 5, 1), nothing);
}

#[test]
fn an_extension_is_bound_as_a_hold_is() {
    let mut scene = Scene::new("2027-01-30", day(100), day(150));
    scene.hold(KEY, 1, 60).expect("60 of 100");
    scene.extend(1, 30, 30).expect("90 of 100");
    let until = Some("2027-01-31");
    assert_eq!(scene.extend(1, 30, 11), over(Spender::Key, Period::Day, 100, 10, until));
    scene.extend(1, 30, 10).expect("what is left will do");
    assert_eq!((scene.held(1), scene.extend(1, 1, 1)), (100, over(Spender::Key, Period::Day, 100, 0, until)));
    scene.hold(OTHER, 2, 40).expect("140 of 150");
    scene.extend(2, 60, 1).expect("to the last unit");
    assert_eq!(scene.held(2), 50);
    assert_eq!(scene.extend(2, 1, 1), over(Spender::Customer, Period::Day, 150, 0, until));
    scene.budgets = Budgets::default();
    scene.extend(2, 2 * DEPOSIT, 1).expect("all that is there");
    let nothing = Err(Refusal::InsufficientCredit { available: atto(0) });
    assert_eq!((scene.held(2), scene.extend(2, 1, 1)), (DEPOSIT - 100, nothing));
}

#[test]
fn what_was_spent_and_is_held_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Ledger::open(folder.path(), Box::new(|_| {})).expect("a good store");
    let budgets = Budgets { key: total(100), customer: Budget::default() };
    let (mut ledger, _) = open();
    create_ada(&ledger).expect("new");
    let held = |ledger: &Arc<Ledger>, request, amount| {
        ledger.hold(Terms { budgets, ..terms(request, amount) }).map(|(hold, _)| hold)
    };
    for request in [1, 2] {
        let hold = held(&ledger, request, 30).expect("30 of what is left");
        let amount = if request == 2 { 35 } else { 30 };
        let mut applied = hold.capture(atto(amount), record(amount));
        block_on(applied.commit.durable()).expect("the disk is well");
        // The next is written to a state that has this one.
        ledger.close();
        drop(ledger);
        let (again, recovered) = open();
        assert_eq!((recovered.rebuilt, recovered.replayed), (None, 0));
        ledger = again;
    }
    let spare =
        Spare { of: Spender::Key, period: Period::Total, limit: atto(100), left: atto(35), until: None };
    let refused = held(&ledger, 3, 36).map(drop);
    assert_eq!(refused, Err(Failure::Refused(Refusal::OverBudget(spare))));
    drop(held(&ledger, 3, 35).expect("to the last unit"));
}
