//! Suspending, banning and readmitting customers, and the terms that they accept.

use super::Admin;
use super::credit::note;
use super::openapi;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared, unknown_customer, whole};
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
    #[schema(value_type = Option<openapi::Name>)]
    by: Option<Arc<str>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    /// Why: the evidence.
    #[schema(value_type = openapi::Reason)]
    reason: Arc<str>,
    #[schema(value_type = Option<openapi::Name>)]
    by: Option<Arc<str>>,
}

/// Refuse new requests until further notice
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/suspend",
    tag = "customers",
    operation_id = "suspend_customer",
    params(("id" = CustomerId, Path)),
    request_body = Why,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn suspend(
    State(admin): Shared,
    Named(id): Named,
    Sent(why): Sent<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Suspend, note(why.by, why.reason)).await
}

/// End a suspension
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/resume",
    tag = "customers",
    operation_id = "resume_customer",
    params(("id" = CustomerId, Path)),
    request_body = Why,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn resume(
    State(admin): Shared,
    Named(id): Named,
    Sent(why): Sent<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Resume, note(why.by, why.reason)).await
}

/// Refuse everything, end what is in flight, and take all credit
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/ban",
    tag = "customers",
    operation_id = "ban_customer",
    params(("id" = CustomerId, Path)),
    request_body = Evidence,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn ban(
    State(admin): Shared,
    Named(id): Named,
    Sent(Evidence { reason, by }): Sent<Evidence>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Ban, note(by, Some(reason))).await
}

/// Lift a ban, and give the credit back
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/unban",
    tag = "customers",
    operation_id = "unban_customer",
    params(("id" = CustomerId, Path)),
    request_body = Why,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn unban(
    State(admin): Shared,
    Named(id): Named,
    Sent(why): Sent<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Unban, note(why.by, why.reason)).await
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
    /// Who accepted.
    #[schema(value_type = Option<openapi::Name>)]
    by: Option<Arc<str>>,
}

/// Note that a customer accepted terms of the service
#[utoipa::path(
    post,
    path = "/admin/v1/customers/{id}/terms",
    tag = "customers",
    params(("id" = CustomerId, Path)),
    request_body = Accepted,
    responses((status = 200, description = "As it is now", body = CustomerView), AdminRefusal)
)]
pub(super) async fn accept_terms(
    State(admin): Shared,
    Named(id): Named,
    Sent(sent): Sent<Accepted>,
) -> Answer<CustomerView> {
    let id = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    let Accepted { version, reason, by } = sent;
    let noted = Arc::clone(&admin);
    whole(async move { Ok(noted.ledger.accept_terms(id, version, note(by, reason)).await?) }).await?;
    let view = admin.ledger.customer(id, |customer| CustomerView::of(id, customer));
    view.map(Json).ok_or_else(unknown_customer)
}

async fn change(admin: Arc<Admin>, id: &str, step: Step, note: Note) -> Answer<CustomerView> {
    let id = CustomerId::parse(id).ok_or_else(unknown_customer)?;
    let changed = Arc::clone(&admin);
    whole(async move { take(&changed, id, step, note).await }).await?;
    let view = admin.ledger.customer(id, |customer| CustomerView::of(id, customer));
    view.map(Json).ok_or_else(unknown_customer)
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
