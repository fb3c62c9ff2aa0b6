//! Values of the state's records of bookings, spending, standing, terms and totals.

use super::booking::{Booking, BookingKind};
use super::budget::Spent;
use super::codec::{self, CodecError};
use super::customer::AcceptedTerms;
use super::entry::{Note, Seq, Step};
use super::legs::Totals;
use super::standing::Standing;
use super::totals::Day;
use crate::id::RequestId;
use crate::money::Amount;

/// A booking, and its entry.
pub fn booking(booking: &Booking, seq: Seq) -> Vec<u8> {
    let mut value = Vec::new();
    match booking.kind {
        BookingKind::Deposit => value.push(1),
        BookingKind::Refund(request) => {
            value.push(2);
            codec::put(&mut value, request.int().to_le_bytes());
        }
        BookingKind::Adjustment => value.push(3),
        BookingKind::WriteOff => value.push(4),
    }
    codec::put_amount(&mut value, booking.amount);
    codec::put_bytes(&mut value, booking.reason.as_bytes());
    codec::put(&mut value, seq.0.to_le_bytes());
    value
}

/// Reads what [`booking`] writes.
pub fn read_booking(value: &mut &[u8]) -> Result<(Booking, Seq), CodecError> {
    let kind = match codec::take::<1>(value)? {
        [1] => BookingKind::Deposit,
        [2] => BookingKind::Refund(RequestId::from_int(u128::from_le_bytes(codec::take(value)?))),
        [3] => BookingKind::Adjustment,
        [4] => BookingKind::WriteOff,
        [other] => return Err(CodecError::UnknownTag(other)),
    };
    let booking = Booking { kind, amount: codec::take_amount(value)?, reason: codec::take_text(value)? };
    Ok((booking, Seq(u64::from_le_bytes(codec::take(value)?))))
}

/// What was spent.
pub fn spent(spent: &Spent) -> Vec<u8> {
    let Spent { day, in_day, in_month, total } = spent;
    let mut value = day.0.to_le_bytes().to_vec();
    [in_day, in_month, total].into_iter().for_each(|amount| codec::put_amount(&mut value, *amount));
    value
}

/// Reads what [`spent`] writes.
pub fn read_spent(value: &mut &[u8]) -> Result<Spent, CodecError> {
    let day = Day(u32::from_le_bytes(codec::take(value)?));
    let mut next = || codec::take_amount(value);
    Ok(Spent { day, in_day: next()?, in_month: next()?, total: next()? })
}

/// What a step led to; what is forfeited has a record of its own.
pub fn standing(step: Step, note: &Note) -> Vec<u8> {
    let tag = match step {
        Step::Resume | Step::Unban => 0,
        Step::Suspend => 1,
        Step::Ban => 2,
    };
    let mut value = vec![tag];
    codec::put_note(&mut value, note);
    value
}

/// Reads what [`standing`] writes.
pub fn read_standing(value: &mut &[u8]) -> Result<Standing, CodecError> {
    let (tag, note): (_, Note) = (codec::take::<1>(value)?, codec::take_note(value)?);
    match tag {
        [0] => Ok(Standing::Active),
        [1] => Ok(Standing::Suspended(note)),
        [2] => Ok(Standing::Banned { note, forfeited: Amount::ZERO }),
        [other] => Err(CodecError::UnknownTag(other)),
    }
}

/// Terms, and who accepted them.
pub fn terms(version: &str, note: &Note) -> Vec<u8> {
    let mut value = Vec::new();
    codec::put_bytes(&mut value, version.as_bytes());
    codec::put_bytes(&mut value, note.by.as_bytes());
    value
}

/// Reads what [`terms`] writes.
pub fn read_terms(value: &mut &[u8]) -> Result<AcceptedTerms, CodecError> {
    Ok(AcceptedTerms { version: codec::take_text(value)?, by: codec::take_text(value)? })
}

/// Appends the sums over all customers.
pub fn put_totals(value: &mut Vec<u8>, totals: Totals) {
    let Totals { cash, revenue, written_off, refunded, adjusted, forfeited, cost } = totals;
    for amount in [cash, revenue, written_off, refunded, adjusted, forfeited, cost] {
        codec::put_amount(value, amount);
    }
}

/// Reads what [`put_totals`] writes.
pub fn take_totals(value: &mut &[u8]) -> Result<Totals, CodecError> {
    let mut next = || codec::take_amount(value);
    Ok(Totals {
        cash: next()?,
        revenue: next()?,
        written_off: next()?,
        refunded: next()?,
        adjusted: next()?,
        forfeited: next()?,
        cost: next()?,
    })
}
