//! Attempts: how each one ended, whether another follows, and what the client is told at last.

use super::Gateway;
use super::bill::{End, Settled};
use super::context::{Context, Ended, InExchange, Judged};
use super::exchange::Exchange;
use super::forward;
use super::line::{Bounds, HangUp, ran_out};
use super::request::Comes;
use super::respond::Refusal;
use crate::config::OnHangUp;
use crate::endpoint::Endpoint;
use crate::meter::tokenizer::BYTES_PER_TOKEN;
use crate::settle::Attempt;
use crate::settle::price::Reasoning;
use crate::upstream::health::Fault;
use crate::upstream::limits::Most;
use crate::upstream::{Account, Lease};
use bytes::Bytes;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a client is told to wait when nobody knows better.
const WAIT: Duration = Duration::from_secs(1);
/// How an attempt ended whose connection had been kept and was found closed.
pub(super) const STALE: &str = "stale";
/// How one ended that nobody was there for any more.
pub(super) const LEFT: &str = "left";

/// The request, which was admitted.
pub(super) fn under_way(ctx: &mut Context) -> Result<&mut InExchange> {
    let nothing = || Error::explain(ErrorType::InternalError, "nothing was admitted");
    ctx.admitted.as_mut().ok_or_else(nothing)
}

/// The attempt goes out to its provider.
pub(super) fn goes_out(ctx: &mut Context) -> Result<()> {
    ctx.times.forwarded.get_or_insert_with(Instant::now);
    let admitted = under_way(ctx)?;
    admitted.exchange.note_sent();
    if let Some(lease) = &mut admitted.lease {
        lease.sent();
    }
    is_awaited(ctx)
}

/// The answer of the attempt under way is awaited within the bounds of its account.
pub(super) fn is_awaited(ctx: &mut Context) -> Result<()> {
    let started = ctx.started;
    let InExchange { exchange, line, lease, .. } = under_way(ctx)?;
    if let Some(lease) = lease {
        line.awaits(bounds(lease.account(), exchange.request.comes, started));
    }
    Ok(())
}

/// The header of an attempt's request to its provider.
pub(super) fn header(
    client: &RequestHeader,
    ctx: &Context,
    endpoint: Endpoint,
    (lease, number): (&Lease, u32),
    body: &Bytes,
) -> Result<RequestHeader> {
    let account = lease.account();
    let path = account.path_of(endpoint, lease.model());
    let mut header = forward::request(client, account, &path, ctx.request, body.len())?;
    if let Some(trace) = &ctx.trace {
        trace.pass_on(&mut header, ctx.request, number)?;
    }
    Ok(header)
}

impl Gateway {
    /// The request has ended: what it used is what it took of its account.
    pub(super) fn ended(&self, admitted: &mut InExchange, settled: Option<&Settled>) {
        let Some(lease) = admitted.lease.as_mut() else { return };
        let outcome = if admitted.answered { "ok" } else { LEFT };
        trace(&mut admitted.traced, lease, admitted.number, outcome);
        // What runs on keeps what it took: see `runs`.
        if let Some(settled) = settled.filter(|settled| settled.end != End::Running) {
            lease.used(Most { tokens: settled.usage.tokens(), spend: settled.charge });
        }
        if admitted.answered {
            self.metrics.attempt(&lease.account().name, "ok");
            let output = settled.map_or(0, |settled| settled.usage.output + settled.usage.reasoning);
            lease.succeeded(output, Instant::now());
        }
    }

    /// There was no connection, also in time: nothing was sent.
    pub(super) fn unconnected(&self, ctx: &mut Context, error: Box<Error>) -> Box<Error> {
        let Some(admitted) = ctx.admitted.as_mut() else { return error };
        if let Some(lease) = &admitted.lease {
            let upstream = &*lease.account().name;
            tracing::warn!(upstream, why = %error, "no connection to an upstream account");
        }
        self.failed(admitted, Fault::Connect, None, "no connection")
    }

