//! What the operator does with credit: deposits, refunds, adjustments, overdrafts, write-offs.
//!
//! What books something has a reference of the operator's own: sent again, it is told again and not done again.

use super::Admin;
use super::audit::{Action, By, Made, shown};
use super::openapi;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, customer_view, entries_of, request_id, unknown_customer};
use super::sent::{Named, Sent};
use super::views::{BookingView, CustomerView, RefundView};
use crate::id::{CustomerId, RequestId};
use crate::ledger::{Charged, Note, Seq};
use crate::money::Amount;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// By whom something was done by hand, and why, as they say.
pub(super) fn note(by: &By, reason: Option<Arc<str>>) -> Note {
    Note { by: Arc::clone(&by.0), reason: reason.unwrap_or_default() }
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
    params(By),
    request_body = NewDeposit,
    responses((status = 200, description = "What was booked", body = BookingView), AdminRefusal)
)]
pub(super) async fn deposit(
    State(admin): Shared,
    by: By,
    Sent(sent): Sent<NewDeposit>,
) -> Answer<BookingView> {
    let NewDeposit { customer, amount, reference } = sent;
    let before = customer_view(&admin, customer)?;
    let (entry_id, balance) = admin.ledger.deposit(customer, amount, reference).await?;
    booked(&admin, Action::Deposit, &by, entry_id, &before).await?;
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
}

/// Give a charge back, in full or in part
#[utoipa::path(
    post,
    path = "/admin/v1/refunds",
    tag = "credit",
    params(By),
    request_body = NewRefund,
    responses((status = 200, description = "What was given back", body = RefundView), AdminRefusal)
)]
pub(super) async fn refund(State(admin): Shared, by: By, Sent(sent): Sent<NewRefund>) -> Answer<RefundView> {
    let NewRefund { request, amount, reference, reason } = sent;
    let request = request_id(&request)?;
    let entries = entries_of(&admin, request).await?;
    let (customer, charged) = Charged::of(&entries)
        .ok_or_else(|| AdminRefusal::not_found("there is no charge of such a request: see its receipt"))?;
    let charge = charged.amount;
    let before = customer_view(&admin, customer)?;
    let (entry_id, balance) =
        admin.ledger.refund(customer, charged, amount, reference, note(&by, reason)).await?;
    let refunded = admin.ledger.customer(customer, |found| found.refunded(request));
    let refunded = refunded.ok_or_else(|| AdminRefusal::failed("the customer is gone"))?;
    let balance = balance.posted();
    booked(&admin, Action::Refund, &by, entry_id, &before).await?;
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
}

/// Give credit by hand, or take it
#[utoipa::path(
    post,
    path = "/admin/v1/adjustments",
    tag = "credit",
    params(By),
    request_body = NewAdjustment,
    responses((status = 200, description = "What was booked", body = BookingView), AdminRefusal)
)]
pub(super) async fn adjust(
    State(admin): Shared,
    by: By,
    Sent(sent): Sent<NewAdjustment>,
) -> Answer<BookingView> {
    let NewAdjustment { customer, amount, reference, reason } = sent;
    let note = note(&by, Some(reason));
    let before = customer_view(&admin, customer)?;
    let (entry_id, balance) = admin.ledger.adjust(customer, amount, reference, note).await?;
    booked(&admin, Action::Adjust, &by, entry_id, &before).await?;
    Ok(Json(BookingView { entry_id, customer, balance: balance.posted() }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOverdraft {
    /// US dollars that may be owed; zero for nothing.
    #[schema(value_type = openapi::AmountOrZero)]
    amount: Amount,
    #[schema(value_type = Option<openapi::ReasonOrNothing>)]
    reason: Option<Arc<str>>,
}

/// Let a customer owe so much
///
/// Requests are then admitted until the balance is that far below zero. It cannot be less than is owed
/// already, with what is held.
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/overdraft",
    tag = "customers",
    params(("id" = CustomerId, Path), By),
    request_body = NewOverdraft,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn set_overdraft(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(sent): Sent<NewOverdraft>,
) -> Answer<CustomerView> {
    let id = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    let NewOverdraft { amount, reason } = sent;
    let before = customer_view(&admin, id)?;
    admin.ledger.set_overdraft(id, amount, note(&by, reason)).await?;
    let after = customer_view(&admin, id)?;
    let made = Made { by: &by, action: Action::SetOverdraft, before: Some(shown(&before)), entry_id: None };
    admin.note(made, id, &after).await?;
    Ok(Json(after))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewWriteOff {
    customer: CustomerId,
    /// Without it, all that is owed.
    #[schema(value_type = Option<openapi::AmountAboveZero>)]
    amount: Option<Amount>,
    /// The operator's own name for it: the same one twice is one write-off.
    #[schema(value_type = openapi::Name)]
    reference: Arc<str>,
    #[schema(value_type = openapi::Reason)]
    reason: Arc<str>,
}

/// Give up what a customer owes, all or some of it
#[utoipa::path(
    post,
    path = "/admin/v1/write-offs",
    tag = "credit",
    params(By),
    request_body = NewWriteOff,
    responses((status = 200, description = "What was booked", body = BookingView), AdminRefusal)
)]
pub(super) async fn write_off(
    State(admin): Shared,
    by: By,
    Sent(sent): Sent<NewWriteOff>,
) -> Answer<BookingView> {
    let NewWriteOff { customer, amount, reference, reason } = sent;
    let note = note(&by, Some(reason));
    let before = customer_view(&admin, customer)?;
    let (entry_id, balance) = admin.ledger.write_off(customer, amount, reference, note).await?;
    booked(&admin, Action::WriteOff, &by, entry_id, &before).await?;
    Ok(Json(BookingView { entry_id, customer, balance: balance.posted() }))
}

async fn booked(
    admin: &Arc<Admin>,
    action: Action,
    by: &By,
    entry_id: Seq,
    before: &CustomerView,
) -> Result<(), AdminRefusal> {
    let after = customer_view(admin, before.id)?;
    let made = Made { by, action, before: Some(shown(before)), entry_id: Some(entry_id) };
    admin.note(made, before.id, &after).await
}
