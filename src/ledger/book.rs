//! The book: a pure state machine over commands.
//!
//! [`Book::decide`] turns a command into changes or a [`Refusal`], [`Book::apply`] folds a change
//! into the balances. Both the live book and every replay of the journal go through `apply`, which
//! checks each invariant again and reports a [`Broken`] book rather than going on.
//!
//! Deliberately absent: time, files, threads, sequence numbers.

use super::entry::{Account, Balance, Change, KeyCreated, Leg, Release};
use crate::id::{CustomerId, KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Names and references given from outside, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// What the caller has to say about a charge, in bytes: a receipt's detail is about 1 KiB.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// What is asked of the book. Each concerns one customer.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin to keep a customer.
    CreateCustomer {
        /// As the operator names them.
        name: Arc<str>,
    },
    /// Add a key.
    CreateKey(KeyCreated),
    /// End a key.
    RevokeKey {
        /// Which.
        key: KeyId,
    },
    /// Pay in.
    Deposit {
        /// Above zero, at most [`Amount::OUTSIDE_MAX`].
        amount: Amount,
        /// One deposit each.
        reference: Arc<str>,
    },
    /// Set aside for a request.
    Hold {
        /// New to the book.
        request: RequestId,
        /// Of the same customer.
        key: KeyId,
        /// At least zero.
        amount: Amount,
        /// The prices that will apply.
        price_version: Arc<str>,
    },
    /// End a hold by a charge.
    Capture {
        /// An open hold.
        request: RequestId,
        /// At least zero; may exceed the hold.
        amount: Amount,
        /// What it was for.
        record: Arc<[u8]>,
    },
    /// End a hold without a charge.
    Release {
        /// An open hold.
        request: RequestId,
        /// Why.
        reason: Release,
        /// What was tried.
        record: Arc<[u8]>,
    },
}

/// Why a command is not carried out: the world's fault, never ours. In order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Empty, too long, or not above zero where it must be.
    Malformed(&'static str),
    /// No such customer.
    UnknownCustomer,
    /// The customer exists already.
    CustomerExists,
    /// No such key of this customer, or it was revoked.
    UnknownKey,
    /// The key exists already, here or with another customer.
    KeyExists,
    /// The reference was used for another amount.
    ReferenceUsed {
        /// What it was used for.
        amount: Amount,
    },
    /// The very deposit was made before: nothing to do.
    DepositedAlready,
    /// The request has, or had, a hold.
    HoldExists,
    /// No open hold for the request.
    UnknownHold,
    /// The balance does not reach.
    InsufficientCredit {
        /// What is free.
        available: Amount,
    },
}

/// An invariant that does not hold: the journal does not say what a book of ours could have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// An open hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHold {
    /// By which key.
    pub key: KeyId,
    /// How much.
    pub amount: Amount,
    /// The prices that will apply.
    pub price_version: Arc<str>,
}

/// A key of a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// How it is recognised.
    pub digest: KeyDigest,
    /// Its first characters.
    pub prefix: Arc<str>,
    /// As its owner named it.
    pub name: Arc<str>,
    /// Whether it opens anything.
    pub status: KeyStatus,
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// It does.
    Active,
    /// It was revoked, for good.
    Revoked,
}

/// A customer and all that is open for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// As the operator named them.
    pub name: Arc<str>,
    /// What they have.
    pub balance: Balance,
    /// By id, in order.
    pub keys: BTreeMap<KeyId, Key>,
    /// By request.
    pub holds: HashMap<RequestId, OpenHold>,
    /// Deposits by reference.
    pub deposits: HashMap<Arc<str>, Amount>,
}

/// Sums over all customers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Deposits: what was received.
    pub cash: Amount,
    /// Charges.
    pub revenue: Amount,
    /// Charges that nobody pays.
    pub written_off: Amount,
}

impl Totals {
    /// Follows one movement of money, as far as it is not a customer's.
    pub fn follow(&mut self, (account, amount): Leg) {
        match account {
            Account::Cash => self.cash -= amount,
            Account::Revenue => self.revenue += amount,
            Account::WrittenOff => self.written_off -= amount,
            Account::Available | Account::Held => {}
        }
    }
}

/// Customers, their keys, balances and open holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// By id.
    pub customers: HashMap<CustomerId, Customer>,
    /// Sums.
    pub totals: Totals,
}

/// The changes of one command: they are written together or not at all.
pub type Changes = Vec<Change>;

impl Book {
    /// What a command would change.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies; the book is as it was.
    pub fn decide(&self, customer: CustomerId, command: Command) -> Result<Changes, Refusal> {
        check_form(&command)?;
        if let Command::CreateCustomer { name } = command {
            return match self.customers.contains_key(&customer) {
                true => Err(Refusal::CustomerExists),
                false => Ok(vec![Change::CustomerCreated { name }]),
            };
        }
        self.customers.get(&customer).ok_or(Refusal::UnknownCustomer)?.decide(command)
    }

