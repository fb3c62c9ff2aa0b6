//! What is kept elsewhere for a customer is found by its name, for its owner alone, as long as it counts.

use super::super::command::check_form;
use super::super::entry::KeyCreated;
use super::super::{Command, Ledger, Owned, Refusal, Terms};
use super::bench::{ADA, Bench, atto, block_on, record, terms};
use super::memory::Memory;
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use std::sync::Arc;

const EVE: CustomerId = CustomerId::from_int(8);
const EVES_KEY: KeyId = KeyId::from_int(2);
const CHARGES: u128 = 150;
const EVER: Timestamp = Timestamp::from_micros(0);

fn create_eve(ledger: &Ledger) {
    let created =
        KeyCreated { key: EVES_KEY, digest: KeyDigest([8; 32]), prefix: "".into(), name: "".into() };
    block_on(async {
        ledger.create_customer(EVE, "Eve".into()).await.expect("new");
        ledger.create_key(EVE, created).await.expect("new");
        ledger.deposit(EVE, atto(1_000), "first".into()).await.expect("new");
    });
}

/// A charge that names what was made for it.
fn charge(ledger: &Arc<Ledger>, terms: Terms, object: &str) {
    let (hold, _) = ledger.hold(terms).expect("rich enough");
    let applied = hold.capture_for(atto(1), record(1), Some(object.into()));
    applied.commit.wait().expect("the disk is well");
}

fn eves(request: u128) -> Terms {
    Terms { customer: EVE, key: EVES_KEY, ..terms(request, 1) }
}

#[track_caller]
fn check(ledger: &Ledger, customer: CustomerId, object: &str, expect: Option<u128>) {
    let found = ledger.owned(customer, object, EVER).expect("readable");
    let owned = |request| Owned { request: RequestId::from_int(request), record: record(1), at_work: false };
    assert_eq!(found, expect.map(owned), "{object}");
}

/// Over several segments, in that which is written, and from the indexes of full ones.
fn check_all(ledger: &Ledger, told: &str) {
    for request in 1..=CHARGES {
        check(ledger, ADA, &format!("resp_{request}"), Some(request));
    }
    check(ledger, EVE, "resp_1", None);
    check(ledger, ADA, "resp_0", None);
    // A provider that gives a name twice, to whom it may.
    check(ledger, EVE, "resp_twice", Some(1_001));
    check(ledger, ADA, "resp_twice", Some(1_003));
    let all = ledger.entries_of_request(RequestId::from_int(1_003)).expect("readable");
    assert_eq!(all.len(), 2, "{told}");
}

#[test]
fn what_is_kept_is_found_for_its_owner_alone() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    create_eve(&bench.ledger);
    charge(&bench.ledger, terms(1_000, 1), "resp_twice");
    charge(&bench.ledger, eves(1_001), "resp_twice");
    for request in 1..=CHARGES {
        charge(&bench.ledger, terms(request, 1), &format!("resp_{request}"));
    }
    charge(&bench.ledger, terms(1_003, 1), "resp_twice");
    check_all(&bench.ledger, "as it was written");
    bench.ledger.close();
    assert!(memory.segments().len() >= 3, "{:?}", memory.names());
    let bench = Bench::on(&memory).expect("whole");
    check_all(&bench.ledger, "from what was kept");
    bench.ledger.close();
    memory.sidecars().iter().for_each(|sidecar| drop(memory.lose(sidecar)));
    let bench = Bench::on(&memory).expect("whole");
    assert!(bench.indexed >= 2);
    check_all(&bench.ledger, "from the journal alone");
}

#[track_caller]
fn check_shelf(ledger: &Ledger, customer: CustomerId, shelf: &str, expect: &[(&str, u128)]) {
    let found = ledger.shelf(customer, shelf, EVER).expect("readable");
    let found: Vec<_> = found.iter().map(|kept| (&*kept.object, kept.owned.request)).collect();
    let expect: Vec<_> =
        expect.iter().map(|(object, request)| (*object, RequestId::from_int(*request))).collect();
    assert_eq!(found, expect, "{shelf}");
}

