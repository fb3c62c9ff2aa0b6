//! Legs: how an entry moves money between the accounts of the books.
//!
//! Double entry: the legs of each entry sum to zero (I1). What the operator owes grows by positive
//! legs, as liabilities and revenue do; what the operator has or has spent grows by negative ones.

use super::entry::Change;
use crate::money::Amount;

/// An account of the books. Customers' accounts are what the operator owes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Money received: grows by negative legs, as assets do beside liabilities.
    Cash,
    /// The entry's customer: free credit.
    Available,
    /// The entry's customer: held credit.
    Held,
    /// Charges earned.
    Revenue,
    /// Charges earned that nobody pays, at once or later.
    WrittenOff,
    /// Charges given back.
    Refunds,
    /// Credit given by hand, less what was taken.
    Adjustments,
    /// Credit of banned customers.
    Forfeited,
    /// What serving cost the operator.
    Cost,
    /// What the operator owes providers.
    Providers,
}

/// One side of a movement of money.
pub type Leg = (Account, Amount);

/// No movement at all.
const NONE: Leg = (Account::Cash, Amount::ZERO);

impl Change {
    /// The movements of money. They sum to zero (I1).
    pub fn legs(&self) -> [Leg; 5] {
        match *self {
            Change::CustomerCreated { .. }
            | Change::KeyCreated(_)
            | Change::KeyRevoked { .. }
            | Change::Limited { .. }
            | Change::OverdraftSet { .. }
            | Change::Detached { .. }
            | Change::TermsAccepted { .. }
            | Change::Violated(_)
            | Change::StandingChanged { .. } => [NONE; 5],
            Change::Deposited { amount, .. } => moves(Account::Cash, Account::Available, amount),
            Change::Held { amount, .. } | Change::Extended { amount, .. } => {
                moves(Account::Available, Account::Held, amount)
            }
            Change::Captured { amount, released, cost, .. } => [
                (Account::Held, -(amount + released)),
                (Account::Revenue, amount),
                (Account::Available, released),
                (Account::Cost, -cost),
                (Account::Providers, cost),
            ],
            Change::Overage { amount, .. } => moves(Account::Available, Account::Revenue, amount),
            Change::WrittenOff { amount, .. } => moves(Account::WrittenOff, Account::Revenue, amount),
            Change::Released { amount, .. } => moves(Account::Held, Account::Available, amount),
            Change::Refunded { amount, .. } => moves(Account::Refunds, Account::Available, amount),
            Change::Adjusted { amount, .. } => moves(Account::Adjustments, Account::Available, amount),
            Change::DebtWrittenOff { amount, .. } => moves(Account::WrittenOff, Account::Available, amount),
            Change::Forfeited { amount, .. } => moves(Account::Available, Account::Forfeited, amount),
            Change::ForfeitureReversed { amount, .. } => {
                moves(Account::Forfeited, Account::Available, amount)
            }
        }
    }

    /// What it moves into an account, out of it if negative.
    pub fn moved(&self, account: Account) -> Amount {
        self.legs().into_iter().filter(|(side, _)| *side == account).map(|(_, amount)| amount).sum()
    }

    /// What the customer paid by it: what was earned, less what nobody pays.
    pub fn paid(&self) -> Amount {
        self.moved(Account::Revenue) + self.moved(Account::WrittenOff)
    }
}

fn moves(from: Account, to: Account, amount: Amount) -> [Leg; 5] {
    [(from, -amount), (to, amount), NONE, NONE, NONE]
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
    /// Charges given back.
    pub refunded: Amount,
    /// Credit given by hand, less what was taken.
    pub adjusted: Amount,
    /// Credit of banned customers.
    pub forfeited: Amount,
    /// What serving cost the operator, as far as that is known.
    pub cost: Amount,
}

impl Totals {
    /// Follows one movement of money, as far as it is not a customer's.
    pub fn follow(&mut self, (account, amount): Leg) {
        match account {
            Account::Cash => self.cash -= amount,
            Account::Revenue => self.revenue += amount,
            Account::WrittenOff => self.written_off -= amount,
            Account::Refunds => self.refunded -= amount,
            Account::Adjustments => self.adjusted -= amount,
            Account::Forfeited => self.forfeited += amount,
            Account::Cost => self.cost -= amount,
            // What is owed to providers is what serving cost.
            Account::Available | Account::Held | Account::Providers => {}
        }
    }

    /// What customers have, by what moved everywhere else (I7).
    pub fn balances(&self) -> Amount {
        self.cash + self.written_off + self.refunded + self.adjusted - self.revenue - self.forfeited
    }
}
