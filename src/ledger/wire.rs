//! Bytes of commands and outcomes, between a process that gave the ledger up and the one that took it.
//!
//! Only what requests under way need: holds, how they end, and violations of the content policy.

use super::Failure;
use super::away::Outcome;
use super::budget::{Budget, Budgets, Period, Spare, Spender};
use super::codec::{self, CodecError, put, put_amount, put_bytes, take, take_amount, take_bytes, take_text};
use super::command::{Command, Refusal};
use super::entry::{Balance, Charge, Seq};
use super::mark::Marked;
use super::standing::Standing;
use super::violation;
use crate::clock::Timestamp;
use crate::id::CustomerId;
use crate::money::Amount;

/// A command with the number by which it is answered; none where no request has such.
pub fn put_asked(number: u64, customer: CustomerId, command: &Command) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    put(&mut out, number.to_le_bytes());
    put(&mut out, customer.int().to_le_bytes());
    match command {
        Command::Hold { request, key, amount, least, budgets, price_version, mark } => {
            out.push(if mark.is_some() { 20 } else { 1 });
            put(&mut out, request.int().to_le_bytes());
            put(&mut out, key.int().to_le_bytes());
            put_amount(&mut out, *amount);
            put_amount(&mut out, *least);
            let Budgets { key, customer } = budgets;
            [key, customer].into_iter().for_each(|budget| put_budget(&mut out, budget));
            put_bytes(&mut out, price_version.as_bytes());
            codec::put_mark(&mut out, *mark);
        }
        Command::Extend { request, amount, least, budgets: Budgets { key, customer }, progress } => {
            out.push(2);
            put(&mut out, request.int().to_le_bytes());
            put_amount(&mut out, *amount);
            put_amount(&mut out, *least);
            [key, customer].into_iter().for_each(|budget| put_budget(&mut out, budget));
            codec::put_progress(&mut out, progress);
        }
        Command::Capture { request, charge: Charge { amount, cost }, record, object } => {
            out.push(if object.is_some() { 6 } else { 3 });
            put(&mut out, request.int().to_le_bytes());
            put_amount(&mut out, *amount);
            put_amount(&mut out, *cost);
            put_bytes(&mut out, record);
            if let Some(object) = object {
                put_bytes(&mut out, object.as_bytes());
            }
        }
        Command::Detach { request, object, record } => {
            out.push(7);
            put(&mut out, request.int().to_le_bytes());
            put_bytes(&mut out, object.as_bytes());
            put_bytes(&mut out, record);
        }
        Command::Release { request, record } => {
            out.push(4);
            put(&mut out, request.int().to_le_bytes());
            put_bytes(&mut out, record);
        }
        Command::Expire { request } => {
            out.push(5);
            put(&mut out, request.int().to_le_bytes());
        }
        Command::Violate(found) => {
            out.push(21);
            violation::put(&mut out, found);
        }
        Command::CreateCustomer { .. }
        | Command::CreateKey(_)
        | Command::RevokeKey { .. }
        | Command::Limit { .. }
        | Command::Deposit { .. }
        | Command::Refund { .. }
        | Command::Adjust { .. }
        | Command::SetOverdraft { .. }
        | Command::WriteOff { .. }
        | Command::AcceptTerms { .. }
        | Command::ChangeStanding { .. } => return None,
    }
    Some(out)
}