#[test]
fn a_shelf_has_all_that_its_customer_keeps_there() {
    let memory = Memory::default();
    let bench = Bench::on(&memory).expect("a new store");
    bench.create_ada().expect("new");
    create_eve(&bench.ledger);
    charge(&bench.ledger, terms(1_000, 1), "files/a");
    charge(&bench.ledger, eves(1_001), "files/b");
    charge(&bench.ledger, terms(1_002, 1), "batches/a");
    for request in 1..=CHARGES {
        charge(&bench.ledger, terms(request, 1), &format!("resp_{request}"));
    }
    charge(&bench.ledger, terms(1_003, 1), "files/c");
    // What is said later of one stands in its place.
    charge(&bench.ledger, terms(1_004, 1), "files/a");
    // A batch has files.
    charge(&bench.ledger, terms(1_005, 1), "batches/b files/d files/e");
    let check_all = |ledger: &Ledger| {
        let files = [("files/a", 1_004), ("files/c", 1_003), ("files/d", 1_005), ("files/e", 1_005)];
        check_shelf(ledger, ADA, "files", &files);
        check_shelf(ledger, ADA, "batches", &[("batches/a", 1_002), ("batches/b", 1_005)]);
        for name in ["batches/b", "files/d", "files/e"] {
            let found = ledger.owned(ADA, name, EVER).expect("readable").map(|owned| owned.request);
            assert_eq!(found, Some(RequestId::from_int(1_005)), "{name}");
            check(ledger, EVE, name, None);
        }
        check_shelf(ledger, EVE, "files", &[("files/b", 1_001)]);
        check_shelf(ledger, EVE, "batches", &[]);
        check_shelf(ledger, ADA, "", &[]);
        check(ledger, EVE, "files/a", None);
    };
    check_all(&bench.ledger);
    bench.ledger.close();
    assert!(memory.segments().len() >= 3, "{:?}", memory.names());
    let bench = Bench::on(&memory).expect("whole");
    check_all(&bench.ledger);
    let later = bench.ledger.entries_of_request(RequestId::from_int(1_003)).expect("readable");
    let since = Timestamp::from_micros(later.last().expect("it was charged").at.micros());
    let found = bench.ledger.shelf(ADA, "files", since).expect("readable");
    assert!(found.iter().any(|kept| *kept.object == *"files/c"), "{found:?}");
    assert!(found.iter().all(|kept| *kept.object != *"batches/a"), "{found:?}");
}

#[test]
fn what_was_made_too_long_ago_does_not_count() {
    let bench = Bench::on(&Memory::default()).expect("a new store");
    bench.create_ada().expect("new");
    charge(&bench.ledger, terms(1, 1), "resp_1");
    let entries = bench.ledger.entries_of_request(RequestId::from_int(1)).expect("readable");
    let made = entries.last().expect("it was charged").at;
    let since = |micros| bench.ledger.owned(ADA, "resp_1", Timestamp::from_micros(micros)).expect("readable");
    assert!(since(made.micros()).is_some());
    assert_eq!(since(made.micros() + 1), None);
}

/// Who does not have the journal any more does not say that something is not there.
#[test]
fn a_ledger_that_was_lent_does_not_deny_what_it_cannot_see() {
    let bench = Bench::on(&Memory::default()).expect("a new store");
    bench.create_ada().expect("new");
    charge(&bench.ledger, terms(1, 1), "resp_1");
    let lent = bench.ledger.lend().expect("the disk is well");
    check(&bench.ledger, ADA, "resp_1", Some(1));
    assert!(bench.ledger.owned(ADA, "resp_2", EVER).is_err());
    lent.take_back();
    check(&bench.ledger, ADA, "resp_2", None);
}

#[test]
fn what_has_no_name_is_refused() {
    for name in [String::new(), "x".repeat(257), "a\nb".to_owned()] {
        let (request, charge, record) = (RequestId::from_int(1), atto(0).into(), record(0));
        let command = Command::Capture { request, charge, record, object: Some(name.as_str().into()) };
        assert!(matches!(check_form(&command), Err(Refusal::Malformed(_))), "{name:?}");
    }
}