    /// The attempt broke after its connection was there, which had been `reused` or not: decides whether another
    /// may follow.
    pub(super) fn broke(
        &self,
        session: &Session,
        ctx: &mut Context,
        mut error: Box<Error>,
        reused: bool,
    ) -> Box<Error> {
        let untouched = session.response_written().is_none();
        let Some(admitted) = ctx.admitted.as_mut() else {
            error.set_retry(false);
            return error;
        };
        if self.ledger.is_down() {
            ctx.refusal = Some(Refusal::Overloaded);
        }
        if admitted.line.take_late() {
            // Its client is still there: whoever listens to it gave up waiting.
            error.as_up();
        }
        let over = ctx.refusal.is_some() || admitted.exchange.is_settled();
        if over || *error.esource() == ErrorSource::Downstream {
            error.set_retry(false);
            return error;
        }
        // An attempt that was judged has been noted and says itself whether another may follow.
        if admitted.lease.is_none() {
            error.retry.decide_reuse(reused);
            return error;
        }
        if let Some(Judged { status, wait }) = admitted.judged.take() {
            let body = admitted.exchange.judged().unwrap_or_default();
            let fault = forward::judge_429(&body, wait);
            return self.failed(admitted, fault, Some(status), "the provider refused the request");
        }
        let fault = fault_of(&error);
        let silent = !admitted.answered && untouched && fault != Fault::Timeout;
        if reused && silent && !std::mem::replace(&mut admitted.stale, true) {
            if let Some(mut lease) = admitted.lease.take() {
                note(admitted, &lease, STALE, None);
                trace(&mut admitted.traced, &lease, admitted.number, STALE);
                lease.unsent();
            }
            admitted.exchange.end_attempt();
            error.set_retry(true);
            return error;
        }
        if untouched && admitted.line.gone_since().is_none() {
            self.failed(admitted, fault, None, "the attempt broke")
        } else {
            self.failed_at_last(admitted, fault, None, "the attempt broke")
        }
    }

    /// Notes that the attempt failed by its account's fault, and says whether another may follow.
    pub(super) fn failed(
        &self,
        admitted: &mut InExchange,
        fault: Fault,
        status: Option<u16>,
        why: &'static str,
    ) -> Box<Error> {
        let mut error = self.failed_at_last(admitted, fault, status, why);
        let more = admitted.attempts < admitted.retry.attempts_max;
        error.set_retry(more && self.may_retry());
        error
    }

    /// The same where no other can follow.
    pub(super) fn failed_at_last(
        &self,
        admitted: &mut InExchange,
        fault: Fault,
        status: Option<u16>,
        why: &'static str,
    ) -> Box<Error> {
        if let Some(lease) = admitted.lease.take() {
            if std::mem::take(&mut admitted.answered) {
                admitted.exchange.amend_attempt(fault.name());
            } else {
                note(admitted, &lease, fault.name(), status);
            }
            self.blame(admitted, lease, admitted.number, fault);
        }
        admitted.exchange.end_attempt();
        admitted.fault = Some(fault);
        let mut error = Error::explain(ErrorType::ConnectRefused, why).into_up();
        error.set_retry(false);
        error
    }

    /// An attempt ends by its account's fault.
    pub(super) fn blame(&self, admitted: &mut InExchange, mut lease: Lease, number: u32, fault: Fault) {
        trace(&mut admitted.traced, &lease, number, fault.name());
        self.metrics.attempt(&lease.account().name, fault.name());
        admitted.last = Some(Arc::clone(&lease.account().name));
        lease.failed(fault, Instant::now(), fastrand::u32(..));
        // Having too much to do passes: until then the account has no room.
        if !matches!(fault, Fault::RateLimited(_)) {
            admitted.tried.push(Arc::clone(&lease.account().name));
        }
    }

    /// Whether there may be one more attempt, by the budget of the pool.
    pub(super) fn may_retry(&self) -> bool {
        let may = self.live.load().pool.budget().spend();
        if !may {
            self.metrics.retry_denied();
        }
        may
    }
}

