//! What a command changes for one customer, or why it is refused.

use super::booking::Booking;
use super::budget::{Budgets, Spender};
use super::command::{Charged, Command, Refusal};
use super::customer::{Customer, KeyStatus, OpenHold};
use super::entry::{Change, Charge, Note, Progress, Release, Step};
use super::standing::Standing;
use crate::clock::Timestamp;
use crate::id::{KeyId, RequestId};
use crate::money::Amount;
use std::sync::Arc;

impl Customer {
    /// What a command would change.
    pub(super) fn decide(&self, command: Command, now: Timestamp) -> Result<Vec<Change>, Refusal> {
        match command {
            Command::CreateCustomer { .. } => Err(Refusal::CustomerExists),
            Command::CreateKey(key) if self.keys.contains_key(&key.key) => Err(Refusal::KeyExists),
            Command::CreateKey(key) => Ok(vec![Change::KeyCreated(key)]),
            Command::RevokeKey { key } => self.active_key(key).map(|()| vec![Change::KeyRevoked { key }]),
            Command::Limit { key, limits } => {
                key.map_or(Ok(()), |key| self.active_key(key))?;
                Ok(vec![Change::Limited { key, limits }])
            }
            Command::Deposit { amount, reference } => {
                self.decide_booking(Change::Deposited { amount, reference })
            }
            Command::Hold { request, key, amount, least, budgets, price_version, mark } => {
                self.active_key(key)?;
                match self.standing {
                    Standing::Active => {}
                    Standing::Suspended(_) | Standing::Banned { .. } => {
                        return Err(Refusal::Standing(self.standing.clone()));
                    }
                }
                if self.holds.contains_key(&request) {
                    return Err(Refusal::HoldExists);
                }
                let amount = self.grant(key, amount, least, &budgets, now)?;
                Ok(vec![Change::Held { request, key, amount, price_version, mark }])
            }
            Command::Extend { request, amount, least, budgets, progress } => {
                let hold = self.attended(request)?;
                let (key, price_version) = (hold.key, Arc::clone(&hold.price_version));
                let amount = self.grant(key, amount, least, &budgets, now)?;
                let (total, progress) = (hold.amount + amount, Some(progress));
                Ok(vec![Change::Extended { request, key, amount, total, price_version, progress }])
            }
            Command::Detach { request, object, record } => self.decide_detach(request, object, record),
            Command::Capture { request, charge, record, object } => {
                self.decide_capture(request, charge, record, object)
            }
            Command::Release { request, record } => self.decide_release(request, Release::Failed, record),
            Command::Expire { request } => match self.attended(request)?.progress.clone() {
                Some(Progress { charge, record }) => self.decide_capture(request, charge, record, None),
                None => self.decide_release(request, Release::Expired, Arc::default()),
            },
            Command::Refund { charged, amount, reference, note } => {
                self.decide_refund(charged, amount, reference, note)
            }
            Command::Adjust { amount, reference, note } => {
                self.decide_booking(Change::Adjusted { amount, reference, note })
            }
            Command::SetOverdraft { amount, note } => {
                let debt = -self.balance.available;
                match debt > amount {
                    true => Err(Refusal::OwesMore { debt }),
                    false => Ok(vec![Change::OverdraftSet { amount, note }]),
                }
            }
            Command::WriteOff { amount, reference, note } => self.decide_write_off(amount, reference, note),
            Command::Violate(violation) => Ok(vec![Change::Violated(violation)]),
            Command::AcceptTerms { version, note } => Ok(vec![Change::TermsAccepted { version, note }]),
            Command::ChangeStanding { step, note } => self.decide_step(step, note),
        }
    }

    fn has(&self, amount: Amount) -> Result<(), Refusal> {
        let available = self.reach();
        if amount > available { Err(Refusal::InsufficientCredit { available }) } else { Ok(()) }
    }

    /// As much of `amount` as the balance and the budgets reach, unless that is less than `least`.
    fn grant(
        &self,
        key: KeyId,
        amount: Amount,
        least: Amount,
        budgets: &Budgets,
        now: Timestamp,
    ) -> Result<Amount, Refusal> {
        let (room, short) = self.room(key, budgets, now);
        if least.min(amount) > room { Err(short) } else { Ok(amount.min(room)) }
    }

    /// How much may be set aside for a key, and what bounds it.
    pub(super) fn room(&self, key: KeyId, budgets: &Budgets, now: Timestamp) -> (Amount, Refusal) {
        let available = self.reach();
        let all = budgets.customer.left(Spender::Customer, self.spent, self.balance.held, now);
        let known = self.keys.get(&key);
        let own = known.map(|known| budgets.key.left(Spender::Key, known.spent, known.held, now));
        let tightest = own.into_iter().flatten().chain(all).min_by_key(|spare| spare.left);
        match tightest {
            Some(spare) if spare.left < available => (spare.left, Refusal::OverBudget(spare)),
            Some(_) | None => (available, Refusal::InsufficientCredit { available }),
        }
    }

    /// Once for each reference; not for who is banned, whose credit is forfeited.
    fn decide_booking(&self, change: Change) -> Result<Vec<Change>, Refusal> {
        let booking = self.new_booking(&change)?;
        if matches!(self.standing, Standing::Banned { .. }) {
            return Err(Refusal::Standing(self.standing.clone()));
        }
        self.has(-booking.amount)?;
        Ok(vec![change])
    }

