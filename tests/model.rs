//! The book against a plain reference book that shares no code with it, and the whole ledger under
//! many threads. The pool against what its bench promises.
//!
//! ```text
//! TOLLGATE_MODEL_OPERATIONS=10000000 TOLLGATE_MODEL_SEED=7 cargo test --release --test model
//! ```

#[path = "model/ledger.rs"]
mod ledger;
#[path = "model/pool.rs"]
mod pool;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/said.rs"]
mod said;
#[path = "model/source.rs"]
mod source;
#[path = "model/words.rs"]
mod words;

use reference::{Moved, Operation, Reference, Said};
use said::{said, standing};
use source::{Crowd, Source};
use std::collections::BTreeMap;
use std::sync::Arc;
use tollgate::clock::Timestamp;
use tollgate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use tollgate::ledger::legs::Account;
use tollgate::ledger::{
    Book, Budgets, Change, Charge, Charged, Command, KeyCreated, Note, Progress, Refusal, Standing, Step,
};
use tollgate::money::Amount;
use words::{WORDS, words};

const OPERATIONS: u64 = 100_000;
/// The reference has no clock: what depends on one is tested beside it.
const NOW: Timestamp = Timestamp::from_micros(1);
const SEED: u64 = 0x7011_6a7e;
/// How many operations lie between two audits of everything.
const AUDIT_EVERY: u64 = 1_000;
const CROWD: Crowd = Crowd { customers: 8, references: 2_000 };

/// The book under test, and the sum of the legs of each customer's entries.
#[derive(Default)]
struct Tested {
    book: Book,
    legs: BTreeMap<u64, i128>,
    /// What the legs of each request took.
    paid: BTreeMap<u128, Amount>,
    digests: u64,
}

impl Tested {
    fn act(&mut self, operation: &Operation, told: &str) -> Said {
        let (customer, command) = self.command(operation);
        let decided = match self.book.decide(CustomerId::from_int(customer), command, NOW) {
            Ok(decided) => decided,
            Err(refusal) => return said(&refusal),
        };
        let mut moved = Moved::default();
        for change in &decided {
            let sum: i128 = change.legs().iter().map(|(_, amount)| amount.atto_usd()).sum();
            assert_eq!(sum, 0, "I1: the legs of {change:?} sum to zero; {told}");
            for (account, amount) in change.legs() {
                if matches!(account, Account::Available | Account::Held) {
                    *self.legs.entry(customer).or_default() += amount.atto_usd();
                }
            }
            moved.add(change);
            if let Change::Captured { request, .. } | Change::Overage { request, .. } = change {
                *self.paid.entry(request.int()).or_default() += change.paid();
            }
            let balance = self.book.apply(CustomerId::from_int(customer), change, NOW);
            let balance = balance.unwrap_or_else(|why| panic!("{why}; {told}"));
            let overdraft = self.book.customers[&CustomerId::from_int(customer)].overdraft;
            assert!(balance.available >= -overdraft, "I3: {balance:?}, {overdraft}; {told}");
        }
        Said::Done(moved)
    }

