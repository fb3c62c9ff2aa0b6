//! The proxy: Pingora's hooks, in the order of a request.
//!
//! Each hook calls one module and hands its result on through the [`Context`]. Nothing here knows
//! how a charge is computed, how an account is chosen or how a balance is kept.
//!
//! *Architecture invariant:* only this module names Pingora's session types, and only [`respond`]
//! chooses error statuses.

mod account;
mod address;
mod anthropic;
mod attempt;
mod batches;
mod bill;
mod billing;
mod body;
mod choose;
pub mod compare;
pub mod context;
mod cors;
mod downstream;
mod due;
pub mod exchange;
mod fail;
pub mod fetch;
pub mod files;
mod forward;
mod framing;
mod hedge;
mod idempotency;
mod line;
pub mod listen;
mod local;
pub mod moderation;
mod page;
mod portal;
mod query;
mod rates;
mod recorded;
mod refused;
pub mod request;
pub mod respond;
mod route;
pub mod runs;
mod send;
mod shelf;
mod signature;
mod stored;
mod tls;
mod trace;
pub mod watched;

use crate::admit::Admission;
use crate::admit::content::Judge;
use crate::admit::gate::Gates;
use crate::admit::looks::Looks;
use crate::admit::strangers::FailedKeys;
use crate::auth::Directory;
use crate::clock::{Tick, Timestamp};
use crate::id::RequestId;
use crate::ledger::Ledger;
use crate::live::Current;
use crate::record::access::AccessLog;
use crate::record::metrics::Metrics;
use crate::record::spans::Spans;
use async_trait::async_trait;
use bill::{End, Settled};
use bytes::Bytes;
use compare::Comparer;
use context::{BodyBudget, Context, InExchange, Judged};
use cors::Page;
use fetch::Fetcher;
use files::{Transfers, Uploads};
use http::{Version, header};
use pingora::connectors::http::Connector;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use respond::Refusal;
use runs::Runs;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use trace::AskedFor;
use trace::Trace;

/// The longest that a client is listened to that was refused while it still sent.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// Says by which runtime requests are served.
pub type Serving = tokio::sync::watch::Sender<Option<tokio::runtime::Handle>>;

