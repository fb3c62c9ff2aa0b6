//! Suspending, banning and readmitting customers, and the terms that they accept.

use super::Admin;
use super::credit::note;
use super::refusal::AdminRefusal;
use super::routes::{Answer, Body, Shared, unknown_customer, whole};
use super::views::CustomerView;
use crate::id::CustomerId;
use crate::ledger::{Note, Step};
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// Required for a ban: the evidence.
    reason: Option<Arc<str>>,
    by: Option<Arc<str>>,
}

pub(super) async fn suspend(
    State(admin): Shared,
    Path(id): Path<String>,
    body: Body<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Suspend, body).await
}

pub(super) async fn resume(
    State(admin): Shared,
    Path(id): Path<String>,
    body: Body<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Resume, body).await
}

pub(super) async fn ban(
    State(admin): Shared,
    Path(id): Path<String>,
    body: Body<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Ban, body).await
}

pub(super) async fn unban(
    State(admin): Shared,
    Path(id): Path<String>,
    body: Body<Why>,
) -> Answer<CustomerView> {
    change(admin, &id, Step::Unban, body).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {
    version: Arc<str>,
    /// Where it is written.
    reason: Option<Arc<str>>,
    /// Who accepted.
    by: Option<Arc<str>>,
}

pub(super) async fn accept_terms(
    State(admin): Shared,
    Path(id): Path<String>,
    body: Body<Accepted>,
) -> Answer<CustomerView> {
    let id = CustomerId::parse(&id).ok_or_else(unknown_customer)?;
    let Json(Accepted { version, reason, by }) = body?;
    let noted = Arc::clone(&admin);
    whole(async move { Ok(noted.ledger.accept_terms(id, version, note(by, reason)).await?) }).await?;
    let view = admin.ledger.customer(id, |customer| CustomerView::of(id, customer));
    view.map(Json).ok_or_else(unknown_customer)
}

async fn change(admin: Arc<Admin>, id: &str, step: Step, body: Body<Why>) -> Answer<CustomerView> {
    let id = CustomerId::parse(id).ok_or_else(unknown_customer)?;
    let Json(Why { reason, by }) = body?;
    let changed = Arc::clone(&admin);
    whole(async move { take(&changed, id, step, note(by, reason)).await }).await?;
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
