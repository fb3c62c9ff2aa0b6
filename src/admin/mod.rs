//! The admin API: what the operator does with customers, keys, credit and the ledger.
//!
//! On its own loopback listener, for whoever holds the admin token. Errors have the shape that the
//! gateway's have. Beside it stands the metrics listener, which needs no token.

mod credit;
mod limits;
mod ledger;
mod pool;
mod refusal;
mod routes;
mod standing;
pub mod views;

use crate::admit::gate::Gates;
use crate::admit::running::Running;
use crate::auth::Directory;
use crate::ledger::Ledger;
use crate::live::Current;
use crate::record::metrics::Metrics;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header;
use refusal::AdminRefusal;
use ring::digest;
use std::sync::Arc;
use std::time::Instant;

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
}

/// The admin API.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/admin/v1/customers", post(routes::create_customer).get(routes::list_customers))
        .route("/admin/v1/customers/{id}", get(routes::show_customer))
        .route("/admin/v1/customers/{id}/statement", get(routes::statement))
        .route("/admin/v1/customers/{id}/usage", get(ledger::usage))
        .route("/admin/v1/customers/{id}/terms", post(standing::accept_terms))
        .route("/admin/v1/customers/{id}/suspend", post(standing::suspend))
        .route("/admin/v1/customers/{id}/resume", post(standing::resume))
        .route("/admin/v1/customers/{id}/ban", post(standing::ban))
        .route("/admin/v1/customers/{id}/unban", post(standing::unban))
        .route("/admin/v1/keys", post(routes::create_key).get(routes::list_keys))
        .route("/admin/v1/keys/{id}/revoke", post(routes::revoke_key))
        .route("/admin/v1/keys/{id}/limits", post(limits::limit_key))
        .route("/admin/v1/customers/{id}/limits", post(limits::limit_customer))
        .route("/admin/v1/deposits", post(credit::deposit))
        .route("/admin/v1/refunds", post(credit::refund))
        .route("/admin/v1/adjustments", post(credit::adjust))
        .route("/admin/v1/receipts/{id}", get(routes::receipt))
        .route("/admin/v1/upstreams", get(pool::list))
        .route("/admin/v1/upstreams/{name}/drain", post(pool::drain))
        .route("/admin/v1/upstreams/{name}/resume", post(pool::resume))
        .route("/admin/v1/ledger/verify", post(ledger::verify))
        .route("/admin/v1/ledger/export", get(ledger::export))
        .route("/admin/v1/ledger/backup", post(ledger::backup))
        .route("/admin/v1/ledger/archive", post(ledger::archive))
        .fallback(|| async { AdminRefusal::not_found("there is no such path in the admin API") })
        .method_not_allowed_fallback(|| async { AdminRefusal::wrong_method() })
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), authenticate))
        .with_state(admin)
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
    metrics.ledger(ledger.queue_depth(), ledger.holds_open(), ledger.is_down());
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
    let expected = digest(admin.live.load().config.admin.token.expose().as_bytes());
    if presented.is_some_and(|token| digest(token).as_ref() == expected.as_ref()) {
        next.run(request).await
    } else {
        AdminRefusal::unauthorized().into_response()
    }
}
