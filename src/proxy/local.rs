//! Answers that need no provider.

use super::Gateway;
use super::context::Context;
use super::fetch::Fetched;
use super::portal;
use super::rates;
use super::respond::{Refusal, json_answer};
use super::signature::sign;
use super::{forward, framing};
use crate::clock::{Tick, Timestamp};
use crate::config::Portal;
use crate::meter::redact;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header, response};
use percent_encoding::percent_decode_str;
use pingora::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::{Value, json};
use std::sync::Arc;

/// When a model was made is not known here, and no client needs it.
const MODEL_CREATED: u64 = 0;

impl Gateway {
    /// Answers with an error.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        refusal: Refusal,
    ) -> Result<()> {
        ctx.status = refusal.status();
        self.metrics.rejected(refusal.reason());
        let (header, body) = refusal.answer_at(ctx.place, ctx.request)?;
        let unheard =
            matches!(refusal, Refusal::BodyTimeout | Refusal::BadRequest(_) | Refusal::BadHeader(_));
        ctx.refusal = Some(refusal);
        write(session, ctx, header, body).await?;
        if framing::is_chunked(session) && !unheard {
            // Pingora closes at once what it will not use again, and the answer would be lost with it.
            let drained = session.downstream_session.drain_request_body().await;
            drained.unwrap_or_else(|why| tracing::debug!(%why, "the rest of a refused body did not come"));
        }
        Ok(())
    }

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

    /// `/`: for who looks whether there is anything. It says where to go on.
    pub(super) async fn answer_probe(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
        let portal = match ctx.live.config.gateway.portal {
            Portal::On => Some(portal::PLACE),
            Portal::Off => None,
        };
        let body = json!({ "service": "tollgate", "api": "/v1", "portal": portal });
        answer(session, ctx, StatusCode::OK, &body).await
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
        let sold = |name: &str| prices.find(name).is_some() && live.pool.knows(name) && may(name);
        let one = path.strip_prefix("/v1/models/");
        // Names have slashes with some providers, and clients write these as they like.
        let body = match one.map(|name| percent_decode_str(name).decode_utf8_lossy()) {
            Some(name) if sold(&name) => model(&name),
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
}

/// Answers a browser that asks whether a page may call.
pub(super) async fn preflight(session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
    let asked = session.req_header().headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let header = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8)).map_err(|_| Refusal::Overloaded)?;
    let mut parts = response::Parts::from(header);
    ctx.page.tell_preflight(asked.as_ref(), &mut parts.headers);
    ctx.status = StatusCode::NO_CONTENT.as_u16();
    write(session, ctx, parts.into(), Bytes::new()).await.map_err(|_| Refusal::Overloaded)
}

/// Whether a list of methods, as an `allow` header has it, takes this one.
pub(super) fn takes(methods: &str, method: &Method) -> bool {
    methods.split(", ").any(|takes| takes == method.as_str())
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

/// Answers with a body of this kind, and further headers.
pub(super) async fn answer_with(
    session: &mut Session,
    ctx: &mut Context,
    kind: &'static str,
    body: Bytes,
    further: &[(HeaderName, String)],
) -> Result<(), Refusal> {
    let header = || -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build(StatusCode::OK, Some(8))?;
        header.insert_header(header::CONTENT_TYPE, kind)?;
        header.insert_header(header::CONTENT_LENGTH, body.len())?;
        for (name, value) in further {
            header.insert_header(name.clone(), value)?;
        }
        Ok(header)
    };
    let header = header().map_err(|_| Refusal::Overloaded)?;
    ctx.status = StatusCode::OK.as_u16();
    // A client that did not wait for its answer is not told.
    let _ = write(session, ctx, header, body).await;
    Ok(())
}

/// Hands on what a provider said; of an error, without what tells about the account.
pub(super) async fn pass_on(session: &mut Session, ctx: &mut Context, said: Fetched) -> Result<(), Refusal> {
    let Fetched { mut header, body } = said;
    let body = if header.status.is_success() { body } else { redact(&body).map_or(body, Bytes::from) };
    forward::response(&mut header, ctx.request, &ctx.page).map_err(|_| Refusal::Overloaded)?;
    header.insert_header(header::CONTENT_LENGTH, body.len()).map_err(|_| Refusal::Overloaded)?;
    ctx.status = header.status.as_u16();
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
    let empty = body.is_empty() || session.req_header().method == Method::HEAD;
    begin(session, ctx, header, empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Writes the header of an answer.
pub(super) async fn begin(
    session: &mut Session,
    ctx: &Context,
    header: ResponseHeader,
    empty: bool,
) -> Result<()> {
    let mut parts = response::Parts::from(header);
    sign(&mut parts.headers, ctx.request, &ctx.page)?;
    let mut header = Box::new(ResponseHeader::from(parts));
    if let Some(passed) = &ctx.passed {
        rates::tell(&mut header, passed, Tick::now())?;
    }
    session.write_response_header(header, empty).await
}

fn model(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": MODEL_CREATED, "owned_by": "tollgate" })
}
