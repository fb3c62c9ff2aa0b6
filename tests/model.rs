//! The book against a plain reference book that shares no code with it, and the whole ledger under
//! many threads.
//!
//! ```text
//! TOLLGATE_MODEL_OPERATIONS=10000000 TOLLGATE_MODEL_SEED=7 cargo test --release --test model
//! ```

#[path = "model/ledger.rs"]
mod ledger;
#[path = "model/reference.rs"]
mod reference;

use fastrand::Rng;
use reference::{DEPOSIT_MAX, Moved, Operation, Reference, Said};
use std::collections::BTreeMap;
use std::sync::Arc;
use tollgate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use tollgate::ledger::entry::Account;
use tollgate::ledger::{Book, Change, Command, KeyCreated, Refusal, Release};
use tollgate::money::Amount;

const OPERATIONS: u64 = 100_000;
const SEED: u64 = 0x7011_6a7e;
/// How many operations lie between two audits of everything.
const AUDIT_EVERY: u64 = 1_000;
/// Ids are drawn from few, so that they meet, with one more than are ever created.
const CUSTOMERS: u64 = 8;
/// Revoked for good, so that there must be some to spare.
const KEYS: u64 = 100_000;
const REFERENCES: u64 = 40;
/// Requests that operations may still name: open ones and some that have ended.
const REQUESTS_KEPT: usize = 60;

/// The book under test, and the sum of the legs of each customer's entries.
#[derive(Default)]
struct Tested {
    book: Book,
    legs: BTreeMap<u64, i128>,
    digests: u64,
}

impl Tested {
    fn act(&mut self, operation: &Operation, told: &str) -> Said {
        let (customer, command) = self.command(operation);
        let decided = match self.book.decide(CustomerId::from_int(customer), command) {
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
            let balance = self.book.apply(CustomerId::from_int(customer), change);
            let balance = balance.unwrap_or_else(|why| panic!("{why}; {told}"));
            assert!(!balance.available.is_negative(), "I3: {balance:?}; {told}");
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
                let amount = Amount::from_atto_usd(amount);
                (customer, Command::Hold { request, key, amount, price_version: "1".into() })
            }
            Operation::Capture { customer, request, amount } => {
                let (request, amount) = (RequestId::from_int(request), Amount::from_atto_usd(amount));
                (customer, Command::Capture { request, amount, record: Arc::from(&b"{}"[..]) })
            }
            Operation::Release { customer, request } => {
                let request = RequestId::from_int(request);
                (customer, Command::Release { request, reason: Release::Failed, record: Arc::from(&[][..]) })
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
            | Change::Deposited { .. }
            | Change::Held { .. } => {}
        }
    }
}

fn new_key(key: u64, digest: u64) -> KeyCreated {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&digest.to_le_bytes());
    let (prefix, name) = ("tg_live_".into(), "".into());
    KeyCreated { key: KeyId::from_int(key), digest: KeyDigest(bytes), prefix, name }
}

fn said(refusal: &Refusal) -> Said {
    match refusal {
        Refusal::Malformed(_) => Said::Malformed,
        Refusal::UnknownCustomer => Said::UnknownCustomer,
        Refusal::CustomerExists => Said::CustomerExists,
        Refusal::UnknownKey => Said::UnknownKey,
        Refusal::KeyExists => Said::KeyExists,
        Refusal::ReferenceUsed { amount } => Said::ReferenceUsed(amount.atto_usd()),
        Refusal::DepositedAlready => Said::DepositedAlready,
        Refusal::HoldExists => Said::HoldExists,
        Refusal::UnknownHold => Said::UnknownHold,
        Refusal::InsufficientCredit { available } => Said::Insufficient(available.atto_usd()),
    }
}

/// Draws operations; many name what exists, some what does not.
struct Source {
    rng: Rng,
    requests: Vec<(u64, u128)>,
    next_request: u128,
}

impl Source {
    fn next(&mut self, reference: &Reference) -> Operation {
        let customer = self.rng.u64(0..=CUSTOMERS);
        match self.rng.u32(0..100) {
            0..2 => Operation::Create { customer: self.rng.u64(0..CUSTOMERS), name: self.name() },
            2..4 => Operation::CreateKey { customer, key: self.key(customer, reference, 10) },
            4 => Operation::RevokeKey { customer, key: self.key(customer, reference, 3) },
            5..14 => {
                let reference = self.rng.u64(0..REFERENCES) + 1_000 * self.rng.u64(0..50);
                Operation::Deposit { customer, amount: self.deposit(), reference }
            }
            14..55 => self.hold(customer, reference),
            55..92 => {
                let (customer, request) = self.request(customer, reference);
                let amount = self.capture(customer, request, reference);
                Operation::Capture { customer, request, amount }
            }
            _ => {
                let (customer, request) = self.request(customer, reference);
                Operation::Release { customer, request }
            }
        }
    }

    fn name(&mut self) -> String {
        "n".repeat([0, 1, 12, 256, 257][self.rng.usize(0..5)])
    }

    fn deposit(&mut self) -> i128 {
        match self.rng.u32(0..20) {
            0 => [0, -1, DEPOSIT_MAX + 1][self.rng.usize(0..3)],
            1 => DEPOSIT_MAX,
            // Few, so that a repeated reference often comes with the same amount.
            _ => [1, 400, 5_000, 20_000][self.rng.usize(0..4)],
        }
    }