/// Reads what [`put_asked`] wrote.
///
/// # Errors
/// When it is something else.
pub fn take_asked(mut input: &[u8]) -> Result<(u64, CustomerId, Command), CodecError> {
    let input = &mut input;
    let number = u64::from_le_bytes(take(input)?);
    let customer = CustomerId::from_int(u64::from_le_bytes(take(input)?));
    let [tag] = take(input)?;
    if tag == 21 {
        let found = violation::take(input)?;
        return end(input).map(|()| (number, customer, Command::Violate(found)));
    }
    let request = codec::take_request(input)?;
    let command = match tag {
        1 | 20 => Command::Hold {
            request,
            key: codec::take_key(input)?,
            amount: take_amount(input)?,
            least: take_amount(input)?,
            budgets: Budgets { key: take_budget(input)?, customer: take_budget(input)? },
            price_version: take_text(input)?,
            mark: if tag == 20 { Some(codec::take_mark(input)?) } else { None },
        },
        2 => Command::Extend {
            request,
            amount: take_amount(input)?,
            least: take_amount(input)?,
            budgets: Budgets { key: take_budget(input)?, customer: take_budget(input)? },
            progress: codec::take_progress(input)?,
        },
        3 | 6 => {
            let charge = Charge { amount: take_amount(input)?, cost: take_amount(input)? };
            let record = take_bytes(input)?.into();
            let object = if tag == 6 { Some(take_text(input)?) } else { None };
            Command::Capture { request, charge, record, object }
        }
        7 => Command::Detach { request, object: take_text(input)?, record: take_bytes(input)?.into() },
        4 => Command::Release { request, record: take_bytes(input)?.into() },
        5 => Command::Expire { request },
        other => return Err(CodecError::UnknownTag(other)),
    };
    end(input)?;
    Ok((number, customer, command))
}

/// What became of the command of this number.
pub fn put_answer(number: u64, answer: &Result<Outcome, Failure>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put(&mut out, number.to_le_bytes());
    match answer {
        Ok(Outcome { seq, balance, charged, held }) => {
            out.push(0);
            put(&mut out, seq.0.to_le_bytes());
            put_amount(&mut out, balance.available);
            put_amount(&mut out, balance.held);
            put_amount(&mut out, *charged);
            put_amount(&mut out, *held);
        }
        Err(Failure::Down) => out.push(1),
        Err(Failure::Busy) => out.push(2),
        Err(Failure::Full) => out.push(3),
        Err(Failure::Refused(refusal)) => put_refusal(&mut out, refusal),
    }
    out
}

fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    match refusal {
        Refusal::UnknownCustomer => out.push(4),
        Refusal::UnknownKey => out.push(5),
        Refusal::InsufficientCredit { available } => {
            out.push(6);
            put_amount(out, *available);
        }
        Refusal::Standing(Standing::Active) => out.push(7),
        Refusal::Standing(Standing::Suspended(note)) => {
            out.push(8);
            codec::put_note(out, note);
        }
        Refusal::Standing(Standing::Banned { note, forfeited }) => {
            out.push(9);
            codec::put_note(out, note);
            put_amount(out, *forfeited);
        }
        Refusal::HoldExists => out.push(10),
        Refusal::UnknownHold => out.push(11),
        Refusal::OverBudget(Spare { of, period, limit, left, until }) => {
            out.push(12);
            out.push(match of {
                Spender::Key => 1,
                Spender::Customer => 2,
            });
            out.push(match period {
                Period::Day => 1,
                Period::Month => 2,
                Period::Total => 3,
            });
            put_amount(out, *limit);
            put_amount(out, *left);
            put(out, until.map_or(i64::MIN, Timestamp::micros).to_le_bytes());
        }
        Refusal::Marked(marked) => {
            let (tag, request) = match marked {
                Marked::Running(request) => (20, request),
                Marked::Charged(request) => (21, request),
                Marked::Other(request) => (22, request),
            };
            out.push(tag);
            put(out, request.int().to_le_bytes());
        }
        // No command of a request is refused so; if it is all the same, it did not come through.
        Refusal::Malformed(_)
        | Refusal::CustomerExists
        | Refusal::KeyExists
        | Refusal::ReferenceUsed(_)
        | Refusal::BookedAlready
        | Refusal::OwesMore { .. }
        | Refusal::OwesLess { .. }
        | Refusal::RefundExceeds { .. } => out.push(1),
    }
}

