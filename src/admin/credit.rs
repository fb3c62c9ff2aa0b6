//! What the operator does with credit: deposits, refunds, adjustments.
//!
//! Each has a reference of the operator's own: sent again, it is told again and not done again.

use super::refusal::AdminRefusal;
use super::routes::{Answer, Body, Shared, entries_of, request_id};
use super::views::{BookingView, RefundView};
use crate::id::CustomerId;
use crate::ledger::{Charged, Note};
use crate::money::Amount;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;

/// Who did it, if nobody says.
const UNNAMED: &str = "operator";

/// By whom something was done by hand, and why, as they say.
pub(super) fn note(by: Option<Arc<str>>, reason: Option<Arc<str>>) -> Note {
    Note { by: by.unwrap_or_else(|| UNNAMED.into()), reason: reason.unwrap_or_default() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDeposit {
    customer: CustomerId,
    amount: Amount,
    reference: Arc<str>,
}

pub(super) async fn deposit(State(admin): Shared, body: Body<NewDeposit>) -> Answer<BookingView> {
    let Json(NewDeposit { customer, amount, reference }) = body?;
    let (entry_id, balance) = admin.ledger.deposit(customer, amount, reference).await?;
    Ok(Json(BookingView { entry_id, customer, balance: balance.posted() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRefund {
    /// The request that was charged.
    request: Box<str>,
    /// Without it, all that was not given back yet.
    amount: Option<Amount>,
    reference: Arc<str>,
    reason: Option<Arc<str>>,
    by: Option<Arc<str>>,
}

pub(super) async fn refund(State(admin): Shared, body: Body<NewRefund>) -> Answer<RefundView> {
    let Json(NewRefund { request, amount, reference, reason, by }) = body?;
    let request = request_id(&request)?;
    let entries = entries_of(&admin, request).await?;
    let (customer, charged) = Charged::of(&entries)
        .ok_or_else(|| AdminRefusal::not_found("there is no charge of such a request: see its receipt"))?;
    let charge = charged.amount;
    let (entry_id, balance) =
        admin.ledger.refund(customer, charged, amount, reference, note(by, reason)).await?;
    let refunded = admin.ledger.customer(customer, |found| found.refunded(request));
    let refunded = refunded.ok_or_else(|| AdminRefusal::failed("the customer is gone"))?;
    let balance = balance.posted();
    Ok(Json(RefundView { entry_id, customer, request, charge, refunded, balance }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAdjustment {
    customer: CustomerId,
    /// Taken if negative.
    amount: Amount,
    reference: Arc<str>,
    reason: Arc<str>,
    by: Option<Arc<str>>,
}

pub(super) async fn adjust(State(admin): Shared, body: Body<NewAdjustment>) -> Answer<BookingView> {
    let Json(NewAdjustment { customer, amount, reference, reason, by }) = body?;
    let note = note(by, Some(reason));
    let (entry_id, balance) = admin.ledger.adjust(customer, amount, reference, note).await?;
    Ok(Json(BookingView { entry_id, customer, balance: balance.posted() }))
}
