//! The book: a pure state machine over commands.
//!
//! [`Book::decide`] turns a [`Command`] into changes or a [`Refusal`], [`Book::apply`] folds a change
//! into the balances. Both the live book and every replay of the journal go through `apply`, which
//! checks each invariant again and reports a [`Broken`] book rather than going on.
//!
//! Deliberately absent: clocks, files, threads, sequence numbers. Time is an argument.

use super::budget::Spent;
use super::command::{Command, Refusal, check_form};
use super::customer::{Customer, OpenHold};
use super::entry::{Balance, Change};
use super::legs::Totals;
use crate::clock::Timestamp;
use crate::id::{CustomerId, KeyId, RequestId};
use crate::money::Amount;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// An invariant that does not hold: the journal does not say what a book of ours could have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

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
    /// What a command would change now.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies; the book is as it was.
    pub fn decide(&self, customer: CustomerId, command: Command, now: Timestamp) -> Result<Changes, Refusal> {
        check_form(&command)?;
        if let Command::CreateCustomer { name } = command {
            return match self.customers.contains_key(&customer) {
                true => Err(Refusal::CustomerExists),
                false => Ok(vec![Change::CustomerCreated { name }]),
            };
        }
        self.customers.get(&customer).ok_or(Refusal::UnknownCustomer)?.decide(command, now)
    }

    /// Folds one change in, made at this time, and returns the balance after it.
    ///
    /// # Errors
    /// [`Broken`] when an invariant would not hold; the book must not be used further then.
    pub fn apply(&mut self, customer: CustomerId, change: &Change, at: Timestamp) -> Result<Balance, Broken> {
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
        account.apply(change, at).map_err(|what| Broken(format!("{customer}: {what}")))?;
        for leg in legs {
            self.totals.follow(leg);
            account.balance.follow(leg);
        }
        if account.reach().is_negative() || account.balance.held.is_negative() {
            let Customer { balance, overdraft, .. } = account;
            return Err(Broken(format!("I3: {customer} would be below -{overdraft}: {balance:?}")));
        }
        Ok(account.balance)
    }

    /// Open holds whose requests are not answered yet: whose, and which.
    pub fn attended_holds(&self) -> impl Iterator<Item = (CustomerId, RequestId)> + '_ {
        self.holds_that(|hold| !hold.detached)
    }

    /// Open holds whose requests have been answered: whose, and which.
    pub fn detached_holds(&self) -> impl Iterator<Item = (CustomerId, RequestId)> + '_ {
        self.holds_that(|hold| hold.detached)
    }

    fn holds_that(
        &self,
        are: impl Fn(&OpenHold) -> bool + Copy,
    ) -> impl Iterator<Item = (CustomerId, RequestId)> {
        self.customers.iter().flat_map(move |(id, customer)| {
            let holds = customer.holds.iter().filter(move |(_, hold)| are(hold));
            holds.map(|(request, _)| (*id, *request))
        })
    }

    /// All open holds: whose, and which.
    pub fn open_holds(&self) -> impl Iterator<Item = (CustomerId, RequestId)> + '_ {
        self.customers.iter().flat_map(|(id, c)| c.holds.keys().map(|request| (*id, *request)))
    }

    /// What a customer spent, in all or by one key.
    pub(super) fn spent(&self, (customer, key): (CustomerId, Option<KeyId>)) -> Spent {
        let customer = self.customers.get(&customer);
        let spent = match key {
            Some(key) => customer.and_then(|found| found.keys.get(&key)).map(|key| key.spent),
            None => customer.map(|found| found.spent),
        };
        spent.unwrap_or_default()
    }

    /// Checks what must hold of the book as a whole: I2, I3, I4, I7.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn audit(&self) -> Result<(), Broken> {
        let mut digests = HashSet::new();
        let mut balances = Amount::ZERO;
        for (id, customer) in &self.customers {
            customer.audit().map_err(|what| Broken(format!("{id}: {what}")))?;
            if let Some(twice) = customer.keys.iter().find(|(_, key)| !digests.insert(key.digest)) {
                return Err(Broken(format!("{} is the same key as another", twice.0)));
            }
            balances += customer.balance.posted();
        }
        if self.totals.balances() != balances {
            return Err(Broken(format!("I7: balances are {balances}, but {:?}", self.totals)));
        }
        Ok(())
    }
}
