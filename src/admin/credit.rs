//! What the operator does with credit: deposits, refunds, adjustments.
//!
//! Each has a reference of the operator's own: sent again, it is told again and not done again.

use super::openapi;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, entries_of, request_id};
use super::sent::Sent;
use super::views::{BookingView, RefundView};
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Charged, Note};
use crate::money::Amount;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Who did it, if nobody says.
const UNNAMED: &str = "operator";

/// By whom something was done by hand, and why, as they say.
pub(super) fn note(by: Option<Arc<str>>, reason: Option<Arc<str>>) -> Note {
    Note { by: by.unwrap_or_else(|| UNNAMED.into()), reason: reason.unwrap_or_default() }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDeposit {
    customer: CustomerId,
    /// US dollars, above zero.
    #[schema(value_type = openapi::AmountAboveZero)]
    amount: Amount,
    /// The operator's own name for it: the same one twice is one deposit.
    #[schema(value_type = openapi::Name)]
    reference: Arc<str>,
}

/// Pay in
#[utoipa::path(
    post,
    path = "/admin/v1/deposits",
    tag = "credit",
    request_body = NewDeposit,
    responses((status = 200, description = "What was booked", body = BookingView), AdminRefusal)
)]
pub(super) async fn deposit(State(admin): Shared, Sent(sent): Sent<NewDeposit>) -> Answer<BookingView> {
    let NewDeposit { customer, amount, reference } = sent;
    let (entry_id, balance) = admin.ledger.deposit(customer, amount, reference).await?;
    Ok(Json(BookingView { entry_id, customer, balance: balance.posted() }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRefund {
    /// The request that was charged.
    #[schema(value_type = RequestId)]
    request: Box<str>,
    /// Without it, all that was not given back yet.
    #[schema(value_type = Option<openapi::AmountAboveZero>)]
    amount: Option<Amount>,
    /// The operator's own name for it: the same one twice is one refund.
    #[schema(value_type = openapi::Name)]
    reference: Arc<str>,
    #[schema(value_type = Option<openapi::ReasonOrNothing>)]
    reason: Option<Arc<str>>,
    #[schema(value_type = Option<openapi::Name>)]
    by: Option<Arc<str>>,
}

/// Give a charge back, in full or in part
#[utoipa::path(
    post,
    path = "/admin/v1/refunds",
    tag = "credit",
    request_body = NewRefund,
    responses((status = 200, description = "What was given back", body = RefundView), AdminRefusal)
)]
pub(super) async fn refund(State(admin): Shared, Sent(sent): Sent<NewRefund>) -> Answer<RefundView> {
    let NewRefund { request, amount, reference, reason, by } = sent;
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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAdjustment {
    customer: CustomerId,
    /// US dollars; taken if negative.
    #[schema(value_type = openapi::AmountNotZero)]
    amount: Amount,
    /// The operator's own name for it: the same one twice is one adjustment.
    #[schema(value_type = openapi::Name)]
    reference: Arc<str>,
    #[schema(value_type = openapi::Reason)]
    reason: Arc<str>,
    #[schema(value_type = Option<openapi::Name>)]
    by: Option<Arc<str>>,
}

/// Give credit by hand, or take it
#[utoipa::path(
    post,
    path = "/admin/v1/adjustments",
    tag = "credit",
    request_body = NewAdjustment,
    responses((status = 200, description = "What was booked", body = BookingView), AdminRefusal)
)]
pub(super) async fn adjust(State(admin): Shared, Sent(sent): Sent<NewAdjustment>) -> Answer<BookingView> {
    let NewAdjustment { customer, amount, reference, reason, by } = sent;
    let note = note(by, Some(reason));
    let (entry_id, balance) = admin.ledger.adjust(customer, amount, reference, note).await?;
    Ok(Json(BookingView { entry_id, customer, balance: balance.posted() }))
}
