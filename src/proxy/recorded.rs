//! The record of a request that has ended: its metrics, and its line in the log.

use super::Gateway;
use super::bill::{Cost, Settled};
use super::context::{Context, Place};
use super::respond::Refusal;
use crate::clock::Timestamp;
use crate::record::access::{Charged, Line};
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
            (None, Place::Stored | Place::Models | Place::Account | Place::Other) => "".into(),
        };
        if let Some(settled) = settled {
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