/// Reads what [`put_answer`] wrote.
///
/// # Errors
/// When it is something else.
pub fn take_answer(mut input: &[u8]) -> Result<(u64, Result<Outcome, Failure>), CodecError> {
    let input = &mut input;
    let number = u64::from_le_bytes(take(input)?);
    let [tag] = take(input)?;
    let answer = match tag {
        0 => {
            let seq = Seq(u64::from_le_bytes(take(input)?));
            let balance = Balance { available: take_amount(input)?, held: take_amount(input)? };
            Ok(Outcome { seq, balance, charged: take_amount(input)?, held: take_amount(input)? })
        }
        1 => Err(Failure::Down),
        2 => Err(Failure::Busy),
        3 => Err(Failure::Full),
        other => Err(Failure::Refused(take_refusal(other, input)?)),
    };
    end(input)?;
    Ok((number, answer))
}

fn take_refusal(tag: u8, input: &mut &[u8]) -> Result<Refusal, CodecError> {
    Ok(match tag {
        4 => Refusal::UnknownCustomer,
        5 => Refusal::UnknownKey,
        6 => Refusal::InsufficientCredit { available: take_amount(input)? },
        7 => Refusal::Standing(Standing::Active),
        8 => Refusal::Standing(Standing::Suspended(codec::take_note(input)?)),
        9 => {
            let note = codec::take_note(input)?;
            Refusal::Standing(Standing::Banned { note, forfeited: take_amount(input)? })
        }
        10 => Refusal::HoldExists,
        11 => Refusal::UnknownHold,
        12 => Refusal::OverBudget(take_spare(input)?),
        20 => Refusal::Marked(Marked::Running(codec::take_request(input)?)),
        21 => Refusal::Marked(Marked::Charged(codec::take_request(input)?)),
        22 => Refusal::Marked(Marked::Other(codec::take_request(input)?)),
        other => return Err(CodecError::UnknownTag(other)),
    })
}

fn take_spare(input: &mut &[u8]) -> Result<Spare, CodecError> {
    let of = match take(input)? {
        [1] => Spender::Key,
        [2] => Spender::Customer,
        [other] => return Err(CodecError::UnknownTag(other)),
    };
    let period = match take(input)? {
        [1] => Period::Day,
        [2] => Period::Month,
        [3] => Period::Total,
        [other] => return Err(CodecError::UnknownTag(other)),
    };
    let (limit, left) = (take_amount(input)?, take_amount(input)?);
    let until = Some(i64::from_le_bytes(take(input)?)).filter(|micros| *micros != i64::MIN);
    Ok(Spare { of, period, limit, left, until: until.map(Timestamp::from_micros) })
}

fn put_budget(out: &mut Vec<u8>, Budget { day, month, total }: &Budget) {
    for limit in [day, month, total] {
        out.push(u8::from(limit.is_some()));
        put_amount(out, limit.unwrap_or(Amount::ZERO));
    }
}

fn take_budget(input: &mut &[u8]) -> Result<Budget, CodecError> {
    let mut limit = || match (take(input)?, take_amount(input)?) {
        ([0], _) => Ok(None),
        ([1], limit) => Ok(Some(limit)),
        ([other], _) => Err(CodecError::UnknownTag(other)),
    };
    Ok(Budget { day: limit()?, month: limit()?, total: limit()? })
}

