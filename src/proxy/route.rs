//! Where a request is served, and the way of one that needs a provider up to its hold.

use super::context::{Context, InExchange, Place};
use super::downstream::{self, Line};
use super::exchange::Exchange;
use super::request::Request;
use super::respond::Refusal;
use super::{Gateway, attempt, body, local};
use crate::endpoint::Endpoint;
use http::Method;
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;

impl Gateway {
    /// Takes the request to where it is served. Tells whether it was answered.
    pub(super) async fn route(&self, session: &mut Session, ctx: &mut Context) -> Result<bool, Refusal> {
        let header = session.req_header();
        let (method, path) = (header.method.clone(), header.uri.path().to_owned());
        let asked = || format!("{method} {path}");
        let given = if method == Method::HEAD { Method::GET } else { method.clone() };
        let expect = |takes: Method| match given == takes {
            true => Ok(()),
            false => Err(Refusal::WrongMethod { asked: asked(), takes: local::method_name(&takes) }),
        };
        if method == Method::OPTIONS && path.starts_with("/v1/") {
            return local::preflight(session, ctx).await.map(|()| true);
        }
        if let Some(endpoint) = Endpoint::at(&path) {
            ctx.place = Place::Sold(endpoint);
            expect(Method::POST)?;
            return self.admit(session, ctx, endpoint).await.map(|()| false);
        }
        match &*path {
            "/healthz" | "/readyz" => {
                expect(Method::GET)?;
                self.answer_health(session, ctx, &path).await.map(|()| true)
            }
            _ if path == "/v1/models" || path.starts_with("/v1/models/") => {
                ctx.place = Place::Models;
                expect(Method::GET)?;
                self.answer_models(session, ctx, &path).await.map(|()| true)
            }
            _ if path.starts_with("/tollgate/v1/") => {
                ctx.place = Place::Account;
                expect(Method::GET)?;
                self.answer_account(session, ctx, &path).await.map(|()| true)
            }
            _ => Err(Refusal::UnknownPath { asked: asked() }),
        }
    }

    /// Authenticates, reads, admits: after this the request has a hold.
    async fn admit(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        endpoint: Endpoint,
    ) -> Result<(), Refusal> {
        let caller = self.directory.authenticate(&session.req_header().headers)?;
        ctx.caller = Some(caller.clone());
        if self.ledger.is_down() {
            return Err(Refusal::Overloaded);
        }
        let live = Arc::clone(&ctx.live);
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        let body = body::read(session, &live.config.gateway, &mut permit).await?;
        ctx.times.read = Some(Instant::now());
        let request = Request::read(endpoint, &body).map_err(Refusal::BadRequest)?;
        let model = &request.demand.model;
        ctx.model = live.config.prices.models.contains_key(model).then(|| model.clone());
        if !live.pool.serves(model) {
            return Err(Refusal::UnknownModel(model.clone()));
        }
        let admitted = self
            .admission
            .admit(&caller, ctx.request, &request.demand, &live.config.prices)
            .map_err(|why| Refusal::not_admitted(why, model))?;
        let need = attempt::need(&request.demand, &admitted.price);
        let (exchange, commit) = Exchange::new(request, admitted, ctx.started);
        let line = Arc::new(Line::default());
        downstream::keep(session, &exchange, &line);
        ctx.admitted = Some(InExchange {
            exchange,
            line,
            commit: Some(commit),
            need,
            lease: None,
            tried: Vec::new(),
            attempts: 0,
            answered: false,
            stale: false,
            fault: None,
            retry: live.config.retry,
            _body: permit,
        });
        Ok(())
    }
}
