//! Answers that need no provider.

use super::Gateway;
use super::context::Context;
use super::rates;
use super::respond::{Refusal, json_answer};
use super::signature::sign;
use crate::clock::{Tick, Timestamp};
use crate::id::RequestId;
use crate::record::receipt::Receipt;
use bytes::Bytes;
use http::{Method, StatusCode, header, response};
use pingora::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::{Value, json};
use std::sync::Arc;

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
        let (status, word) = if path == "/healthz" {
            (StatusCode::OK, "alive")
        } else if self.ledger.is_down() {
            (StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be written")
        } else if self.ledger.is_full() {
            (StatusCode::SERVICE_UNAVAILABLE, "the disk of the ledger is full")
        } else {
            (StatusCode::OK, "ready")
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
        let passed = self.look(session, ctx)?.1;
        let live = Arc::clone(&ctx.live);
        let prices = live.config.prices.at(Timestamp::now());
        let may = |name: &str| passed.as_ref().is_none_or(|passed| passed.allows_model(name));
        let sold = |name: &str| prices.models.contains_key(name) && live.pool.knows(name) && may(name);
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
        let caller = self.look(session, ctx)?.0;
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
        let receipt = receipt.ok_or_else(unknown)?.for_customer();
        let body = serde_json::to_value(receipt).map_err(|_| Refusal::Overloaded)?;
        answer(session, ctx, StatusCode::OK, &body).await
    }
}

/// Answers a browser that asks whether a page may call.
pub(super) async fn preflight(session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
    let header = || -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
        header.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS")?;
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
    header: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    let mut parts = response::Parts::from(header);
    sign(&mut parts.headers, ctx.request)?;
    let mut header = Box::new(ResponseHeader::from(parts));
    if let Some(passed) = &ctx.passed {
        rates::tell(&mut header, passed, Tick::now())?;
    }
    let empty = body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(header, empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn model(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": MODEL_CREATED, "owned_by": "tollgate" })
}