    /// Folds one change in and returns the balance after it.
    ///
    /// # Errors
    /// [`Broken`] when an invariant would not hold; the book must not be used further then.
    pub fn apply(&mut self, customer: CustomerId, change: &Change) -> Result<Balance, Broken> {
        if let Change::CustomerCreated { name } = change {
            let fresh = Customer::new(Arc::clone(name));
            if self.customers.insert(customer, fresh).is_some() {
                return Err(Broken(format!("{customer} is created twice")));
            }
        }
        let legs = change.legs();
        if legs.iter().map(|(_, amount)| *amount).sum::<Amount>() != Amount::ZERO {
            return Err(Broken(format!("I1: the legs of a {} do not sum to zero", change.name())));
        }
        let account = self
            .customers
            .get_mut(&customer)
            .ok_or_else(|| Broken(format!("{customer} has a {} but was not created", change.name())))?;
        account.apply(change).map_err(|what| Broken(format!("{customer}: {what}")))?;
        for leg in legs {
            self.totals.follow(leg);
            account.balance.follow(leg);
        }
        if account.balance.available.is_negative() || account.balance.held.is_negative() {
            return Err(Broken(format!("I3: {customer} would be below zero: {:?}", account.balance)));
        }
        Ok(account.balance)
    }

    /// All open holds: whose, and which.
    pub fn open_holds(&self) -> impl Iterator<Item = (CustomerId, RequestId)> + '_ {
        self.customers.iter().flat_map(|(id, c)| c.holds.keys().map(|request| (*id, *request)))
    }

    /// Checks what must hold of the book as a whole: I3, I7 and that holds add up.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn audit(&self) -> Result<(), Broken> {
        let mut digests = HashSet::new();
        let mut balances = Amount::ZERO;
        for (id, customer) in &self.customers {
            let held: Amount = customer.holds.values().map(|hold| hold.amount).sum();
            if held != customer.balance.held {
                return Err(Broken(format!(
                    "I4: {id} holds {held}, the balance says {:?}",
                    customer.balance
                )));
            }
            if customer.balance.available.is_negative() {
                return Err(Broken(format!("I3: {id} has {} available", customer.balance.available)));
            }
            let deposits: Amount = customer.deposits.values().copied().sum();
            if customer.balance.posted() > deposits {
                return Err(Broken(format!("I2: {id} has more than was ever deposited")));
            }
            if let Some(twice) = customer.keys.iter().find(|(_, key)| !digests.insert(key.digest)) {
                return Err(Broken(format!("{} is the same key as another", twice.0)));
            }
            balances += customer.balance.posted();
        }
        let Totals { cash, revenue, written_off } = self.totals;
        if cash + written_off != balances + revenue {
            return Err(Broken(format!(
                "I7: received {cash} and written off {written_off}, but balances {balances} and revenue {revenue}"
            )));
        }
        Ok(())
    }

    /// Takes in a book over other customers.
    pub fn absorb(&mut self, other: Book) {
        self.customers.extend(other.customers);
        self.totals.cash += other.totals.cash;
        self.totals.revenue += other.totals.revenue;
        self.totals.written_off += other.totals.written_off;
    }
}

impl Customer {
    /// A customer with nothing.
    pub fn new(name: Arc<str>) -> Self {
        Customer {
            name,
            balance: Balance::default(),
            keys: BTreeMap::new(),
            holds: HashMap::new(),
            deposits: HashMap::new(),
        }
    }

    fn decide(&self, command: Command) -> Result<Changes, Refusal> {
        match command {
            Command::CreateCustomer { .. } => Err(Refusal::CustomerExists),
            Command::CreateKey(key) if self.keys.contains_key(&key.key) => Err(Refusal::KeyExists),
            Command::CreateKey(key) => Ok(vec![Change::KeyCreated(key)]),
            Command::RevokeKey { key } => self.active_key(key).map(|()| vec![Change::KeyRevoked { key }]),
            Command::Deposit { amount, reference } => match self.deposits.get(&reference) {
                Some(before) if *before == amount => Err(Refusal::DepositedAlready),
                Some(before) => Err(Refusal::ReferenceUsed { amount: *before }),
                None => Ok(vec![Change::Deposited { amount, reference }]),
            },
            Command::Hold { request, key, amount, price_version } => {
                self.active_key(key)?;
                if self.holds.contains_key(&request) {
                    return Err(Refusal::HoldExists);
                }
                if amount > self.balance.available {
                    return Err(Refusal::InsufficientCredit { available: self.balance.available });
                }
                Ok(vec![Change::Held { request, key, amount, price_version }])
            }
            Command::Capture { request, amount, record } => self.decide_capture(request, amount, record),
            Command::Release { request, reason, record } => {
                let amount = self.holds.get(&request).ok_or(Refusal::UnknownHold)?.amount;
                Ok(vec![Change::Released { request, amount, reason, record }])
            }
        }
    }

