//! The record of a request that has ended: its metrics, and its line in the log.

use super::Gateway;
use super::bill::{Cost, End, Settled};
use super::context::{Context, Ended, Place};
use super::respond::Refusal;
use super::trace::{attempt_span_id, span_id};
use crate::clock::Timestamp;
use crate::record::access::{Charged, Line};
use crate::record::spans::{Attempt, Traced};
use crate::upstream::Account;
use pingora::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Gateway {
    /// Counts the request and tells it. Nothing of its text is in either.
    pub(super) fn record(&self, ctx: &mut Context, settled: Option<&Settled>, error: Option<&Error>) {
        let now = Instant::now();
        let model = match (ctx.model.take(), ctx.place) {
            (Some(priced), _) => priced,
            (None, Place::Sold(_)) => "other".into(),
            (None, Place::Stored | Place::Shelf(_) | Place::Models | Place::Account | Place::Other) => {
                "".into()
            }
        };
        // What runs on is counted when it has ended.
        if let Some(settled) = settled.filter(|settled| settled.end != End::Running) {
            self.metrics.charged(&model, settled.metered, &settled.usage, settled.charge);
            if let Some(Cost { upstream, amount }) = &settled.cost {
                self.metrics.cost(&model, upstream, *amount);
            }
        }
        let first_byte = ctx.admitted.as_ref().and_then(|admitted| admitted.exchange.first_byte());
        let first_byte = first_byte.map(|first_byte| first_byte.duration_since(ctx.started));
        if let Some(first_byte) = first_byte {
            self.metrics.first_token(&model, first_byte);
        }
        let overhead = ctx.overhead(now);
        if let Some(ours) = overhead {
            self.metrics.overhead(ours);
        }
        ctx.finish(&model);
        if let Some(traced) = traced(ctx, &model, settled, error, now) {
            self.spans.tell(traced);
        }
        if is_told(ctx) {
            let times = (first_byte, overhead, now.duration_since(ctx.started));
            self.access.tell(line(ctx, model, settled, error, times));
        }
    }
}

/// What was refused or failed always is; what was served, by lot.
fn is_told(ctx: &Context) -> bool {
    match (ctx.status, ctx.live.config.log.success_one_in) {
        (400.., _) | (0, _) | (_, 1) => true,
        (_, 0) => false,
        (_, one_in) => fastrand::u32(..one_in) == 0,
    }
}

/// The request as a collector is told of it, if it is.
fn traced(
    ctx: &mut Context,
    model: &str,
    settled: Option<&Settled>,
    error: Option<&Error>,
    now: Instant,
) -> Option<Traced> {
    let trace = ctx.trace.as_ref().filter(|trace| trace.is_exported())?;
    let Place::Sold(endpoint) = ctx.place else { return None };
    let (request, started) = (ctx.request, ctx.started);
    let attempt = |ended: Ended| {
        let Account { name, base_url, dialect, .. } = &*ended.account;
        Attempt {
            span: attempt_span_id(request, ended.number),
            upstream: Arc::clone(name),
            provider: dialect.provider(),
            host: (*base_url.host).into(),
            port: base_url.port,
            begins: ended.begun.saturating_duration_since(started),
            ends: ended.ended.saturating_duration_since(started),
            outcome: ended.outcome,
        }
    };
    let attempts = ctx.admitted.as_mut().and_then(|admitted| admitted.traced.take()).unwrap_or_default();
    let duration = now.duration_since(started);
    let refused = ctx.refusal.as_ref().map(Refusal::reason);
    Some(Traced {
        trace: trace.id(),
        span: span_id(request),
        parent: trace.parent(),
        began: Timestamp::now().before(duration),
        duration,
        request,
        endpoint,
        status: ctx.status,
        customer: ctx.caller.as_ref().map(|caller| caller.customer()),
        model: model.into(),
        reason: refused.or_else(|| error.map(|error| error.etype().as_str())).map(Into::into),
        usage: settled.map(|settled| settled.usage),
        attempts: attempts.into_iter().map(attempt).collect(),
    })
}

fn line(
    ctx: &Context,
    model: Box<str>,
    settled: Option<&Settled>,
    error: Option<&Error>,
    (first_byte, overhead, duration): (Option<Duration>, Option<Duration>, Duration),
) -> Line {
    let admitted = ctx.admitted.as_ref();
    let upstream = admitted.and_then(|admitted| match &admitted.lease {
        Some(lease) => Some(Arc::clone(&lease.account().name)),
        None => admitted.last.clone(),
    });
    Line {
        timestamp: Timestamp::now(),
        level: if ctx.status >= 500 { "WARN" } else { "INFO" },
        target: "tollgate::access",
        request: ctx.request,
        endpoint: ctx.place.name(),
        status: ctx.status,
        customer: ctx.caller.as_ref().map(|caller| caller.customer()),
        key: ctx.caller.as_ref().map(|caller| caller.key()),
        model,
        upstream,
        attempts: admitted.map_or(0, |admitted| admitted.attempts),
        refused: ctx.refusal.as_ref().map(Refusal::reason),
        error: error.map(|error| error.etype().as_str().into()),
        charged: settled.map(|settled| Charged {
            end: settled.end.name(),
            metered: settled.metered,
            usage: settled.usage,
            charge: settled.charge,
            balance: settled.balance.posted(),
        }),
        read_us: ctx.times.read.map(|read| micros(read.duration_since(ctx.started))),
        first_byte_us: first_byte.map(micros),
        overhead_us: overhead.map(micros),
        duration_us: micros(duration),
        span: ctx.trace.as_ref().map(|trace| trace.span(ctx.request)),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
