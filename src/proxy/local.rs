//! Answers that need no provider, and the record of every request.

use super::context::{Context, Place};
use super::exchange::Settled;
use super::respond::{Refusal, json_answer};
use super::{Gateway, sign};
use crate::id::RequestId;
use crate::record::metrics::Metrics;
use crate::record::receipt::Receipt;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::{Error, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// When a model was made is not known here, and no client needs it.
const MODEL_CREATED: u64 = 0;

impl Gateway {
    /// `/healthz`: the process lives. `/readyz`: it admits requests.
    pub(super) async fn answer_health(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        path: &str,
    ) -> Result<(), Refusal> {
        let admits = !self.ledger.is_down();
        let (status, word) = match (path, admits) {
            ("/healthz", _) => (StatusCode::OK, "alive"),
            (_, true) => (StatusCode::OK, "ready"),
            (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be written"),
        };
        answer(session, ctx, status, &json!({ "status": word })).await
    }

    /// `/v1/models`, or one of them: what has a price and somebody who serves it.
    pub(super) async fn answer_models(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        path: &str,
    ) -> Result<(), Refusal> {
        self.directory.authenticate(&session.req_header().headers)?;
        let live = Arc::clone(&ctx.live);
        let prices = &live.config.prices;
        let sold = |name: &str| prices.models.contains_key(name) && live.pool.serves(name);
        let body = match path.strip_prefix("/v1/models/") {
            Some(name) if sold(name) => model(name),
            Some(name) => return Err(Refusal::UnknownModel(name.into())),
            None => {
                let mut names: Vec<&str> =
                    prices.models.keys().map(|name| &**name).filter(|name| sold(name)).collect();
                names.sort_unstable();
                json!({ "object": "list", "data": names.into_iter().map(model).collect::<Vec<_>>() })
            }
        };
        answer(session, ctx, StatusCode::OK, &body).await
    }

    /// `/tollgate/v1/balance` and `/tollgate/v1/receipts/{request_id}`, with a customer's key.
    pub(super) async fn answer_account(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        path: &str,
    ) -> Result<(), Refusal> {
        let caller = self.directory.authenticate(&session.req_header().headers)?;
        let unknown = || Refusal::UnknownPath { asked: format!("GET {path}") };
        let customer = caller.customer();
        if path == "/tollgate/v1/balance" {
            let balance = self.ledger.customer(customer, |found| found.balance).ok_or(Refusal::InvalidKey)?;
            let body =
                json!({ "customer": customer, "balance": balance.posted(), "available": balance.available });
            return answer(session, ctx, StatusCode::OK, &body).await;
        }
        let id =
            path.strip_prefix("/tollgate/v1/receipts/").and_then(RequestId::parse).ok_or_else(unknown)?;
        let ledger = Arc::clone(&self.ledger);
        let entries = tokio::task::spawn_blocking(move || ledger.entries_of_request(id)).await;
        let entries = entries.ok().and_then(std::io::Result::ok).ok_or(Refusal::Overloaded)?;
        let receipt = Receipt::from_entries(&entries).filter(|receipt| receipt.customer == customer);
        let receipt = receipt.ok_or_else(unknown)?;
        let body = serde_json::to_value(receipt).map_err(|_| Refusal::Overloaded)?;
        answer(session, ctx, StatusCode::OK, &body).await
    }
}

/// Answers a browser that asks whether a page may call.
pub(super) async fn preflight(session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
    let header = || -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
        header.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS")?;
        // Named one by one: `*` does not stand for `authorization`.
        let asked = session.req_header().headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let allowed = asked.map_or("authorization, content-type".as_bytes(), |asked| asked.as_bytes());
        header.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed)?;
        header.insert_header(header::ACCESS_CONTROL_MAX_AGE, "86400")?;
        Ok(header)
    };
    let header = header().map_err(|_| Refusal::Overloaded)?;
    ctx.status = StatusCode::NO_CONTENT.as_u16();
    write(session, ctx, header, Bytes::new()).await.map_err(|_| Refusal::Overloaded)
}

/// The name of a method in an `allow` header.
pub(super) fn method_name(method: &Method) -> &'static str {
    if *method == Method::POST { "POST" } else { "GET" }
}

async fn answer(
    session: &mut Session,
    ctx: &mut Context,
    status: StatusCode,
    body: &Value,
) -> Result<(), Refusal> {
    ctx.status = status.as_u16();
    let (header, body) = json_answer(status, body).map_err(|_| Refusal::Overloaded)?;
    // A client that did not wait for its answer is not told.
    let _ = write(session, ctx, header, body).await;
    Ok(())
}

/// Writes a whole answer of ours.
pub(super) async fn write(
    session: &mut Session,
    ctx: &Context,
    mut header: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    sign(&mut header, ctx.request)?;
    let empty = body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header), empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn model(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": MODEL_CREATED, "owned_by": "tollgate" })
}

macro_rules! access_line {
    ($level:expr, $ctx:ident, $model:ident, $settled:ident, $error:ident, $now:ident) => {
        tracing::event!(
            target: "tollgate::access",
            $level,
            request = %$ctx.request,
            endpoint = $ctx.place.name(),
            status = $ctx.status,
            customer = $ctx.caller.as_ref().map(|caller| tracing::field::display(caller.customer())),
            key = $ctx.caller.as_ref().map(|caller| tracing::field::display(caller.key())),
            model = &*$model,
            attempts = $ctx.admitted.as_ref().map(|admitted| admitted.attempts),
            refused = $ctx.refusal.as_ref().map(Refusal::reason),
            end = $settled.map(|settled| settled.end.name()),
            metered = $settled.map(|settled| settled.metered.name()),
            tokens = $settled.map(|settled| settled.usage.total()),
            charge = $settled.map(|settled| tracing::field::display(settled.charge)),
            balance = $settled.map(|settled| tracing::field::display(settled.balance.posted())),
            error = $error.map(|error| tracing::field::display(error.etype().as_str())),
            us = u64::try_from($now.duration_since($ctx.started).as_micros()).unwrap_or(u64::MAX),
        )
    };
}

/// Counts the request and writes its log line. Nothing of its text is in either.
pub(super) fn record(metrics: &Metrics, ctx: &mut Context, settled: Option<&Settled>, error: Option<&Error>) {
    let now = Instant::now();
    let model = match (ctx.model.take(), ctx.place) {
        (Some(priced), _) => priced,
        (None, Place::Sold(_)) => "other".into(),
        (None, Place::Models | Place::Account | Place::Other) => "".into(),
    };
    if let Some(settled) = settled {
        metrics.charged(&model, settled.metered, &settled.usage, settled.charge);
    }
    let first_byte = ctx.admitted.as_ref().and_then(|admitted| admitted.exchange.first_byte());
    if let Some(first_byte) = first_byte {
        metrics.first_token(&model, first_byte.duration_since(ctx.started));
    }
    if let Some(ours) = ctx.overhead(now) {
        metrics.overhead(ours);
    }
    ctx.finish(&model);
    // Success is for those who ask: the receipt has it all.
    if ctx.status < 400 {
        access_line!(tracing::Level::DEBUG, ctx, model, settled, error, now);
    } else {
        access_line!(tracing::Level::INFO, ctx, model, settled, error, now);
    }
}
