//! The whole ledger on a real disk: what threads were told against what a restart finds.

use super::{SEED, new_key};
use fastrand::Rng;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use tollgate::id::{CustomerId, KeyId, RequestId};
use tollgate::ledger::Terms;
use tollgate::ledger::{
    self, Booking, BookingKind, Budgets, Commit, Failure, Ledger, Recovered, Refusal, Seq,
};
use tollgate::money::Amount;

const THREADS: u64 = 8;
const REQUESTS_EACH: u64 = 150;
const RICH: CustomerId = CustomerId::from_int(1);
const POOR: CustomerId = CustomerId::from_int(65);
const KEY: KeyId = KeyId::from_int(1);

fn open(directory: &Path) -> (Arc<Ledger>, Recovered) {
    Ledger::open(directory, Box::new(|_| {})).expect("the store opens")
}

/// The records of these tests are their charges.
fn recompute(record: &[u8]) -> Result<Amount, String> {
    let text = std::str::from_utf8(record).map_err(|why| why.to_string())?;
    text.parse().map(Amount::from_atto_usd).map_err(|why| format!("{why}"))
}

fn atto(units: i128) -> Amount {
    Amount::from_atto_usd(units)
}

fn create(ledger: &Ledger, runtime: &tokio::runtime::Handle, customer: CustomerId, deposit: i128) {
    runtime.block_on(async {
        ledger.create_customer(customer, "Ada".into()).await.expect("new");
        ledger.create_key(customer, new_key(KEY.int(), customer.int())).await.expect("new");
        ledger.deposit(customer, atto(deposit), "first".into()).await.expect("new");
    });
}

fn terms(customer: CustomerId, request: u128, amount: i128) -> Terms {
    let request = RequestId::from_int(request);
    let (amount, budgets, price_version) = (atto(amount), Budgets::default(), "1".into());
    Terms { customer, key: KEY, request, amount, least: amount, budgets, price_version, mark: None }
}

/// What one thread was told.
#[derive(Default)]
struct Told {
    charged_rich: i128,
    charged_poor: i128,
    acknowledged: u64,
    refused: u64,
}

fn work(ledger: &Arc<Ledger>, runtime: &tokio::runtime::Handle, number: u64) -> Told {
    let mut rng = Rng::with_seed(SEED + number);
    let mut told = Told::default();
    let durable =
        |mut commit: Commit| runtime.block_on(async { commit.durable().await }).expect("the disk is well");
    for place in 0..REQUESTS_EACH {
        let customer = if rng.u32(0..3) == 0 { POOR } else { RICH };
        let request = u128::from(number * REQUESTS_EACH + place + 1);
        let amount = rng.i128(1..1_000);
        let (hold, held) = match ledger.hold(terms(customer, request, amount)) {
            Ok(held) => held,
            Err(Failure::Refused(Refusal::InsufficientCredit { available })) => {
                assert!(available < atto(amount) && customer == POOR, "I3");
                told.refused += 1;
                continue;
            }
            Err(other) => panic!("{other:?}"),
        };
        if rng.bool() {
            durable(held);
        }
        match rng.u32(0..10) {
            0 => drop(hold),
            1 => drop(durable(hold.release(Arc::from(&[][..])).commit)),
            _ => {
                // Above the hold only where the balance always reaches: then it is charged in full.
                let beyond = if customer == RICH { rng.i128(0..50) } else { 0 };
                let charge = rng.i128(0..=amount) + beyond;
                let commit = hold.capture(atto(charge), charge.to_string().as_bytes().into()).commit;
                durable(commit);
                told.acknowledged += 1;
                *(if customer == RICH { &mut told.charged_rich } else { &mut told.charged_poor }) += charge;
            }
        }
    }
    told
}

