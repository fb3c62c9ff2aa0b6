//! A book as plain as it can be: integers in maps, one function for each operation.

use std::collections::BTreeMap;

/// A trillion US dollars in units of 1e-18, written out.
pub const DEPOSIT_MAX: i128 = 1_000_000_000_000_000_000_000_000_000_000;

/// An operation in plain numbers.
#[derive(Clone, Debug)]
pub enum Operation {
    Create { customer: u64, name: String },
    CreateKey { customer: u64, key: u64 },
    RevokeKey { customer: u64, key: u64 },
    Deposit { customer: u64, amount: i128, reference: u64 },
    Hold { customer: u64, key: u64, request: u128, amount: i128 },
    Capture { customer: u64, request: u128, amount: i128 },
    Release { customer: u64, request: u128 },
}

/// What a book says to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Done(Moved),
    Malformed,
    UnknownCustomer,
    CustomerExists,
    UnknownKey,
    KeyExists,
    ReferenceUsed(i128),
    DepositedAlready,
    HoldExists,
    UnknownHold,
    Insufficient(i128),
}

/// How the end of a hold is split; nothing for other operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub captured: i128,
    pub released: i128,
    pub overage: i128,
    pub written_off: i128,
}

/// The reference: as plain as a ledger can be.
#[derive(Default)]
pub struct Reference {
    pub customers: BTreeMap<u64, Plain>,
    pub cash: i128,
    pub revenue: i128,
    pub written_off: i128,
}

#[derive(Default)]
pub struct Plain {
    pub available: i128,
    pub held: i128,
    /// Whether they are active.
    pub keys: BTreeMap<u64, bool>,
    pub holds: BTreeMap<u128, i128>,
    pub deposits: BTreeMap<u64, i128>,
}

impl Reference {
    pub fn act(&mut self, operation: &Operation) -> Said {
        match *operation {
            Operation::Create { ref name, .. } if name.is_empty() || name.len() > 256 => Said::Malformed,
            Operation::Deposit { amount, .. } if !(1..=DEPOSIT_MAX).contains(&amount) => Said::Malformed,
            Operation::Hold { amount, .. } | Operation::Capture { amount, .. } if amount < 0 => {
                Said::Malformed
            }
            Operation::Create { customer, .. } => {
                if self.customers.contains_key(&customer) {
                    return Said::CustomerExists;
                }
                self.customers.insert(customer, Plain::default());
                Said::Done(Moved::default())
            }
            Operation::CreateKey { customer, key } => self.with(customer, |c| c.create_key(key)),
            Operation::RevokeKey { customer, key } => self.with(customer, |c| c.revoke_key(key)),
            Operation::Deposit { customer, amount, reference } => {
                let said = self.with(customer, |c| c.deposit(amount, reference));
                if matches!(said, Said::Done(_)) {
                    self.cash += amount;
                }
                said
            }
            Operation::Hold { customer, key, request, amount } => {
                self.with(customer, |c| c.hold(key, request, amount))
            }
            Operation::Capture { customer, request, amount } => {
                let said = self.with(customer, |c| c.capture(request, amount));
                if let Said::Done(moved) = said {
                    self.revenue += amount;
                    self.written_off += moved.written_off;
                }
                said
            }
            Operation::Release { customer, request } => self.with(customer, |c| c.release(request)),
        }
    }

    fn with(&mut self, customer: u64, act: impl FnOnce(&mut Plain) -> Said) -> Said {
        self.customers.get_mut(&customer).map_or(Said::UnknownCustomer, act)
    }
}

impl Plain {
    fn create_key(&mut self, key: u64) -> Said {
        if self.keys.contains_key(&key) {
            return Said::KeyExists;
        }
        self.keys.insert(key, true);
        Said::Done(Moved::default())
    }

    fn revoke_key(&mut self, key: u64) -> Said {
        match self.keys.get_mut(&key) {
            Some(active) if *active => {
                *active = false;
                Said::Done(Moved::default())
            }
            Some(_) | None => Said::UnknownKey,
        }
    }

    fn deposit(&mut self, amount: i128, reference: u64) -> Said {
        match self.deposits.get(&reference) {
            Some(before) if *before == amount => Said::DepositedAlready,
            Some(before) => Said::ReferenceUsed(*before),
            None => {
                self.deposits.insert(reference, amount);
                self.available += amount;
                Said::Done(Moved::default())
            }
        }
    }

    fn hold(&mut self, key: u64, request: u128, amount: i128) -> Said {
        if self.keys.get(&key) != Some(&true) {
            return Said::UnknownKey;
        }
        if self.holds.contains_key(&request) {
            return Said::HoldExists;
        }
        if amount > self.available {
            return Said::Insufficient(self.available);
        }
        self.available -= amount;
        self.held += amount;
        self.holds.insert(request, amount);
        Said::Done(Moved::default())
    }

    fn capture(&mut self, request: u128, amount: i128) -> Said {
        let Some(held) = self.holds.remove(&request) else { return Said::UnknownHold };
        self.held -= held;
        self.available += held;
        let paid = amount.min(self.available);
        self.available -= paid;
        let captured = amount.min(held);
        Said::Done(Moved {
            captured,
            released: held - captured,
            overage: paid - captured,
            written_off: amount - paid,
        })
    }

    fn release(&mut self, request: u128) -> Said {
        let Some(held) = self.holds.remove(&request) else { return Said::UnknownHold };
        self.held -= held;
        self.available += held;
        Said::Done(Moved { released: held, ..Moved::default() })
    }
}
