//! The pool by hand: how each upstream account stands, and taking one out and in again.

use super::Admin;
use super::audit::{Action, By, Made, shown};
use super::refusal::AdminRefusal;
use super::routes::{Answer, Shared};
use super::sent::Named;
use super::views::{ShutModel, UpstreamView};
use crate::record::failures::Failure;
use crate::upstream::{Account, Standing};
use axum::Json;
use axum::extract::State;
use std::sync::Arc;
use std::time::Instant;

/// Every upstream account: its health, its load, what is left of its limits
#[utoipa::path(
    get,
    path = "/admin/v1/upstreams",
    tag = "upstreams",
    operation_id = "list_upstreams",
    responses((status = 200, description = "In the order of the configuration", body = Vec<UpstreamView>), AdminRefusal)
)]
pub(super) async fn list(State(admin): Shared) -> Json<Vec<UpstreamView>> {
    Json(admin.live.load().pool.accounts().iter().map(|account| view(account)).collect())
}

/// The last requests that failed: fifty that were the client's doing, and fifty others
#[utoipa::path(
    get,
    path = "/admin/v1/failures",
    tag = "upstreams",
    operation_id = "list_failures",
    responses((status = 200, description = "The newest first", body = Vec<Failure>), AdminRefusal)
)]
pub(super) async fn failures(State(admin): Shared) -> Json<Vec<Failure>> {
    Json(admin.failures.newest())
}

/// Let one finish what it has and give it no more, until resumed or a restart
#[utoipa::path(
    post,
    path = "/admin/v1/upstreams/{name}/drain",
    tag = "upstreams",
    operation_id = "drain_upstream",
    params(("name" = String, Path), By),
    responses((status = 200, description = "As it is now", body = UpstreamView), AdminRefusal)
)]
pub(super) async fn drain(State(admin): Shared, Named(name): Named, by: By) -> Answer<UpstreamView> {
    set(&admin, &name, Standing::Draining, &by).await
}

/// Give one requests again
#[utoipa::path(
    post,
    path = "/admin/v1/upstreams/{name}/resume",
    tag = "upstreams",
    operation_id = "resume_upstream",
    params(("name" = String, Path), By),
    responses((status = 200, description = "As it is now", body = UpstreamView), AdminRefusal)
)]
pub(super) async fn resume(State(admin): Shared, Named(name): Named, by: By) -> Answer<UpstreamView> {
    set(&admin, &name, Standing::Taking, &by).await
}

async fn set(admin: &Arc<Admin>, name: &str, standing: Standing, by: &By) -> Answer<UpstreamView> {
    let live = admin.live.load_full();
    let account = live.pool.accounts().iter().find(|account| &*account.name == name);
    let account = account.ok_or_else(|| AdminRefusal::not_found("there is no such upstream account"))?;
    let before = view(account);
    account.set_standing(standing, Instant::now());
    tracing::info!(upstream = name, ?standing, "set by hand");
    let after = view(account);
    let action = match standing {
        Standing::Draining => Action::DrainUpstream,
        Standing::Taking => Action::ResumeUpstream,
    };
    admin.note(Made { by, action, before: Some(shown(&before)), entry_id: None }, name, &after).await?;
    Ok(Json(after))
}

fn view(account: &Account) -> UpstreamView {
    let (status, in_flight) = account.standing();
    let mut reason = None;
    let mut models_shut = Vec::new();
    for (model, fault) in account.shut() {
        match model {
            Some(model) => models_shut.push(ShutModel { model, reason: fault.name().into() }),
            None => reason = Some(fault.name().into()),
        }
    }
    let ratios = account.ratios_ppm(Instant::now()).into_iter();
    UpstreamView {
        name: (*account.name).into(),
        base_url: account.base_url.to_string().into(),
        status: status.into(),
        reason,
        in_flight,
        models_shut,
        headroom: ratios.map(|(limit, ppm)| (limit.into(), f64::from(ppm) / 1_000_000.0)).collect(),
    }
}