#[test]
fn balances_after_a_restart_are_what_many_threads_were_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let handle = runtime.handle();
    let (ledger, _) = open(folder.path());
    create(&ledger, handle, RICH, 1_000_000_000);
    create(&ledger, handle, POOR, 40_000);

    let told: Vec<Told> = thread::scope(|scope| {
        let ledger = &ledger;
        let threads: Vec<_> =
            (0..THREADS).map(|number| scope.spawn(move || work(ledger, handle, number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread's own asserts hold")).collect()
    });
    let acknowledged: u64 = told.iter().map(|told| told.acknowledged).sum();
    let refused: u64 = told.iter().map(|told| told.refused).sum();
    assert!(acknowledged > THREADS * REQUESTS_EACH / 2, "{acknowledged} charges");
    assert!(refused > 0, "the poor customer is refused now and then");

    // Holds that are open when the store is closed: their requests never end.
    let (open_hold, mut commit) = ledger.hold(terms(RICH, u128::MAX, 77)).expect("rich enough");
    runtime.block_on(async { commit.durable().await }).expect("the disk is well");
    assert_eq!(ledger.holds_open(), 1, "I4");
    let verified = ledger.verify(&recompute, None).expect("verifies while it is open");
    assert_eq!((verified.captures, verified.open_holds), (acknowledged, 1));
    ledger.close();
    drop((open_hold, ledger));

    let expect = |deposit: i128, charged: fn(&Told) -> i128| deposit - told.iter().map(charged).sum::<i128>();
    let (rich, poor) =
        (expect(1_000_000_000, |told| told.charged_rich), expect(40_000, |told| told.charged_poor));
    let verified = ledger::verify_stopped(folder.path(), &recompute, None).expect("verifies");
    assert_eq!((verified.captures, verified.open_holds), (acknowledged, 1));
    let (ledger, recovered) = open(folder.path());
    assert_eq!((recovered.expired.released, recovered.torn_bytes, recovered.rebuilt), (1, 0, None));
    for (customer, balance) in [(RICH, rich), (POOR, poor)] {
        let found = ledger.customer(customer, |found| found.balance).expect("known");
        assert_eq!((found.available, found.held), (atto(balance), Amount::ZERO), "I2: {customer}");
    }
    ledger.close();
    drop(ledger);
    let verified = ledger::verify_stopped(folder.path(), &recompute, None).expect("verifies");
    assert_eq!((verified.open_holds, verified.balances), (0, atto(rich + poor)), "I4, I7");
}

#[test]
fn one_reference_from_many_threads_is_one_deposit() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let handle = runtime.handle();
    let (ledger, _) = open(folder.path());
    create(&ledger, handle, RICH, 1);
    let entries: Vec<Seq> = thread::scope(|scope| {
        let pay_in = || handle.block_on(ledger.deposit(RICH, atto(25), "invoice 1".into()));
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(pay_in)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic").expect("one deposit").0).collect()
    });
    assert!(entries.iter().all(|entry| *entry == entries[0]), "{entries:?}");
    let other = handle.block_on(ledger.deposit(RICH, atto(26), "invoice 1".into()));
    let before = Booking { kind: BookingKind::Deposit, amount: atto(25), reason: "".into() };
    assert_eq!(other, Err(Failure::Refused(Refusal::ReferenceUsed(before))));
    assert_eq!(ledger.customer(RICH, |found| found.balance.posted()), Some(atto(26)));
    let stolen = handle.block_on(ledger.create_key(RICH, new_key(2, RICH.int())));
    assert_eq!(stolen, Err(Failure::Refused(Refusal::KeyExists)), "a digest belongs to one key");
}

/// Records of the largest size fill a segment of 64 MiB with about a thousand charges.
#[test]
fn a_full_segment_is_followed_by_another_and_both_are_read() {
    const CHARGES: u128 = 1_100;
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (ledger, _) = open(folder.path());
    create(&ledger, runtime.handle(), RICH, 1_000_000);
    let record: Arc<[u8]> = [vec![b'0'; 65_535], b"1".to_vec()].concat().into();
    let mut last = None;
    for request in 1..=CHARGES {
        let (hold, _) = ledger.hold(terms(RICH, request, 1)).expect("rich enough");
        last = Some(hold.capture(atto(1), Arc::clone(&record)).commit);
    }
    let mut last = last.expect("some charges");
    runtime.block_on(last.durable()).expect("the disk is well");
    let files = |kind: &str| {
        let files = std::fs::read_dir(folder.path().join("journal")).expect("a journal");
        files
            .filter(|file| file.as_ref().is_ok_and(|file| file.path().extension() == Some(kind.as_ref())))
            .count()
    };
    assert_eq!(files("log"), 2);
    let check = |ledger: &Ledger| {
        for request in [1, 2, CHARGES / 2, CHARGES - 1, CHARGES] {
            let entries = ledger.entries_of_request(RequestId::from_int(request)).expect("readable");
            assert_eq!(
                entries.iter().map(|entry| entry.change.name()).collect::<Vec<_>>(),
                ["hold", "capture"]
            );
        }
    };
    check(&ledger);
    ledger.close();
    assert_eq!((files("log"), files("index")), (2, 1), "the full one has a sidecar");
    drop(ledger);
    let (ledger, recovered) = open(folder.path());
    assert_eq!((recovered.expired.released, recovered.torn_bytes, recovered.rebuilt), (0, 0, None));
    assert_eq!((recovered.replayed, recovered.indexed), (0, 0), "the state has it all");
    check(&ledger);
    assert_eq!(u128::from(ledger.verify(&recompute, None).expect("verifies").captures), CHARGES);
}
