//! Suspending, banning and readmitting customers, and the terms that they accept.

use super::Admin;
use super::audit::{Action, By, Made, shown};
use super::credit::note;
use super::openapi;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, customer_view, unknown_customer};
use super::sent::{Named, Sent};
use super::views::CustomerView;
use crate::id::CustomerId;
use crate::ledger::{Note, Step};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    #[schema(value_type = Option<openapi::ReasonOrNothing>)]
    reason: Option<Arc<str>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    /// Why: the evidence.
    #[schema(value_type = openapi::Reason)]
    reason: Arc<str>,
}

/// Refuse new requests until further notice
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/suspend",
    tag = "customers",
    operation_id = "suspend_customer",
    params(("id" = CustomerId, Path), By),
    request_body = Why,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn suspend(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(why): Sent<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Suspend, &by, why.reason).await
}

/// End a suspension
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/resume",
    tag = "customers",
    operation_id = "resume_customer",
    params(("id" = CustomerId, Path), By),
    request_body = Why,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn resume(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(why): Sent<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Resume, &by, why.reason).await
}

/// Refuse everything, end what is in flight, and take all credit
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/ban",
    tag = "customers",
    operation_id = "ban_customer",
    params(("id" = CustomerId, Path), By),
    request_body = Evidence,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn ban(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(Evidence { reason }): Sent<Evidence>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Ban, &by, Some(reason)).await
}

/// Lift a ban, and give the credit back
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/unban",
    tag = "customers",
    operation_id = "unban_customer",
    params(("id" = CustomerId, Path), By),
    request_body = Why,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn unban(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(why): Sent<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Unban, &by, why.reason).await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {
    /// As `policy.terms_version` has it; `*` if a contract stands in place of all versions.
    #[schema(value_type = openapi::Name)]
    version: Arc<str>,
    /// Where it is written.
    #[schema(value_type = Option<openapi::ReasonOrNothing>)]
    reason: Option<Arc<str>>,
}

/// Note that a customer accepted terms of the service
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/terms",
    tag = "customers",
    params(("id" = CustomerId, Path), By),
    request_body = Accepted,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn accept_terms(
    State(admin): Shared,
    Named(id): Named,
    by: By,
    Sent(sent): Sent<Accepted>,
) -> Answer<CustomerView> {
    let id = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    let Accepted { version, reason } = sent;
    let before = customer_view(&admin, id)?;
    admin.ledger.accept_terms(id, version, note(&by, reason)).await?;
    let after = customer_view(&admin, id)?;
    let made = Made { by: &by, action: Action::AcceptTerms, before: Some(shown(&before)), entry_id: None };
    admin.note(made, id, &after).await?;
    Ok(Json(after))
}

async fn change(
    admin: Arc<Admin>,
    id: &str,
    step: Step,
    by: &By,
    reason: Option<Arc<str>>,
) -> Answer<CustomerView> {
    let id = CustomerId::parse(id).ok_or_else(unknown_customer)?;
    let before = customer_view(&admin, id)?;
    take(&admin, id, step, note(by, reason)).await?;
    let after = customer_view(&admin, id)?;
    let action = match step {
        Step::Suspend => Action::Suspend,
        Step::Resume => Action::Resume,
        Step::Ban => Action::Ban,
        Step::Unban => Action::Unban,
    };
    admin.note(Made { by, action, before: Some(shown(&before)), entry_id: None }, id, &after).await?;
    Ok(Json(after))
}

async fn take(admin: &Admin, id: CustomerId, step: Step, note: Note) -> Result<(), AdminRefusal> {
    admin.ledger.change_standing(id, step, note).await?;
    let ended = match step {
        Step::Ban => admin.running.stop(id),
        Step::Suspend | Step::Resume | Step::Unban => 0,
    };
    tracing::info!(customer = %id, step = step.name(), ended, "a customer's standing changed");
    Ok(())
}