    fn hold(&mut self, customer: u64, reference: &Reference) -> Operation {
        self.next_request += 1;
        let open = reference.customers.get(&customer).and_then(|plain| plain.holds.keys().next());
        let request = open.filter(|_| self.rng.u32(0..20) == 0).copied().unwrap_or(self.next_request);
        let available = reference.customers.get(&customer).map_or(0, |plain| plain.available);
        let amount = match self.rng.u32(0..20) {
            0 => available,
            1 => available + 1,
            2 => -1,
            3 => 0,
            _ => self.rng.i128(0..3_000),
        };
        self.requests.push((customer, request));
        if self.requests.len() > REQUESTS_KEPT {
            self.requests.swap_remove(self.rng.usize(..REQUESTS_KEPT));
        }
        Operation::Hold { customer, key: self.key(customer, reference, 20), request, amount }
    }

    /// An active key of the customer but once in `odd` times.
    fn key(&mut self, customer: u64, reference: &Reference, odd: u32) -> u64 {
        let known = reference.customers.get(&customer).map(|plain| &plain.keys);
        let active = |keys: &BTreeMap<u64, bool>| keys.iter().rev().find(|(_, on)| **on).map(|(key, _)| *key);
        match known.and_then(active) {
            Some(key) if self.rng.u32(0..odd) > 0 => key,
            Some(_) | None => self.rng.u64(0..KEYS),
        }
    }

    /// Mostly an open hold and whose it is.
    fn request(&mut self, stranger: u64, reference: &Reference) -> (u64, u128) {
        let kept = self.requests.get(self.rng.usize(..REQUESTS_KEPT)).copied();
        let (customer, request) = kept.unwrap_or((stranger, 0));
        let holds = reference.customers.get(&customer).map(|plain| &plain.holds);
        let open = holds.and_then(|holds| holds.range(..=request).next_back().or(holds.iter().next()));
        match (self.rng.u32(0..20), open) {
            (0, _) => (stranger, self.rng.u128(..)),
            (1, _) => (stranger, request),
            (2, _) | (_, None) => (customer, request),
            (_, Some((open, _))) => (customer, *open),
        }
    }

    /// Below, at and above the hold, and above the balance.
    fn capture(&mut self, customer: u64, request: u128, reference: &Reference) -> i128 {
        let plain = reference.customers.get(&customer);
        let held = plain.and_then(|plain| plain.holds.get(&request)).copied().unwrap_or(50);
        let available = plain.map_or(0, |plain| plain.available);
        match self.rng.u32(0..20) {
            0 => 0,
            1 => -1,
            2..5 => held,
            5 => held + 1,
            6 => held + available,
            7 => held + available + self.rng.i128(1..500),
            8..10 => held + self.rng.i128(0..200),
            _ => self.rng.i128(0..=held),
        }
    }
}

fn number_from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn the_book_says_what_a_plain_book_says_and_keeps_i1_to_i5_and_i7() {
    let seed = number_from_environment("TOLLGATE_MODEL_SEED", SEED);
    let operations = number_from_environment("TOLLGATE_MODEL_OPERATIONS", OPERATIONS);
    let mut source = Source { rng: Rng::with_seed(seed), requests: Vec::new(), next_request: 0 };
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
        let totals = &tested.book.totals;
        let totals = (totals.cash, totals.revenue, totals.written_off);
        let totals = (totals.0.atto_usd(), totals.1.atto_usd(), totals.2.atto_usd());
        assert_eq!(totals, (reference.cash, reference.revenue, reference.written_off), "I7: {told}");
        if number % AUDIT_EVERY == 0 || number == operations {
            audit(&tested, &reference, &told);
        }
    }
    // It must have been about something: each kind of end and each refusal came up.
    let seldom: Vec<_> =
        WORDS.iter().filter(|word| counts.get(*word).copied().unwrap_or(0) < operations / 2_000).collect();
    assert!(seldom.is_empty(), "seed {seed}: seldom or never: {seldom:?} of {counts:?}");
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
        balances += plain.available + plain.held;
    }
    assert_eq!(reference.cash + reference.written_off, balances + reference.revenue, "I7: {told}");
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
        | Operation::Release { customer, .. } => *customer,
    }
}

const WORDS: [&str; 16] = [
    "deposit",
    "hold",
    "capture below",
    "capture at",
    "overage",
    "written off",
    "release",
    "malformed",
    "unknown customer",
    "unknown key",
    "reference used",
    "deposited already",
    "hold exists",
    "unknown hold",
    "insufficient",
    "key exists",
];

fn words(operation: &Operation, said: &Said) -> Vec<&'static str> {
    match (operation, said) {
        (Operation::Deposit { .. }, Said::Done(_)) => vec!["deposit"],
        (Operation::Hold { .. }, Said::Done(_)) => vec!["hold"],
        (Operation::Release { .. }, Said::Done(_)) => vec!["release"],
        (Operation::Capture { .. }, Said::Done(moved)) => {
            let ends = [
                (moved.released > 0, "capture below"),
                (moved.released == 0 && moved.overage + moved.written_off == 0, "capture at"),
                (moved.overage > 0, "overage"),
                (moved.written_off > 0, "written off"),
            ];
            ends.into_iter().filter_map(|(came, word)| came.then_some(word)).collect()
        }
        (_, Said::Done(_)) => vec!["other"],
        (_, Said::Malformed) => vec!["malformed"],
        (_, Said::UnknownCustomer) => vec!["unknown customer"],
        (_, Said::UnknownKey) => vec!["unknown key"],
        (_, Said::ReferenceUsed(_)) => vec!["reference used"],
        (_, Said::DepositedAlready) => vec!["deposited already"],
        (_, Said::UnknownHold) => vec!["unknown hold"],
        (_, Said::Insufficient(_)) => vec!["insufficient"],
        (_, Said::CustomerExists) => vec!["customer exists"],
        (_, Said::KeyExists) => vec!["key exists"],
        (_, Said::HoldExists) => vec!["hold exists"],
    }
}
