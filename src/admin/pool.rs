//! The pool by hand: how each upstream account stands, and taking one out and in again.

use super::Admin;
use super::refusal::AdminRefusal;
use super::views::{ShutModel, UpstreamView};
use crate::upstream::{Account, Standing};
use axum::Json;
use axum::extract::{Path, State};
use std::sync::Arc;
use std::time::Instant;

type Shared = State<Arc<Admin>>;

pub(super) async fn list(State(admin): Shared) -> Json<Vec<UpstreamView>> {
    Json(admin.live.load().pool.accounts().iter().map(|account| view(account)).collect())
}

pub(super) async fn drain(admin: Shared, name: Path<String>) -> Result<Json<UpstreamView>, AdminRefusal> {
    set(&admin, &name, Standing::Draining)
}

pub(super) async fn resume(admin: Shared, name: Path<String>) -> Result<Json<UpstreamView>, AdminRefusal> {
    set(&admin, &name, Standing::Taking)
}

fn set(admin: &Admin, name: &str, standing: Standing) -> Result<Json<UpstreamView>, AdminRefusal> {
    let live = admin.live.load();
    let account = live.pool.accounts().iter().find(|account| &*account.name == name);
    let account = account.ok_or_else(|| AdminRefusal::not_found("there is no such upstream account"))?;
    account.set_standing(standing, Instant::now());
    tracing::info!(upstream = name, ?standing, "set by hand");
    Ok(Json(view(account)))
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
