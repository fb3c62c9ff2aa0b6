//! A book as plain as it can be: integers in maps, one function for each operation.

use std::collections::{BTreeMap, BTreeSet};

/// A trillion US dollars in units of 1e-18, written out.
pub const DEPOSIT_MAX: i128 = 1_000_000_000_000_000_000_000_000_000_000;

/// An operation in plain numbers.
#[derive(Clone, Debug)]
pub enum Operation {
    Create {
        customer: u64,
        name: String,
    },
    CreateKey {
        customer: u64,
        key: u64,
    },
    RevokeKey {
        customer: u64,
        key: u64,
    },
    Deposit {
        customer: u64,
        amount: i128,
        reference: u64,
    },
    Hold {
        customer: u64,
        key: u64,
        request: u128,
        amount: i128,
    },
    Capture {
        customer: u64,
        request: u128,
        amount: i128,
    },
    Release {
        customer: u64,
        request: u128,
    },
    /// With what the request would be charged if it ended here.
    Extend {
        customer: u64,
        request: u128,
        amount: i128,
        least: i128,
        so_far: i128,
    },
    /// The request is answered, and what it pays for goes on.
    Detach {
        customer: u64,
        request: u128,
    },
    /// Nobody serves the request any more.
    Expire {
        customer: u64,
        request: u128,
    },
    /// Of a request that was charged.
    Refund {
        customer: u64,
        request: u128,
        amount: Option<i128>,
        reference: u64,
    },
    Adjust {
        customer: u64,
        amount: i128,
        reference: u64,
    },
    Step {
        customer: u64,
        step: Step,
    },
    Overdraft {
        customer: u64,
        amount: i128,
    },
    /// Of what is owed.
    WriteOff {
        customer: u64,
        amount: Option<i128>,
        reference: u64,
    },
}

/// A change of standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Suspend,
    Resume,
    Ban,
    Unban,
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
    BookedAlready,
    Standing(Standing),
    RefundExceeds(i128),
    OwesMore(i128),
    OwesLess(i128),
    HoldExists,
    UnknownHold,
    Insufficient(i128),
}

/// How the end of a hold is split, and what was booked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub captured: i128,
    pub released: i128,
    pub overage: i128,
    pub written_off: i128,
    pub booked: i128,
    pub forfeited: i128,
}

/// What a customer may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Active,
    Suspended,
    Banned,
}

/// The reference: as plain as a ledger can be.
#[derive(Default)]
pub struct Reference {
    pub customers: BTreeMap<u64, Plain>,
    pub cash: i128,
    pub revenue: i128,
    pub written_off: i128,
    pub refunded: i128,
    pub adjusted: i128,
    pub forfeited: i128,
}

#[derive(Default)]
pub struct Plain {
    pub available: i128,
    pub overdraft: i128,
    pub held: i128,
    /// Whether they are active.
    pub keys: BTreeMap<u64, bool>,
    pub holds: BTreeMap<u128, i128>,
    /// Of requests that were answered.
    pub detached: BTreeSet<u128>,
    /// What requests that were extended would be charged.
    pub so_far: BTreeMap<u128, i128>,
    pub bookings: BTreeMap<u64, (Booked, i128)>,
    /// What requests were charged in all, and what is left of it.
    pub charged: BTreeMap<u128, i128>,
    pub standing: Standing,
    /// Since the ban.
    pub forfeited: i128,
}

/// What a reference was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Booked {
    Deposit,
    Refund(u128),
    Adjustment,
    WriteOff,
}