    fn decide_capture(
        &self,
        request: RequestId,
        amount: Amount,
        record: Arc<[u8]>,
    ) -> Result<Changes, Refusal> {
        let held = self.holds.get(&request).ok_or(Refusal::UnknownHold)?.amount;
        let within = amount.min(held);
        let mut changes = vec![Change::Captured { request, amount: within, released: held - within, record }];
        let beyond = amount - within;
        let overage = beyond.min(self.balance.available);
        if overage > Amount::ZERO {
            changes.push(Change::Overage { request, amount: overage });
        }
        if beyond > overage {
            changes.push(Change::WrittenOff { request, amount: beyond - overage });
        }
        Ok(changes)
    }

    fn active_key(&self, key: KeyId) -> Result<(), Refusal> {
        match self.keys.get(&key).map(|key| key.status) {
            Some(KeyStatus::Active) => Ok(()),
            Some(KeyStatus::Revoked) | None => Err(Refusal::UnknownKey),
        }
    }

    fn apply(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::CustomerCreated { .. } => Ok(()),
            Change::KeyCreated(KeyCreated { key, digest, prefix, name }) => {
                let added = Key {
                    digest: *digest,
                    prefix: Arc::clone(prefix),
                    name: Arc::clone(name),
                    status: KeyStatus::Active,
                };
                let before = self.keys.insert(*key, added);
                refuse_if(before.is_some(), || format!("{key} is created twice"))
            }
            Change::KeyRevoked { key } => {
                let known = self.keys.get_mut(key).ok_or_else(|| format!("{key} is revoked but unknown"))?;
                known.status = KeyStatus::Revoked;
                Ok(())
            }
            Change::Deposited { amount, reference } => {
                let before = self.deposits.insert(Arc::clone(reference), *amount);
                refuse_if(before.is_some() || *amount <= Amount::ZERO, || {
                    format!("bad deposit {reference:?}")
                })
            }
            Change::Held { request, key, amount, price_version } => {
                let hold = OpenHold { key: *key, amount: *amount, price_version: Arc::clone(price_version) };
                let before = self.holds.insert(*request, hold);
                refuse_if(before.is_some() || amount.is_negative(), || format!("I4: bad hold of {request}"))
            }
            Change::Captured { request, amount, released, .. } => {
                let hold = self.holds.remove(request).ok_or_else(|| ends_unknown(*request))?;
                let adds_up =
                    *amount + *released == hold.amount && !amount.is_negative() && !released.is_negative();
                refuse_if(!adds_up, || format!("I5: capture of {request} is not its hold of {}", hold.amount))
            }
            Change::Released { request, amount, .. } => {
                let hold = self.holds.remove(request).ok_or_else(|| ends_unknown(*request))?;
                refuse_if(hold.amount != *amount, || format!("I5: release of {request} is not its hold"))
            }
            Change::Overage { request, amount } | Change::WrittenOff { request, amount } => {
                refuse_if(*amount <= Amount::ZERO, || format!("I5: empty {} of {request}", change.name()))
            }
        }
    }
}

fn ends_unknown(request: RequestId) -> String {
    format!("I4: {request} ends but is not open")
}

fn refuse_if(wrong: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(what()) } else { Ok(()) }
}

fn check_form(command: &Command) -> Result<(), Refusal> {
    let (wrong, what) = match command {
        Command::CreateCustomer { name } => {
            (!is_name(name), "the name must be 1 to 256 bytes without control characters")
        }
        Command::CreateKey(key) => (
            !key.name.is_empty() && !is_name(&key.name),
            "the name must be at most 256 bytes without control characters",
        ),
        Command::RevokeKey { .. } => return Ok(()),
        Command::Deposit { reference, .. } if !is_name(reference) => {
            (true, "the reference must be 1 to 256 bytes without control characters")
        }
        Command::Deposit { amount, .. } => {
            let fits = *amount > Amount::ZERO && *amount <= Amount::OUTSIDE_MAX;
            (!fits, "the amount must be above zero and at most a trillion")
        }
        Command::Hold { amount, .. } => (amount.is_negative(), "a hold is not negative"),
        Command::Capture { amount, record, .. } => {
            (amount.is_negative() || record.len() > RECORD_BYTES_MAX, "a capture is not negative")
        }
        Command::Release { record, .. } => (record.len() > RECORD_BYTES_MAX, "the record is too long"),
    };
    if wrong { Err(Refusal::Malformed(what)) } else { Ok(()) }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}
