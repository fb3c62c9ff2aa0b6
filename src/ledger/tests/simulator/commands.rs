//! Operations of the plain book as commands of the ledger.

use super::super::super::budget::Budgets;
use super::super::super::command::{Charged, Command};
use super::super::super::entry::{Charge, KeyCreated, Note, Progress, Step};
use super::super::reference::{self, Operation, Said};
use super::{Flaw, World};
use crate::id::{KeyDigest, KeyId, RequestId};
use crate::money::Amount;
use std::sync::Arc;

/// The command of an operation, as a ledger with a flaw takes it; a refund comes with its charge.
pub fn translate(operation: &Operation, charged: Option<Charged>, world: &World) -> (u64, Command) {
    match *operation {
        Operation::Create { customer, ref name } => {
            (customer, Command::CreateCustomer { name: name.as_str().into() })
        }
        Operation::CreateKey { customer, key } => (customer, Command::CreateKey(new_key(customer, key))),
        Operation::RevokeKey { customer, key } => {
            (customer, Command::RevokeKey { key: KeyId::from_int(key) })
        }
        Operation::Deposit { customer, amount, reference } => {
            let twice = world.flaw == Flaw::ForgetsReferences;
            let reference = if twice { format!("{}", world.log.len()).into() } else { name(reference) };
            (customer, Command::Deposit { amount: atto(amount), reference })
        }
        Operation::Hold { customer, key, request, amount } => {
            let (key, request, amount) = (KeyId::from_int(key), RequestId::from_int(request), atto(amount));
            let (budgets, price_version, mark) = (Budgets::default(), "1".into(), None);
            (customer, Command::Hold { request, key, amount, least: amount, budgets, price_version, mark })
        }
        Operation::Extend { customer, request, amount, least, so_far } => {
            let less = i128::from(world.flaw == Flaw::ForgetsProgress && so_far > 0);
            let charge = Charge { amount: atto(so_far - less), cost: atto(3) };
            let record = (so_far - less).to_string().into_bytes().into();
            let (request, budgets) = (RequestId::from_int(request), Budgets::default());
            let (amount, least, progress) = (atto(amount), atto(least), Progress { charge, record });
            (customer, Command::Extend { request, amount, least, budgets, progress })
        }
        Operation::Detach { customer, request } => {
            let (object, record) = (format!("resp_{request}").into(), Arc::default());
            (customer, Command::Detach { request: RequestId::from_int(request), object, record })
        }
        Operation::Expire { customer, request } => {
            (customer, Command::Expire { request: RequestId::from_int(request) })
        }
        Operation::Capture { customer, request, amount } => {
            let more = i128::from(world.flaw == Flaw::Overcharges && amount >= 0);
            let charge = Charge { amount: atto(amount + more), cost: atto(3) };
            let record = (amount + more).to_string().into_bytes().into();
            let (request, object) = (RequestId::from_int(request), None);
            (customer, Command::Capture { request, charge, record, object })
        }
        Operation::Release { customer, request } => {
            (customer, Command::Release { request: RequestId::from_int(request), record: Arc::default() })
        }
        Operation::Refund { customer, amount, reference, .. } => {
            let charged = charged.expect("looked up before");
            let (amount, reference) = (amount.map(atto), name(reference));
            (customer, Command::Refund { charged, amount, reference, note: note() })
        }
        Operation::Adjust { customer, amount, reference } => {
            (customer, Command::Adjust { amount: atto(amount), reference: name(reference), note: note() })
        }
        Operation::Overdraft { customer, amount } => {
            (customer, Command::SetOverdraft { amount: atto(amount), note: note() })
        }
        Operation::WriteOff { customer, amount, reference } => {
            let (amount, reference) = (amount.map(atto), name(reference));
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
    }
}

/// How many entries a command made.
pub fn entries(said: &Said) -> u64 {
    let Said::Done(moved) = said else { return 0 };
    1 + u64::from(moved.overage > 0) + u64::from(moved.written_off > 0) + u64::from(moved.forfeited != 0)
}

pub fn booked(operation: &Operation) -> Option<(u64, u64)> {
    match *operation {
        Operation::Deposit { customer, reference, .. }
        | Operation::Refund { customer, reference, .. }
        | Operation::WriteOff { customer, reference, .. }
        | Operation::Adjust { customer, reference, .. } => Some((customer, reference)),
        _ => None,
    }
}

pub fn atto(units: i128) -> Amount {
    Amount::from_atto_usd(units)
}

pub fn name(reference: u64) -> Arc<str> {
    format!("invoice {reference}").into()
}

fn note() -> Note {
    Note { by: "simulator".into(), reason: "as drawn".into() }
}

fn new_key(customer: u64, key: u64) -> KeyCreated {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&customer.to_le_bytes());
    digest[8..16].copy_from_slice(&key.to_le_bytes());
    let (prefix, name) = ("tg_live_".into(), "".into());
    KeyCreated { key: KeyId::from_int(key), digest: KeyDigest(digest), prefix, name }
}