impl Reference {
    pub fn act(&mut self, operation: &Operation) -> Said {
        match *operation {
            Operation::Create { ref name, .. } if name.is_empty() || name.len() > 256 => Said::Malformed,
            Operation::Deposit { amount, .. } if !(1..=DEPOSIT_MAX).contains(&amount) => Said::Malformed,
            Operation::Extend { amount, least, so_far, .. } if amount < 1 || least < 1 || so_far < 0 => {
                Said::Malformed
            }
            Operation::Refund { amount: Some(amount), .. }
            | Operation::WriteOff { amount: Some(amount), .. }
                if !(1..=DEPOSIT_MAX).contains(&amount) =>
            {
                Said::Malformed
            }
            Operation::Overdraft { amount, .. } if !(0..=DEPOSIT_MAX).contains(&amount) => Said::Malformed,
            Operation::Adjust { amount: 0, .. } => Said::Malformed,
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
                let said = self.with(customer, |c| c.book(Booked::Deposit, amount, reference));
                self.cash += booked(&said);
                said
            }
            Operation::Adjust { customer, amount, reference } => {
                let said = self.with(customer, |c| c.book(Booked::Adjustment, amount, reference));
                self.adjusted += booked(&said);
                said
            }
            Operation::Refund { customer, request, amount, reference } => {
                let said = self.with(customer, |c| c.refund(request, amount, reference));
                self.refunded += booked(&said);
                said
            }
            Operation::Overdraft { customer, amount } => self.with(customer, |c| c.overdraft(amount)),
            Operation::WriteOff { customer, amount, reference } => {
                let said = self.with(customer, |c| c.write_off(amount, reference));
                self.written_off += booked(&said);
                said
            }
            Operation::Step { customer, step } => {
                let said = self.with(customer, |c| c.step(step));
                self.forfeited += forfeited(&said);
                said
            }
            Operation::Extend { customer, request, amount, least, so_far } => {
                self.with(customer, |c| c.extend(request, amount, least, so_far))
            }
            Operation::Hold { customer, key, request, amount } => {
                self.with(customer, |c| c.hold(key, request, amount))
            }
            Operation::Capture { customer, request, amount } => {
                let said = self.with(customer, |c| c.capture(request, amount));
                self.earn(said)
            }
            Operation::Detach { customer, request } => self.with(customer, |c| c.detach(request)),
            Operation::Expire { customer, request } => {
                let said = self.with(customer, |c| match c.so_far.get(&request) {
                    _ if c.detached.contains(&request) => Said::UnknownHold,
                    Some(so_far) => c.capture(request, *so_far),
                    None => c.release(request),
                });
                self.earn(said)
            }
            Operation::Release { customer, request } => {
                let said = self.with(customer, |c| c.release(request));
                self.forfeited += forfeited(&said);
                said
            }
        }
    }

    /// Of the end of a hold.
    fn earn(&mut self, said: Said) -> Said {
        if let Said::Done(moved) = said {
            self.revenue += moved.captured + moved.overage + moved.written_off;
            self.written_off += moved.written_off;
        }
        self.forfeited += forfeited(&said);
        said
    }

    fn with(&mut self, customer: u64, act: impl FnOnce(&mut Plain) -> Said) -> Said {
        self.customers.get_mut(&customer).map_or(Said::UnknownCustomer, act)
    }
}

fn booked(said: &Said) -> i128 {
    if let Said::Done(moved) = said { moved.booked } else { 0 }
}