    fn command(&mut self, operation: &Operation) -> (u64, Command) {
        match *operation {
            Operation::Create { customer, ref name } => {
                (customer, Command::CreateCustomer { name: name.as_str().into() })
            }
            Operation::CreateKey { customer, key } => {
                self.digests += 1;
                (customer, Command::CreateKey(new_key(key, self.digests)))
            }
            Operation::RevokeKey { customer, key } => {
                (customer, Command::RevokeKey { key: KeyId::from_int(key) })
            }
            Operation::Deposit { customer, amount, reference } => {
                let reference = format!("invoice {reference}").into();
                (customer, Command::Deposit { amount: Amount::from_atto_usd(amount), reference })
            }
            Operation::Hold { customer, key, request, amount } => {
                let (key, request) = (KeyId::from_int(key), RequestId::from_int(request));
                let (amount, budgets) = (Amount::from_atto_usd(amount), Budgets::default());
                let price_version = "1".into();
                (
                    customer,
                    Command::Hold { request, key, amount, least: amount, budgets, price_version, mark: None },
                )
            }
            Operation::Capture { customer, request, amount } => {
                let (request, amount) = (RequestId::from_int(request), Amount::from_atto_usd(amount));
                let charge = Charge { amount, cost: Amount::from_atto_usd(7) };
                (customer, Command::Capture { request, charge, record: Arc::from(&b"{}"[..]), object: None })
            }
            Operation::Extend { customer, request, amount, least, so_far } => {
                let request = RequestId::from_int(request);
                let [amount, least, so_far] = [amount, least, so_far].map(Amount::from_atto_usd);
                let charge = Charge { amount: so_far, cost: Amount::from_atto_usd(7) };
                let (budgets, progress) = (Budgets::default(), Progress { charge, record: Arc::default() });
                (customer, Command::Extend { request, amount, least, budgets, progress })
            }
            Operation::Detach { customer, request } => {
                let (object, record) = ("resp_1".into(), Arc::default());
                (customer, Command::Detach { request: RequestId::from_int(request), object, record })
            }
            Operation::Expire { customer, request } => {
                (customer, Command::Expire { request: RequestId::from_int(request) })
            }
            Operation::Refund { customer, request, amount, reference } => {
                let paid = self.paid[&request];
                let request = RequestId::from_int(request);
                let charged = Charged { request, amount: paid, price_version: "1".into() };
                let amount = amount.map(Amount::from_atto_usd);
                let reference = format!("invoice {reference}").into();
                (customer, Command::Refund { charged, amount, reference, note: note() })
            }
            Operation::Adjust { customer, amount, reference } => {
                let reference = format!("invoice {reference}").into();
                let amount = Amount::from_atto_usd(amount);
                (customer, Command::Adjust { amount, reference, note: note() })
            }
            Operation::Overdraft { customer, amount } => {
                let amount = Amount::from_atto_usd(amount);
                (customer, Command::SetOverdraft { amount, note: note() })
            }
            Operation::WriteOff { customer, amount, reference } => {
                let reference = format!("invoice {reference}").into();
                let amount = amount.map(Amount::from_atto_usd);
                (customer, Command::WriteOff { amount, reference, note: note() })
            }
            Operation::Step { customer, step } => {
                let step = match step {
                    reference::Step::Suspend => Step::Suspend,
                    reference::Step::Resume => Step::Resume,
                    reference::Step::Ban => Step::Ban,
                    reference::Step::Unban => Step::Unban,
                };
                (customer, Command::ChangeStanding { step, note: note() })
            }
            Operation::Release { customer, request } => {
                let request = RequestId::from_int(request);
                (customer, Command::Release { request, record: Arc::default() })
            }
        }
    }
}

impl Moved {
    fn add(&mut self, change: &Change) {
        match change {
            Change::Captured { amount, released, .. } => {
                self.captured += amount.atto_usd();
                self.released += released.atto_usd();
            }
            Change::Overage { amount, .. } => self.overage += amount.atto_usd(),
            Change::WrittenOff { amount, .. } => self.written_off += amount.atto_usd(),
            Change::Released { amount, .. } => self.released += amount.atto_usd(),
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::OverdraftSet { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. }
            | Change::Extended { .. }
            | Change::Detached { .. }
            | Change::Held { .. } => {}
            Change::Deposited { amount, .. }
            | Change::Refunded { amount, .. }
            | Change::DebtWrittenOff { amount, .. }
            | Change::Adjusted { amount, .. } => self.booked += amount.atto_usd(),
            Change::Forfeited { amount, .. } => self.forfeited += amount.atto_usd(),
            Change::ForfeitureReversed { amount, .. } => self.forfeited -= amount.atto_usd(),
        }
    }
}

fn note() -> Note {
    Note { by: "model".into(), reason: "as drawn".into() }
}

fn new_key(key: u64, digest: u64) -> KeyCreated {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&digest.to_le_bytes());
    let (prefix, name) = ("tg_live_".into(), "".into());
    KeyCreated { key: KeyId::from_int(key), digest: KeyDigest(bytes), prefix, name }
}