/// Notes for the receipt how an attempt ended.
pub(super) fn note(admitted: &InExchange, lease: &Lease, outcome: &'static str, status: Option<u16>) {
    admitted.exchange.note_attempt(Attempt {
        upstream: (*lease.account().name).into(),
        outcome: outcome.into(),
        status,
        ms: u64::try_from(lease.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
}

/// What an account is blamed for whose connection broke.
pub(super) fn fault_of(error: &Error) -> Fault {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Fault::Timeout,
        _ => Fault::Broken,
    }
}

/// What it means to an account when its client hangs up.
pub(super) fn hang_up(account: &Account, exchange: &Exchange) -> HangUp {
    let request = &exchange.request;
    let hidden = exchange.price.hidden_reasoning == Reasoning::Hidden;
    // What a search found was read, and is not seen.
    let unseen = request.demand.images > 0 || request.demand.searches > 0;
    let uncounted = hidden || request.comes == Comes::Json || unseen;
    let drain = HangUp::Drain(account.drain.time);
    match account.on_hang_up {
        // Nothing of it can be counted, whatever was delivered.
        _ if !request.is_countable(&exchange.price) => drain,
        OnHangUp::Drain => drain,
        OnHangUp::Cancel => HangUp::Cancel,
        // What a stream of text delivered can be counted; the rest cannot.
        OnHangUp::Auto if uncounted => drain,
        OnHangUp::Auto => HangUp::Cancel,
    }
}

/// How long an attempt on an account may take that begins now.
pub(super) fn bounds(account: &Account, comes: Comes, started: Instant) -> Bounds {
    let timeouts = &account.timeouts;
    let first_byte_by = match comes {
        // It begins when it is complete.
        Comes::Json => None,
        Comes::Events | Comes::Audio => timeouts.first_byte.and_then(|time| Instant::now().checked_add(time)),
    };
    Bounds { first_byte_by, end_by: started.checked_add(timeouts.total), silence: timeouts.silence }
}

/// Whether an answer that nobody reads may be read on, as far as its text tells.
pub(super) fn drains_on(admitted: &mut InExchange) -> Result<()> {
    if admitted.line.gone_since().is_none() {
        return Ok(());
    }
    let read = admitted.exchange.delivered_bytes();
    // Of one that has ended nothing is told any more.
    let since = read.saturating_sub(*admitted.gone_at_bytes.get_or_insert(read));
    let max = admitted.lease.as_ref().map_or(0, |lease| lease.account().drain.tokens_max);
    if since / BYTES_PER_TOKEN > max { Err(ran_out()) } else { Ok(()) }
}

/// Notes how an attempt ended, if a collector is told of it.
pub(super) fn trace(traced: &mut Option<Vec<Ended>>, lease: &Lease, number: u32, outcome: &'static str) {
    if let Some(traced) = traced {
        let account = Arc::clone(lease.account());
        traced.push(Ended { number, account, begun: lease.begun, ended: Instant::now(), outcome });
    }
}

/// Waits until the client leaves.
pub(super) async fn gone(session: &mut Session) -> Box<Error> {
    match session.downstream_session.read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        // Its body was read whole.
        Ok(_) => std::future::pending().await,
    }
}

/// What the client is told when all attempts failed.
pub(super) fn last_fault(admitted: &InExchange) -> Refusal {
    match admitted.fault {
        Some(Fault::Timeout) => Refusal::UpstreamTimeout,
        Some(Fault::RateLimited(wait)) => Refusal::PoolBusy { wait: wait.unwrap_or(WAIT) },
        Some(Fault::Model) => Refusal::UnknownModel(admitted.exchange.request.demand.model.clone()),
        Some(
            Fault::Connect
            | Fault::Broken
            | Fault::Credential
            | Fault::Quota
            | Fault::Forbidden
            | Fault::Server,
        )
        | None => Refusal::UpstreamUnavailable { wait: WAIT },
    }
}