fn forfeited(said: &Said) -> i128 {
    if let Said::Done(moved) = said { moved.forfeited } else { 0 }
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

    fn book(&mut self, kind: Booked, amount: i128, reference: u64) -> Said {
        match self.bookings.get(&reference) {
            Some(before) if *before == (kind, amount) => Said::BookedAlready,
            Some((_, before)) => Said::ReferenceUsed(*before),
            None if self.standing == Standing::Banned => Said::Standing(Standing::Banned),
            None if self.reach() + amount < 0 => Said::Insufficient(self.reach()),
            None => {
                self.bookings.insert(reference, (kind, amount));
                self.available += amount;
                Said::Done(Moved { booked: amount, ..Moved::default() })
            }
        }
    }

    fn reach(&self) -> i128 {
        self.available + self.overdraft
    }

    fn overdraft(&mut self, amount: i128) -> Said {
        if self.available + amount < 0 {
            return Said::OwesMore(-self.available);
        }
        self.overdraft = amount;
        Said::Done(Moved::default())
    }

    /// Also of who is banned.
    fn write_off(&mut self, amount: Option<i128>, reference: u64) -> Said {
        let debt = (-self.available - self.held).max(0);
        let before = self.bookings.get(&reference).copied();
        let amount = amount.or(before.map(|(_, amount)| amount)).unwrap_or(debt);
        match before {
            Some(before) if before == (Booked::WriteOff, amount) => Said::BookedAlready,
            Some((_, before)) => Said::ReferenceUsed(before),
            None if amount > debt || amount == 0 => Said::OwesLess(debt),
            None => {
                self.bookings.insert(reference, (Booked::WriteOff, amount));
                self.available += amount;
                Said::Done(Moved { booked: amount, ..Moved::default() })
            }
        }
    }

    /// A refund that was made is told again even if nothing is left to give back.
    fn refund(&mut self, request: u128, amount: Option<i128>, reference: u64) -> Said {
        let left = self.charged[&request];
        let before = self.bookings.get(&reference).map(|(_, before)| *before);
        let amount = amount.or(before).unwrap_or(left);
        let new = before.is_none() && self.standing != Standing::Banned;
        if new && (amount > left || amount == 0) {
            return Said::RefundExceeds(left);
        }
        let said = self.book(Booked::Refund(request), amount, reference);
        *self.charged.get_mut(&request).expect("it was charged") -= booked(&said);
        said
    }

    fn step(&mut self, step: Step) -> Said {
        let allowed = match self.standing {
            Standing::Active => matches!(step, Step::Suspend | Step::Ban),
            Standing::Suspended => matches!(step, Step::Resume | Step::Ban),
            Standing::Banned => matches!(step, Step::Unban),
        };
        if !allowed {
            return Said::Standing(self.standing);
        }
        self.standing = match step {
            Step::Suspend => Standing::Suspended,
            Step::Ban => Standing::Banned,
            Step::Resume | Step::Unban => Standing::Active,
        };
        let before = self.forfeited;
        if step == Step::Unban {
            self.available += self.forfeited;
            self.forfeited = 0;
        }
        self.sweep();
        Said::Done(Moved { forfeited: self.forfeited - before, ..Moved::default() })
    }

    /// Who is banned has nothing.
    fn sweep(&mut self) -> i128 {
        let swept = if self.standing == Standing::Banned { self.available.max(0) } else { 0 };
        self.available -= swept;
        self.forfeited += swept;
        swept
    }

    fn detach(&mut self, request: u128) -> Said {
        if !self.holds.contains_key(&request) || !self.detached.insert(request) {
            return Said::UnknownHold;
        }
        self.so_far.remove(&request);
        Said::Done(Moved::default())
    }

    fn extend(&mut self, request: u128, amount: i128, least: i128, so_far: i128) -> Said {
        if !self.holds.contains_key(&request) || self.detached.contains(&request) {
            return Said::UnknownHold;
        }
        if amount.min(least) > self.reach() {
            return Said::Insufficient(self.reach());
        }
        let amount = amount.min(self.reach());
        self.so_far.insert(request, so_far);
        self.available -= amount;
        self.held += amount;
        *self.holds.entry(request).or_default() += amount;
        Said::Done(Moved::default())
    }

    fn hold(&mut self, key: u64, request: u128, amount: i128) -> Said {
        if self.keys.get(&key) != Some(&true) {
            return Said::UnknownKey;
        }
        if self.standing != Standing::Active {
            return Said::Standing(self.standing);
        }
        if self.holds.contains_key(&request) {
            return Said::HoldExists;
        }
        if amount > self.reach() {
            return Said::Insufficient(self.reach());
        }
        self.available -= amount;
        self.held += amount;
        self.holds.insert(request, amount);
        Said::Done(Moved::default())
    }

    fn capture(&mut self, request: u128, amount: i128) -> Said {
        let Some(held) = self.holds.remove(&request) else { return Said::UnknownHold };
        self.so_far.remove(&request);
        self.detached.remove(&request);
        self.held -= held;
        self.available += held;
        let paid = amount.min(self.reach());
        self.available -= paid;
        let captured = amount.min(held);
        self.charged.insert(request, paid);
        Said::Done(Moved {
            captured,
            released: held - captured,
            overage: paid - captured,
            written_off: amount - paid,
            forfeited: self.sweep(),
            booked: 0,
        })
    }

    fn release(&mut self, request: u128) -> Said {
        let Some(held) = self.holds.remove(&request) else { return Said::UnknownHold };
        self.so_far.remove(&request);
        self.detached.remove(&request);
        self.held -= held;
        self.available += held;
        Said::Done(Moved { released: held, forfeited: self.sweep(), ..Moved::default() })
    }
}