fn number_from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn the_book_says_what_a_plain_book_says_and_keeps_i1_to_i5_and_i7() {
    let seed = number_from_environment("TOLLGATE_MODEL_SEED", SEED);
    let operations = number_from_environment("TOLLGATE_MODEL_OPERATIONS", OPERATIONS);
    let mut source = Source::new(seed, CROWD);
    let (mut reference, mut tested) = (Reference::default(), Tested::default());
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for number in 1..=operations {
        let operation = source.next(&reference);
        let told = format!("seed {seed}, operation {number}: {operation:?}");
        let expect = reference.act(&operation);
        let got = tested.act(&operation, &told);
        assert_eq!(got, expect, "{told}");
        check_i5(&operation, &got, &told);
        for word in words(&operation, &got) {
            *counts.entry(word).or_default() += 1;
        }
        check_customer(&tested, &reference, customer_of(&operation), &told);
        check_totals(&tested, &reference, &told);
        if number % AUDIT_EVERY == 0 || number == operations {
            audit(&tested, &reference, &told);
        }
    }
    // It must have been about something: each kind of end and each refusal came up.
    let seldom: Vec<_> =
        WORDS.iter().filter(|word| counts.get(*word).copied().unwrap_or(0) < operations / 2_000).collect();
    assert!(seldom.is_empty(), "seed {seed}: seldom or never: {seldom:?} of {counts:?}");
}

fn check_totals(tested: &Tested, reference: &Reference, told: &str) {
    let totals = tested.book.totals;
    let got =
        [totals.cash, totals.revenue, totals.written_off, totals.refunded, totals.adjusted, totals.forfeited];
    let Reference { cash, revenue, written_off, refunded, adjusted, forfeited, .. } = *reference;
    let expect = [cash, revenue, written_off, refunded, adjusted, forfeited];
    assert_eq!(got.map(Amount::atto_usd), expect, "I7: {told}");
}

/// I5: what was charged is captured + overage + written off, and captured + released is what was held.
fn check_i5(operation: &Operation, said: &Said, told: &str) {
    if let (Operation::Capture { amount, .. }, Said::Done(moved)) = (operation, said) {
        assert_eq!(moved.captured + moved.overage + moved.written_off, *amount, "I5: {told}");
        assert!(moved.overage == 0 || moved.released == 0, "I5: overage beside a release; {told}");
    }
}

fn check_customer(tested: &Tested, reference: &Reference, customer: u64, told: &str) {
    let got = tested.book.customers.get(&CustomerId::from_int(customer));
    let got = got.map(|found| (found.balance.available.atto_usd(), found.balance.held.atto_usd()));
    let expect = reference.customers.get(&customer).map(|plain| (plain.available, plain.held));
    assert_eq!(got, expect, "balance: {told}");
    let legs = tested.legs.get(&customer).copied().unwrap_or(0);
    assert_eq!(got.map_or(0, |(available, held)| available + held), legs, "I2: {told}");
}

fn audit(tested: &Tested, reference: &Reference, told: &str) {
    tested.book.audit().unwrap_or_else(|why| panic!("{why}; {told}"));
    assert_eq!(tested.book.customers.len(), reference.customers.len(), "{told}");
    let mut balances = 0;
    for (customer, plain) in &reference.customers {
        check_customer(tested, reference, *customer, told);
        let found = &tested.book.customers[&CustomerId::from_int(*customer)];
        let holds: BTreeMap<u128, i128> =
            found.holds.iter().map(|(request, hold)| (request.int(), hold.amount.atto_usd())).collect();
        assert_eq!(holds, plain.holds, "I4: open holds; {told}");
        assert_eq!(standing(&found.standing), plain.standing, "{told}");
        balances += plain.available + plain.held;
    }
    let Reference { cash, revenue, written_off, refunded, adjusted, forfeited, .. } = *reference;
    assert_eq!(cash + written_off + refunded + adjusted, balances + revenue + forfeited, "I7: {told}");
    let open: usize = reference.customers.values().map(|plain| plain.holds.len()).sum();
    assert_eq!(tested.book.open_holds().count(), open, "I4: {told}");
}

fn customer_of(operation: &Operation) -> u64 {
    match operation {
        Operation::Create { customer, .. }
        | Operation::CreateKey { customer, .. }
        | Operation::RevokeKey { customer, .. }
        | Operation::Deposit { customer, .. }
        | Operation::Hold { customer, .. }
        | Operation::Capture { customer, .. }
        | Operation::Release { customer, .. }
        | Operation::Extend { customer, .. }
        | Operation::Detach { customer, .. }
        | Operation::Expire { customer, .. }
        | Operation::Refund { customer, .. }
        | Operation::Adjust { customer, .. }
        | Operation::Overdraft { customer, .. }
        | Operation::WriteOff { customer, .. }
        | Operation::Step { customer, .. } => *customer,
    }
}
