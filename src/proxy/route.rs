//! Where a request is served, and the way of one that needs a provider up to its hold.

use super::context::{Context, InExchange, Place};
use super::downstream;
use super::exchange::Exchange;
use super::line::Line;
use super::request::Request;
use super::respond::Refusal;
use super::shelf::Shelf;
use super::trace::Trace;
use super::{Gateway, account, address, body, choose, cors, local, portal, stored};
use crate::admit::Named;
use crate::admit::content::{Case, Listener, Said};
use crate::admit::estimate;
use crate::admit::gate::{Knock, Passed};
use crate::admit::rate::PerMinute;
use crate::auth::{AuthError, Caller};
use crate::clock::{Tick, Timestamp};
use crate::endpoint::Endpoint;
use crate::id::RequestId;
use crate::ledger::{Customer, Standing};
use crate::live::Live;
use crate::settle::price::PriceBook;
use bytes::Bytes;
use http::{Method, header};
use pingora_proxy::Session;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Gateway {
    /// Takes the request to where it is served. Tells whether it was answered.
    pub(super) async fn route(&self, session: &mut Session, ctx: &mut Context) -> Result<bool, Refusal> {
        let header = session.req_header();
        let (method, path) = (header.method.clone(), header.uri.path().to_owned());
        let asked_for = || format!("{method} {path}");
        let given = if method == Method::HEAD { Method::GET } else { method.clone() };
        let expect = |takes: &'static str| match local::takes(takes, &given) {
            true => Ok(()),
            false => Err(Refusal::WrongMethod { asked: asked_for(), takes }),
        };
        if method == Method::OPTIONS && cors::is_called(&path, &ctx.live.config.gateway.cors_origins) {
            return local::preflight(session, ctx).await.map(|()| true);
        }
        if let Some(endpoint) = Endpoint::at(&path) {
            ctx.place = Place::Sold(endpoint);
            expect("POST")?;
            return self.admit(session, ctx, endpoint).await.map(|()| false);
        }
        if let Some(asked) = stored::Asked::at(&path) {
            ctx.place = Place::Stored;
            expect(asked.takes())?;
            // Boxed, so that requests that go elsewhere do not carry its size.
            return Box::pin(self.answer_stored(session, ctx, &asked)).await.map(|()| true);
        }
        let shelves = ctx.live.config.gateway.files_per_customer_max > 0;
        if let Some((shelf, asked)) = Shelf::at(&path).filter(|_| shelves) {
            ctx.place = Place::Shelf(shelf);
            expect(shelf.takes(&asked))?;
            let answered = match shelf {
                Shelf::Files => Box::pin(self.answer_files(session, ctx, &asked)).await,
                Shelf::Batches => Box::pin(self.answer_batches(session, ctx, &asked)).await,
            };
            return answered.map(|()| true);
        }
        match &*path {
            "/" => {
                expect("GET")?;
                self.answer_probe(session, ctx).await.map(|()| true)
            }
            "/healthz" | "/readyz" => {
                expect("GET")?;
                self.answer_health(session, ctx, &path).await.map(|()| true)
            }
            _ if path == "/v1/models" || path.starts_with("/v1/models/") => {
                ctx.place = Place::Models;
                expect("GET")?;
                self.answer_models(session, ctx, &path).await.map(|()| true)
            }
            _ if account::is_at(&path) => {
                ctx.place = Place::Account;
                expect("GET")?;
                self.answer_account(session, ctx, &path).await.map(|()| true)
            }
            _ => {
                let file = portal::at(&path, ctx.live.config.gateway.portal);
                let file = file.ok_or_else(|| Refusal::UnknownPath { asked: asked_for() })?;
                expect("GET")?;
                portal::answer(session, ctx, file).await.map(|()| true)
            }
        }
    }

    /// Who is calling, if they may: who is banned may nothing, who is suspended or owes us their
    /// consent to the terms may look at their account. Keys that open nothing are counted by the address they come from.
    fn authenticate(&self, session: &Session, ctx: &Context) -> Result<Caller, Refusal> {
        let headers = &session.req_header().headers;
        let caller = self.directory.authenticate(headers).map_err(|why| {
            let rate = PerMinute(ctx.live.config.gateway.edge.failed_keys_per_minute);
            let counted = match (why, client_address(session, ctx)) {
                (AuthError::Missing, _) | (AuthError::Invalid, None) => Ok(()),
                (AuthError::Invalid, Some(address)) => self.failed_keys.count(address, rate, Tick::now()),
            };
            let failed = |wait_us| Refusal::FailedKeys { wait: Duration::from_micros(wait_us) };
            counted.map_or_else(failed, |()| why.into())
        })?;
        let terms = ctx.live.config.policy.terms_version.as_ref();
        let judge = |customer: &Customer| match (&customer.standing, ctx.place) {
            (Standing::Banned { .. }, _) => Err(Refusal::Banned),
            (Standing::Active | Standing::Suspended(_), Place::Account) => Ok(()),
            (Standing::Suspended(_), _) => Err(Refusal::Suspended),
            (Standing::Active, _) => match terms {
                Some(now) if !customer.terms.as_ref().is_some_and(|terms| terms.cover(now)) => {
                    Err(Refusal::Terms(Arc::clone(now)))
                }
                Some(_) | None => Ok(()),
            },
        };
        self.ledger.customer(caller.customer(), judge).unwrap_or(Err(Refusal::InvalidKey))?;
        Ok(caller)
    }

    /// Whether the caller is where they are served. They may look at their account from anywhere.
    fn allow_country(&self, session: &Session, ctx: &Context, caller: &Caller) -> Result<(), Refusal> {
        let (Some(countries), false) = (&ctx.live.config.policy.countries, ctx.place == Place::Account)
        else {
            return Ok(());
        };
        let peer = session.digest().and_then(|digest| digest.socket_digest.as_deref());
        let trusted = &ctx.live.config.gateway.edge.trusted_proxies;
        let headers = &session.req_header().headers;
        let told = countries.header.as_ref().filter(|_| address::is_proxy(peer, trusted));
        let told = told.and_then(|name| headers.get(&**name)?.to_str().ok());
        match countries.judge(told, client_address(session, ctx)) {
            Err(denied) if !self.gates.excepts(caller.customer(), denied) => Err(Refusal::Denied(denied)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Holds what is asked against the content policy, if there is one. Gives who listens to the answer.
    pub(super) async fn judge_content(
        &self,
        live: &Live,
        caller: &Caller,
        request: RequestId,
        said: impl FnOnce() -> Said,
    ) -> Result<Option<Listener>, Refusal> {
        let Some(content) = &live.config.policy.content else { return Ok(None) };
        let customer = caller.customer();
        let mode = self.gates.content_of(customer).unwrap_or(content.default);
        let case = || Case { content: Arc::clone(content), customer, request };
        self.judge.judge(case(), mode, said).await?;
        Ok(self.judge.listen(case, content, mode))
    }

    /// Who is calling for what costs nothing, and what they may do.
    pub(super) fn look(&self, session: &Session, ctx: &Context) -> Result<(Caller, Option<Passed>), Refusal> {
        let caller = self.authenticate(session, ctx)?;
        self.allow_country(session, ctx, &caller)?;
        let passed = self.gates.look(&caller, client_address(session, ctx), Timestamp::now())?;
        Ok((caller, passed))
    }

    /// Who is calling, once they have passed all that bounds them.
    pub(super) fn pass(
        &self,
        session: &Session,
        ctx: &mut Context,
        endpoint: &'static str,
    ) -> Result<Caller, Refusal> {
        let caller = self.authenticate(session, ctx)?;
        ctx.caller = Some(caller.clone());
        if let Some(trace) = &mut ctx.trace {
            trace.is_of_caller(ctx.live.config.traces.as_deref(), &self.asked_for, Tick::now());
        }
        self.allow_country(session, ctx, &caller)?;
        let passed = self.gates.pass(&caller, || Knock {
            endpoint,
            from: client_address(session, ctx),
            at: Timestamp::now(),
            tick: Tick::now(),
        });
        match passed {
            Ok(passed) => ctx.passed = passed,
            Err(shut) => {
                // Who is to come back later is told their numbers, too.
                let look = self.gates.look(&caller, client_address(session, ctx), Timestamp::now());
                ctx.passed = look.unwrap_or_default();
                return Err(shut.into());
            }
        }
        Ok(caller)
    }

    /// Reads, admits: after this the request has a hold.
    async fn admit(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        endpoint: Endpoint,
    ) -> Result<(), Refusal> {
        let caller = self.pass(session, ctx, endpoint.name())?;
        if self.ledger.is_down() || self.ledger.is_full() {
            return Err(Refusal::Overloaded);
        }
        let live = Arc::clone(&ctx.live);
        let mut permit = self.budget.begin(live.config.gateway.body_bytes_total_max);
        let body = body::read(session, &live.config.gateway, &mut permit).await?;
        // Asked once: what takes effect from here on is for others.
        let prices = live.config.prices.at(Timestamp::now());
        let mut request = read(session, ctx, endpoint, &body, prices)?;
        let only = self.refer(&caller, &live, &mut request).await?;
        let run = request.kept.run.then(|| self.runs.room(caller.customer())).transpose()?;
        let model = &request.demand.model;
        let mark = self.mark(&session.req_header().headers, caller.customer(), endpoint, &body).await?;
        let said = || Said::Asked(request.countable(), request.files().to_vec());
        let listener = self.judge_content(&live, &caller, ctx.request, said).await?;
        if let Some(passed) = &mut ctx.passed {
            passed.demand(model, estimate::tokens_likely(&request.demand), Tick::now())?;
        }
        let budgets = ctx.passed.as_ref().map(Passed::budgets).unwrap_or_default();
        let named = Named { request: ctx.request, mark };
        let admitted = self
            .admission
            .admit(&caller, named, request.wanted(), prices, budgets)
            .await
            .map_err(|why| Refusal::not_admitted(why, model))?;
        if let Some(cap) = admitted.output_cap {
            request.cut_to(cap);
        }
        let need = choose::need(&request, caller.customer(), &admitted.price);
        let sample = self.comparer.draw(live.config.meter, ctx.model.as_deref(), &request, &admitted.price);
        let (exchange, commit) = Exchange::new(request, admitted, sample, listener, ctx.started);
        let line = Arc::new(Line::default());
        downstream::keep(session, &exchange, &line);
        ctx.admitted = Some(InExchange {
            exchange,
            line,
            commit: Some(commit),
            customer: caller.customer(),
            need,
            lease: None,
            only,
            tried: Vec::new(),
            last: None,
            attempts: 0,
            number: 0,
            answered: false,
            judged: None,
            stale: false,
            gone_at_bytes: None,
            fault: None,
            retry: live.config.retry,
            traced: ctx.trace.as_ref().is_some_and(Trace::is_exported).then(Vec::new),
            _body: permit,
            _run: run,
        });
        Ok(())
    }
}

/// Reads what is asked; its model is one that is served.
fn read(
    session: &Session,
    ctx: &mut Context,
    endpoint: Endpoint,
    body: &Bytes,
    prices: &PriceBook,
) -> Result<Request, Refusal> {
    ctx.times.read = Some(Instant::now());
    let kind = session.req_header().headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let request = Request::read(endpoint, kind, body).map_err(Refusal::BadRequest)?;
    let model = &request.demand.model;
    ctx.model = prices.find(model).map(|(name, _)| name.into());
    if !ctx.live.pool.serves(endpoint, model) {
        return Err(Refusal::UnknownModel(model.clone()));
    }
    Ok(request)
}

fn client_address(session: &Session, ctx: &Context) -> Option<IpAddr> {
    let peer = session.digest().and_then(|digest| digest.socket_digest.as_deref());
    address::client(peer, &session.req_header().headers, &ctx.live.config.gateway.edge.trusted_proxies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Each request allocates and copies it, whatever it asks for: what few need is boxed.
    #[test]
    fn the_way_of_a_request_is_small() {
        let bytes = bytes::<&Gateway, &mut Session, &mut Context, _>(Gateway::route);
        assert!(bytes <= 4 * 1024, "{bytes}");
    }
}
