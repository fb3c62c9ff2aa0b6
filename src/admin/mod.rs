//! The admin API: what the operator does with customers, keys, credit and the ledger.
//!
//! On its own loopback listener, for whoever holds the admin token. Errors have the shape that the
//! gateway's have. What it serves is told by its OpenAPI [document], made of the handlers. Beside it stands the metrics listener, which needs no token.

mod audit;
mod credit;
mod limits;
mod ledger;
mod openapi;
mod pool;
mod refusal;
mod routes;
mod sent;
mod standing;
pub mod views;

use crate::admit::gate::Gates;
use crate::admit::rate::{Bucket, PerMinute};
use crate::admit::running::Running;
use crate::auth::Directory;
use crate::clock::Tick;
use crate::ledger::Ledger;
use crate::live::Current;
use crate::record::failures::Failures;
use crate::record::metrics::Metrics;
pub use audit::{Action, AuditLine, AuditLog, AuditPage, BY};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{Method, header};
use parking_lot::Mutex;
use refusal::AdminRefusal;
use ring::digest;
use std::sync::Arc;
use std::time::Instant;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the admin API works with.
pub struct Admin {
    /// The books.
    pub ledger: Arc<Ledger>,
    /// Who may call.
    pub directory: Arc<Directory>,
    /// Whose use is limited.
    pub gates: Arc<Gates>,
    /// Limits are changed one at a time.
    pub setting: tokio::sync::Mutex<()>,
    /// What is in flight.
    pub running: Running,
    /// What the operator presents stands in the configuration.
    pub live: Current,
    /// Who changed what.
    pub audit: AuditLog,
    /// What failed last.
    pub failures: Arc<Failures>,
    /// How much is asked.
    pub rates: Rates,
}

/// Requests so far, by whether they had the token.
#[derive(Default)]
pub struct Rates {
    taken: Mutex<Bucket>,
    strangers: Mutex<Bucket>,
}

impl Rates {
    /// Takes one of `rate`, which the setting `bound` says.
    fn take(bucket: &Mutex<Bucket>, rate: u64, bound: &str) -> Result<(), AdminRefusal> {
        let taken = bucket.lock().take(1, PerMinute(rate), Tick::now());
        let seconds = |wait_us: Option<u64>| wait_us.unwrap_or_default().div_ceil(1_000_000);
        taken.map_err(|short| AdminRefusal::too_many(bound, seconds(short.wait_us)))
    }
}

/// The admin API.
pub fn router(admin: Arc<Admin>) -> Router {
    let (served, _) = paths().split_for_parts();
    served
        .fallback(|| async { AdminRefusal::not_found("there is no such path in the admin API") })
        .method_not_allowed_fallback(|| async { AdminRefusal::wrong_method() })
        .layer(middleware::from_fn(whole))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), authenticate))
        .with_state(admin)
}

/// All that the admin API takes, answers and refuses.
pub fn document() -> OpenApi {
    paths().split_for_parts().1
}

/// What is served and what is in the document: the same, since both are made here.
fn paths() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::with_openapi(openapi::bare())
        .routes(routes!(routes::create_customer, routes::list_customers))
        .routes(routes!(routes::show_customer))
        .routes(routes!(routes::statement))
        .routes(routes!(ledger::usage))
        .routes(routes!(standing::accept_terms))
        .routes(routes!(standing::suspend))
        .routes(routes!(standing::resume))
        .routes(routes!(standing::ban))
        .routes(routes!(standing::unban))
        .routes(routes!(limits::limit_customer))
        .routes(routes!(routes::create_key, routes::list_keys))
        .routes(routes!(routes::revoke_key))
        .routes(routes!(limits::limit_key))
        .routes(routes!(credit::deposit))
        .routes(routes!(credit::refund))
        .routes(routes!(credit::adjust))
        .routes(routes!(credit::set_overdraft))
        .routes(routes!(credit::write_off))
        .routes(routes!(routes::receipt))
        .routes(routes!(pool::list))
        .routes(routes!(pool::drain))
        .routes(routes!(pool::resume))
        .routes(routes!(pool::failures))
        .routes(routes!(ledger::verify))
        .routes(routes!(ledger::export))
        .routes(routes!(ledger::backup))
        .routes(routes!(ledger::archive))
        .routes(routes!(audit::list))
        .routes(routes!(tell_document))
}

/// This document
#[utoipa::path(
    get,
    path = "/admin/v1/openapi.json",
    tag = "document",
    responses((status = 200, description = "The document", body = Object), AdminRefusal)
)]
async fn tell_document() -> Json<OpenApi> {
    Json(document())
}

/// What Prometheus scrapes.
pub struct Scrape {
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// The books.
    pub ledger: Arc<Ledger>,
    /// Who serves.
    pub live: Current,
}

/// The metrics listener.
pub fn metrics_router(scrape: Arc<Scrape>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(scrape)
}

async fn metrics(State(scrape): State<Arc<Scrape>>) -> Response {
    let Scrape { metrics, ledger, live } = &*scrape;
    let open = (ledger.holds_open(), ledger.detached_open());
    metrics.ledger(ledger.queue_depth(), open, ledger.is_down());
    metrics.ledger_full(ledger.is_full());
    metrics.state_store_failing(ledger.is_state_failing());
    let text = metrics.render(|metrics| {
        let live = live.load();
        metrics.queue(live.pool.queue().depth());
        for account in live.pool.accounts() {
            metrics.upstream(&account.name, account.is_up());
            for (model, fault) in account.shut() {
                metrics.shut(&account.name, model.as_deref().unwrap_or(""), fault.name());
            }
            for (limit, free_ppm) in account.ratios_ppm(Instant::now()) {
                metrics.headroom(&account.name, limit, free_ppm);
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, text).into_response()
}

async fn authenticate(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let presented = request.headers().get(header::AUTHORIZATION);
    let presented = presented.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Digests are compared, so that the time it takes tells nothing of the token.
    let digest = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let live = admin.live.load_full();
    let config = &live.config.admin;
    let expected = digest(config.token.expose().as_bytes());
    let known = presented.is_some_and(|token| digest(token).as_ref() == expected.as_ref());
    let taken = if known {
        Rates::take(&admin.rates.taken, config.requests_per_minute, "requests_per_minute")
    } else {
        Rates::take(&admin.rates.strangers, config.failed_tokens_per_minute, "failed_tokens_per_minute")
            .and(Err(AdminRefusal::unauthorized()))
    };
    match taken {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A change is made whole, with its line in the audit, even if whoever asked does not wait for it.
async fn whole(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let made = tokio::spawn(next.run(request)).await;
    made.unwrap_or_else(|_| AdminRefusal::failed("it panicked: see the gateway's log").into_response())
}