    /// What a change books, unless its reference was used before.
    fn new_booking(&self, change: &Change) -> Result<Booking, Refusal> {
        let (reference, booking) = Booking::of(change).expect("it books");
        match self.bookings.get(reference) {
            Some(before) if *before == booking => Err(Refusal::BookedAlready),
            Some(before) => Err(Refusal::ReferenceUsed(before.clone())),
            None => Ok(booking),
        }
    }

    /// Also of who is banned: it gives them nothing.
    fn decide_write_off(
        &self,
        amount: Option<Amount>,
        reference: Arc<str>,
        note: Note,
    ) -> Result<Vec<Change>, Refusal> {
        let debt = self.debt();
        // Asked again for all of it, it was all that was owed then.
        let before = self.bookings.get(&reference).map(|before| before.amount);
        let amount = amount.or(before).unwrap_or(debt);
        let written_off = Change::DebtWrittenOff { amount, reference, note };
        self.new_booking(&written_off)?;
        if amount > debt || amount == Amount::ZERO {
            return Err(Refusal::OwesLess { debt });
        }
        Ok(vec![written_off])
    }

    fn decide_refund(
        &self,
        charged: Charged,
        amount: Option<Amount>,
        reference: Arc<str>,
        note: Note,
    ) -> Result<Vec<Change>, Refusal> {
        let Charged { request, amount: charged, price_version } = charged;
        let left = charged - self.refunded(request);
        // Asked again for all of it, it was all of what was left then.
        let before = self.bookings.get(&reference).map(|before| before.amount);
        let amount = amount.or(before).unwrap_or(left);
        let refund = Change::Refunded { request, amount, charged, price_version, reference, note };
        let decided = self.decide_booking(refund)?;
        if amount > left || amount == Amount::ZERO {
            return Err(Refusal::RefundExceeds { left });
        }
        Ok(decided)
    }

    /// The hold of a request that is not answered yet.
    fn attended(&self, request: RequestId) -> Result<&OpenHold, Refusal> {
        self.holds.get(&request).filter(|hold| !hold.detached).ok_or(Refusal::UnknownHold)
    }

    fn decide_detach(
        &self,
        request: RequestId,
        object: Arc<str>,
        record: Arc<[u8]>,
    ) -> Result<Vec<Change>, Refusal> {
        let hold = self.attended(request)?;
        let (key, amount, price_version) = (hold.key, hold.amount, Arc::clone(&hold.price_version));
        Ok(vec![Change::Detached { request, key, amount, price_version, object, record }])
    }

    fn decide_capture(
        &self,
        request: RequestId,
        Charge { amount, cost }: Charge,
        record: Arc<[u8]>,
        object: Option<Arc<str>>,
    ) -> Result<Vec<Change>, Refusal> {
        let hold = self.holds.get(&request).ok_or(Refusal::UnknownHold)?;
        let (key, pinned) = (Some(hold.key), || Arc::clone(&hold.price_version));
        let within = amount.min(hold.amount);
        let released = hold.amount - within;
        let price_version = pinned();
        let mut changes = vec![Change::Captured {
            request,
            amount: within,
            released,
            cost,
            price_version,
            key,
            record,
            object,
        }];
        let beyond = amount - within;
        let overage = beyond.min(self.reach());
        if overage > Amount::ZERO {
            changes.push(Change::Overage { request, amount: overage, price_version: pinned(), key });
        }
        if beyond > overage {
            let amount = beyond - overage;
            changes.push(Change::WrittenOff { request, amount, price_version: pinned() });
        }
        changes.extend(self.forfeit(released));
        Ok(changes)
    }

    fn decide_release(
        &self,
        request: RequestId,
        reason: Release,
        record: Arc<[u8]>,
    ) -> Result<Vec<Change>, Refusal> {
        let hold = self.holds.get(&request).ok_or(Refusal::UnknownHold)?;
        let (amount, price_version) = (hold.amount, Arc::clone(&hold.price_version));
        let mut changes = vec![Change::Released { request, amount, reason, price_version, record }];
        changes.extend(self.forfeit(amount));
        Ok(changes)
    }

    /// What comes free for a banned customer is forfeited at once, unless they owe it.
    fn forfeit(&self, freed: Amount) -> Option<Change> {
        let freed = freed.min(self.balance.available + freed);
        match &self.standing {
            Standing::Banned { note, forfeited } if freed > Amount::ZERO => {
                Some(Change::Forfeited { amount: freed, total: *forfeited + freed, note: note.clone() })
            }
            Standing::Active | Standing::Suspended(_) | Standing::Banned { .. } => None,
        }
    }

    fn decide_step(&self, step: Step, note: Note) -> Result<Vec<Change>, Refusal> {
        if self.standing.after(step, &note).is_none() {
            return Err(Refusal::Standing(self.standing.clone()));
        }
        let changed = Change::StandingChanged { step, note: note.clone() };
        let available = self.balance.available;
        Ok(match (&self.standing, step) {
            (_, Step::Ban) if available > Amount::ZERO => {
                vec![changed, Change::Forfeited { amount: available, total: available, note }]
            }
            (Standing::Banned { forfeited, .. }, Step::Unban) if *forfeited > Amount::ZERO => {
                vec![Change::ForfeitureReversed { amount: *forfeited, note }, changed]
            }
            (_, Step::Suspend | Step::Resume | Step::Ban | Step::Unban) => vec![changed],
        })
    }

    fn active_key(&self, key: KeyId) -> Result<(), Refusal> {
        match self.keys.get(&key).map(|key| key.status) {
            Some(KeyStatus::Active) => Ok(()),
            Some(KeyStatus::Revoked) | None => Err(Refusal::UnknownKey),
        }
    }
}