/// What the proxy works with.
pub struct Gateway {
    /// Who may call.
    pub directory: Arc<Directory>,
    /// Whose use is limited.
    pub gates: Arc<Gates>,
    /// Who is admitted.
    pub admission: Arc<Admission>,
    /// What the operator set and who serves: one snapshot for each request.
    pub live: Current,
    /// Who paid.
    pub ledger: Arc<Ledger>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// What estimates are held against.
    pub comparer: Comparer,
    /// Told by which runtime requests are served, once they are.
    pub serving: Serving,
    /// Who judges what is asked.
    pub judge: Judge,
    /// What is told of each request.
    pub access: AccessLog,
    /// Who is told of requests whose trace is exported.
    pub spans: Spans,
    /// Whose requests are exported because they ask for it.
    pub asked_for: AskedFor,
    /// Who presented keys that open nothing.
    pub failed_keys: FailedKeys,
    /// Who looks at their account.
    pub looks: Looks,
    /// All bodies at once.
    pub budget: BodyBudget,
    /// Connections of attempts that may have another beside them.
    pub connector: Connector,
    /// Who asks providers for what they keep.
    pub fetcher: Arc<Fetcher>,
    /// What runs at providers in the background.
    pub runs: Arc<Runs>,
    /// Who uploads files.
    pub uploads: Uploads,
    /// Who reads them.
    pub downloads: Transfers,
    /// For the next request on a connection.
    pub keepalive: Duration,
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora's future of a connection has room for it three times, and is made for each request.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(new_request(), self.live.load_full(), Arc::clone(&self.metrics)))
    }

    /// Authenticates, reads and admits; answers itself what needs no provider.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        let config = &ctx.live.config.gateway;
        ctx.trace = Trace::of(&session.req_header().headers, ctx.live.config.traces.as_deref());
        ctx.page = Page::of(&session.req_header().headers, &config.cors_origins);
        session.downstream_session.set_write_timeout(Some(config.write_timeout));
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(self.keepalive.as_secs().max(1)));
        }
        // A client that is refused while it still sends is listened to for a while, and hears why.
        session.downstream_session.set_close_on_response_before_downstream_finish(false);
        session.downstream_session.set_total_drain_timeout(Some(LINGER_MAX));
        // Its next request may follow its body at once, and is read together with the end of it.
        session.downstream_session.set_pipelining_enabled(true);
        let routed = match framing::check(session, &ctx.live.config.gateway.edge.header) {
            Ok(()) => self.route(session, ctx).await,
            Err(refusal) => Err(refusal),
        };
        match routed {
            Ok(true) => Ok(true),
            Ok(false) => Ok(false),
            Err(refusal) => {
                self.refuse(session, ctx, refusal).await?;
                Ok(true)
            }
        }
    }

    /// The first attempt of a request that may be hedged is made here: Pingora knows one connection at a time.
    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        match hedge::after(ctx) {
            None => Ok(true),
            // Boxed, so that all others do not carry its size.
            Some(after) => Box::pin(self.hedged(session, ctx, after)).await,
        }
    }

    /// Chooses an upstream account for the next attempt.
    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<Box<HttpPeer>> {
        let (account, address) = self.begin_attempt(session, ctx).await?;
        Ok(Box::new(forward::peer(&account, address)))
    }

    /// Swaps the credential and lets nothing of the client's through that is not the provider's.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        attempt::goes_out(ctx)?;
        let Some(InExchange { exchange, lease: Some(lease), number, .. }) = &ctx.admitted else {
            return Err(Error::explain(ErrorType::InternalError, "no upstream account was chosen"));
        };
        let body = exchange.upstream_body();
        *upstream = attempt::header(upstream, ctx, exchange.request.endpoint, (lease, *number), &body)?;
        Ok(())
    }

    /// Judges the status: goes on, or tries the next account. Waits until the hold is durable before
    /// anything is delivered.
    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        // Not the answer yet; the downstream session lets nothing of it through.
        if response.status.is_informational() {
            return Ok(());
        }
        let request = ctx.request;
        let Some(admitted) = ctx.admitted.as_mut() else {
            return Err(Error::explain(ErrorType::InternalError, "nothing was admitted"));
        };
        admitted.line.begun();
        let status = response.status.as_u16();
        let report = forward::report(response);
        if let Some(lease) = &admitted.lease {
            lease.told(&report, Instant::now());
        }
        let verdict = forward::judge_for(&admitted.exchange.request, response);
        let (verdict, decoder) = match forward::decoder(response) {
            Ok(decoder) => (verdict, decoder),
            Err(fault) => (forward::Verdict::Fault(fault), None),
        };
        match verdict {
            forward::Verdict::Fault(fault) => {
                return Err(self.failed(
                    admitted,
                    fault,
                    Some(status),
                    "the provider's answer cannot be used",
                ));
            }
            forward::Verdict::Judge => {
                admitted.exchange.begin_judged(status, decoder);
                admitted.judged = Some(Judged { status, wait: report.wait });
                return forward::response(response, request, &ctx.page);
            }
            forward::Verdict::Plain => {
                admitted.exchange.cover_whole().await?;
                admitted.exchange.begin_plain(status, decoder);
            }
            forward::Verdict::Stream => admitted.exchange.begin_stream(status, decoder),
            forward::Verdict::Audio => admitted.exchange.begin_audio(status, decoder),
            forward::Verdict::Refusal => admitted.exchange.begin_refusal(status, decoder),
        }
        if let Some(lease) = &admitted.lease {
            attempt::note(admitted, lease, "ok", Some(status));
            lease.answered(Instant::now());
        }
        admitted.answered = true;
        ctx.status = status;
        forward::response(response, request, &ctx.page)?;
        if let Some(passed) = &ctx.passed {
            rates::tell(response, passed, Tick::now())?;
        }
        if let Some(cap) = admitted.exchange.output_cap {
            response.insert_header(signature::OUTPUT_CAP, cap)?;
        }
        // A plain answer is held back until its charge is durable, which comes after its hold.
        if !admitted.exchange.is_held_back()
            && let Some(mut commit) = admitted.commit.take()
            && commit.durable().await.is_err()
        {
            ctx.refusal = Some(Refusal::Overloaded);
            return Err(Error::explain(ErrorType::InternalError, "the hold cannot be made durable"));
        }
        Ok(())
    }

    /// Lets an answer of unknown length end by closing for clients who know no chunks.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut Box<Context>,
    ) -> Result<()> {
        if session.req_header().version == Version::HTTP_10 {
            response.remove_header(&header::TRANSFER_ENCODING);
        }
        Ok(())
    }

    /// Meters; what may pass now passes now.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        let Some(admitted) = ctx.admitted.as_mut() else { return Ok(None) };
        attempt::drains_on(admitted)?;
        let taken = ctx.started.elapsed();
        if admitted.lease.as_ref().is_some_and(|lease| taken > lease.account().timeouts.total) {
            return Err(Error::explain(ErrorType::ReadTimedout, "the answer takes too long").into_up());
        }
        let piece = body.take().unwrap_or_default();
        let exchange = &admitted.exchange;
        let mut out = exchange.feed(piece).map_err(|why| downstream::unusable(why.0))?;
        if end_of_stream {
            let left = exchange.end().map_err(|why| downstream::unusable(why.0))?;
            out = if out.is_empty() { left } else { join(out, left) };
            ctx.times.ended = Some(Instant::now());
        }
        *body = Some(out);
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        if let (Some(InExchange { lease: Some(lease), .. }), Some(address)) =
            (&ctx.admitted, peer.address().as_inet())
        {
            lease.account().addresses().unreached(*address);
        }
        self.unconnected(ctx, error)
    }

    /// An attempt broke after its connection was there: decides whether another account is tried.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        self.broke(session, ctx, error, client_reused)
    }

    /// The request failed: an error for the client if it can still be sent, and an end for the hold.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        self.fail(session, error, ctx).await;
        FailToProxy { error_code: ctx.status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Box<Context>, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Box<Context>,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    /// Hands the client's connection back and records the request.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Context>) {
        let mut settled = None;
        if let Some(admitted) = ctx.admitted.as_mut() {
            downstream::restore(session, &admitted.line);
            if admitted.line.is_stalled() {
                self.metrics.shed("client_stalled");
            }
            admitted.exchange.abort(End::Failed);
            settled = admitted.exchange.settled().await.and_then(Result::ok);
            self.ended(admitted, settled.as_ref());
        }
        let tokens = settled.as_ref().map_or(Some(0), Settled::tokens);
        if let (Some(passed), Some(tokens)) = (&mut ctx.passed, tokens) {
            passed.used(tokens, Tick::now());
        }
        self.record(ctx, settled.as_ref(), error);
    }
}

/// The id of a request that begins now.
fn new_request() -> RequestId {
    let at_ms = u64::try_from(Timestamp::now().micros() / 1_000).unwrap_or_default();
    RequestId::new(at_ms, fastrand::u128(..))
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() { first } else { [first, second].concat().into() }
}