fn end(input: &[u8]) -> Result<(), CodecError> {
    if input.is_empty() { Ok(()) } else { Err(CodecError::Trailing) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{KeyId, RequestId};
    use crate::ledger::{Mark, Note, Progress, Reaction, Violation};
    use std::sync::Arc;

    const CUSTOMER: CustomerId = CustomerId::from_int(7);

    /// What comes out says the same again, and no part of it says anything.
    fn check(command: &Command) {
        let written = put_asked(9, CUSTOMER, command).expect("a request has such");
        let (number, customer, read) = take_asked(&written).expect("as it was written");
        assert_eq!((number, customer), (9, CUSTOMER));
        assert_eq!(put_asked(9, customer, &read), Some(written.clone()));
        assert_eq!(format!("{read:?}"), format!("{command:?}"));
        (0..written.len()).for_each(|cut| assert!(take_asked(&written[..cut]).is_err(), "{cut}"));
        assert_eq!(take_asked(&[&*written, &[0]].concat()).err(), Some(CodecError::Trailing));
    }

    #[test]
    fn commands_of_requests_read_back_and_no_others_are_written() {
        let (request, amount) = (RequestId::from_int(u128::MAX - 1), Amount::from_atto_usd(1 << 100));
        let limited = Budget { day: Some(amount), month: None, total: Some(Amount::ZERO) };
        let budgets = Budgets { key: limited, customer: Budget::default() };
        let (key, least, price_version) = (KeyId::from_int(3), Amount::ZERO, Arc::<str>::from("v1"));
        for mark in [None, Some(Mark { key: [5; 16], content: [6; 16] })] {
            let price_version = Arc::clone(&price_version);
            check(&Command::Hold { request, key, amount, least, budgets, price_version, mark });
        }
        let charge = Charge { amount, cost: Amount::from_atto_usd(5) };
        for object in [None, Some("resp_1".into())] {
            check(&Command::Capture { request, charge, record: Arc::from(&b"record"[..]), object });
        }
        check(&Command::Detach { request, object: "resp_1".into(), record: Arc::from(&b"record"[..]) });
        let progress = Progress { charge, record: Arc::from(&b"so far"[..]) };
        check(&Command::Extend { request, amount, least: charge.cost, budgets, progress });
        check(&Command::Release { request, record: Arc::from(&b"nothing"[..]) });
        check(&Command::Expire { request });
        let found = Violation {
            request,
            category: "hate".into(),
            score_ppm: 5,
            outcome: Reaction::Refused,
            digest: [9; 16],
        };
        check(&Command::Violate(found));
        let deposit = Command::Deposit { amount, reference: "first".into() };
        assert_eq!(put_asked(1, CUSTOMER, &deposit), None);
    }

    #[test]
    fn answers_read_back() {
        let amount = Amount::from_atto_usd(11);
        let note = Note { by: "Ada".into(), reason: "because".into() };
        let balance = Balance { available: amount, held: Amount::ZERO };
        let over = |of, period, until| {
            Refusal::OverBudget(Spare { of, period, limit: amount, left: Amount::ZERO, until })
        };
        let refusals = [
            Refusal::UnknownCustomer,
            Refusal::UnknownKey,
            Refusal::InsufficientCredit { available: amount },
            Refusal::Standing(Standing::Active),
            Refusal::Standing(Standing::Suspended(note.clone())),
            Refusal::Standing(Standing::Banned { note, forfeited: amount }),
            Refusal::HoldExists,
            Refusal::UnknownHold,
            Refusal::Marked(Marked::Running(RequestId::from_int(1))),
            Refusal::Marked(Marked::Charged(RequestId::from_int(2))),
            Refusal::Marked(Marked::Other(RequestId::from_int(3))),
            over(Spender::Key, Period::Day, Some(Timestamp::from_micros(5))),
            over(Spender::Customer, Period::Month, None),
            over(Spender::Customer, Period::Total, None),
        ];
        let failures = [Failure::Down, Failure::Busy, Failure::Full];
        let failed = failures.into_iter().chain(refusals.map(Failure::Refused)).map(Err);
        let done = Ok(Outcome { seq: Seq(12), balance, charged: amount, held: Amount::ZERO });
        for answer in failed.chain([done]) {
            let written = put_answer(4, &answer);
            assert_eq!(take_answer(&written), Ok((4, answer)));
            (0..written.len()).for_each(|cut| assert!(take_answer(&written[..cut]).is_err(), "{cut}"));
        }
        let unusual = Err(Failure::Refused(Refusal::BookedAlready));
        assert_eq!(take_answer(&put_answer(1, &unusual)), Ok((1, Err(Failure::Down))));
    }
}
